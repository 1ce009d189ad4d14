//! What the sockets of one listener share: the table of backends, the connections of each machine, and admission.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cloud::local::mover::admission::Gate;
use crate::cloud::local::mover::routes::Backend;

/// Periods of the balancer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Between two attempts of a listener that is bound to another port than the wanted one to get that.
    pub(super) retry: Duration,
    /// A UDP session without a datagram for this long is forgotten.
    pub(super) idle: Duration,
    /// Between two searches for such sessions.
    pub(super) sweep: Duration,
}

pub(super) const TIMES: Times =
    Times { retry: Duration::from_secs(5), idle: Duration::from_mins(1), sweep: Duration::from_secs(5) };

/// The listener that all its sockets serve.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) table: Table,
    pub(super) gate: Gate,
    /// Ends all connections.
    pub(super) ended: CancellationToken,
    pub(super) times: Times,
}

/// A backend of a listener, with the counter of its machine.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicU32>,
}

impl Upstream {
    /// Counts a connection to the machine for as long as the result lives.
    pub(super) fn count(&self) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.connections))
    }
}

/// A connection that is counted.
pub(super) struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The healthy backends of one listener, and which of them is next.
#[derive(Debug, Default)]
pub(super) struct Table {
    backends: RwLock<Vec<Upstream>>,
    turn: AtomicUsize,
}

impl Table {
    /// Replaces the backends.
    pub(super) fn set(&self, backends: Vec<Upstream>) {
        *self.backends.write().unwrap_or_else(PoisonError::into_inner) = backends;
    }

    /// All backends, the one to try first in front: fewest connections first, in turn among equals.
    pub(super) fn order(&self) -> Vec<Upstream> {
        let mut order = self.backends.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !order.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % order.len();
            order.rotate_left(turn);
        }
        order.sort_by_key(|backend| backend.connections.load(Ordering::Relaxed));
        order
    }
}

/// The connections of each machine, over all listeners.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<BTreeMap<String, Arc<AtomicU32>>>);

impl Connections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AtomicU32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `backend` with the counter of its machine.
    pub(super) fn upstream(&self, backend: &Backend) -> Upstream {
        let connections = Arc::clone(self.lock().entry(backend.machine.clone()).or_default());
        Upstream { address: backend.address, connections }
    }

    /// Forgets machines without a backend and without a connection.
    pub(super) fn forget_unused(&self) {
        self.lock().retain(|_, connections| Arc::strong_count(connections) > 1);
    }

    /// The number of connections by machine.
    pub(super) fn counts(&self) -> BTreeMap<String, u32> {
        let counts = self.lock();
        counts.iter().map(|(machine, count)| (machine.clone(), count.load(Ordering::Relaxed))).collect()
    }
}
