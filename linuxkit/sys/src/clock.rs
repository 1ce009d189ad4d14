//! Time since the kernel started, the one clock that is right before anything else is, and moments to come.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A hundred years: longer than any machine lives, and what every clock and every call of the kernel can express.
const FOR_EVER: Duration = Duration::from_hours(100 * 365 * 24);

/// The moment `wait` after `start`. Manifests give times in 64 bits of seconds; those that no clock can express never come.
pub fn after(start: Instant, wait: Duration) -> Instant {
    start + wait.min(FOR_EVER)
}

/// Seconds since the kernel started.
pub fn since_boot() -> f64 {
    let time = clock_gettime(ClockId::Boottime);
    // Both are small numbers: a VM lives for less than 2^52 seconds.
    #[expect(clippy::cast_precision_loss, reason = "seconds and nanoseconds are far below 2^52")]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}

#[cfg(test)]
mod tests {
    use rustix::event::Timespec;

    use super::*;

    #[test]
    fn what_no_clock_can_tell_never_comes() {
        let now = Instant::now();
        for seconds in [9_000_000_000_000_000_000, u64::MAX] {
            let at = after(now, Duration::from_secs(seconds));
            assert_eq!(at - now, FOR_EVER);
            Timespec::try_from(at - now).unwrap();
            assert_eq!(after(at, Duration::from_secs(seconds)) - at, FOR_EVER);
        }
        assert_eq!(after(now, Duration::from_secs(3)) - now, Duration::from_secs(3));
    }
}
