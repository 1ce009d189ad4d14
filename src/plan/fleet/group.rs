//! Groups: what they should be, their VMs and revisions.

use std::collections::BTreeMap;
use std::fmt;

use i2kit_spec::{Millis, Seconds};
use serde::{Deserialize, Serialize};

use super::disk::StatefulSettings;
use super::event::CloudEvent;
use super::instance::{Health, Instance, InstanceState};
use super::launch::LaunchSpec;
use super::policy::GroupPolicy;
use super::refresh::{Refresh, RefreshStatus};
use super::run::JobRun;
use super::schedule::ScheduleStatus;
use crate::manifest::api::{
    CronRules, Floor, JobRules, Metric, MetricTarget, Name, Resource, ScalingRules, Strategy,
};

/// What a group has beside its size and its revisions; changing it replaces no VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSettings {
    /// How many VMs may be missing or in excess during a refresh.
    pub strategy: Strategy,
    /// Time that a new VM must stay healthy before it counts as available.
    pub min_ready_seconds: Seconds,
    /// Time without progress after which a refresh is rolled back.
    pub progress_deadline_seconds: Seconds,
    /// Old revisions that are kept for a rollback.
    pub revision_history_limit: u32,
    /// Labels of the workload.
    pub labels: BTreeMap<String, String>,
    /// Of a Job: its VMs run to an end, and then it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobRules>,
    /// Of a CronJob: when its Job is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CronRules>,
    /// Of a StatefulSet: its VMs have an index, a name and disks each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful: Option<StatefulSettings>,
    /// What changes the group's size by load, on clouds that measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// What its VMs may be reached by, and what they may reach; everything without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<GroupPolicy>>,
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
    /// What is measured. A cloud may keep settings that an earlier version wrote in another form: then none.
    #[serde(default)]
    pub metrics: Vec<ScalingMetric>,
    /// How fast it follows a load that grows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub up: ScalingRules,
    /// How fast it follows a load that falls.
    #[serde(default, skip_serializing_if = "is_default")]
    pub down: ScalingRules,
}

/// A metric with what it is measured against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingMetric {
    /// What is measured.
    #[serde(flatten)]
    pub metric: Metric,
    /// What the pod, or the one container, requests in the resource's unit, for clouds that measure whole VMs: the whole VM
    /// when it requests nothing. Clouds that measure containers take the request of each VM's own revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
}

/// How far a scaler is: what it found when it looked last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// The use found of each of [`Scaling::metrics`]: in percent of the request where the target is, else per pod in the
    /// resource's unit. `None` where nothing was measured.
    pub current: Vec<Option<u64>>,
    /// Why the size could not be computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// For `skip_serializing_if`.
fn is_default(rules: &ScalingRules) -> bool {
    *rules == ScalingRules::default()
}

impl Scaling {
    /// The size nearest to `replicas` that it allows.
    pub fn within(&self, replicas: u32) -> u32 {
        replicas.max(self.min).min(self.max)
    }

    /// Whether it may have given a group this size.
    pub fn allows(&self, replicas: u32) -> bool {
        self.within(replicas) == replicas
    }

    /// The same for a group that can have so many VMs at most.
    #[must_use]
    pub fn at_most(&self, most: u32) -> Self {
        Self { min: self.min.min(most), max: self.max.min(most), ..self.clone() }
    }

    /// The share of the pod's processor request that is to be kept, in percent, with the request in thousandths of a
    /// processor; for clouds that measure nothing else.
    pub fn pod_cpu(&self) -> Option<(u32, Option<u64>)> {
        self.metrics.iter().find_map(|found| match (&found.metric, found.request) {
            (
                Metric {
                    resource: Resource::Cpu,
                    container: None,
                    target: MetricTarget::Utilization(percent),
                },
                request,
            ) => Some((*percent, request)),
            _ => None,
        })
    }
}

/// The metric as `kubectl get hpa` names it, such as `cpu` or `cpu of web`, with its target.
impl fmt::Display for ScalingMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let container = self.metric.container.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
        write!(f, "{}{container}", self.metric.resource)
    }
}

impl ScalingMetric {
    /// A use of it, or its target, in words such as `80 %`, `250m` or `64Mi`.
    pub fn amount(&self, value: u64) -> String {
        match (self.metric.target, self.metric.resource) {
            (MetricTarget::Utilization(_), _) => format!("{value} %"),
            (MetricTarget::AverageValue(_), Resource::Cpu) => format!("{value}m"),
            (MetricTarget::AverageValue(_), Resource::Memory) => format!("{}Mi", value >> 20),
        }
    }

    /// The target in words.
    pub fn target(&self) -> String {
        self.amount(match self.metric.target {
            MetricTarget::Utilization(percent) => u64::from(percent),
            MetricTarget::AverageValue(value) => value,
        })
    }
}

/// How many VMs a refresh keeps and allows, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshBounds {
    /// At least this many VMs stay available.
    pub min_available: u32,
    /// At most this many VMs exist, those that are leaving not counted.
    pub max_total: u32,
}

/// How long the guest of a Job's VM may take until it first answers: a Job has no deadline for its progress, and this is
/// the one that Kubernetes gives Deployments.
const JOB_BOOT: Seconds = Seconds(600);

impl GroupSettings {
    /// Settings of a group that is no Job, scales by hand and runs in any zone.
    pub fn new(strategy: Strategy, progress_deadline: Seconds, revision_history_limit: u32) -> Self {
        Self {
            strategy,
            min_ready_seconds: Seconds(0),
            progress_deadline_seconds: progress_deadline,
            revision_history_limit,
            labels: BTreeMap::new(),
            job: None,
            stateful: None,
            schedule: None,
            scaling: None,
            policy: None,
            floors: vec![],
            zones: vec![],
            balanced_zones: false,
        }
    }

    /// Whether the group is removed some time after its end. Of a CronJob only runs are.
    pub fn expires(&self) -> bool {
        self.schedule.is_none()
            && self.job.as_ref().is_some_and(|job| job.ttl_seconds_after_finished.is_some())
    }

    /// How long a guest may take until it first answers. The group's deadline for progress is the only bound of a start.
    pub fn boot_limit(&self) -> Millis {
        if self.job.is_some() { JOB_BOOT.millis() } else { self.progress_deadline_seconds.millis() }
    }

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

    /// The most VMs that there may be at once of a group of that size: what the scaler may make of it, and what a refresh adds to
    /// that.
    pub fn most_machines(&self, replicas: u32) -> u32 {
        let most = self.scaling.as_ref().map_or(replicas, |scaling| scaling.max.max(replicas));
        self.bounds(most).max_total
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
    /// Of a StatefulSet with a partition: the revision of the members below it, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
    /// The number that the next new revision gets; numbers are never used twice.
    pub next_revision: u32,
    /// Revisions that the cloud keeps, oldest first.
    pub revisions: Vec<Revision>,
    /// The VMs.
    pub instances: Vec<Instance>,
    /// The newest refresh, under way or ended. Of a Job it shows how far the newest run is.
    pub refresh: Option<Refresh>,
    /// Runs of a Job, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<JobRun>,
    /// Of a CronJob: its last and its next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleStatus>,
    /// What its scaler found last, on clouds whose own it is; changes without end, and so is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// What the cloud did to the group by itself; reported only in a detailed observation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<CloudEvent>,
    /// Why its VMs do not become healthy, beyond their own health; reported only in a detailed observation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl InstanceGroup {
    /// A group that was just put: no revision, no VM.
    pub fn new(name: Name, settings: GroupSettings) -> Self {
        Self {
            name,
            replicas: 0,
            settings,
            current: None,
            held: None,
            next_revision: 1,
            revisions: Vec::new(),
            instances: Vec::new(),
            refresh: None,
            runs: Vec::new(),
            schedule: None,
            scaling: None,
            events: Vec::new(),
            causes: Vec::new(),
        }
    }

    /// The revision with that number.
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.number == number)
    }

    /// The refresh, if it has not ended yet.
    pub fn active_refresh(&self) -> Option<&Refresh> {
        self.refresh.as_ref().filter(|refresh| refresh.status.is_active())
    }

    /// The revision that the group runs, or that the refresh under way brings or returns to.
    pub fn heading(&self) -> Option<u32> {
        let refresh = self.active_refresh();
        refresh.map(|refresh| refresh.status.target(refresh.from, refresh.to)).or(self.current)
    }

    /// VMs that are neither leaving nor gone.
    pub fn members(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.state == InstanceState::Running)
    }

    /// How many members are healthy.
    pub fn healthy(&self) -> u32 {
        count(self.members().filter(|instance| instance.health == Health::Healthy))
    }

    /// What its scaler goes by, each with its newest value where there is one.
    pub fn measured(&self) -> impl Iterator<Item = (&ScalingMetric, Option<u64>)> {
        let metrics = self.settings.scaling.iter().flat_map(|scaling| &scaling.metrics);
        let current = self.scaling.iter().flat_map(|status| status.current.iter().copied());
        metrics.zip(current.chain(std::iter::repeat(None)))
    }

    /// What is wrong with the members that are not healthy, in one line.
    pub fn complaints(&self) -> String {
        let lines: Vec<String> = self
            .members()
            .filter(|instance| instance.health != Health::Healthy)
            .map(|instance| format!("{} is {}", instance.id, instance.health))
            .collect();
        if lines.is_empty() { "VMs are missing".to_owned() } else { lines.join("; ") }
    }

    /// Whether the group has exactly the VMs that it should have, all of revision `number` and healthy. A Job has when
    /// it is done or rests, and a CronJob when its runs are of that revision from now on.
    pub fn is_settled_at(&self, number: u32) -> bool {
        if self.settings.schedule.is_some() {
            return self.current == Some(number);
        }
        if let Some(job) = &self.settings.job {
            let newest = self.runs.last().filter(|run| run.revision == number);
            return newest.is_some_and(|run| {
                run.status == RefreshStatus::Successful || (job.rests() && run.status.is_active())
            });
        }
        self.active_refresh().is_none()
            && self.current == Some(number)
            && count(self.members()) == self.replicas
            && self
                .members()
                .all(|instance| self.may_run(instance, number) && instance.health == Health::Healthy)
    }

    /// Whether a group that is at revision `number` leaves the VM as it is: it runs that revision, or its index is below
    /// the partition.
    pub fn may_run(&self, instance: &Instance, number: u32) -> bool {
        let partition = self.settings.stateful.as_ref().map_or(0, |stateful| stateful.partition);
        instance.revision == number || instance.ordinal.is_some_and(|ordinal| ordinal < partition)
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
    /// When a refresh to it last succeeded; `None` for a revision that never served, which is the target of no rollback unless
    /// it is named.
    pub deployed: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::IntOrPercent::{Int, Percent};
    use crate::plan::example::settings;

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
    fn the_most_machines_are_those_of_the_scaler_and_of_a_refresh() {
        let quarter = Strategy::RollingUpdate { max_unavailable: Int(0), max_surge: Percent(25) };
        let mut settings = settings(quarter);
        assert_eq!((settings.most_machines(10), settings.most_machines(0)), (13, 0));
        let scaling = |max| Scaling {
            min: 1,
            max,
            metrics: vec![],
            up: ScalingRules::default(),
            down: ScalingRules::default(),
        };
        settings.scaling = Some(scaling(100));
        assert_eq!(settings.most_machines(10), 125);
        // Somebody scaled it by hand.
        settings.scaling = Some(scaling(4));
        assert_eq!(settings.most_machines(10), 13);
        // A floor that leaves no machine missing has one more.
        settings.strategy = Strategy::RollingUpdate { max_unavailable: Int(1), max_surge: Int(0) };
        settings.floors = vec![Floor::MaxUnavailable(Int(0))];
        assert_eq!(settings.most_machines(10), 11);
    }

    #[test]
    fn a_refresh_can_always_move() {
        let stuck = Strategy::RollingUpdate { max_unavailable: Percent(10), max_surge: Int(0) };
        assert_eq!(bounds(stuck, 3), (2, 3));
        let generous = Strategy::RollingUpdate { max_unavailable: Int(5), max_surge: Int(1) };
        assert_eq!(bounds(generous, 3), (0, 4));
    }
}
