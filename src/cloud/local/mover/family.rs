//! The front door's processes: how they begin, what each becomes when it is started, and how one takes another's place.
//!
//! They share one table of descriptors (`CLONE_FILES`), so that a killed one closes nothing. Each has one thread. A
//! process that is started by another begins as its copy and goes back to [`live`], so that no chain of starts grows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Resource, Rlimit};

use super::admission::Shares;
use super::carrier::Shared;
use super::log::Log;
use super::member::{Family, LOCK, Next, POLL, Role};
use super::places::{GUARDIAN, HOST};
use super::poll::news;
use super::protocol::SOCKET;
use super::table::{DESCRIPTORS, Fd, Kept, Owner, Table};
use super::{confine, guardian, host, inside};
use crate::cloud::CloudError;
use crate::cloud::local::home::Home;
use crate::cloud::local::machine::descriptors;
use crate::cloud::local::{network::sys, socket};

/// How long the first process waits until the others carry.
const START: Duration = Duration::from_secs(10);

/// Is the front door of the local cloud in the folder `state`, or starts it and returns. `resume`: the descriptor of the
/// table, for a program that takes the place of an older one.
///
/// # Errors
/// The folder cannot be used, or the processes do not begin to carry.
pub fn run(state: &Path, resume: Option<i32>) -> Result<(), CloudError> {
    descriptors::close_on_exec();
    match resume {
        Some(number) => take_over(state, number),
        None => start(state),
    }
}

fn failed(error: &dyn std::fmt::Display) -> CloudError {
    CloudError::Unreachable { message: format!("the front door does not start: {error}") }
}

/// The same limit in every process, whatever the host allows: the table has as many places.
fn limit_descriptors() -> usize {
    let limit = descriptors::raise_limit().min(DESCRIPTORS);
    let wanted = Rlimit { current: Some(limit as u64), maximum: Some(limit as u64) };
    // Where it cannot be lowered, what is opened beyond it is closed by whoever opened it alone.
    let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
    limit
}

fn start(state: &Path) -> Result<(), CloudError> {
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let home = Home { state: state.to_owned(), ..Home::new(state, state, PathBuf::new()) };
    home.create()?;
    let path = state.join(LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(CloudError::file("open", &path))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Another one is the front door, or becomes it.
        return Ok(());
    }
    let shares = Shares::of(limit_descriptors());
    let table = Table::create().map_err(|error| failed(&error))?;
    table.keep(Kept::Lock, Fd::from_owned(lock.into()));
    let log = open_log(&home, &table)?;
    let listener = socket::bind(state, SOCKET).map_err(CloudError::file("listen on", &state.join(SOCKET)))?;
    listener.set_nonblocking(true).map_err(|error| failed(&error))?;
    table.keep(Kept::Control, Fd::from_owned(listener.into()));
    for number in [0, 1, 2] {
        if let Some(fd) = Fd::from_number(number) {
            table.own(fd, Owner::All);
        }
    }
    for index in [GUARDIAN, HOST] {
        let fd = news().map_err(|error| failed(&error))?;
        table.own(fd, Owner::All);
        table.member(index).set_news(fd);
    }
    confine::writes(state);
    let family = Family { shared: Shared { table, shares, log }, state: state.to_owned() };
    match sys::clone_files().map_err(|error| failed(&error))? {
        None => live(&family, Role::Guardian { before: 0 }),
        Some(guardian) => return attend_start(&table, guardian),
    }
    Ok(())
}

/// Opens the log for all processes.
fn open_log(home: &Home, table: &Table) -> Result<Log, CloudError> {
    let log = Log::open(&home.log())?;
    table.keep(Kept::Log, log.fd());
    Ok(log)
}

/// Waits until the processes carry.
fn attend_start(table: &Table, guardian: Pid) -> Result<(), CloudError> {
    let given_up = Instant::now() + START;
    while !table.is_ready() {
        let ended = rustix::process::waitpid(Some(guardian), rustix::process::WaitOptions::NOHANG);
        if matches!(ended, Ok(Some(_))) {
            return Err(failed(&"its first process has ended; cloud.log may tell why"));
        }
        if Instant::now() > given_up {
            return Err(failed(&"its processes do not begin to carry; cloud.log may tell why"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Goes on with what an older program had.
fn take_over(state: &Path, number: i32) -> Result<(), CloudError> {
    let file = Fd::from_number(number).ok_or_else(|| failed(&"there is no table"))?;
    let table = Table::resume(file).map_err(|error| failed(&error))?;
    let home = Home { state: state.to_owned(), ..Home::new(state, state, PathBuf::new()) };
    // What the older program has open stays as it is: that goes on where this one ends too soon.
    let log = match table.kept(Kept::Log) {
        Some(fd) => Log::from_fd(fd),
        None => open_log(&home, &table)?,
    };
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let shares = Shares::of(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(DESCRIPTORS));
    let family = Family { shared: Shared { table, shares, log }, state: state.to_owned() };
    live(&family, Role::Guardian { before: std::process::id() });
    Ok(())
}

/// Is one role after the other, as long as there is one.
fn live(family: &Family, role: Role) {
    let mut next = Next::Become(role);
    while let Next::Become(role) = next {
        next = match role {
            Role::Guardian { before } => guardian::run(family, before),
            Role::Host { before } => host::run(family, before),
            Role::Inside { index, before } => inside::run(family, index, before),
        };
    }
}
