//! Containers: image, command, environment, ports, resources, mounts, security, probes and hooks.

use i2kit_spec::{Bytes, EnvVar, Hook, Probes, Protocol, Seccomp};

use crate::oci::Reference;

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
    /// File for the termination message of its programs.
    pub termination_message_path: Option<String>,
    /// In the order written, those of `envFrom` first. Of two with one name the last wins.
    pub env: Vec<EnvVar>,
    /// Ports that the container listens on.
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    pub resources: ResourceRequirements,
    /// Mounts of volumes.
    pub volume_mounts: Vec<VolumeMount>,
    /// What the container may do; the pod's defaults are applied.
    pub security: Security,
    /// Its probes.
    pub probes: Probes,
    /// Run when the container has started.
    pub post_start: Option<Hook>,
    /// Run before the container is asked to end.
    pub pre_stop: Option<Hook>,
    /// The number of the signal that asks it to end, instead of the image's.
    pub stop_signal: Option<i32>,
    /// Of init containers: keeps running beside the containers.
    pub sidecar: bool,
}

impl Container {
    /// A container that has nothing but a name and an image.
    pub fn new(name: impl Into<String>, image: Reference) -> Self {
        Self {
            name: name.into(),
            image,
            command: None,
            args: None,
            working_dir: None,
            termination_message_path: None,
            env: Vec::new(),
            ports: Vec::new(),
            resources: ResourceRequirements::default(),
            volume_mounts: Vec::new(),
            security: Security::default(),
            probes: Probes::default(),
            post_start: None,
            pre_stop: None,
            stop_signal: None,
            sidecar: false,
        }
    }
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
    /// Another port of the machine that leads to this one.
    pub host_port: Option<u16>,
}

/// `resources`: what the container asks for and what it may use at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceRequirements {
    /// Requested processor time in thousandths of a core.
    pub request_cpu_millis: Option<u64>,
    /// Requested memory.
    pub request_memory_bytes: Option<Bytes>,
    /// Limit of processor time in thousandths of a core.
    pub limit_cpu_millis: Option<u64>,
    /// Limit of memory.
    pub limit_memory_bytes: Option<Bytes>,
    /// Size of the writable part of the disk: the limit, or the request without one.
    pub ephemeral_storage_bytes: Option<Bytes>,
    /// The same, where it is a limit.
    pub limit_ephemeral_storage_bytes: Option<Bytes>,
    /// Number of GPUs.
    pub gpus: u32,
}

/// `volumeMounts[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// A volume of the pod.
    pub volume: String,
    /// The mount point.
    pub mount_path: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// A file or folder inside the volume instead of the whole.
    pub sub_path: Option<String>,
    /// The same, before `$(VAR)` is expanded.
    pub sub_path_expr: Option<String>,
}

/// `securityContext` of a container over that of its pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the Kubernetes API")]
pub struct Security {
    /// User id; by default the image's user.
    pub run_as_user: Option<u32>,
    /// Group id; by default that of the image's user.
    pub run_as_group: Option<u32>,
    /// Refuse to start as root.
    pub run_as_non_root: bool,
    /// The container cannot write outside its volumes.
    pub read_only_root_filesystem: bool,
    /// `false` sets no-new-privileges.
    pub forbid_privilege_escalation: bool,
    /// Capabilities to add, such as `NET_ADMIN`.
    pub capabilities_add: Vec<String>,
    /// Capabilities to drop; `ALL` are all.
    pub capabilities_drop: Vec<String>,
    /// Filter of system calls.
    pub seccomp: SeccompProfile,
    /// Everything is allowed.
    pub privileged: bool,
}

/// `seccompProfile`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompProfile {
    /// One that the guest has. A pod that names none gets [`Seccomp::RuntimeDefault`], unlike in Kubernetes: a pod that
    /// needs more asks for it.
    Guest(Seccomp),
    /// The one in this file of the environment's folder of profiles.
    Localhost(String),
}

impl Default for SeccompProfile {
    fn default() -> Self {
        Self::Guest(Seccomp::default())
    }
}
