//! Jobs: machines that run to an end.

use i2kit_spec::Seconds;

use super::meta::ObjectMeta;
use super::pod::PodTemplate;

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
    /// Successes that make the job done; 1 by default.
    pub completions: u32,
    /// Machines at a time; 1 by default.
    pub parallelism: u32,
    /// Failures after which the job has failed; 6 by default.
    pub backoff_limit: u32,
    /// Time after which the job has failed.
    pub active_deadline_seconds: Option<Seconds>,
    /// Time from its end to the removal of its record.
    pub ttl_seconds_after_finished: Option<Seconds>,
    /// Whether each machine has an index in `JOB_COMPLETION_INDEX`.
    pub indexed: bool,
}

/// `batch/v1` CronJob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronJob {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// Five fields, or `@daily` and its like.
    pub schedule: String,
    /// Name of the time zone; `Etc/UTC` by default.
    pub time_zone: String,
    /// What happens when the last job still runs.
    pub concurrency: Concurrency,
    /// Whether the schedule rests.
    pub suspend: bool,
    /// Time by which a job may start late.
    pub starting_deadline_seconds: Option<Seconds>,
    /// Records of successes kept; 3 by default.
    pub successful_history: u32,
    /// Records of failures kept; 1 by default.
    pub failed_history: u32,
    /// The job.
    pub job: JobSpec,
}

/// `concurrencyPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Concurrency {
    /// Jobs run side by side.
    #[default]
    Allow,
    /// The next one is skipped.
    Forbid,
    /// The running one is stopped.
    Replace,
}
