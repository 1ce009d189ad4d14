//! The fleet: what an environment is made of, as its cloud keeps and shows it.
//!
//! The same values describe what is wanted (a [`LaunchSpec`], [`GroupSettings`], a [`BalancerSpec`]) and what was
//! found (an [`InstanceGroup`], a [`LoadBalancer`]), so that comparing the two is comparing values. Times are seconds
//! since the Unix epoch. Nothing here knows which cloud it came from.

mod balancer;
mod change;
mod disk;
mod event;
mod generation;
mod group;
mod http;
mod instance;
mod launch;
mod leftover;
mod mix;
mod policy;
mod refresh;
mod run;
mod schedule;
mod target;
mod traffic;

use serde::{Deserialize, Serialize};

pub use self::balancer::{
    BalancerSpec, BalancerTarget, Headless, HeadlessGroup, LOCAL_AUTHORITY, Listener, LoadBalancer, STICKY,
    ServedCertificate,
};
pub use self::change::{Change, changes};
pub use self::disk::{
    Disk, DiskOwner, DiskSpec, DiskTemplate, LEAST_DISK, LaunchDisk, Snapshot, StatefulSettings, member_name,
    size, whole_size,
};
pub use self::event::{CloudEvent, EventKind};
pub use self::generation::Generation;
pub use self::group::{
    GroupSettings, InstanceGroup, RefreshBounds, Revision, Scaling, ScalingMetric, ScalingStatus, count,
};
pub use self::http::{HttpAcme, HttpBackend, HttpRule, HttpSecret, HttpSpec};
pub use self::instance::{
    Accelerator, ContainerState, Endpoint, Health, Instance, InstanceId, InstanceState, InstanceUsage,
    ResourceUsage, RunMember,
};
pub use self::launch::{DEFAULT_MEMORY_MIB, LaunchPort, LaunchSpec, MachineRole, Requests};
pub use self::leftover::Leftover;
pub use self::mix::MachineMix;
pub use self::policy::{GroupPolicy, Peer, PolicyPorts, Reachable};
pub use self::refresh::{Refresh, RefreshStatus};
pub use self::run::JobRun;
pub use self::schedule::{ScheduleNotice, ScheduleStatus};
pub use self::target::TargetGroup;
pub use self::traffic::{Bucket, CLASSES, HttpTraffic, Traffic};
use super::image::ImageId;
use crate::manifest::api::Name;

/// Everything that one environment holds in its cloud.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// The environment's name.
    pub environment: String,
    /// The generation of its definitions: a plan that is made on this fleet holds as long as it stays.
    #[serde(default)]
    pub generation: Generation,
    /// Groups of VMs, by name.
    pub groups: Vec<InstanceGroup>,
    /// Balancers, by name.
    pub balancers: Vec<LoadBalancer>,
    /// Disks that outlive machines, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Machine images that the cloud holds for this environment, by id.
    pub images: Vec<ImageId>,
    /// Images whose deletion was begun by a run that did not come to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub half_deleted: Vec<ImageId>,
    /// What the cloud cannot give the environment for now, and what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What interrupted runs left; reported only in a detailed observation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
}

impl Fleet {
    /// The group called `name`.
    pub fn group(&self, name: &Name) -> Option<&InstanceGroup> {
        self.groups.iter().find(|group| group.name == *name)
    }

    /// The balancer called `name`.
    pub fn balancer(&self, name: &Name) -> Option<&LoadBalancer> {
        self.balancers.iter().find(|balancer| balancer.spec.name == *name)
    }

    /// The disk called `name`.
    pub fn disk(&self, name: &Name) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.spec.name == *name)
    }

    /// One group of it, with the balancers in front of it.
    #[must_use]
    pub fn only(mut self, group: &Name) -> Self {
        self.groups.retain(|found| found.name == *group);
        self.balancers.retain(|balancer| balancer.spec.targets().any(|target| target.group == *group));
        self.images.clear();
        self.disks.clear();
        self
    }

    /// Whether the environment holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.balancers.is_empty() && self.images.is_empty() && self.disks.is_empty()
    }
}
