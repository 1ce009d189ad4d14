//! Containers.

use serde::{Deserialize, Serialize};

use super::probe::{Hook, Probe};
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
    /// The file in which its programs say why they end.
    pub termination_message_path: Option<String>,
    /// In the order written, those of `envFrom` first. Of two with one name the last wins.
    pub env: Vec<EnvVar>,
    /// Ports that the container listens on.
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    pub resources: Resources,
    /// Where volumes appear.
    pub volume_mounts: Vec<VolumeMount>,
    /// What the container may do; the pod's defaults are applied.
    pub security: Security,
    /// A failure restarts the container.
    pub liveness: Option<Probe>,
    /// Decides whether the machine gets traffic.
    pub readiness: Option<Probe>,
    /// Until it succeeds the other probes wait.
    pub startup: Option<Probe>,
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
            resources: Resources::default(),
            volume_mounts: Vec::new(),
            security: Security::default(),
            liveness: None,
            readiness: None,
            startup: None,
            post_start: None,
            pre_stop: None,
            stop_signal: None,
            sidecar: false,
        }
    }
}

/// `env[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// As written, before `$(VAR)` is expanded.
    Written(String),
    /// Known, and not to be expanded: the value of a ConfigMap's key, a label, a limit.
    Fixed(String),
    /// A key of a Secret, fetched at boot.
    Secret(SecretKey),
    /// All keys of a Secret, a variable each; the variable's name is put before theirs.
    WholeSecret(SecretEnv),
    /// Known to the instance alone.
    Instance(InstanceField),
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// Name of the Secret, in the pod's namespace.
    pub secret: String,
    /// The key.
    pub key: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// All keys of a Secret as variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEnv {
    /// Name of the Secret, in the pod's namespace.
    pub secret: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// What only the running instance knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceField {
    /// `metadata.name`: the instance's name.
    Name,
    /// `metadata.uid`: the instance's unique id.
    Uid,
    /// `spec.nodeName`: the instance's id in its cloud.
    NodeName,
    /// `status.hostIP`, `status.podIP`: the instance's address.
    Ip,
    /// `status.podIPs`: all its addresses, divided by commas.
    Ips,
    /// The machine's processors, in units of this many thousandths.
    CpuMillis(u64),
    /// The machine's memory, in units of this many bytes.
    MemoryBytes(u64),
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
    /// Size of the writable part of the disk in bytes: the limit, or the request without one.
    pub ephemeral_storage_bytes: Option<u64>,
    /// The same, where it is a limit.
    pub limit_ephemeral_storage_bytes: Option<u64>,
    /// Number of GPUs.
    pub gpus: u32,
}

/// `volumeMounts[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// A volume of the pod.
    pub volume: String,
    /// Where it appears.
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
    /// Whether the usual filter of system calls is asked for.
    pub seccomp: Seccomp,
    /// Everything is allowed.
    pub privileged: bool,
}

/// Filter of system calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// None.
    Unconfined,
    /// The usual one; also when nothing is said, unlike in Kubernetes: a pod that needs more says so.
    #[default]
    RuntimeDefault,
    /// The one in this file of the environment's folder of profiles.
    Localhost(String),
}
