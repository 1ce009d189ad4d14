//! What a plan does to disks: those of claims and of members are made or grown, and never shrink; the verbs about one disk.

use super::error::PlanError;
use super::steps::{Before, Desired, GroupSpec, Intent, RolloutPlan, Step};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{Disk, DiskSpec, DiskTemplate, Fleet, GroupSettings, InstanceGroup, size};

/// The disks that should exist: those of claims, and those of the members of each group. A claim of a member's name is that
/// member's disk.
fn wanted<'d>(desired: &'d Desired, fleet: &'d Fleet) -> impl Iterator<Item = DiskSpec> + 'd {
    let is_claim = |spec: &DiskSpec| desired.disks.iter().any(|claim| claim.name == spec.name);
    let members = desired.groups.iter().flat_map(|spec: &GroupSpec| {
        let replicas = spec.size(fleet.group(&spec.name));
        of_members(&spec.name, &spec.settings, replicas)
    });
    let all = desired.disks.iter().cloned().chain(members.filter(move |spec| !is_claim(spec)));
    all.map(move |spec| with_class(spec, desired, fleet))
}

/// The disk with what a StorageClass said of it that is not among the manifests now.
fn with_class(spec: DiskSpec, desired: &Desired, fleet: &Fleet) -> DiskSpec {
    let Some(found) = fleet.disk(&spec.name).map(|disk| &disk.spec) else { return spec };
    let Some(class) = spec.class.as_ref().or(found.class.as_ref()) else { return spec };
    if desired.classes.contains(class) || (spec.class.is_some() && spec.class != found.class) {
        return spec;
    }
    DiskSpec { class: found.class.clone(), expandable: found.expandable, retain: found.retain, ..spec }
}

/// What the user should know of members that go since the group shrinks: their disks go with them, where it says so.
pub(super) fn scaled_away(
    group: &Name,
    settings: &GroupSettings,
    replicas: u32,
    fleet: &Fleet,
) -> Vec<String> {
    let Some(stateful) = settings.stateful.as_ref().filter(|stateful| stateful.delete_when_scaled) else {
        return Vec::new();
    };
    let goes = |disk: &&Disk| {
        let owner = disk.spec.owner.as_ref().filter(|owner| owner.group == *group);
        !disk.spec.retain && owner.is_some_and(|owner| !stateful.ordinals(replicas).contains(&owner.ordinal))
    };
    let note = |disk: &Disk| {
        format!(
            "disk {} ({}) is deleted with its member, with what is on it and its snapshots: the StatefulSet says \
             `whenScaled: Delete`",
            disk.spec.name,
            size(disk.spec.size)
        )
    };
    fleet.disks.iter().filter(goes).map(note).collect()
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
    for spec in &desired.groups {
        let replicas = spec.size(fleet.group(&spec.name));
        notes.extend(scaled_away(&spec.name, &spec.settings, replicas, fleet));
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
/// A disk would shrink, or grow although its class forbids that, or a StatefulSet loses a template of disks.
pub fn check_disks(desired: &Desired, fleet: &Fleet) -> Result<(), PlanError> {
    for spec in &desired.groups {
        let Some(stateful) = &spec.settings.stateful else { continue };
        let found = fleet.group(&spec.name).and_then(|group| group.settings.stateful.as_ref());
        let stays = |had: &&DiskTemplate| stateful.disks.iter().any(|disk| disk.name == had.name);
        if let Some(gone) = found.and_then(|found| found.disks.iter().find(|had| !stays(had))) {
            return Err(PlanError::Template { group: spec.name.clone(), template: gone.name.clone() });
        }
    }
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
        unused(fleet, find(fleet, name)?, "be deleted")?;
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
    unused(fleet, disk, "be restored")?;
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
fn unused(fleet: &Fleet, disk: &Disk, what: &str) -> Result<(), PlanError> {
    let Some(instance) = &disk.instance else { return Ok(()) };
    let group = disk.spec.owner.as_ref().and_then(|owner| fleet.group(&owner.group));
    let goes =
        group.and_then(|group| group.settings.stateful.as_ref()).is_some_and(|set| set.delete_when_scaled);
    let way = if goes && !disk.spec.retain {
        "its StatefulSet says `whenScaled: Delete`, so that `i2kit scale` would delete it: deploy the set with \
         `whenScaled: Retain` first, then end the instances with `i2kit scale GROUP --replicas 0`"
    } else {
        "`i2kit scale GROUP --replicas 0` ends the instances, and keeps disks"
    };
    let why = format!("{instance} has it, so that it cannot {what}; {way}");
    Err(PlanError::DiskInUse { disk: disk.spec.name.clone(), why })
}
