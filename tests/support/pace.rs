//! The pace of many new connections, which several clients make together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// New connections a second, where the host is fast enough.
pub(crate) const RATE: u32 = 500;

/// When the next connection of all clients together is due.
pub(crate) struct Pace {
    started: Instant,
    /// Connections that are due or were.
    due: AtomicU32,
}

impl Pace {
    /// One that begins now.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), due: AtomicU32::new(0) }
    }

    /// Waits until the next connection is due: [`RATE`] a second. What is late is made up for.
    pub(crate) fn wait(&self) {
        let due = Duration::from_secs(1) * self.due.fetch_add(1, Ordering::Relaxed) / RATE;
        std::thread::sleep((self.started + due).saturating_duration_since(Instant::now()));
    }

    /// How many of `count` there were a second until now.
    pub(crate) fn rate(&self, count: u64) -> u64 {
        let elapsed = self.started.elapsed().as_millis().max(1);
        u64::try_from(u128::from(count) * 1000 / elapsed).unwrap()
    }
}
