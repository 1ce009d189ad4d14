//! Balancing: which backend of a listener is next. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::cloud::local::affinity::Affinity;

/// A backend of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upstream {
    /// Where its port is reached.
    pub(super) address: SocketAddr,
    /// The key of its machine.
    pub(super) machine: u64,
}

/// How often an address is tried behind which a network chooses the machine.
const REPEATS: usize = 4;

/// The healthy backends of one listener, and which of them is next.
#[derive(Debug, Default)]
pub(super) struct Backends {
    all: Vec<Upstream>,
    /// An address behind which another one chooses, in the place of backends.
    inside: Option<SocketAddr>,
    turn: usize,
    /// Of a Service whose clients stay with a backend.
    affinity: Option<Affinity>,
}

impl Backends {
    /// Replaces the backends.
    pub(super) fn set(&mut self, all: Vec<Upstream>) {
        self.all = all;
    }

    /// Has each client stay with a backend for as long as it comes again within that time; `None`: it does not stay.
    pub(super) fn set_affinity(&mut self, timeout: Option<Duration>) {
        match (&mut self.affinity, timeout) {
            (Some(affinity), Some(timeout)) => affinity.set_timeout(timeout),
            (affinity, timeout) => *affinity = timeout.map(Affinity::new),
        }
    }

    /// Whether it matters who the client is.
    pub(super) fn have_affinity(&self) -> bool {
        self.affinity.is_some()
    }

    /// Has connections go to an address behind which another one chooses, unless there are backends to choose from here.
    pub(super) fn set_inside(&mut self, inside: Option<SocketAddr>) {
        self.inside = inside;
    }

    /// Whether that address is one of them.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.inside == Some(address) || self.all.iter().any(|backend| backend.address == address)
    }

    /// The backend to try for a connection of `client`, out of those that were not `tried`: its own where clients stay,
    /// otherwise the one with the fewest connections, in turn among equals.
    pub(super) fn next(
        &mut self,
        client: Option<IpAddr>,
        tried: &[SocketAddr],
        connections: impl Fn(u64) -> u32,
    ) -> Option<Upstream> {
        if let Some(address) = self.inside.filter(|_| self.all.is_empty()) {
            return (tried.len() < REPEATS).then_some(Upstream { address, machine: 0 });
        }
        if self.all.is_empty() {
            return None;
        }
        if let (Some(affinity), Some(client)) = (&mut self.affinity, client) {
            let left =
                self.all.iter().map(|backend| backend.address).filter(|address| !tried.contains(address));
            let found = affinity.choose(client, &left.collect::<Vec<_>>(), Instant::now())?;
            return self.all.iter().find(|backend| backend.address == found).copied();
        }
        let turn = self.turn % self.all.len();
        self.turn = self.turn.wrapping_add(1);
        let (before, from) = self.all.split_at(turn);
        let in_turn = from.iter().chain(before).filter(|backend| !tried.contains(&backend.address));
        in_turn.min_by_key(|backend| connections(backend.machine)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_with_the_fewest_connections_is_next_and_equals_take_turns() {
        let upstream = |number: u16| Upstream {
            address: SocketAddr::from(([127, 0, 0, 1], number)),
            machine: u64::from(number),
        };
        let mut backends = Backends::default();
        assert_eq!(backends.next(None, &[], |_| 0), None);
        backends.set(vec![upstream(1), upstream(2), upstream(3)]);
        let mut next = |tried: &[SocketAddr], counts: [u32; 4]| {
            backends
                .next(None, tried, |machine| counts[usize::try_from(machine).unwrap()])
                .map(|found| found.machine)
        };
        let turns: Vec<_> = (0..6).map(|_| next(&[], [0; 4]).unwrap()).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
        assert_eq!(next(&[], [0, 5, 1, 2]), Some(2));
        let dead = upstream(2).address;
        assert_eq!(next(&[dead], [0, 5, 1, 2]), Some(3));
        assert_eq!(next(&[1, 2, 3].map(|number| upstream(number).address), [0; 4]), None);
        let inside = upstream(9).address;
        backends.set(vec![]);
        backends.set_inside(Some(inside));
        let tries =
            (0..9).map(|tries| backends.next(None, &vec![inside; tries], |_| 0)).take_while(Option::is_some);
        assert_eq!(tries.count(), REPEATS);
        // With backends to choose from a client's own is taken, also in a network.
        backends.set(vec![upstream(1), upstream(2), upstream(3)]);
        backends.set_affinity(Some(Duration::from_mins(1)));
        let client = Some(IpAddr::from([127, 0, 0, 1]));
        let own = backends.next(client, &[], |_| 0).unwrap();
        backends.set_affinity(Some(Duration::from_mins(2)));
        assert!((0..9).all(|_| backends.next(client, &[], |machine| u32::from(machine == own.machine)) == Some(own)));
        assert_ne!(backends.next(client, &[own.address], |_| 0), Some(own));
    }
}
