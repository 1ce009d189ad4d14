//! The subset of the OCI runtime specification's `config.json` (version 1.2) that i2kit writes and its guest obeys.
//!
//! Field names and meanings are those of <https://github.com/opencontainers/runtime-spec>. Fields that a micro-VM
//! has no use for are left out rather than accepted and ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::seccomp::SeccompFilter;

/// The runtime specification's version that we write in `ociVersion`.
pub const OCI_VERSION: &str = "1.2.0";

/// A container's `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Always [`OCI_VERSION`].
    pub oci_version: String,
    /// The first process.
    pub process: Process,
    /// The root file system.
    pub root: Root,
    /// The host name; empty means the VM's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Linux specifics.
    pub linux: Linux,
}

/// The container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// Whether a terminal is attached.
    #[serde(default)]
    pub terminal: bool,
    /// Numeric user; [`crate::ContainerBoot::user`] overrides it when not empty.
    pub user: User,
    /// Program and arguments; the program is looked up in `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=VALUE` entries, later ones win.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Resource limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Whether `PR_SET_NO_NEW_PRIVS` is set.
    pub no_new_privileges: bool,
    /// `oom_score_adj` of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
}

/// The greatest number of a user or a group. The kernel has twice as many, but takes the last one for "none", and programs
/// that keep them in signed numbers see the upper half as negative; container engines have this bound too.
pub const MAX_ID: u32 = 2_147_483_647;

/// Numeric identity of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    /// File creation mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
}

/// Capability sets, each a list of names such as `CAP_NET_BIND_SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// Upper bound of what the process can ever gain.
    #[serde(default)]
    pub bounding: Vec<String>,
    /// What the process can use at once.
    #[serde(default)]
    pub effective: Vec<String>,
    /// What survives an execve, together with the file's inheritable set.
    #[serde(default)]
    pub inheritable: Vec<String>,
    /// What the process may make effective.
    #[serde(default)]
    pub permitted: Vec<String>,
    /// What a non-root process keeps over an execve.
    #[serde(default)]
    pub ambient: Vec<String>,
}

/// One `setrlimit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// Always `rootfs`, relative to the bundle, as LinuxKit writes it.
    pub path: String,
    /// Whether the root is read-only; otherwise a tmpfs upper takes the writes and loses them at power off.
    #[serde(default)]
    pub readonly: bool,
}

/// One mount inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: String,
    /// File system type, or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Device, label or path; for binds a path in the VM.
    pub source: String,
    /// Mount options in fstab's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Linux specifics of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Linux {
    /// Namespaces that the container has of its own; those not named are the VM's.
    pub namespaces: Vec<Namespace>,
    /// cgroup v2 limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Paths that read as empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// Paths that are read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
    /// A filter of system calls; it replaces the one that [`crate::ContainerBoot::seccomp`] names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompFilter>,
}

/// A namespace to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Which kind.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
}

/// The kinds of namespace in the runtime specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// Process ids.
    Pid,
    /// Mounts.
    Mount,
    /// The cgroup tree's root.
    Cgroup,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Network.
    Network,
    /// User ids.
    User,
}

/// Limits, in the runtime specification's cgroup v1 words; the guest writes them to cgroup v2 files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Number of tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
}

/// Memory limits in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Hard limit: `memory.max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Protected amount: `memory.low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<u64>,
}

/// Processor limits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Relative weight, 2 to 262144; becomes `cpu.weight` by the runtime specification's conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// Microseconds of processor time in each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// The period's length in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
}

/// Limit of the number of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pids {
    /// `pids.max`.
    pub limit: u64,
}
