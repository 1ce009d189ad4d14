//! Admission of traffic: how many descriptors connections, UDP sessions and questions for names may take.
//!
//! Traffic of pods and the cloud's own work share one process. Each carried connection takes two descriptors, so that
//! clients alone could take all of them, and no health check, no machine and no answer to a verb would be possible any
//! more. Hence traffic has a share, and what is not shared out is the reserve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cloud::local::log::Log;

/// Descriptors that traffic may not take: those of the API, SQLite, log files, listeners, and about six a machine
/// (pidfd, QMP, channel, status check, scratch disks).
const RESERVE: usize = 512;

/// Descriptors for connections and UDP sessions of all balancers. A connection has two and 256 KiB of buffers, so this
/// bounds memory as well: 4096 busy connections have 1 GiB.
const TRAFFIC: usize = 8192;

/// Descriptors for questions for names, of all environments: one a question that is relayed, one a TCP connection.
const NAMES: usize = 512;

/// Descriptors of one TCP connection: the client's and the machine's.
pub(crate) const PER_CONNECTION: u32 = 2;

/// The number of descriptors of each kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections and sessions of all balancers.
    pub(crate) traffic: usize,
    /// Of these, those of one listener: one busy Service leaves room for the others.
    pub(crate) listener: usize,
    /// Questions for names.
    pub(crate) names: usize,
}

impl Shares {
    /// The shares of a process that may have `limit` descriptors.
    pub(crate) fn of(limit: usize) -> Self {
        // Under a low limit the reserve is half of it.
        let free = limit - RESERVE.min(limit / 2);
        let names = NAMES.min(free / 8);
        let traffic = TRAFFIC.min(free - names);
        Self { traffic, listener: traffic / 2, names }
    }
}

/// Admits as much traffic as there are descriptors for; the rest waits in the kernel's queue.
#[derive(Debug)]
pub(crate) struct Gate {
    /// What is behind the gate, for messages.
    name: String,
    /// What happens to traffic without room, for messages.
    otherwise: &'static str,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    log: Arc<Log>,
    was_full: AtomicBool,
}

/// Room for one connection or session, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Room {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Gate {
    /// A gate of at most `own` descriptors, which are part of `all`.
    pub(crate) fn new(
        (name, otherwise): (String, &'static str),
        own: usize,
        all: Arc<Semaphore>,
        log: Arc<Log>,
    ) -> Self {
        let own = Arc::new(Semaphore::new(own.min(Semaphore::MAX_PERMITS)));
        Self { name, otherwise, own, all, log, was_full: AtomicBool::new(false) }
    }

    /// Room for `descriptors` if there is some now.
    pub(crate) fn try_enter(&self, descriptors: u32) -> Option<Room> {
        let own = Arc::clone(&self.own).try_acquire_many_owned(descriptors).ok();
        let all =
            own.and_then(|own| Some((own, Arc::clone(&self.all).try_acquire_many_owned(descriptors).ok()?)));
        if all.is_none() && !self.was_full.swap(true, Ordering::Relaxed) {
            self.log.say(format_args!("{}", self.message()));
        }
        all.map(|(own, all)| Room { _own: own, _all: all })
    }

    /// Room for `descriptors`, as soon as there is some.
    pub(crate) async fn enter(&self, descriptors: u32) -> Room {
        if let Some(room) = self.try_enter(descriptors) {
            return room;
        }
        let own = Arc::clone(&self.own).acquire_many_owned(descriptors).await;
        let own = own.expect("the semaphore is never closed");
        let all = Arc::clone(&self.all).acquire_many_owned(descriptors).await;
        let all = all.expect("the semaphore is never closed");
        Room { _own: own, _all: all }
    }

    fn message(&self) -> String {
        format!(
            "{} has as many clients as it may; {} (the limit of open files, `ulimit -Hn`, bounds them)",
            self.name, self.otherwise
        )
    }

    /// The warning of `status` while there is no room and traffic was refused for that.
    pub(crate) fn warning(&self) -> Option<String> {
        let free = self.own.available_permits().min(self.all.available_permits());
        (self.was_full.load(Ordering::Relaxed) && free < PER_CONNECTION as usize).then(|| self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_under_every_limit() {
        for limit in [0, 1, 64, 256, 1024, 4096, 1 << 20, usize::MAX] {
            let shares = Shares::of(limit);
            let reserve = limit - shares.traffic - shares.names;
            assert!(reserve >= RESERVE.min(limit / 2), "{limit}: {shares:?}");
            assert!(shares.listener <= shares.traffic, "{limit}: {shares:?}");
        }
        assert_eq!(Shares::of(1024), Shares { traffic: 448, listener: 224, names: 64 });
        assert_eq!(Shares::of(usize::MAX), Shares { traffic: TRAFFIC, listener: TRAFFIC / 2, names: NAMES });
    }

    #[tokio::test]
    async fn a_full_gate_is_told_once_and_is_a_warning_while_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Arc::new(Log::open(&path).unwrap());
        let gate = Gate::new(("port 80 of web".into(), "others wait"), 2, Arc::new(Semaphore::new(100)), log);
        let room = gate.try_enter(2);
        assert!(room.is_some() && gate.warning().is_none());
        assert!(gate.try_enter(2).is_none() && gate.try_enter(2).is_none());
        assert!(gate.warning().unwrap().starts_with("port 80 of web has as many clients as it may"));
        drop(room);
        drop(gate.enter(2).await);
        assert_eq!(gate.warning(), None);
        assert_eq!(
            crate::cloud::local::log::with(&path, "as many clients").matches("as many clients").count(),
            1
        );
    }
}
