//! What clients of a Service lose while each process of the local cloud is killed again and again, and they make hundreds of
//! connections a second. Machines that are emulated do not answer as many; stand-ins do.

#[path = "../../tests/support/pace.rs"]
mod pace;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{Role, World, eventually, page, processes};
use pace::{Pace, RATE};

/// Instances behind the Service: enough for all clients, of which a stand-in serves a few at once.
const INSTANCES: u32 = 16;

/// Clients, each with a connection at once.
const CLIENTS: u32 = 8;

/// How often each process is killed.
const KILLS: u32 = 20;

/// What is killed.
const ROLES: [Role; 5] =
    [Role::LocalCloud, Role::FrontDoor, Role::FrontDoorInside, Role::Guardian, Role::Holder];

/// What clients have seen since they began.
struct Seen {
    pace: Pace,
    answered: AtomicU32,
    lost: AtomicU32,
    is_over: AtomicBool,
}

impl Seen {
    /// Answers and losses.
    fn now(&self) -> (u32, u32) {
        (self.answered.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Asks [`RATE`] times a second with the other clients. Half an answer is none.
    fn ask(&self, address: &str) {
        let is_whole = |answer: String| answer.contains(" 200 OK") && answer.ends_with('\n');
        while !self.is_over.load(Ordering::Relaxed) {
            self.pace.wait();
            let counter = if page(address).is_ok_and(is_whole) { &self.answered } else { &self.lost };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends the clients, also after a failure.
struct Ending<'s>(&'s Seen);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Deploys, kills each process, prints what was lost, and destroys everything again. Fails when anything was lost.
pub(crate) fn run(world: &World) {
    world.write(INSTANCES);
    world.call(&["deploy", "web.yaml"]);
    let address = world.address();
    let seen = Seen {
        pace: Pace::new(),
        answered: AtomicU32::new(0),
        lost: AtomicU32::new(0),
        is_over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| seen.ask(&address));
        }
        let _ending = Ending(&seen);
        for role in ROLES {
            let before = seen.now();
            for _ in 0..KILLS {
                strike(world, role, &seen);
            }
            let (answered, lost) = seen.now();
            let (answered, lost) = (answered - before.0, lost - before.1);
            println!("{} killed {KILLS} times: {lost} of {} requests lost", role.name(), answered + lost);
        }
        let rate = seen.pace.rate(seen.now().0.into());
        println!("{rate} new connections a second meanwhile\n");
    });
    assert_eq!(seen.now().1, 0, "requests were lost");
    world.call(&["destroy", "--all"]);
    world.assert_nothing_left();
}

/// Kills a process; returns once clients are answered and another process does its work.
fn strike(world: &World, role: Role, seen: &Seen) {
    let find = || processes(world).into_iter().find(|(_, found)| *found == role).map(|(pid, _)| pid);
    let pid = eventually(role.name(), find);
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let (before, _) = seen.now();
    // For a while no command starts what was killed.
    eventually("answers after a kill", || (seen.now().0 > before + RATE / 10).then_some(()));
    world.call(&["status"]);
    eventually("successor", || find().filter(|found| *found != pid));
}
