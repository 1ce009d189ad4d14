//! Time since the kernel started, the one clock that is right before anything else is.

use rustix::time::{ClockId, clock_gettime};

/// Seconds since the kernel started.
pub(crate) fn since_boot() -> f64 {
    let time = clock_gettime(ClockId::Boottime);
    // Both are small numbers: a VM lives for less than 2^52 seconds.
    #[expect(clippy::cast_precision_loss, reason = "seconds and nanoseconds are far below 2^52")]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}
