//! Kubernetes' objects as i2kit understands them, after defaulting: no field is left to be guessed by a reader.
//!
//! Names follow the Kubernetes API reference; types are stricter (quantities are numbers with a unit, names are
//! resolved where the set allows).

mod meta;
mod pod;
mod service;
mod workload;

pub use meta::{IntOrPercent, Name, ObjectMeta};
pub use pod::{Container, ContainerPort, EnvVar, PodSpec, PodTemplate, Protocol, Resources, RestartPolicy};
pub use service::{Service, ServicePort, ServiceType, TargetPort};
pub use workload::{Deployment, ObjectSet, Strategy};
