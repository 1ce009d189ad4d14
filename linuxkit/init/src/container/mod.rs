//! Starts a container: clones a process into its cgroup and namespaces, and lets it become the configured program.
//! Knows nothing of when and how often.

mod calls;
mod child;
#[cfg(test)]
pub(crate) mod example;
mod mounts;
pub(crate) mod oom;
pub(crate) mod own;
mod pause;
mod privileges;
mod profile;
mod program;
mod seccomp;
pub(crate) mod subpath;
mod terminal;
mod user;

use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use i2kit_spec::ContainerBoot;
use i2kit_spec::control::Open;
use i2kit_spec::runtime::{Config, NamespaceKind};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

pub(crate) use self::child::SCRATCH;
pub(crate) use self::pause::start as start_pause;
use crate::cgroup;
use crate::error::{Doing, Error};
use crate::facts::Facts;
use crate::late;
use crate::secrets::Secrets;
use crate::sys;

/// A container that can be started, any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Its entry in `pod.json`.
    pub(crate) boot: ContainerBoot,
    /// Its `config.json`.
    pub(crate) config: Config,
    /// Mount points of its layers, the topmost first.
    pub(crate) layers: Vec<String>,
}

/// What containers learn of the VM that they are in.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// The host name.
    pub(crate) hostname: String,
    /// What it knows of itself.
    pub(crate) facts: Facts,
    /// The Secrets that came at boot.
    pub(crate) secrets: Secrets,
    /// The first process of the PID namespace that all containers share, when they do.
    pub(crate) pause: Option<Pid>,
    /// Whether the pod has one container only.
    pub(crate) alone: bool,
    /// The user namespace of the containers, when it is not the VM's.
    pub(crate) users: Option<OwnedFd>,
}

impl Spec {
    /// Whether its programs may set packet filters.
    pub(crate) fn may_set_packet_filters(&self) -> bool {
        self.config.process.capabilities.bounding.iter().any(|name| name == "CAP_NET_ADMIN")
    }

    /// The same with everything filled in that is known at boot alone. Called in the container's own process, in the VM's
    /// root: PID 1 never has the value of a Secret in its memory, and so no other process of it either.
    fn filled(&self, machine: &Machine) -> Result<Cow<'_, Self>, Error> {
        let Some(late) = &self.boot.late else { return Ok(Cow::Borrowed(self)) };
        let config = late::fill(&self.config, late, &machine.facts, &machine.secrets)?;
        Ok(Cow::Owned(Self { config, ..self.clone() }))
    }
}

/// A process on its way to become a container.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its id in the VM.
    pub(crate) pid: Pid,
    /// The same process as a descriptor, which cannot come to mean another one.
    pub(crate) pidfd: OwnedFd,
    /// Ends without a byte when the program runs, or says why it does not.
    pub(crate) setup: OwnedFd,
    /// The reading end of its standard output.
    pub(crate) stdout: OwnedFd,
    /// The reading end of its standard error.
    pub(crate) stderr: OwnedFd,
}

/// Starts the container and returns at once; the rest of its way is told through [`Started::setup`].
pub(crate) fn start(spec: &Spec, machine: &Machine) -> Result<Started, Error> {
    let group = cgroup::make_container(&spec.boot.name, spec.config.linux.resources.as_ref(), machine.alone)?;
    if spec.config.mounts.iter().all(|mount| mount.kind != "devtmpfs") {
        crate::devices::restrict(&group)?;
    }
    own::make(&spec.boot.name, machine.users.is_some())?;
    let flags = clone_flags(&spec.config, machine)?;
    let _shared = machine.pause.map(pause::Shared::join).transpose()?;
    let (setup, setup_end) = pipe()?;
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let child = || {
        let error = match spec.filled(machine) {
            Ok(spec) => child::run(&spec, machine, &stdout_end, &stderr_end),
            Err(error) => error,
        };
        // Nobody is left to tell when even this fails; the exit code says that something did.
        let _ = File::from(setup_end).write_all(error.to_string().as_bytes());
        START_FAILED
    };
    let (pid, pidfd) = sys::fork(flags, Some(group.as_fd()), child).doing(|| "clone".into())?;
    Ok(Started { pid, pidfd, setup, stdout, stderr })
}

/// Runs a command in a container that runs: in its namespaces and its cgroup, with its user, rights and environment.
/// Returns the process to wait for and the reading end of its output.
pub(crate) fn execute(
    spec: &Spec,
    machine: &Machine,
    target: BorrowedFd<'_>,
    command: &[String],
) -> Result<(Pid, OwnedFd, OwnedFd), Error> {
    let group = cgroup::of_container_that_runs(&spec.boot.name)?;
    let (output, output_end) = pipe()?;
    let child = || {
        let Ok(copy) = output_end.try_clone() else { return START_FAILED };
        let streams = Streams { stdin: None, stdout: output_end, stderr: copy, terminal: false };
        child::enter_and_tell(spec, machine, target, command, &streams)
    };
    let (pid, pidfd) = sys::fork(0, Some(group.as_fd()), child).doing(|| "clone".into())?;
    Ok((pid, pidfd, output))
}

/// What a command is connected to.
#[derive(Debug)]
struct Streams {
    /// Nothing to read without one.
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// Whether all are one terminal, which becomes the command's own.
    terminal: bool,
}

/// A command in a container, and the ends of its terminal or of its pipes. None of them blocks PID 1.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// As [`execute`], with a terminal of the container's or with pipes.
pub(crate) fn execute_attached(
    spec: &Spec,
    machine: &Machine,
    (first, target): (Pid, BorrowedFd<'_>),
    open: &Open,
) -> Result<Attached, Error> {
    let group = cgroup::of_container_that_runs(&spec.boot.name)?;
    let (ours, streams) = if open.terminal { terminal::pair(first)? } else { terminal::pipes(open.input)? };
    let child = || child::enter_and_tell(spec, machine, target, &open.command, &streams);
    let (pid, pidfd) = sys::fork(0, Some(group.as_fd()), child).doing(|| "clone".into())?;
    let [terminal, stdin, stdout, stderr] = ours;
    Ok(Attached { pid, pidfd, terminal, stdin, stdout, stderr })
}

/// The exit code of a container whose program did not start, as kubelet shows it.
pub(crate) const START_FAILED: i32 = 128;

/// Whether the container has a namespace of its own of this kind.
fn has(config: &Config, kind: NamespaceKind) -> bool {
    config.linux.namespaces.iter().any(|namespace| namespace.kind == kind)
}

fn clone_flags(config: &Config, machine: &Machine) -> Result<libc::c_int, Error> {
    // A mount namespace is never left out: the container's root is built in it.
    config.linux.namespaces.iter().try_fold(libc::CLONE_NEWNS, |flags, namespace| match namespace.kind {
        NamespaceKind::Mount | NamespaceKind::Cgroup => Ok(flags),
        NamespaceKind::Pid if machine.pause.is_some() => Ok(flags),
        NamespaceKind::Pid => Ok(flags | libc::CLONE_NEWPID),
        NamespaceKind::Ipc => Ok(flags | libc::CLONE_NEWIPC),
        NamespaceKind::Uts => Ok(flags | libc::CLONE_NEWUTS),
        NamespaceKind::Network => Ok(flags | libc::CLONE_NEWNET),
        NamespaceKind::User => Err(Error::Unknown { what: "namespace", value: "user".into() }),
    })
}

/// A text that may be anybody's as one line, which no reader takes for several or for a terminal's commands: control
/// characters are spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A pipe with a reading end that never blocks PID 1.
fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".into())?;
    rustix::io::ioctl_fionbio(&read, true).doing(|| "set up a pipe".into())?;
    Ok((read, write))
}
