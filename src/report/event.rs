//! Events: facts about work in progress, as values.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::text;

/// Something that happened. Serialised as one JSON line with an `event` field by `--output json`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// Worth knowing, and nothing failed.
    Note {
        /// One sentence.
        message: String,
    },
    /// Something to look at.
    Warning {
        /// One sentence.
        message: String,
    },
    /// Why the command failed; nothing comes after it.
    Error {
        /// One sentence.
        message: String,
    },
    /// A piece of work with a known end began; `id` ties later events to it.
    TaskStarted {
        /// Unique among the tasks under way.
        id: String,
        /// What is being done, such as `pull nginx 3f4a…`.
        title: String,
        /// Bytes to come, when known.
        total: Option<u64>,
    },
    /// More of a task is done.
    TaskProgress {
        /// The task.
        id: String,
        /// Bytes done so far.
        done: u64,
    },
    /// A task ended well.
    TaskFinished {
        /// The task.
        id: String,
        /// What came out, such as `14.2 MB` or `cached`.
        outcome: String,
    },
    /// A refresh of a group came further.
    RefreshProgress {
        /// The group.
        group: String,
        /// Whether it is a run of a Job: then machines of it run (`updated`) and have succeeded (`available`).
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        job: bool,
        /// `in progress`, `rolling back`, `successful` and so on.
        status: String,
        /// The revision that it leaves.
        from: Option<u32>,
        /// The revision that it brings.
        to: u32,
        /// VMs of the new revision.
        updated: u32,
        /// Those of them that count as available.
        available: u32,
        /// VMs that there should be.
        total: u32,
        /// Why it failed, once it did.
        reason: Option<String>,
    },
    /// A VM appeared, or its state or health changed.
    InstanceChanged {
        /// The group.
        group: String,
        /// The VM.
        instance: String,
        /// Its revision.
        revision: u32,
        /// `starting`, `healthy`, `unhealthy: …`, `draining`, `stopping`, `ended` or `gone`.
        state: String,
    },
}

impl Event {
    /// The event as one line of text, or `None` for those that only move a progress bar.
    pub fn line(&self) -> Option<String> {
        match self {
            Self::Note { message } => Some(message.clone()),
            Self::Warning { message } => Some(format!("warning: {message}")),
            Self::Error { message } => Some(format!("error: {message}")),
            Self::TaskStarted { title, .. } => Some(text::line(title).into_owned()),
            Self::RefreshProgress { group, job: true, status, to, updated, available, total, .. } => {
                Some(format!(
                    "{group}: run of revision {to} {status}: {available}/{total} succeeded, {updated} running"
                ))
            }
            Self::RefreshProgress { group, status, to, updated, available, total, .. } => Some(format!(
                "{group}: revision {to} {status}: {updated}/{total} started, {available}/{total} healthy"
            )),
            Self::InstanceChanged { instance, state, .. } => {
                Some(format!("  {}: {}", text::line(instance), text::line(state)))
            }
            Self::TaskFinished { .. } | Self::TaskProgress { .. } => None,
        }
    }
}

/// Where events go. Cheap to clone; handed to every edge room.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends each event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Drops every event: for tests and for work that nobody watches.
    pub fn none() -> Self {
        Self::new(drop)
    }

    /// Reports `event`.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }

    /// Reports a [`Event::Note`].
    pub fn note(&self, message: impl Into<String>) {
        self.emit(Event::Note { message: message.into() });
    }

    /// Reports a [`Event::Warning`].
    pub fn warn(&self, message: impl Into<String>) {
        self.emit(Event::Warning { message: message.into() });
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
