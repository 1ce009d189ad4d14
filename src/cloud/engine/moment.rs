//! The two times of a cloud that decides by itself: one that decides, and one that people read.

use serde::{Deserialize, Serialize};

/// A pause of whoever decides counts as this long at most. A laptop that slept, a process that was stopped or not there,
/// a reboot: nothing could make progress meanwhile, and no VM could show that it lives. Longer than a busy host delays
/// a loop that looks five times a second, and short against every deadline.
pub const PAUSE_MS: u64 = 10_000;

/// A moment, in both times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Milliseconds of [`Steady`], by which everything is decided.
    pub steady: u64,
    /// Milliseconds since the Unix epoch, for records that people read. It jumps when somebody sets the clock.
    pub wall: u64,
}

/// A clock that only goes forward and never jumps, over the life of a database: made of readings of `CLOCK_BOOTTIME`,
/// which nobody can set and which counts the host's sleep, with every long pause between two readings cut to
/// [`PAUSE_MS`].
///
/// That moves every deadline by what the pause was longer. The readings of another boot of the host are not comparable:
/// the clock goes on from where it was, so that what was recorded before that boot is before everything that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names that the database has")]
pub struct Steady {
    /// The boot of the host that `boottime_ms` belongs to.
    boot_id: String,
    /// The last reading, in milliseconds of that boot.
    boottime_ms: u64,
    /// What the clock showed then, in milliseconds.
    steady_ms: u64,
}

impl Steady {
    /// A clock that begins at zero.
    pub fn new(boot_id: String, boottime_ms: u64) -> Self {
        Self { boot_id, boottime_ms, steady_ms: 0 }
    }

    /// The clock as it goes on in a process that starts at this reading.
    #[must_use]
    pub fn resumed(self, boot_id: String, boottime_ms: u64) -> Self {
        if self.boot_id == boot_id { self } else { Self { boot_id, boottime_ms, ..self } }
    }

    /// What it shows at a reading.
    pub fn at(&self, boottime_ms: u64) -> u64 {
        self.steady_ms.saturating_add(boottime_ms.saturating_sub(self.boottime_ms).min(PAUSE_MS))
    }

    /// Takes a reading: until the next one, at most [`PAUSE_MS`] pass.
    pub fn tick(&mut self, boottime_ms: u64) {
        self.steady_ms = self.at(boottime_ms);
        self.boottime_ms = self.boottime_ms.max(boottime_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_looked_at_shows_what_passed() {
        let mut clock = Steady::new("a".into(), 5_000_000);
        for number in 0..100_000 {
            clock.tick(5_000_000 + number * 200);
        }
        assert_eq!(clock.at(5_000_000 + 100_000 * 200), 20_000_000);
    }

    #[test]
    fn a_long_pause_counts_as_a_short_one() {
        let mut clock = Steady::new("a".into(), 0);
        clock.tick(1000);
        // Asleep for the night.
        assert_eq!(clock.at(30_000_000), 1000 + PAUSE_MS);
        clock.tick(30_000_000);
        assert_eq!(clock.at(30_000_200), 1200 + PAUSE_MS);
    }

    #[test]
    fn another_process_and_another_boot_go_on_and_never_back() {
        let mut clock = Steady::new("a".into(), 0);
        for reading in 0..50 {
            clock.tick(reading * 1000);
        }
        let shown = clock.at(49_000);
        let stored = clock.clone();
        // The process was away for an hour.
        let again = stored.clone().resumed("a".into(), 3_649_000);
        assert_eq!(again.at(3_649_000), shown + PAUSE_MS);
        // The host was started again: its readings are small numbers.
        let mut rebooted = stored.resumed("b".into(), 20_000);
        assert_eq!(rebooted.at(20_000), shown);
        rebooted.tick(21_000);
        assert_eq!(rebooted.at(21_000), shown + 1000);
        // A reading that goes back changes nothing.
        rebooted.tick(0);
        assert_eq!(rebooted.at(21_000), shown + 1000);
    }
}
