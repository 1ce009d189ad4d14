//! `pod.json`: which containers the pod has, from which layers, and how they live and die.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::env::{EnvValue, LateEnvironment};
use crate::names::Names;
use crate::probe::{Hook, Probes};
use crate::units::{Bytes, Seconds};
use crate::volume::{LateContent, VolumeBoot, VolumeKind};

/// The version of [`PodBoot`] that this crate writes and reads. A guest reports any other version and refuses it.
pub const POD_BOOT_VERSION: u32 = 1;

/// Where [`PodBoot`] lies inside the pod file system, without a leading slash.
pub const POD_BOOT_PATH: &str = "etc/i2kit/pod.json";

/// The GPT partition name of the pod file system; layers are named by their diff id instead.
pub const POD_PARTITION: &str = "pod";

/// Where the guest mounts the pod file system; the source of a bind mount of one of its files starts with this.
pub const POD_MOUNT: &str = "/pod";

/// The folder of the pod file system, in its root, whose directories lie over the layers of the container `name`, when
/// there is one: those that the topmost layer implies and a lower one describes.
pub fn over(name: &str) -> String {
    format!("over-{name}")
}

/// File for the termination message of a container's programs, unless the container has [`ContainerBoot::termination_message_path`].
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Grace period of a pod that names none: Kubernetes' default.
pub const DEFAULT_GRACE_PERIOD: Seconds = Seconds(30);

/// What the guest boots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodBoot {
    /// Always [`POD_BOOT_VERSION`].
    pub version: u32,
    /// The pod's own name, namespace, labels and annotations.
    pub pod: PodMeta,
    /// Init containers, run one by one in this order; each must succeed before the next starts.
    pub onboot: Vec<ContainerBoot>,
    /// The pod's containers, started in parallel after every onboot entry succeeded.
    pub services: Vec<ContainerBoot>,
    /// What happens when a service ends.
    pub restart_policy: RestartPolicy,
    /// Time between SIGTERM and SIGKILL when the pod is stopped: `terminationGracePeriodSeconds`. Whatever else depends on
    /// it, such as how long a cloud waits before it ends the VM, takes it from here.
    pub grace_period_seconds: Seconds,
    /// The TCP port on which the supervisor serves `/livez`, `/readyz` and `/metrics`.
    pub health_port: u16,
    /// Kernel parameters, set before any container starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Whether the containers have one PID namespace together instead of one each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share_process_namespace: bool,
    /// Whether the containers have a user namespace of their own, in which their root is nobody in particular in the VM.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user_namespace: bool,
    /// The group that volumes belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<u32>,
    /// Whether disks that outlive the machine are given to that group only where their top folder is not its already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fs_group_on_mismatch: bool,
    /// Time after which the pod is stopped and has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<Seconds>,
    /// Volumes to make before any container starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeBoot>,
    /// What the containers call themselves and others.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub names: Names,
}

impl PodBoot {
    /// Whether a container or a volume of the pod has something of a Secret, so that the host has values for it.
    pub fn names_secrets(&self) -> bool {
        let in_environment =
            self.onboot.iter().chain(&self.services).filter_map(|c| c.late.as_ref()).any(|late| {
                late.env.iter().any(|v| matches!(v.value, EnvValue::Secret(_) | EnvValue::WholeSecret(_)))
            });
        in_environment
            || self.volumes.iter().any(|volume| match &volume.kind {
                VolumeKind::EmptyDir { .. } | VolumeKind::Disk { .. } => false,
                VolumeKind::Files { files } => {
                    files.iter().any(|file| !matches!(file.content, LateContent::Instance(_)))
                }
            })
    }
}

/// The pod's identity as its manifest gives it. The instance's own name comes on the kernel command line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMeta {
    /// The workload's name (the Deployment's `metadata.name`).
    pub name: String,
    /// The workload's namespace.
    pub namespace: String,
    /// Labels of the pod template.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod template.
    pub annotations: BTreeMap<String, String>,
}

/// One container of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerBoot {
    /// The container's name in the manifest.
    pub name: String,
    /// The folder inside the pod file system that holds the container's `config.json`, without a leading slash:
    /// `containers/services/web` or `containers/onboot/000-migrate`, as LinuxKit names them.
    pub bundle: String,
    /// GPT partition names of the container's layers, base layer first.
    pub layers: Vec<String>,
    /// The user as the image or the manifest gives it: empty (root), a name, a number, or `user:group` of either.
    /// The guest looks names up in the container's own `/etc/passwd` and `/etc/group`, as container engines do.
    pub user: String,
    /// Replaces the primary group of `user`; its supplementary groups stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// Whether the container must not start when its user turns out to be root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub run_as_non_root: bool,
    /// The system call filter.
    #[serde(default, skip_serializing_if = "Seccomp::is_default")]
    pub seccomp: Seccomp,
    /// How its health is asked for. Init containers that run to an end have none.
    #[serde(default, skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// Of init containers: is kept running beside the services, and the next one starts once it has started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sidecar: bool,
    /// Run when its program has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<Hook>,
    /// The number of the signal that asks it to end, where that is not SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Run before it gets that signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Hook>,
    /// File for the termination message of its programs, where that is not [`TERMINATION_LOG`]. Everybody may write to it;
    /// the guest reports its last bytes with the container's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_message_path: Option<String>,
    /// How much it may write outside its volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_bytes: Option<Bytes>,
    /// Memory that it asks for, of which the guest makes its `oom_score_adj`, where `config.json` has none: what that is
    /// worth depends on the machine's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_request_bytes: Option<Bytes>,
    /// Its environment, where it has variables that are known at boot alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<LateEnvironment>,
}

/// Which system calls a container may make, in the words of a pod's `seccompProfile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Seccomp {
    /// What containers have a use for: the guest's own profile, like those of container engines.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
}

impl Seccomp {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    #[default]
    /// Whatever its exit code was.
    Always,
    /// Only after a non-zero exit code or a signal.
    OnFailure,
    /// Never.
    Never,
}
