//! What an operator does: moves the lead, and recovers a group that has lost its majority.

use i2kit_spec::replica::{Led, Recovered, Recovery, Refused, Role};

use crate::checks::{alone, assert_nothing_lost, times, wait_for_acknowledgement, wait_for_writes};
use crate::client::{Answer, Load, get, once, put};
use crate::cluster::{Cluster, Options, Replica, SLOTS};
use crate::eventually::eventually;

const GROUP: &str = "default/register";

fn body<T: serde::de::DeserializeOwned>(answer: &Answer) -> T {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn ask_to_lead(replica: &Replica, slot: usize) -> Option<Answer> {
    replica.control("POST", "/lead", &format!("{{\"group\":\"{GROUP}\",\"slot\":{slot}}}"))
}

/// Has a slot lead, as an operator does: asks the leader, and again when that has changed meanwhile.
pub(crate) fn lead(cluster: &Cluster, slot: usize) -> Led {
    eventually("leader of the operator's choice", || {
        let answer = ask_to_lead(cluster.leader(), slot)?;
        assert!([200, 409, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 200).then(|| body(&answer))
    })
}

#[test]
fn the_lead_goes_where_an_operator_wants_it() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(16, &cluster.fronts(), 30, || {
        for round in 0..times(6) {
            wait_for_writes(cluster.leader(), 50);
            let wanted = (cluster.leader().slot + 1 + round % 2) % SLOTS;
            assert_eq!(lead(&cluster, wanted).leader, u32::try_from(wanted).unwrap());
            wait_for_acknowledgement(&load);
        }
    });
    assert_nothing_lost(&cluster, &history);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let refused = |answer: Option<Answer>, status| {
        let answer = answer.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        body::<Refused>(&answer)
    };
    let elsewhere = refused(ask_to_lead(follower, follower.slot), 409);
    assert_eq!(elsewhere.leader, Some(u32::try_from(leader.slot).unwrap()), "{elsewhere:?}");
    refused(ask_to_lead(leader, SLOTS), 400);
    refused(leader.control("POST", "/lead", "{\"group\":\"default/other\",\"slot\":1}"), 409);
    refused(leader.control("POST", "/lead", "{}"), 400);
    refused(leader.control("DELETE", "/lead", ""), 405);
    // Who leads already is told so.
    assert_eq!(ask_to_lead(leader, leader.slot).unwrap().status, 200);
    follower.lose();
    let gone = eventually("refusal of a slot that is gone", || {
        ask_to_lead(leader, follower.slot).filter(|answer| answer.status != 503)
    });
    assert!(refused(Some(gone), 409).error.contains("not connected"));
}

fn recovery(replica: &Replica) -> Recovery {
    let answer = replica.control("GET", "/recover", "").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    body(&answer)
}

fn recover(replica: &Replica, id: u64) -> Answer {
    replica.control("POST", "/recover", &format!("{{\"group\":\"{GROUP}\",\"id\":\"{id:016x}\"}}")).unwrap()
}

/// Writes that are on all replicas.
fn write_some(cluster: &Cluster, name: &str, count: usize) -> Vec<String> {
    for number in 0..count {
        let front = cluster.replicas[number % SLOTS].ports.front;
        let request = put("r0", &format!("{name}.{number}"), Some(&format!("{name}-{number}")));
        eventually("write", || once(front, &request).filter(|answer| answer.status == 200));
    }
    cluster.journal()
}

#[test]
fn a_group_that_lost_its_majority_goes_on_from_one_replica_and_the_others_are_kept_out() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    for round in 0..u64::try_from(times(1)).unwrap() {
        let before = write_some(&cluster, &format!("a{round}"), 10);
        let survivor = cluster.leader();
        let id = survivor.status().unwrap().id;
        // A group that is whole, or has a majority, is left alone.
        assert!(recovery(survivor).refused.unwrap().contains("needs no recovery"));
        assert_eq!(recover(survivor, id).status, 409);
        let others: Vec<&Replica> =
            cluster.replicas.iter().filter(|replica| replica.slot != survivor.slot).collect();
        for replica in &others {
            replica.lose();
        }
        let found = eventually("loss of the majority", || {
            Some(recovery(survivor)).filter(|found| found.refused.is_none())
        });
        assert!(!survivor.status().unwrap().has_quorum);
        let mut lost: Vec<usize> = found.lost.iter().map(|slot| usize::try_from(*slot).unwrap()).collect();
        lost.sort_unstable();
        assert_eq!(lost, others.iter().map(|replica| replica.slot).collect::<Vec<_>>());
        assert_eq!((found.survivors.len(), found.recoveries), (1, round));
        assert_eq!(recover(survivor, id ^ 1).status, 409, "another log than the one that was looked at");
        let answer = recover(survivor, id);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(body::<Recovered>(&answer).recoveries, round + 1);
        survivor.wait_until_ended();
        survivor.start();
        survivor.wait_until_ready();
        let status = survivor.status().unwrap();
        assert_eq!(
            (status.role, status.recoveries, status.members.len()),
            (Role::Leader, round + 1, 1),
            "{status:?}"
        );
        assert_eq!(survivor.application.journal(), before);
        // The others are a majority of the group that was. They hear of the recovery before they could vote.
        for replica in &others {
            replica.start();
        }
        for replica in &others {
            replica.wait_until_ended();
            replica.application.kill();
            assert!(replica.errors().contains("was recovered without this replica"), "{}", replica.errors());
        }
        assert_eq!(
            once(survivor.ports.front, &put("r1", "alone", Some(&format!("alone-{round}")))).unwrap().status,
            200
        );
        // With empty disks they are taken in.
        for replica in &others {
            replica.replace_disk();
            replica.start();
        }
        let after = write_some(&cluster, &format!("b{round}"), 10);
        assert_eq!(after[..before.len()], before[..]);
        assert_eq!(after[before.len()], "r1 alone");
        let status = cluster.leader().status().unwrap();
        assert_eq!(status.members.iter().filter(|member| member.voter).count(), SLOTS, "{status:?}");
        assert!(
            cluster
                .replicas
                .iter()
                .all(|replica| replica.status().is_some_and(|status| status.recoveries == round + 1))
        );
    }
}

#[test]
fn a_recovered_group_takes_writes_under_load_and_grows() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let survivor = &cluster.replicas[0];
    lead(&cluster, survivor.slot);
    write_some(&cluster, "before", 5);
    for replica in &cluster.replicas[1..] {
        replica.lose();
        replica.replace_disk();
    }
    eventually("loss of the majority", || recovery(survivor).refused.is_none().then_some(()));
    let id = survivor.status().unwrap().id;
    assert_eq!(recover(survivor, id).status, 200);
    survivor.wait_until_ended();
    survivor.start();
    survivor.wait_until_ready();
    let ((), mut history) = load.around(16, &cluster.fronts(), 30, || {
        for replica in &cluster.replicas[1..] {
            wait_for_writes(survivor, 50);
            replica.start();
            replica.wait_until_ready();
        }
        // Now the majority is there without it.
        wait_for_acknowledgement(&load);
        survivor.lose();
        wait_for_acknowledgement(&load);
        survivor.start();
        survivor.wait_until_ready();
    });
    // What was written before the load is in the journal too.
    for number in 0..5 {
        let value = format!("before.{number}");
        let operation =
            crate::history::Operation { register: "r0".into(), is_write: true, value, begin: 0, end: 0 };
        history.push(operation);
    }
    history.retain(|operation| operation.is_write || !operation.value.starts_with("before."));
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn empty_disks_of_a_group_that_had_a_state_found_no_new_one() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    write_some(&cluster, "a", 3);
    // The host notes that the group has a state.
    std::fs::write(cluster.identity().join("founded"), "").unwrap();
    cluster.replicas.iter().for_each(Replica::lose);
    cluster.replicas.iter().for_each(Replica::start);
    assert_eq!(cluster.journal().len(), 3, "logs that are there are used");
    let kept = tempfile::tempdir().unwrap();
    let disk = kept.path().join("log");
    cluster.replicas.iter().for_each(Replica::lose);
    std::fs::rename(cluster.replicas[0].folder.join("log"), &disk).unwrap();
    std::fs::create_dir(cluster.replicas[0].folder.join("log")).unwrap();
    cluster.replicas[1..].iter().for_each(Replica::replace_disk);
    cluster.replicas.iter().for_each(Replica::start);
    let status = eventually("refusal", || {
        let status = cluster.replicas[0].status()?;
        status.waits_for.as_ref()?.contains("the group had a state before").then_some(status)
    });
    assert!(status.members.is_empty(), "{status:?}");
    assert!(cluster.replicas[0].errors().contains("no new group is founded"));
    let refused = once(cluster.replicas[1].ports.front, &get("/kv/r0")).unwrap();
    assert_eq!((refused.status, refused.outcome.as_str()), (503, "not-done"));
    // One disk of before is a minority: it goes on when an operator says so.
    cluster.replicas[0].lose();
    std::fs::remove_dir_all(cluster.replicas[0].folder.join("log")).unwrap();
    std::fs::rename(&disk, cluster.replicas[0].folder.join("log")).unwrap();
    cluster.replicas[0].start();
    let survivor = &cluster.replicas[0];
    let id = eventually("survivor", || survivor.status().map(|status| status.id));
    eventually("recovery", || (recover(survivor, id).status == 200).then_some(()));
    survivor.wait_until_ended();
    survivor.start();
    // Those that waited with empty disks begin anew, and join.
    for replica in &cluster.replicas[1..] {
        eventually("member again", || {
            if replica.has_ended() {
                replica.start();
            }
            replica.admin("/readyz").filter(|answer| answer.status == 200)
        });
    }
    assert_eq!(cluster.journal().len(), 3);
}

#[test]
fn a_replica_whose_recovery_may_be_written_ends_and_the_host_keeps_older_logs_out() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let before = write_some(&cluster, "before", 5);
    let survivor = &cluster.replicas[0];
    let id = survivor.status().unwrap().id;
    cluster.replicas[1..].iter().for_each(Replica::lose);
    eventually("loss of the majority", || recovery(survivor).refused.is_none().then_some(()));
    let in_the_way = survivor.folder.join("log/era.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let answer = recover(survivor, id);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(body::<Refused>(&answer).error.contains("begins anew"), "{answer:?}");
    survivor.wait_until_ended();
    std::fs::remove_dir(&in_the_way).unwrap();
    survivor.start();
    eventually("recovery", || {
        let found = survivor.control("GET", "/recover", "").filter(|answer| answer.status == 200)?;
        let found: Recovery = body(&found);
        assert_eq!((found.recoveries, found.has_quorum), (0, false));
        (recover(survivor, id).status == 200).then_some(())
    });
    survivor.wait_until_ended();
    // A majority of those of before starts, and does not reach the recovered one.
    std::fs::write(cluster.identity().join("founded"), "1").unwrap();
    for replica in &cluster.replicas[1..] {
        replica.start();
    }
    for replica in &cluster.replicas[1..] {
        replica.wait_until_ended();
        assert!(
            replica.errors().contains("was recovered without this replica (1 times"),
            "{}",
            replica.errors()
        );
    }
    survivor.start();
    survivor.wait_until_ready();
    assert_eq!(survivor.application.journal(), before);
}
