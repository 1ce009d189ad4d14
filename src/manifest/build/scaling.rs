//! Scalers and budgets.

use super::object::{Object, Read};
use super::scope::Scope;
use crate::manifest::api::{
    DisruptionBudget, Floor, Metric, MetricTarget, PolicyChange, Resource, Scaler, ScalingPolicy,
    ScalingRules, SelectPolicy,
};
use crate::manifest::check::{bytes, cpu_millis, int_or_percent};

/// Processor use that is kept when no metric is given.
const DEFAULT_CPU_PERCENT: u32 = 80;

/// Both versions of HorizontalPodAutoscaler.
pub(super) fn scaler(object: Object<'_>, scope: &Scope<'_>) -> Read<Scaler> {
    let spec = object.object("spec")?;
    let target = spec.object("scaleTargetRef")?;
    let cpu = |percent| Metric {
        resource: Resource::Cpu,
        container: None,
        target: MetricTarget::Utilization(percent),
    };
    let mut scaler = Scaler {
        meta: scope.meta(object)?,
        target_kind: target.text("kind")?,
        target: scope.name(target.text("name")?),
        min_replicas: spec.number("minReplicas")?,
        max_replicas: spec.number("maxReplicas")?,
        metrics: Vec::new(),
        scale_up: ScalingRules::default(),
        scale_down: ScalingRules::default(),
    };
    if spec.knows("targetCPUUtilizationPercentage") {
        let percent = spec.number_if("targetCPUUtilizationPercentage")?;
        scaler.metrics.push(cpu(percent.unwrap_or(DEFAULT_CPU_PERCENT)));
        return Ok(scaler);
    }
    for each in spec.objects("metrics")? {
        scaler.metrics.push(metric(&each)?);
    }
    if scaler.metrics.is_empty() {
        scaler.metrics.push(cpu(DEFAULT_CPU_PERCENT));
    }
    let behavior = spec.object("behavior")?;
    scaler.scale_up = rules(&behavior.object("scaleUp")?)?;
    scaler.scale_down = rules(&behavior.object("scaleDown")?)?;
    Ok(scaler)
}

fn metric(metric: &Object<'_>) -> Read<Metric> {
    let (source, container) = match metric.text("type")?.as_str() {
        "ContainerResource" => {
            let source = metric.object("containerResource")?;
            let container = source.text("container")?;
            (source, Some(container))
        }
        _ => (metric.object("resource")?, None),
    };
    let resource = match source.text("name")?.as_str() {
        "memory" => Resource::Memory,
        _ => Resource::Cpu,
    };
    let wanted = source.object("target")?;
    let target = match wanted.text("type")?.as_str() {
        "AverageValue" => {
            MetricTarget::AverageValue(wanted.value("averageValue", |text, _| match resource {
                Resource::Cpu => cpu_millis(text).ok(),
                Resource::Memory => bytes(text).ok().map(|(size, _)| size),
            })?)
        }
        _ => MetricTarget::Utilization(wanted.number("averageUtilization")?),
    };
    Ok(Metric { resource, container, target })
}

fn rules(rules: &Object<'_>) -> Read<ScalingRules> {
    let policy = |policy: Object<'_>| {
        let value = policy.number("value")?;
        let change = match policy.text("type")?.as_str() {
            "Pods" => PolicyChange::Pods(value),
            _ => PolicyChange::Percent(value),
        };
        Ok(ScalingPolicy { change, period_seconds: policy.seconds("periodSeconds")? })
    };
    let policies: Vec<ScalingPolicy> =
        rules.objects("policies")?.into_iter().map(policy).collect::<Read<_>>()?;
    Ok(ScalingRules {
        stabilization_window_seconds: rules.seconds_if("stabilizationWindowSeconds")?,
        select_policy: rules.text_if("selectPolicy")?.map(|word| match word.as_str() {
            "Min" => SelectPolicy::Min,
            "Disabled" => SelectPolicy::Disabled,
            _ => SelectPolicy::Max,
        }),
        policies: (!policies.is_empty()).then_some(policies),
        tolerance_thousandths: rules.value_if("tolerance", |text, _| cpu_millis(text).ok())?,
    })
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
