//! What an environment's records look like from outside: the fleet that verbs, pages and plans read.

use std::net::IpAddr;

use i2kit_spec::replica::ReplicaReport;

use super::{Environment, GroupRecord, InstanceRecord, MachineFacts};
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::reconcile::{RefreshState, Rescale, Run};
use crate::manifest::api::{JobRules, Name};
use crate::plan::cloud_event;
use crate::plan::fleet::{
    BalancerSpec, BalancerTarget, CloudEvent, EventKind, Fleet, Instance, InstanceGroup, InstanceState,
    JobRun, LoadBalancer, Refresh, ScheduleStatus, count, member_name,
};

impl Environment {
    /// The fleet that the environment shows at the time `now`; `bound` gives the ports on which a balancer really listens.
    pub fn fleet(
        &self,
        name: &str,
        facts: &impl Fn(&str) -> MachineFacts,
        bound: &impl Fn(&Name) -> Vec<Option<u16>>,
        now: Moment,
    ) -> Fleet {
        Fleet {
            half_deleted: vec![],
            warnings: vec![],
            leftovers: vec![],
            environment: name.to_owned(),
            generation: self.generation(),
            groups: self.groups.iter().map(|(name, group)| show_group(name, group, facts, now)).collect(),
            balancers: self
                .balancers
                .values()
                .map(|record| LoadBalancer {
                    spec: record.spec.clone(),
                    host: record.host.clone(),
                    bound: bound(&record.spec.name),
                    targets: self.targets(&record.spec),
                    certificates: vec![],
                    traffic: Vec::new(),
                    requests: Vec::new(),
                })
                .collect(),
            disks: self.show_disks(facts),
            images: self.images.iter().copied().collect(),
        }
    }

    fn targets(&self, spec: &BalancerSpec) -> Vec<BalancerTarget> {
        let mut targets: Vec<BalancerTarget> = spec
            .targets()
            .filter_map(|target| Some((self.groups.get(&target.group)?, target.port)))
            .flat_map(|(group, port)| group.instances.values().map(move |instance| (instance, port)))
            .filter(|(instance, _)| instance.state == InstanceState::Running)
            .map(|(instance, port)| BalancerTarget {
                instance: instance.id.clone(),
                port,
                healthy: instance.serves(),
            })
            .collect();
        targets.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
        targets.dedup();
        targets
    }
}

fn show_group(
    name: &Name,
    group: &GroupRecord,
    facts: &impl Fn(&str) -> MachineFacts,
    now: Moment,
) -> InstanceGroup {
    let mut instances: Vec<&InstanceRecord> = group.instances.values().collect();
    instances.sort_by_key(|record| (record.started, &record.id));
    InstanceGroup {
        name: name.clone(),
        replicas: group.replicas,
        settings: group.settings.clone(),
        current: group.memory.current,
        held: group.memory.held,
        next_revision: group.next_revision,
        revisions: group.revisions.clone(),
        instances: instances
            .into_iter()
            .map(|record| show_instance(name, record, facts(&record.id), now))
            .collect(),
        refresh: match (&group.settings.job, group.memory.runs.last()) {
            // Its runs are its own, and none of them brings the group to another revision.
            _ if group.settings.schedule.is_some() => None,
            (Some(job), newest) => newest.map(|run| show_progress(group, job, run)),
            (None, _) => {
                group.memory.refresh.as_ref().map(|refresh| show_refresh(group, refresh, now.steady))
            }
        },
        runs: group.memory.runs.iter().map(|run| show_run(group, run)).collect(),
        schedule: show_schedule(group, now.wall),
        scaling: None,
        events: events(name, group),
        causes: vec![],
    }
}

fn show_instance(group: &Name, record: &InstanceRecord, facts: MachineFacts, now: Moment) -> Instance {
    let changed = match record.state {
        InstanceState::Running => record.health_since,
        _ => record.state_since,
    };
    Instance {
        id: record.id.clone(),
        name: record.ordinal.map(|ordinal| member_name(group, ordinal)),
        ordinal: record.ordinal,
        revision: record.revision,
        run: record.run,
        state: record.state,
        health: record.health.clone(),
        since: record.created,
        changed: Some(
            (now.wall.saturating_sub(now.steady.saturating_sub(changed)) / 1000).max(record.created),
        ),
        boot_id: record.boot_id.clone(),
        address: record.address.map(IpAddr::V4),
        address6: record.address6,
        endpoints: facts.endpoints,
        accelerator: record.accelerator,
        from_snapshot: record.from_snapshot,
        pid: facts.pid,
        containers: record.containers.clone(),
        replica: show_replica(record),
        silent: record.silent_since.is_some(),
        usage: None,
    }
}

/// What a replica said last, while its machine runs and answers: what a silent one said may be no more so.
fn show_replica(record: &InstanceRecord) -> Option<ReplicaReport> {
    let is_heard = record.state == InstanceState::Running && record.silent_since.is_none();
    record.replica.clone().filter(|_| is_heard)
}

/// What the group did by itself: its scaler's changes, and what became of its replicas.
fn events(name: &Name, group: &GroupRecord) -> Vec<CloudEvent> {
    let scaled = group.memory.rescales.iter().map(|rescale| show_rescale(name, rescale));
    scaled.chain(group.memory.replicas.events.iter().cloned()).collect()
}

/// What a scaler did, in the words of Kubernetes' controller.
fn show_rescale(group: &Name, rescale: &Rescale) -> CloudEvent {
    CloudEvent {
        time: rescale.created,
        kind: EventKind::Normal,
        reason: "SuccessfulRescale".into(),
        object: cloud_event::object(cloud_event::GROUP, group),
        message: rescale.to_string(),
    }
}

/// VMs of a run that run.
fn active(group: &GroupRecord, run: &Run) -> u32 {
    let of_run = |record: &&InstanceRecord| record.run.is_some_and(|member| member.number == run.number);
    count(group.instances.values().filter(of_run).filter(|record| record.state == InstanceState::Running))
}

/// The times of a CronJob's schedule.
fn show_schedule(group: &GroupRecord, wall: u64) -> Option<ScheduleStatus> {
    let rules = group.settings.schedule.as_ref()?;
    let memory = group.memory.schedule.as_ref();
    let next = match memory {
        Some(memory) => memory.next(wall),
        None => rules.schedule.next(wall),
    };
    Some(ScheduleStatus {
        last: memory.and_then(|memory| memory.last).map(|last| last / 1000),
        next: next.filter(|_| !rules.suspend).map(|next| next / 1000),
        notice: memory.and_then(|memory| memory.noticed.as_ref()).map(|(_, notice)| notice.clone()),
    })
}

fn show_run(group: &GroupRecord, run: &Run) -> JobRun {
    JobRun {
        number: run.number,
        revision: run.revision,
        status: run.status,
        completed: run.completed,
        failed: run.failures,
        started: run.created,
        ended: run.ended,
        scheduled: run.scheduled.map(|time| time / 1000),
        active: active(group, run),
        completions: run.rules.as_ref().or(group.settings.job.as_ref()).and_then(|job| job.completions),
        completed_indexes: run.completed_indexes.clone(),
        failed_indexes: run.failed_indexes.clone(),
        reason: run.reason.clone(),
    }
}

/// How far a run is, as a refresh shows it.
fn show_progress(group: &GroupRecord, job: &JobRules, run: &Run) -> Refresh {
    Refresh {
        status: run.status,
        from: None,
        to: run.revision,
        updated: active(group, run),
        available: run.completed,
        total: job.completions.unwrap_or(1),
        started: run.created,
        reason: run.reason.clone(),
    }
}

fn show_refresh(group: &GroupRecord, refresh: &RefreshState, now: u64) -> Refresh {
    let target = refresh.target();
    let min_ready = group.settings.min_ready_seconds.millis();
    let new =
        || group.instances.values().filter(|r| r.revision == target && r.state == InstanceState::Running);
    Refresh {
        status: refresh.status,
        from: refresh.from,
        to: refresh.to,
        updated: count(new()),
        available: count(new().filter(|r| r.serves() && now >= min_ready.after(r.health_since))),
        total: group.replicas,
        started: refresh.created,
        reason: refresh.reason.clone(),
    }
}
