//! The L4 balancer: listeners on loopback addresses, connections to the healthy VM with the fewest of them.
//!
//! It knows no groups and no health: whoever does hands it a table of backends for each listener, as often as it
//! changes.

mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cloud::local::log::Log;
use crate::cloud::local::mover::admission::{Gate, Shares};
use crate::cloud::local::supervise::{Tasks, supervise};
use crate::manifest::api::{Name, Protocol};

/// Ports below this one need a privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Added to a port that cannot be bound: 80 becomes 8080, 443 becomes 8443.
const FALLBACK_OFFSET: u16 = 8000;

/// How long things take.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Between two tries of a listener that has another port than the wanted one to get that.
    retry: Duration,
    /// A UDP session in which nobody says anything for this long is forgotten.
    idle: Duration,
    /// Between two looks for such sessions.
    sweep: Duration,
}

const TIMES: Times =
    Times { retry: Duration::from_secs(5), idle: Duration::from_mins(1), sweep: Duration::from_secs(5) };

/// Which listener: environment, balancer, and the port and transport that the balancer's list says.
pub(crate) type Key = (String, Name, u16, Protocol);

/// What a listener should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The address to listen on.
    pub(crate) host: Ipv4Addr,
    /// Where connections go.
    pub(crate) backends: Vec<Backend>,
}

/// A port of a healthy VM.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    /// Where it is reached.
    pub(crate) address: SocketAddr,
    /// Connections to the VM, over all balancers.
    pub(crate) connections: Arc<AtomicU32>,
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for Backend {}

/// Healthy backends of one listener, and whose turn it is.
#[derive(Debug, Default)]
struct Table {
    backends: RwLock<Vec<Backend>>,
    turn: AtomicUsize,
}

impl Table {
    /// All backends, the one to try first in front: fewest connections, in turn among equals.
    fn order(&self) -> Vec<Backend> {
        let backends = self.backends.read().unwrap_or_else(PoisonError::into_inner);
        let mut order = backends.clone();
        if !order.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % order.len();
            order.rotate_left(turn);
        }
        order.sort_by_key(|backend| backend.connections.load(Ordering::Relaxed));
        order
    }
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(connections: &Arc<AtomicU32>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What serves the clients of a listener, whichever socket they come by.
#[derive(Debug)]
struct Service {
    table: Table,
    gate: Gate,
    /// Ends all connections.
    ended: CancellationToken,
    times: Times,
}

/// A listener at work.
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
pub(crate) struct Balancers {
    running: Mutex<BTreeMap<Key, Running>>,
    shares: Shares,
    /// Descriptors for the traffic of all listeners.
    traffic: Arc<Semaphore>,
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    times: Times,
}

impl Balancers {
    /// No listener yet. Those to come have these shares of descriptors, and say in `log` and `tasks` how they fare.
    pub(crate) fn new(shares: Shares, tasks: Arc<Tasks>, log: Arc<Log>) -> Self {
        let traffic = Arc::new(Semaphore::new(shares.traffic));
        Self { running: Mutex::default(), shares, traffic, tasks, log, times: TIMES }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Key, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port that the listener is really bound to, if it is.
    pub(crate) fn bound(&self, key: &Key) -> Option<u16> {
        self.running().get(key).map(|running| running.socket.bound)
    }

    /// What `status` of the environment should warn of.
    pub(crate) fn warnings(&self, environment: &str) -> Vec<String> {
        let running = self.running();
        let of = running.iter().filter(|((of, ..), _)| of == environment);
        of.filter_map(|(_, running)| running.service.gate.warning()).collect()
    }

    /// Makes the listeners what is wanted: closes those that are not wanted, binds new ones, hands tables over. Returns
    /// those that could not be bound; they are tried again the next time. Called by one task alone.
    pub(crate) async fn apply(&self, wanted: BTreeMap<Key, Wanted>) -> Vec<(Key, io::Error)> {
        for socket in self.close_unwanted(&wanted) {
            socket.close().await;
        }
        self.move_home(&wanted).await;
        let mut running = self.running();
        let missing: Vec<(&Key, &Wanted)> =
            wanted.iter().filter(|(key, _)| !running.contains_key(*key)).collect();
        let mut failed = Vec::new();
        // First those that get the port that they want: no other one may take that in place of its own.
        let (home, away): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .map(|(key, wanted)| (key, wanted, bind(wanted.host, key.2, key.3)))
            .partition(|(.., bound)| bound.is_ok());
        let away = away.into_iter().map(|(key, wanted, bound)| {
            let bound = bound.or_else(|error| bind_elsewhere(wanted.host, key.2, key.3, error));
            (key, wanted, bound)
        });
        let fallen_back: Vec<_> = away.collect();
        for (key, wanted, bound) in home.into_iter().chain(fallen_back) {
            let service = self.service(key);
            match bound.and_then(|bound| self.serve(key, bound, &service)) {
                Ok(socket) => {
                    let ends = service.ended.clone().drop_guard();
                    let started = Running { host: wanted.host, service, socket, _ends_connections: ends };
                    running.insert(key.clone(), started);
                }
                Err(error) => failed.push((key.clone(), error)),
            }
        }
        for (key, wanted) in wanted {
            if let Some(found) = running.get(&key) {
                let mut backends =
                    found.service.table.backends.write().unwrap_or_else(PoisonError::into_inner);
                *backends = wanted.backends;
            }
        }
        failed
    }

    /// Takes out the listeners that are not wanted, with all their connections.
    fn close_unwanted(&self, wanted: &BTreeMap<Key, Wanted>) -> Vec<Socket> {
        let mut running = self.running();
        let is_unwanted =
            |key: &Key, running: &Running| wanted.get(key).is_none_or(|wanted| wanted.host != running.host);
        let unwanted: Vec<Key> = running
            .iter()
            .filter(|(key, running)| is_unwanted(key, running))
            .map(|(key, _)| key.clone())
            .collect();
        unwanted.iter().filter_map(|key| running.remove(key)).map(|running| running.socket).collect()
    }

    /// Gives listeners that have another port than the wanted one the wanted one, if it is free now, and makes room for
    /// the listeners whose wanted port they have. Connections go on.
    async fn move_home(&self, wanted: &BTreeMap<Key, Wanted>) {
        let at = |key: &Key, wanted: &Wanted| (wanted.host, key.2, key.3);
        let wanted_ports: BTreeSet<(Ipv4Addr, u16, Protocol)> =
            wanted.iter().map(|(key, wanted)| at(key, wanted)).collect();
        let mut closing = Vec::new();
        {
            let mut running = self.running();
            let away: Vec<Key> = running
                .iter()
                .filter(|(key, running)| running.socket.bound != key.2)
                .map(|(key, _)| key.clone())
                .collect();
            for key in away {
                let Some(found) = running.get_mut(&key) else { continue };
                let (port, protocol) = (key.2, key.3);
                let in_the_way = wanted_ports.contains(&(found.host, found.socket.bound, protocol));
                if !in_the_way && found.socket.tried.elapsed() < self.times.retry {
                    continue;
                }
                found.socket.tried = Instant::now();
                let bound = match bind(found.host, port, protocol) {
                    Ok(bound) => Ok(bound),
                    Err(_) if in_the_way => bind_any(found.host, protocol),
                    Err(_) => continue,
                };
                // It stays as it is when that fails, and is looked at again.
                let Ok(socket) = bound.and_then(|bound| self.serve(&key, bound, &found.service)) else {
                    continue;
                };
                self.log.say(format_args!("{} is served at port {} now", words(&key), socket.bound));
                closing.push(std::mem::replace(&mut found.socket, socket));
            }
        }
        for socket in closing {
            socket.close().await;
        }
    }

    fn service(&self, key: &Key) -> Arc<Service> {
        let (own, otherwise) = match key.3 {
            Protocol::Tcp => (self.shares.listener, "further ones wait until others go"),
            Protocol::Udp => (
                self.shares.listener.min(udp::MAX_SESSIONS),
                "the one that was silent for longest is forgotten for each further one",
            ),
        };
        let gate = Gate::new((words(key), otherwise), own, Arc::clone(&self.traffic), Arc::clone(&self.log));
        Arc::new(Service {
            table: Table::default(),
            gate,
            ended: CancellationToken::new(),
            times: self.times,
        })
    }

    /// Starts the task that serves a socket.
    fn serve(&self, key: &Key, bound: Bound, service: &Arc<Service>) -> io::Result<Socket> {
        let cancel = CancellationToken::new();
        let (tasks, log) = (Arc::clone(&self.tasks), Arc::clone(&self.log));
        let (name, ending, service) = (words(key), cancel.clone(), Arc::clone(service));
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

/// A listener in messages.
pub(crate) fn words((environment, name, port, protocol): &Key) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    format!("{protocol} port {port} of the Service {name} of {environment}")
}

/// A socket that is bound to a port.
enum Bound {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

fn bind(host: Ipv4Addr, port: u16, protocol: Protocol) -> io::Result<Bound> {
    match protocol {
        Protocol::Tcp => std::net::TcpListener::bind((host, port)).map(Bound::Tcp),
        Protocol::Udp => std::net::UdpSocket::bind((host, port)).map(Bound::Udp),
    }
}

/// Any port that is free.
fn bind_any(host: Ipv4Addr, protocol: Protocol) -> io::Result<Bound> {
    bind(host, 0, protocol)
}

/// Another port than `port`, where this user may not have that, or somebody else has it.
fn bind_elsewhere(host: Ipv4Addr, port: u16, protocol: Protocol, error: io::Error) -> io::Result<Bound> {
    if !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse) {
        return Err(error);
    }
    let fallback = if port < FIRST_UNPRIVILEGED { port + FALLBACK_OFFSET } else { 0 };
    bind(host, fallback, protocol).or_else(|_| bind_any(host, protocol))
}

/// A loopback address for the balancer `name` of `environment` that is not in `taken`: the same one for the same name
/// as far as possible, so that what people have bookmarked still works after a `destroy`.
pub(crate) fn address(environment: &str, name: &Name, taken: &[String]) -> Ipv4Addr {
    let digest = crate::oci::Digest::of(format!("{environment}/{}/{}", name.namespace, name.name).as_bytes());
    let bytes = digest.as_bytes();
    let first = u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    // 127.77.0.0/16 without its first and last address.
    let candidates =
        (0..=0xffff_u32).map(|step| (first + step) & 0xffff).filter(|low| (1..0xffff).contains(low));
    let base = u32::from(Ipv4Addr::new(127, 77, 0, 0));
    candidates
        .map(|low| Ipv4Addr::from(base + low))
        .find(|address| taken.iter().all(|taken| *taken != address.to_string()))
        .unwrap_or(Ipv4Addr::new(127, 77, 0, 1))
}

#[cfg(test)]
mod tests;
