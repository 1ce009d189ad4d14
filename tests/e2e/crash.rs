//! `i2kit deploy` killed at any moment: the next run converges.

use std::fs;
use std::process::Command;
use std::time::Duration;

use i2kit::plan::fleet::{InstanceGroup, InstanceState};

use crate::support::{World, eventually, kill, machines, soaks, wait_for_page};

/// Two machines that start fast.
const MANIFEST: &str = "name: crash
replicas: 2
public: true
containers:
  httpd:
    image: busybox:1.35
    command: [/bin/sh, -c, 'echo REVISION > index.html; exec httpd -f -p 80']
    ports: [80]
";

/// A number below `below` that follows from `seed`: moments are spread, and a failure can be repeated.
fn scattered(seed: u64, below: u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state ^ (state >> 31)) % below
}

/// A process that was sent a signal; it goes on when this is dropped.
struct Signalled(u32);

fn signal(name: &str, pid: u32) -> Signalled {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
    Signalled(pid)
}

impl Drop for Signalled {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0.to_string()]).status();
    }
}

/// Fails the test while a machine runs of which no record tells, but for one that becomes a snapshot. Records are looked at first: a machine may end between the
/// two looks, but none starts. A record may well be without a machine: one that failed is kept for its reason.
fn no_orphans(world: &World) {
    let group = world.group("crash");
    let recorded = |arguments: &str| {
        group.instances.iter().any(|instance| {
            instance.state != InstanceState::Ended && arguments.contains(&format!("guest={} ", instance.id))
        })
    };
    let processes = world.processes();
    let orphans: Vec<_> = processes
        .iter()
        .filter(|(_, arguments)| arguments.contains("qemu") && !arguments.contains("guest=template "))
        .filter(|(_, arguments)| !recorded(arguments))
        .collect();
    assert!(orphans.is_empty(), "{orphans:?} beside {group:#?}");
}

#[test]
fn a_killed_deploy_converges_when_it_is_run_again() {
    if !machines() {
        return;
    }
    let world = World::new();
    let manifest = |revision: &str| MANIFEST.replace("REVISION", revision);
    world.write("crash.yaml", &manifest("revision 0"));
    let whole = world.i2kit(&["deploy", "crash.yaml"]).run().took;
    for round in 1..=10 {
        let page = format!("revision {round}");
        world.write("crash.yaml", &manifest(&page));
        let mut deploy = world.i2kit(&["deploy", "crash.yaml"]).start();
        let limit = u64::try_from(whole.as_millis()).unwrap();
        std::thread::sleep(Duration::from_millis(scattered(round, limit)));
        deploy.kill().unwrap();
        deploy.wait().unwrap();

        // Every second time the killed one is simply run again at the end, so that kills pile up.
        if round % 2 == 0 {
            world.i2kit(&["deploy", "crash.yaml"]).run();
            wait_for_page(&world.address("crash"), &page);
            let group = world.group("crash");
            assert_eq!((group.healthy(), group.members().count()), (2, 2), "{group:#?}");
            no_orphans(&world);
        }
    }
    // Whoever removes the folder of the local cloud wants nothing of it to be left.
    fs::remove_dir_all(world.path().join("state/i2kit/local")).unwrap();
    world.assert_nothing_left();
}

#[test]
fn a_rollout_goes_on_when_the_local_cloud_is_killed_under_it() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write("crash.yaml", &MANIFEST.replace("REVISION", "before"));
    let whole = world.i2kit(&["deploy", "crash.yaml"]).run().took;
    for round in 0..if soaks() { 20 } else { 1 } {
        let page = format!("after {round}");
        world.write("crash.yaml", &MANIFEST.replace("REVISION", &page));
        let mut deploy = world.i2kit(&["deploy", "crash.yaml"]).start();
        for _ in 0..3 {
            // Only a choice of moments: whichever they are, the rollout goes on.
            std::thread::sleep(whole / 4);
            kill(world.local_cloud());
        }
        assert!(deploy.wait().unwrap().success());
        wait_for_page(&world.address("crash"), &page);
        assert_eq!(world.group("crash").healthy(), 2);
        // The first question after a start has the addresses in its answer.
        kill(world.local_cloud());
        world.address("crash");
    }
    let machines = world.group("crash");

    // A process that is stopped is named, and its machines serve on.
    let cloud = world.local_cloud();
    let stopped = signal("STOP", cloud);
    world.i2kit(&["status"]).code(7).says(&format!("process {cloud} is stopped")).run();
    drop(stopped);

    // Socket and database are made anew by the process that has them.
    let state = world.path().join("state/i2kit/local");
    fs::remove_file(state.join("cloud.sock")).unwrap();
    fs::remove_file(state.join("cloud.db")).unwrap();
    world.i2kit(&["status"]).prints("crash").run();
    eventually("new database", || state.join("cloud.db").exists().then_some(()));
    assert_eq!(world.local_cloud(), cloud, "another process took over");
    kill(cloud);
    let ids = |group: &InstanceGroup| group.members().map(|i| (i.id.clone(), i.pid)).collect::<Vec<_>>();
    assert_eq!(ids(&world.group("crash")), ids(&machines), "a machine was lost with the database's file");

    // An empty database is no empty environment: nothing is ended, and the way out is named.
    kill(world.local_cloud());
    fs::write(state.join("cloud.db"), "").unwrap();
    for verb in [&["status"][..], &["destroy", "--all"]] {
        world
            .i2kit(verb)
            .code(7)
            .says("cloud.db is missing or holds nothing")
            .says("i2kit destroy --lost")
            .run();
    }
    // Machines of the old revision may still be on their way out.
    let processes = world.processes();
    for machine in machines.members() {
        let runs = processes.iter().any(|(pid, _)| Some(*pid) == machine.pid);
        assert!(runs, "{} was ended: {processes:?}", machine.id);
    }
    world.i2kit(&["destroy", "--lost"]).run();
    world.assert_nothing_left();
}
