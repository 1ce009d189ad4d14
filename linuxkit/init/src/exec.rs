//! Commands that run inside a running container for somebody else: probes and hooks.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus};

use crate::clock;
use crate::container::{self, Machine};
use crate::error::Error;
use crate::lifecycle::Container;

/// How much of a command's output is kept, to say why it failed.
const OUTPUT_BYTES: usize = 1024;

/// Who wants to know how a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The supervisor, by its number for it; the command is for a probe of this run of the container.
    Supervisor { id: u64, run: u64 },
    /// A hook, by its number.
    Hook { number: u64 },
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) asker: Asker,
    pid: Pid,
    pidfd: OwnedFd,
    pub(crate) output: OwnedFd,
    said: Vec<u8>,
    deadline: Option<Instant>,
}

impl Exec {
    /// Starts a command in a container that runs.
    pub(crate) fn start(
        container: &Container,
        machine: &Machine,
        asker: Asker,
        command: &[String],
        limit: Duration,
    ) -> Result<Self, Error> {
        let process =
            container.process().ok_or_else(|| Error::NotRunning { container: container.name().into() })?;
        let deadline = clock::after(Instant::now(), limit);
        let (pid, pidfd, output) = container::execute(&container.spec, machine, process.pidfd(), command)?;
        Ok(Self { asker, pid, pidfd, output, said: vec![], deadline: Some(deadline) })
    }

    /// Whether this process is the command's.
    pub(crate) fn is(&self, pid: Pid) -> bool {
        self.pid == pid
    }

    /// When patience ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Kills the command when it took too long.
    pub(crate) fn check(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.kill();
        }
    }

    /// Kills the command.
    pub(crate) fn kill(&self) {
        // It may have ended meanwhile.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Reads what the command says. Returns whether it may say more.
    pub(crate) fn read(&mut self) -> bool {
        let mut buffer = [0; OUTPUT_BYTES];
        match rustix::io::read(&self.output, &mut buffer) {
            Ok(length) if length > 0 => {
                let room = OUTPUT_BYTES.saturating_sub(self.said.len());
                self.said.extend_from_slice(&buffer[..length.min(room)]);
                true
            }
            _ => false,
        }
    }

    /// Why the command failed, given how its process ended; none when it succeeded.
    pub(crate) fn failure(&mut self, status: WaitStatus) -> Option<String> {
        while self.said.len() < OUTPUT_BYTES && self.read() {}
        let said = String::from_utf8_lossy(&self.said).trim().replace('\n', " ");
        let how = match (self.deadline, status.exit_status()) {
            (None, _) => "the command took too long".to_owned(),
            (_, Some(0)) => return None,
            (_, Some(code)) => format!("the command ended with exit code {code}"),
            (_, None) => "the command was killed".to_owned(),
        };
        Some(if said.is_empty() { how } else { format!("{how}: {said}") })
    }
}
