//! How one VM is started.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::MachineMix;
use crate::manifest::api::{Name, Protocol};
use crate::plan::image::ImageId;

/// How one VM of a revision is started. Two revisions are the same exactly when their launch specs are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchSpec {
    /// The machine image.
    pub image: ImageId,
    /// Memory of the VM in MiB.
    pub memory_mib: u32,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// Ports that the pod's containers declare, in the order written.
    pub ports: Vec<LaunchPort>,
    /// Port on which the guest answers `/status` and `/readyz`.
    pub health_port: u16,
    /// Seconds between SIGTERM and SIGKILL when the pod is stopped.
    pub grace_period_seconds: u64,
    /// Names of the pod's containers, init containers first: what a guest tells of others is not believed.
    #[serde(default)]
    pub containers: Vec<String>,
    /// The Secrets that the pod names, each with the version of its values that VMs get at their boot, or none where
    /// the pod does without it. A version tells equal values from others, and nothing else of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Option<String>>,
    /// Bytes of each disk for the pod's emptyDirs, in the order of their numbers. A cloud that has no such disks leaves
    /// them out, and the guest makes do with memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch_bytes: Vec<u64>,
    /// As whom a VM acts in its cloud, when its pod names a ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MachineRole>,
    /// The type of machine that the manifest names; by size otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Whether VMs may be such as the cloud can take back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spot: bool,
    /// Of which kinds they are, where not all are of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<MachineMix>,
}

/// As whom a VM acts in its cloud.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineRole {
    /// The ServiceAccount.
    pub account: Name,
    /// The cloud's role that it names; one of its own without further rights otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Memory of a VM, in MiB, when no container says what it needs: an nginx pod uses 27 of them.
pub const DEFAULT_MEMORY_MIB: u32 = 128;

/// A port that a pod listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaunchPort {
    /// Port number.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}
