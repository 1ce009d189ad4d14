//! The number of a replicated group's machines, which each of them knows: it changes only where none of them runs, and the log of a
//! group outlives its machines. One rule for deployments and rollbacks, and which sizes a replicated group can have.

use super::error::PlanError;
use super::steps::Desired;
use crate::plan::fleet::{Fleet, InstanceGroup, InstanceState};

/// Looks for what a deployment asks of replicated groups and cannot have.
///
/// # Errors
/// A group would be replicated by another number of machines than it is, or begin or cease to be replicated, while machines of it are
/// there; or its log is of more replicas than it would have.
pub fn check_replicas(desired: &Desired, fleet: &Fleet) -> Result<(), PlanError> {
    desired.groups.iter().try_for_each(|spec| {
        fleet.group(&spec.name).map_or(Ok(()), |group| stay(group, spec.launch.replicas))
    })
}

/// Whether `group` may become one of that many replicas; none where it is not to be replicated.
pub(super) fn stay(group: &InstanceGroup, wanted: Option<u32>) -> Result<(), PlanError> {
    let of = |number: u32| group.revision(number).map(|revision| revision.launch.replicas);
    let there = group.instances.iter().filter(|instance| instance.state != InstanceState::Ended);
    let there: Vec<Option<u32>> = there.filter_map(|instance| of(instance.revision)).collect();
    // Without a machine the log is still that of the revision which ran last.
    let last = group.heading().and_then(of);
    let Some(found) = there.iter().copied().chain(last).find(|found| *found != wanted) else { return Ok(()) };
    let grows = wanted.is_some_and(|wanted| found.is_none_or(|found| found < wanted));
    if grows && there.is_empty() {
        return Ok(());
    }
    let count = |replicas: Option<u32>| {
        replicas.map_or("machines that are no replicas".to_owned(), |count| format!("{count} replicas"))
    };
    let name = &group.name;
    let advice = if grows && deletes(group) {
        format!(
            "its StatefulSet says `whenScaled: Delete`, so that `i2kit scale` would delete its disks: deploy it as it is with \
             `whenScaled: Retain`, then `i2kit scale {name} --replicas 0`, and then deploy this"
        )
    } else if grows {
        format!("end its machines first, `i2kit scale {name} --replicas 0`, and then deploy it")
    } else {
        format!(
            "what it agreed on may be in no other machine than those that go: save what it holds, `i2kit destroy {name} --volumes`, and \
             deploy it anew"
        )
    };
    let why = format!("it has {}, and would have {}: {advice}", count(found), count(wanted));
    Err(PlanError::Replicas { group: name.clone(), why })
}

/// Whether `group`, of which revision `to` runs, may be given that many machines: where they are replicas, none or as many as they
/// know of; and none only where their logs outlive them.
pub(super) fn resize(group: &InstanceGroup, to: u32, size: u32) -> Result<(), PlanError> {
    let Some(count) = group.revision(to).and_then(|revision| revision.launch.replicas) else { return Ok(()) };
    let name = &group.name;
    let why = match size {
        0 if deletes(group) => {
            "its StatefulSet says `whenScaled: Delete`, so that its logs, and all that it has acknowledged, would be deleted with its \
             machines: deploy it with `whenScaled: Retain` first"
                .to_owned()
        }
        0 => return Ok(()),
        _ if size == count => return Ok(()),
        _ => format!(
            "its machines know that they are {count}: `i2kit scale {name} --replicas {count}` starts them; for another number \
             `i2kit scale {name} --replicas 0`, then change `replicas` in its manifest and deploy it"
        ),
    };
    Err(PlanError::Replicas { group: name.clone(), why })
}

/// Whether the disks of members that go when the group shrinks are deleted.
fn deletes(group: &InstanceGroup) -> bool {
    group.settings.stateful.as_ref().is_some_and(|stateful| stateful.delete_when_scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Name, Strategy};
    use crate::oci::Digest;
    use crate::plan::example;
    use crate::plan::fleet::{Instance, LaunchSpec, Revision, StatefulSettings};
    use crate::plan::image::ImageId;
    use crate::plan::rollout::{GroupSpec, rollback, scale};

    fn launch(replicas: Option<u32>) -> LaunchSpec {
        LaunchSpec { replicas, ..example::launch(ImageId(Digest::of(b"1"))) }
    }

    /// A group of these revisions that runs the last, with a machine of each of `machines`.
    fn group(revisions: &[Option<u32>], machines: &[u32]) -> InstanceGroup {
        let name = Name { namespace: "default".into(), name: "db".into() };
        let mut group = InstanceGroup::new(name, example::settings(Strategy::Recreate));
        let revision = |(number, replicas): (u32, &Option<u32>)| Revision {
            number,
            launch: launch(*replicas),
            created: 0,
            cause: String::new(),
            deployed: Some(u64::from(number)),
        };
        group.revisions = (1..).zip(revisions).map(revision).collect();
        group.current = group.revisions.last().map(|revision| revision.number);
        let machine = |revision: &u32| -> Instance {
            let fields = serde_json::json!({
                "id": format!("i-{revision}"), "revision": revision, "state": "running", "health": {"status": "healthy"}, "since": 0,
                "endpoints": [], "containers": [],
            });
            serde_json::from_value(fields).unwrap()
        };
        group.instances = machines.iter().map(machine).collect();
        group
    }

    fn deployed(group: InstanceGroup, replicas: Option<u32>) -> Result<(), String> {
        let spec = GroupSpec {
            name: group.name.clone(),
            replicas: replicas.unwrap_or(1),
            launch: launch(replicas),
            settings: group.settings.clone(),
        };
        let desired = Desired {
            environment: "test".into(),
            groups: vec![spec],
            balancers: vec![],
            disks: vec![],
            classes: vec![],
            cause: String::new(),
            prune: false,
        };
        let fleet = Fleet { groups: vec![group], ..Fleet::default() };
        check_replicas(&desired, &fleet).map_err(|error| error.to_string())
    }

    #[test]
    fn the_number_of_replicas_changes_only_where_nothing_runs_and_never_downwards() {
        let three = [Some(3)];
        assert_eq!(deployed(group(&three, &[1, 1, 1]), Some(3)), Ok(()));
        assert_eq!(deployed(group(&[None], &[1, 1]), None), Ok(()));
        for (before, after) in [(Some(3), Some(5)), (None, Some(3))] {
            let why = deployed(group(&[before], &[1]), after).unwrap_err();
            assert!(why.contains("i2kit scale db --replicas 0"), "{why}");
            assert_eq!(deployed(group(&[before], &[]), after), Ok(()));
        }
        for (before, after) in [(Some(5), Some(3)), (Some(3), Some(1)), (Some(3), None)] {
            for machines in [&[1][..], &[]] {
                let why = deployed(group(&[before], machines), after).unwrap_err();
                assert!(why.contains("i2kit destroy db --volumes"), "{why}");
            }
        }
        // A machine of an earlier revision counts, and one that has ended does not.
        assert!(deployed(group(&[None, Some(3)], &[1, 2]), Some(3)).is_err());
        let mut ended = group(&[None, Some(3)], &[1, 2]);
        ended.instances[0].state = InstanceState::Ended;
        assert_eq!(deployed(ended, Some(3)), Ok(()));
    }

    /// The same group, whose StatefulSet says `whenScaled: Delete`.
    fn deleting(mut group: InstanceGroup) -> InstanceGroup {
        let stateful = example::stateful(vec![example::disk()]);
        group.settings.stateful = Some(StatefulSettings { delete_when_scaled: true, ..stateful });
        group
    }

    #[test]
    fn a_replicated_group_is_scaled_to_nothing_and_back_and_never_so_that_its_logs_go() {
        let scaled = |group: InstanceGroup, size| {
            let name = group.name.clone();
            let fleet = Fleet { groups: vec![group], ..Fleet::default() };
            scale(&fleet, &name, size).map(drop).map_err(|error| error.to_string())
        };
        let three = || group(&[Some(3)], &[1, 1, 1]);
        assert_eq!(scaled(three(), 0), Ok(()));
        assert_eq!(scaled(group(&[Some(3)], &[]), 3), Ok(()), "as many as its manifest says");
        for size in [1, 2, 5] {
            let why = scaled(three(), size).unwrap_err();
            let (nothing, change) = ("i2kit scale db --replicas 0", "change `replicas` in its manifest");
            assert!(why.contains(nothing) && why.contains(change), "{why}");
        }
        let why = scaled(deleting(three()), 0).unwrap_err();
        assert!(why.contains("with `whenScaled: Retain` first"), "{why}");
        assert_eq!(scaled(deleting(group(&[Some(3)], &[])), 3), Ok(()));
        // Where they are no replicas, the plan has a note.
        assert_eq!(scaled(deleting(group(&[None], &[1, 1])), 0), Ok(()));
        let why = deployed(deleting(three()), Some(5)).unwrap_err();
        assert!(why.contains("deploy it as it is with `whenScaled: Retain`"), "{why}");
    }

    #[test]
    fn a_rollback_keeps_to_the_same_rule() {
        let plan = |revisions: &[Option<u32>], machines: &[u32]| {
            let group = group(revisions, machines);
            let name = group.name.clone();
            rollback(&Fleet { groups: vec![group], ..Fleet::default() }, &name, Some(1))
                .map_err(|error| error.to_string())
        };
        assert!(plan(&[Some(3), Some(3)], &[2, 2, 2]).is_ok());
        assert!(plan(&[None, Some(3)], &[2]).unwrap_err().contains("machines that are no replicas"));
        assert!(plan(&[Some(5), Some(3)], &[2]).unwrap_err().contains("scale db --replicas 0"));
    }
}
