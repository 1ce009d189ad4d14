//! Faults that nobody asked for: a network that is cut, processes that stand, clocks that jump, disks that are full.

use std::sync::atomic::Ordering;

use i2kit_spec::replica::{Integrity, Limits, Role, State};
use i2kit_spec::units::{Bytes, Millis};
use rustix::process::Signal;

use crate::checks::{alone, assert_nothing_lost, times, wait_for_acknowledgement, wait_for_writes};
use crate::client::{Load, once, put};
use crate::cluster::{Cluster, Options, Replica, SLOTS};
use crate::disk::Disk;
use crate::eventually::eventually;
use crate::net::{self, Healed, way};

/// Clients: fewer than where the load itself is the question.
const CLIENTS: usize = 16;

fn proxied() -> Options {
    Options { way: Some(way), ..Options::default() }
}

/// Does so for every replica of a group, and waits until all are ready again.
fn settle(cluster: &Cluster) {
    cluster.replicas.iter().for_each(Replica::wait_until_ready);
}

#[test]
fn a_replica_that_is_cut_off_holds_nobody_up_and_comes_back() {
    let _alone = alone();
    let _healed = Healed::new();
    let cluster = Cluster::new(&proxied());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 30, || {
        for round in 0..times(4) {
            wait_for_writes(cluster.leader(), 50);
            let away = if round % 2 == 0 { cluster.leader() } else { cluster.follower() };
            net::cut_off(away.slot);
            for _ in 0..3 {
                wait_for_acknowledgement(&load);
            }
            net::heal();
            settle(&cluster);
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn ways_that_lead_in_one_direction_alone_and_slow_ones_lose_nothing() {
    let _alone = alone();
    let _healed = Healed::new();
    let cluster = Cluster::new(&proxied());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 30, || {
        for round in 0..times(5) {
            wait_for_writes(cluster.leader(), 50);
            let (leader, follower) = (cluster.leader().slot, cluster.follower().slot);
            match round % 5 {
                0 => net::mute(leader),
                1 => net::deafen(leader),
                2 => net::mute(follower),
                3 => net::deafen(follower),
                _ => net::slow(leader, 40),
            }
            for _ in 0..3 {
                wait_for_acknowledgement(&load);
            }
            net::heal();
            settle(&cluster);
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn a_coordinator_that_stands_for_a_while_reads_and_writes_nothing_old() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 50, || {
        for round in 0..times(4) {
            wait_for_writes(cluster.leader(), 50);
            let stands = if round % 2 == 0 { cluster.leader() } else { cluster.follower() };
            stands.signal(Signal::STOP);
            for _ in 0..3 {
                wait_for_acknowledgement(&load);
            }
            stands.signal(Signal::CONT);
            settle(&cluster);
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn clocks_that_jump_change_neither_the_order_nor_agreed_time() {
    /// Less than keys are remembered for.
    const STEP: i64 = 8 * 60 * 1000;
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 30, || {
        for round in 0..times(6) {
            wait_for_writes(cluster.leader(), 50);
            let replica = if round % 2 == 0 { cluster.leader() } else { cluster.follower() };
            replica.step_clock([STEP, -STEP, 0][round % 3]);
            for _ in 0..3 {
                wait_for_acknowledgement(&load);
            }
            // Another one leads, with another clock.
            let leader = cluster.leader();
            leader.lose();
            wait_for_acknowledgement(&load);
            leader.start();
            settle(&cluster);
        }
    });
    // Agreed time never went back, which this asks for too.
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn a_disk_that_is_full_stops_its_replica_alone() {
    let _alone = alone();
    let disk = Disk::new(24);
    let limits = Limits { log_bytes: Bytes(8 << 20), ..Limits::default() };
    let state = State::Directory { volume: "data".to_owned() };
    let options = Options { limits, state, log: Some(disk.log()), ..Options::default() };
    let cluster = Cluster::new(&options);
    let small = &cluster.replicas[0];
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for round in 0..times(4) {
            wait_for_writes(cluster.leader(), 50);
            // As a leader and as a follower, with no room at all and with too little.
            let wanted = if round % 2 == 0 { small.slot } else { small.slot + 1 };
            crate::operator::lead(&cluster, wanted);
            disk.fill([0, 2048][round / 2 % 2]);
            for _ in 0..3 {
                wait_for_acknowledgement(&load);
            }
            disk.empty();
            if small.has_ended() {
                small.start();
            }
            settle(&cluster);
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn an_application_that_is_not_deterministic_is_named_and_no_disk_is_blamed() {
    let _alone = alone();
    let cluster = Cluster::new(&Options::default());
    for (slot, replica) in (1..).zip(&cluster.replicas) {
        replica.application.salt.store(slot, Ordering::SeqCst);
    }
    let load = Load::new();
    let ((), history) = load.around(CLIENTS, &cluster.fronts(), 20, || {
        for replica in &cluster.replicas {
            eventually("word about the application", || {
                replica.errors().contains("the application is not deterministic").then_some(())
            });
        }
        wait_for_writes(cluster.leader(), 200);
    });
    for replica in &cluster.replicas {
        let status = replica.status().unwrap();
        assert!(status.role != Role::Quarantined && status.divergences > 0, "{status:?}");
    }
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn with_a_quorum_of_replies_no_reply_of_such_an_application_leaves() {
    let _alone = alone();
    let limits = Limits { deadline: Millis(1000), ..Limits::default() };
    let cluster = Cluster::new(&Options { limits, integrity: Integrity::Quorum, ..Options::default() });
    for (slot, replica) in (1..).zip(&cluster.replicas) {
        replica.application.salt.store(slot, Ordering::SeqCst);
    }
    for slot in 0..SLOTS {
        let answer =
            once(cluster.replicas[slot].ports.front, &put("r0", &format!("0.{slot}"), None)).unwrap();
        assert_eq!((answer.status, answer.outcome.as_str()), (503, "unknown"), "{answer:?}");
    }
    // What the clients were told is right: it may have been done.
    let journal = eventually("writes on all replicas", || {
        let journals: Vec<_> = cluster.replicas.iter().map(|replica| replica.application.journal()).collect();
        journals.iter().all(|journal| *journal == journals[0]).then_some(journals[0].clone())
    });
    assert_eq!(journal, ["r0 0.0", "r0 0.1", "r0 0.2"]);
}
