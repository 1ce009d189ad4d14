//! What the coordinator of a replicated pod has asked for and has no answer to yet: containers that end or come to a stand, and
//! programs that run. Its caller does what is asked; this looks when it is done.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_container::cgroup;
use rustix::process::{Pid, Signal, WaitStatus};

/// How often it is looked whether an order is carried out: neither an empty cgroup nor a frozen one wakes anybody here.
const LOOK: Duration = Duration::from_millis(5);

/// An order that takes longer than this has failed. The kernel freezes and kills within milliseconds; a process that waits
/// for a disk may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most orders and programs under way.
pub(crate) const MAX_ORDERS: usize = 16;

/// What an order waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// No process is left.
    Ended,
    /// All processes stand still.
    Frozen,
}

/// Everything that is under way.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    waiting: Vec<Waiting>,
    programs: Vec<Program>,
    /// Containers that were told to stand, and have not been let go since.
    frozen: BTreeSet<String>,
}

/// An order that is being carried out.
#[derive(Debug)]
struct Waiting {
    id: u64,
    until: Until,
    containers: Vec<String>,
    look_at: Instant,
    give_up: Instant,
}

/// A program under way.
#[derive(Debug)]
struct Program {
    id: u64,
    pid: Pid,
    pidfd: OwnedFd,
}

impl Orders {
    /// Whether there is room for another one.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() + self.programs.len() < MAX_ORDERS
    }

    /// Waits for the containers.
    pub(crate) fn wait(&mut self, id: u64, until: Until, containers: Vec<String>, now: Instant) {
        self.waiting.push(Waiting { id, until, containers, look_at: now, give_up: now + PATIENCE });
    }

    /// These containers stand from now on.
    pub(crate) fn stand(&mut self, containers: &[String]) {
        self.frozen.extend(containers.iter().cloned());
    }

    /// Whether a container was told to stand.
    pub(crate) fn stands(&self, container: &str) -> bool {
        self.frozen.contains(container)
    }

    /// A container goes on. Returns whether it stood all the time since it was told to.
    pub(crate) fn goes_on(&mut self, container: &str) -> bool {
        self.frozen.remove(container)
    }

    /// Keeps a program.
    pub(crate) fn keep(&mut self, id: u64, pid: Pid, pidfd: OwnedFd) {
        self.programs.push(Program { id, pid, pidfd });
    }

    /// The orders that are carried out, or have failed, with the reason.
    pub(crate) fn over(&mut self, now: Instant) -> Vec<(u64, Option<String>)> {
        let (mut over, mut given_up) = (Vec::new(), Vec::new());
        self.waiting.retain_mut(|waiting| {
            if waiting.look_at > now {
                return true;
            }
            let is_done = |name: &String| match waiting.until {
                Until::Ended => !cgroup::is_populated(name),
                Until::Frozen => cgroup::is_frozen(name),
            };
            let left = waiting.containers.iter().find(|name| !is_done(name));
            match left {
                None => over.push((waiting.id, None)),
                Some(name) if waiting.give_up <= now => {
                    let seconds = PATIENCE.as_secs();
                    let failure = format!("{name} still has processes that do otherwise after {seconds} s");
                    over.push((waiting.id, Some(failure)));
                    if waiting.until == Until::Frozen {
                        given_up.extend(waiting.containers.iter().cloned());
                    }
                }
                Some(_) => {
                    waiting.look_at = now + LOOK;
                    return true;
                }
            }
            false
        });
        for name in given_up {
            self.frozen.remove(&name);
            // Without a cgroup there is no process.
            drop(cgroup::freeze(&name, false));
        }
        over
    }

    /// When something is to be looked at.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.look_at).min()
    }

    /// Takes the end of a process. Returns the number and the exit code of the program that it was.
    pub(crate) fn reaped(&mut self, pid: Pid, status: WaitStatus) -> Option<(u64, i32)> {
        let index = self.programs.iter().position(|program| program.pid == pid)?;
        let program = self.programs.remove(index);
        let signal = status.terminating_signal().map(|signal| 128 + signal);
        Some((program.id, status.exit_status().or(signal).unwrap_or(255)))
    }

    /// Kills the program of this number, if it still runs.
    pub(crate) fn kill(&mut self, id: u64) {
        self.programs.iter().filter(|program| program.id == id).for_each(Program::kill);
    }

    /// Forgets everything: whoever waited for it is gone, and who would let a container go on may be too. What ends then is
    /// reaped as an orphan is.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
        for name in std::mem::take(&mut self.frozen) {
            // Without a cgroup there is no process.
            drop(cgroup::freeze(&name, false));
        }
        self.programs.drain(..).for_each(|program| program.kill());
    }
}

impl Program {
    fn kill(&self) {
        // It may have ended meanwhile.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_without_processes_have_ended_and_none_of_them_stands() {
        let mut orders = Orders::default();
        let now = Instant::now();
        assert_eq!(orders.due(), None);
        // No container of this name has a cgroup.
        let names = || vec!["no-such-container".to_owned()];
        orders.wait(1, Until::Ended, names(), now);
        orders.wait(2, Until::Frozen, names(), now);
        assert_eq!((orders.over(now), orders.due()), (vec![(1, None)], Some(now + LOOK)));
        assert!(orders.over(now).is_empty(), "it is not looked at twice at a time");
        let over = orders.over(now + PATIENCE);
        let [(2, Some(failure))] = &over[..] else { panic!("{over:?}") };
        assert!(failure.contains("no-such-container"), "{failure}");
        for id in 0..MAX_ORDERS as u64 {
            assert!(orders.has_room());
            orders.wait(id, Until::Frozen, names(), now);
        }
        assert!(!orders.has_room());
        orders.forget();
        assert!(orders.has_room() && orders.due().is_none());
    }

    #[test]
    fn who_was_let_go_meanwhile_did_not_stand_all_the_time() {
        let names = ["app".to_owned(), "helper".to_owned()];
        let mut orders = Orders::default();
        assert!(!orders.goes_on("app"), "it was never told to stand");
        orders.stand(&names);
        assert!(orders.stands("app") && orders.stands("helper"));
        assert!(orders.goes_on("app") && !orders.stands("app"));
        assert!(!orders.goes_on("app"));
        // A supervisor that is gone lets nobody go on any more.
        orders.forget();
        assert!(!orders.goes_on("helper"));
        // Neither does one that could not have it stand.
        let now = Instant::now();
        orders.stand(&names);
        orders.wait(1, Until::Frozen, names.into(), now);
        assert_eq!(orders.over(now + PATIENCE).len(), 1);
        assert!(!orders.stands("app") && !orders.stands("helper"));
    }
}
