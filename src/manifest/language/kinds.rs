//! The kinds: which are read, which are refused, and why.

use super::batch::{CRON_JOB, JOB};
use super::config::{
    BUDGET, CONFIG_MAP, NAMESPACE, SCALER_V1, SCALER_V2, SECRET, SERVICE_ACCOUNT, STORAGE_CLASS,
};
use super::field::{Class, Table};
use super::policy::POLICY;
use super::service::{INGRESS, SERVICE};
use super::workload::{CLAIM, DEPLOYMENT, POD, REPLICA_SET, STATEFUL_SET};

/// One kind in one version.
#[derive(Debug)]
pub(in crate::manifest) struct Kind {
    pub(in crate::manifest) api_version: &'static str,
    pub(in crate::manifest) name: &'static str,
    pub(in crate::manifest) class: Class,
    /// What it means for virtual machines, or why it is refused.
    pub(in crate::manifest) doc: &'static str,
    /// Its fields; none when nobody reads them.
    pub(in crate::manifest) table: Option<&'static Table>,
    /// The way out of a refusal.
    pub(in crate::manifest) help: Option<&'static str>,
    /// A note whenever the kind is used.
    pub(in crate::manifest) note: Option<&'static str>,
}

const fn kind(
    api_version: &'static str,
    name: &'static str,
    class: Class,
    table: &'static Table,
    doc: &'static str,
) -> Kind {
    Kind { api_version, name, class, doc, table: Some(table), help: None, note: None }
}

const fn refused(
    api_version: &'static str,
    name: &'static str,
    doc: &'static str,
    help: &'static str,
) -> Kind {
    Kind { api_version, name, class: Class::Refused, doc, table: None, help: Some(help), note: None }
}

const fn no_meaning(api_version: &'static str, name: &'static str, doc: &'static str) -> Kind {
    Kind { api_version, name, class: Class::NoMeaning, doc, table: None, help: None, note: None }
}

impl Kind {
    const fn note(mut self, note: &'static str) -> Self {
        self.note = Some(note);
        self
    }
}

const NO_API: &str = "there is no Kubernetes API server; a pod that calls it will fail";
const NO_NODES: &str = "machines do not compete for nodes";

/// All kinds that get an answer of their own.
pub(in crate::manifest) static KINDS: &[Kind] = &[
    kind("apps/v1", "Deployment", Class::Works, &DEPLOYMENT, "a group of machines and a launch template"),
    kind(
        "apps/v1",
        "StatefulSet",
        Class::Mapped,
        &STATEFUL_SET,
        "machines with a stable index, name and disk each",
    ),
    kind("apps/v1", "ReplicaSet", Class::Mapped, &REPLICA_SET, "as a Deployment")
        .note("a ReplicaSet is deployed as a Deployment; write a Deployment"),
    kind("v1", "Pod", Class::Mapped, &POD, "a group of exactly one machine, or a Job of one"),
    kind("batch/v1", "Job", Class::Mapped, &JOB, "machines that run to an end once"),
    kind("batch/v1", "CronJob", Class::Mapped, &CRON_JOB, "a Job that is run at the times of a schedule"),
    kind("v1", "Service", Class::Works, &SERVICE, "a DNS name and a balancer"),
    kind(
        "networking.k8s.io/v1",
        "Ingress",
        Class::Works,
        &INGRESS,
        "an application balancer with routing rules",
    ),
    kind("networking.k8s.io/v1", "NetworkPolicy", Class::Works, &POLICY, "rules of who may talk to whom"),
    kind("autoscaling/v2", "HorizontalPodAutoscaler", Class::Works, &SCALER_V2, "scaling by load"),
    kind("autoscaling/v1", "HorizontalPodAutoscaler", Class::Works, &SCALER_V1, "scaling by load"),
    kind(
        "policy/v1",
        "PodDisruptionBudget",
        Class::Mapped,
        &BUDGET,
        "a floor under the healthy machines of a rollout",
    ),
    kind(
        "v1",
        "ConfigMap",
        Class::Works,
        &CONFIG_MAP,
        "files and variables of pods; a changed value is a rollout",
    ),
    kind("v1", "Secret", Class::Works, &SECRET, "files and variables that reach machines at boot only"),
    kind("v1", "PersistentVolumeClaim", Class::Mapped, &CLAIM, "a disk that outlives machines"),
    kind("storage.k8s.io/v1", "StorageClass", Class::Mapped, &STORAGE_CLASS, "a type of disk"),
    kind("v1", "ServiceAccount", Class::Mapped, &SERVICE_ACCOUNT, "the role of machines in the cloud"),
    kind("v1", "Namespace", Class::Mapped, &NAMESPACE, "part of names; nothing is created"),
    no_meaning("rbac.authorization.k8s.io/v1", "Role", NO_API),
    no_meaning("rbac.authorization.k8s.io/v1", "RoleBinding", NO_API),
    no_meaning("rbac.authorization.k8s.io/v1", "ClusterRole", NO_API),
    no_meaning("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", NO_API),
    no_meaning("v1", "LimitRange", NO_API),
    no_meaning("v1", "ResourceQuota", NO_API),
    no_meaning("scheduling.k8s.io/v1", "PriorityClass", NO_NODES),
    no_meaning("node.k8s.io/v1", "RuntimeClass", "every pod is a virtual machine already"),
    no_meaning("networking.k8s.io/v1", "IngressClass", "each cloud has one kind of application balancer"),
    refused(
        "apps/v1",
        "DaemonSet",
        "there are no shared nodes",
        "add it as a container of each pod, or to the base image",
    ),
    refused("v1", "ReplicationController", "it was replaced by Deployments", "write a Deployment"),
    refused(
        "v1",
        "PersistentVolume",
        "volumes are made for their claims",
        "remove it; a claim has the disk of its name, with what is on it",
    ),
    refused("v1", "Endpoints", "addresses are found by selector only", "give the Service a selector"),
    refused(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "addresses are found by selector only",
        "give the Service a selector",
    ),
    refused(
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
        "it says how manifests are made",
        "give its folder with `-k DIR`",
    ),
    refused(
        "kustomize.config.k8s.io/v1alpha1",
        "Component",
        "it says how manifests are made",
        "give its folder with `-k DIR`",
    ),
    refused(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "there is no Kubernetes API server to extend",
        "pass --ignore-kind CustomResourceDefinition if the rest can do without",
    ),
];

/// Versions of kinds that are gone, the version of Kubernetes that removed them, and what to write instead.
static REMOVED: &[(&str, &str, &str, &str)] = &[
    ("extensions/v1beta1", "Deployment", "1.16", "apps/v1"),
    ("extensions/v1beta1", "DaemonSet", "1.16", "apps/v1"),
    ("extensions/v1beta1", "ReplicaSet", "1.16", "apps/v1"),
    ("extensions/v1beta1", "NetworkPolicy", "1.16", "networking.k8s.io/v1"),
    ("extensions/v1beta1", "PodSecurityPolicy", "1.16", "no successor"),
    ("extensions/v1beta1", "Ingress", "1.22", "networking.k8s.io/v1"),
    ("networking.k8s.io/v1beta1", "Ingress", "1.22", "networking.k8s.io/v1"),
    ("networking.k8s.io/v1beta1", "IngressClass", "1.22", "networking.k8s.io/v1"),
    ("apps/v1beta1", "Deployment", "1.16", "apps/v1"),
    ("apps/v1beta1", "StatefulSet", "1.16", "apps/v1"),
    ("apps/v1beta2", "Deployment", "1.16", "apps/v1"),
    ("apps/v1beta2", "StatefulSet", "1.16", "apps/v1"),
    ("apps/v1beta2", "DaemonSet", "1.16", "apps/v1"),
    ("apps/v1beta2", "ReplicaSet", "1.16", "apps/v1"),
    ("batch/v1beta1", "CronJob", "1.25", "batch/v1"),
    ("batch/v2alpha1", "CronJob", "1.21", "batch/v1"),
    ("policy/v1beta1", "PodDisruptionBudget", "1.25", "policy/v1"),
    ("policy/v1beta1", "PodSecurityPolicy", "1.25", "no successor"),
    ("autoscaling/v2beta1", "HorizontalPodAutoscaler", "1.25", "autoscaling/v2"),
    ("autoscaling/v2beta2", "HorizontalPodAutoscaler", "1.26", "autoscaling/v2"),
    ("rbac.authorization.k8s.io/v1beta1", "Role", "1.22", "rbac.authorization.k8s.io/v1"),
    ("rbac.authorization.k8s.io/v1beta1", "RoleBinding", "1.22", "rbac.authorization.k8s.io/v1"),
    ("rbac.authorization.k8s.io/v1beta1", "ClusterRole", "1.22", "rbac.authorization.k8s.io/v1"),
    ("rbac.authorization.k8s.io/v1beta1", "ClusterRoleBinding", "1.22", "rbac.authorization.k8s.io/v1"),
    ("storage.k8s.io/v1beta1", "StorageClass", "1.22", "storage.k8s.io/v1"),
    ("node.k8s.io/v1beta1", "RuntimeClass", "1.25", "node.k8s.io/v1"),
    ("scheduling.k8s.io/v1beta1", "PriorityClass", "1.22", "scheduling.k8s.io/v1"),
    ("apiextensions.k8s.io/v1beta1", "CustomResourceDefinition", "1.22", "apiextensions.k8s.io/v1"),
    ("discovery.k8s.io/v1beta1", "EndpointSlice", "1.25", "discovery.k8s.io/v1"),
];

/// When the version was removed, and its successor.
pub(in crate::manifest) fn removed_in(api_version: &str, name: &str) -> Option<(&'static str, &'static str)> {
    REMOVED
        .iter()
        .find(|(version, kind, ..)| *version == api_version && *kind == name)
        .map(|&(_, _, release, successor)| (release, successor))
}
