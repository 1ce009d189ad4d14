//! A group of three coordinators under load, with faults: nothing that was acknowledged is lost, nothing is done twice, and all
//! applications execute the same writes in the same order.
//!
//! The coordinators are processes on loopback; the test is the clients, the applications and the supervisors. `I2KIT_SOAK=1` kills
//! a hundred times where a plain run kills a few times.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod application;
mod checks;
mod client;
#[expect(dead_code, reason = "the tests of faults use more")]
mod cluster;
#[path = "../../../../tests/support/eventually.rs"]
mod eventually;
mod history;

use i2kit_spec::replica::{Limits, ReplicaStatus, Role, State};
use i2kit_spec::units::{Bytes, Millis};

use checks::{alone, assert_nothing_lost, figure_of, times, wait_for_acknowledgement, wait_for_writes};
use client::{Load, get, once, put};
use cluster::{Cluster, Options, Replica, SLOTS};
use eventually::eventually;
use history::{Operation, check};

/// Clients of a group under load.
const CLIENTS: usize = 64;

fn directory() -> State {
    State::Directory { volume: "data".to_owned() }
}

#[test]
fn writes_are_the_same_everywhere_and_reads_see_them() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), mut history) =
        load.around(CLIENTS, &cluster.fronts(), 50, || wait_for_writes(cluster.leader(), 3000));
    assert_nothing_lost(&cluster, &history);
    let reads = history.iter().filter(|operation| !operation.is_write).count();
    assert!(reads > 1000, "only {reads} reads");
    // The same history with one read of an older value is refused: the check can fail.
    let latest = history
        .iter()
        .filter(|operation| operation.is_write)
        .max_by_key(|write| write.begin)
        .unwrap()
        .clone();
    let older = history
        .iter()
        .find(|write| write.is_write && write.register == latest.register && write.end < latest.begin);
    let older = older.unwrap().value.clone();
    history.push(Operation {
        is_write: false,
        value: older,
        begin: latest.end + 1,
        end: latest.end + 2,
        ..latest
    });
    assert!(check(&history).is_err(), "a read of an older value passes");
}

#[test]
fn a_leader_that_is_killed_loses_nothing() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let mut resumed = Vec::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for round in 0..times(20) {
            let leader = cluster.leader();
            wait_for_writes(leader, 100);
            leader.lose();
            resumed.push(wait_for_acknowledgement(&load));
            // One in four comes back under load. A state in memory is made anew from the first write on, so that a hundred
            // would take hours.
            load.rests.store(round % 4 != 0, std::sync::atomic::Ordering::Relaxed);
            leader.start();
            leader.wait_until_ready();
            load.rests.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert_nothing_lost(&cluster, &history);
    resumed.sort_unstable();
    let [first, middle, last] = [0, resumed.len() / 2, resumed.len() - 1].map(|at| resumed[at].as_millis());
    let writes = history.iter().filter(|operation| operation.is_write).count();
    figure(&format!(
        "{} leaders killed under load: 0 of {writes} acknowledged writes lost, none twice; writes went on after \
         {first} / {middle} / {last} ms (least, median, most)",
        resumed.len()
    ));
}

/// A figure for `scripts/bench`.
#[expect(clippy::print_stdout, reason = "figures are printed")]
fn figure(text: &str) {
    println!("figure: {text}");
}

#[test]
fn an_application_that_dies_alone_comes_back_with_its_state() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for round in 0..times(4) {
            let replica = &cluster.replicas[round % SLOTS];
            wait_for_writes(cluster.leader(), 100);
            replica.application.kill();
            eventually("application that runs again", || (replica.application.writes() > 0).then_some(()));
            replica.wait_until_ready();
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn a_coordinator_that_dies_alone_comes_back() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for round in 0..times(4) {
            let replica = &cluster.replicas[round % SLOTS];
            wait_for_writes(cluster.leader(), 100);
            replica.kill();
            wait_for_acknowledgement(&load);
            replica.start();
            replica.wait_until_ready();
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn a_group_that_is_killed_as_a_whole_has_all_that_it_acknowledged() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for _ in 0..times(3) {
            wait_for_writes(cluster.leader(), 200);
            cluster.replicas.iter().for_each(Replica::lose);
            cluster.replicas.iter().for_each(Replica::start);
            cluster.replicas.iter().for_each(Replica::wait_until_ready);
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn a_replica_whose_application_differs_is_quarantined() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let odd = cluster.follower();
    odd.application.differs_at.store(500, std::sync::atomic::Ordering::SeqCst);
    let others: Vec<&Replica> = cluster.replicas.iter().filter(|replica| replica.slot != odd.slot).collect();
    let ports: Vec<u16> = others.iter().map(|replica| replica.ports.front).collect();
    let load = Load::new();
    let (status, history) = load.around(CLIENTS, &ports, 20, || {
        let status =
            eventually("quarantine", || odd.status().filter(|status| status.role == Role::Quarantined));
        wait_for_acknowledgement(&load);
        status
    });
    assert!(status.diverged_at.is_some() && status.divergences > 0, "{status:?}");
    assert_eq!(odd.admin("/readyz").unwrap().status, 503);
    let refused = eventually("answer of the one in quarantine", || once(odd.ports.front, &get("/kv/r1")));
    assert_eq!((refused.status, refused.outcome.as_str()), (503, "not-done"), "it serves nobody");
    for replica in &others {
        replica.wait_until_ready();
    }
    check(&history).unwrap();
}

#[test]
fn a_new_disk_in_a_slot_joins_and_takes_its_place() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let (ids, history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        wait_for_writes(cluster.leader(), 500);
        let replaced = cluster.follower();
        let before = replaced.status().unwrap().id;
        replaced.lose();
        std::fs::remove_dir_all(replaced.folder.join("log")).unwrap();
        std::fs::create_dir(replaced.folder.join("log")).unwrap();
        replaced.start();
        replaced.wait_until_ready();
        let after = replaced.status().unwrap();
        // The new one is needed now: without its vote there is no quorum.
        let leader = cluster.leader();
        let leader = if leader.slot == replaced.slot {
            &cluster.replicas[(replaced.slot + 1) % SLOTS]
        } else {
            leader
        };
        leader.lose();
        wait_for_acknowledgement(&load);
        leader.start();
        leader.wait_until_ready();
        (replaced.slot, before, after)
    });
    let (slot, before, after) = ids;
    assert_ne!(before, after.id, "never the old identity on an empty disk");
    assert_nothing_lost(&cluster, &history);
    let status: ReplicaStatus = cluster.leader().status().unwrap();
    let voters: Vec<(u32, u64)> =
        status.members.iter().filter(|member| member.voter).map(|member| (member.slot, member.id)).collect();
    assert_eq!(voters.len(), SLOTS, "{status:?}");
    assert!(voters.contains(&(u32::try_from(slot).unwrap(), after.id)), "{status:?}");
}

#[test]
fn a_follower_that_was_away_too_long_comes_back_by_a_snapshot() {
    let _alone = alone();
    let limits = Limits { log_bytes: Bytes(1 << 20), ..Limits::default() };
    let cluster = Cluster::new(&Options { state: directory(), limits, ..Options::default() });
    let load = Load::new();
    let (away, history) = load.around(CLIENTS, &cluster.fronts(), 10, || {
        wait_for_writes(cluster.leader(), 200);
        let away = cluster.follower();
        let was_at = away.status().unwrap().applied;
        away.lose();
        // Both others take snapshots until the log begins after what the third one has.
        eventually("snapshots of both", || {
            let others = cluster.replicas.iter().filter(|replica| replica.slot != away.slot);
            let mut counts = others.map(|replica| figure_of(replica, "i2kit_replica_snapshot_seconds_count"));
            counts.all(|count| count > 1.0).then_some(())
        });
        away.asked.lock().unwrap().clear();
        away.start();
        away.wait_until_ready();
        assert!(away.status().unwrap().applied > was_at);
        away
    });
    let asked = away.asked.lock().unwrap().clone();
    assert!(asked.iter().any(|what| what == "start with state"), "it started from a snapshot: {asked:?}");
    assert!(away.errors().contains("came from another replica"), "{}", away.errors());
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn a_log_of_long_entries_stays_within_its_bounds() {
    const LIMIT: u64 = 2 << 20;
    let _alone = alone();
    let limits = Limits { log_bytes: Bytes(LIMIT), ..Limits::default() };
    let cluster = Cluster::new(&Options { state: directory(), limits, ..Options::default() });
    let value = "x".repeat(128 << 10);
    // Far fewer entries than are kept for replicas that are a little behind, and seven times the limit.
    for number in 0..120 {
        let front = cluster.replicas[number % SLOTS].ports.front;
        let request = put("r0", &format!("{number}.{value}"), Some(&number.to_string()));
        eventually("write of a long value", || once(front, &request).filter(|answer| answer.status == 200));
    }
    for replica in &cluster.replicas {
        eventually("log within its bounds", || {
            replica.status().filter(|status| status.log_bytes <= 2 * LIMIT && status.waits_for.is_none())
        });
    }
    assert_eq!(cluster.journal().len(), 120);
}

#[test]
fn a_leader_that_is_told_to_end_hands_over() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for _ in 0..times(5) {
            let leader = cluster.leader();
            wait_for_writes(leader, 100);
            assert!(leader.terminate(), "{}", leader.errors());
            let after = cluster.leader();
            assert_ne!(after.slot, leader.slot);
            wait_for_acknowledgement(&load);
            leader.application.kill();
            leader.start();
            leader.wait_until_ready();
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_and_nothing_is_done_later() {
    let _alone = alone();
    let limits = Limits { deadline: Millis(1000), ..Limits::default() };
    let cluster = Cluster::new(&Options { limits, ..Options::default() });
    let left = cluster.leader();
    let first = once(left.ports.front, &put("r0", "before", None)).unwrap();
    assert_eq!(first.status, 200);
    let others: Vec<&Replica> = cluster.replicas.iter().filter(|replica| replica.slot != left.slot).collect();
    for replica in &others {
        replica.lose();
    }
    // What was on its way to the others while they went could be done when they are back.
    eventually("loss of the majority", || left.status().filter(|status| !status.has_quorum));
    let tried: Vec<_> = std::thread::scope(|scope| {
        let ask =
            |number: usize| once(left.ports.front, &put("r1", &format!("lost.{number}"), None)).unwrap();
        let asked: Vec<_> = (0..20).map(|number| scope.spawn(move || ask(number))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    for answer in &tried {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(["unknown", "not-done"].contains(&answer.outcome.as_str()), "{answer:?}");
    }
    let read = once(left.ports.front, &get("/kv/r0")).unwrap();
    assert_eq!((read.status, read.outcome.as_str()), (503, "not-done"), "{read:?}");
    for replica in &others {
        replica.start();
    }
    cluster.replicas.iter().for_each(Replica::wait_until_ready);
    eventually("write that is done again", || {
        once(left.ports.front, &put("r2", "after", Some("after"))).filter(|answer| answer.status == 200)
    });
    assert_eq!(
        cluster.journal(),
        ["r0 before", "r2 after"],
        "a write was done after its client had been told otherwise"
    );
}

#[test]
fn a_key_is_answered_with_the_reply_of_its_first_use() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let ports = cluster.fronts();
    let ask = |port: u16, value: &str, key: &str| once(port, &put("r0", value, Some(key))).unwrap();
    let first = ask(ports[0], "1", "a");
    assert_eq!((first.status, first.body.as_str()), (200, "1"));
    for port in &ports {
        assert_eq!(ask(*port, "1", "a"), first);
    }
    assert_eq!(ask(ports[1], "2", "b").body, "2");
    cluster.replicas.iter().for_each(Replica::lose);
    cluster.replicas.iter().for_each(Replica::start);
    cluster.replicas.iter().for_each(Replica::wait_until_ready);
    assert_eq!(ask(ports[2], "1", "a"), first);
    assert_eq!(cluster.journal(), ["r0 1", "r0 2"]);
}
