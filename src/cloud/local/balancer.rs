//! The L4 balancer: listeners on loopback addresses, connections to the healthy VM with the fewest of them.
//!
//! It knows no groups and no health: whoever does hands it a table of backends for each listener, as often as it
//! changes.

mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use crate::manifest::api::{Name, Protocol};

/// Ports below this one need a privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Added to a port that cannot be bound: 80 becomes 8080, 443 becomes 8443.
const FALLBACK_OFFSET: u16 = 8000;

/// Which listener: environment, balancer, and its place in the balancer's list.
pub(super) type Key = (String, Name, usize);

/// What a listener should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The address to listen on.
    pub(super) host: Ipv4Addr,
    /// The port to listen on.
    pub(super) port: u16,
    /// Transport.
    pub(super) protocol: Protocol,
    /// Where connections go.
    pub(super) backends: Vec<Backend>,
}

/// A port of a healthy VM.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    /// Where it is reached.
    pub(super) address: SocketAddr,
    /// Connections to the VM, over all balancers.
    pub(super) connections: Arc<AtomicU32>,
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

/// A listener at work.
#[derive(Debug)]
struct Running {
    host: Ipv4Addr,
    port: u16,
    protocol: Protocol,
    bound: u16,
    table: Arc<Table>,
    cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// All listeners.
#[derive(Debug, Default)]
pub(super) struct Balancers(Mutex<BTreeMap<Key, Running>>);

impl Balancers {
    fn running(&self) -> MutexGuard<'_, BTreeMap<Key, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port that the listener is really bound to, if it is.
    pub(super) fn bound(&self, key: &Key) -> Option<u16> {
        self.running().get(key).map(|running| running.bound)
    }

    /// Makes the listeners what is wanted: binds new ones, closes those that are not wanted, hands tables over. Returns
    /// those that could not be bound; they are tried again the next time.
    pub(super) fn apply(&self, wanted: BTreeMap<Key, Wanted>) -> Vec<(Key, io::Error)> {
        let mut running = self.running();
        running.retain(|key, running| {
            wanted.get(key).is_some_and(|wanted| {
                (wanted.host, wanted.port, wanted.protocol) == (running.host, running.port, running.protocol)
            })
        });
        let mut failed = Vec::new();
        for (key, wanted) in wanted {
            if let Some(found) = running.get(&key) {
                *found.table.backends.write().unwrap_or_else(PoisonError::into_inner) = wanted.backends;
                continue;
            }
            match start(&wanted) {
                Ok(started) => drop(running.insert(key, started)),
                Err(error) => failed.push((key, error)),
            }
        }
        failed
    }
}

fn start(wanted: &Wanted) -> io::Result<Running> {
    let table = Arc::new(Table { backends: RwLock::new(wanted.backends.clone()), turn: AtomicUsize::new(0) });
    let cancel = CancellationToken::new();
    let bound = match wanted.protocol {
        Protocol::Tcp => {
            let listener = bind(wanted, std::net::TcpListener::bind)?;
            let bound = listener.local_addr()?.port();
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(tcp::serve(listener, Arc::clone(&table), cancel.clone()));
            bound
        }
        Protocol::Udp => {
            let socket = bind(wanted, std::net::UdpSocket::bind)?;
            let bound = socket.local_addr()?.port();
            socket.set_nonblocking(true)?;
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::spawn(udp::serve(socket, Arc::clone(&table), cancel.clone()));
            bound
        }
    };
    Ok(Running { host: wanted.host, port: wanted.port, protocol: wanted.protocol, bound, table, cancel })
}

/// Binds the wanted port, or another one where this user may not or somebody else has it.
fn bind<T>(wanted: &Wanted, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let at = |port| bind(SocketAddr::from((wanted.host, port)));
    let first = at(wanted.port);
    let Err(error) = &first else { return first };
    if !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse) {
        return first;
    }
    let fallback = if wanted.port < FIRST_UNPRIVILEGED { wanted.port + FALLBACK_OFFSET } else { 0 };
    at(fallback).or_else(|_| at(0))
}

/// A loopback address for the balancer `name` of `environment` that is not in `taken`: the same one for the same name
/// as far as possible, so that what people have bookmarked still works after a `destroy`.
pub(super) fn address(environment: &str, name: &Name, taken: &[String]) -> Ipv4Addr {
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
