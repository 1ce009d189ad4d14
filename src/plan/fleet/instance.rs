//! Instances of a group: state, health, endpoints and containers, as a cloud and its guests report them.
//!
//! Serialised in three places: `status --output json`, the API of the local cloud, and its database, which stores
//! [`InstanceState`], [`Health`], [`ContainerState`] and [`RunMember`] in its records of instances. A field that is renamed
//! breaks scripts that read the first, and a local cloud of another version that reads the others.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Deref;

use i2kit_spec::replica::ReplicaReport;
use serde::{Deserialize, Serialize};

use crate::manifest::api::Protocol;

/// The id of an instance, unique in its environment: such as `nginx-1-7hq2k`, or the cloud's own id of the VM.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub String);

impl Deref for InstanceId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A map by ids is asked by the text of one.
impl Borrow<str> for InstanceId {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<String> for InstanceId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl From<&str> for InstanceId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

/// As its text, so that a log names an instance as people do.
impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its name, where it is not its id: `web-0` of a StatefulSet's member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its index in its StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u32>,
    /// The revision that it was started from.
    pub revision: u32,
    /// Of a Job: the run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunMember>,
    /// Where it is in its life.
    pub state: InstanceState,
    /// How its pod is.
    pub health: Health,
    /// When the VM was started.
    pub since: u64,
    /// When its state, or the kind of its health, came to be what it is, where the cloud has a record of it. Pauses of
    /// the computer since then are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<u64>,
    /// The kernel's boot id, once the guest has reported it: it changes when a VM is replaced and never otherwise.
    pub boot_id: Option<String>,
    /// The VM's address, which is the pod's IP, where it has one that others reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its address of IPv6 beside that one, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Where the VM's ports are reached from the host, or its own address and ports where it has one.
    pub endpoints: Vec<Endpoint>,
    /// What runs the VM's instructions, where that is a matter of the machine.
    pub accelerator: Option<Accelerator>,
    /// Whether it was started from a snapshot that another machine of its kind left, and did not boot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_snapshot: bool,
    /// The process that runs the VM, on the local cloud.
    pub pid: Option<u32>,
    /// The pod's containers, once the guest has reported them.
    pub containers: Vec<ContainerState>,
    /// What its replica says of itself, of a replicated group. How far it is changes without end, and so is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaReport>,
    /// Whether its guest did not answer when it was asked last: what it said of its containers may be no more so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// What it uses, where the cloud measures that; changes without end, and so is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<InstanceUsage>,
}

/// What a VM uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceUsage {
    /// The time over which processor use was averaged, in milliseconds.
    pub window_ms: u64,
    /// Containers that run, by name.
    pub containers: BTreeMap<String, ResourceUsage>,
    /// The whole machine, with its kernel and the guest's own programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<ResourceUsage>,
}

/// What something uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// Processor use in thousandths of a processor.
    pub cpu_millis: u64,
    /// Memory that cannot be reclaimed easily.
    pub memory_bytes: u64,
}

impl InstanceUsage {
    /// All containers together: the use of the pod.
    pub fn pod(&self) -> ResourceUsage {
        self.containers.values().fold(ResourceUsage::default(), |sum, one| ResourceUsage {
            cpu_millis: sum.cpu_millis.saturating_add(one.cpu_millis),
            memory_bytes: sum.memory_bytes.saturating_add(one.memory_bytes),
        })
    }
}

impl Instance {
    /// What it is called: its name, or its id.
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// Whether it is a machine of a Job that ended well.
    pub fn has_succeeded(&self) -> bool {
        let is_good = matches!(&self.health, Health::Unhealthy { reason } if reason.starts_with("Completed"));
        is_good && self.run.is_some() && self.state == InstanceState::Ended
    }

    /// How often its containers were started again.
    pub fn restarts(&self) -> u32 {
        self.containers.iter().fold(0, |sum, container| sum.saturating_add(container.restarts))
    }
}

/// The place of a VM in a run of a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunMember {
    /// Number of the run.
    pub number: u32,
    /// Its index, in an Indexed Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceState {
    /// A member of the group, whatever its health.
    Running,
    /// Out of the balancer; connections under way may end.
    Draining,
    /// Told to power off.
    Stopping,
    /// Ended; shown for as long as the cloud keeps its reason.
    Ended,
}

/// Health of a VM's pod. Two decisions follow: traffic goes to the healthy, and only the lost are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum Health {
    /// Not ready yet, and nothing has failed.
    Starting {
        /// What it waits for, when something is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waiting: Option<String>,
    },
    /// Ready.
    Healthy,
    /// Alive and not ready, or ended.
    Unhealthy {
        /// Why, in one sentence.
        reason: String,
    },
    /// Not alive: its guest reported so, or has not answered for long.
    Lost {
        /// Why, in one sentence.
        reason: String,
    },
}

impl Health {
    /// Starting, and nothing known.
    pub const STARTING: Self = Self::Starting { waiting: None };
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { waiting: None } => f.write_str("starting"),
            Self::Starting { waiting: Some(waiting) } => write!(f, "starting: {waiting}"),
            Self::Healthy => f.write_str("healthy"),
            Self::Unhealthy { reason } => write!(f, "unhealthy: {reason}"),
            Self::Lost { reason } => write!(f, "lost: {reason}"),
        }
    }
}

/// Where one port of a VM is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The port inside the VM.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// `ADDRESS:PORT` to connect to.
    pub address: String,
}

/// What runs a VM's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// Emulation by qemu: works everywhere, about ten times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// One container, as the guest reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// Name in the manifest.
    pub name: String,
    /// Whether it counts as ready.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Its state in the guest's words, such as `running` or `exited (1)`.
    pub state: String,
}
