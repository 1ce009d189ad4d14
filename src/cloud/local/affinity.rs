//! `sessionAffinity: ClientIP` of a listener: which backend a client's next connection goes to.
//!
//! A client that came within the time of the Service's `timeoutSeconds` stays with its backend as long as that is healthy;
//! any other goes to the backend that its address has by [rendezvous hashing](super::rendezvous). The list of
//! clients is the own one of the process that carries: its successor sends a client to the same backend unless others came
//! in between.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::rendezvous;

/// Clients of one listener that are remembered. Further ones go by their address alone.
const CLIENTS: usize = 4096;

/// Between two searches for clients whose time is over, in a list that is full.
const SWEEP: Duration = Duration::from_secs(1);

/// The clients of a listener.
#[derive(Debug)]
pub(crate) struct Affinity {
    timeout: Duration,
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
    swept: Option<Instant>,
}

impl Affinity {
    /// No client yet. `timeout`: how long one without a new connection is remembered.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, clients: HashMap::new(), swept: None }
    }

    /// Another time from now on; clients stay.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The one of these backends for a connection of this client at the time `now`.
    pub(crate) fn choose(
        &mut self,
        client: IpAddr,
        backends: &[SocketAddr],
        now: Instant,
    ) -> Option<SocketAddr> {
        let known = self.clients.get(&client);
        let known = known.filter(|(_, last)| now.saturating_duration_since(*last) < self.timeout);
        let stays = known.map(|(address, _)| *address).filter(|address| backends.contains(address));
        let found = match stays {
            None => rendezvous::choose(rendezvous::client(client), backends.iter().copied())?,
            Some(found) => found,
        };
        self.note(client, found, now);
        Some(found)
    }

    fn note(&mut self, client: IpAddr, backend: SocketAddr, now: Instant) {
        let is_full = self.clients.len() >= CLIENTS && !self.clients.contains_key(&client);
        if is_full && self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            let timeout = self.timeout;
            self.clients.retain(|_, (_, last)| now.saturating_duration_since(*last) < timeout);
        }
        if self.clients.len() < CLIENTS || self.clients.contains_key(&client) {
            self.clients.insert(client, (backend, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn upstreams(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([10, 78, 1, last], 80))).collect()
    }

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    const HOURS: Duration = Duration::from_hours(3);

    #[test]
    fn a_client_stays_within_its_time_though_backends_come_and_goes_on_when_its_own_is_gone() {
        let (two, nine) = (upstreams(2), upstreams(9));
        let mut affinity = Affinity::new(HOURS);
        let start = Instant::now();
        let before: Vec<SocketAddr> =
            (0..100).map(|number| affinity.choose(client(number), &two, start).unwrap()).collect();
        assert!(two.iter().all(|backend| before.contains(backend)), "both have clients");
        for (number, was) in (0..100).zip(&before) {
            let found = affinity.choose(client(number), &nine, start + HOURS / 2);
            assert_eq!(found, Some(*was), "new backends take nobody");
        }
        // Its time counts from its last connection; after that its address alone counts.
        let later = |time| {
            let mut affinity = Affinity::new(HOURS);
            (0..100).map(|number| affinity.choose(client(number), &two, start)).for_each(drop);
            let after = (0..100).map(|number| affinity.choose(client(number), &nine, start + time).unwrap());
            after.zip(&before).filter(|(is, was)| is != *was).count()
        };
        assert_eq!(later(HOURS * 99 / 100), 0);
        assert!(later(HOURS) > 50);
        // What was tried, or is gone, is left; without others there is none.
        let was = before[0];
        let other =
            affinity.choose(client(0), &two[usize::from(two[0] == was)..][..1], start + HOURS / 2).unwrap();
        assert_ne!(other, was);
        assert_eq!(affinity.choose(client(0), &two, start + HOURS / 2), Some(other), "it stays there");
        assert_eq!(affinity.choose(client(0), &[was], start + HOURS / 2), Some(was));
        assert_eq!(affinity.choose(client(0), &[], start), None);
    }

    #[test]
    fn a_successor_without_the_list_finds_the_same_backends() {
        let three = upstreams(3);
        let now = Instant::now();
        let (mut first, mut second) = (Affinity::new(HOURS), Affinity::new(HOURS));
        for number in 0..200 {
            let found = first.choose(client(number), &three, now);
            assert_eq!(second.choose(client(number), &three, now), found);
        }
    }

    #[test]
    fn the_list_is_bounded_and_those_beyond_it_go_by_their_address() {
        let two = upstreams(2);
        let mut affinity = Affinity::new(HOURS);
        let start = Instant::now();
        let many = u32::try_from(CLIENTS).unwrap() * 2;
        for number in 0..many {
            affinity.choose(client(number), &two, start).unwrap();
        }
        assert_eq!(affinity.clients.len(), CLIENTS);
        let found = affinity.choose(client(many), &two, start);
        assert_eq!(affinity.choose(client(many), &two, start), found);
        // Those whose time is over make room.
        affinity.choose(client(many), &two, start + HOURS);
        assert_eq!(affinity.clients.len(), 1);
    }
}
