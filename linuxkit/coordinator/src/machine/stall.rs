//! Work of the application that takes too long: it is told once, and shown until it goes on. Nothing is broken off, since what is
//! under way has a place in the order.

use std::fmt::Display;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The shortest time after which something is told.
const SHORTEST: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Stall {
    patience: Duration,
    /// Counts what went on.
    steps: AtomicU64,
    /// The entry that is waited for.
    index: AtomicU64,
    shown: Mutex<Option<String>>,
    is_shown: AtomicBool,
}

impl Stall {
    /// In a group whose commands have `deadline`.
    pub(crate) fn new(deadline: Duration) -> Self {
        let patience = deadline.max(SHORTEST);
        let (steps, index) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { patience, steps, index, shown: Mutex::default(), is_shown: AtomicBool::new(false) }
    }

    /// Something went on; what is waited for next is of the entry `index`.
    pub(crate) fn step(&self, index: u64) {
        self.index.store(index, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
        if self.is_shown.load(Ordering::Relaxed) {
            self.show(None);
        }
    }

    /// What has taken too long, in words.
    pub(crate) fn shown(&self) -> Option<String> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, text: Option<String>) {
        self.is_shown.store(text.is_some(), Ordering::Relaxed);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Waits for `work` on the entry `index` or later ones. `what` is what is missing, such as `no reply of the application`.
    pub(crate) async fn watch<T>(&self, index: u64, what: impl Display, work: impl Future<Output = T>) -> T {
        self.step(index);
        let mut work = pin!(work);
        let mut seen = self.steps.load(Ordering::Relaxed);
        loop {
            if let Ok(done) = tokio::time::timeout(self.patience, &mut work).await {
                self.show(None);
                return done;
            }
            let now = self.steps.load(Ordering::Relaxed);
            if now == seen && self.shown().is_none() {
                let index = self.index.load(Ordering::Relaxed);
                let text = format!("entry {index}: {what} for {} s", self.patience.as_secs());
                crate::report!("{text}; nothing is executed here until it goes on: look at the application");
                self.show(Some(text));
            }
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_stands_is_told_and_what_goes_on_is_not() {
        let stall = Stall::new(Duration::from_secs(5));
        let goes_on = async {
            for index in 0..20 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                stall.step(index);
                assert_eq!(stall.shown(), None);
            }
        };
        stall.watch(0, "no reply of the application", goes_on).await;
        let stands = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            assert_eq!(stall.shown(), None);
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(stall.shown().unwrap(), "entry 7: no reply of the application for 10 s");
            stall.step(8);
            assert_eq!(stall.shown(), None);
        };
        stall.watch(7, "no reply of the application", stands).await;
        assert_eq!(stall.shown(), None);
        let long = Stall::new(Duration::from_mins(1));
        long.watch(1, "no reply", tokio::time::sleep(Duration::from_secs(50))).await;
        assert_eq!(long.shown(), None);
    }
}
