//! Jobs.

use i2kit_spec::{EnvValue, EnvVar, InstanceField, RestartPolicy};

use super::object::{Object, Read};
use super::pod;
use super::scope::Scope;
use crate::manifest::api::{
    Concurrency, CronJob, CronRules, FailureAction, FailureMatch, FailureRule, Job, JobRules, JobSpec,
    PodTemplate, Schedule, SuccessRule,
};

/// Kubernetes' default of `backoffLimit`.
const BACKOFF_LIMIT: u32 = 6;

/// The same where failures are counted by index: no limit for all of them.
const NO_LIMIT: u32 = i32::MAX as u32;

/// `batch/v1` Job.
pub(super) fn job(object: Object<'_>, scope: &Scope<'_>) -> Read<Job> {
    Ok(Job { meta: scope.meta(object)?, spec: spec(object.object("spec")?, scope)? })
}

fn spec(object: Object<'_>, scope: &Scope<'_>) -> Read<JobSpec> {
    let mut rules = rules(object)?;
    let mut template = pod::template(object.object("template")?, scope)?;
    rules.restarts_containers = template.spec.restart_policy == RestartPolicy::OnFailure;
    if rules.indexed {
        with_index(&mut template);
    }
    Ok(JobSpec { template, rules })
}

/// Each container gets the index as a variable, unless it has one of that name.
fn with_index(template: &mut PodTemplate) {
    let pod = &mut template.spec;
    for container in pod.init_containers.iter_mut().chain(&mut pod.containers) {
        if container.env.iter().all(|variable| variable.name != InstanceField::INDEX_VARIABLE) {
            let value = EnvValue::Instance(InstanceField::CompletionIndex);
            container.env.push(EnvVar { name: InstanceField::INDEX_VARIABLE.to_owned(), value });
        }
    }
}

fn rules(object: Object<'_>) -> Read<JobRules> {
    let parallelism_given = object.has("parallelism");
    let completions = object.number_if("completions")?;
    let backoff_limit_per_index = object.number_if("backoffLimitPerIndex")?;
    let default_limit = if backoff_limit_per_index.is_some() { NO_LIMIT } else { BACKOFF_LIMIT };
    let failure_rules: Vec<FailureRule> = object
        .object("podFailurePolicy")?
        .objects("rules")?
        .into_iter()
        .map(failure_rule)
        .collect::<Read<_>>()?;
    Ok(JobRules {
        // With neither of the two, both are 1.
        completions: completions.or((!parallelism_given).then_some(1)),
        parallelism: object.number("parallelism")?,
        backoff_limit: object.number_if("backoffLimit")?.unwrap_or(default_limit),
        active_deadline_seconds: object.seconds_if("activeDeadlineSeconds")?,
        ttl_seconds_after_finished: object.seconds_if("ttlSecondsAfterFinished")?,
        // It is a field of the pod.
        restarts_containers: false,
        indexed: object.text("completionMode")? == "Indexed",
        suspend: object.flag("suspend")?,
        backoff_limit_per_index,
        max_failed_indexes: object.number_if("maxFailedIndexes")?,
        replace_failed_only: match object.text_if("podReplacementPolicy")? {
            Some(policy) => policy == "Failed",
            None => !failure_rules.is_empty(),
        },
        failure_rules,
        success_rules: object
            .object("successPolicy")?
            .objects("rules")?
            .into_iter()
            .map(success_rule)
            .collect::<Read<_>>()?,
    })
}

fn failure_rule(rule: Object<'_>) -> Read<FailureRule> {
    let action = match rule.text("action")?.as_str() {
        "FailJob" => FailureAction::FailJob,
        "FailIndex" => FailureAction::FailIndex,
        "Ignore" => FailureAction::Ignore,
        _ => FailureAction::Count,
    };
    let on = if rule.has("onExitCodes") {
        let codes = rule.object("onExitCodes")?;
        FailureMatch::ExitCodes {
            container: codes.text_if("containerName")?,
            is_in: codes.text("operator")? == "In",
            values: codes.numbers("values")?,
        }
    } else {
        let mut disruption = false;
        for condition in rule.objects("onPodConditions")? {
            disruption |=
                condition.text("type")? == "DisruptionTarget" && condition.text("status")? == "True";
        }
        if disruption { FailureMatch::Disruption } else { FailureMatch::Nothing }
    };
    Ok(FailureRule { action, on })
}

fn success_rule(rule: Object<'_>) -> Read<SuccessRule> {
    Ok(SuccessRule {
        indexes: rule.value_if("succeededIndexes", |text, _| text.parse().ok())?,
        count: rule.number_if("succeededCount")?,
    })
}

/// `batch/v1` CronJob.
pub(super) fn cron_job(object: Object<'_>, scope: &Scope<'_>) -> Read<CronJob> {
    let cron = object.object("spec")?;
    let zone = cron.text("timeZone")?;
    Ok(CronJob {
        meta: scope.meta(object)?,
        rules: CronRules {
            schedule: cron.value("schedule", |text, _| Schedule::parse(text, &zone).ok())?,
            concurrency: match cron.text("concurrencyPolicy")?.as_str() {
                "Forbid" => Concurrency::Forbid,
                "Replace" => Concurrency::Replace,
                _ => Concurrency::Allow,
            },
            suspend: cron.flag("suspend")?,
            starting_deadline_seconds: cron.seconds_if("startingDeadlineSeconds")?,
            successful_history: cron.number("successfulJobsHistoryLimit")?,
            failed_history: cron.number("failedJobsHistoryLimit")?,
        },
        job: spec(cron.object("jobTemplate")?.object("spec")?, scope)?,
    })
}
