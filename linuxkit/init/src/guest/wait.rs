//! What wakes PID 1: every descriptor that it waits for, and the next time at which something is due.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Guest;
use crate::clock;
use crate::error::{Doing, Error};
use crate::exec::Exec;
use crate::lifecycle::{Container, Life};
use crate::supervised::Supervised;

/// What a ready descriptor belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Signals,
    Power,
    Console,
    Clients,
    Supervisor,
    Exec(usize),
    Setup(usize),
    Stream(usize, usize),
    /// A command's input, or its output.
    Session(usize, bool),
}

impl Guest {
    /// The next time at which something is due.
    fn next_due(&self) -> Option<Instant> {
        let restarts = self.containers.iter().filter_map(|container| match container.life {
            Life::Waiting(due) => Some(due),
            _ => None,
        });
        let supervisor = self.supervisor.as_ref().and_then(Supervised::due);
        let execs = self.execs.iter().filter_map(Exec::deadline);
        let kills = self.containers.iter().filter_map(Container::kill_at);
        let end = match self.stopping {
            Some(stopping) => (!stopping.killed && !self.all_are_over()).then_some(stopping.deadline),
            None => self.active_until(),
        };
        restarts
            .chain(supervisor)
            .chain(execs)
            .chain(kills)
            .chain(self.hooks.due())
            .chain(end)
            .chain(self.leaving)
            .min()
    }

    /// When the pod has been active for too long.
    pub(super) fn active_until(&self) -> Option<Instant> {
        self.pod.active_deadline_seconds.map(|seconds| clock::after(self.born, Duration::from_secs(seconds)))
    }

    pub(super) fn wait(&self, now: Instant) -> Result<Vec<Source>, Error> {
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if let Some(power) = &self.power {
            add(Source::Power, power.as_fd(), PollFlags::IN);
        }
        if let Some(console) = self.console.wants_room() {
            add(Source::Console, console, PollFlags::OUT);
        }
        if let Some(supervisor) = &self.supervisor {
            if let Some(listener) = supervisor.wants_clients() {
                add(Source::Clients, listener, PollFlags::IN);
            }
            if let Some((link, unsent)) = supervisor.link() {
                let unsent = unsent || self.sessions.has_news();
                let room = if unsent { PollFlags::OUT } else { PollFlags::empty() };
                add(Source::Supervisor, link, PollFlags::IN | room);
            }
        }
        for (index, exec) in self.execs.iter().enumerate() {
            add(Source::Exec(index), exec.output.as_fd(), PollFlags::IN);
        }
        for (index, container) in self.containers.iter().enumerate() {
            if let Life::Starting(process) = &container.life {
                add(Source::Setup(index), process.setup.as_fd(), PollFlags::IN);
            }
            // From the last to the first, because a stream that ended is removed.
            for (number, stream) in container.streams.iter().enumerate().rev() {
                add(Source::Stream(index, number), stream.pipe.as_fd(), PollFlags::IN);
            }
        }
        for (index, fd, output) in self.sessions.wants() {
            add(Source::Session(index, output), fd, if output { PollFlags::IN } else { PollFlags::OUT });
        }
        let timeout = self.next_due().map(|due| Timespec::try_from(due.saturating_duration_since(now)));
        let timeout = timeout.transpose().expect("back-off and grace periods fit the kernel's time");
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait".into()),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }
}
