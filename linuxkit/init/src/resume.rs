//! PID 1 becomes another program by `execve`, with the containers running: descriptors keep their numbers, and what
//! PID 1 knows goes over in a file in memory. The new program first reads that file in a process of its own; PID 1
//! becomes only a program that can go on. Commands under way for somebody outside, and those of probes, are ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::boot;
use crate::cmdline::Parameters;
use crate::console::Console;
use crate::error::{Doing, Error};
use crate::facts::Facts;
use crate::guest::Guest;
use crate::journal::{Journal, Journals};
use crate::lifecycle;
use crate::power::PowerButton;
use crate::record::{PhaseTime, Stage};
use crate::session::{self, Sessions};
use crate::supervised::Supervised;
use crate::sys;

/// The argument with which PID 1 goes on, before the descriptor of the state.
pub(crate) const RESUME: &str = "resume";

/// The argument with which a program says whether it can go on from a state.
pub(crate) const CHECK: &str = "check-state";

/// The version of [`State`], and of what the boot has made that later starts of containers find. A program that does not know
/// it refuses, and the old one goes on.
const VERSION: u32 = 3;

/// How long the new program may take to read the state.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the console may take for what was said before.
const CONSOLE: Duration = Duration::from_millis(500);

/// What PID 1 knows.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    parameters: Parameters,
    hostname: String,
    facts: Facts,
    /// The first process of the PID namespace that the containers share, when they do.
    pause: Option<i32>,
    /// The containers' user namespace, when it is not the VM's.
    users: Option<RawFd>,
    boot_id: String,
    phases: Vec<PhaseTime>,
    /// In the order of the pod.
    containers: Vec<lifecycle::Remembered>,
    journals: Vec<Journal>,
    sessions: session::Remembered,
    /// How long the pod has been active, in seconds.
    age: f64,
    replacements: u64,
    supervisor: Supervisor,
}

/// What the supervisor works on.
#[derive(Debug, Serialize, Deserialize)]
struct Supervisor {
    listener: RawFd,
    clients: BTreeMap<u64, RawFd>,
    port: Option<RawFd>,
    restarts: u64,
    attach: (f64, f64),
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Refused { reason: reason.into() }
}

/// Becomes `program`. Returns only when that fails; then everything goes on as before.
pub(crate) fn replace(guest: &mut Guest, program: &OwnedFd) -> Result<Infallible, Error> {
    let calm = guest.stage == Stage::Running && guest.stopping.is_none() && guest.is_calm();
    if !calm {
        return Err(refused("a container is being started or stopped just now; try again"));
    }
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    check(&path, &state(guest)?)?;
    guest.say("replacing PID 1");
    // From here on nothing new comes in: the supervisor's last words are heard, then it is gone.
    guest.end_supervisor();
    let state = state(guest)?;
    guest.sessions.kill_all();
    guest.console.drain(CONSOLE);
    let kept = guest.descriptors();
    let numbers: Vec<RawFd> = kept.iter().chain([&state.as_fd()]).map(AsRawFd::as_raw_fd).collect();
    for fd in kept.iter().chain([&state.as_fd()]) {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).doing(|| "keep a descriptor".into())?;
    }
    let number = state.as_raw_fd().to_string();
    // It is taken back if the program cannot be executed after all.
    let source = Command::new(path).args([RESUME, &number]).env_clear().exec();
    for fd in guest.descriptors() {
        let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
    Err(Error::Io { what: format!("execute the new program with {} descriptors", numbers.len()), source })
}

/// Has the program read the state in a process of its own.
fn check(path: &str, state: &OwnedFd) -> Result<(), Error> {
    let number = state.as_raw_fd().to_string();
    rustix::io::fcntl_setfd(state, FdFlags::empty()).doing(|| "share the state".into())?;
    let mut child = Command::new(path)
        .args([CHECK, &number])
        .env_clear()
        .stdin(Stdio::null())
        .spawn()
        .doing(|| "run the new program".into())?;
    let given_up = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(refused(format!("it does not read our state ({status})"))),
            Ok(None) if Instant::now() < given_up => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(refused(format!("it does not read our state within {} s", PATIENCE.as_secs())));
            }
        }
    }
}

fn state(guest: &Guest) -> Result<OwnedFd, Error> {
    let supervisor = guest.supervisor.as_ref().ok_or_else(|| refused("the pod is being started"))?;
    let (listener, clients) = supervisor.sockets();
    let state = State {
        version: VERSION,
        parameters: guest.parameters.clone(),
        hostname: guest.machine.hostname.clone(),
        facts: guest.machine.facts.clone(),
        pause: guest.machine.pause.map(|pid| pid.as_raw_nonzero().get()),
        users: guest.machine.users.as_ref().map(AsRawFd::as_raw_fd),
        boot_id: guest.boot_id.clone(),
        phases: guest.phases.clone(),
        containers: guest.containers.iter().map(lifecycle::Container::remember).collect(),
        journals: guest.journals.as_ref().map(|journals| journals.list().to_vec()).unwrap_or_default(),
        sessions: guest.sessions.remember(),
        age: guest.age().as_secs_f64(),
        replacements: guest.replacements + 1,
        supervisor: Supervisor {
            listener: listener.as_raw_fd(),
            clients: clients.iter().map(|(id, client)| (*id, client.as_raw_fd())).collect(),
            port: supervisor.port().map(|port| port.as_raw_fd()),
            restarts: supervisor.restarts,
            attach: supervisor.attach,
        },
    };
    let doing = || "write down the state".to_owned();
    let file = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).doing(doing)?;
    let mut file = fs::File::from(file);
    let json = serde_json::to_vec(&state).map_err(std::io::Error::from).doing(doing)?;
    file.write_all(&json).doing(doing)?;
    Ok(file.into())
}

fn read(number: &str) -> Result<State, Error> {
    // Opened anew, so that it is read from its beginning.
    let path = format!("/proc/self/fd/{number}");
    let bytes = fs::read(&path).doing(|| "read the state".into())?;
    let state: State = serde_json::from_slice(&bytes).map_err(|source| Error::Json { path, source })?;
    if state.version == VERSION {
        Ok(state)
    } else {
        Err(refused(format!("state of version {}", state.version)))
    }
}

/// Whether this program can go on from the state in this descriptor.
pub(crate) fn can(number: &str) -> bool {
    read(number).is_ok()
}

/// The guest that the state in this descriptor tells of.
pub(crate) fn guest(number: &str, console: Console, signals: OwnedFd) -> Result<Guest, Error> {
    let state = read(number)?;
    let mut guest = Guest::new(console, signals);
    if let Ok(number) = number.parse() {
        drop(sys::take_descriptor(number));
    }
    guest.pod = boot::pod_again()?;
    guest.containers = boot::containers_again(&guest.pod)?;
    guest.machine.alone = guest.containers.len() == 1;
    let take = |number| sys::take_descriptor(number).doing(|| "take over a descriptor".into());
    guest.machine.pause = state.pause.and_then(Pid::from_raw);
    guest.machine.users = state.users.map(take).transpose()?;
    if let Some(users) = &guest.machine.users {
        boot::shift_layers(&mut guest.containers, users.as_fd())?;
    }
    for (container, remembered) in guest.containers.iter_mut().zip(state.containers) {
        container.recall(remembered).doing(|| format!("take over {}", container.name()))?;
    }
    let Supervisor { listener, clients, port, restarts, attach } = state.supervisor;
    let clients: Result<BTreeMap<u64, TcpStream>, Error> =
        clients.into_iter().map(|(id, number)| Ok((id, take(number)?.into()))).collect();
    if !state.journals.is_empty() {
        guest.journals = Some(Journals::of(state.journals).doing(|| "take over the journals".into())?);
        // Without a port they are read in the VM itself.
        guest.console_too = port.is_none();
    }
    let channel = match (port, &guest.journals) {
        (Some(port), Some(journals)) => {
            let bell = journals.bell().try_clone_to_owned().doing(|| "share the journals' bell".into())?;
            Some((take(port)?, bell))
        }
        _ => None,
    };
    let mut supervisor = Supervised::of(take(listener)?.into(), clients?, channel);
    (supervisor.restarts, supervisor.attach) = (restarts, attach);
    guest.supervisor = Some(supervisor);
    guest.sessions = Sessions::recall(state.sessions);
    (guest.machine.hostname, guest.machine.facts) = (state.hostname, state.facts);
    (guest.parameters, guest.boot_id, guest.phases) = (state.parameters, state.boot_id, state.phases);
    guest.power = PowerButton::listen().ok();
    guest.replacements = state.replacements;
    guest.go_on(Duration::from_secs_f64(state.age));
    Ok(guest)
}

/// Descriptors that another program needs under the same numbers.
pub(crate) trait Descriptors {
    /// All of them.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}

impl Descriptors for Supervised {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let (listener, clients) = self.sockets();
        let clients = clients.values().map(AsFd::as_fd);
        [listener.as_fd()].into_iter().chain(clients).chain(self.port()).collect()
    }
}
