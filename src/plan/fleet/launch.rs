//! How one VM is started.

use std::collections::BTreeMap;

use i2kit_spec::{Architecture, Bytes, Seconds};
use serde::{Deserialize, Serialize};

use super::MachineMix;
use super::disk::LaunchDisk;
use crate::manifest::api::{Metric, Name, Protocol, Resource};
use crate::plan::image::ImageId;

/// How one VM of a revision is started. Two revisions are the same exactly when their launch specs are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchSpec {
    /// The machine image.
    pub image: ImageId,
    /// The architecture of the image, and so of the machine.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub architecture: Architecture,
    /// Memory of the VM in MiB.
    pub memory_mib: u32,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// Ports that the pod's containers declare, in the order written.
    pub ports: Vec<LaunchPort>,
    /// Port on which the guest answers `/status` and `/readyz`.
    pub health_port: u16,
    /// Time between SIGTERM and SIGKILL when the pod is stopped, after which a cloud may end the VM. The guest has it from
    /// its image.
    pub grace_period_seconds: Seconds,
    /// Names of the pod's containers, init containers first. Reports of a guest about other containers are ignored.
    #[serde(default)]
    pub containers: Vec<String>,
    /// What each container that runs as long as the pod requests, by name: its use is measured against that. Empty where
    /// none of them requests anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Requests>,
    /// The Secrets that the pod names, each with the version of its values that VMs get at their boot, or none where
    /// the pod does without it. A version is a keyed hash: equal values, equal version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Option<String>>,
    /// Size of each disk for the pod's emptyDirs, in the order of their numbers. A cloud that has no such disks leaves
    /// them out, and the guest makes do with memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch_bytes: Vec<Bytes>,
    /// The disks that outlive the VM, in the order of their numbers. One instance at a time has each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<LaunchDisk>,
    /// The pod's own host name, where the manifest gives one. A member of a StatefulSet has its name as the host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The headless Service below whose name the host name is a DNS name: `subdomain`, or the StatefulSet's `serviceName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<String>,
    /// How many replicas the machines of a replicated group know to be; none of a group that is not replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The cloud identity of the VM, when its pod names a ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MachineRole>,
    /// The type of machine that the manifest names; by size otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Whether the VMs are Spot machines, which the cloud may take back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spot: bool,
    /// Whether each VM boots, where it could start from a snapshot that was taken before the containers of another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_snapshot: bool,
    /// The mix of machine types and of Spot and on-demand, where not all VMs are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<MachineMix>,
}

/// What a container requests of its machine; a limit without a request is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Processors, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl Requests {
    /// What the containers that a metric is of request together, in the resource's unit. `None` as soon as one of them
    /// requests nothing: the use of all cannot be measured against what some request.
    pub fn of(requests: &BTreeMap<String, Self>, metric: &Metric) -> Option<u64> {
        let meant =
            requests.iter().filter(|(name, _)| metric.container.as_ref().is_none_or(|only| only == *name));
        let meant = meant.map(|(_, requests)| match metric.resource {
            Resource::Cpu => requests.cpu_millis,
            Resource::Memory => requests.memory_bytes,
        });
        let sum = meant.reduce(|sum, one| Some(sum?.saturating_add(one?))).flatten();
        // A request of nothing is none to measure against.
        sum.filter(|sum| *sum > 0)
    }
}

/// The cloud identity of a VM: the role under which it calls the cloud.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineRole {
    /// The ServiceAccount.
    pub account: Name,
    /// The cloud's role that it names; one of its own without further rights otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Memory of a VM, in MiB, when no container requests any: an nginx pod uses 27 of them.
pub const DEFAULT_MEMORY_MIB: u32 = 128;

/// A port that a pod listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaunchPort {
    /// Port number.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}
