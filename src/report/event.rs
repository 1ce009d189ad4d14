//! Events: facts about work in progress, as values.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

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
