//! Commands that run in containers for probes and hooks: their output up to a bound, and their time limits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_container::Sandbox;
use i2kit_sys::clock;
use rustix::process::{Pid, Signal, WaitStatus};

use crate::container::Container;
use crate::error::Error;

/// How much of a command's output is kept, as the reason of its failure.
const OUTPUT_BYTES: usize = 1024;

/// What a command is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A probe, by the supervisor's number for it, of this run of the container.
    Probe { id: u64, run: u64 },
    /// A hook, by its number.
    Hook { number: u64 },
}

/// All commands under way.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    list: Vec<Command>,
}

/// A command under way.
#[derive(Debug)]
struct Command {
    purpose: Purpose,
    pid: Pid,
    pidfd: OwnedFd,
    output: OwnedFd,
    /// The beginning of the output.
    kept: Vec<u8>,
    /// The end of its time; none once it was killed for that.
    deadline: Option<Instant>,
}

impl Commands {
    /// Starts a command in a container that runs.
    pub(crate) fn start(
        &mut self,
        (container, sandbox): (&Container, &Sandbox),
        purpose: Purpose,
        command: &[String],
        limit: Duration,
    ) -> Result<(), Error> {
        let process =
            container.process().ok_or_else(|| Error::NotRunning { container: container.name().into() })?;
        let deadline = Some(clock::after(Instant::now(), limit));
        let (pid, pidfd, output) =
            i2kit_container::execute(&container.spec, sandbox, process.pidfd(), command)?;
        self.list.push(Command { purpose, pid, pidfd, output, kept: vec![], deadline });
        Ok(())
    }

    /// The outputs to wait for, in an order that [`Self::read`] knows.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.list.iter().map(|command| command.output.as_fd())
    }

    /// Reads the output of this index.
    pub(crate) fn read(&mut self, index: usize) {
        if let Some(command) = self.list.get_mut(index) {
            command.read();
        }
    }

    /// Takes the command that this process was. Returns what it was for, and why it failed if it did.
    pub(crate) fn reaped(&mut self, pid: Pid, status: WaitStatus) -> Option<(Purpose, Option<String>)> {
        let index = self.list.iter().position(|command| command.pid == pid)?;
        let mut command = self.list.remove(index);
        Some((command.purpose, command.failure(status)))
    }

    /// Kills the commands that take too long.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        for command in self.list.iter_mut().filter(|command| command.deadline.is_some_and(|at| at <= now)) {
            command.deadline = None;
            command.kill();
        }
    }

    /// Kills the commands of probes: the supervisor that wanted them is gone. Their ends are reaped as orphans' are.
    pub(crate) fn kill_probes(&mut self) {
        let is_probe = |command: &mut Command| matches!(command.purpose, Purpose::Probe { .. });
        self.list.extract_if(.., is_probe).for_each(|command| command.kill());
    }

    /// The next end of a command's time.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.list.iter().filter_map(|command| command.deadline).min()
    }
}

impl Command {
    fn kill(&self) {
        // It may have ended meanwhile.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Reads the output once. Returns whether there may be more.
    fn read(&mut self) -> bool {
        let mut buffer = [0; OUTPUT_BYTES];
        match rustix::io::read(&self.output, &mut buffer) {
            Ok(length) if length > 0 => {
                let room = OUTPUT_BYTES.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&buffer[..length.min(room)]);
                true
            }
            _ => false,
        }
    }

    /// Why the command failed, given how its process ended; none when it succeeded.
    fn failure(&mut self, status: WaitStatus) -> Option<String> {
        while self.kept.len() < OUTPUT_BYTES && self.read() {}
        let output = String::from_utf8_lossy(&self.kept).trim().replace('\n', " ");
        let how = match (self.deadline, status.exit_status()) {
            (None, _) => "the command took too long".to_owned(),
            (_, Some(0)) => return None,
            (_, Some(code)) => format!("the command ended with exit code {code}"),
            (_, None) => "the command was killed".to_owned(),
        };
        Some(if output.is_empty() { how } else { format!("{how}: {output}") })
    }
}
