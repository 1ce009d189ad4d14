//! Scaling by load, and floors under it.

use std::collections::BTreeMap;
use std::fmt;

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use super::meta::{IntOrPercent, Name, ObjectMeta};

/// `HorizontalPodAutoscaler`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaler {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// Kind of the workload, such as `Deployment`.
    pub target_kind: String,
    /// The workload.
    pub target: Name,
    /// Fewest machines; 1 by default.
    pub min_replicas: u32,
    /// Most machines.
    pub max_replicas: u32,
    /// What is measured, in the order written; never empty.
    pub metrics: Vec<Metric>,
    /// How fast it follows a load that grows.
    pub scale_up: ScalingRules,
    /// How fast it follows a load that falls.
    pub scale_down: ScalingRules,
}

/// A resource whose use is kept near a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Which resource.
    pub resource: Resource,
    /// Only of this container; of the whole pod without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The use to keep.
    pub target: MetricTarget,
}

/// A resource that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Resource {
    /// Processor time, in thousandths of a processor.
    Cpu,
    /// Memory that cannot be reclaimed easily, in bytes.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}

/// The use to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MetricTarget {
    /// In percent of what is requested.
    Utilization(u32),
    /// Per pod, in the resource's unit.
    AverageValue(u64),
}

/// `behavior.scaleUp` or `behavior.scaleDown`: what is written; what is absent is Kubernetes' default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// How long the most careful recommendation holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stabilization_window_seconds: Option<Seconds>,
    /// Which policy counts; the one that allows the largest change by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// How much may change in which time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<ScalingPolicy>>,
    /// How far the use may be from its target before anything is done, in thousandths of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance_thousandths: Option<u64>,
}

/// Which of several policies counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SelectPolicy {
    /// The one that allows the largest change.
    Max,
    /// The one that allows the smallest change.
    Min,
    /// None: nothing is changed in this direction.
    Disabled,
}

/// How much may change in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// How much.
    pub change: PolicyChange,
    /// In which time.
    pub period_seconds: Seconds,
}

/// How much a policy lets change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyChange {
    /// So many machines.
    Pods(u32),
    /// So many percent of those at the beginning of the period.
    Percent(u32),
}

/// `policy/v1` PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisruptionBudget {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// `selector.matchLabels`.
    pub selector: BTreeMap<String, String>,
    /// The floor.
    pub floor: Floor,
}

/// How many machines must stay healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Floor {
    /// At least this many.
    MinAvailable(IntOrPercent),
    /// All but this many.
    MaxUnavailable(IntOrPercent),
}

impl Floor {
    /// The least number of healthy machines of `replicas`; percentages round up in both directions, as Kubernetes does.
    pub fn of(self, replicas: u32) -> u32 {
        match self {
            Self::MinAvailable(share) => share.of_rounded_up(replicas).min(replicas),
            Self::MaxUnavailable(share) => replicas.saturating_sub(share.of_rounded_up(replicas)),
        }
    }
}
