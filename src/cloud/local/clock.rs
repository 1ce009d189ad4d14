//! The local cloud's clocks: the one that decides, over the life of its database, and the one that people read.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::cloud::CloudError;
use crate::cloud::engine::moment::{Moment, Steady};

/// Where the kernel tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The clock that decides. Nothing that somebody does to the host's wall clock moves it, and it goes on where the
/// database left it.
#[derive(Debug)]
pub(super) struct Clock {
    steady: Mutex<Steady>,
}

impl Clock {
    /// The clock of a database that holds this of it.
    pub(super) fn resumed(stored: Option<Steady>) -> Result<Self, CloudError> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(CloudError::file("read", BOOT_ID.as_ref()))?;
        let boot_id = boot_id.trim().to_owned();
        let steady = match stored {
            Some(stored) => stored.resumed(boot_id, boottime()),
            None => Steady::new(boot_id, boottime()),
        };
        Ok(Self { steady: Mutex::new(steady) })
    }

    /// Now.
    pub(super) fn now(&self) -> Moment {
        Moment { steady: self.lock().at(boottime()), wall: wall() }
    }

    /// Now, for the control loop: a pause between two of its looks is forgiven.
    pub(super) fn tick(&self) -> Moment {
        let boottime = boottime();
        let mut steady = self.lock();
        steady.tick(boottime);
        Moment { steady: steady.at(boottime), wall: wall() }
    }

    /// What the database is to hold of it, no earlier than every moment that was recorded.
    pub(super) fn stored(&self) -> Steady {
        let mut steady = self.lock().clone();
        steady.tick(boottime());
        steady
    }

    fn lock(&self) -> MutexGuard<'_, Steady> {
        self.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since the host's boot, its sleep included.
fn boottime() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1000).saturating_add(part(time.tv_nsec) / 1_000_000)
}

/// Milliseconds since the Unix epoch, for what people read and what VMs set their clocks by. It jumps: nothing is decided
/// by it.
pub(super) fn wall() -> u64 {
    nanoseconds() / 1_000_000
}

/// Nanoseconds since the Unix epoch, for the clocks of VMs.
#[expect(clippy::disallowed_methods, reason = "this is the local cloud's one clock")]
pub(super) fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Now, as times of files are.
pub(super) fn of_files() -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds())
}

/// A time in the form that guests give their lines.
pub(super) fn rfc3339(milliseconds: u64) -> String {
    let time = i64::try_from(milliseconds).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::engine::moment::PAUSE_MS;

    #[test]
    fn the_clock_goes_on_where_the_database_left_it() {
        let clock = Clock::resumed(None).unwrap();
        let first = clock.tick();
        assert!(first.steady <= PAUSE_MS, "it begins at zero: {first:?}");
        let stored = clock.stored();
        let again = Clock::resumed(Some(stored.clone())).unwrap();
        assert!(again.now().steady >= first.steady);
        // Of a boot whose readings were larger than any of this one.
        let json = r#"{"bootId":"another","boottimeMs":9000000000000000,"steadyMs":5000000}"#;
        let rebooted = Clock::resumed(Some(serde_json::from_str(json).unwrap())).unwrap();
        let now = rebooted.tick().steady;
        assert!((5_000_000..=5_000_000 + PAUSE_MS).contains(&now), "{now}");
        assert!(rebooted.now().wall > 1_600_000_000_000);
    }
}
