//! What a plan does to disks: those of claims and of members are made or grown, and never shrink; the verbs about one disk.

use i2kit_spec::replica::LOG_VOLUME;

use super::error::PlanError;
use super::steps::{Before, Desired, GroupSpec, Intent, RolloutPlan, Step};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{
    Disk, DiskOwner, DiskSpec, DiskTemplate, Fleet, GroupSettings, InstanceGroup, LaunchDisk, size,
    whole_size,
};

/// The disks that should exist: those of claims, and those of the members of each group. A claim of a member's name is that
/// member's disk.
///
/// What classes say of claims and templates is known already, see [`with_classes`]; a member's disk that is there has its own.
fn wanted<'d>(desired: &'d Desired, fleet: &'d Fleet) -> impl Iterator<Item = DiskSpec> + 'd {
    let is_claim = |spec: &DiskSpec| desired.disks.iter().any(|claim| claim.name == spec.name);
    let members = desired.groups.iter().flat_map(|spec: &GroupSpec| {
        let replicas = spec.size(fleet.group(&spec.name));
        of_members(&spec.name, &spec.settings, replicas)
    });
    let members = members.filter(move |spec| !is_claim(spec));
    // One that is yet to be made is as its template says.
    let members = members.map(move |spec| match fleet.disk(&spec.name) {
        Some(_) => with_class(spec, desired, fleet),
        None => spec,
    });
    desired.disks.iter().cloned().chain(members)
}

/// What should be, with what a StorageClass said of disks that is not among the manifests now. Also of disks that are yet to be
/// made: those of members that a group grows by, and of claims that come back.
pub fn with_classes(desired: &Desired, fleet: &Fleet) -> Desired {
    let mut known = desired.clone();
    for group in &mut known.groups {
        let found = fleet.group(&group.name).and_then(|found| found.settings.stateful.as_ref());
        for disk in group.settings.stateful.iter_mut().flat_map(|stateful| &mut stateful.disks) {
            let had = found.and_then(|found| found.disks.iter().find(|had| had.name == disk.name));
            let had = had.map(Class::of_template);
            if let Some(class) = class(disk.class.as_ref(), had, desired, fleet) {
                (disk.class, disk.expandable, disk.retain) =
                    (class.name.clone(), class.expandable, class.retain);
            }
        }
    }
    for disk in &mut known.disks {
        *disk = with_class(disk.clone(), desired, fleet);
    }
    known
}

/// What a disk has of its StorageClass.
#[derive(Debug, Clone, Copy)]
struct Class<'c> {
    name: &'c Option<String>,
    expandable: bool,
    retain: bool,
}

impl<'c> Class<'c> {
    fn of(spec: &'c DiskSpec) -> Self {
        Self { name: &spec.class, expandable: spec.expandable, retain: spec.retain }
    }

    fn of_template(template: &'c DiskTemplate) -> Self {
        Self { name: &template.class, expandable: template.expandable, retain: template.retain }
    }
}

/// What is known of a class that is not among the manifests: that `name`, or without a name the one that the disk `had`. By
/// the disk itself, or by any other one of the class.
fn class<'c>(
    name: Option<&String>,
    had: Option<Class<'c>>,
    desired: &Desired,
    fleet: &'c Fleet,
) -> Option<Class<'c>> {
    let class = name.or(had.and_then(|had| had.name.as_ref()))?;
    if desired.classes.contains(class) {
        return None;
    }
    let has = |found: &Class<'_>| found.name.as_ref() == Some(class);
    let sets = fleet.groups.iter().filter_map(|group| group.settings.stateful.as_ref());
    let templates = sets.flat_map(|set| &set.disks).map(Class::of_template);
    let others = fleet.disks.iter().map(|disk| Class::of(&disk.spec)).chain(templates);
    had.into_iter().chain(others).find(has)
}

/// The disk with what a StorageClass said of it that is not among the manifests now.
fn with_class(spec: DiskSpec, desired: &Desired, fleet: &Fleet) -> DiskSpec {
    let found = fleet.disk(&spec.name).map(|disk| Class::of(&disk.spec));
    match class(spec.class.as_ref(), found, desired, fleet) {
        Some(Class { name, expandable, retain }) => {
            DiskSpec { class: name.clone(), expandable, retain, ..spec }
        }
        None => spec,
    }
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

/// Whether the disk was left by a group that is gone, or by what is not known, and is about to be used again.
fn is_new_to(disk: &Disk, desired: &Desired, fleet: &Fleet) -> bool {
    let of = |group: &Name| desired.groups.iter().any(|spec| spec.name == *group);
    let owner = disk.spec.owner.as_ref().map(|owner| &owner.group);
    disk.spec.is_found() || owner.is_some_and(|group| of(group) && fleet.group(group).is_none())
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
    let desired = &with_classes(desired, fleet);
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
    // One that was found has the size of its file.
    if whole_size(spec.size).0 < found.size.0 {
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
/// There is no such disk or snapshot, an instance has the disk, or it is the log of a replica.
pub fn restore_disk(fleet: &Fleet, name: &Name, snapshot: &str) -> Result<RolloutPlan, PlanError> {
    let disk = find(fleet, name)?;
    known_snapshot(disk, snapshot)?;
    if is_log(fleet, disk) {
        let why = format!(
            "it is the log of a replica, which would forget what it has promised to the others since: acknowledged writes could be \
             lost; `i2kit volume rm {name}` and the deployment of its group give it an empty log, and it gets what the others have"
        );
        return Err(PlanError::Disk { disk: name.clone(), why });
    }
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

/// Whether a disk is the log of a replica, also of a group that is gone, or of one that nothing is known of but its name.
fn is_log(fleet: &Fleet, disk: &Disk) -> bool {
    let Some(DiskOwner { group, ordinal }) = &disk.spec.owner else {
        let is_called =
            disk.spec.name.name.strip_prefix(LOG_VOLUME).is_some_and(|rest| rest.starts_with('-'));
        return disk.spec.is_found() && is_called;
    };
    let log = LaunchDisk::Member(LOG_VOLUME.to_owned()).name(group, Some(*ordinal));
    let found = fleet.group(group);
    let is_replicated =
        found.is_none_or(|found| found.revisions.iter().any(|revision| revision.launch.replicas.is_some()));
    disk.spec.name == log && is_replicated
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Strategy;
    use crate::oci::Digest;
    use crate::plan::example;
    use crate::plan::fleet::{LaunchSpec, Revision, Snapshot};
    use crate::plan::image::ImageId;
    use crate::plan::rollout::rollout;

    fn name(name: &str) -> Name {
        Name { namespace: "default".into(), name: name.into() }
    }

    fn set(template: DiskTemplate) -> GroupSettings {
        GroupSettings {
            stateful: Some(example::stateful(vec![template])),
            ..example::settings(Strategy::Recreate)
        }
    }

    fn desired(groups: Vec<GroupSpec>, disks: Vec<DiskSpec>, classes: &[&str]) -> Desired {
        Desired {
            environment: "test".into(),
            groups,
            balancers: vec![],
            disks,
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            cause: String::new(),
            prune: false,
        }
    }

    #[test]
    fn the_log_of_a_replica_is_not_brought_back_to_what_it_was() {
        let disk = |template: &str, owner: Option<DiskOwner>| {
            let template = DiskTemplate { name: template.into(), ..example::disk() };
            let spec = DiskSpec { owner, ..template.of(&name("db"), 1) };
            let snapshots = vec![Snapshot { name: "before".into(), created: 0, size: spec.size }];
            Disk { spec, created: 0, instance: None, used: None, snapshots }
        };
        let group = |replicas| {
            let mut group = InstanceGroup::new(name("db"), set(example::disk()));
            group.revisions = vec![Revision {
                number: 1,
                launch: LaunchSpec { replicas, ..example::launch(ImageId(Digest::of(b"1"))) },
                created: 0,
                cause: String::new(),
                deployed: Some(1),
            }];
            group
        };
        let restored = |groups: Vec<InstanceGroup>, disk: Disk| {
            let of = disk.spec.name.clone();
            let fleet = Fleet { groups, disks: vec![disk], ..Fleet::default() };
            restore_disk(&fleet, &of, "before").map(drop).map_err(|error| error.to_string())
        };
        let owner = || Some(DiskOwner { group: name("db"), ordinal: 1 });
        for groups in [vec![group(Some(3))], vec![]] {
            let why = restored(groups.clone(), disk("i2kit-log", owner())).unwrap_err();
            assert!(why.contains("`i2kit volume rm i2kit-log-db-1`"), "{why}");
            assert_eq!(restored(groups, disk("data", owner())), Ok(()));
        }
        // A disk that is called so, and is no replica's.
        assert_eq!(restored(vec![group(None)], disk("i2kit-log", owner())), Ok(()));
        assert_eq!(restored(vec![], disk("i2kit-log", None)), Ok(()));
        let lost = disk("i2kit-log", None);
        let spec = DiskSpec::found(lost.spec.name.clone(), lost.spec.size);
        assert!(restored(vec![], Disk { spec, ..lost }).is_err(), "its record was lost");
    }

    #[test]
    fn what_a_class_said_holds_for_disks_that_are_yet_to_be_made() {
        let (named, kept) = (
            DiskTemplate { class: Some("keep".into()), ..example::disk() },
            DiskTemplate { class: Some("keep".into()), expandable: false, retain: true, ..example::disk() },
        );
        let group = InstanceGroup { replicas: 2, ..InstanceGroup::new(name("db"), set(kept.clone())) };
        let disk = |ordinal| Disk {
            spec: kept.of(&group.name, ordinal),
            created: 0,
            instance: None,
            used: None,
            snapshots: vec![],
        };
        let fleet = Fleet { groups: vec![group.clone()], disks: vec![disk(0), disk(1)], ..Fleet::default() };
        let wanted = |template: &DiskTemplate| GroupSpec {
            name: name("db"),
            replicas: 3,
            launch: example::launch(ImageId(Digest::of(b"1"))),
            settings: set(template.clone()),
        };
        // Its class is not among the files: neither are the settings others, nor the disk of the third member.
        let plan = rollout(&desired(vec![wanted(&named)], vec![], &[]), &fleet);
        assert!(!plan.acts().any(|act| matches!(act, Act::PutGroup { .. })), "{plan}");
        let put: Vec<&DiskSpec> = plan
            .acts()
            .filter_map(|act| if let Act::PutDisk { disk } = act { Some(disk) } else { None })
            .collect();
        assert_eq!(put, [&kept.of(&name("db"), 2)]);
        // Of two sets of one class, whose file changed between them, each new disk is as its own set's template says.
        let mut other = InstanceGroup { name: name("cache"), ..group.clone() };
        other.settings = set(DiskTemplate { retain: false, ..kept.clone() });
        let mut first = disk(0);
        first.spec.name = name("a-of-cache");
        first.spec.retain = false;
        let two = Fleet {
            groups: vec![other, group.clone()],
            disks: vec![first, disk(0), disk(1)],
            ..Fleet::default()
        };
        let plan = rollout(&desired(vec![wanted(&named)], vec![], &[]), &two);
        assert!(plan.acts().any(|act| *act == Act::PutDisk { disk: kept.of(&name("db"), 2) }), "{plan}");
        // A claim of the class that comes back, and a set whose group is gone.
        let claim = DiskSpec { name: name("back"), owner: None, ..named.of(&name("db"), 0) };
        let fleet = Fleet { groups: vec![], ..fleet };
        let plan = rollout(&desired(vec![wanted(&named)], vec![claim], &[]), &fleet);
        let retained = |act: &Act| match act {
            Act::PutDisk { disk } => disk.retain && !disk.expandable,
            Act::PutGroup { settings, .. } => *settings == set(kept.clone()),
            _ => true,
        };
        assert!(plan.acts().all(retained) && plan.acts().count() > 3, "{plan}");
        // What is among the files holds.
        let plan = rollout(&desired(vec![wanted(&named)], vec![], &["keep"]), &fleet);
        assert!(
            plan.acts()
                .any(|act| matches!(act, Act::PutGroup { settings, .. } if *settings == set(named.clone())))
        );
    }
}
