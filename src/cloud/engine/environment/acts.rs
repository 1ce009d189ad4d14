//! What acts do to an environment's records: who may change them when, and each act's change.

use std::collections::BTreeMap;

use i2kit_spec::Millis;

use super::{Applied, BalancerRecord, Environment, GroupRecord};
use crate::cloud::CloudError;
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::reconcile::{GroupMemory, MAX_MEMBERS, RUNS_KEPT, RefreshState, Run};
use crate::manifest::api::Name;
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::fleet::{BalancerSpec, Generation, GroupSettings, RefreshStatus, Revision};
use crate::plan::image::ImageId;

/// How long a job whose run has ended is kept at least after an act that a deployment begins with: the acts that start its
/// next run follow within moments.
const KEPT_FOR_A_RUN: Millis = Millis(30_000);

impl Environment {
    /// The generation after `planned`, if that is the newest act already: its answer was lost, and it was sent again.
    pub fn applied(&self, planned: &PlannedAct) -> Option<Generation> {
        // Somebody else's equal act is another one: two snapshots are of two moments.
        let latest = self.latest.as_ref().filter(|latest| latest.act == *planned)?;
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
            Act::PutDisk { disk } => self.put_disk(disk, now)?,
            Act::DeleteDisks { disks } => self.delete_disks(disks)?,
            Act::SnapshotDisk { disk, snapshot } => self.add_snapshot(disk, snapshot, now)?,
            Act::RestoreDisk { disk, snapshot } => self.restored(disk, snapshot)?,
            Act::DeleteSnapshots { disk, snapshots } => self.delete_snapshots(disk, snapshots)?,
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
    pub(super) fn group_mut(&mut self, name: &Name) -> Result<&mut GroupRecord, CloudError> {
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
        for size in settings.scaling.iter().flat_map(|scaling| [scaling.min, scaling.max]) {
            bounded(name, size)?;
        }
        self.members_are_free(name, settings)?;
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
            memory: GroupMemory::default(),
            instances: BTreeMap::new(),
        };
        self.groups.insert(name.clone(), group);
        Ok(())
    }

    /// Keeps a job whose run has ended for the run that the acts after this one start, whatever its age.
    fn keep_for_a_run(&mut self, name: &Name, now: Moment) {
        let Some(group) = self.groups.get_mut(name) else { return };
        if group.memory.runs.last().is_some_and(|run| !run.status.is_active()) {
            group.memory.kept_until = KEPT_FOR_A_RUN.after(now.steady);
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
        self.claims_are_free(name, &new.launch)?;
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
    /// current revision if that one ever served; one that never did is no way back, and is given up for the new one. So is one
    /// of another number of replicas, by the rule that plans keep to: its machines would refuse the log.
    pub(in crate::cloud::engine) fn start_refresh(
        &mut self,
        name: &Name,
        to: u32,
        replicas: u32,
        now: Moment,
    ) -> Result<(), CloudError> {
        bounded(name, replicas)?;
        let group = self.group_mut(name)?;
        let Some(wanted) = group.revision(to).map(|found| found.launch.replicas) else {
            return Err(CloudError::not_found(format!("revision {to} of"), name));
        };
        let replicas = group.kept_size(replicas);
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
        let is_way_back =
            |number: &u32| group.revision(*number).is_some_and(|found| found.launch.replicas == wanted);
        let left = group.memory.current.filter(served);
        let from = left.filter(is_way_back);
        group.replicas = replicas;
        let barred = left.filter(|_| from.is_none());
        group.memory.refresh = Some(RefreshState { barred, ..RefreshState::start(from, to, now) });
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
}

impl GroupRecord {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::Scaling;

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
        let error = apply(&act(put(b"a"), Generation(0), "ben")).unwrap_err();
        assert!(matches!(error, CloudError::Outdated { .. }), "ben's is another one: {error}");
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
        // Nor does a scaler give it another one.
        let rules = crate::manifest::api::ScalingRules::default();
        let scaling = Scaling { min: 1, max: MAX_MEMBERS, metrics: vec![], up: rules.clone(), down: rules };
        let scaled = |scaling: Scaling| GroupSettings {
            scaling: Some(scaling),
            ..crate::plan::example::settings(crate::manifest::api::Strategy::Recreate)
        };
        environment.put_group(&name, &scaled(scaling.clone())).unwrap();
        for beyond in [Scaling { max: 1001, ..scaling.clone() }, Scaling { min: 5000, ..scaling }] {
            let error = environment.put_group(&name, &scaled(beyond)).unwrap_err().to_string();
            assert!(error.contains("at most 1000"), "{error}");
        }
    }
}
