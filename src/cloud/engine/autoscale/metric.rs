//! What one metric asks for: the algorithm of Kubernetes' replica calculator, in whole numbers.
//!
//! The size is the number of pods times their use over the target, rounded up. Machines whose use says nothing are set
//! apart first: what was never ready, what has just become so, and what nothing was measured of.

use std::collections::BTreeMap;

use i2kit_spec::Millis;

use crate::cloud::engine::usage::{Capacity, Measured};
use crate::manifest::api::{MetricTarget, Resource};
use crate::plan::fleet::{Requests, ResourceUsage, ScalingMetric};

/// `--horizontal-pod-autoscaler-cpu-initialization-period`: so long after its start a machine's processor use counts only
/// while it is ready, and only of a window that began after it became so.
const CPU_INITIALIZATION: Millis = Millis(300_000);

/// `--horizontal-pod-autoscaler-initial-readiness-delay`: a machine that became unready so soon after its start counts as
/// one that was never ready.
const INITIAL_READINESS: Millis = Millis(30_000);

/// A machine of the group as its scaler sees it: one that neither leaves nor has ended.
#[derive(Debug, Clone)]
pub struct Pod {
    /// When it was started.
    pub started: u64,
    /// Whether its guest has answered yet.
    pub answered: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is on its way up, and was never ready.
    pub starting: bool,
    /// Since when it is ready or not.
    pub since: u64,
    /// What it has.
    pub capacity: Capacity,
    /// What the containers of its own revision request.
    pub requests: BTreeMap<String, Requests>,
    /// What it uses, where that is known.
    pub measured: Option<Measured>,
}

/// How far a use may be from its target, in thousandths of the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerances {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// What a metric asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    /// The size.
    pub(super) replicas: u32,
    /// The use of the machines that count, in the unit of the target.
    pub(super) current: u64,
}

/// A machine that counts: what it uses, and what its use is measured against.
#[derive(Debug, Clone, Copy)]
struct Counted {
    value: u64,
    request: u64,
}

/// The use over the target.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    used: u128,
    target: u128,
}

impl Ratio {
    fn is_within(self, tolerances: Tolerances) -> bool {
        let (found, one) = (self.used.saturating_mul(1000), self.target.saturating_mul(1000));
        let part = |thousandths: u64| self.target.saturating_mul(u128::from(thousandths));
        found <= one.saturating_add(part(tolerances.up)) && found >= one.saturating_sub(part(tolerances.down))
    }

    fn grows(self) -> bool {
        self.used > self.target
    }

    fn shrinks(self) -> bool {
        self.used < self.target
    }

    /// So many machines times this, rounded up.
    fn times(self, count: usize) -> u32 {
        let count = u128::try_from(count).unwrap_or(u128::MAX);
        u32::try_from(self.used.saturating_mul(count).div_ceil(self.target)).unwrap_or(u32::MAX)
    }
}

/// The machines of a group by what their use says.
#[derive(Debug, Default)]
struct Grouped {
    measured: Vec<Counted>,
    /// Not ready yet: they take load later. Their requests.
    unready: Vec<u64>,
    /// Nothing is known of their use. Their requests.
    missing: Vec<u64>,
}

/// The target in its unit.
pub(super) fn target(metric: &ScalingMetric) -> u64 {
    let target = match metric.metric.target {
        MetricTarget::Utilization(percent) => u64::from(percent),
        MetricTarget::AverageValue(value) => value,
    };
    target.max(1)
}

/// The size that `metric` asks for, of a group of `replicas`; `None` when it is known of no machine that is ready.
pub(super) fn propose(
    metric: &ScalingMetric,
    tolerances: Tolerances,
    replicas: u32,
    pods: &[Pod],
    now: u64,
) -> Option<Proposal> {
    let Grouped { measured: mut counted, unready, missing } = group(metric, pods, now);
    let (first, current) = ratio(metric, &counted)?;
    let proposal = |replicas| Some(Proposal { replicas, current });
    let counts_unready = !unready.is_empty() && first.grows();
    if !counts_unready && missing.is_empty() {
        return proposal(if first.is_within(tolerances) { replicas } else { first.times(counted.len()) });
    }
    // What is not known is assumed to be what changes least.
    if first.shrinks() {
        let whole = |request| Counted { value: assumed(metric, request), request };
        counted.extend(missing.into_iter().map(whole));
    } else if first.grows() {
        counted.extend(missing.into_iter().map(|request| Counted { value: 0, request }));
    }
    if counts_unready {
        counted.extend(unready.into_iter().map(|request| Counted { value: 0, request }));
    }
    let (second, _) = ratio(metric, &counted)?;
    let turns = (first.shrinks() && second.grows()) || (first.grows() && second.shrinks());
    if second.is_within(tolerances) || turns {
        return proposal(replicas);
    }
    let wanted = second.times(counted.len());
    let turns = (second.shrinks() && wanted > replicas) || (second.grows() && wanted < replicas);
    proposal(if turns { replicas } else { wanted })
}

/// What a machine of which nothing is known is assumed to use where the others use less than their target: all of its
/// request, or the target where that is more.
fn assumed(metric: &ScalingMetric, request: u64) -> u64 {
    match metric.metric.target {
        MetricTarget::Utilization(percent) => {
            let value = u128::from(request) * u128::from(percent.max(100)) / 100;
            u64::try_from(value).unwrap_or(u64::MAX)
        }
        MetricTarget::AverageValue(value) => value,
    }
}

/// The use over the target, and the use itself in the target's unit: percent of the requests, or an average.
fn ratio(metric: &ScalingMetric, counted: &[Counted]) -> Option<(Ratio, u64)> {
    let sum = |number: fn(&Counted) -> u64| counted.iter().map(|one| u128::from(number(one))).sum::<u128>();
    let value = sum(|one| one.value);
    let used = match metric.metric.target {
        MetricTarget::Utilization(_) => (value * 100).checked_div(sum(|one| one.request))?,
        MetricTarget::AverageValue(_) => value.checked_div(u128::try_from(counted.len()).ok()?)?,
    };
    let current = u64::try_from(used).unwrap_or(u64::MAX);
    Some((Ratio { used, target: u128::from(target(metric)) }, current))
}

fn group(metric: &ScalingMetric, pods: &[Pod], now: u64) -> Grouped {
    let mut grouped = Grouped::default();
    for pod in pods {
        let whole = match metric.metric.resource {
            Resource::Cpu => pod.capacity.cpu_millis,
            Resource::Memory => pod.capacity.memory_bytes,
        };
        let request = Requests::of(&pod.requests, &metric.metric).unwrap_or(whole);
        let value = pod.measured.as_ref().and_then(|measured| value(metric, measured));
        match (value, &pod.measured) {
            _ if !pod.answered => grouped.unready.push(request),
            (Some(_), Some(measured))
                if metric.metric.resource == Resource::Cpu && unready(pod, measured, now) =>
            {
                grouped.unready.push(request);
            }
            (Some(value), _) => grouped.measured.push(Counted { value, request }),
            (None, _) => grouped.missing.push(request),
        }
    }
    grouped
}

/// Whether a machine's processor use says nothing, because it does not take load yet.
fn unready(pod: &Pod, measured: &Measured, now: u64) -> bool {
    if CPU_INITIALIZATION.after(pod.started) > now {
        return !pod.ready || measured.at < Millis(measured.usage.window_ms).after(pod.since);
    }
    !pod.ready && (pod.starting || INITIAL_READINESS.after(pod.started) > pod.since)
}

/// The use of the pod, or of the one container.
fn value(metric: &ScalingMetric, measured: &Measured) -> Option<u64> {
    let ResourceUsage { cpu_millis, memory_bytes } = match &metric.metric.container {
        Some(name) => *measured.usage.containers.get(name)?,
        None if measured.usage.containers.is_empty() => return None,
        None => measured.usage.pod(),
    };
    Some(match metric.metric.resource {
        Resource::Cpu => cpu_millis,
        Resource::Memory => memory_bytes,
    })
}
