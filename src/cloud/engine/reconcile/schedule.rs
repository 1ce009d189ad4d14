//! When a run of a CronJob is due, by the rules of Kubernetes' controller.
//!
//! A schedule is about the wall clock, so it decides here, and nothing else. Whatever that clock does (it is set, the host
//! slept, nobody was there to look), the last time that was run for is remembered: no time is run for twice, and of
//! several that passed only the newest is run for.

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use super::run_state::Run;
use crate::manifest::api::{Concurrency, CronRules, Schedule};
use crate::plan::fleet::{RefreshStatus, ScheduleNotice};

/// So many times that passed are worth a warning. Source: Kubernetes' controller.
const MANY: usize = 100;

/// What a CronJob remembers of its schedule. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// The schedule that is followed.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Since when it is: what was due before is not run.
    pub since: u64,
    /// The newest time that a run was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// The newest time that something was noticed about, and what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noticed: Option<(u64, ScheduleNotice)>,
}

impl Scheduled {
    /// A schedule that is followed from now on. A changed one keeps the last time of the one before, so that none is run
    /// for twice.
    fn follow(before: Option<Self>, schedule: &Schedule, wall: u64) -> Self {
        match before {
            Some(before) if before.schedule == *schedule => before,
            before => Self {
                schedule: schedule.clone(),
                since: wall,
                last: before.and_then(|before| before.last),
                noticed: None,
            },
        }
    }

    /// From when on times are run for.
    fn earliest(&self) -> u64 {
        self.last.map_or(self.since, |last| last.max(self.since))
    }

    /// The next time after now, or after the last one where the clock was set back.
    pub fn next(&self, wall: u64) -> Option<u64> {
        self.schedule.next(self.earliest().max(wall))
    }

    /// Takes note of something about the time `scheduled`, once.
    fn notice(&mut self, scheduled: u64, wall: u64, reason: &str, message: &str) {
        let is_new =
            self.noticed.as_ref().is_none_or(|(time, found)| *time != scheduled || found.reason != reason);
        if is_new {
            let notice = ScheduleNotice { time: wall / 1000, reason: reason.into(), message: message.into() };
            self.noticed = Some((scheduled, notice));
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// A run for this time.
    Run {
        /// The time.
        scheduled: u64,
        /// Whether more than [`MANY`] times passed since the last one.
        many: bool,
    },
    /// This time passed, and its deadline too.
    TooLate {
        /// The time.
        scheduled: u64,
    },
    /// This time waits until no run is active.
    Waits {
        /// The time.
        scheduled: u64,
    },
}

/// Decides what is due at the time `wall`, with `active` runs of the schedule under way.
pub(super) fn due(rules: &CronRules, memory: &Scheduled, wall: u64, active: usize) -> Due {
    if rules.suspend {
        return Due::Nothing;
    }
    let earliest = memory.earliest();
    let Some(scheduled) = memory.schedule.latest(earliest, wall) else { return Due::Nothing };
    let deadline = rules.starting_deadline_seconds.map(Seconds::millis);
    if deadline.is_some_and(|deadline| deadline.after(scheduled) < wall) {
        return Due::TooLate { scheduled };
    }
    if rules.concurrency == Concurrency::Forbid && active > 0 {
        return Due::Waits { scheduled };
    }
    // With a deadline only the times within it count.
    let counted = deadline.map_or(earliest, |deadline| earliest.max(wall.saturating_sub(deadline.0)));
    let mut times = std::iter::successors(memory.schedule.next(counted), |time| memory.schedule.next(*time));
    let many = times.nth(MANY).is_some_and(|time| time <= wall);
    Due::Run { scheduled, many }
}

/// Starts what is due: `start` makes the run for a time.
pub(super) fn advance(
    rules: &CronRules,
    memory: &mut Option<Scheduled>,
    runs: &mut Vec<Run>,
    wall: u64,
    start: impl FnOnce(u64) -> Option<Run>,
) {
    let scheduled = memory.take();
    let memory = memory.insert(Scheduled::follow(scheduled, &rules.schedule, wall));
    // Runs by hand go beside the schedule, as Jobs that somebody made do in Kubernetes.
    let is_active = |run: &Run| run.status.is_active() && run.scheduled.is_some();
    let active = runs.iter().filter(|run| is_active(run)).count();
    match due(rules, memory, wall, active) {
        Due::Nothing => {}
        Due::TooLate { scheduled } => {
            let message = "a time passed, and its startingDeadlineSeconds too: there is no run for it";
            memory.notice(scheduled, wall, "MissSchedule", message);
        }
        Due::Waits { scheduled } => {
            let message = "a run is active and concurrencyPolicy is Forbid: the next one waits for its end";
            memory.notice(scheduled, wall, "JobAlreadyActive", message);
        }
        Due::Run { scheduled, many } => {
            let Some(run) = start(scheduled) else { return };
            if many {
                let message = "more than 100 times passed without a run; there is one for the newest of them. Set or lower \
                               startingDeadlineSeconds, or look at the clock";
                memory.notice(scheduled, wall, "TooManyMissedTimes", message);
            }
            if rules.concurrency == Concurrency::Replace {
                for old in runs.iter_mut().filter(|run| is_active(run)) {
                    old.status = RefreshStatus::Cancelled;
                    old.reason = Some(format!("replaced by run {}", run.number));
                }
            }
            memory.last = Some(scheduled);
            runs.push(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cloud::engine::moment::Moment;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;

    fn rules(text: &str) -> CronRules {
        CronRules {
            schedule: Schedule::parse(text, "Etc/UTC").unwrap(),
            concurrency: Concurrency::Allow,
            suspend: false,
            starting_deadline_seconds: None,
            successful_history: 3,
            failed_history: 1,
        }
    }

    fn memory(rules: &CronRules, since: u64) -> Scheduled {
        Scheduled::follow(None, &rules.schedule, since)
    }

    #[test]
    fn what_is_due_follows_the_clock_as_in_kubernetes() {
        let mut rules = rules("*/10 * * * *");
        let mut memory = memory(&rules, DAY + 1);
        assert_eq!(due(&rules, &memory, DAY + 10 * MINUTE - 1, 0), Due::Nothing);
        let first = DAY + 10 * MINUTE;
        assert_eq!(due(&rules, &memory, first, 5), Due::Run { scheduled: first, many: false });
        memory.last = Some(first);
        assert_eq!(due(&rules, &memory, first + MINUTE, 0), Due::Nothing, "no time comes twice");
        // The clock is set back by two hours: nothing until it is beyond the last time again.
        assert_eq!(due(&rules, &memory, first - 2 * HOUR, 0), Due::Nothing);
        assert_eq!(memory.next(first - 2 * HOUR), Some(first + 10 * MINUTE));
        // It is set forward, or the host slept: one run for the newest of all times.
        let later = first + 5 * HOUR + 3 * MINUTE;
        assert_eq!(due(&rules, &memory, later, 0), Due::Run { scheduled: first + 5 * HOUR, many: false });
        let much_later = first + 100 * 10 * MINUTE;
        assert_eq!(due(&rules, &memory, much_later, 0), Due::Run { scheduled: much_later, many: false });
        let much_later = much_later + 10 * MINUTE;
        assert_eq!(due(&rules, &memory, much_later, 0), Due::Run { scheduled: much_later, many: true });
        // A deadline bounds what counts, and what is too late.
        rules.starting_deadline_seconds = Some(Seconds(200));
        assert_eq!(due(&rules, &memory, much_later, 0), Due::Run { scheduled: much_later, many: false });
        let late = Due::TooLate { scheduled: first + 5 * HOUR };
        assert_eq!(due(&rules, &memory, later + MINUTE, 0), late);
        assert_eq!(due(&rules, &memory, later, 0), Due::Run { scheduled: first + 5 * HOUR, many: false });
        // One waits for the end of another, for as long as it is not too late.
        rules.concurrency = Concurrency::Forbid;
        assert_eq!(due(&rules, &memory, later, 1), Due::Waits { scheduled: first + 5 * HOUR });
        rules.suspend = true;
        assert_eq!(due(&rules, &memory, later, 0), Due::Nothing);
    }

    #[test]
    fn a_changed_schedule_runs_for_nothing_that_was_before_it() {
        let hourly = rules("0 * * * *");
        let mut memory = memory(&hourly, 0);
        memory.last = Some(HOUR);
        let often = rules("*/5 * * * *");
        let now = 3 * HOUR + MINUTE;
        let changed = Scheduled::follow(Some(memory.clone()), &often.schedule, now);
        assert_eq!(due(&often, &changed, now, 0), Due::Nothing);
        assert_eq!(changed.next(now), Some(3 * HOUR + 5 * MINUTE));
        assert_eq!(Scheduled::follow(Some(memory.clone()), &hourly.schedule, now), memory);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// However the wall clock jumps and however long nobody looks: no time is run for twice, times only grow, each is
        /// a time of the schedule that has come, and with Forbid there is never a second active run.
        #[test]
        fn no_time_is_run_for_twice(
            jumps in prop::collection::vec((-3_i64 * 3_600_000..3 * 3_600_000, any::<bool>()), 1..60),
            concurrency in prop::sample::select(vec![Concurrency::Allow, Concurrency::Forbid, Concurrency::Replace]),
            deadline in prop::option::of(0_u64..600),
        ) {
            let rules = CronRules {
                concurrency,
                starting_deadline_seconds: deadline.map(Seconds),
                ..rules("*/7 * * * *")
            };
            let (mut memory, mut runs, mut wall) = (None, Vec::<Run>::new(), 500 * HOUR);
            for (jump, ends) in jumps {
                wall = wall.saturating_add_signed(jump);
                let before = runs.len();
                advance(&rules, &mut memory, &mut runs, wall, |scheduled| {
                    let number = u32::try_from(before).unwrap() + 1;
                    Some(Run { scheduled: Some(scheduled), ..Run::start(number, 1, Moment::default()) })
                });
                let active = runs.iter().filter(|run| run.status.is_active()).count();
                prop_assert!(concurrency == Concurrency::Allow || active <= 1);
                if let Some(run) = runs.get(before) {
                    let scheduled = run.scheduled.unwrap();
                    prop_assert!(scheduled <= wall);
                    prop_assert_eq!(rules.schedule.next(scheduled - 1), Some(scheduled));
                    prop_assert!(deadline.is_none_or(|deadline| wall - scheduled <= deadline * 1000));
                }
                if ends {
                    for run in &mut runs {
                        run.status = RefreshStatus::Successful;
                    }
                }
            }
            let times: Vec<u64> = runs.iter().filter_map(|run| run.scheduled).collect();
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", times);
        }
    }
}
