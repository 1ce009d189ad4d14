//! Clones the processes of containers: their first ones, and those of commands that run in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use i2kit_spec::control::Open;
use i2kit_spec::runtime::{Config, NamespaceKind};
use rustix::process::Pid;

use crate::error::{Doing, Error, START_FAILED};
use crate::sandbox::Sandbox;
use crate::spec::Spec;
use crate::streams::{Streams, pipe};
use crate::{cgroup, child, devices, pause, pod_files, terminal};

/// A process on its way to become a container.
#[derive(Debug)]
pub struct Started {
    /// Its id in the VM.
    pub pid: Pid,
    /// The same process as a descriptor, which cannot come to mean another one.
    pub pidfd: OwnedFd,
    /// A pipe that ends without a byte when the program runs, or carries the reason why it does not.
    pub setup: OwnedFd,
    /// The reading end of its standard output.
    pub stdout: OwnedFd,
    /// The reading end of its standard error.
    pub stderr: OwnedFd,
}

/// Starts the container and returns at once. Whether its program runs is known when [`Started::setup`] ends.
pub fn start(spec: &Spec, sandbox: &Sandbox) -> Result<Started, Error> {
    let group = cgroup::make_container(&spec.boot.name, spec.config.linux.resources.as_ref(), sandbox.alone)?;
    if spec.config.mounts.iter().all(|mount| mount.kind != "devtmpfs") {
        devices::restrict(&group)?;
    }
    pod_files::make(&spec.boot.name, sandbox.users.is_some())?;
    let flags = clone_flags(&spec.config, sandbox)?;
    let _shared = sandbox.pause.map(pause::Shared::join).transpose()?;
    let (setup, setup_end) = pipe()?;
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let child = || {
        let error = match spec.filled(sandbox) {
            Ok(spec) => child::run(&spec, sandbox, &stdout_end, &stderr_end),
            Err(error) => error,
        };
        // When even this fails, the exit code is all there is.
        let _ = File::from(setup_end).write_all(error.to_string().as_bytes());
        START_FAILED
    };
    let (pid, pidfd) = i2kit_sys::fork(flags, Some(group.as_fd()), child).doing(|| "clone".into())?;
    Ok(Started { pid, pidfd, setup, stdout, stderr })
}

/// Runs a command in a container that runs: in its namespaces and its cgroup, with its user, rights and environment.
/// Returns the process to wait for and the reading end of its output.
pub fn execute(
    spec: &Spec,
    sandbox: &Sandbox,
    target: BorrowedFd<'_>,
    command: &[String],
) -> Result<(Pid, OwnedFd, OwnedFd), Error> {
    let group = cgroup::of_container_that_runs(&spec.boot.name)?;
    let (output, output_end) = pipe()?;
    let child = || {
        let Ok(copy) = output_end.try_clone() else { return START_FAILED };
        let streams = Streams { stdin: None, stdout: output_end, stderr: copy, terminal: false };
        child::enter_and_run(spec, sandbox, target, command, &streams)
    };
    let (pid, pidfd) = i2kit_sys::fork(0, Some(group.as_fd()), child).doing(|| "clone".into())?;
    Ok((pid, pidfd, output))
}

/// A command in a container, and the ends of its terminal or of its pipes. None of them blocks PID 1.
#[derive(Debug)]
pub struct Attached {
    /// Its id in the VM.
    pub pid: Pid,
    /// The same process as a descriptor.
    pub pidfd: OwnedFd,
    /// The master of its terminal; the pipes are missing then.
    pub terminal: Option<OwnedFd>,
    /// The writing end of its standard input, when it has input.
    pub stdin: Option<OwnedFd>,
    /// The reading end of its standard output.
    pub stdout: Option<OwnedFd>,
    /// The reading end of its standard error.
    pub stderr: Option<OwnedFd>,
}

/// As [`execute`], with a terminal of the container's or with pipes.
pub fn execute_attached(
    spec: &Spec,
    sandbox: &Sandbox,
    (first, target): (Pid, BorrowedFd<'_>),
    open: &Open,
) -> Result<Attached, Error> {
    let group = cgroup::of_container_that_runs(&spec.boot.name)?;
    let (ours, streams) = if open.terminal { terminal::pair(first)? } else { terminal::pipes(open.input)? };
    let child = || child::enter_and_run(spec, sandbox, target, &open.command, &streams);
    let (pid, pidfd) = i2kit_sys::fork(0, Some(group.as_fd()), child).doing(|| "clone".into())?;
    let [terminal, stdin, stdout, stderr] = ours;
    Ok(Attached { pid, pidfd, terminal, stdin, stdout, stderr })
}

fn clone_flags(config: &Config, sandbox: &Sandbox) -> Result<libc::c_int, Error> {
    // A mount namespace is never left out: the container's root is built in it.
    config.linux.namespaces.iter().try_fold(libc::CLONE_NEWNS, |flags, namespace| match namespace.kind {
        NamespaceKind::Mount | NamespaceKind::Cgroup => Ok(flags),
        NamespaceKind::Pid if sandbox.pause.is_some() => Ok(flags),
        NamespaceKind::Pid => Ok(flags | libc::CLONE_NEWPID),
        NamespaceKind::Ipc => Ok(flags | libc::CLONE_NEWIPC),
        NamespaceKind::Uts => Ok(flags | libc::CLONE_NEWUTS),
        NamespaceKind::Network => Ok(flags | libc::CLONE_NEWNET),
        NamespaceKind::User => Err(Error::Unknown { what: "namespace", value: "user".into() }),
    })
}
