//! Plans of the verbs that start from the fleet alone: rollback, scale, destroy, wait, gc.

use super::deploy::{movement, resize, unused_images, with_groups};
use super::disks;
use super::error::PlanError;
use super::replicas;
use super::steps::{GroupKind, Intent, RolloutPlan, Step};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{Disk, Fleet, InstanceGroup, LaunchDisk, size};

/// Brings `group` back to the revision `to`, or without one to that which [`served_before`]. A named one that
/// never served is taken too, as `kubectl rollout undo --to-revision` does, and the plan has a note.
pub fn rollback(fleet: &Fleet, group: &Name, to: Option<u32>) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    let to = match to {
        Some(number) if found.revision(number).is_some() => number,
        Some(revision) => {
            let known = found.revisions.iter().map(|revision| revision.number).collect();
            return Err(PlanError::UnknownRevision { group: group.clone(), revision, known });
        }
        None => served_before(found).ok_or_else(|| PlanError::NoEarlierRevision { group: group.clone() })?,
    };
    let target = found.revision(to);
    replicas::stay(found, target.and_then(|revision| revision.launch.replicas))?;
    one_disk(found, found.replicas, target.into_iter().flat_map(|revision| &revision.launch.disks))?;
    let intent = Intent::Rollback { group: group.clone(), to: Some(to) };
    let mut plan = moving(fleet, found, (to, found.replicas), intent);
    if !plan.is_unchanged() && target.is_some_and(|revision| revision.deployed.is_none()) {
        plan.notes.push(format!(
            "revision {to} of {group} never served, as far as its history says (`i2kit history {group}`)"
        ));
    }
    Ok(plan)
}

/// The revision that a rollback leads to which names none: the one that a refresh under way leaves, or is
/// on its way back to, else the one that served
/// last before the current one and is not the same again, as a restart's is.
pub fn served_before(group: &InstanceGroup) -> Option<u32> {
    let under_way = group.active_refresh();
    if let Some(from) = under_way.and_then(|refresh| refresh.from.filter(|from| *from != refresh.to)) {
        return Some(from);
    }
    let current = group.current.and_then(|current| group.revision(current)).map(|revision| &revision.launch);
    let others = group.revisions.iter().filter(|revision| {
        Some(revision.number) != group.current
            && revision.deployed.is_some()
            && Some(&revision.launch) != current
    });
    others.max_by_key(|revision| (revision.deployed, revision.number)).map(|revision| revision.number)
}

/// A group of several instances has no disk of a claim.
fn one_disk<'d>(
    group: &InstanceGroup,
    replicas: u32,
    mut disks: impl Iterator<Item = &'d LaunchDisk>,
) -> Result<(), PlanError> {
    match disks.find_map(LaunchDisk::claim).filter(|_| replicas > 1) {
        Some(claim) => Err(PlanError::OneDisk { group: group.name.clone(), claim: claim.to_owned() }),
        None => Ok(()),
    }
}

/// Gives `group` that number of VMs of the revision that it runs or is being refreshed to.
pub fn scale(fleet: &Fleet, group: &Name, replicas: u32) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    if found.settings.job.is_some() {
        return Err(PlanError::Job { group: group.clone() });
    }
    let to = found.heading().ok_or_else(|| PlanError::NothingRuns { group: group.clone() })?;
    replicas::resize(found, to, replicas)?;
    // A refresh under way may lead back to the revision that it leaves.
    let back = found.active_refresh().and_then(|refresh| refresh.from);
    let runs =
        found.revisions.iter().filter(|revision| revision.number == to || Some(revision.number) == back);
    one_disk(found, replicas, runs.flat_map(|revision| &revision.launch.disks))?;
    let intent = Intent::Scale { group: group.clone(), replicas };
    let scaled = InstanceGroup { replicas, ..found.clone() };
    let mut plan = match &found.settings.scaling {
        // A refresh keeps what a scaler made of the size, so that the size is an act of its own.
        Some(_) if found.replicas != replicas => {
            let mut plan = moving(fleet, &scaled, (to, replicas), intent);
            plan.steps.insert(0, resize(found, replicas));
            plan
        }
        _ => moving(fleet, found, (to, replicas), intent),
    };
    plan.steps.splice(0..0, disks::of_size(found, replicas, fleet));
    if let Some(scaling) = found.settings.scaling.as_ref().filter(|_| replicas > 0) {
        plan.notes.push(format!(
            "the HorizontalPodAutoscaler of {group} keeps it between {} and {} instances by load and changes the number \
             again; `--replicas 0` turns it off",
            scaling.min, scaling.max
        ));
    }
    plan.notes.extend(disks::scaled_away(group, &found.settings, replicas, fleet));
    Ok(plan)
}

/// Starts a run of the Job or the CronJob `group` now, at its current revision, and waits for its end.
pub fn run(fleet: &Fleet, group: &Name) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    if found.settings.job.is_none() {
        return Err(PlanError::NoJob { group: group.clone() });
    }
    let newest = found.runs.last();
    let revision = match newest {
        Some(newest) if found.settings.schedule.is_none() => Some(newest.revision),
        _ => found.current,
    };
    let revision = revision.ok_or_else(|| PlanError::NothingRuns { group: group.clone() })?;
    let steps = vec![
        Act::StartRun { group: group.clone(), revision }.into(),
        Step::AwaitRun { group: group.clone(), after: newest.map_or(0, |newest| newest.number) },
    ];
    Ok(RolloutPlan::new(fleet, Intent::Run(group.clone()), steps))
}

/// Deletes everything that the environment holds: groups first, so that connections drain, then balancers and images.
/// Disks are left, unless `volumes` or a StatefulSet's own policy says otherwise.
pub fn destroy(fleet: &Fleet, volumes: bool) -> RolloutPlan {
    let groups = fleet.groups.iter().map(|group| Act::DeleteGroup { group: group.name.clone() });
    let balancers =
        fleet.balancers.iter().map(|balancer| Act::DeleteBalancer { balancer: balancer.spec.name.clone() });
    let mut steps: Vec<Step> = groups.chain(balancers).map(Step::from).collect();
    let deleted = if volumes { all_disks(fleet) } else { with_groups(fleet.groups.iter(), fleet) };
    let kept = |disk: &&Disk| match &deleted {
        Some(Act::DeleteDisks { disks }) => !disks.contains(&disk.spec.name),
        _ => true,
    };
    let notes = fleet.disks.iter().filter(kept).map(|disk| {
        let (name, size) = (&disk.spec.name, size(disk.spec.size));
        let by_class = disk.spec.retain;
        let why = match by_class {
            _ if disk.spec.is_found() => ", since nothing is known of what made it",
            true => ", as its StorageClass says (`reclaimPolicy: Retain`)",
            false => "",
        };
        let or_all = if by_class { "" } else { ", and `--volumes` would have deleted it too" };
        format!("disk {name} ({size}) is kept{why}; `i2kit volume rm {name}` deletes it{or_all}")
    });
    let notes = notes.collect();
    steps.extend(deleted.map(Step::from));
    steps.extend(unused_images(&steps, fleet).map(Step::from));
    RolloutPlan { notes, ..RolloutPlan::new(fleet, Intent::Destroy { volumes }, steps) }
}

/// The act that deletes all disks, but for those whose class keeps them.
fn all_disks(fleet: &Fleet) -> Option<Act> {
    let doomed = fleet.disks.iter().filter(|disk| !disk.spec.retain);
    let disks: Vec<Name> = doomed.map(|disk| disk.spec.name.clone()).collect();
    (!disks.is_empty()).then_some(Act::DeleteDisks { disks })
}

/// Deletes images that no revision names, and what interrupted runs left.
pub fn collect(fleet: &Fleet) -> RolloutPlan {
    let leftovers = fleet.leftovers.clone();
    let leftovers = (!leftovers.is_empty()).then_some(Act::DeleteLeftovers { leftovers });
    let steps = unused_images(&[], fleet).into_iter().chain(leftovers).map(Step::from).collect();
    RolloutPlan::new(fleet, Intent::Collect, steps)
}

/// Waits until the groups of these names, or all, are what they are being made. Nothing is changed.
pub fn wait(fleet: &Fleet, names: &[Name]) -> RolloutPlan {
    let wanted = fleet.groups.iter().filter(|group| names.is_empty() || names.contains(&group.name));
    let steps = wanted.filter_map(|group| {
        // A refresh that failed is an answer, too: waiting for its revision tells how it ended.
        let lost = group.refresh.as_ref().filter(|refresh| refresh.is_lost() || refresh.status.is_active());
        let revision = lost.map(|refresh| refresh.to).or(group.current)?;
        (!group.is_settled_at(revision)).then(|| Step::Await {
            group: group.name.clone(),
            revision,
            replicas: group.replicas,
            deadline_seconds: group.settings.progress_deadline_seconds,
            expires: group.settings.expires(),
            kind: GroupKind::of(&group.settings),
        })
    });
    RolloutPlan::new(fleet, Intent::Wait(names.to_vec()), steps.collect())
}

pub(super) fn find<'f>(fleet: &'f Fleet, group: &Name) -> Result<&'f InstanceGroup, PlanError> {
    fleet.group(group).ok_or_else(|| PlanError::UnknownGroup {
        environment: fleet.environment.clone(),
        group: group.clone(),
        known: fleet.groups.iter().map(|group| group.name.clone()).collect(),
    })
}

/// The plan that gives `group` that many VMs of revision `to`, and waits for them.
pub(super) fn moving(
    fleet: &Fleet,
    group: &InstanceGroup,
    (to, replicas): (u32, u32),
    intent: Intent,
) -> RolloutPlan {
    let mut steps = movement(&group.name, to, replicas, (Some(group), GroupKind::of(&group.settings)));
    if !steps.is_empty() || group.replicas != replicas || !group.is_settled_at(to) {
        steps.push(Step::Await {
            group: group.name.clone(),
            revision: to,
            replicas,
            deadline_seconds: group.settings.progress_deadline_seconds,
            expires: group.settings.expires(),
            kind: GroupKind::of(&group.settings),
        });
    }
    RolloutPlan::new(fleet, intent, steps)
}
