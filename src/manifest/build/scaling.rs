//! Scalers and budgets.

use super::object::{Object, Read};
use super::scope::Scope;
use crate::manifest::api::{DisruptionBudget, Floor, Scaler};
use crate::manifest::check::int_or_percent;

/// Processor use that is kept when no metric is given.
const DEFAULT_CPU_PERCENT: u32 = 80;

/// Both versions of HorizontalPodAutoscaler.
pub(super) fn scaler(object: Object<'_>, scope: &Scope<'_>) -> Read<Scaler> {
    let spec = object.object("spec")?;
    let target = spec.object("scaleTargetRef")?;
    let mut scaler = Scaler {
        meta: scope.meta(object)?,
        target_kind: target.text("kind")?,
        target: scope.name(target.text("name")?),
        min_replicas: spec.number("minReplicas")?,
        max_replicas: spec.number("maxReplicas")?,
        cpu_percent: None,
        memory_percent: None,
        scale_up_window_seconds: None,
    };
    if spec.knows("targetCPUUtilizationPercentage") {
        scaler.cpu_percent = spec.number_if("targetCPUUtilizationPercentage")?;
        return Ok(scaler);
    }
    for metric in spec.objects("metrics")? {
        let resource = metric.object("resource")?;
        let percent = resource.object("target")?.number_if("averageUtilization")?;
        match resource.text("name")?.as_str() {
            "memory" => scaler.memory_percent = percent,
            _ => scaler.cpu_percent = percent,
        }
    }
    if scaler.cpu_percent.is_none() && scaler.memory_percent.is_none() {
        scaler.cpu_percent = Some(DEFAULT_CPU_PERCENT);
    }
    let behavior = spec.object("behavior")?;
    scaler.scale_up_window_seconds = behavior.object("scaleUp")?.seconds_if("stabilizationWindowSeconds")?;
    Ok(scaler)
}

/// `policy/v1` PodDisruptionBudget.
pub(super) fn budget(object: Object<'_>, scope: &Scope<'_>) -> Read<DisruptionBudget> {
    let spec = object.object("spec")?;
    let floor = match spec.value_if("minAvailable", int_or_percent)? {
        Some(share) => Floor::MinAvailable(share),
        None => Floor::MaxUnavailable(spec.value("maxUnavailable", int_or_percent)?),
    };
    Ok(DisruptionBudget {
        meta: scope.meta(object)?,
        selector: spec.object("selector")?.map("matchLabels")?,
        floor,
    })
}
