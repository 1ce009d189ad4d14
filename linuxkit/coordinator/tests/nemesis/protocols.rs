//! The other forms of state and protocol: hooks, and Redis' protocol.

use i2kit_spec::replica::{Limits, State};
use i2kit_spec::units::Bytes;

use crate::checks::{
    alone, assert_nothing_lost, figure_of, times, wait_for_acknowledgement, wait_for_writes,
};
use crate::client::Load;
use crate::cluster::{Cluster, Options, Replica};
use crate::eventually::eventually;
use crate::history::{NEVER, Operation, check};
use crate::resp::{Connection, client};

fn hooks() -> State {
    let command = |name: &str| vec![name.to_owned()];
    State::Hooks { container: "app".to_owned(), snapshot: command("dump"), restore: command("load") }
}

#[test]
fn a_state_by_hooks_goes_to_a_new_disk_and_comes_back_after_a_crash() {
    let _alone = alone();
    let limits = Limits { log_bytes: Bytes(1 << 20), ..Limits::default() };
    let cluster = Cluster::new(&Options { state: hooks(), limits, ..Options::default() });
    let load = Load::new();
    let ((), history) = load.around(16, &cluster.fronts(), 20, || {
        for round in 0..times(3) {
            let replica = &cluster.replicas[round % cluster.replicas.len()];
            let asked = |what: &str| replica.asked.lock().unwrap().iter().any(|asked| asked == what);
            let snapshots = |replica| figure_of(replica, "i2kit_replica_snapshot_seconds_count");
            eventually("snapshot of its own", || (snapshots(replica) > 0.0).then_some(()));
            assert!(asked("dump"), "by its hook");
            replica.lose();
            if round % 2 == 0 {
                replica.replace_disk();
                // The others' logs do not begin with the first entry any more.
                eventually("snapshots of both", || {
                    let others = cluster.replicas.iter().filter(|other| other.slot != replica.slot);
                    others.map(snapshots).all(|count| count > 1.0).then_some(())
                });
            }
            replica.asked.lock().unwrap().clear();
            wait_for_acknowledgement(&load);
            replica.start();
            replica.wait_until_ready();
            assert!(asked("load"), "it began with its snapshot's state: {}", replica.errors());
        }
    });
    assert_nothing_lost(&cluster, &history);
}

#[test]
fn redis_protocol_is_ordered_through_kills_of_leaders() {
    let _alone = alone();
    let cluster = Cluster::new(&Options { is_resp: true, ..Options::default() });
    let load = Load::new();
    let ports = cluster.fronts();
    let history: Vec<Operation> = std::thread::scope(|scope| {
        let (load, ports) = (&load, &ports);
        let started: Vec<_> =
            (0..16).map(|number| scope.spawn(move || client(load, number, ports))).collect();
        let end = crate::client::Ends(&load.ends);
        for _ in 0..times(3) {
            let leader = cluster.leader();
            wait_for_writes(leader, 50);
            leader.lose();
            wait_for_acknowledgement(load);
            leader.start();
            leader.wait_until_ready();
        }
        drop(end);
        started.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    cluster.replicas.iter().for_each(Replica::wait_until_ready);
    let journal = cluster.journal();
    let once: std::collections::HashSet<&String> = journal.iter().collect();
    assert_eq!(once.len(), journal.len(), "a write was executed twice");
    let writes = || history.iter().filter(|operation| operation.is_write);
    let line = |write: &Operation| format!("{} {}", write.register, write.value);
    let lost: Vec<_> = writes().filter(|write| write.end != NEVER && !once.contains(&line(write))).collect();
    assert!(lost.is_empty(), "acknowledged and not executed: {lost:?}");
    let asked: std::collections::HashSet<String> = writes().map(line).collect();
    let unasked: Vec<_> = journal.iter().filter(|line| !asked.contains(*line)).collect();
    assert!(unasked.is_empty(), "executed after its client was told that it never is: {unasked:?}");
    assert!(writes().filter(|write| write.end != NEVER).count() > 100);
    check(&history).unwrap();
    // A transaction is one command; what would differ is refused.
    let mut connection = Connection::open(ports[0]).unwrap();
    assert_eq!(connection.ask(&["MULTI"]).unwrap(), "+OK");
    assert_eq!(connection.ask(&["SET", "r0", "x"]).unwrap(), "+QUEUED");
    assert_eq!(connection.ask(&["DISCARD"]).unwrap(), "+OK");
    assert!(connection.ask(&["SPOP", "a"]).unwrap().starts_with('-'));
}
