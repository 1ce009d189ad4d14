//! What is counted of an Ingress' requests: by the class of the answer's status, bytes of bodies and tunnels, and how long
//! they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hyper::StatusCode;

use crate::plan::fleet::{Bucket, CLASSES, HttpTraffic};

/// Upper bounds of the histogram of requests, in microseconds: the default ones of Prometheus' client libraries, and two
/// below them for machines of this computer.
const BOUNDS: [u64; 13] = [
    1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// The class of what is the client's: it went before its request was answered, which nginx counts with its status 499, or
/// it is none of those that may connect.
const CLIENT: usize = 3;

/// The class of what no class of HTTP has, a status from 600 on: the fault of the server that answered it.
const SERVER_ERROR: usize = CLASSES.len() - 1;

/// The requests to one Service.
#[derive(Debug, Default)]
pub(super) struct Counter {
    classes: [AtomicU64; CLASSES.len()],
    received: AtomicU64,
    sent: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

impl Counter {
    /// Bytes of a client were passed on.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes were passed on to a client.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A client that may not connect was turned away.
    pub(super) fn refused(&self) {
        self.add(CLIENT, 0);
    }

    fn add(&self, class: usize, micros: u64) {
        if let Some(class) = self.classes.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted for the Service of that name.
    pub(super) fn requests(&self, service: &str) -> HttpTraffic {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let bounds = BOUNDS.into_iter().map(Some).chain([None]);
        let bucket = |(up_to_micros, number): (_, &AtomicU64)| Bucket { up_to_micros, count: read(number) };
        let classes = CLASSES.iter().zip(&self.classes);
        HttpTraffic {
            service: service.to_owned(),
            codes: classes.map(|(name, number)| ((*name).to_owned(), read(number))).collect(),
            received_bytes: read(&self.received),
            sent_bytes: read(&self.sent),
            duration_micros: read(&self.micros),
            durations: bounds.zip(&self.buckets).map(bucket).collect(),
        }
    }
}

/// A request, which is counted once it ends: with the last byte of its answer, or when its client has gone.
#[derive(Debug)]
pub(super) struct Tally {
    counter: Arc<Counter>,
    began: Instant,
    class: usize,
}

impl Tally {
    /// A request that began at that time.
    pub(super) fn new(counter: &Arc<Counter>, began: Instant) -> Self {
        Self { counter: Arc::clone(counter), began, class: CLIENT }
    }

    /// It is answered with this status.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.class = usize::from(status.as_u16() / 100).saturating_sub(1).min(SERVER_ERROR);
    }

    /// What it is counted by.
    pub(super) fn counter(&self) -> &Arc<Counter> {
        &self.counter
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counter.add(self.class, micros);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_are_counted_by_class_and_by_time_once_they_end() {
        let counter = Arc::<Counter>::default();
        let ago = |millis| Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
        for (status, millis) in [(101, 0), (200, 0), (204, 20), (308, 0), (404, 0), (700, 60_000)] {
            let mut tally = Tally::new(&counter, ago(millis));
            tally.answered(StatusCode::from_u16(status).unwrap());
            tally.counter().received(3);
            tally.counter().sent(5);
        }
        let open = Tally::new(&counter, ago(0));
        let found = counter.requests("web");
        assert_eq!(found.codes.values().copied().collect::<Vec<_>>(), [1, 2, 1, 1, 1]);
        assert_eq!((found.service.as_str(), found.received_bytes, found.sent_bytes), ("web", 18, 30));
        assert_eq!(found.durations.len(), BOUNDS.len() + 1);
        assert_eq!(found.durations.iter().map(|bucket| bucket.count).sum::<u64>(), 6);
        assert_eq!(found.durations.last(), Some(&Bucket { up_to_micros: None, count: 1 }));
        assert_eq!(
            found.durations.iter().find(|bucket| bucket.up_to_micros == Some(25_000)).unwrap().count,
            1
        );
        assert!((60_020_000..90_000_000).contains(&found.duration_micros), "{}", found.duration_micros);
        // Its client goes before it is answered.
        drop(open);
        assert_eq!(counter.requests("web").codes["4xx"], 2);
    }
}
