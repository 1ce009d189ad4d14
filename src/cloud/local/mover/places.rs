//! The places of the processes in the table, and whether a process has ended.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::table::Fd;

/// The place of the guardian.
pub(super) const GUARDIAN: usize = 0;

/// The place of the process that carries for the host.
pub(super) const HOST: usize = 1;

/// A descriptor of a process that has not ended.
pub(super) fn watch(pid: u32) -> Option<Fd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let fd = Fd::from_owned(rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?);
    if has_ended(fd) {
        fd.close();
        return None;
    }
    Some(fd)
}

/// Whether the process of that descriptor has ended.
pub(super) fn has_ended(fd: Fd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Ends the process of that descriptor by force. It closes nothing that another process has.
pub(super) fn kill(fd: Fd) {
    // It has ended meanwhile.
    let _ = rustix::process::pidfd_send_signal(fd, Signal::KILL);
}

/// Whether a process runs.
pub(super) fn is_alive(pid: u32) -> bool {
    watch(pid).map(Fd::close).is_some()
}
