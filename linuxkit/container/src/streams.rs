//! What a command in a container is connected to, and pipes whose reading end never blocks PID 1.

use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

use crate::error::{Doing, Error};

/// The command's ends.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Standard input; `/dev/null` where there is none.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Whether all are one terminal, which becomes the command's controlling one.
    pub(crate) terminal: bool,
}

/// A pipe: its reading end, which does not block, and its writing end.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".into())?;
    rustix::io::ioctl_fionbio(&read, true).doing(|| "set up a pipe".into())?;
    Ok((read, write))
}
