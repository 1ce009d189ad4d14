//! Admission of traffic: how many connections, UDP sessions and questions for names there may be at once.
//!
//! Each carried connection takes up to six descriptors, so that clients alone could take all of them, and neither
//! another Service nor the control socket would be served any more. Hence traffic has a share, and what is not shared out
//! is the reserve.

use super::log::Log;
use super::table::{DESCRIPTORS, SLOTS};

/// Descriptors that traffic may not take: those of listeners, of the control socket, and of what carries.
const RESERVE: usize = 512;

/// Connections and UDP sessions at once, of all Services. They take no memory of a process but a hundred bytes each, and
/// of the kernel what its sockets have.
const CONNECTIONS: usize = SLOTS as usize;

/// Descriptors for questions for names, of all environments: one a question that is relayed, one a TCP connection.
const NAMES: usize = 512;

/// Descriptors of egress beside carried connections, of all environments: one a UDP flow or series of pings, one a
/// connection that is being made.
const OUTSIDE: usize = 4096;

/// Descriptors of one connection at most: the client's, the machine's, and a pipe for each direction.
const PER_CONNECTION: usize = 6;

/// How much there may be of each kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections and sessions of all Services and of egress, in all processes.
    pub(crate) connections: usize,
    /// Of these, those of one listener: one busy Service leaves room for the others.
    pub(crate) listener: usize,
    /// Descriptors of questions for names.
    pub(crate) names: usize,
    /// Descriptors of egress.
    pub(crate) outside: usize,
    /// Of the connections, those of machines to the outside: they leave Services the others.
    pub(crate) outwards: usize,
}

impl Shares {
    /// The shares of processes that may have `limit` descriptors.
    pub(crate) fn of(limit: usize) -> Self {
        let limit = limit.min(DESCRIPTORS);
        // Under a low limit the reserve is half of it.
        let free = limit - RESERVE.min(limit / 2);
        let names = NAMES.min(free / 8);
        let outside = OUTSIDE.min(free / 8);
        let connections = CONNECTIONS.min((free - names - outside) / PER_CONNECTION);
        Self { connections, listener: connections / 2, names, outside, outwards: connections / 2 }
    }
}

/// Admits as much of one kind as there may be.
#[derive(Debug)]
pub(super) struct Gate {
    /// What is behind the gate, for messages.
    name: String,
    /// What happens to traffic without room, for messages.
    otherwise: &'static str,
    limit: usize,
    is_full: bool,
    was_logged: bool,
}

impl Gate {
    /// A gate of at most `limit`.
    pub(super) fn new(name: String, otherwise: &'static str, limit: usize) -> Self {
        Self { name, otherwise, limit, is_full: false, was_logged: false }
    }

    /// Whether there is room beside `own`, where `is_free` says whether there is room in what several gates share.
    pub(super) fn admits(&mut self, own: usize, is_free: bool, log: Log) -> bool {
        let admits = own < self.limit && is_free;
        if !admits && !std::mem::replace(&mut self.was_logged, true) {
            log.write(format_args!("{}", self.message()));
        }
        self.is_full = !admits;
        admits
    }

    /// How much there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    fn message(&self) -> String {
        format!(
            "{} has as many clients as it may; {} (the limit of open files, `ulimit -Hn`, bounds them)",
            self.name, self.otherwise
        )
    }

    /// The warning of `status` while there is no room and traffic was refused for that.
    pub(super) fn warning(&self, own: usize) -> Option<String> {
        (self.is_full && own >= self.limit).then(|| self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_under_every_limit() {
        for limit in [0, 1, 64, 256, 1024, 4096, 1 << 20, usize::MAX] {
            let shares = Shares::of(limit);
            let limit = limit.min(DESCRIPTORS);
            let reserve = limit - shares.connections * PER_CONNECTION - shares.names - shares.outside;
            assert!(reserve >= RESERVE.min(limit / 2), "{limit}: {shares:?}");
            assert!(shares.listener <= shares.connections, "{limit}: {shares:?}");
            assert!(shares.outwards <= shares.connections / 2, "{limit}: {shares:?}");
        }
        assert_eq!(
            Shares::of(1024),
            Shares { connections: 64, listener: 32, names: 64, outside: 64, outwards: 32 }
        );
        let most = Shares {
            connections: CONNECTIONS,
            listener: CONNECTIONS / 2,
            names: NAMES,
            outside: OUTSIDE,
            outwards: CONNECTIONS / 2,
        };
        assert_eq!(Shares::of(usize::MAX), most);
    }

    #[test]
    fn a_full_gate_is_logged_once_and_is_a_warning_while_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(&path).unwrap();
        let mut gate = Gate::new("port 80 of web".into(), "others wait", 1);
        assert!(gate.admits(0, true, log) && gate.warning(1).is_none());
        assert!(!gate.admits(1, true, log) && !gate.admits(1, true, log));
        assert!(gate.warning(1).unwrap().starts_with("port 80 of web has as many clients as it may"));
        assert_eq!(gate.warning(0), None);
        assert!(!gate.admits(0, false, log), "others have taken all");
        assert!(gate.admits(0, true, log));
        assert_eq!(std::fs::read_to_string(path).unwrap().matches("as many clients").count(), 1);
    }
}
