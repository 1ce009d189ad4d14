//! What a plan does to disks: those of claims and of members are made or grown, and never shrink; the verbs about one disk.

use super::error::PlanError;
use super::steps::{Before, Desired, GroupSpec, Intent, RolloutPlan, Step};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{Disk, DiskSpec, Fleet, GroupSettings, InstanceGroup, size};

/// The disks that should exist: those of claims, and those of the members of each group.
fn wanted<'d>(desired: &'d Desired, fleet: &'d Fleet) -> impl Iterator<Item = DiskSpec> + 'd {
    let members = desired.groups.iter().flat_map(|spec: &GroupSpec| {
        let replicas = spec.size(fleet.group(&spec.name));
        of_members(&spec.name, &spec.settings, replicas)
    });
    desired.disks.iter().cloned().chain(members)
}

/// The disks of a group's members.
fn of_members(group: &Name, settings: &GroupSettings, replicas: u32) -> Vec<DiskSpec> {
    let Some(stateful) = &settings.stateful else { return Vec::new() };
    stateful.disks_of(group, stateful.ordinals(replicas)).collect()
}

/// The steps that make or grow disks, and what the user should know of the others.
pub(super) fn of_deployment(desired: &Desired, fleet: &Fleet) -> (Vec<Step>, Vec<String>) {
    let (mut steps, mut notes) = (Vec::new(), Vec::new());
    for spec in wanted(desired, fleet) {
        let found = fleet.disk(&spec.name);
        if let Some(disk) = found.filter(|disk| is_new_to(disk, desired, fleet)) {
            notes.push(format!(
                "disk {} ({}) is there already, and is used with what is on it",
                spec.name,
                size(disk.spec.size)
            ));
        }
        steps.extend(put(spec, found));
    }
    (steps, notes)
}

/// Whether the disk was left by a group that is gone, and is about to be used again.
fn is_new_to(disk: &Disk, desired: &Desired, fleet: &Fleet) -> bool {
    let of = |group: &Name| desired.groups.iter().any(|spec| spec.name == *group);
    let owner = disk.spec.owner.as_ref().map(|owner| &owner.group);
    owner.is_some_and(|group| of(group) && fleet.group(group).is_none())
}

fn put(spec: DiskSpec, found: Option<&Disk>) -> Option<Step> {
    let before = found.map(|disk| disk.spec.clone());
    (before.as_ref() != Some(&spec))
        .then(|| Step::apply(Act::PutDisk { disk: spec }, Before { disk: before, ..Before::default() }))
}

/// The steps that make the disks which a group of that size lacks.
pub(super) fn of_size(group: &InstanceGroup, replicas: u32, fleet: &Fleet) -> Vec<Step> {
    let lacking = |spec: &DiskSpec| fleet.disk(&spec.name).is_none();
    let disks = of_members(&group.name, &group.settings, replicas);
    disks.into_iter().filter(lacking).filter_map(|spec| put(spec, None)).collect()
}

/// Looks for what a deployment asks of disks and cannot have.
///
/// # Errors
/// A disk would shrink, or grow although its class forbids that.
pub fn check_disks(desired: &Desired, fleet: &Fleet) -> Result<(), PlanError> {
    for spec in wanted(desired, fleet) {
        let Some(found) = fleet.disk(&spec.name) else { continue };
        if let Some(why) = refusal(&spec, &found.spec) {
            return Err(PlanError::Disk { disk: spec.name, why });
        }
    }
    Ok(())
}

/// Why a disk cannot become what `spec` says.
pub fn refusal(spec: &DiskSpec, found: &DiskSpec) -> Option<String> {
    let (now, then) = (size(found.size), size(spec.size));
    if spec.size.0 < found.size.0 {
        return Some(format!("it has {now}, and a disk cannot shrink to {then}; ask for {now} or more"));
    }
    if spec.size.0 > found.size.0 && !spec.expandable {
        let class = spec.class.as_deref().unwrap_or_default();
        return Some(format!(
            "it has {now}, and disks of StorageClass {class} do not grow; write `allowVolumeExpansion: true` there"
        ));
    }
    None
}

/// Deletes disks with all that is on them.
///
/// # Errors
/// There is no such disk, or an instance has it.
pub fn remove_disks(fleet: &Fleet, names: &[Name]) -> Result<RolloutPlan, PlanError> {
    for name in names {
        unused(find(fleet, name)?, "be deleted")?;
    }
    Ok(RolloutPlan::new(fleet, Intent::Disk, vec![Act::DeleteDisks { disks: names.to_vec() }.into()]))
}

/// Copies what is on a disk.
///
/// # Errors
/// There is no such disk, or it has a snapshot of that name.
pub fn snapshot_disk(fleet: &Fleet, name: &Name, snapshot: &str) -> Result<RolloutPlan, PlanError> {
    let disk = find(fleet, name)?;
    let good = (1..=63).contains(&snapshot.len())
        && snapshot.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !snapshot.starts_with('-');
    if !good {
        let why =
            format!("`{snapshot}` is no name of a snapshot: lower-case letters, digits and `-`, at most 63");
        return Err(PlanError::Disk { disk: name.clone(), why });
    }
    if disk.snapshots.iter().any(|known| known.name == snapshot) {
        let why = format!(
            "it has a snapshot `{snapshot}`; choose another name, or delete that one with `volume rm`"
        );
        return Err(PlanError::Disk { disk: name.clone(), why });
    }
    let act = Act::SnapshotDisk { disk: name.clone(), snapshot: snapshot.to_owned() };
    Ok(RolloutPlan::new(fleet, Intent::Disk, vec![act.into()]))
}

/// Makes a disk's content that of a snapshot.
///
/// # Errors
/// There is no such disk or snapshot, or an instance has the disk.
pub fn restore_disk(fleet: &Fleet, name: &Name, snapshot: &str) -> Result<RolloutPlan, PlanError> {
    let disk = find(fleet, name)?;
    known_snapshot(disk, snapshot)?;
    unused(disk, "be restored")?;
    let act = Act::RestoreDisk { disk: name.clone(), snapshot: snapshot.to_owned() };
    Ok(RolloutPlan::new(fleet, Intent::Disk, vec![act.into()]))
}

/// Deletes a snapshot.
///
/// # Errors
/// There is no such disk or snapshot.
pub fn remove_snapshot(fleet: &Fleet, name: &Name, snapshot: &str) -> Result<RolloutPlan, PlanError> {
    known_snapshot(find(fleet, name)?, snapshot)?;
    let act = Act::DeleteSnapshots { disk: name.clone(), snapshots: vec![snapshot.to_owned()] };
    Ok(RolloutPlan::new(fleet, Intent::Disk, vec![act.into()]))
}

fn find<'f>(fleet: &'f Fleet, name: &Name) -> Result<&'f Disk, PlanError> {
    fleet.disk(name).ok_or_else(|| PlanError::UnknownDisk {
        environment: fleet.environment.clone(),
        disk: name.clone(),
        known: fleet.disks.iter().map(|disk| disk.spec.name.clone()).collect(),
    })
}

fn known_snapshot(disk: &Disk, snapshot: &str) -> Result<(), PlanError> {
    if disk.snapshots.iter().any(|known| known.name == snapshot) {
        return Ok(());
    }
    let known = disk.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
    Err(PlanError::UnknownSnapshot { disk: disk.spec.name.clone(), snapshot: snapshot.to_owned(), known })
}

/// No instance has the disk.
fn unused(disk: &Disk, what: &str) -> Result<(), PlanError> {
    let Some(instance) = &disk.instance else { return Ok(()) };
    let why = format!(
        "{instance} has it, so that it cannot {what}; `i2kit scale GROUP --replicas 0` ends the instances, and keeps disks"
    );
    Err(PlanError::DiskInUse { disk: disk.spec.name.clone(), why })
}
