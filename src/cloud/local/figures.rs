//! Figures that tests measure beside peers, and that `scripts/bench` prints: medians, rates, and the peers' processes.

use std::process::Child;
use std::time::{Duration, Instant};

/// Whether figures are measured; says so when they are not.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(super) fn are_wanted() -> bool {
    let are_wanted = std::env::var_os("I2KIT_SOAK").is_some_and(|value| value == "1");
    if !are_wanted {
        eprintln!("skipped: I2KIT_SOAK=1 is not set; scripts/bench sets it");
    }
    are_wanted
}

/// The median of each figure over all rounds.
pub(super) fn medians<const N: usize>(rounds: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|figure| {
        let mut all: Vec<f64> = rounds.iter().map(|round| round[figure]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

/// Figures as shares of a peer's.
pub(super) fn ratios<const N: usize>(figures: [f64; N], peer: [f64; N]) -> String {
    let each: Vec<String> =
        figures.iter().zip(peer).map(|(figure, peer)| format!("{:.2}", figure / peer)).collect();
    each.join(", ")
}

/// So many a second since `started`.
pub(super) fn rate(number: usize, started: Instant) -> f64 {
    let [high, low] = [number >> 20, number & 0xf_ffff].map(|part| f64::from(u32::try_from(part).unwrap()));
    high.mul_add(f64::from(1 << 20), low) / started.elapsed().as_secs_f64()
}

/// Microseconds: the median, and the 99th percentile.
pub(super) fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|part| times[times.len() * part / 100].as_secs_f64() * 1e6)
}

/// A peer's process, which ends with the value.
pub(super) struct Peer(pub(super) Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}
