//! Pod templates and their containers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::oci::Reference;

/// `spec.template` of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTemplate {
    /// Labels that Services and the workload select.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The pod itself.
    pub spec: PodSpec,
}

/// `spec.template.spec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Run one by one before the containers.
    pub init_containers: Vec<Container>,
    /// Run side by side; at least one.
    pub containers: Vec<Container>,
    /// When a container that ended is started again.
    pub restart_policy: RestartPolicy,
    /// Seconds between SIGTERM and SIGKILL; 30 by default.
    pub termination_grace_period_seconds: u64,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Whatever its exit code was.
    #[default]
    Always,
    /// Only after a failure.
    OnFailure,
    /// Never.
    Never,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Name, unique in the pod.
    pub name: String,
    /// The image as written, parsed.
    pub image: Reference,
    /// Replaces the image's entrypoint, and its default arguments too.
    pub command: Option<Vec<String>>,
    /// Replaces the image's default arguments.
    pub args: Option<Vec<String>>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// In the order written. `$(VAR)` has not been expanded: the image's own variables are not known here.
    pub env: Vec<EnvVar>,
    /// Ports that the container listens on.
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    pub resources: Resources,
}

/// `env[]` with a literal value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value, before `$(VAR)` expansion.
    pub value: String,
}

/// `ports[]` of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Name for Services and probes to refer to.
    pub name: Option<String>,
    /// Port number, 1 to 65535.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// `resources`: what the container asks for and what it may use at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Requested processor time in thousandths of a core.
    pub request_cpu_millis: Option<u64>,
    /// Requested memory in bytes.
    pub request_memory_bytes: Option<u64>,
    /// Limit of processor time in thousandths of a core.
    pub limit_cpu_millis: Option<u64>,
    /// Limit of memory in bytes.
    pub limit_memory_bytes: Option<u64>,
}
