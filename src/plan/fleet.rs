//! The fleet: what an environment is made of, as its cloud keeps and shows it.
//!
//! The same values describe what is wanted (a [`LaunchSpec`], [`GroupSettings`], a [`BalancerSpec`]) and what was
//! found (an [`InstanceGroup`], a [`LoadBalancer`]), so that comparing the two is comparing values. Times are seconds
//! since the Unix epoch. Nothing here knows which cloud it came from.

mod http;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::http::{HttpBackend, HttpRule, HttpSpec};
use super::image::ImageId;
use crate::manifest::api::{Floor, Name, Protocol, ServiceType, Strategy, Tls};

/// Everything that one environment holds in its cloud.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// The environment's name.
    pub environment: String,
    /// Groups of VMs, by name.
    pub groups: Vec<InstanceGroup>,
    /// Balancers, by name.
    pub balancers: Vec<LoadBalancer>,
    /// Machine images that the cloud holds for this environment, by id.
    pub images: Vec<ImageId>,
    /// Images whose deletion was begun by a run that did not come to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub half_deleted: Vec<ImageId>,
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

    /// Whether the environment holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.balancers.is_empty() && self.images.is_empty()
    }
}

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
    /// Port on which the guest answers `/readyz`.
    pub health_port: u16,
    /// Seconds between SIGTERM and SIGKILL when the pod is stopped.
    pub grace_period_seconds: u64,
    /// Seconds after its start within which a VM that is not ready yet is not called unhealthy.
    pub health_grace_seconds: u32,
    /// The Secrets that the pod names, each with the version of its values that VMs get at their boot, or none where
    /// the pod does without it. A version tells equal values from others, and nothing else of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Option<String>>,
    /// As whom a VM acts in its cloud, when its pod names a ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MachineRole>,
    /// The type of machine that the manifest names; by size otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Whether VMs may be such as the cloud can take back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spot: bool,
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

/// Seconds that a VM may take to become ready when no probe says otherwise: a boot takes about 3 s, and a machine
/// that emulates several VMs at once on few cores stretches that by more than ten.
pub const DEFAULT_HEALTH_GRACE_SECONDS: u32 = 120;

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

/// What a group has beside its size and its revisions; changing it replaces no VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSettings {
    /// How many VMs may be missing or in excess during a refresh.
    pub strategy: Strategy,
    /// Seconds that a new VM must stay healthy before it counts.
    pub min_ready_seconds: u32,
    /// Seconds without progress after which a refresh is rolled back.
    pub progress_deadline_seconds: u32,
    /// Old revisions that are kept for a rollback.
    pub revision_history_limit: u32,
    /// Labels of the workload.
    pub labels: BTreeMap<String, String>,
    /// Of a Job: its VMs run to an end, and then it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSettings>,
    /// What changes the group's size by load, on clouds that measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// What must stay healthy whatever the strategy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<Floor>,
    /// Zones that VMs run in; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Whether no zone may have two VMs more than another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balanced_zones: bool,
}

/// How a group follows its load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Fewest VMs.
    pub min: u32,
    /// Most VMs.
    pub max: u32,
    /// Processor use to keep, in percent of what the pod requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// What the pod requests, in thousandths of a processor; the whole VM when it requests nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millis: Option<u64>,
    /// Seconds after its start in which a VM's use does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_seconds: Option<u32>,
}

impl Scaling {
    /// The size nearest to `replicas` that it allows.
    pub fn within(&self, replicas: u32) -> u32 {
        replicas.max(self.min).min(self.max)
    }
}

/// What makes a group a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSettings {
    /// VMs that must succeed.
    pub completions: u32,
    /// VMs at a time.
    pub parallelism: u32,
    /// VMs that may fail.
    pub backoff_limit: u32,
    /// Seconds after which the job has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u64>,
}

/// How many VMs a refresh keeps and allows, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshBounds {
    /// At least this many VMs stay available.
    pub min_available: u32,
    /// At most this many VMs exist, those that are leaving not counted.
    pub max_total: u32,
}

impl GroupSettings {
    /// The limits of a refresh of `replicas` VMs, rounded as Kubernetes does: the surge up, the unavailable down, and
    /// when both come out as zero one VM may be missing, since otherwise nothing could ever move.
    ///
    /// Floors hold above that; where nothing may be missing, one VM more than the group's size may exist. A group that
    /// is recreated asks for a moment without VMs, which no floor can give.
    pub fn bounds(&self, replicas: u32) -> RefreshBounds {
        let bounds = self.strategy_bounds(replicas);
        let floor = self.floors.iter().map(|floor| floor.of(replicas)).max().unwrap_or(0);
        if self.strategy == Strategy::Recreate || floor <= bounds.min_available {
            return bounds;
        }
        let room = if floor == replicas { replicas.saturating_add(1) } else { replicas };
        RefreshBounds { min_available: floor, max_total: bounds.max_total.max(room) }
    }

    fn strategy_bounds(&self, replicas: u32) -> RefreshBounds {
        match self.strategy {
            Strategy::Recreate => RefreshBounds { min_available: 0, max_total: replicas },
            Strategy::RollingUpdate { max_unavailable, max_surge } => {
                let surge = max_surge.of_rounded_up(replicas);
                let unavailable = match (max_unavailable.of_rounded_down(replicas), surge) {
                    (0, 0) => 1,
                    (unavailable, _) => unavailable,
                };
                RefreshBounds {
                    min_available: replicas.saturating_sub(unavailable),
                    max_total: replicas.saturating_add(surge),
                }
            }
        }
    }
}

/// A group of VMs of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceGroup {
    /// The workload's name.
    pub name: Name,
    /// The number of VMs that it should have.
    pub replicas: u32,
    /// Strategy and so on.
    pub settings: GroupSettings,
    /// The number of the revision that the group runs, or returns to when a refresh under way fails. `None` until
    /// the first refresh starts.
    pub current: Option<u32>,
    /// The number that the next new revision gets; numbers are never used twice.
    pub next_revision: u32,
    /// Revisions that the cloud keeps, oldest first.
    pub revisions: Vec<Revision>,
    /// The VMs.
    pub instances: Vec<Instance>,
    /// The newest refresh, under way or ended.
    pub refresh: Option<Refresh>,
}

impl InstanceGroup {
    /// The revision with that number.
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.number == number)
    }

    /// The refresh, if it has not ended yet.
    pub fn active_refresh(&self) -> Option<&Refresh> {
        self.refresh.as_ref().filter(|refresh| refresh.status.is_active())
    }

    /// VMs that are neither leaving nor gone.
    pub fn members(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.state == InstanceState::Running)
    }

    /// How many members are healthy.
    pub fn healthy(&self) -> u32 {
        count(self.members().filter(|instance| instance.health == Health::Healthy))
    }

    /// Whether the group has exactly the VMs that it should have, all of revision `number` and healthy. A Job has when
    /// it is done.
    pub fn is_settled_at(&self, number: u32) -> bool {
        if self.settings.job.is_some() {
            let done = |refresh: &Refresh| {
                refresh.to == number && matches!(refresh.status, RefreshStatus::Successful)
            };
            return self.refresh.as_ref().is_some_and(done);
        }
        self.active_refresh().is_none()
            && self.current == Some(number)
            && count(self.members()) == self.replicas
            && self
                .members()
                .all(|instance| instance.revision == number && instance.health == Health::Healthy)
    }
}

/// The number of items; a fleet never has more than `u32` can count.
pub fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// One revision of a group: how its VMs are started, and why it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// 1 for the first.
    pub number: u32,
    /// How a VM of this revision is started.
    pub launch: LaunchSpec,
    /// When the revision was put.
    pub created: u64,
    /// What made it, such as `i2kit deploy -f nginx.yaml`.
    pub cause: String,
    /// When a refresh to it last succeeded; `None` for a revision that never served, which no rollback goes to unless
    /// it is named.
    pub deployed: Option<u64>,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The VM's name, unique in the environment, such as `nginx-1-7hq2k`.
    pub id: String,
    /// The revision that it was started from.
    pub revision: u32,
    /// Where it is in its life.
    pub state: InstanceState,
    /// What the balancer's health check says.
    pub health: Health,
    /// When the VM was started.
    pub since: u64,
    /// The kernel's boot id, once the guest told it: it changes when a VM is replaced and never otherwise.
    pub boot_id: Option<String>,
    /// Where the VM's ports are reached from the host, or its own address and ports where it has one.
    pub endpoints: Vec<Endpoint>,
    /// What runs the VM's instructions, where that is a matter of the machine.
    pub accelerator: Option<Accelerator>,
    /// The process that runs the VM, on the local cloud.
    pub pid: Option<u32>,
    /// The pod's containers, once the guest told of them.
    pub containers: Vec<ContainerStatus>,
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

/// What the balancer's health check says of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum Health {
    /// Not ready yet, and not late yet.
    Starting {
        /// What is missing, when something is known: the last answer of the health check.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waiting: Option<String>,
    },
    /// Ready.
    Healthy,
    /// Ended, late, or no longer ready.
    Unhealthy {
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

/// What the guest says of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name in the manifest.
    pub name: String,
    /// Whether it counts as ready.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Its state in the guest's words, such as `running` or `exited (1)`.
    pub state: String,
}

/// The replacement of a group's VMs by those of another revision, done by the cloud itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// How far it is.
    pub status: RefreshStatus,
    /// The revision that it left and returns to when it fails; `None` for the first start of a group.
    pub from: Option<u32>,
    /// The revision that it brings.
    pub to: u32,
    /// VMs of the revision `to`.
    pub updated: u32,
    /// Those of them that are healthy for long enough to count.
    pub available: u32,
    /// VMs that there should be in the end.
    pub total: u32,
    /// When it started.
    pub started: u64,
    /// Why it failed, with the VM that failed and the end of its console.
    pub reason: Option<String>,
}

impl Refresh {
    /// Whether it ended without bringing its revision.
    pub fn is_lost(&self) -> bool {
        matches!(self.status, RefreshStatus::RolledBack | RefreshStatus::Failed)
    }
}

/// How far a refresh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefreshStatus {
    /// Replacing VMs.
    InProgress,
    /// Failed, and bringing the old revision back.
    RollingBack,
    /// Every VM is of the new revision and healthy.
    Successful,
    /// Failed; every VM is of the old revision again.
    RolledBack,
    /// Failed, and there was no old revision to return to, or it did not become healthy either.
    Failed,
    /// Stopped on request; VMs of both revisions may be left.
    Cancelled,
}

impl RefreshStatus {
    /// Whether the cloud still works on it.
    pub fn is_active(self) -> bool {
        matches!(self, Self::InProgress | Self::RollingBack)
    }
}

impl fmt::Display for RefreshStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProgress => "in progress",
            Self::RollingBack => "rolling back",
            Self::Successful => "successful",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// A balancer in front of groups: what a Service becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerSpec {
    /// The Service's name.
    pub name: Name,
    /// How far it is seen.
    pub kind: ServiceType,
    /// Its ports.
    pub listeners: Vec<Listener>,
    /// Addresses that may connect; everybody who reaches it when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// Whether pods see the client's address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_client_address: bool,
    /// Seconds that connections under way get when a VM leaves: the longest grace period of its pods.
    #[serde(default = "default_drain_seconds", skip_serializing_if = "is_default_drain")]
    pub drain_seconds: u64,
    /// Of an alias: the DNS name that it stands for. It has no listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Of an Ingress: it routes requests, and has no listeners of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSpec>,
}

/// Kubernetes' default grace period.
const DEFAULT_DRAIN_SECONDS: u64 = 30;

fn default_drain_seconds() -> u64 {
    DEFAULT_DRAIN_SECONDS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_default_drain(seconds: &u64) -> bool {
    *seconds == DEFAULT_DRAIN_SECONDS
}

impl BalancerSpec {
    /// Every group that it leads to, as often as it does.
    pub fn targets(&self) -> impl Iterator<Item = &TargetGroup> {
        let backends = self.http.iter().flat_map(|http| &http.backends);
        let listeners = self.listeners.iter().flat_map(|listener| &listener.targets);
        listeners.chain(backends.flat_map(|backend| &backend.targets))
    }

    /// A balancer that everybody who reaches it may use.
    pub fn new(name: Name, kind: ServiceType, listeners: Vec<Listener>) -> Self {
        Self {
            name,
            kind,
            listeners,
            source_ranges: vec![],
            keep_client_address: false,
            drain_seconds: DEFAULT_DRAIN_SECONDS,
            external_name: None,
            http: None,
        }
    }
}

/// One port of a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The port that clients connect to.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Where connections go: a Service may select several groups, each with a port number of its own.
    pub targets: Vec<TargetGroup>,
    /// TLS that ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Listener {
    /// A port that passes connections on as they come.
    pub fn new(port: u16, protocol: Protocol, targets: Vec<TargetGroup>) -> Self {
        Self { port, protocol, targets, tls: None }
    }
}

/// A group as the target of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetGroup {
    /// The group.
    pub group: Name,
    /// The port of its VMs.
    pub port: u16,
}

/// A balancer as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// What it was asked to be.
    pub spec: BalancerSpec,
    /// The host that clients connect to: an address or a DNS name.
    pub host: String,
    /// The port that is really listened on for each listener, in the order of the spec: another one than asked for
    /// when this user may not bind that one, `None` when it could not be bound at all.
    pub bound: Vec<Option<u16>>,
    /// VMs behind it.
    pub targets: Vec<Target>,
}

impl LoadBalancer {
    /// `HOST:PORT` of each listener that is bound.
    pub fn addresses(&self) -> Vec<String> {
        self.bound.iter().flatten().map(|port| format!("{}:{port}", self.host)).collect()
    }
}

/// A VM behind a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The VM.
    pub instance: String,
    /// The port of the VM.
    pub port: u16,
    /// Whether new connections go to it.
    pub healthy: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::IntOrPercent::{Int, Percent};

    fn settings(strategy: Strategy) -> GroupSettings {
        GroupSettings {
            strategy,
            min_ready_seconds: 0,
            progress_deadline_seconds: 600,
            revision_history_limit: 10,
            labels: BTreeMap::new(),
            job: None,
            scaling: None,
            floors: vec![],
            zones: vec![],
            balanced_zones: false,
        }
    }

    fn bounds(strategy: Strategy, replicas: u32) -> (u32, u32) {
        let bounds = settings(strategy).bounds(replicas);
        (bounds.min_available, bounds.max_total)
    }

    #[test]
    fn bounds_round_as_kubernetes_does() {
        let default = Strategy::RollingUpdate { max_unavailable: Percent(25), max_surge: Percent(25) };
        assert_eq!(bounds(default, 1), (1, 2));
        assert_eq!(bounds(default, 3), (3, 4));
        assert_eq!(bounds(default, 10), (8, 13));
        assert_eq!(bounds(Strategy::Recreate, 3), (0, 3));
    }

    #[test]
    fn floors_hold_and_leave_room() {
        let strategy = Strategy::RollingUpdate { max_unavailable: Int(3), max_surge: Int(0) };
        let bounds = |floor, replicas| {
            let bounds = GroupSettings { floors: vec![floor], ..settings(strategy) }.bounds(replicas);
            (bounds.min_available, bounds.max_total)
        };
        assert_eq!(bounds(Floor::MinAvailable(Int(2)), 4), (2, 4));
        assert_eq!(bounds(Floor::MinAvailable(Int(9)), 4), (4, 5));
        assert_eq!(bounds(Floor::MinAvailable(Percent(60)), 3), (2, 3));
        assert_eq!(bounds(Floor::MaxUnavailable(Percent(30)), 5), (3, 5));
        assert_eq!(bounds(Floor::MaxUnavailable(Int(0)), 2), (2, 3));
        assert_eq!(bounds(Floor::MinAvailable(Int(1)), 0), (0, 0));
    }

    #[test]
    fn a_refresh_can_always_move() {
        let stuck = Strategy::RollingUpdate { max_unavailable: Percent(10), max_surge: Int(0) };
        assert_eq!(bounds(stuck, 3), (2, 3));
        let generous = Strategy::RollingUpdate { max_unavailable: Int(5), max_surge: Int(1) };
        assert_eq!(bounds(generous, 3), (0, 4));
    }
}
