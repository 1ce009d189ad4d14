//! What the page shows of a fleet, as a value: what the verbs print as tables, in words and numbers. Pure. Whatever a
//! stranger wrote (names, reasons, messages) has its hidden characters made visible.

use i2kit_spec::replica::{ReplicaReport, Role};
use serde::Serialize;
use serde_json::Value;

use super::traffic::{self, PortTraffic};
use crate::cli::replicas::{self, Progress};
use crate::cli::{addresses, output, status};
use crate::manifest::api::Name;
use crate::plan::cloud_event;
use crate::plan::fleet::{
    CloudEvent, Disk, Fleet, Health, Instance, InstanceGroup, InstanceState, InstanceUsage, LoadBalancer,
    RefreshStatus, ResourceUsage, Revision, ScalingMetric, size,
};
use crate::plan::rollout::{GroupKind, served_before};
use crate::text;

/// The newest events that are shown.
const MAX_EVENTS: usize = 300;

/// How something is, in a word that the page has a sign for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Not as it should be.
    Warn,
    /// Without service, or lost.
    Bad,
    /// Over.
    Idle,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FleetView<'f> {
    environment: &'f str,
    groups: Vec<GroupView<'f>>,
    services: Vec<ServiceView<'f>>,
    volumes: Vec<VolumeView<'f>>,
    /// The newest first.
    events: Vec<&'f CloudEvent>,
    warnings: &'f [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupView<'f> {
    id: &'f Name,
    /// What its events call it.
    object: String,
    name: String,
    kind: &'static str,
    replicas: u32,
    healthy: u32,
    current: Option<u32>,
    tone: Tone,
    status: String,
    /// Whether it can be scaled and restarted.
    can_change: bool,
    /// The revision that a rollback leads to.
    earlier: Option<u32>,
    /// What keeps its size by load.
    scaler: Option<ScalerView>,
    /// The newest first.
    rollouts: Vec<RolloutView<'f>>,
    /// The newest first.
    runs: Vec<RunView<'f>>,
    instances: Vec<InstanceView<'f>>,
    causes: &'f [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScalerView {
    min: u32,
    max: u32,
    metrics: Vec<String>,
    failure: Option<String>,
}

/// A revision, and how far its rollout is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RolloutView<'f> {
    revision: u32,
    image: String,
    size: String,
    cause: &'f str,
    created: u64,
    deployed: Option<u64>,
    started: Option<u64>,
    tone: Tone,
    status: String,
    /// Started, available and wanted instances of a refresh.
    progress: Option<[u32; 3]>,
    reason: Option<&'f str>,
    is_current: bool,
    can_roll_back: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RunView<'f> {
    number: u32,
    revision: u32,
    tone: Tone,
    status: &'static str,
    completed: u32,
    completions: Option<u32>,
    failed: u32,
    started: u64,
    ended: Option<u64>,
    reason: Option<&'f str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InstanceView<'f> {
    id: &'f str,
    /// What its events call it.
    object: String,
    name: &'f str,
    revision: u32,
    tone: Tone,
    health: String,
    since: u64,
    changed: Option<u64>,
    address: Option<String>,
    machine: Option<String>,
    restarts: u32,
    usage: Option<ResourceUsage>,
    /// What it may use: thousandths of processors, and bytes.
    limit: Option<ResourceUsage>,
    /// Of a replicated group.
    replica: Option<ReplicaView>,
    containers: Vec<ContainerView<'f>>,
}

/// What a replica says of itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaView {
    role: &'static str,
    tone: Tone,
    term: u64,
    /// How far it is.
    #[serde(flatten)]
    progress: Progress,
    /// What is wrong with it, or what it waits for.
    note: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerView<'f> {
    name: &'f str,
    ready: bool,
    restarts: u32,
    state: &'f str,
    usage: Option<ResourceUsage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceView<'f> {
    id: &'f Name,
    name: String,
    kind: String,
    addresses: Vec<AddressView>,
    /// The groups behind it, each once.
    groups: Vec<&'f Name>,
    healthy: usize,
    targets: usize,
    tone: Tone,
    traffic: Vec<PortTraffic>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressView {
    text: String,
    /// Where a browser can open it.
    url: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VolumeView<'f> {
    name: String,
    size: String,
    used: Option<String>,
    class: Option<&'f str>,
    instance: Option<&'f str>,
    snapshots: Vec<&'f str>,
}

/// What the page shows of a fleet.
pub(super) fn of(fleet: &Fleet) -> Value {
    let events = cloud_event::of(fleet);
    let view = FleetView {
        environment: &fleet.environment,
        groups: fleet.groups.iter().map(group).collect(),
        services: fleet.balancers.iter().map(service).collect(),
        volumes: fleet.disks.iter().map(volume).collect(),
        events: events.iter().rev().take(MAX_EVENTS).collect(),
        warnings: &fleet.warnings,
    };
    visible(serde_json::to_value(view).expect("a view has only string keys"))
}

/// The value with hidden characters of its texts made visible.
fn visible(value: Value) -> Value {
    match value {
        Value::String(found) => text::visible(&found).into(),
        Value::Array(all) => all.into_iter().map(visible).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, visible(value))).collect(),
        plain => plain,
    }
}

fn group(group: &InstanceGroup) -> GroupView<'_> {
    let kind = GroupKind::of(&group.settings);
    let is_service = kind == GroupKind::Service;
    let mut rollouts: Vec<RolloutView<'_>> =
        group.revisions.iter().map(|revision| rollout(group, revision)).collect();
    rollouts.reverse();
    GroupView {
        id: &group.name,
        object: cloud_event::object(cloud_event::GROUP, &group.name),
        name: group.name.to_string(),
        kind: match kind {
            GroupKind::Service if group.settings.stateful.is_some() => "StatefulSet",
            GroupKind::Service => "Deployment",
            GroupKind::Job => "Job",
            GroupKind::CronJob => "CronJob",
        },
        replicas: group.replicas,
        healthy: group.healthy(),
        current: group.current,
        tone: group_tone(group),
        status: status::group_status(group),
        can_change: is_service && group.heading().is_some(),
        earlier: if is_service { served_before(group) } else { None },
        scaler: scaler(group),
        rollouts,
        runs: runs(group),
        instances: group.instances.iter().map(|each| instance(group, each)).collect(),
        causes: &group.causes,
    }
}

fn group_tone(group: &InstanceGroup) -> Tone {
    let refresh = group.refresh.as_ref().map(|refresh| refresh.status);
    if group.settings.job.is_some() {
        let newest = group.runs.last().map(|run| run.status);
        return newest.or(refresh).map_or(Tone::Idle, refresh_tone);
    }
    match refresh {
        Some(status) if status.is_active() => refresh_tone(status),
        _ if group.replicas == 0 => Tone::Idle,
        _ if group.healthy() == 0 => Tone::Bad,
        Some(RefreshStatus::RolledBack | RefreshStatus::Failed) => Tone::Warn,
        _ if group.healthy() < group.replicas => Tone::Warn,
        _ => Tone::Good,
    }
}

fn refresh_tone(status: RefreshStatus) -> Tone {
    match status {
        RefreshStatus::InProgress => Tone::Busy,
        RefreshStatus::RollingBack | RefreshStatus::RolledBack => Tone::Warn,
        RefreshStatus::Successful => Tone::Good,
        RefreshStatus::Failed => Tone::Bad,
        RefreshStatus::Cancelled => Tone::Idle,
    }
}

fn scaler(group: &InstanceGroup) -> Option<ScalerView> {
    let scaling = group.settings.scaling.as_ref()?;
    let found = group.scaling.as_ref();
    let metric = |(metric, value): (&ScalingMetric, Option<u64>)| {
        let value = value.map_or_else(|| "unknown".to_owned(), |value| metric.amount(value));
        format!("{metric}: {value} of {}", metric.target())
    };
    Some(ScalerView {
        min: scaling.min,
        max: scaling.max,
        metrics: group.measured().map(metric).collect(),
        failure: found.and_then(|found| found.failure.clone()),
    })
}

/// The rollout that made a revision. Of the newest refresh everything is known, of older ones when they came to their end.
fn rollout<'f>(group: &'f InstanceGroup, revision: &'f Revision) -> RolloutView<'f> {
    let refresh = group.refresh.as_ref().filter(|refresh| refresh.to == revision.number);
    let is_job = group.settings.job.is_some();
    let (tone, status) = match refresh {
        Some(refresh) if !is_job => (refresh_tone(refresh.status), refresh.status.to_string()),
        _ if group.current == Some(revision.number) => (Tone::Good, "current".to_owned()),
        _ if revision.deployed.is_some() => (Tone::Idle, "replaced".to_owned()),
        _ => (Tone::Idle, "not deployed".to_owned()),
    };
    let launch = &revision.launch;
    RolloutView {
        revision: revision.number,
        image: launch.image.0.short(),
        size: format!("{} vCPU, {} MiB", launch.vcpus, launch.memory_mib),
        cause: &revision.cause,
        created: revision.created,
        deployed: revision.deployed,
        started: refresh.map(|refresh| refresh.started),
        tone,
        status,
        progress: refresh
            .filter(|_| !is_job)
            .map(|refresh| [refresh.updated, refresh.available, refresh.total]),
        reason: refresh.and_then(|refresh| refresh.reason.as_deref()),
        is_current: group.current == Some(revision.number),
        can_roll_back: !is_job && group.heading().is_some_and(|heading| heading != revision.number),
    }
}

fn runs(group: &InstanceGroup) -> Vec<RunView<'_>> {
    let rests = group.settings.job.as_ref().is_some_and(|job| job.suspend);
    let newest_first = group.runs.iter().rev();
    let view = newest_first.map(|run| RunView {
        number: run.number,
        revision: run.revision,
        tone: refresh_tone(run.status),
        status: status::run_word(run.status, rests),
        completed: run.completed,
        completions: run.completions,
        failed: run.failed,
        started: run.started,
        ended: run.ended,
        reason: run.reason.as_deref(),
    });
    view.collect()
}

fn instance<'f>(group: &'f InstanceGroup, instance: &'f Instance) -> InstanceView<'f> {
    let launch = group.revision(instance.revision).map(|revision| &revision.launch);
    let limit = launch.map(|launch| ResourceUsage {
        cpu_millis: u64::from(launch.vcpus) * 1000,
        memory_bytes: u64::from(launch.memory_mib) << 20,
    });
    let machine = instance.accelerator.map(|accelerator| {
        let process = instance.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        format!("{accelerator}{process}{}", if instance.from_snapshot { ", from a snapshot" } else { "" })
    });
    let usage_of = |name: &str| instance.usage.as_ref().and_then(|usage| usage.containers.get(name)).copied();
    let containers = instance.containers.iter().map(|container| ContainerView {
        name: &container.name,
        ready: container.ready,
        restarts: container.restarts,
        state: &container.state,
        usage: usage_of(&container.name),
    });
    InstanceView {
        id: &instance.id,
        object: cloud_event::object(cloud_event::INSTANCE, &instance.id),
        name: instance.called(),
        revision: instance.revision,
        tone: instance_tone(instance),
        health: output::health(instance),
        since: instance.since,
        changed: instance.changed,
        address: instance.address.map(|address| address.to_string()),
        machine,
        restarts: instance.restarts(),
        usage: instance.usage.as_ref().map(InstanceUsage::pod),
        limit,
        replica: instance.replica.as_ref().map(|report| replica(report, replicas::newest_of(group))),
        containers: containers.collect(),
    }
}

/// A replica, where the newest entry that is known to be committed is `newest`.
fn replica(report: &ReplicaReport, newest: u64) -> ReplicaView {
    let tone = match report.role {
        Role::Quarantined => Tone::Bad,
        Role::Leader | Role::Follower if report.has_quorum && report.waits_for.is_none() => Tone::Good,
        Role::Starting | Role::Learner => Tone::Busy,
        Role::Leader | Role::Follower | Role::Candidate => Tone::Warn,
    };
    ReplicaView {
        role: replicas::word(report.role),
        tone,
        term: report.term,
        progress: Progress::of(report, newest),
        note: replicas::complaint(report),
    }
}

fn instance_tone(instance: &Instance) -> Tone {
    match (instance.state, &instance.health) {
        _ if instance.has_succeeded() => Tone::Good,
        (InstanceState::Ended, Health::Unhealthy { .. } | Health::Lost { .. })
        | (InstanceState::Running, Health::Lost { .. }) => Tone::Bad,
        (InstanceState::Ended | InstanceState::Stopping | InstanceState::Draining, _) => Tone::Idle,
        (InstanceState::Running, Health::Healthy) => Tone::Good,
        (InstanceState::Running, Health::Starting { .. }) => Tone::Busy,
        (InstanceState::Running, Health::Unhealthy { .. }) => Tone::Warn,
    }
}

fn service(balancer: &LoadBalancer) -> ServiceView<'_> {
    let spec = &balancer.spec;
    let mut groups: Vec<&Name> = spec.targets().map(|target| &target.group).collect();
    groups.extend(spec.headless.iter().flat_map(|headless| &headless.groups).map(|found| &found.group));
    groups.sort();
    groups.dedup();
    let healthy = balancer.healthy();
    let targets = balancer.targets.len();
    let kind = if spec.http.is_some() {
        "Ingress".to_owned()
    } else if spec.headless.is_some() {
        "headless".to_owned()
    } else {
        spec.kind.to_string()
    };
    let addresses = match &spec.external_name {
        Some(alias) => vec![AddressView { text: format!("alias of {alias}"), url: None }],
        None if spec.headless.is_some() => vec![],
        None => addresses::of(balancer, &[]).into_iter().map(address).collect(),
    };
    ServiceView {
        id: &spec.name,
        name: spec.name.to_string(),
        kind,
        addresses,
        groups,
        healthy,
        targets,
        tone: match healthy {
            _ if targets == 0 => Tone::Idle,
            0 => Tone::Bad,
            _ if healthy < targets => Tone::Warn,
            _ => Tone::Good,
        },
        traffic: traffic::of(balancer),
    }
}

fn address(text: String) -> AddressView {
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    let url = text.split(' ').next().filter(|_| is_url).map(str::to_owned);
    AddressView { text, url }
}

fn volume(disk: &Disk) -> VolumeView<'_> {
    VolumeView {
        name: disk.spec.name.to_string(),
        size: size(disk.spec.size),
        used: disk.used.map(size),
        class: disk.spec.class.as_deref(),
        instance: disk.instance.as_deref(),
        snapshots: disk.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect(),
    }
}
