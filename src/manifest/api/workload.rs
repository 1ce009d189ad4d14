//! Workloads, and the set of objects that is deployed together.

use std::collections::BTreeMap;

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use super::batch::{CronJob, Job};
use super::meta::{IntOrPercent, Name, ObjectMeta};
use super::pod::PodTemplate;
use super::policy::NetworkPolicy;
use super::replicated::Replicated;
use super::scaling::{DisruptionBudget, Scaler};
use super::secret::Secret;
use super::service::{Ingress, Service};
use super::storage::{ClaimTemplate, PersistentVolumeClaim, StorageClass};

/// Everything that one call of the tool is about: all objects of all given files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectSet {
    /// Deployments, and what is deployed as one (ReplicaSets, Pods that keep running), in the order written.
    pub deployments: Vec<Deployment>,
    /// Stateful sets in the order written.
    pub stateful_sets: Vec<StatefulSet>,
    /// Jobs, and Pods that end, in the order written.
    pub jobs: Vec<Job>,
    /// Cron jobs in the order written.
    pub cron_jobs: Vec<CronJob>,
    /// Services in the order written.
    pub services: Vec<Service>,
    /// Ingresses in the order written.
    pub ingresses: Vec<Ingress>,
    /// Scalers in the order written.
    pub scalers: Vec<Scaler>,
    /// Disruption budgets in the order written.
    pub budgets: Vec<DisruptionBudget>,
    /// Network policies in the order written.
    pub policies: Vec<NetworkPolicy>,
    /// Namespaces in the order written.
    pub namespaces: Vec<ObjectMeta>,
    /// Secrets in the order written.
    pub secrets: Vec<Secret>,
    /// Claims in the order written.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Storage classes in the order written.
    pub storage_classes: Vec<StorageClass>,
    /// Service accounts in the order written.
    pub service_accounts: Vec<ServiceAccount>,
}

impl ObjectSet {
    /// The pods that become machine images, each with the name of its workload: Deployments, StatefulSets, then Jobs, then
    /// CronJobs.
    pub fn pods(&self) -> impl Iterator<Item = (&Name, &PodTemplate)> {
        let deployments = self.deployments.iter().map(|each| (&each.meta.name, &each.template));
        let stateful = self.stateful_sets.iter().map(|each| (&each.meta.name, &each.template));
        let jobs = self.jobs.iter().map(|each| (&each.meta.name, &each.spec.template));
        let cron_jobs = self.cron_jobs.iter().map(|each| (&each.meta.name, &each.job.template));
        deployments.chain(stateful).chain(jobs).chain(cron_jobs)
    }

    /// The pods that are kept running, which Services lead to: Deployments, then StatefulSets.
    pub fn kept(&self) -> impl Iterator<Item = (&Name, &PodTemplate)> {
        self.pods().take(self.deployments.len() + self.stateful_sets.len())
    }
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
    /// Time that a new pod must stay healthy before it counts as available.
    pub min_ready_seconds: Seconds,
    /// Time within which a rollout must make progress; then it is rolled back. 600 s by default.
    pub progress_deadline_seconds: Seconds,
    /// Old revisions kept for `rollback`; 10 by default.
    pub revision_history_limit: u32,
}

/// `spec.strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// `apps/v1` StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatefulSet {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// Number of pods; 1 by default.
    pub replicas: u32,
    /// `selector.matchLabels`.
    pub selector: BTreeMap<String, String>,
    /// The pod; each mounts the disks of `claim_templates` too.
    pub template: PodTemplate,
    /// The headless Service below which each pod has a DNS name.
    pub service_name: Option<String>,
    /// Disks that each pod has of its own.
    pub claim_templates: Vec<ClaimTemplate>,
    /// Whether pods start all at once instead of one after the other.
    pub parallel: bool,
    /// Pods with a lower index keep the old template.
    pub partition: u32,
    /// How many may be missing during a rollout.
    pub max_unavailable: IntOrPercent,
    /// Whether the disks are deleted when the set is.
    pub delete_disks_with_set: bool,
    /// Whether the disks of pods that are scaled away are deleted.
    pub delete_disks_when_scaled: bool,
    /// Index of the first pod.
    pub first_ordinal: u32,
    /// Time that a new pod must stay healthy before it counts as available.
    pub min_ready_seconds: Seconds,
    /// Old revisions kept for `rollback`; 10 by default.
    pub revision_history_limit: u32,
    /// Whether and how its pods are replicas that execute the same requests.
    pub replicated: Option<Replicated>,
}

/// `v1` ServiceAccount: the role of machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// The cloud's role, when an annotation names one.
    pub role: Option<String>,
    /// Secrets with registry credentials for the build.
    pub image_pull_secrets: Vec<String>,
}
