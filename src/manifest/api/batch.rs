//! Jobs: machines that run to an end, and when they are run.

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use super::indexes::Indexes;
use super::meta::ObjectMeta;
use super::pod::PodTemplate;
use super::schedule::Schedule;

/// `batch/v1` Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// What is run.
    pub spec: JobSpec,
}

/// `spec` of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// The pod.
    pub template: PodTemplate,
    /// How often it runs, and when it has ended.
    pub rules: JobRules,
}

/// How often the machines of a Job run, and when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "independent fields of the manifest")]
pub struct JobRules {
    /// Successes that make the job done. Without it one is enough, and the job is done when its other machines have
    /// ended too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<u32>,
    /// Machines at a time; 1 by default.
    pub parallelism: u32,
    /// Failures after which the job has failed; 6 by default.
    pub backoff_limit: u32,
    /// Time after which the job has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<Seconds>,
    /// Time from its end to the removal of its record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<Seconds>,
    /// Whether containers that fail are started again in their machine: the pod's `restartPolicy: OnFailure`. Their
    /// restarts count as failures.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarts_containers: bool,
    /// Whether each machine has an index, and each index must succeed once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub indexed: bool,
    /// Whether no machine runs for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Failures after which an index has failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit_per_index: Option<u32>,
    /// Failed indexes that the job survives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failed_indexes: Option<u32>,
    /// `podFailurePolicy`: the first rule that matches a failed machine decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failure_rules: Vec<FailureRule>,
    /// `successPolicy`: the job is done once one of them is met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub success_rules: Vec<SuccessRule>,
    /// Whether a machine is replaced only once it has ended, not while it stops: `podReplacementPolicy: Failed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_failed_only: bool,
}

impl JobRules {
    /// One machine that must succeed once, and may fail `backoff_limit` times.
    pub fn once(backoff_limit: u32) -> Self {
        Self {
            completions: Some(1),
            parallelism: 1,
            backoff_limit,
            active_deadline_seconds: None,
            ttl_seconds_after_finished: None,
            restarts_containers: false,
            indexed: false,
            suspend: false,
            backoff_limit_per_index: None,
            max_failed_indexes: None,
            failure_rules: Vec::new(),
            success_rules: Vec::new(),
            replace_failed_only: false,
        }
    }

    /// Whether no machine is started until a deployment changes that.
    pub fn rests(&self) -> bool {
        self.suspend || self.parallelism == 0
    }
}

/// A rule of `podFailurePolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRule {
    /// What follows from a failure that it matches.
    pub action: FailureAction,
    /// What it matches.
    pub on: FailureMatch,
}

/// `action` of a failure rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureAction {
    /// The job has failed.
    FailJob,
    /// The index has failed.
    FailIndex,
    /// The failure does not count.
    Ignore,
    /// It counts as without rules.
    Count,
}

/// What a failure rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FailureMatch {
    /// The exit code of a container that failed.
    ExitCodes {
        /// Which container; any without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<String>,
        /// Whether the code must be one of `values`, or none of them.
        is_in: bool,
        /// The codes.
        values: Vec<i32>,
    },
    /// The machine ended, and not because its pod did: `DisruptionTarget`.
    Disruption,
    /// Nothing: conditions that no pod has here.
    Nothing,
}

/// A rule of `successPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuccessRule {
    /// Indexes that must have succeeded, or of which `count` must; all of the job without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexes: Option<Indexes>,
    /// How many of them are enough; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// `batch/v1` CronJob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronJob {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// When the job runs.
    pub rules: CronRules,
    /// The job.
    pub job: JobSpec,
}

/// When a job runs, and what is kept of its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CronRules {
    /// The times.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// What happens when the last run still goes on.
    pub concurrency: Concurrency,
    /// Whether the schedule rests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How late a run may still start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_deadline_seconds: Option<Seconds>,
    /// Successful runs that are kept; 3 by default.
    pub successful_history: u32,
    /// Failed runs that are kept; 1 by default.
    pub failed_history: u32,
}

/// `concurrencyPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Concurrency {
    /// Runs go on side by side.
    #[default]
    Allow,
    /// The next one waits, and is skipped when it becomes too late or another time comes.
    Forbid,
    /// The running one is stopped.
    Replace,
}
