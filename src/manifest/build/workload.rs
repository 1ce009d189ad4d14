//! Deployments.

use super::object::{Object, Read};
use super::pod;
use crate::manifest::api::{Deployment, Name, ObjectMeta, Strategy};
use crate::manifest::check::int_or_percent;
use crate::manifest::set::Document;

/// `metadata` of an object.
pub(super) fn meta(object: Object<'_>, document: &Document<'_>) -> Read<ObjectMeta> {
    let meta = object.object("metadata")?;
    Ok(ObjectMeta {
        name: Name { namespace: document.namespace.clone(), name: meta.text("name")? },
        labels: meta.map("labels")?,
        annotations: meta.map("annotations")?,
    })
}

/// `apps/v1` Deployment.
pub(super) fn deployment(object: Object<'_>, document: &Document<'_>) -> Read<Deployment> {
    let spec = object.object("spec")?;
    Ok(Deployment {
        meta: meta(object, document)?,
        replicas: spec.number("replicas")?,
        selector: spec.object("selector")?.map("matchLabels")?,
        template: pod::template(spec.object("template")?)?,
        strategy: strategy(spec.object("strategy")?)?,
        min_ready_seconds: spec.number("minReadySeconds")?,
        progress_deadline_seconds: spec.number("progressDeadlineSeconds")?,
        revision_history_limit: spec.number("revisionHistoryLimit")?,
    })
}

fn strategy(object: Object<'_>) -> Read<Strategy> {
    if object.text("type")? == "Recreate" {
        return Ok(Strategy::Recreate);
    }
    let update = object.object("rollingUpdate")?;
    Ok(Strategy::RollingUpdate {
        max_unavailable: update.value("maxUnavailable", int_or_percent)?,
        max_surge: update.value("maxSurge", int_or_percent)?,
    })
}
