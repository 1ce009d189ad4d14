//! What a cloud that keeps groups itself remembers of one environment, and what acts do to it.
//!
//! Pure values: the local cloud stores them in its database and acts on them with qemu, the fake cloud keeps them in
//! memory. Times by which something is decided are milliseconds of [`Steady`](super::moment::Steady); those that people read
//! are seconds since the Unix epoch.

mod view;

use std::collections::{BTreeMap, BTreeSet};

use i2kit_spec::{DEFAULT_GRACE_PERIOD, PodEnd};
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::reconcile::{self, MAX_MEMBERS, Member, Memory, RUNS_KEPT, RefreshState, Run};
use crate::cloud::CloudError;
use crate::manifest::api::{Name, Protocol};
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::fleet::{
    Accelerator, BalancerSpec, ContainerStatus, Endpoint, Generation, GroupSettings, Health, InstanceState,
    LaunchSpec, RefreshStatus, Revision, RunMember,
};
use crate::plan::image::ImageId;

/// How long a job whose run has ended is kept at least after an act that a deployment begins with: the acts that start its
/// next run follow within moments.
const KEPT_FOR_A_RUN_MS: u64 = 30_000;

/// One environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// Groups by name.
    pub groups: BTreeMap<Name, GroupRecord>,
    /// Balancers by name.
    pub balancers: BTreeMap<Name, BalancerRecord>,
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
    pub memory: Memory,
    /// VMs by name; stored apart.
    #[serde(skip)]
    pub instances: BTreeMap<String, InstanceRecord>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceRecord {
    /// Its name.
    pub id: String,
    /// The revision that it was started from.
    pub revision: u32,
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
    /// Its containers.
    pub containers: Vec<ContainerStatus>,
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
    pub fn new(id: String, revision: u32, now: Moment) -> Self {
        Self {
            id,
            revision,
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
            containers: Vec::new(),
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
                self.containers.push(ContainerStatus { name, ready: false, restarts: 0, state });
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

    /// What the reconciler looks at.
    pub fn view(&self, facts: &impl Fn(&str) -> MachineFacts) -> reconcile::GroupView {
        let vm = |record: &InstanceRecord| {
            let facts = facts(&record.id);
            let launch = self.revision(record.revision).map(|revision| &revision.launch);
            Member {
                id: record.id.clone(),
                revision: record.revision,
                state: record.state,
                state_since: record.state_since,
                alive: facts.alive,
                health: record.health.clone(),
                health_since: record.health_since,
                connections: facts.connections,
                answered: record.answered,
                grace_ms: launch
                    .map_or(DEFAULT_GRACE_PERIOD, |launch| launch.grace_period_seconds)
                    .millis()
                    .0,
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
            vms,
        }
    }

    /// Numbers of the revisions that VMs are, or are about to be, started from.
    fn wanted_revisions(&self) -> Vec<u32> {
        let refresh = self.memory.refresh.as_ref().filter(|refresh| refresh.status.is_active());
        let refresh = refresh.into_iter().flat_map(|refresh| [Some(refresh.to), refresh.from]);
        let runs = self.memory.runs.iter().filter(|run| run.status.is_active()).map(|run| Some(run.revision));
        refresh.chain([self.memory.current]).chain(runs).flatten().collect()
    }

    /// Starts a run of a job, or adopts the active one of the same revision.
    fn start_run(&mut self, name: &Name, revision: u32, now: Moment) -> Result<(), CloudError> {
        if let Some(active) = self.memory.runs.iter().rfind(|run| run.status.is_active()) {
            if active.revision == revision {
                return Ok(());
            }
            return Err(active_run(name, active));
        }
        self.push_run(revision, now);
        Ok(())
    }

    /// Starts a run that somebody asked for. Those of a CronJob go on side by side.
    fn start_extra_run(&mut self, name: &Name, revision: u32, now: Moment) -> Result<(), CloudError> {
        let active = self.memory.runs.iter().rfind(|run| run.status.is_active());
        if let Some(active) = active.filter(|_| self.settings.schedule.is_none()) {
            return Err(active_run(name, active));
        }
        self.push_run(revision, now);
        Ok(())
    }

    fn push_run(&mut self, revision: u32, now: Moment) {
        let memory = &mut self.memory;
        memory.last_run = memory.last_run.saturating_add(1);
        let rules = self.settings.job.clone().filter(|_| self.settings.schedule.is_some());
        memory.runs.push(Run { rules, ..Run::start(memory.last_run, revision, now) });
        memory.kept_until = 0;
        if self.settings.schedule.is_none() {
            let surplus = memory.runs.len().saturating_sub(RUNS_KEPT);
            memory.runs.drain(..surplus);
        }
        // A refresh is of when the group was no job.
        memory.refresh = None;
        memory.current.get_or_insert(revision);
    }

    /// The group is a CronJob no longer: its runs end, and what it becomes begins anew.
    fn end_schedule(&mut self) {
        self.memory.schedule = None;
        for run in self.memory.runs.iter_mut().filter(|run| run.status.is_active()) {
            run.status = RefreshStatus::Cancelled;
            run.reason = Some("a deployment made another kind of the CronJob".to_owned());
        }
    }

    /// From now on the runs of a CronJob are of this revision; those under way go on as they are.
    fn follow_schedule(&mut self, revision: u32, now: Moment) {
        self.memory.refresh = None;
        self.memory.current = Some(revision);
        if let Some(found) = self.revisions.iter_mut().find(|found| found.number == revision) {
            found.deployed = Some(now.wall / 1000);
        }
    }
}

/// The refusal of a run beside one that is active.
fn active_run(name: &Name, active: &Run) -> CloudError {
    let message = format!("a run of {name} at revision {} is {}", active.revision, active.status);
    CloudError::Conflict { message }
}

/// Refuses a size that no host can have: each VM is a record, a folder and a process.
fn bounded(group: &Name, replicas: u32) -> Result<(), CloudError> {
    if replicas <= MAX_MEMBERS {
        return Ok(());
    }
    let message = format!("{group} would have {replicas} VMs, and a group has at most {MAX_MEMBERS}");
    Err(CloudError::Conflict { message })
}

impl Environment {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.balancers.is_empty() && self.images.is_empty()
    }

    /// The generation of its definitions.
    pub fn generation(&self) -> Generation {
        self.latest.as_ref().map(|latest| latest.generation).unwrap_or_default()
    }

    /// The generation after `planned`, if that is the newest act already: its answer was lost, and it was sent again.
    pub fn applied(&self, planned: &PlannedAct) -> Option<Generation> {
        let latest = self.latest.as_ref().filter(|latest| {
            (&latest.act.act, latest.act.generation) == (&planned.act, planned.generation)
        })?;
        Some(latest.generation)
    }

    /// Whether `planned` may be applied: its generation is that of the environment.
    ///
    /// # Errors
    /// [`CloudError::Outdated`], which names the newest act and who applied it.
    pub fn admit(&self, planned: &PlannedAct) -> Result<(), CloudError> {
        if planned.generation == self.generation() {
            return Ok(());
        }
        let message = match &self.latest {
            Some(Applied { act: PlannedAct { act, by, .. }, .. }) => {
                format!("the environment was changed since this was planned: {by} did \"{act}\"")
            }
            None => "the environment was destroyed since this was planned".to_owned(),
        };
        Err(CloudError::Outdated { message })
    }

    /// Applies an act at the time `now`; `host` gives the address of a balancer that is new. Of a group that is to be
    /// deleted the VMs end later, and the group goes with the last of them.
    ///
    /// # Errors
    /// See [`Self::admit`]. After an error the environment may be changed in part: the caller keeps a copy.
    pub fn apply(
        &mut self,
        planned: &PlannedAct,
        now: Moment,
        host: impl FnOnce() -> String,
    ) -> Result<Generation, CloudError> {
        if let Some(generation) = self.applied(planned) {
            return Ok(generation);
        }
        // What an environment that is gone held is deleted.
        if planned.act == Act::Release || (planned.act.is_deletion() && self.is_empty()) {
            return Ok(self.generation());
        }
        self.admit(planned)?;
        match &planned.act {
            Act::PutImage { image } => drop(self.images.insert(*image)),
            Act::PutBalancer { spec } => self.put_balancer(spec, host),
            Act::PutGroup { group, settings } => {
                self.put_group(group, settings)?;
                self.keep_for_a_run(group, now);
            }
            Act::PutRevision { group, revision } => {
                self.put_revision(group, revision, now)?;
                self.keep_for_a_run(group, now);
            }
            Act::CancelRefresh { group, to } => self.cancel_refresh(group, *to)?,
            Act::StartRefresh { group, to, replicas } => self.start_refresh(group, *to, *replicas, now)?,
            Act::StartRun { group, revision } => self.start_run(group, *revision, now)?,
            Act::Scale { group, replicas } => self.set_replicas(group, *replicas)?,
            Act::DeleteRevisions { group, revisions } => self.delete_revisions(group, revisions)?,
            Act::DeleteGroup { group } => self.delete_group(group),
            Act::DeleteBalancer { balancer } => drop(self.balancers.remove(balancer)),
            Act::DeleteImages { images } => self.delete_images(images)?,
            Act::DeleteLeftovers { .. } | Act::Release => {}
        }
        let generation = planned.generation.next(now.wall);
        self.latest = Some(Applied { act: planned.clone(), generation });
        Ok(generation)
    }

    /// The group, or an error that names it.
    fn group_mut(&mut self, name: &Name) -> Result<&mut GroupRecord, CloudError> {
        match self.groups.get_mut(name) {
            Some(group) if !group.memory.deleting => Ok(group),
            Some(_) => Err(CloudError::Conflict { message: format!("group {name} is being deleted") }),
            None => Err(CloudError::not_found("group", name)),
        }
    }

    /// Makes the group exist with these settings.
    pub(in crate::cloud::engine) fn put_group(
        &mut self,
        name: &Name,
        settings: &GroupSettings,
    ) -> Result<(), CloudError> {
        if self.groups.contains_key(name) {
            let group = self.group_mut(name)?;
            if group.settings.schedule.is_some() && settings.schedule.is_none() {
                group.end_schedule();
            }
            group.settings = settings.clone();
            return Ok(());
        }
        let group = GroupRecord {
            settings: settings.clone(),
            replicas: 0,
            next_revision: 1,
            revisions: Vec::new(),
            memory: Memory::default(),
            instances: BTreeMap::new(),
        };
        self.groups.insert(name.clone(), group);
        Ok(())
    }

    /// Keeps a job whose run has ended for the run that the acts after this one start, whatever its age.
    fn keep_for_a_run(&mut self, name: &Name, now: Moment) {
        let Some(group) = self.groups.get_mut(name) else { return };
        if group.memory.runs.last().is_some_and(|run| !run.status.is_active()) {
            group.memory.kept_until = now.steady.saturating_add(KEPT_FOR_A_RUN_MS);
        }
    }

    /// Adds a revision.
    pub(in crate::cloud::engine) fn put_revision(
        &mut self,
        name: &Name,
        new: &NewRevision,
        now: Moment,
    ) -> Result<(), CloudError> {
        if !self.images.contains(&new.launch.image) {
            return Err(CloudError::not_found("image", &new.launch.image));
        }
        let group = self.group_mut(name)?;
        if let Some(found) = group.revision(new.number) {
            return if found.launch == new.launch {
                Ok(())
            } else {
                Err(CloudError::Conflict { message: format!("{name} has another revision {}", new.number) })
            };
        }
        if new.number != group.next_revision {
            return Err(CloudError::Conflict {
                message: format!(
                    "the next revision of {name} is {}, not {}",
                    group.next_revision, new.number
                ),
            });
        }
        group.next_revision += 1;
        group.revisions.push(Revision {
            number: new.number,
            launch: new.launch.clone(),
            created: now.wall / 1000,
            cause: new.cause.clone(),
            deployed: None,
        });
        Ok(())
    }

    /// Forgets revisions.
    pub(in crate::cloud::engine) fn delete_revisions(
        &mut self,
        name: &Name,
        numbers: &[u32],
    ) -> Result<(), CloudError> {
        // A Job that was removed by its age took them along.
        if self.groups.get(name).is_none_or(|group| group.memory.deleting) {
            return Ok(());
        }
        let group = self.group_mut(name)?;
        let wanted = group.wanted_revisions();
        if let Some(number) = numbers.iter().find(|number| wanted.contains(number)) {
            return Err(CloudError::InUse {
                what: format!("revision {number}"),
                user: format!("group {name}"),
            });
        }
        group.revisions.retain(|revision| !numbers.contains(&revision.number));
        Ok(())
    }

    /// Sets the size and starts a refresh, or adopts the active one to the same revision. It leaves, and may return to, the
    /// current revision if that one ever served; one that never did is no way back, and is given up for the new one.
    pub(in crate::cloud::engine) fn start_refresh(
        &mut self,
        name: &Name,
        to: u32,
        replicas: u32,
        now: Moment,
    ) -> Result<(), CloudError> {
        bounded(name, replicas)?;
        let group = self.group_mut(name)?;
        if group.revision(to).is_none() {
            return Err(CloudError::not_found(format!("revision {to} of"), name));
        }
        if group.settings.job.is_some() {
            group.replicas = replicas;
            if group.settings.schedule.is_some() {
                group.follow_schedule(to, now);
                return Ok(());
            }
            return group.start_run(name, to, now);
        }
        if let Some(active) = group.memory.refresh.as_ref().filter(|refresh| refresh.status.is_active()) {
            if active.status == RefreshStatus::InProgress && active.to == to {
                group.replicas = replicas;
                return Ok(());
            }
            return Err(CloudError::Conflict {
                message: format!("a refresh of {name} to revision {} is {}", active.to, active.status),
            });
        }
        let served = |number: &u32| group.revision(*number).is_some_and(|found| found.deployed.is_some());
        let from = group.memory.current.filter(served);
        group.replicas = replicas;
        group.memory.refresh = Some(RefreshState::start(from, to, now));
        group.memory.failures = 0;
        group.memory.runs.clear();
        group.memory.not_before = now.steady;
        if from.is_none() {
            group.memory.current = Some(to);
        }
        Ok(())
    }

    /// Starts a run of a Job, or of a CronJob's Job.
    pub(in crate::cloud::engine) fn start_run(
        &mut self,
        name: &Name,
        revision: u32,
        now: Moment,
    ) -> Result<(), CloudError> {
        let group = self.group_mut(name)?;
        if group.settings.job.is_none() {
            return Err(CloudError::Conflict { message: format!("{name} is no Job") });
        }
        if group.revision(revision).is_none() {
            return Err(CloudError::not_found(format!("revision {revision} of"), name));
        }
        group.start_extra_run(name, revision, now)
    }

    /// Stops the refresh to revision `to`, if it is active.
    pub(in crate::cloud::engine) fn cancel_refresh(
        &mut self,
        name: &Name,
        to: u32,
    ) -> Result<(), CloudError> {
        let group = self.group_mut(name)?;
        let memory = &mut group.memory;
        let refresh = memory.refresh.as_mut().map(|refresh| (refresh.to, &mut refresh.status));
        let run = memory.runs.last_mut().map(|run| (run.revision, &mut run.status));
        for (leads_to, status) in refresh.into_iter().chain(run) {
            if leads_to == to && status.is_active() {
                *status = RefreshStatus::Cancelled;
            }
        }
        Ok(())
    }

    /// Sets the size.
    pub(in crate::cloud::engine) fn set_replicas(
        &mut self,
        name: &Name,
        replicas: u32,
    ) -> Result<(), CloudError> {
        bounded(name, replicas)?;
        self.group_mut(name)?.replicas = replicas;
        Ok(())
    }

    /// Marks the group for deletion.
    pub(in crate::cloud::engine) fn delete_group(&mut self, name: &Name) {
        if let Some(group) = self.groups.get_mut(name) {
            group.memory.deleting = true;
        }
    }

    /// Makes the balancer what `spec` says; a new one is at `host`.
    pub(in crate::cloud::engine) fn put_balancer(
        &mut self,
        spec: &BalancerSpec,
        host: impl FnOnce() -> String,
    ) {
        if let Some(record) = self.balancers.get_mut(&spec.name) {
            record.spec = spec.clone();
            return;
        }
        let record = BalancerRecord { spec: spec.clone(), host: host() };
        self.balancers.insert(spec.name.clone(), record);
    }

    /// Forgets images.
    pub(in crate::cloud::engine) fn delete_images(&mut self, images: &[ImageId]) -> Result<(), CloudError> {
        for image in images {
            let user = self.groups.iter().find_map(|(name, group)| {
                let revision = group.revisions.iter().find(|revision| revision.launch.image == *image)?;
                Some(format!("revision {} of {name}", revision.number))
            });
            if let Some(user) = user {
                return Err(CloudError::InUse { what: format!("image {image}"), user });
            }
        }
        self.images.retain(|image| !images.contains(image));
        Ok(())
    }

    /// Takes over what the reconciler decided for the group: its memory, and the time of a revision's success.
    /// Whether anything changed.
    pub fn remember(&mut self, name: &Name, decision: &reconcile::Decision, now: Moment) -> bool {
        let Some(group) = self.groups.get_mut(name) else { return false };
        let mut changed = group.memory != decision.memory;
        group.memory = decision.memory.clone();
        for revision in group.revisions.iter_mut().filter(|found| decision.deployed.contains(&found.number)) {
            revision.deployed = Some(now.wall / 1000);
            changed = true;
        }
        changed
    }

    /// Ports of the group's VMs that must be reachable: health, declared ones, targets of balancers.
    pub fn ports(&self, group: &Name, launch: &LaunchSpec) -> Vec<(u16, Protocol)> {
        let mut ports = vec![(launch.health_port, Protocol::Tcp)];
        ports.extend(launch.ports.iter().map(|port| (port.port, port.protocol)));
        for listener in self.balancers.values().flat_map(|record| &record.spec.listeners) {
            let targets = listener.targets.iter().filter(|target| target.group == *group);
            ports.extend(targets.map(|target| (target.port, listener.protocol)));
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::ContainerEnd;

    use super::*;

    fn end_of(name: &str, exit_code: i32, restarts: u64) -> ContainerEnd {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        ContainerEnd { name: name.into(), exit_code, reason: reason.into(), message: String::new(), restarts }
    }

    fn status(name: &str, ready: bool, restarts: u32, state: &str) -> ContainerStatus {
        ContainerStatus { name: name.into(), ready, restarts, state: state.into() }
    }

    #[test]
    fn an_act_on_an_older_generation_is_refused_and_one_that_was_applied_is_recognised() {
        let act = |act, generation, by: &str| PlannedAct { act, generation, by: by.into() };
        let put = |image: &[u8]| Act::PutImage { image: ImageId(crate::oci::Digest::of(image)) };
        let now = Moment { steady: 0, wall: 5000 };
        let mut environment = Environment::default();
        let mut apply = |planned: &PlannedAct| environment.apply(planned, now, String::new);
        let first = apply(&act(put(b"a"), Generation(0), "ana")).unwrap();
        assert_eq!(first, Generation(5000));
        // Its answer was lost.
        assert_eq!(apply(&act(put(b"a"), Generation(0), "ana")).unwrap(), first);
        let error = apply(&act(put(b"b"), Generation(0), "ben")).unwrap_err();
        assert!(
            matches!(error, CloudError::Outdated { .. }) && error.to_string().contains("ana did"),
            "{error}"
        );
        let second = apply(&act(put(b"b"), first, "ben")).unwrap();
        assert!(second > first);
        // Somebody else's act came after it.
        assert!(apply(&act(put(b"a"), Generation(0), "ana")).is_err());
        // What is gone is deleted, whatever the generation was.
        let mut gone = Environment::default();
        let delete = act(Act::DeleteImages { images: vec![] }, second, "ben");
        assert_eq!(gone.apply(&delete, now, String::new).unwrap(), Generation(0));
        assert!(gone.apply(&act(put(b"a"), second, "ana"), now, String::new).is_err());
    }

    #[test]
    fn a_group_has_a_size_that_a_host_can_have() {
        let (mut environment, name) =
            (Environment::default(), Name { namespace: "a".into(), name: "b".into() });
        environment
            .put_group(&name, &crate::plan::example::settings(crate::manifest::api::Strategy::Recreate))
            .unwrap();
        environment.set_replicas(&name, MAX_MEMBERS).unwrap();
        let error = environment.set_replicas(&name, 2_000_000_000).unwrap_err().to_string();
        assert!(error.contains("at most 1000"), "{error}");
        let error = environment.start_refresh(&name, 1, u32::MAX, Moment::default()).unwrap_err().to_string();
        assert!(error.contains("at most 1000"), "{error}");
        assert_eq!(environment.groups[&name].replicas, MAX_MEMBERS);
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
