//! A run of a Job, as its group remembers it from one decision to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cloud::engine::moment::Moment;
use crate::manifest::api::{Indexes, JobRules};
use crate::plan::fleet::RefreshStatus;

/// One run of a job, as its group remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// 1 for the first.
    pub number: u32,
    /// The revision whose VMs run.
    pub revision: u32,
    /// How far it is.
    pub status: RefreshStatus,
    /// When it started.
    pub started: u64,
    /// The same in seconds since the Unix epoch, for people.
    pub created: u64,
    /// VMs that ended well.
    pub completed: u32,
    /// VMs that failed.
    pub failures: u32,
    /// No VM is started before this time.
    pub not_before: u64,
    /// Why it failed.
    pub reason: Option<String>,
    /// Of a CronJob: the time of the schedule that it is for, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
    /// The same in seconds since the Unix epoch, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Of a CronJob: the rules of the deployment that it was started from; later ones are about later runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<JobRules>,
    /// Whether it rests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Of an Indexed Job: the indexes that succeeded.
    #[serde(default, skip_serializing_if = "Indexes::is_empty")]
    pub completed_indexes: Indexes,
    /// Of an Indexed Job: the indexes that failed for good.
    #[serde(default, skip_serializing_if = "Indexes::is_empty")]
    pub failed_indexes: Indexes,
    /// Of an Indexed Job that counts failures by index: those that failed and are tried again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index_failures: BTreeMap<u32, IndexFailures>,
}

/// Failures of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexFailures {
    /// How many.
    pub count: u32,
    /// No VM of this index is started before this time.
    pub not_before: u64,
}

impl Run {
    /// A run that starts now.
    pub fn start(number: u32, revision: u32, now: Moment) -> Self {
        Self {
            number,
            revision,
            status: RefreshStatus::InProgress,
            started: now.steady,
            created: now.wall / 1000,
            completed: 0,
            failures: 0,
            not_before: now.steady,
            reason: None,
            scheduled: None,
            finished: None,
            ended: None,
            rules: None,
            suspended: false,
            completed_indexes: Indexes::default(),
            failed_indexes: Indexes::default(),
            index_failures: BTreeMap::new(),
        }
    }

    /// The rules that it goes by, where its group's are `current`. Whether it rests is said by the group, or a run that does
    /// could never go on.
    pub fn rules(&self, current: &JobRules) -> JobRules {
        let rules = self.rules.as_ref().unwrap_or(current).clone();
        JobRules { suspend: current.suspend, ..rules }
    }
}
