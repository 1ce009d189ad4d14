//! What clients of a Service lose while each process of the local cloud is killed again and again, and they make hundreds of
//! connections a second. Machines that are emulated do not answer as many; stand-ins do.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Role, World, eventually, processes};

/// Instances behind the Service: enough for all clients, of which a stand-in serves a few at once.
const INSTANCES: u32 = 16;

/// New connections a second.
const RATE: u32 = 500;

/// Clients, each with a connection at once.
const CLIENTS: u32 = 8;

/// How often each process is killed.
const KILLS: u32 = 20;

/// How long an answer may take; a later one is lost.
const ANSWER: Duration = Duration::from_secs(30);

/// What is killed.
const ROLES: [Role; 5] =
    [Role::LocalCloud, Role::FrontDoor, Role::FrontDoorInside, Role::Guardian, Role::Holder];

/// What clients have seen since they began.
struct Seen {
    started: Instant,
    /// Requests that are due or were.
    due: AtomicU32,
    answered: AtomicU32,
    lost: AtomicU32,
    is_over: AtomicBool,
}

impl Seen {
    /// Answers and losses.
    fn now(&self) -> (u32, u32) {
        (self.answered.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Asks [`RATE`] times a second with the other clients. What is late is made up for.
    fn ask(&self, address: SocketAddr) {
        while !self.is_over.load(Ordering::Relaxed) {
            let due = Duration::from_secs(1) * self.due.fetch_add(1, Ordering::Relaxed) / RATE;
            std::thread::sleep((self.started + due).saturating_duration_since(Instant::now()));
            let counter = if answers(address).unwrap_or(false) { &self.answered } else { &self.lost };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a question over a connection of its own has a whole answer.
fn answers(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains(" 200 OK") && answer.ends_with('\n'))
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
    let address: SocketAddr = world.address().parse().unwrap();
    let seen = Seen {
        started: Instant::now(),
        due: AtomicU32::new(0),
        answered: AtomicU32::new(0),
        lost: AtomicU32::new(0),
        is_over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| seen.ask(address));
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
        let rate = f64::from(seen.now().0) / seen.started.elapsed().as_secs_f64();
        println!("{rate:.0} new connections a second meanwhile\n");
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
