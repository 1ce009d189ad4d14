//! The listeners of Services: which are bound, and to which port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::bind::{Bound, bind, bind_elsewhere};
use super::log::Log;
use super::routes::{ListenerId, Route};
use super::table::{Fd, Kind, Table, key};
use crate::manifest::api::Protocol;

/// Between two attempts of a listener that is bound to another port than the wanted one to get that.
const RETRY: Duration = Duration::from_secs(5);

/// A listener that is bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listening {
    host: Ipv4Addr,
    /// The index of its record.
    pub(super) record: usize,
    /// When the wanted port was tried last.
    tried: Instant,
}

/// What was done to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is bound: its socket is to be waited for.
    Opened(ListenerId, usize),
    /// It has another socket than before; the one before is closed by whoever is told.
    Moved(usize, Fd),
    /// It is to be closed with all its connections.
    Closed(usize),
}

/// All listeners of one process.
#[derive(Debug)]
pub(super) struct Listeners {
    table: Table,
    member: usize,
    pub(super) bound: BTreeMap<ListenerId, Listening>,
    /// Listeners that cannot be bound, with the reason.
    failed: BTreeMap<ListenerId, String>,
    pub(super) retry: Duration,
    /// The processes that carry in networks of their own, by environment.
    pub(super) networks: HashMap<String, usize>,
}

/// The key of a listener's record.
pub(super) fn record_key(id: &ListenerId, host: Ipv4Addr) -> u64 {
    key(&format!("{id} at {host}"))
}

impl Listeners {
    /// None yet.
    pub(super) fn new(table: Table, member: usize) -> Self {
        Self {
            table,
            member,
            bound: BTreeMap::new(),
            failed: BTreeMap::new(),
            retry: RETRY,
            networks: HashMap::new(),
        }
    }

    /// Takes over the listeners of `wanted` whose sockets are in the table. Returns the records of others, which are
    /// wanted no more.
    pub(super) fn recover(&mut self, wanted: &BTreeMap<ListenerId, Route>) -> Vec<Change> {
        let mut changes = Vec::new();
        for record in 0..self.table.listeners_top() {
            let listener = self.table.listener(record);
            if listener.fd().is_none() || !matches!(listener.kind(), Kind::Tcp | Kind::Udp) {
                continue;
            }
            let found = wanted.iter().find(|(id, route)| {
                let is_carried = self.carrier(id, route) == Some(listener.member());
                is_carried && record_key(id, route.host) == listener.key()
            });
            match found {
                Some((id, route)) => {
                    let listening = Listening { host: route.host, record, tried: Instant::now() };
                    self.bound.insert(id.clone(), listening);
                    changes.push(Change::Opened(id.clone(), record));
                }
                None => changes.push(Change::Closed(record)),
            }
        }
        changes
    }

    /// Makes the listeners what is wanted: what is not wanted is to be closed before anything is bound, so `close` is
    /// called for these at once.
    pub(super) fn apply(
        &mut self,
        wanted: &BTreeMap<ListenerId, Route>,
        log: Log,
        mut act: impl FnMut(Change),
    ) {
        let is_unwanted = |id: &ListenerId, found: &Listening| {
            let member = self.table.listener(found.record).member();
            let is_wanted =
                |route: &Route| route.host == found.host && self.carrier(id, route) == Some(member);
            !wanted.get(id).is_some_and(is_wanted)
        };
        let unwanted: Vec<ListenerId> = self
            .bound
            .iter()
            .filter(|(id, found)| is_unwanted(id, found))
            .map(|(id, _)| id.clone())
            .collect();
        for id in unwanted {
            if let Some(found) = self.bound.remove(&id) {
                act(Change::Closed(found.record));
            }
        }
        self.move_home(wanted, log, &mut act);
        let failed = self.bind_missing(wanted, &mut act);
        for (id, error) in failed.iter().filter(|(id, error)| self.failed.get(*id) != Some(*error)) {
            log.write(format_args!("{id} cannot be bound: {error}"));
        }
        self.failed = failed;
    }

    /// Binds listeners that are bound to another port than the wanted one to that, if it is free now, and others out of
    /// the way of listeners whose wanted port they have. Connections go on.
    fn move_home(&mut self, wanted: &BTreeMap<ListenerId, Route>, log: Log, act: &mut impl FnMut(Change)) {
        let wanted_ports: BTreeSet<(Ipv4Addr, u16, Protocol)> =
            wanted.iter().map(|(id, route)| (route.host, id.port, id.protocol)).collect();
        for (id, found) in &mut self.bound {
            let record = self.table.listener(found.record);
            let port = record.port();
            if port == id.port {
                continue;
            }
            let in_the_way = wanted_ports.contains(&(found.host, port, id.protocol));
            if !in_the_way && found.tried.elapsed() < self.retry {
                continue;
            }
            found.tried = Instant::now();
            // After a failure it stays as it is, and is tried again.
            let (socket, port) = match bind(found.host, id.port, id.protocol) {
                Ok(bound) => bound,
                Err(_) if in_the_way => match bind(found.host, 0, id.protocol) {
                    Ok(bound) => bound,
                    Err(_) => continue,
                },
                Err(_) => continue,
            };
            log.write(format_args!("{id} is served at port {port} now"));
            if let Some(before) = record.replace(&self.table, socket, port) {
                act(Change::Moved(found.record, before));
            }
        }
    }

    /// Binds the wanted listeners that are not bound. Returns those that cannot be, with the reason.
    fn bind_missing(
        &mut self,
        wanted: &BTreeMap<ListenerId, Route>,
        act: &mut impl FnMut(Change),
    ) -> BTreeMap<ListenerId, String> {
        // One whose network is not known yet has nobody to accept.
        let missing = wanted.iter().filter(|(id, _)| !self.bound.contains_key(*id));
        let missing = missing.filter_map(|(id, route)| Some((id, route.host, self.carrier(id, route)?)));
        // First those that get the port that they want: no other one may take that in place of its own.
        let (home, away): (Vec<_>, Vec<_>) = missing
            .map(|(id, host, member)| ((id, host, member), bind(host, id.port, id.protocol)))
            .partition(|(_, bound)| bound.is_ok());
        let away: Vec<_> = away
            .into_iter()
            .map(|((id, host, member), bound)| {
                let bound = bound.or_else(|error| bind_elsewhere(host, id.port, id.protocol, error));
                ((id, host, member), bound)
            })
            .collect();
        let mut failed = BTreeMap::new();
        for ((id, host, member), bound) in home.into_iter().chain(away) {
            match bound.and_then(|bound| self.record((id, host), member, bound)) {
                Ok(record) => {
                    self.bound.insert(id.clone(), Listening { host, record, tried: Instant::now() });
                    act(Change::Opened(id.clone(), record));
                }
                Err(error) => {
                    failed.insert(id.clone(), error.to_string());
                }
            }
        }
        failed
    }

    /// The process that accepts for a route.
    fn carrier(&self, id: &ListenerId, route: &Route) -> Option<usize> {
        match route.inside {
            None => Some(self.member),
            Some(_) => self.networks.get(&id.environment).copied(),
        }
    }

    fn record(
        &self,
        (id, host): (&ListenerId, Ipv4Addr),
        member: usize,
        (socket, port): Bound,
    ) -> io::Result<usize> {
        let Some(record) = self.table.free_listener() else {
            socket.close();
            return Err(io::Error::other("there are as many listeners as there may be"));
        };
        let kind = match id.protocol {
            Protocol::Tcp => Kind::Tcp,
            Protocol::Udp => Kind::Udp,
        };
        let listener = self.table.listener(record);
        listener.record(&self.table, socket, kind, record_key(id, host), (port, member));
        Ok(record)
    }

    /// Whether some cannot be bound.
    #[cfg(test)]
    pub(super) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The port that each is bound to.
    pub(super) fn ports(&self) -> BTreeMap<ListenerId, u16> {
        let port = |found: &Listening| self.table.listener(found.record).port();
        self.bound.iter().map(|(id, found)| (id.clone(), port(found))).collect()
    }
}
