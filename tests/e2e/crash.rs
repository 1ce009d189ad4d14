//! `i2kit deploy` killed at any moment: the next run converges.

use std::time::Duration;

use crate::support::{World, kill, machines, soaks, wait_for_page};

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
            let machines =
                world.processes().iter().filter(|(_, arguments)| arguments.contains("qemu")).count();
            assert_eq!(machines, group.instances.len(), "an orphan: {:?}", world.processes());
        }
    }
    world.i2kit(&["destroy", "crash.yaml"]).run();
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
    }
    world.i2kit(&["destroy", "crash.yaml"]).run();
    world.assert_nothing_left();
}
