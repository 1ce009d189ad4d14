//! Keeps the VM's clock at the host's time. A kernel whose processor is emulated on a busy machine measures its own clock
//! wrongly, and then runs ahead or falls behind by seconds a minute.

use std::time::{Duration, Instant};

use i2kit_spec::control::Clock;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// How often the host is asked.
const PERIOD: Duration = Duration::from_secs(10);

/// A clock that is wrong by this much is set; by less it is led to the right time, which programs do not see.
const STEP: u64 = 500_000_000;

/// In nanoseconds, as all times here.
const SECOND: i64 = 1_000_000_000;

/// When to ask.
#[derive(Debug, Default)]
pub(crate) struct Timekeeper {
    due: Option<Instant>,
}

impl Timekeeper {
    /// There is somebody to ask.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// When the next question is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The question, when it is due.
    pub(crate) fn question(&mut self, now: Instant) -> Option<Clock> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = Some(now + PERIOD);
        Some(Clock { asked: nanoseconds(clock_gettime(ClockId::Realtime)), now: 0 })
    }
}

/// Corrects the clock by what the answer shows. A clock that cannot be set stays as it is; nothing depends on it.
pub(crate) fn correct(answer: Clock) {
    let now = clock_gettime(ClockId::Realtime);
    let error = error(answer, nanoseconds(now));
    if error.unsigned_abs() < STEP {
        let _ = i2kit_sys::lead_clock(error / 1000);
        return;
    }
    let whole = now.tv_nsec + error % SECOND;
    let time = Timespec {
        tv_sec: now.tv_sec + error / SECOND + whole.div_euclid(SECOND),
        tv_nsec: whole.rem_euclid(SECOND),
    };
    let _ = clock_settime(ClockId::Realtime, time);
}

fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * SECOND.unsigned_abs() + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// By how much the clock is certainly behind, or ahead where it is negative: the host looked at its own clock between the
/// question and the answer. How long either was under way is not known, so that no more than this is made up for.
fn error(answer: Clock, received: u64) -> i64 {
    let Clock { asked, now } = answer;
    if received < asked {
        // The clock was set in between.
        return 0;
    }
    let ahead = |from: u64, to: u64| i64::try_from(from.saturating_sub(to)).unwrap_or(i64::MAX);
    ahead(now, received) - ahead(asked, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_when_the_host_looked_at_no_time_between_question_and_answer() {
        let error = |asked, now, received| error(Clock { asked, now }, received);
        assert_eq!(error(100, 100, 150), 0);
        assert_eq!(error(100, 120, 150), 0);
        assert_eq!(error(100, 150, 150), 0);
        // Behind, and ahead; the answer may have taken any part of the way.
        assert_eq!(error(100, 190, 150), 40);
        assert_eq!(error(100, 60, 150), -40);
        assert_eq!(error(150, 160, 100), 0);
        assert_eq!(error(0, u64::MAX, 0), i64::MAX);
        assert_eq!(error(u64::MAX, 0, u64::MAX), -i64::MAX);
    }

    #[test]
    fn questions_come_in_their_period_once_there_is_somebody_to_ask() {
        let mut keeper = Timekeeper::default();
        let start = Instant::now();
        assert_eq!(keeper.question(start), None);
        keeper.begin(start);
        assert!(keeper.question(start).is_some_and(|question| question.asked > 0 && question.now == 0));
        assert_eq!(keeper.question(start), None);
        assert_eq!(keeper.due(), Some(start + PERIOD));
        assert!(keeper.question(start + PERIOD).is_some());
    }
}
