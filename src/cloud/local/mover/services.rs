//! What is known of each listener of a Service: its backends, and whether it admits more.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::admission::{Gate, Shares};
use super::balance::{Backends, Upstream};
use super::carry::Engine;
use super::log::Log;
use super::poll::{EventFlags, Poll, Token};
use super::routes::{ListenerId, Route};
use super::table::{Table, key};
use crate::cloud::local::sources::Sources;
use crate::manifest::api::Protocol;

/// Sessions of one listener. The one that was silent for longest makes room for a new one: sources of datagrams can be
/// invented, so that a bound without that would let one client lock out all others.
pub(super) const MAX_SESSIONS: usize = 1024;

/// The pause of a listener whose accept failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// A listener of a Service.
#[derive(Debug)]
pub(super) struct Service {
    environment: String,
    pub(super) backends: Backends,
    /// Who may connect.
    pub(super) sources: Sources,
    gate: Gate,
    /// Since when it accepts nothing, for want of room.
    paused: Option<Instant>,
}

/// The listeners of Services, by the index of their record.
#[derive(Debug, Default)]
pub(super) struct Services {
    all: HashMap<u64, Service>,
}

impl Services {
    /// A listener is bound.
    pub(super) fn open(&mut self, id: &ListenerId, record: usize, shares: Shares) {
        let (limit, otherwise) = match id.protocol {
            Protocol::Tcp => (shares.listener, "further ones wait until others go"),
            Protocol::Udp => (
                shares.listener.min(MAX_SESSIONS),
                "the one that was silent for longest is forgotten for each further one",
            ),
        };
        let service = Service {
            environment: id.environment.clone(),
            backends: Backends::default(),
            sources: Sources::default(),
            gate: Gate::new(id.to_string(), otherwise, limit),
            paused: None,
        };
        self.all.insert(record as u64, service);
    }

    /// A listener is closed.
    pub(super) fn close(&mut self, record: usize) {
        self.all.remove(&(record as u64));
    }

    /// Replaces what a listener does with its clients.
    pub(super) fn set(&mut self, record: usize, route: &Route) {
        let upstream = |backend: &super::routes::Backend| Upstream {
            address: backend.address,
            machine: key(&backend.machine),
        };
        if let Some(service) = self.all.get_mut(&(record as u64)) {
            service.backends.set(route.backends.iter().map(upstream).collect());
            service.backends.set_inside(route.inside);
            service.backends.set_affinity(route.affinity_seconds.map(Duration::from));
            service.sources = Sources::of(&route.source_ranges);
        }
    }

    /// The listener of that record.
    pub(super) fn get(&mut self, record: u64) -> Option<&mut Service> {
        self.all.get_mut(&record)
    }

    /// Whether the backend of a connection depends on who its client is.
    pub(super) fn have_affinity(&self, record: u64) -> bool {
        self.all.get(&record).is_some_and(|service| service.backends.have_affinity())
    }

    /// The backend to try next for a connection of that listener.
    pub(super) fn next(
        &mut self,
        (record, client): (u64, Option<IpAddr>),
        tried: &[SocketAddr],
        engine: &Engine,
    ) -> Option<Upstream> {
        self.all.get_mut(&record)?.backends.next(client, tried, |machine| engine.of_machine(machine))
    }

    /// Whether a client of that listener may connect; `client` is asked for its address only where that matters.
    pub(super) fn let_in(&self, record: u64, client: impl FnOnce() -> Option<IpAddr>) -> bool {
        let limited =
            self.all.get(&record).map(|service| &service.sources).filter(|found| found.are_limited());
        limited.is_none_or(|sources| client().is_some_and(|client| sources.admit(client)))
    }

    /// Whether the listener admits one more.
    pub(super) fn admits(&mut self, record: u64, engine: &Engine, shares: Shares, log: Log) -> bool {
        let own = engine.of_listener(record);
        let is_free = engine.of_all() < shares.connections;
        self.all.get_mut(&record).is_some_and(|service| service.gate.admits(own as usize, is_free, log))
    }

    /// The listener accepts nothing for a while: what comes waits in the kernel.
    pub(super) fn pause(&mut self, record: u64, table: &Table, poll: Poll) {
        let fd = table.listener(usize::try_from(record).unwrap_or(0)).fd();
        if let (Some(service), Some(fd)) = (self.all.get_mut(&record), fd) {
            service.paused = Some(Instant::now());
            poll.delete(fd);
        }
    }

    /// Has listeners accept again for which there is room now. Returns when to look again.
    pub(super) fn resume(&mut self, engine: &Engine, shares: Shares) -> Option<Instant> {
        let mut next = None;
        for (record, service) in &mut self.all {
            let Some(since) = service.paused else { continue };
            let own = engine.of_listener(*record) as usize;
            let has_room = own < service.gate.limit() && engine.of_all() < shares.connections;
            let due = since + PAUSE;
            if !has_room || Instant::now() < due {
                next = Some(next.map_or(due, |next: Instant| next.min(due)).max(Instant::now() + PAUSE / 5));
                continue;
            }
            service.paused = None;
            let index = usize::try_from(*record).unwrap_or(0);
            if let (Some(fd), Ok(index)) = (engine.table.listener(index).fd(), u32::try_from(index)) {
                let _ = engine.poll.add(fd, Token::Listener(index), EventFlags::IN);
            }
        }
        next
    }

    /// The warnings of `status`, each with its environment.
    pub(super) fn warnings(&self, engine: &Engine) -> Vec<(String, String)> {
        let warning = |(record, service): (&u64, &Service)| {
            let warning = service.gate.warning(engine.of_listener(*record) as usize)?;
            Some((service.environment.clone(), warning))
        };
        self.all.iter().filter_map(warning).collect()
    }
}
