//! When a container that ended is started again, by kubelet's rule: the first restart is immediate, then 10 s, 20 s
//! and so on up to 5 minutes; a container that ran for 10 minutes starts over.

use std::time::Duration;

/// The first delay that is not zero.
const BASE: Duration = Duration::from_secs(10);

/// No delay is longer than this.
const MAX: Duration = Duration::from_mins(5);

/// A run of this length is a success that wipes out earlier failures.
const RESET_AFTER: Duration = Duration::from_mins(10);

/// The delays of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// How long to wait before the next start, after a run of `ran`.
    pub(crate) fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= RESET_AFTER {
            self.next = Duration::ZERO;
        }
        let delay = self.next;
        self.next = if delay.is_zero() { BASE } else { (delay * 2).min(MAX) };
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8).map(|_| backoff.delay(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.delay(Duration::ZERO);
        }
        assert_eq!(backoff.delay(RESET_AFTER), Duration::ZERO);
        assert_eq!(backoff.delay(Duration::ZERO), BASE);
    }
}
