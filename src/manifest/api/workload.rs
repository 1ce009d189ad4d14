//! Workloads, and the set of objects that is deployed together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meta::{IntOrPercent, ObjectMeta};
use super::pod::PodTemplate;
use super::service::Service;

/// Everything that one call of the tool is about: all objects of all given files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectSet {
    /// Deployments in the order written.
    pub deployments: Vec<Deployment>,
    /// Services in the order written.
    pub services: Vec<Service>,
}

/// `apps/v1` Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// Number of pods; 1 by default.
    pub replicas: u32,
    /// `selector.matchLabels`.
    pub selector: BTreeMap<String, String>,
    /// The pod.
    pub template: PodTemplate,
    /// How a changed pod replaces the running ones.
    pub strategy: Strategy,
    /// Seconds that a new pod must stay healthy before it counts.
    pub min_ready_seconds: u32,
    /// Seconds within which a rollout must make progress; then it is rolled back. 600 by default.
    pub progress_deadline_seconds: u32,
    /// Old revisions kept for `rollback`; 10 by default.
    pub revision_history_limit: u32,
}

/// `spec.strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Strategy {
    /// A few at a time.
    RollingUpdate {
        /// How many may be missing; percentages round down. 25 % by default.
        max_unavailable: IntOrPercent,
        /// How many may be in excess; percentages round up. 25 % by default.
        max_surge: IntOrPercent,
    },
    /// All old ones end before the first new one starts.
    Recreate,
}
