//! The L4 balancer: listeners on loopback addresses, each connection to the healthy machine with the fewest of them.

mod bind;
mod service;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::bind::{Bound, bind, bind_elsewhere};
use self::service::{Connections, Service, TIMES, Table, Times};
use super::admission::{Gate, Shares};
use super::routes::{ListenerId, Report, Route};
use crate::cloud::local::log::Log;
use crate::cloud::local::supervise::{Tasks, supervise};
use crate::manifest::api::Protocol;

/// A listener that serves.
#[derive(Debug)]
struct Running {
    host: Ipv4Addr,
    service: Arc<Service>,
    socket: Socket,
    /// Ends the connections with the listener.
    _ends_connections: DropGuard,
}

/// The socket of a listener, and the task that serves it.
#[derive(Debug)]
struct Socket {
    /// The port that it is bound to.
    bound: u16,
    /// When the wanted port was tried last.
    tried: Instant,
    serving: DropGuard,
    task: JoinHandle<()>,
}

impl Socket {
    /// Closes it: when this returns, another one can be bound to its port.
    async fn close(self) {
        drop(self.serving);
        // A task that panicked is gone as well.
        let _ = self.task.await;
    }
}

/// All listeners.
#[derive(Debug)]
pub(super) struct Balancer {
    running: Mutex<BTreeMap<ListenerId, Running>>,
    /// Listeners that cannot be bound, with the reason.
    failed: Mutex<BTreeMap<ListenerId, String>>,
    connections: Connections,
    shares: Shares,
    /// Descriptors for the traffic of all listeners.
    traffic: Arc<Semaphore>,
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    times: Times,
}

impl Balancer {
    /// No listener yet.
    pub(super) fn new(shares: Shares, tasks: Arc<Tasks>, log: Arc<Log>) -> Self {
        Self {
            running: Mutex::default(),
            failed: Mutex::default(),
            connections: Connections::default(),
            shares,
            traffic: Arc::new(Semaphore::new(shares.traffic)),
            tasks,
            log,
            times: TIMES,
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<ListenerId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bound ports, connections and warnings.
    pub(super) fn report(&self, report: &mut Report) {
        for (id, running) in self.running().iter() {
            report.bound.insert(id.clone(), running.socket.bound);
            if let Some(warning) = running.service.gate.warning() {
                report.warnings.entry(id.environment.clone()).or_default().push(warning);
            }
        }
        report.connections = self.connections.counts();
    }

    /// Makes the listeners what is wanted: closes those that are not wanted, binds new ones, replaces tables.
    pub(super) async fn apply(&self, wanted: BTreeMap<ListenerId, Route>) {
        for socket in self.take_unwanted(&wanted) {
            socket.close().await;
        }
        for socket in self.move_home(&wanted) {
            socket.close().await;
        }
        self.log_failures(self.bind_missing(&wanted));
        let running = self.running();
        for (id, route) in wanted {
            if let Some(found) = running.get(&id) {
                let backends = route.backends.iter().map(|backend| self.connections.upstream(backend));
                found.service.table.set(backends.collect());
            }
        }
        self.connections.forget_unused();
    }

    /// Takes out the listeners that are not wanted, with all their connections.
    fn take_unwanted(&self, wanted: &BTreeMap<ListenerId, Route>) -> Vec<Socket> {
        let is_unwanted = |id: &ListenerId, running: &Running| {
            wanted.get(id).is_none_or(|route| route.host != running.host)
        };
        let mut running = self.running();
        let taken = running.extract_if(.., |id, running| is_unwanted(id, running));
        taken.map(|(_, running)| running.socket).collect()
    }

    /// Binds listeners that are bound to another port than the wanted one to that, if it is free now, and others out of
    /// the way of listeners whose wanted port they have. Connections go on. Returns the sockets to close.
    fn move_home(&self, wanted: &BTreeMap<ListenerId, Route>) -> Vec<Socket> {
        let wanted_ports: BTreeSet<(Ipv4Addr, u16, Protocol)> =
            wanted.iter().map(|(id, route)| (route.host, id.port, id.protocol)).collect();
        let mut closing = Vec::new();
        for (id, found) in self.running().iter_mut().filter(|(id, found)| found.socket.bound != id.port) {
            let in_the_way = wanted_ports.contains(&(found.host, found.socket.bound, id.protocol));
            if !in_the_way && found.socket.tried.elapsed() < self.times.retry {
                continue;
            }
            found.socket.tried = Instant::now();
            let bound = match bind(found.host, id.port, id.protocol) {
                Ok(bound) => Ok(bound),
                Err(_) if in_the_way => bind(found.host, 0, id.protocol),
                Err(_) => continue,
            };
            // After a failure it stays as it is, and is tried again.
            let Ok(socket) = bound.and_then(|bound| self.serve(id, bound, &found.service)) else { continue };
            self.log.say(format_args!("{id} is served at port {} now", socket.bound));
            closing.push(std::mem::replace(&mut found.socket, socket));
        }
        closing
    }

    /// Binds the wanted listeners that are not bound. Returns those that cannot be, with the reason.
    fn bind_missing(&self, wanted: &BTreeMap<ListenerId, Route>) -> BTreeMap<ListenerId, String> {
        let mut running = self.running();
        let missing = wanted.iter().filter(|(id, _)| !running.contains_key(*id));
        // First those that get the port that they want: no other one may take that in place of its own.
        let (home, away): (Vec<_>, Vec<_>) = missing
            .map(|(id, route)| (id, route.host, bind(route.host, id.port, id.protocol)))
            .partition(|(.., bound)| bound.is_ok());
        let away: Vec<_> = away
            .into_iter()
            .map(|(id, host, bound)| {
                (id, host, bound.or_else(|error| bind_elsewhere(host, id.port, id.protocol, error)))
            })
            .collect();
        let mut failed = BTreeMap::new();
        for (id, host, bound) in home.into_iter().chain(away) {
            let service = self.service(id);
            match bound.and_then(|bound| self.serve(id, bound, &service)) {
                Ok(socket) => {
                    let ends = service.ended.clone().drop_guard();
                    running.insert(id.clone(), Running { host, service, socket, _ends_connections: ends });
                }
                Err(error) => {
                    failed.insert(id.clone(), error.to_string());
                }
            }
        }
        failed
    }

    /// Logs failures that are new, or have another reason than before.
    fn log_failures(&self, failed: BTreeMap<ListenerId, String>) {
        let mut before = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, error) in failed.iter().filter(|(id, error)| before.get(*id) != Some(*error)) {
            self.log.say(format_args!("{id} cannot be bound: {error}"));
        }
        *before = failed;
    }

    fn service(&self, id: &ListenerId) -> Arc<Service> {
        let (own, otherwise) = match id.protocol {
            Protocol::Tcp => (self.shares.listener, "further ones wait until others go"),
            Protocol::Udp => (
                self.shares.listener.min(udp::MAX_SESSIONS),
                "the one that was silent for longest is forgotten for each further one",
            ),
        };
        let name = (id.to_string(), otherwise);
        Arc::new(Service {
            table: Table::default(),
            gate: Gate::new(name, own, Arc::clone(&self.traffic), Arc::clone(&self.log)),
            ended: CancellationToken::new(),
            times: self.times,
        })
    }

    /// Starts the task that serves a socket.
    fn serve(&self, id: &ListenerId, bound: Bound, service: &Arc<Service>) -> io::Result<Socket> {
        let cancel = CancellationToken::new();
        let (tasks, log) = (Arc::clone(&self.tasks), Arc::clone(&self.log));
        let (name, ending, service) = (id.to_string(), cancel.clone(), Arc::clone(service));
        let (port, task) = match bound {
            Bound::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
                let port = listener.local_addr()?.port();
                let make = move || tcp::serve(Arc::clone(&listener), Arc::clone(&service));
                (port, tokio::spawn(supervise(tasks, log, name, ending, make)))
            }
            Bound::Udp(socket) => {
                socket.set_nonblocking(true)?;
                let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
                let port = socket.local_addr()?.port();
                let make = move || udp::serve(Arc::clone(&socket), Arc::clone(&service));
                (port, tokio::spawn(supervise(tasks, log, name, ending, make)))
            }
        };
        Ok(Socket { bound: port, tried: Instant::now(), serving: cancel.drop_guard(), task })
    }
}

#[cfg(test)]
mod tests;
