//! Events of a cloud, in the columns of Kubernetes' events.

use serde::{Deserialize, Serialize};

/// Kubernetes' type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Not as it should be.
    Warning,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudEvent {
    /// Seconds since the Unix epoch.
    pub time: u64,
    /// Its type.
    pub kind: EventKind,
    /// In one word.
    pub reason: String,
    /// Its object: `group/NAMESPACE/NAME` or `instance/ID`.
    pub object: String,
    /// In a sentence.
    pub message: String,
}
