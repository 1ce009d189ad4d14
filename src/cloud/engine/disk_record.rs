//! What a cloud that keeps groups itself remembers of a disk.

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::plan::fleet::{DiskSpec, Snapshot};

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskRecord {
    /// What it should be.
    pub spec: DiskSpec,
    /// When it was first asked for, in seconds since the Unix epoch.
    pub created: u64,
    /// Whether it is there: from then on it is never made anew, since it may have held something.
    pub made: bool,
    /// It is to go, with all that is on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
    /// Copies of its content, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
}

impl DiskRecord {
    /// A disk that is about to be made.
    pub fn new(spec: DiskSpec, now: Moment) -> Self {
        Self { spec, created: now.wall / 1000, made: false, deleting: false, snapshots: Vec::new() }
    }
}
