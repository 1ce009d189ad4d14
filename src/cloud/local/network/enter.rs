//! The start of a program inside an environment's network: this program enters the namespaces, by descriptors that it
//! inherited, and becomes the other one. Without root the other one keeps no capability: its user is not the namespace's root.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};

use super::namespace::{self, Join};

/// The hidden verb of this program that does this.
pub(crate) const VERB: &str = "local-vm";

/// This program, also when its file has been replaced meanwhile.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// How much a bound program gives way to others that want the same processor.
const NICE: i32 = 10;

/// The command that starts `program` in the namespaces of these descriptors, with `kept` open and no others of the network.
/// Its arguments follow.
pub(crate) fn command(namespaces: (RawFd, RawFd), kept: &[RawFd], program: &str) -> Command {
    let path = |descriptor: RawFd| format!("/proc/self/fd/{descriptor}");
    let mut command = Command::new(THIS_PROGRAM);
    command.arg(VERB).args(["--user", &path(namespaces.0), "--net", &path(namespaces.1)]);
    command.args(kept.iter().flat_map(|descriptor| ["--keep".to_owned(), descriptor.to_string()]));
    command.args(["--", program]);
    command
}

/// The same of a program that ends with this process, however this one ends, and gives way to others: in the namespaces of these
/// descriptors, or in this process's own. It is to be started by a thread that waits for it.
pub(crate) fn bound_command(namespaces: Option<(RawFd, RawFd)>, kept: &[RawFd], program: &str) -> Command {
    let path = |descriptor: RawFd| format!("/proc/self/fd/{descriptor}");
    let mut command = Command::new(THIS_PROGRAM);
    command.arg(VERB);
    if let Some((user, net)) = namespaces {
        command.args(["--user", &path(user), "--net", &path(net)]);
    }
    command.args(["--bound-to", &std::process::id().to_string()]);
    command.args(kept.iter().flat_map(|descriptor| ["--keep".to_owned(), descriptor.to_string()]));
    command.args(["--", program]);
    command
}

/// Has this process end when the thread that started it does, which is one of the process `parent`, and give way to others. It keeps
/// no capability: it has no user of its own that it could become later, since that would have it outlive its parent.
fn bind(parent: u32) -> io::Result<()> {
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let found = rustix::process::getppid().map(|found| found.as_raw_nonzero().get());
    if found.and_then(|found| u32::try_from(found).ok()) != Some(parent) {
        return Err(io::Error::other("the process that started this one has ended"));
    }
    rustix::process::nice(NICE)?;
    Ok(())
}

/// Enters the namespaces and becomes `program`, bound to a parent where one is given. Returns only when that fails.
pub(crate) fn become_program(
    join: &Join,
    kept: &[RawFd],
    bound_to: Option<u32>,
    program: &[String],
) -> io::Error {
    let enter = || -> io::Result<()> {
        // Without a network it stays where it is: there is no user namespace to enter, and none to be made.
        let Some(net) = &join.net else { return Ok(()) };
        namespace::enter_user(join).map_err(|failure| failure.error)?;
        namespace::enter(&namespace::file(net)?, LinkNameSpaceType::Network)
    };
    if let Err(error) = enter() {
        return io::Error::new(
            error.kind(),
            format!("the network of the environment cannot be entered: {error}"),
        );
    }
    // Whoever enters a user namespace is no longer told of its parent's end, so that this comes after it.
    if let Some(Err(error)) = bound_to.map(bind) {
        return error;
    }
    close_fds::set_fds_cloexec_threadsafe(3, kept);
    let Some((name, arguments)) = program.split_first() else { return io::ErrorKind::InvalidInput.into() };
    Command::new(name).args(arguments).exec()
}
