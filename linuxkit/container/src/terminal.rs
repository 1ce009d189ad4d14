//! What a command in a container is connected to: a terminal of the container's own, or pipes.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::pty::OpenptFlags;

use crate::error::{Doing, Error};
use crate::streams::{Streams, pipe};

/// The device that makes terminals.
const PTMX: (u32, u32) = (5, 2);

/// Our ends: terminal, standard input, output and error.
pub(crate) type Ours = [Option<OwnedFd>; 4];

/// A new terminal of the container that this process is in: programs inside find it below their own `/dev/pts`.
pub(crate) fn pair(first: Pid) -> Result<(Ours, Streams), Error> {
    let root = format!("/proc/{}/root", first.as_raw_nonzero());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&root, flags, Mode::empty()).doing(|| format!("open {root}"))?;
    let path = "dev/pts/ptmx";
    // The container may have put anything there: links are followed inside of it only.
    let ours = rustix::fs::openat2(
        &root,
        path,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .doing(|| format!("open the container's /{path}"))?;
    let found = rustix::fs::fstat(&ours).doing(|| format!("look at the container's /{path}"))?;
    let device = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || device != PTMX {
        return Err(Error::Unknown { what: "terminal device", value: format!("the container's /{path}") });
    }
    let doing = || "make a terminal".to_owned();
    rustix::pty::unlockpt(&ours).doing(doing)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).doing(doing)?;
    let (stdin, stdout) = (theirs.try_clone().doing(doing)?, theirs.try_clone().doing(doing)?);
    let streams = Streams { stdin: Some(stdin), stdout, stderr: theirs, terminal: true };
    Ok(([Some(ours), None, None, None], streams))
}

/// Pipes for output and errors, and for input when there is some.
pub(crate) fn pipes(input: bool) -> Result<(Ours, Streams), Error> {
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (mut stdin, mut stdin_end) = (None, None);
    if input {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".into())?;
        rustix::io::ioctl_fionbio(&write, true).doing(|| "set up a pipe".into())?;
        (stdin, stdin_end) = (Some(write), Some(read));
    }
    let streams = Streams { stdin: stdin_end, stdout: stdout_end, stderr: stderr_end, terminal: false };
    Ok(([None, stdin, Some(stdout), Some(stderr)], streams))
}
