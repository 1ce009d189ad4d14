//! PID 1 of an i2kit micro-VM, and, with the argument `supervisor`, the process that answers health checks.
//!
//! PID 1 boots the VM in phases, then runs the containers in one loop without threads. It is the parent of all containers
//! and owns their output pipes, their exit codes and the listening health socket. All else that talks is in the supervisor
//! (the crate `i2kit_supervisor`), which may die at any moment: PID 1 starts it again, and it finds the pod's state in the record
//! that PID 1 writes. Starting a container is the crate `i2kit_container`; system calls without a safe wrapper are
//! `i2kit_sys`.
//!
//! Whatever PID 1 cannot deal with ends the VM, with a message on the console: a balancer replaces a VM that is gone
//! more readily than one that is half there.
//!
//! # Reading order
//!
//! 1. This file: how PID 1 begins and ends.
//! 2. [`boot::phase`] and [`boot`]: the list of phases, and what each of them calls. The other files of `boot/` are one phase's
//!    work each, and can be left out.
//! 3. [`guest`]: the loop, and what it hands from one part to the next.
//! 4. The parts, in any order; none knows another, but for the containers that it is given:
//!    - [`container`], [`containers`], [`backoff`]: the life of a container, and of all of them;
//!    - [`hooks`], [`commands`]: hooks under way, and commands of hooks and probes;
//!    - [`sessions`]: commands that the host runs;
//!    - [`orders`]: what the coordinator of a replicated pod asks for;
//!    - [`shutdown`]: the end of the pod;
//!    - [`output`], [`console`], [`journal`], [`lines`]: where lines go;
//!    - [`supervisor`]: the supervisor's process and the clients of the health port;
//!    - [`power`], [`netlink`]: the power button;
//!    - [`mod@wait`]: the one call that waits.

mod backoff;
mod boot;
mod commands;
mod console;
mod container;
mod containers;
mod error;
mod guest;
mod hooks;
mod journal;
mod lines;
mod netlink;
mod orders;
mod output;
mod power;
mod sessions;
mod shutdown;
mod status;
mod supervisor;
mod wait;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use i2kit_spec::PodEnd;
use i2kit_spec::end::LOST;
use rustix::process::DumpableBehavior;
use rustix::system::RebootCommand;

use crate::console::Console;
use crate::error::{Doing, Error};
use crate::guest::Guest;
use crate::output::Output;

/// How long the console may take for what was written last.
const DRAIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // Nobody reads this program's memory, nor that of a process which PID 1 starts, until its exec: a copy of PID 1 has in it
    // what is no business of the container that it is about to become.
    if rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return ExitCode::from(78);
    }
    match std::env::args().nth(1).as_deref() {
        Some(i2kit_supervisor::ARGUMENT) => i2kit_supervisor::run(),
        _ if std::process::id() == 1 => run_machine(),
        // Not for people: nothing else than the kernel and PID 1 starts this program.
        _ => ExitCode::from(64),
    }
}

/// Boots the VM, runs its pod and ends the VM.
fn run_machine() -> ExitCode {
    // Without a console and without signals there is nothing to fall back on; the kernel's panic shows the exit code.
    let Ok(console) = Console::open() else { return ExitCode::from(70) };
    let signals = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPWR];
    let Ok(signals) = i2kit_sys::signal_fd(&signals) else { return ExitCode::from(71) };
    let mut output = Output::new(console);
    let restart = run_pod(&mut output, signals);
    if let Some((end, asked)) = output.ended.take()
        && let Err(error) = boot::cloud::tell_end(&end, asked)
    {
        output.log(&error.to_string());
    }
    boot::cloud::linger();
    output.log(if restart { "restarting" } else { "power off" });
    output.drain(DRAIN);
    rustix::fs::sync();
    let command = if restart { RebootCommand::Restart } else { RebootCommand::PowerOff };
    // On success it does not return; on failure the kernel panics because PID 1 ends, which ends the VM as well.
    let _ = rustix::system::reboot(command);
    ExitCode::from(72)
}

/// Returns whether the VM is to start again.
fn run_pod(output: &mut Output, signals: OwnedFd) -> bool {
    match take_over_restarts().and_then(|()| boot::run(output)) {
        Ok(booted) => Guest::new(booted, output, signals).run(),
        // The cloud knows already that this machine ends: its Job has no work for it.
        Err(error @ Error::NothingToDo) => {
            output.log(&error.to_string());
            false
        }
        Err(error) => {
            output.log(&format!("fatal: {error}"));
            // A pod that did not come to run since the cloud did not answer has not failed.
            output.asked |= matches!(error, Error::Cloud { .. });
            let message = error.to_string();
            output.log_end(&PodEnd { succeeded: false, reason: LOST.into(), message, containers: vec![] });
            false
        }
    }
}

/// Has Ctrl-Alt-Del send a signal to PID 1 instead of restarting at once.
fn take_over_restarts() -> Result<(), Error> {
    rustix::system::reboot(RebootCommand::CadOff).doing(|| "take over Ctrl-Alt-Del".into())
}
