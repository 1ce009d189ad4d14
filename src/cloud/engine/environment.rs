//! What a cloud that keeps groups itself remembers of one environment: its records, and what they tell of a VM or a group.
//! Below it, `acts` has what acts do to them, and `view` the fleet that they show.
//!
//! Pure values: the local cloud stores them in its database and acts on them with qemu, the fake cloud keeps them in
//! memory. Times by which something is decided are milliseconds of [`Steady`](super::moment::Steady); those that people read
//! are seconds since the Unix epoch.

mod acts;
mod disks;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use i2kit_spec::replica::ReplicaReport;
use i2kit_spec::{DEFAULT_GRACE_PERIOD, PodEnd};
use serde::{Deserialize, Serialize};

use super::disk_record::DiskRecord;
use super::moment::Moment;
use super::reconcile::{self, GroupMemory, MAX_MEMBERS, Member, RefreshState};
use crate::manifest::api::{Name, Protocol};
use crate::plan::act::PlannedAct;
use crate::plan::fleet::{
    Accelerator, BalancerSpec, ContainerState, Endpoint, Generation, GroupSettings, Health, InstanceId,
    InstanceState, LaunchSpec, Revision, RunMember, count,
};
use crate::plan::image::ImageId;

/// One environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// Groups by name.
    pub groups: BTreeMap<Name, GroupRecord>,
    /// Balancers by name.
    pub balancers: BTreeMap<Name, BalancerRecord>,
    /// Disks by name.
    pub disks: BTreeMap<Name, DiskRecord>,
    /// Images that it may start VMs from.
    pub images: BTreeSet<ImageId>,
    /// The newest act, and the generation after it; none before the first one.
    pub latest: Option<Applied>,
}

/// An act that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The act, with the generation before it.
    pub act: PlannedAct,
    /// The generation after it.
    pub generation: Generation,
}

/// A group, without its VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupRecord {
    /// Strategy and so on.
    pub settings: GroupSettings,
    /// The number of VMs wanted.
    pub replicas: u32,
    /// The number that the next new revision gets.
    pub next_revision: u32,
    /// Revisions, oldest first.
    pub revisions: Vec<Revision>,
    /// What the reconciler remembers.
    pub memory: GroupMemory,
    /// VMs by name; stored apart.
    #[serde(skip)]
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceRecord {
    /// Its name.
    pub id: InstanceId,
    /// The revision that it was started from.
    pub revision: u32,
    /// Its index in its StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u32>,
    /// Of a Job: the run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunMember>,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Since when.
    pub state_since: u64,
    /// When it was started.
    pub started: u64,
    /// The same in seconds since the Unix epoch, for people.
    pub created: u64,
    /// What its health check says.
    pub health: Health,
    /// Since when.
    pub health_since: u64,
    /// Whether its guest ever answered.
    pub answered: bool,
    /// Since when its guest does not answer, while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<u64>,
    /// Whether it failed, so that its reason is worth keeping.
    pub failed: bool,
    /// The kernel's boot id.
    pub boot_id: Option<String>,
    /// What runs its instructions.
    pub accelerator: Option<Accelerator>,
    /// Whether it was started from a snapshot, and did not boot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_snapshot: bool,
    /// Its address in the environment's network, given once; none where it has a network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its address of IPv6 there, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Its containers.
    pub containers: Vec<ContainerState>,
    /// What its replica says of itself, without how far it is; of a replicated group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaReport>,
}

/// A balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerRecord {
    /// What it should be.
    pub spec: BalancerSpec,
    /// Its address, given once.
    pub host: String,
}

/// What is known of a VM only while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineFacts {
    /// Whether its process runs.
    pub alive: bool,
    /// The process.
    pub pid: Option<u32>,
    /// Connections that the balancer carries to it.
    pub connections: u32,
    /// Where its ports are reached.
    pub endpoints: Vec<Endpoint>,
    /// Whether it runs no more because its pod ended well; told of Jobs.
    pub succeeded: bool,
    /// How its containers ended, when its pod did; told of Jobs.
    pub exits: Vec<(String, i32)>,
}

impl InstanceRecord {
    /// A VM that is about to be started.
    pub fn new(id: InstanceId, revision: u32, now: Moment) -> Self {
        Self {
            id,
            revision,
            ordinal: None,
            run: None,
            state: InstanceState::Running,
            state_since: now.steady,
            started: now.steady,
            created: now.wall / 1000,
            health: Health::STARTING,
            health_since: now.steady,
            answered: false,
            silent_since: None,
            failed: false,
            boot_id: None,
            accelerator: None,
            from_snapshot: false,
            address: None,
            address6: None,
            containers: Vec::new(),
            replica: None,
        }
    }

    /// Sets the state; its time only moves when it changes.
    pub fn enter(&mut self, state: InstanceState, now: u64) {
        if self.state != state {
            self.state = state;
            self.state_since = now;
        }
    }

    /// Sets the health; its time only moves when it changes in kind, not when the words of its reason do.
    pub fn set_health(&mut self, health: Health, now: u64) {
        if std::mem::discriminant(&self.health) != std::mem::discriminant(&health) {
            self.health_since = now;
        }
        self.health = health;
    }

    /// What is wrong with the VM; `ended` is why it runs no more, when it does not.
    pub fn complaint(&self, ended: Option<&str>) -> String {
        match (&self.health, ended) {
            // Told when it ended, or when it was taken out.
            (Health::Unhealthy { reason } | Health::Lost { reason }, _)
                if self.state != InstanceState::Running =>
            {
                reason.clone()
            }
            // It ended just now, and its health is of before.
            (_, Some(ended)) => ended.to_owned(),
            (health, None) => health.to_string(),
        }
    }

    /// It ended, for that reason: `end` is its guest's last word, and `names` are the containers of its plan.
    pub fn end(&mut self, reason: String, end: Option<&PodEnd>, names: &[String], now: u64) {
        self.failed = true;
        self.end_containers(end, names);
        // A VM that was taken out because it was lost keeps that reason.
        if self.state == InstanceState::Running || !matches!(self.health, Health::Lost { .. }) {
            self.set_health(Health::Unhealthy { reason }, now);
        }
        self.enter(InstanceState::Ended, now);
    }

    /// It runs no more: what its containers, those of the plan, are from now on by the guest's last word. Without one they
    /// ended with it.
    fn end_containers(&mut self, end: Option<&PodEnd>, names: &[String]) {
        let told = end.map(|end| end.containers.as_slice()).unwrap_or_default();
        for end in told.iter().filter(|end| names.contains(&end.name)) {
            let known = self.containers.iter().position(|container| container.name == end.name);
            let index = known.unwrap_or_else(|| {
                // It ended before the guest was asked for the first time.
                let (name, state) = (end.name.clone(), String::new());
                self.containers.push(ContainerState { name, ready: false, restarts: 0, state });
                self.containers.len() - 1
            });
            let container = &mut self.containers[index];
            container.state = end.ending();
            i2kit_spec::status::cut(&mut container.state);
            container.restarts = u32::try_from(end.restarts).unwrap_or(u32::MAX);
        }
        for container in &mut self.containers {
            container.ready = false;
            if end.is_none() {
                container.state = format!("ContainerStatusUnknown, last seen: {}", container.state);
            }
        }
    }

    /// Whether new connections go to it.
    pub fn serves(&self) -> bool {
        self.state == InstanceState::Running && self.health == Health::Healthy
    }
}

impl GroupRecord {
    /// The revision with that number.
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.number == number)
    }

    /// Whether nothing is under way in it: no refresh and no deletion, and each VM serves or has ended.
    pub fn is_at_rest(&self) -> bool {
        let is_refreshing = self.memory.refresh.as_ref().is_some_and(|refresh| refresh.status.is_active());
        let rests = |record: &InstanceRecord| record.serves() || record.state == InstanceState::Ended;
        !is_refreshing && !self.memory.deleting && self.instances.values().all(rests)
    }

    /// Whether something in it is due at a time, which a group at rest is to be looked at for: a run of a schedule, the end of a
    /// run, the removal of a job by its age, a VM that is missing and not started yet. A scaler, and the end of what is kept of
    /// an ended VM, may be a few seconds late.
    pub fn awaits_a_time(&self) -> bool {
        let Some(job) = &self.settings.job else {
            return count(self.instances.values().filter(|record| record.serves())) != self.replicas;
        };
        let is_active = self.memory.runs.iter().any(|run| run.status.is_active());
        is_active || self.settings.schedule.is_some() || job.ttl_seconds_after_finished.is_some()
    }

    /// What the reconciler looks at.
    pub fn view(&self, facts: &impl Fn(&str) -> MachineFacts) -> reconcile::GroupView {
        let vm = |record: &InstanceRecord| {
            let facts = facts(&record.id);
            let launch = self.revision(record.revision).map(|revision| &revision.launch);
            Member {
                id: record.id.clone(),
                revision: record.revision,
                ordinal: record.ordinal,
                state: record.state,
                state_since: record.state_since,
                alive: facts.alive,
                health: record.health.clone(),
                health_since: record.health_since,
                connections: facts.connections,
                answered: record.answered,
                grace: launch.map_or(DEFAULT_GRACE_PERIOD, |launch| launch.grace_period_seconds).millis(),
                failed: record.failed,
                run: record.run,
                succeeded: facts.succeeded,
                restarts: record
                    .containers
                    .iter()
                    .fold(0, |sum, container| sum.saturating_add(container.restarts)),
                exits: facts.exits,
            }
        };
        let mut vms: Vec<Member> = self.instances.values().map(vm).collect();
        vms.sort_by_key(|vm| self.instances.get(&vm.id).map(|record| record.started));
        reconcile::GroupView {
            settings: self.settings.clone(),
            replicas: self.replicas,
            memory: self.memory.clone(),
            with_claims: self.with_claims(),
            vms,
        }
    }

    /// The size for a refresh that was planned with `replicas`: what a scaler made of it since then is kept. A group of
    /// none is not scaled.
    fn kept_size(&self, replicas: u32) -> u32 {
        let is_scaled = self.memory.current.is_some() && self.replicas > 0 && replicas > 0;
        match &self.settings.scaling {
            Some(scaling) if is_scaled => scaling.within(self.replicas),
            _ => replicas,
        }
    }

    /// The revision that the group runs, or that the refresh under way brings or returns to.
    fn heading(&self) -> Option<u32> {
        let refresh = self.memory.refresh.as_ref().filter(|refresh| refresh.status.is_active());
        refresh.map(RefreshState::target).or(self.memory.current)
    }

    /// The most VMs that the group can have: one where they have the disk of a claim.
    pub fn most_members(&self) -> u32 {
        let with_claims = self.with_claims();
        if self.heading().is_some_and(|revision| with_claims.contains(&revision)) { 1 } else { MAX_MEMBERS }
    }

    /// Numbers of the revisions that VMs are, or are about to be, started from.
    fn wanted_revisions(&self) -> Vec<u32> {
        let refresh = self.memory.refresh.as_ref().filter(|refresh| refresh.status.is_active());
        let refresh = refresh.into_iter().flat_map(|refresh| [Some(refresh.to), refresh.from]);
        let runs = self.memory.runs.iter().filter(|run| run.status.is_active()).map(|run| Some(run.revision));
        refresh.chain([self.memory.current, self.memory.held]).chain(runs).flatten().collect()
    }
}

impl Environment {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.disks.is_empty()
    }

    /// Whether it holds nothing but disks, so that nobody need look after it.
    pub fn is_idle(&self) -> bool {
        self.groups.is_empty() && self.balancers.is_empty() && self.images.is_empty()
    }

    /// The generation of its definitions.
    pub fn generation(&self) -> Generation {
        self.latest.as_ref().map(|latest| latest.generation).unwrap_or_default()
    }

    /// Takes over what the reconciler decided for the group: its memory, the time of a revision's success, and a size that
    /// the revision which it now works towards can have.
    /// Whether anything changed.
    pub fn remember(&mut self, name: &Name, decision: &reconcile::Decision, now: Moment) -> bool {
        let Some(group) = self.groups.get_mut(name) else { return false };
        let mut changed = group.memory != decision.memory;
        group.memory = decision.memory.clone();
        for revision in group.revisions.iter_mut().filter(|found| decision.deployed.contains(&found.number)) {
            revision.deployed = Some(now.wall / 1000);
            changed = true;
        }
        // The way back from a revision without a claim may lead to one with it, whose disk one VM can have.
        if group.settings.job.is_none() && group.replicas > group.most_members() {
            group.replicas = group.most_members();
            changed = true;
        }
        changed
    }

    /// Ports of the group's VMs that must be reachable: health, declared ones, targets of balancers.
    pub fn ports(&self, group: &Name, launch: &LaunchSpec) -> Vec<(u16, Protocol)> {
        let mut ports = vec![(launch.health_port, Protocol::Tcp)];
        ports.extend(launch.ports.iter().map(|port| (port.port, port.protocol)));
        let targets = self.balancers.values().flat_map(|record| record.spec.ports());
        let own = targets.filter(|(target, _)| target.group == *group);
        ports.extend(own.map(|(target, protocol)| (target.port, protocol)));
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::ContainerEnd;

    use super::*;
    use crate::plan::fleet::Scaling;

    fn end_of(name: &str, exit_code: i32, restarts: u64) -> ContainerEnd {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        ContainerEnd { name: name.into(), exit_code, reason: reason.into(), message: String::new(), restarts }
    }

    fn status(name: &str, ready: bool, restarts: u32, state: &str) -> ContainerState {
        ContainerState { name: name.into(), ready, restarts, state: state.into() }
    }

    #[test]
    fn a_refresh_keeps_what_a_scaler_made_of_the_size() {
        let strategy = crate::manifest::api::Strategy::Recreate;
        let mut settings = crate::plan::example::settings(strategy);
        let (metrics, rules) = (vec![], crate::manifest::api::ScalingRules::default());
        settings.scaling = Some(Scaling { min: 2, max: 5, metrics, up: rules.clone(), down: rules });
        let name = Name { namespace: "default".into(), name: "web".into() };
        let mut environment = Environment::default();
        environment.put_group(&name, &settings).unwrap();
        let group = environment.groups.get_mut(&name).unwrap();
        assert_eq!(group.kept_size(3), 3, "its first start");
        (group.memory.current, group.replicas) = (Some(1), 4);
        assert_eq!((group.kept_size(2), group.kept_size(0)), (4, 0));
        group.replicas = 9;
        assert_eq!(group.kept_size(2), 5);
        group.replicas = 0;
        assert_eq!(group.kept_size(2), 2, "somebody turned the scaler off");
        (group.settings.scaling, group.replicas) = (None, 4);
        assert_eq!(group.kept_size(2), 2);
    }

    #[test]
    fn a_group_awaits_a_time_while_something_of_it_is_due_later() {
        use crate::manifest::api::{JobRules, Strategy};
        let settings = crate::plan::example::settings(Strategy::Recreate);
        let name = Name { namespace: "default".into(), name: "web".into() };
        let mut environment = Environment::default();
        environment.put_group(&name, &settings).unwrap();
        let group = environment.groups.get_mut(&name).unwrap();
        assert!(!group.awaits_a_time(), "it is to have none");
        group.replicas = 1;
        assert!(group.awaits_a_time(), "a VM is missing, and may be started later");
        let mut vm = InstanceRecord::new("web-1-a".into(), 1, Moment::default());
        vm.set_health(Health::Healthy, 1);
        group.instances.insert(vm.id.clone(), vm);
        assert!(!group.awaits_a_time());
        group.settings.job = Some(JobRules::once(1));
        assert!(!group.awaits_a_time(), "a job whose runs have ended");
        group.memory.runs.push(reconcile::Run::start(1, 1, Moment::default()));
        assert!(group.awaits_a_time(), "a run is under way");
        group.memory.runs.clear();
        group.settings.job =
            Some(JobRules { ttl_seconds_after_finished: Some(i2kit_spec::Seconds(60)), ..JobRules::once(1) });
        assert!(group.awaits_a_time(), "it is removed by its age");
    }

    #[test]
    fn a_vm_that_just_ended_is_told_by_its_end_whatever_its_health_was() {
        let end = Some("c: Error, exit code 3");
        let mut vm = InstanceRecord::new("job-1-a".into(), 1, Moment::default());
        assert_eq!(vm.complaint(None), "starting");
        assert_eq!(vm.complaint(end), "c: Error, exit code 3", "it ended before it was asked once");
        for health in [Health::Healthy, Health::Unhealthy { reason: "c: readiness probe: refused".into() }] {
            vm.set_health(health, 1);
            assert_eq!(vm.complaint(end), "c: Error, exit code 3");
        }
        vm.set_health(Health::Lost { reason: "the guest has not answered for 120 s".into() }, 2);
        vm.enter(InstanceState::Draining, 3);
        assert_eq!(vm.complaint(end), "the guest has not answered for 120 s");
        vm.end("the VM ended".into(), None, &[], 4);
        assert_eq!(vm.complaint(end), "the guest has not answered for 120 s");
    }

    #[test]
    fn containers_of_a_vm_that_ended_are_as_the_guest_told_last() {
        let names: Vec<String> = ["init", "main", "late"].map(Into::into).into();
        let mut vm = InstanceRecord::new("job-1-a".into(), 1, Moment::default());
        vm.containers = vec![
            status("init", true, 0, "Completed, exit code 0"),
            status("main", true, 1, "Running"),
            status("late", false, 0, "PodInitializing"),
        ];
        let containers = vec![end_of("init", 0, 0), end_of("main", 0, 2), end_of("forged", 0, 0)];
        let end = PodEnd { succeeded: true, containers, ..PodEnd::default() };
        let mut told = vm.clone();
        told.end_containers(Some(&end), &names);
        assert_eq!(
            told.containers,
            [
                status("init", false, 0, "Completed, exit code 0"),
                status("main", false, 2, "Completed, exit code 0"),
                status("late", false, 0, "PodInitializing"),
            ]
        );
        // It ended within its first second, before it was asked once.
        vm.containers.clear();
        let end = PodEnd { containers: vec![end_of("main", 3, 0)], ..PodEnd::default() };
        let mut fast = vm.clone();
        fast.end_containers(Some(&end), &names);
        assert_eq!(fast.containers, [status("main", false, 0, "Error, exit code 3")]);
        // Its process was killed.
        vm.containers = vec![status("main", true, 0, "Running")];
        vm.end_containers(None, &names);
        assert_eq!(vm.containers, [status("main", false, 0, "ContainerStatusUnknown, last seen: Running")]);
    }
}
