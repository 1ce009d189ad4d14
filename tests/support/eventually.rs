//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How long a test waits for a condition before it fails: the one such limit, and no measure of speed. Virtual machines
/// are emulated, on hosts that do other work too; a test that passes comes nowhere near it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(10);

/// Asks `condition` until it gives a value; fails the test with `what` after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "after {} s there is still no {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}
