//! Workloads that keep running.

use i2kit_spec::{RestartPolicy, Seconds};

use super::object::{Object, Read};
use super::pod;
use super::scope::Scope;
use super::storage::claim_template;
use crate::manifest::api::{
    ClaimTemplate, Deployment, IntOrPercent, Job, JobRules, JobSpec, PodTemplate, StatefulSet, Strategy,
    Volume, VolumeSource,
};
use crate::manifest::check::{int_or_percent, replicated};

/// Kubernetes' default for both bounds of a rolling update.
const QUARTER: IntOrPercent = IntOrPercent::Percent(25);

/// Kubernetes' default of `progressDeadlineSeconds`, for what is deployed as a Deployment.
const PROGRESS_DEADLINE: Seconds = Seconds(600);

/// Kubernetes' default of `revisionHistoryLimit`, for the same.
const HISTORY: u32 = 10;

/// `apps/v1` Deployment, or a ReplicaSet as the Deployment that would make it: with the defaults of what it has not.
pub(super) fn deployment(object: Object<'_>, scope: &Scope<'_>) -> Read<Deployment> {
    let spec = object.object("spec")?;
    let template = pod::template(spec.object("template")?, scope)?;
    Ok(Deployment {
        meta: scope.meta(object)?,
        replicas: spec.number("replicas")?,
        selector: spec.object("selector")?.map("matchLabels")?,
        strategy: if spec.knows("strategy") {
            strategy(spec.object("strategy")?, &template)?
        } else if has_disk(&template) {
            Strategy::Recreate
        } else {
            Strategy::RollingUpdate { max_unavailable: QUARTER, max_surge: QUARTER }
        },
        template,
        min_ready_seconds: spec.seconds("minReadySeconds")?,
        progress_deadline_seconds: if spec.knows("progressDeadlineSeconds") {
            spec.seconds("progressDeadlineSeconds")?
        } else {
            PROGRESS_DEADLINE
        },
        revision_history_limit: if spec.knows("revisionHistoryLimit") {
            spec.number("revisionHistoryLimit")?
        } else {
            HISTORY
        },
    })
}

/// Whether only one machine at a time can run the pod.
fn has_disk(template: &PodTemplate) -> bool {
    template.spec.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Claim { .. }))
}

/// How the pods of `template` are replaced; those with a disk never side by side.
fn strategy(object: Object<'_>, template: &PodTemplate) -> Read<Strategy> {
    if has_disk(template) || object.text("type")? == "Recreate" {
        return Ok(Strategy::Recreate);
    }
    let update = object.object("rollingUpdate")?;
    Ok(Strategy::RollingUpdate {
        max_unavailable: update.value("maxUnavailable", int_or_percent)?,
        max_surge: update.value("maxSurge", int_or_percent)?,
    })
}

/// What a Pod without a workload becomes.
pub(super) enum Alone {
    Keeps(Deployment),
    Ends(Job),
}

/// `v1` Pod: a group of exactly one, or a Job of one.
pub(super) fn pod(object: Object<'_>, scope: &Scope<'_>) -> Read<Alone> {
    let meta = scope.meta(object)?;
    let template = pod::template(object, scope)?;
    if template.spec.restart_policy == RestartPolicy::Always {
        return Ok(Alone::Keeps(Deployment {
            selector: template.labels.clone(),
            meta,
            replicas: 1,
            template,
            // There must never be two of it.
            strategy: Strategy::Recreate,
            min_ready_seconds: Seconds(0),
            progress_deadline_seconds: PROGRESS_DEADLINE,
            revision_history_limit: HISTORY,
        }));
    }
    // A Pod alone is no Job that counts restarts: kubelet starts its containers again for as long as it takes.
    let deadline = template.spec.active_deadline_seconds;
    Ok(Alone::Ends(Job {
        meta,
        spec: JobSpec {
            template,
            rules: JobRules { active_deadline_seconds: deadline, ..JobRules::once(0) },
        },
    }))
}

/// `apps/v1` StatefulSet.
pub(super) fn stateful_set(object: Object<'_>, scope: &Scope<'_>) -> Read<StatefulSet> {
    let spec = object.object("spec")?;
    let update = spec.object("updateStrategy")?.object("rollingUpdate")?;
    let retention = spec.object("persistentVolumeClaimRetentionPolicy")?;
    let claim_templates: Vec<ClaimTemplate> =
        spec.objects("volumeClaimTemplates")?.into_iter().map(claim_template).collect::<Read<_>>()?;
    let mut template = pod::template(spec.object("template")?, scope)?;
    let service_name = spec.text_if("serviceName")?.filter(|name| !name.is_empty());
    // As Kubernetes does: a member's name below that of the set's Service.
    if service_name.is_some() {
        template.spec.subdomain.clone_from(&service_name);
    }
    let disks = claim_templates.iter().map(|claim| &claim.name);
    template
        .spec
        .volumes
        .extend(disks.map(|name| Volume { name: name.clone(), source: VolumeSource::Member }));
    // What is wrong with it was reported.
    let wish = replicated::read(|key| template.annotations.get(key).map(String::as_str));
    Ok(StatefulSet {
        replicated: wish.map(|(replicated, _)| replicated),
        meta: scope.meta(object)?,
        replicas: spec.number("replicas")?,
        selector: spec.object("selector")?.map("matchLabels")?,
        template,
        service_name,
        claim_templates,
        parallel: spec.text("podManagementPolicy")? == "Parallel",
        partition: update.number("partition")?,
        max_unavailable: update.value("maxUnavailable", int_or_percent)?,
        delete_disks_with_set: retention.text("whenDeleted")? == "Delete",
        delete_disks_when_scaled: retention.text("whenScaled")? == "Delete",
        first_ordinal: spec.object("ordinals")?.number("start")?,
        min_ready_seconds: spec.seconds("minReadySeconds")?,
        revision_history_limit: spec.number("revisionHistoryLimit")?,
    })
}
