//! Runs of a Job: a list of their own, beside the refreshes that change what a group is made of.

use serde::{Deserialize, Serialize};

use super::refresh::RefreshStatus;

/// One run of a Job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRun {
    /// 1 for the first.
    pub number: u32,
    /// The revision whose VMs run.
    pub revision: u32,
    /// How far it is; a run is never rolled back.
    pub status: RefreshStatus,
    /// VMs that ended well.
    pub completed: u32,
    /// VMs that failed.
    pub failed: u32,
    /// When it started, in seconds since the Unix epoch.
    pub started: u64,
    /// Why it failed, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
