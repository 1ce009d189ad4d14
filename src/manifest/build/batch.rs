//! Jobs.

use super::object::{Object, Read};
use super::pod;
use super::scope::Scope;
use crate::manifest::api::{Concurrency, CronJob, Job, JobSpec};

/// `batch/v1` Job.
pub(super) fn job(object: Object<'_>, scope: &Scope<'_>) -> Read<Job> {
    Ok(Job { meta: scope.meta(object)?, spec: spec(object.object("spec")?, scope)? })
}

fn spec(object: Object<'_>, scope: &Scope<'_>) -> Read<JobSpec> {
    Ok(JobSpec {
        template: pod::template(object.object("template")?, scope)?,
        completions: object.number("completions")?,
        parallelism: object.number("parallelism")?,
        backoff_limit: object.number("backoffLimit")?,
        active_deadline_seconds: object.seconds_if("activeDeadlineSeconds")?,
        ttl_seconds_after_finished: object.seconds_if("ttlSecondsAfterFinished")?,
        indexed: object.text("completionMode")? == "Indexed",
    })
}

/// `batch/v1` CronJob.
pub(super) fn cron_job(object: Object<'_>, scope: &Scope<'_>) -> Read<CronJob> {
    let cron = object.object("spec")?;
    Ok(CronJob {
        meta: scope.meta(object)?,
        schedule: cron.text("schedule")?,
        time_zone: cron.text("timeZone")?,
        concurrency: match cron.text("concurrencyPolicy")?.as_str() {
            "Forbid" => Concurrency::Forbid,
            "Replace" => Concurrency::Replace,
            _ => Concurrency::Allow,
        },
        suspend: cron.flag("suspend")?,
        starting_deadline_seconds: cron.seconds_if("startingDeadlineSeconds")?,
        successful_history: cron.number("successfulJobsHistoryLimit")?,
        failed_history: cron.number("failedJobsHistoryLimit")?,
        job: spec(cron.object("jobTemplate")?.object("spec")?, scope)?,
    })
}
