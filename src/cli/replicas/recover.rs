//! `i2kit replicas NAME --recover`: a group that lost its majority goes on from the newest log that is left.
//!
//! What it risks is said first, and nothing is done without `--yes`. It is refused while a machine of the group runs and does not
//! answer, or is about to run: a majority that nobody hears from would go on beside the recovered group, as a second one. Each replica
//! judges by its own connections, so that this side judges over what all of them say.

use std::cmp::Reverse;
use std::time::Duration;

use i2kit_spec::replica::{COORDINATOR, LOG_VOLUME, RecoverRequest, Recovered, Recovery, Role};
use serde::Serialize;
use tokio::time::Instant;

use super::shown::in_contract;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::output;
use crate::cloud::{Cloud, ReplicaAnswer, ReplicaOrder};
use crate::manifest::api::Name;
use crate::plan::fleet::{DiskOwner, Fleet, Instance, InstanceGroup, InstanceState, member_name};
use crate::report::{self, Format};
use crate::text;

/// How long a recovered replica may take to lead its group of one: it begins anew, and executes its log.
const PATIENCE: Duration = Duration::from_mins(2);

/// Between two looks whether it leads.
const PAUSE: Duration = Duration::from_millis(500);

/// A machine of the group, and what its replica says of a recovery from it.
#[derive(Debug)]
struct Asked<'f> {
    instance: &'f Instance,
    said: Result<Recovery, String>,
}

/// What is printed as JSON once it is done.
#[derive(Debug, Serialize)]
struct Done<'f> {
    name: &'f str,
    slot: u32,
    recoveries: u64,
    last: u64,
}

/// Says what a recovery would do, and with `yes` does it.
pub(super) async fn run(
    context: &Context,
    cloud: &dyn Cloud,
    (fleet, group): (&Fleet, &InstanceGroup),
    yes: bool,
) -> Result<Exit, Failure> {
    let asked = examine(cloud, group).await;
    let found = source(&group.name, &asked).and_then(|found| match awaited(fleet, group) {
        Some(why) => Err(why),
        None => Ok(found),
    });
    let (instance, recovery) =
        found.map_err(|why| Failure::new(Exit::Cloud, anyhow::anyhow!("{}", text::visible(&why))))?;
    match context.format {
        Format::Text => report::result(&announcement(fleet, group, recovery)),
        // Of one that is carried out there is one result, its outcome.
        Format::Json if yes => {}
        Format::Json => output::json(recovery),
    }
    let name = instance.called();
    if !yes {
        let error = anyhow::anyhow!("nothing was done; with --yes the group goes on from {name} alone");
        return Err(Failure::new(Exit::Usage, error));
    }
    let order = ReplicaOrder::Recover(RecoverRequest { group: in_contract(&group.name), id: recovery.id });
    let Recovered { recoveries, last } =
        match cloud.order_replica(&instance.id, &order).await.or_exit(Exit::Cloud)? {
            ReplicaAnswer::Recovered(recovered) => recovered,
            answer => {
                return Err(Failure::from(anyhow::anyhow!(
                    "the replica answers another question: {answer:?}"
                )));
            }
        };
    leads(cloud, group, (instance, recoveries)).await?;
    match context.format {
        Format::Json => output::json(&Done { name, slot: recovery.slot, recoveries, last }),
        Format::Text => report::result(&format!("{name} leads {} alone, from index {last} on\n", group.name)),
    }
    Ok(Exit::Success)
}

/// Asks all machines of the group that run, at once.
async fn examine<'f>(cloud: &dyn Cloud, group: &'f InstanceGroup) -> Vec<Asked<'f>> {
    let running = group.instances.iter().filter(|instance| instance.state != InstanceState::Ended);
    let asked = running.map(async |instance| {
        let said = match cloud.order_replica(&instance.id, &ReplicaOrder::Examine).await {
            Ok(ReplicaAnswer::Examined(recovery)) => Ok(recovery),
            Ok(answer) => Err(format!("it answers another question: {answer:?}")),
            Err(error) => Err(error.to_string()),
        };
        Asked { instance, said }
    });
    futures::future::join_all(asked).await
}

/// The machine from which the group goes on, or why there is none and what to do.
fn source<'a, 'f>(group: &Name, asked: &'a [Asked<'f>]) -> Result<(&'f Instance, &'a Recovery), String> {
    if asked.is_empty() {
        return Err(format!(
            "no machine of {group} runs, so that there is no log to go on from: deploy it first"
        ));
    }
    let mut suspects = asked.iter().filter(|asked| may_go_on(asked.instance));
    let silent = suspects.find_map(|asked| Some((asked.instance.called(), asked.said.as_ref().err()?)));
    if let Some((name, why)) = silent {
        return Err(format!(
            "{name} runs and does not answer ({why}): with others it may be a majority that goes on, and a recovery would make a second \
             group beside it. Ask again when it answers or has ended; `i2kit scale {group} --replicas 0` and `i2kit deploy` start all \
             machines of the group anew, with their disks"
        ));
    }
    let answered = || asked.iter().filter_map(|asked| Some((asked.instance, asked.said.as_ref().ok()?)));
    if let Some((instance, _)) = answered().find(|(_, recovery)| recovery.has_quorum) {
        return Err(format!(
            "{} is connected with a majority of {group}: the group needs no recovery, and a replica that is cut off from them joins when it \
             is connected again. A recovery would put that majority out, with all that it has acknowledged",
            instance.called()
        ));
    }
    let of_log = |recovery: &Recovery| (recovery.recoveries, recovery.term, recovery.last);
    let possible = answered().filter(|(_, recovery)| recovery.refused.is_none());
    let Some(best) = possible.max_by_key(|(_, recovery)| (of_log(recovery), Reverse(recovery.slot))) else {
        let each = answered().map(|(instance, recovery)| {
            let why = recovery.refused.as_deref().unwrap_or_default();
            format!("\n  {}: {why}", instance.called())
        });
        return Err(format!(
            "{group} cannot be recovered from any of its replicas:{}",
            each.collect::<String>()
        ));
    };
    match answered().find(|(_, recovery)| of_log(recovery) > of_log(best.1)) {
        None => Ok(best),
        Some((newer, recovery)) => Err(format!(
            "{} has a newer log than {}, and cannot be recovered from ({}). Where what it has more is to be given up, replace its log's disk: \
             `i2kit scale {group} --replicas 0`, `i2kit volume rm {}` and `i2kit deploy`, then ask again",
            newer.called(),
            best.0.called(),
            recovery.refused.as_deref().unwrap_or_default(),
            log_disk(group, recovery.slot),
        )),
    }
}

/// The disk with the log of a slot.
fn log_disk(group: &Name, slot: u32) -> Name {
    Name { namespace: group.namespace.clone(), name: format!("{LOG_VOLUME}-{}-{slot}", group.name) }
}

/// Which slots have a log and no machine, so that one is about to be started; nothing when there is none.
fn awaited(fleet: &Fleet, group: &InstanceGroup) -> Option<String> {
    let runs = |slot: u32| {
        let mut of_group = group.instances.iter();
        of_group.any(|one| one.ordinal == Some(slot) && one.state != InstanceState::Ended)
    };
    let has_log = |slot: &u32| fleet.disk(&log_disk(&group.name, *slot)).is_some();
    let slots: Vec<String> = (0..group.replicas)
        .filter(|slot| !runs(*slot))
        .filter(has_log)
        .map(|slot| slot.to_string())
        .collect();
    let name = &group.name;
    (!slots.is_empty()).then(|| {
        format!(
            "slot {} of {name} has no machine now, and the disk of its log is there: the cloud starts one, which may make a majority again. Ask \
             again when it runs. If that disk is lost or damaged: `i2kit scale {name} --replicas 0`, `i2kit volume rm` with its name, \
             `i2kit deploy`, and ask again",
            slots.join(", ")
        )
    })
}

/// Whether the coordinator of a machine that does not answer may run, as far as its guest said.
fn may_go_on(instance: &Instance) -> bool {
    let coordinator = instance.containers.iter().find(|container| container.name == COORDINATOR);
    // The last word of a guest that is silent may be of long ago.
    instance.silent || coordinator.is_none_or(|container| container.state.starts_with("Running"))
}

/// What would be done, and what that risks.
fn announcement(fleet: &Fleet, group: &InstanceGroup, recovery: &Recovery) -> String {
    let name = &group.name;
    let Recovery { slot, term, last, committed, .. } = recovery;
    let others = (0..group.replicas).filter(|other| other != slot);
    let survivors = recovery.survivors.iter().map(|survivor| survivor.slot.to_string());
    let lost = recovery.lost.iter().map(u32::to_string);
    // Its state on a claim as well: files without a log are nobody's.
    let of_slot = |ordinal: u32| {
        let owner = DiskOwner { group: name.clone(), ordinal };
        let of_owner = fleet.disks.iter().filter(move |disk| disk.spec.owner.as_ref() == Some(&owner));
        of_owner.map(|disk| format!(" {}", disk.spec.name))
    };
    let disks: String = others.flat_map(of_slot).collect();
    format!(
        "{name} goes on from {0} alone, whose log ends at index {last} of term {term}; up to index {committed} it is known to be agreed on.\n\
         Voters that answer: {1}. Voters that do not: {2}.\n\
         - Each write that was acknowledged and is not in this log is lost. How many there are nobody knows.\n\
         - Commands whose clients were told `unknown` may turn out to be executed.\n\
         - A replica that runs and does not reach the recovered one hears nothing. Where a majority of those of before runs without a connection \
         to it, they are a second group, and what they acknowledge is lost: start none of them before {0} leads.\n\
         - The other slots are out, with what their disks hold. One that comes back with its old log ends when it reaches the recovered one, and \
         says so; their disks are replaced, and then they join:\n\
         \x20   i2kit scale {name} --replicas 0\n\
         \x20   i2kit volume rm{disks}\n\
         \x20   i2kit deploy MANIFEST\n",
        member_name(name, *slot),
        listed(survivors),
        listed(lost),
    )
}

/// Slots in words.
fn listed(slots: impl Iterator<Item = String>) -> String {
    let slots: Vec<String> = slots.collect();
    if slots.is_empty() { "none".to_owned() } else { format!("slot {}", slots.join(", ")) }
}

/// Waits until the recovered replica leads its group of one.
async fn leads(
    cloud: &dyn Cloud,
    group: &InstanceGroup,
    (instance, recoveries): (&Instance, u64),
) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Ok(status) = cloud.replica(&instance.id).await
            && status.role == Role::Leader
            && status.recoveries >= recoveries
        {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let name = instance.called();
    let error = anyhow::anyhow!(
        "{name} has recovered the group, and does not lead it yet: `i2kit replicas {0}` shows what it waits for, `i2kit logs {0}` what it said",
        group.name
    );
    Err(Failure::new(Exit::Cloud, error))
}

#[cfg(test)]
mod tests {
    use i2kit_spec::replica::Survivor;

    use super::*;
    use crate::plan::fleet::{Disk, DiskSpec, LEAST_DISK};

    fn instance(slot: u32, coordinator: Option<&str>) -> Instance {
        let containers = coordinator.map(
            |state| serde_json::json!({"name": COORDINATOR, "ready": false, "restarts": 3, "state": state}),
        );
        serde_json::from_value(serde_json::json!({
            "id": format!("i-{slot}"), "name": format!("db-{slot}"), "ordinal": slot, "revision": 1, "state": "running",
            "health": {"status": "starting"}, "since": 0, "endpoints": [], "containers": containers.into_iter().collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    fn recovery(slot: u32, refused: Option<&str>) -> Recovery {
        let id = u64::from(slot) + 7;
        Recovery {
            group: "default/db".into(),
            slot,
            id,
            refused: refused.map(str::to_owned),
            has_quorum: false,
            term: 3,
            last: 1204,
            committed: 1200,
            survivors: vec![Survivor { slot, id, term: 3, last: 1204 }],
            lost: vec![2],
            recoveries: 0,
        }
    }

    fn name() -> Name {
        Name { namespace: "default".into(), name: "db".into() }
    }

    #[test]
    fn the_group_goes_on_from_the_one_that_may_and_not_beside_a_machine_that_is_not_heard() {
        let machines = [0, 1, 2].map(|slot| instance(slot, Some("Running")));
        let gone = instance(2, Some("CrashLoopBackOff, last: Error, exit code 1"));
        let asked = |number: usize, said| Asked { instance: &machines[number], said };
        let older = || Ok(recovery(0, Some("slot 1 has a newer log: recover from it")));
        let found = [asked(0, older()), asked(1, Ok(recovery(1, None)))];
        let (source_of, chosen) = source(&name(), &found).unwrap();
        assert_eq!((source_of.called(), chosen.slot), ("db-1", 1));
        // Its coordinator may run, or nobody knows.
        let silent = || Err("its coordinator does not answer".to_owned());
        let unheard = [asked(0, older()), asked(1, Ok(recovery(1, None))), asked(2, silent())];
        let why = source(&name(), &unheard).unwrap_err();
        assert!(
            why.starts_with("db-2 runs and does not answer (its coordinator does not answer): "),
            "{why}"
        );
        let ended = [asked(1, Ok(recovery(1, None))), Asked { instance: &gone, said: silent() }];
        assert_eq!(source(&name(), &ended).unwrap().1.slot, 1);
        // What its guest said before it became silent is of no use.
        let silent_guest = Instance { silent: true, ..gone.clone() };
        let unknown = [asked(1, Ok(recovery(1, None))), Asked { instance: &silent_guest, said: silent() }];
        assert!(source(&name(), &unknown).unwrap_err().starts_with("db-2 runs and does not answer"));
        let none =
            [asked(0, older()), asked(1, Ok(recovery(1, Some("a majority of the group can be reached"))))];
        let why = source(&name(), &none).unwrap_err();
        assert!(
            why.contains("\n  db-0: slot 1 has a newer log") && why.contains("\n  db-1: a majority"),
            "{why}"
        );
        assert!(source(&name(), &[]).unwrap_err().contains("deploy it first"));
    }

    #[test]
    fn a_majority_that_goes_on_is_not_put_out_by_one_that_is_cut_off() {
        let machines = [0, 1, 2].map(|slot| instance(slot, Some("Running")));
        let whole = |slot| Recovery { has_quorum: true, ..recovery(slot, Some("a majority is connected")) };
        let found = [whole(0), recovery(1, None), whole(2)].map(Ok);
        let asked: Vec<Asked<'_>> =
            machines.iter().zip(found).map(|(instance, said)| Asked { instance, said }).collect();
        let why = source(&name(), &asked).unwrap_err();
        assert!(why.starts_with("db-0 is connected with a majority of db"), "{why}");
    }

    #[test]
    fn of_those_that_do_not_see_each_other_the_newest_log_is_taken() {
        let machines = [0, 1].map(|slot| instance(slot, Some("Running")));
        let chosen = |logs: [(u64, u64, Option<&str>); 2]| {
            let said = |slot, (term, last, refused)| Recovery { term, last, ..recovery(slot, refused) };
            let asked = [0, 1].map(|slot| Asked {
                instance: &machines[slot],
                said: Ok(said(u32::try_from(slot).unwrap(), logs[slot])),
            });
            source(&name(), &asked).map(|(_, recovery)| recovery.slot)
        };
        assert_eq!(chosen([(3, 900, None), (3, 1204, None)]), Ok(1));
        assert_eq!(chosen([(3, 1204, None), (4, 900, None)]), Ok(1));
        assert_eq!(chosen([(3, 1204, None), (3, 1204, None)]), Ok(0));
        let why = chosen([(3, 900, None), (3, 1204, Some("it is quarantined"))]).unwrap_err();
        assert!(
            why.starts_with(
                "db-1 has a newer log than db-0, and cannot be recovered from (it is quarantined)"
            ) && why.contains("volume rm i2kit-log-db-1"),
            "{why}"
        );
        assert_eq!(chosen([(3, 900, Some("slot 1 has a newer log")), (3, 1204, None)]), Ok(1));
    }

    /// A group of three with machines in these slots, and the disks of all.
    fn stage(slots: &[u32]) -> (Fleet, InstanceGroup) {
        let settings = crate::plan::example::settings(crate::manifest::api::Strategy::Recreate);
        let instances = slots.iter().map(|slot| instance(*slot, Some("Running"))).collect();
        let group = InstanceGroup { replicas: 3, instances, ..InstanceGroup::new(name(), settings) };
        let disk = |kind: &str, ordinal| {
            let called =
                Name { namespace: "default".into(), name: format!("{kind}-{}-{ordinal}", name().name) };
            let mut spec = DiskSpec::found(called, LEAST_DISK);
            spec.owner = Some(DiskOwner { group: name(), ordinal });
            Disk { spec, created: 0, instance: None, used: None, snapshots: vec![] }
        };
        let mut fleet = Fleet { environment: "default".into(), ..Fleet::default() };
        fleet.disks = (0..3).flat_map(|slot| [disk("data", slot), disk(LOG_VOLUME, slot)]).collect();
        (fleet, group)
    }

    #[test]
    fn a_slot_whose_log_is_there_and_whose_machine_is_not_is_waited_for() {
        let (mut fleet, group) = stage(&[0]);
        let why = awaited(&fleet, &group).unwrap();
        assert!(why.starts_with("slot 1, 2 of db has no machine now"), "{why}");
        fleet.disks.retain(|disk| !disk.spec.name.name.starts_with(LOG_VOLUME));
        assert_eq!(awaited(&fleet, &group), None);
        let (fleet, group) = stage(&[0, 1, 2]);
        assert_eq!(awaited(&fleet, &group), None);
    }

    #[test]
    fn what_a_recovery_risks_is_said_with_the_commands_that_follow_it() {
        let (fleet, group) = stage(&[0, 1, 2]);
        let said = announcement(&fleet, &group, &recovery(1, None));
        assert!(
            said.starts_with(
                "db goes on from db-1 alone, whose log ends at index 1204 of term 3; up to index 1200 "
            ),
            "{said}"
        );
        assert!(said.contains("Voters that answer: slot 1. Voters that do not: slot 2.\n"), "{said}");
        assert!(said.contains("start none of them before db-1 leads"), "{said}");
        assert!(
            said.contains("    i2kit volume rm data-db-0 i2kit-log-db-0 data-db-2 i2kit-log-db-2\n"),
            "{said}"
        );
    }
}
