//! The one place where PID 1 waits: for descriptors, and for the next time at which something is due.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::{Doing, Error};

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// Signals of PID 1.
    Signals,
    /// The power button.
    Power,
    /// Room on the console.
    Console,
    /// Clients of the health port.
    Clients,
    /// The link to the supervisor.
    Supervisor,
    /// The output of a command, by its index.
    Command(usize),
    /// The setup pipe of a container, by its index.
    Setup(usize),
    /// An output of a container: its index and the output's.
    Stream(usize, usize),
    /// A session, by its index: its command's output, or its input.
    Session(usize, bool),
}

/// A descriptor to wait for.
pub(crate) type Wanted<'fd> = (Source, BorrowedFd<'fd>, PollFlags);

/// Waits until one of the descriptors is ready or the time has come. Returns those that are ready, in their order.
pub(crate) fn wait(wanted: &[Wanted<'_>], due: Option<Instant>) -> Result<Vec<Source>, Error> {
    let mut fds: Vec<PollFd<'_>> =
        wanted.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
    let timeout =
        left.map(Timespec::try_from).transpose().expect("back-off and grace periods fit the kernel's time");
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno).doing(|| "wait".into()),
    }
    let ready = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.iter().zip(ready).filter_map(|((source, ..), ready)| ready.then_some(*source)).collect())
}
