//! Scaling by load, and floors under it.

use std::collections::BTreeMap;

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
    /// Processor use to keep, in percent of the request.
    pub cpu_percent: Option<u32>,
    /// Memory use to keep, in percent of the request.
    pub memory_percent: Option<u32>,
    /// Cool-down before machines are added.
    pub scale_up_window_seconds: Option<Seconds>,
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
