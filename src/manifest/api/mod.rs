//! Kubernetes' objects as i2kit understands them, after defaulting: no field is left to be guessed by a reader.
//!
//! Values that the guest obeys are those of the shared crate (`i2kit_spec`), which hand them on unchanged; what only the
//! host knows is defined here.
//!
//! Names follow the Kubernetes API reference; types are stricter (quantities are numbers with a unit, names are
//! resolved where the set allows).

mod batch;
mod capability;
mod container;
mod indexes;
mod meta;
mod pod;
mod policy;
mod replicated;
mod scaling;
mod schedule;
mod secret;
mod service;
mod storage;
mod volume;
mod workload;

pub use i2kit_spec::Protocol;

pub use batch::{
    Concurrency, CronJob, CronRules, FailureAction, FailureMatch, FailureRule, Job, JobRules, JobSpec,
    SuccessRule,
};
pub use capability::{ALL_CAPABILITIES, BROAD_CAPABILITIES, DEFAULT_CAPABILITIES, OTHER_CAPABILITIES};
pub use container::{Container, ContainerPort, ResourceRequirements, SeccompProfile, Security, VolumeMount};
pub use indexes::{Indexes, MAX_INDEXES};
pub use meta::{IntOrPercent, Name, ObjectMeta};
pub use pod::{Dns, DnsPolicy, Placement, PodSpec, PodTemplate};
pub use policy::{
    LabelCondition, LabelOperator, LabelSelector, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule,
};
pub use replicated::{Replicated, ReplicatedState};
pub use scaling::{
    DisruptionBudget, Floor, Metric, MetricTarget, PolicyChange, Resource, Scaler, ScalingPolicy,
    ScalingRules, SelectPolicy,
};
pub use schedule::{Schedule, zone};
pub use secret::{Secret, SecretValue};
pub use service::{
    AcmeIssuer, BackendPort, Ingress, IngressBackend, IngressPath, IpFamilies, IpFamily, Service,
    ServicePort, ServiceType, TargetPort, Tls, TlsSecret,
};
pub use storage::{ClaimSpec, ClaimTemplate, PersistentVolumeClaim, StorageClass};
pub use volume::{FileContent, Volume, VolumeFile, VolumeSource};
pub use workload::{Deployment, ObjectSet, ServiceAccount, StatefulSet, Strategy};
