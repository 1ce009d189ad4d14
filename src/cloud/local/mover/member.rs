//! A process of the front door: what it is, how it takes its place in the table, and what each does in the same way.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::carrier::Shared;
use super::table::{Fd, Owner, Phase, Side, SlotState, Table};
use crate::cloud::local::network::sys;

/// The hidden verb of these processes, by which their command lines are recognised.
pub(crate) const VERB: &str = "local-door";

/// The lock that makes these processes the front door of their folder.
pub(super) const LOCK: &str = "door.lock";

/// Between two looks of whoever waits for another process.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Looks after the others. `before`: the process that it takes the place of; 0 is none.
    Guardian { before: u32 },
    /// Carries for the host.
    Host { before: u32 },
    /// Carries in the network of that place.
    Inside { index: usize, before: u32 },
}

/// What a process does once it has ended what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It has just been started, as this.
    Become(Role),
    /// It ends.
    End,
}

/// What all roles know.
#[derive(Debug, Clone)]
pub(super) struct Family {
    pub(super) shared: Shared,
    /// The local cloud's folder.
    pub(super) state: PathBuf,
}

/// Makes this process the member of that place; false when another one is it.
pub(super) fn become_member(table: &Table, index: usize, before: u32, name: &std::ffi::CStr) -> bool {
    let member = table.member(index);
    if before != std::process::id() && !member.claim(before) {
        return false;
    }
    // What it opens from now on is in no record yet, whatever its predecessor was doing.
    member.works();
    member.set_parked(false);
    sys::ignore_broken_pipes();
    let _ = rustix::thread::set_name(name);
    inherit(table, index);
    true
}

/// Closes what the process before had for itself alone. What is in a record is not that, whatever its mark says.
fn inherit(table: &Table, index: usize) {
    for number in 0..table.top() {
        let slot = table.slot(number);
        let (state, member) = slot.state();
        let is_recorded = matches!(state, SlotState::Connecting | SlotState::Carrying | SlotState::Session);
        if member != index || !is_recorded {
            continue;
        }
        for side in [Side::Client, Side::Server] {
            let pipe = slot.pipe(side).into_iter().flat_map(|(read, write)| [read, write]);
            for fd in slot.side(side).into_iter().chain(pipe) {
                table.own(fd, Owner::Nobody);
            }
        }
    }
    for fd in open_descriptors() {
        if table.is_of(fd, Owner::Member(index)) {
            table.close(fd);
        }
    }
}

/// All open descriptors.
pub(super) fn open_descriptors() -> Vec<Fd> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    // The folder's own descriptor is closed by now.
    let is_open = |fd: &Fd| rustix::io::fcntl_getfd(fd).is_ok();
    numbers.into_iter().filter_map(Fd::from_number).filter(is_open).collect()
}

/// Reaps whoever this process has started.
pub(super) fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

/// Has all processes end.
pub(super) fn end(table: &Table) {
    table.set_phase(Phase::Stop);
    for (_, member) in table.members() {
        member.wake();
    }
}
