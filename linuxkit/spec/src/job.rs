//! The record of a Job whose machines a cloud keeps by itself: what is written of them, one event after the other, and what
//! follows from it.
//!
//! Nobody counts: an event says what happened once, to one machine, and whoever wants to know how a run is reads all of
//! them. The machines and the tool apply the one rule that is here, so that they come to the same end.
//!
//! A run is worked at in *lanes*: a lane has one machine at a time, and lane L of N does the slots L, L + N, L + 2 N and so on.
//! A slot is what must succeed once: an index of an Indexed Job, one of the completions of another. Two machines never want
//! the same slot, and so need no lock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The tag of a machine with its lane's number.
pub const LANE_TAG: &str = "i2kit:lane";

/// The tag of a machine with the name of the record that it writes to.
pub const RECORD_TAG: &str = "i2kit:record";

/// Lanes of a Job. An account has 500 Auto Scaling groups in a region, and machines that end together read one record each.
pub const MOST_LANES: u32 = 20;

/// A slot, a number of completions or of a run beyond this is none: nobody counts so far.
const MOST_NUMBER: u32 = 1_000_000;

/// Milliseconds that a writer's clock may be ahead of that of the service which took a line.
const MOST_AHEAD: u64 = 600_000;

/// The scheduled action that ends a lane's machine at the run's deadline, or where none begins.
pub const DEADLINE: &str = "i2kit-deadline";

/// Seconds that a scheduled action lies ahead at least when it is put: the service looks at it later.
pub const LEAST_AHEAD: u64 = 30;

/// Seconds within which a machine has to begin: its group may have none after that, until one has begun.
pub const BEGIN_SECONDS: u64 = 3600;

/// Seconds that a schedule's machine may begin sooner after the last one than the schedule says: the last one may have come late.
const MOST_SLACK: u64 = 3600;

/// The exit code of the guest's program when its lane has nothing left to do.
pub const NOTHING_TO_DO: u8 = 75;

/// The second at which Auto Scaling is to act: `wanted`, or `least` where that is later. No full minute, since those are the
/// times of schedules, and a group has one action at a time.
pub fn action_time(wanted: u64, least: u64) -> u64 {
    let second = wanted.max(least);
    if second.is_multiple_of(60) { second.saturating_add(1) } else { second }
}

/// When a run has ended, of a manifest's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Slots that must succeed; without it one success says that there is nothing left to begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<u32>,
    /// How many lanes there are; zero while the Job rests.
    pub lanes: u32,
    /// Failures after which a run has failed.
    pub backoff_limit: u32,
    /// Failures after which a slot has failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit_per_index: Option<u32>,
    /// Failed slots that a run survives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failed_indexes: Option<u32>,
    /// Seconds after which a run has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// Whether containers learn their slot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub indexed: bool,
    /// Whether machines begin runs, since a schedule starts them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
    /// The fewest seconds between two times of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum What {
    /// These rules hold from now on, and the deadline of the newest run begins anew.
    Rules {
        /// The rules.
        rules: Rules,
    },
    /// A run began.
    Run {
        /// Its number: 1 for the first.
        number: u32,
        /// The revision of its machines.
        revision: u32,
        /// Whether the schedule began it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        scheduled: bool,
    },
    /// A machine began to work.
    Start {
        /// The run's number.
        run: u32,
        /// Its lane.
        lane: u32,
        /// Its id.
        instance: String,
        /// Its slot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
    },
    /// A machine's pod ended by itself.
    End {
        /// The run's number.
        run: u32,
        /// The machine's id.
        instance: String,
        /// Whether the pod succeeded.
        succeeded: bool,
        /// How its containers ended, in words.
        text: String,
    },
    /// A machine was stopped from outside, which is no failure.
    Left {
        /// The run's number.
        run: u32,
        /// The machine's id.
        instance: String,
    },
}

impl JobEvent {
    /// Reads the line of an event, which a service took at the time `taken`, in milliseconds since the Unix epoch. None where the
    /// line is no event, as one of a later version is, or where its numbers are none that could be: whoever runs in a Job's
    /// machine can write to its record.
    pub fn read(line: &str, taken: Option<u64>) -> Option<Self> {
        let event: Self = serde_json::from_str(line).ok()?;
        let is_late = taken.is_none_or(|taken| event.at <= taken.saturating_add(MOST_AHEAD));
        (is_late && event.what.could_be()).then_some(event)
    }
}

impl What {
    fn could_be(&self) -> bool {
        let number = |number: &u32| (1..=MOST_NUMBER).contains(number);
        match self {
            Self::Rules { rules } => {
                rules.lanes <= MOST_LANES && rules.completions.is_none_or(|all| all <= MOST_NUMBER)
            }
            Self::Start { run, lane, slot, .. } => {
                number(run) && *lane < MOST_LANES && slot.is_none_or(|slot| slot < MOST_NUMBER)
            }
            Self::Run { number: run, .. } | Self::End { run, .. } | Self::Left { run, .. } => number(run),
        }
    }

    /// The order of what happened at one moment.
    fn rank(&self) -> u8 {
        match self {
            Self::Rules { .. } => 0,
            Self::Run { .. } => 1,
            Self::Start { .. } => 2,
            Self::End { .. } | Self::Left { .. } => 3,
        }
    }
}

/// A machine that began and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Working {
    /// Its id.
    pub instance: String,
    /// Its slot.
    pub slot: Option<u32>,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordedRun {
    /// 1 for the first.
    pub number: u32,
    /// The revision of its machines.
    pub revision: u32,
    /// When it began, in milliseconds since the Unix epoch.
    pub began: u64,
    /// Since when its deadline counts.
    pub since: u64,
    /// The newest thing that happened in it.
    pub newest: u64,
    /// Whether the schedule began it.
    pub scheduled: bool,
    /// Slots that succeeded; of a run without completions, how often one did is [`Self::succeeded`].
    pub completed: BTreeSet<u32>,
    /// Successes.
    pub succeeded: u32,
    /// Slots that failed for good.
    pub failed: BTreeSet<u32>,
    /// Failures.
    pub failures: u32,
    /// Why the last failure was one, with its machine.
    pub last_failure: Option<String>,
    /// Machines that work, by their lanes.
    pub lanes: BTreeMap<u32, Working>,
    /// Failures of slots that are tried again.
    slot_failures: BTreeMap<u32, u32>,
    /// Machines of which an end is known, which counts once.
    ended: BTreeSet<String>,
    /// Those whose pods succeeded: one that was only away was taken for lost before.
    succeeded_by: BTreeSet<String>,
    /// All that began, with their slots.
    began_by: BTreeMap<String, Option<u32>>,
    /// How it ended, which nothing changes that is said later.
    over: Option<Verdict>,
}

/// How a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Active,
    /// It has succeeded.
    Succeeded,
    /// It has failed, for this reason.
    Failed(String),
}

/// What a lane's next machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It works at this slot.
    Slot(Option<u32>),
    /// There is nothing left.
    Nothing,
}

/// A record as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The rules that hold; none before they were written.
    pub rules: Option<Rules>,
    /// The runs, oldest first.
    pub runs: Vec<RecordedRun>,
    /// When the newest thing happened, in milliseconds since the Unix epoch.
    pub newest: u64,
}

impl Record {
    /// What follows from events, in whatever order they were read.
    pub fn of(mut events: Vec<JobEvent>) -> Self {
        events.sort_by_key(|event| (event.at, event.what.rank()));
        let mut record = Self::default();
        for JobEvent { at, what } in events {
            record.add(at, what);
        }
        record
    }

    /// Reads events of their lines; a line that is none is passed over, see [`JobEvent::read`].
    pub fn read<'l>(lines: impl IntoIterator<Item = &'l str>) -> Self {
        Self::of(lines.into_iter().filter_map(|line| JobEvent::read(line, None)).collect())
    }

    /// The time of what is written next by a clock that shows `now`. Clocks differ, and what follows from something comes
    /// after it.
    pub fn next_time(&self, now: u64) -> u64 {
        now.max(self.newest.saturating_add(1))
    }

    /// Adds what happened last.
    pub fn add(&mut self, at: u64, what: What) {
        self.newest = self.newest.max(at);
        match what {
            What::Rules { rules } => {
                // What ended by the rules that held stays so under others.
                let verdict = self.runs.last().map(|newest| self.verdict(newest, at));
                if let Some(newest) = self.runs.last_mut() {
                    newest.over = verdict.filter(|verdict| *verdict != Verdict::Active);
                    // What a schedule begins has its own time; what rested begins to count when it goes on.
                    newest.since = at;
                }
                self.rules = Some(rules);
            }
            What::Run { number, revision, scheduled } => {
                // A lost answer has it written twice, and nobody leaves a number out.
                if self.runs.last().is_none_or(|newest| newest.number.checked_add(1) == Some(number)) {
                    let run = RecordedRun {
                        number,
                        revision,
                        began: at,
                        since: at,
                        newest: at,
                        scheduled,
                        ..RecordedRun::default()
                    };
                    self.runs.push(run);
                }
            }
            What::Start { run, lane, instance, slot } => {
                let limit = self.rules.as_ref().and_then(|rules| rules.backoff_limit_per_index);
                if let Some(found) = self.run(run, at) {
                    found.start(lane, &instance, slot, limit);
                }
                self.settle(run);
            }
            What::End { run, instance, succeeded, text } => {
                let limit = self.rules.as_ref().and_then(|rules| rules.backoff_limit_per_index);
                if let Some(found) = self.run(run, at) {
                    found.end(&instance, succeeded, &text, limit);
                }
                self.settle(run);
            }
            What::Left { run, instance } => {
                if let Some(found) = self.run(run, at) {
                    found.lanes.retain(|_, working| working.instance != instance);
                    found.ended.insert(instance);
                }
                self.settle(run);
            }
        }
    }

    /// Keeps the end of a run, if it has come.
    fn settle(&mut self, number: u32) {
        let Self { rules: Some(rules), runs, .. } = self else { return };
        let Some(run) = runs.iter_mut().rev().find(|run| run.number == number) else { return };
        let verdict = run.verdict(rules);
        if verdict != Verdict::Active {
            run.over = Some(verdict);
        }
    }

    fn run(&mut self, number: u32, at: u64) -> Option<&mut RecordedRun> {
        let run = self.runs.iter_mut().rev().find(|run| run.number == number)?;
        run.newest = run.newest.max(at);
        Some(run)
    }

    /// How a run is at the time `now`, in milliseconds since the Unix epoch.
    pub fn verdict(&self, run: &RecordedRun, now: u64) -> Verdict {
        let Some(rules) = &self.rules else { return Verdict::Active };
        let verdict = run.verdict(rules);
        if verdict != Verdict::Active {
            return verdict;
        }
        let is_late =
            rules.deadline.is_some_and(|limit| now >= run.since.saturating_add(limit.saturating_mul(1000)));
        // A resting run has no deadline; one that another follows ended by its deadline, or was lost.
        if is_late && rules.lanes > 0 {
            return Verdict::Failed(rules.deadline_reason());
        }
        if self.runs.last().is_some_and(|newest| newest.number > run.number) {
            let reason = "Lost: the machine ended without saying how, and another run began".to_owned();
            return Verdict::Failed(if rules.deadline.is_some() { rules.deadline_reason() } else { reason });
        }
        Verdict::Active
    }

    /// What the next machine of a lane does in the newest run at the time `now`.
    pub fn work(&self, lane: u32, now: u64) -> Work {
        let (Some(rules), Some(run)) = (&self.rules, self.runs.last()) else { return Work::Nothing };
        if self.verdict(run, now) != Verdict::Active {
            return Work::Nothing;
        }
        run.work(rules, lane)
    }

    /// Whether a machine that a schedule may have started at the time `now` begins a run: not where the last one of the schedule
    /// began sooner than the schedule can want another, so that the machine is there in place of one that was lost.
    pub fn is_due(&self, now: u64) -> bool {
        let Some(gap) = self.rules.as_ref().and_then(|rules| rules.gap) else { return true };
        let wanted = gap.saturating_sub(MOST_SLACK.min(gap / 2)).saturating_mul(1000);
        let newest = self.runs.iter().rev().find(|run| run.scheduled);
        newest.is_none_or(|newest| now >= newest.began.saturating_add(wanted))
    }

    /// The newest run in which a machine ever began, whatever became of it.
    pub fn begun_by(&self, instance: &str) -> Option<&RecordedRun> {
        self.runs.iter().rev().find(|run| run.began_by.contains_key(instance))
    }

    /// The run in which a machine works, and its lane.
    pub fn of_instance(&self, instance: &str) -> Option<(&RecordedRun, u32)> {
        self.runs.iter().rev().find_map(|run| {
            let (lane, _) = run.lanes.iter().find(|(_, working)| working.instance == instance)?;
            Some((run, *lane))
        })
    }
}

impl Rules {
    /// The reason of a run that took too long.
    pub fn deadline_reason(&self) -> String {
        format!(
            "DeadlineExceeded: the job was active for longer than {} s",
            self.deadline.unwrap_or_default()
        )
    }
}

impl RecordedRun {
    /// Whether any machine began to work in it.
    pub fn has_begun(&self) -> bool {
        !self.began_by.is_empty()
    }

    fn start(&mut self, lane: u32, instance: &str, slot: Option<u32>, per_slot: Option<u32>) {
        if self.began_by.insert(instance.to_owned(), slot).is_some() {
            return;
        }
        let before = self.lanes.insert(lane, Working { instance: instance.to_owned(), slot });
        // Its successor is there, and nobody heard of its end.
        if let Some(lost) = before.filter(|lost| lost.instance != instance) {
            let text = "the machine ended before its pod";
            self.fail(&lost.instance, lost.slot, text, per_slot);
        }
    }

    fn end(&mut self, instance: &str, succeeded: bool, text: &str, per_slot: Option<u32>) {
        let Some(slot) = self.began_by.get(instance).copied() else { return };
        self.lanes.retain(|_, working| working.instance != instance);
        if succeeded {
            // Of two machines with one slot, which a network that was away may have led to, one counts.
            self.ended.insert(instance.to_owned());
            let is_new = self.succeeded_by.insert(instance.to_owned())
                && slot.is_none_or(|slot| self.completed.insert(slot));
            self.succeeded = self.succeeded.saturating_add(u32::from(is_new));
            return;
        }
        self.fail(instance, slot, text, per_slot);
    }

    fn fail(&mut self, instance: &str, slot: Option<u32>, text: &str, per_slot: Option<u32>) {
        if !self.ended.insert(instance.to_owned()) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(format!("{instance}: {text}"));
        if let (Some(slot), Some(limit)) = (slot, per_slot) {
            let failures = self.slot_failures.entry(slot).or_default();
            *failures = failures.saturating_add(1);
            if *failures > limit {
                self.failed.insert(slot);
            }
        }
    }

    /// How it is by what its machines say, whatever the time.
    fn verdict(&self, rules: &Rules) -> Verdict {
        if let Some(over) = &self.over {
            return over.clone();
        }
        let failed_slots = u32::try_from(self.failed.len()).unwrap_or(u32::MAX);
        let is_done = match rules.completions {
            Some(completions) => self.succeeded >= completions,
            // The first success says that there is nothing left to begin; the others bring theirs to an end.
            None => self.succeeded > 0 && self.lanes.is_empty(),
        };
        let list = || self.failed.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let reason = if is_done {
            return Verdict::Succeeded;
        } else if rules.max_failed_indexes.is_some_and(|most| failed_slots > most) {
            format!("MaxFailedIndexesExceeded: indexes {} failed", list())
        } else if self.failures > rules.backoff_limit {
            format!("BackoffLimitExceeded: {} VMs failed", self.failures)
        } else if failed_slots > 0
            && rules.completions.is_some_and(|all| self.succeeded.saturating_add(failed_slots) >= all)
        {
            format!("FailedIndexes: indexes {} failed", list())
        } else {
            return Verdict::Active;
        };
        let detail = self.last_failure.as_ref().map(|text| format!("\n{text}")).unwrap_or_default();
        Verdict::Failed(reason + &detail)
    }

    fn work(&self, rules: &Rules, lane: u32) -> Work {
        if lane >= rules.lanes {
            return Work::Nothing;
        }
        let Some(completions) = rules.completions else {
            return if self.succeeded == 0 { Work::Slot(None) } else { Work::Nothing };
        };
        let step = usize::try_from(rules.lanes).unwrap_or(usize::MAX);
        let mut slots = (lane..completions).step_by(step.max(1));
        let open = slots.find(|slot| !self.completed.contains(slot) && !self.failed.contains(slot));
        open.map_or(Work::Nothing, |slot| Work::Slot(Some(slot)))
    }
}

#[cfg(test)]
mod tests;
