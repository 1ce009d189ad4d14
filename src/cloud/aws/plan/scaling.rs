//! What a scaler of Kubernetes is to Auto Scaling: percentages of a request become percentages of a machine.

use super::machine;
use crate::plan::fleet::{LaunchSpec, Scaling};

/// The share of a machine's processors, in percent, that keeps the pod at its share of what it requests; `None` when no
/// processor use is to be kept. Auto Scaling takes 1 to 100.
pub fn cpu_target(scaling: &Scaling, launch: &LaunchSpec) -> Option<u32> {
    let (percent, request) = scaling.pod_cpu()?;
    let wanted = u64::from(percent);
    let vcpus = machine::type_of(launch).and_then(machine::known).map_or(launch.vcpus, |kind| kind.vcpus);
    let whole = u64::from(vcpus.max(1)) * 1000;
    let requested = request.unwrap_or(whole);
    let target = wanted.saturating_mul(requested) / whole;
    Some(u32::try_from(target.clamp(1, 100)).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::aws::plan::cost::tests::launch;
    use crate::manifest::api::{Metric, MetricTarget, Resource, ScalingRules};
    use crate::plan::fleet::ScalingMetric;

    #[test]
    fn the_share_of_the_request_is_folded_into_that_of_the_machine() {
        let target = |percent: Option<u32>, request| {
            let metric = |percent| Metric {
                resource: Resource::Cpu,
                container: None,
                target: MetricTarget::Utilization(percent),
            };
            let metrics: Option<ScalingMetric> =
                percent.map(|percent| ScalingMetric { metric: metric(percent), request });
            let scaling = Scaling {
                min: 1,
                max: 5,
                metrics: metrics.into_iter().collect(),
                up: ScalingRules::default(),
                down: ScalingRules::default(),
            };
            cpu_target(&scaling, &launch())
        };
        // The smallest machine has two processors.
        assert_eq!(target(Some(80), Some(500)), Some(20));
        assert_eq!(target(Some(150), Some(2000)), Some(100));
        assert_eq!(target(Some(50), None), Some(50));
        assert_eq!(target(Some(10), Some(10)), Some(1));
        assert_eq!(target(None, Some(500)), None);
    }
}
