//! PID 1 of an i2kit micro-VM, and, with the argument `supervisor`, the process that answers health checks.
//!
//! PID 1 boots the VM in phases (`phase`, `boot`), then runs the containers in one loop without threads (`guest`). It is
//! the parent of all containers and owns their output pipes, their exit codes and the listening health socket. All else
//! that talks is in `supervisor`, which may die at any moment: PID 1 starts it again, and it finds the pod's state in
//! the record that PID 1 writes (`record`).
//!
//! Whatever PID 1 cannot deal with ends the VM, with a message on the console: a balancer replaces a VM that is gone
//! more readily than one that is half there.

mod apart;
mod backoff;
mod block;
mod boot;
mod cgroup;
mod clock;
mod cloud;
mod cmdline;
mod console;
mod container;
mod device_mapper;
mod devices;
mod dhcp;
mod error;
mod exec;
mod ext4;
mod facts;
mod fence;
mod guest;
mod hooks;
mod journal;
mod late;
mod lifecycle;
mod link;
mod modules;
mod netlink;
mod network;
mod phase;
mod port;
mod power;
mod record;
mod resolver;
mod scratch;
mod secrets;
mod session;
mod supervised;
mod supervisor;
mod sys;
mod sysctl;
mod users;
mod verity;
mod volumes;

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::DumpableBehavior;
use rustix::system::RebootCommand;

use crate::console::Console;
use crate::error::{Doing, Error};
use crate::guest::Guest;

/// The version of this program, whether it is PID 1 or the supervisor. Kept as one text in the file, where other tools
/// find it, and tests change it.
fn program_version() -> &'static str {
    std::hint::black_box(env!("CARGO_PKG_VERSION"))
}

/// How long the last words on the console may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // Nobody reads this program's memory, nor that of a process which PID 1 starts, until its exec: a copy of PID 1 has in it
    // what is no business of the container that it is about to become.
    if rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return ExitCode::from(78);
    }
    let argument = std::env::args().nth(1);
    match argument.as_deref() {
        Some(supervised::ARGUMENT) => supervisor::run(),
        _ if std::process::id() == 1 => run_machine(),
        // Not for people: nothing else than the kernel and PID 1 starts this program.
        _ => ExitCode::from(64),
    }
}

/// Boots the VM, runs its pod and ends the VM.
fn run_machine() -> ExitCode {
    // Without a console and without signals there is nothing to fall back on; the kernel's panic says which exit code.
    let Ok(console) = Console::open() else { return ExitCode::from(70) };
    let signals = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPWR];
    let Ok(signals) = sys::signal_fd(&signals) else { return ExitCode::from(71) };
    let mut guest = Guest::new(console, signals);
    let ended = run_pod(&mut guest);
    let restart = ended.as_ref().is_ok_and(|()| guest.stopping.is_some_and(|stopping| stopping.restart));
    if let Err(error) = &ended {
        guest.console.say(&format!("fatal: {error}"));
        guest.lose(error);
    }
    cloud::linger();
    guest.console.say(if restart { "restarting" } else { "power off" });
    guest.console.drain(LAST_WORDS);
    rustix::fs::sync();
    let command = if restart { RebootCommand::Restart } else { RebootCommand::PowerOff };
    // On success it does not return; on failure the kernel panics because PID 1 ends, which ends the VM as well.
    let _ = rustix::system::reboot(command);
    ExitCode::from(72)
}

fn run_pod(guest: &mut Guest) -> Result<(), Error> {
    // Ctrl-Alt-Del asks PID 1 instead of restarting at once.
    rustix::system::reboot(RebootCommand::CadOff).doing(|| "take over Ctrl-Alt-Del".into())?;
    boot::run(guest)?;
    guest.supervise()
}
