//! Runs of a Job: a list of their own, beside the refreshes that change what a group is made of.

use serde::{Deserialize, Serialize};

use super::refresh::RefreshStatus;
use crate::manifest::api::Indexes;

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
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Of a CronJob: the time of the schedule that it was started for; none of one that somebody started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<u64>,
    /// VMs that run.
    #[serde(default)]
    pub active: u32,
    /// Successes that make it done, where that is a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<u32>,
    /// Of an Indexed Job: the indexes that succeeded.
    #[serde(default, skip_serializing_if = "Indexes::is_empty")]
    pub completed_indexes: Indexes,
    /// Of an Indexed Job: the indexes that failed for good.
    #[serde(default, skip_serializing_if = "Indexes::is_empty")]
    pub failed_indexes: Indexes,
    /// Why it failed, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
