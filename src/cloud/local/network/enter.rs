//! The start of a program inside an environment's network: this program enters the namespaces, by descriptors that it
//! inherited, and becomes the other one. Without root the other one keeps no capability: its user is not the namespace's root.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::thread::LinkNameSpaceType;

use super::namespace::{self, Join};

/// The hidden verb of this program that does this.
pub(crate) const VERB: &str = "local-vm";

/// This program, also when its file has been replaced meanwhile.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

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

/// Enters the namespaces and becomes `program`. Returns only when that fails.
pub(crate) fn become_program(join: &Join, kept: &[RawFd], program: &[String]) -> io::Error {
    let enter = || -> io::Result<()> {
        namespace::enter_user(join).map_err(|failure| failure.error)?;
        let Some(net) = &join.net else { return Ok(()) };
        namespace::enter(&namespace::file(net)?, LinkNameSpaceType::Network)
    };
    if let Err(error) = enter() {
        return io::Error::new(
            error.kind(),
            format!("the network of the environment cannot be entered: {error}"),
        );
    }
    close_fds::set_fds_cloexec_threadsafe(3, kept);
    let Some((name, arguments)) = program.split_first() else { return io::ErrorKind::InvalidInput.into() };
    Command::new(name).args(arguments).exec()
}
