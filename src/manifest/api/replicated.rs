//! What the annotations of a replicated pod ask for.

use i2kit_spec::Bytes;
use i2kit_spec::replica::{Framing, Integrity, Limits, Reads};

/// A StatefulSet whose machines execute the same requests in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicated {
    /// TCP port on which the application takes requests: the one that Services lead to, else the first that a container
    /// declares.
    pub app_port: u16,
    /// How requests and replies are framed.
    pub protocol: Framing,
    /// What happens to requests that change nothing.
    pub reads: Reads,
    /// Commands under way to the application.
    pub depth: u16,
    /// How the application's state is captured.
    pub state: ReplicatedState,
    /// Whether replies are compared.
    pub integrity: Integrity,
    /// Names of headers, in lower case, that are no part of a reply's digest.
    pub volatile: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Size of the disk for log and snapshots.
    pub log: Bytes,
}

/// How the application's state is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicatedState {
    /// Not at all: the whole log is executed again.
    Memory,
    /// A copy of this volume of the pod.
    Directory(String),
    /// Two commands in the application's container.
    Hooks {
        /// Writes the state to its standard output.
        snapshot: Vec<String>,
        /// Reads it from its standard input.
        restore: Vec<String>,
    },
}
