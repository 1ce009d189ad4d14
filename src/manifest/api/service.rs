//! Services: stable names and balancers in front of pods.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meta::ObjectMeta;
use super::pod::Protocol;

/// `v1` Service with a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// How far the Service is seen.
    pub kind: ServiceType,
    /// Labels that a pod template must have to be a target; not empty.
    pub selector: BTreeMap<String, String>,
    /// Ports; at least one.
    pub ports: Vec<ServicePort>,
}

/// `spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the environment only.
    ClusterIP,
    /// As `ClusterIP`; the node port itself has no meaning without nodes.
    NodePort,
    /// Public.
    LoadBalancer,
}

/// `spec.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; required when there are several.
    pub name: Option<String>,
    /// The port that clients connect to.
    pub port: u16,
    /// The port that pods listen on.
    pub target_port: TargetPort,
    /// Transport.
    pub protocol: Protocol,
}

/// A container port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container port, which may have another number in each pod template.
    Name(String),
}
