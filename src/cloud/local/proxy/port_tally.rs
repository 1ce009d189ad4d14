//! What is counted of the connections of a port of a Service, as the front door counts those of ports without TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cloud::local::mover::CONNECT_BOUNDS;
use crate::plan::fleet::{Bucket, Traffic};

/// The counters of a port.
#[derive(Debug, Default)]
pub(super) struct PortCounter {
    connections: AtomicU64,
    open: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; CONNECT_BOUNDS.len() + 1],
}

/// A connection that counts as open, for as long as it lives.
#[derive(Debug)]
pub(super) struct Opening(Arc<PortCounter>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PortCounter {
    /// A client was accepted.
    pub(super) fn accepted(self: &Arc<Self>) -> Opening {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Opening(Arc::clone(self))
    }

    /// A client that may not connect was turned away.
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection had no handshake, no machine, or no end in good order.
    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A machine was connected to within that time.
    pub(super) fn connected(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = CONNECT_BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(CONNECT_BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Bytes of a client were passed on, without those of TLS.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of a machine were passed on, without those of TLS.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was counted.
    pub(super) fn traffic(&self) -> Traffic {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let bounds = CONNECT_BOUNDS.into_iter().map(Some).chain([None]);
        let bucket = |(up_to_micros, number): (_, &AtomicU64)| Bucket { up_to_micros, count: read(number) };
        Traffic {
            connections: read(&self.connections),
            open: read(&self.open),
            received_bytes: read(&self.received),
            sent_bytes: read(&self.sent),
            errors: read(&self.errors),
            refused: read(&self.refused),
            connect_micros: read(&self.micros),
            connect: bounds.zip(&self.buckets).map(bucket).collect(),
        }
    }
}
