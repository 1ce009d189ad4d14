//! Tells how far a fetch is.

use crate::report::{Event, Events};

/// A fetch that somebody may watch.
#[derive(Debug, Clone)]
pub(super) struct Task {
    events: Events,
    id: String,
}

impl Task {
    /// Reports the start of a fetch of `total` bytes.
    pub(super) fn start(events: &Events, id: String, title: String, total: Option<u64>) -> Self {
        events.emit(Event::TaskStarted { id: id.clone(), title, total });
        Self { events: events.clone(), id }
    }

    /// Reports that `done` bytes are here.
    pub(super) fn progress(&self, done: u64) {
        self.events.emit(Event::TaskProgress { id: self.id.clone(), done });
    }

    /// Says what somebody who waits would like to know.
    pub(super) fn note(&self, text: String) {
        self.events.note(text);
    }

    /// Reports the end.
    pub(super) fn finish(self, outcome: impl Into<String>) {
        self.events.emit(Event::TaskFinished { id: self.id, outcome: outcome.into() });
    }
}
