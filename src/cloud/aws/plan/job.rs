//! Jobs on AWS, decided without asking it: which of them AWS can have, into how many groups one is divided, and what the record that
//! its machines write says of its runs.
//!
//! A Job's group is as many Auto Scaling groups as machines may run at a time, a *lane* each, of at most one machine. What a
//! machine does next, and whether another follows it, it finds out itself (`i2kit_spec::job`). So no group ever has two
//! machines between which Auto Scaling could choose the wrong one, or which it would move for the balance of zones.

use std::collections::BTreeSet;

pub use i2kit_spec::job::MOST_LANES;
use i2kit_spec::job::{BEGIN_SECONDS, Record, RecordedRun, Rules, Verdict};

use crate::manifest::api::{Concurrency, CronRules, Indexes, JobRules};
use crate::plan::fleet::{GroupSettings, JobRun, MachineRole, Refresh, RefreshStatus, ScheduleStatus, count};
use crate::plan::rollout::GroupSpec;

/// Completions of a Job: each has two lines at least in its record, which every machine reads.
pub const MOST_COMPLETIONS: u32 = 5000;

/// A run of which nothing is heard for so many seconds, although no machine of it is there or is to come, was lost: what
/// machines write is shown within seconds.
const LOST_SECONDS: u64 = 600;

/// An ended Job is shown for so many seconds at least, whatever its rules say: whoever waits for its end sees it.
const SEEN_SECONDS: u64 = 30;

/// The scheduled action that starts a lane's machine by a CronJob's schedule.
pub const SCHEDULE: &str = "i2kit-schedule";

/// Why AWS cannot have a Job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} on AWS: {advice}")]
pub struct JobError {
    what: String,
    advice: &'static str,
}

/// Refuses a Job or a CronJob that AWS cannot have.
///
/// # Errors
/// The first reason, and what to do.
pub fn refuse(spec: &GroupSpec) -> Result<(), JobError> {
    let Some(job) = &spec.settings.job else { return Ok(()) };
    let no =
        |why: String, advice| Err(JobError { what: format!("{} cannot run, {why},", spec.name), advice });
    if wanted_lanes(job) > MOST_LANES {
        let why = format!("since {} machines at a time are more than {MOST_LANES}", wanted_lanes(job));
        return no(why, "lower `parallelism`");
    }
    if let Some(many) = job.completions.filter(|completions| *completions > MOST_COMPLETIONS) {
        let why = format!("since {many} completions are more than {MOST_COMPLETIONS}");
        return no(why, "give each of them more to do, or divide it into several Jobs");
    }
    if job.restarts_containers {
        let why = "since nobody counts how often a machine there starts its containers again".to_owned();
        return no(why, "use `restartPolicy: Never`, with which a failed machine is replaced");
    }
    if !job.failure_rules.is_empty() || !job.success_rules.is_empty() {
        let why = "since its machines do not know `podFailurePolicy` and `successPolicy`".to_owned();
        return no(why, "remove them");
    }
    if let Some(MachineRole { role: Some(role), .. }) = &spec.launch.role {
        let why = format!("since its machines end themselves, which the role {role} may not allow");
        return no(why, "remove the annotation of the ServiceAccount: its machines get a role of their own");
    }
    match &spec.settings.schedule {
        Some(rules) => refuse_schedule(job, rules, no),
        None => Ok(()),
    }
}

fn refuse_schedule(
    job: &JobRules,
    rules: &CronRules,
    no: impl Fn(String, &'static str) -> Result<(), JobError>,
) -> Result<(), JobError> {
    if rules.concurrency == Concurrency::Replace {
        let why = "since a schedule of Auto Scaling starts machines and replaces none".to_owned();
        return no(why, "use `concurrencyPolicy: Forbid`");
    }
    if wanted_lanes(job) > 1 {
        let why = "since a schedule of Auto Scaling starts one machine at a time".to_owned();
        return no(why, "use `parallelism: 1`, or a Job");
    }
    if rules.schedule.plain_fields().is_none() {
        let why = format!("since Auto Scaling has no schedule such as `{}`", rules.schedule);
        return no(why, "use five fields, with a day of the month or a day of the week, not both");
    }
    Ok(())
}

/// Machines that a Job wants at a time while it does not rest.
pub fn wanted_lanes(job: &JobRules) -> u32 {
    job.parallelism.min(job.completions.unwrap_or(u32::MAX))
}

/// The rules as a Job's machines read them; those of a CronJob have a schedule.
pub fn rules(job: &JobRules, schedule: Option<&CronRules>) -> Rules {
    Rules {
        completions: job.completions,
        lanes: if job.rests() { 0 } else { wanted_lanes(job).min(MOST_LANES) },
        backoff_limit: job.backoff_limit,
        backoff_limit_per_index: job.backoff_limit_per_index,
        max_failed_indexes: job.max_failed_indexes,
        deadline: job.active_deadline_seconds.map(|limit| limit.0),
        indexed: job.indexed,
        scheduled: schedule.is_some(),
        gap: schedule.map(|rules| rules.schedule.shortest_gap()),
    }
}

/// What a Job was started with, as the tag of its first lane has it: the number of its run, its revision, and when that was
/// in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// 1 for the first.
    pub number: u32,
    /// The revision.
    pub revision: u32,
    /// When.
    pub at: u64,
}

impl std::fmt::Display for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.number, self.revision, self.at)
    }
}

impl std::str::FromStr for Started {
    type Err = String;

    /// # Errors
    /// The text is not that of a [`Started`].
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a run's number, revision and time");
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or_else(wrong);
        let (number, revision, at) = (word()?, word()?, word()?);
        let number = number.parse().map_err(|_| wrong())?;
        let revision = revision.parse().map_err(|_| wrong())?;
        let at = at.parse().map_err(|_| wrong())?;
        if words.next().is_some() { Err(wrong()) } else { Ok(Self { number, revision, at }) }
    }
}

/// What AWS shows of a Job's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lanes {
    /// Whether the deadline was met, or no machine began in time: no lane may have a machine any more.
    pub is_late: bool,
    /// Whether no machine is there and none is to come.
    pub is_idle: bool,
}

/// What a group shows of its runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown {
    /// The runs.
    pub runs: Vec<JobRun>,
    /// How far the newest is; of a CronJob nothing.
    pub refresh: Option<Refresh>,
    /// The times of a CronJob.
    pub schedule: Option<ScheduleStatus>,
}

/// What a record says of a group's runs, at the time `now` in seconds since the Unix epoch.
///
/// Whether a deadline was met is said by AWS, not by this machine's clock.
pub fn shown(record: &Record, settings: &GroupSettings, lanes: Lanes, now: u64) -> Shown {
    let mut runs: Vec<JobRun> =
        record.runs.iter().map(|run| job_run(record, run, settings, lanes, now)).collect();
    let schedule = settings.schedule.as_ref().map(|rules| ScheduleStatus {
        last: runs.iter().filter_map(|run| run.scheduled).max(),
        next: rules
            .schedule
            .next(now.saturating_mul(1000))
            .filter(|_| !rules.suspend)
            .map(|next| next / 1000),
        notice: None,
    });
    if let Some(rules) = &settings.schedule {
        forget(&mut runs, rules);
    }
    let newest = runs.last().filter(|_| settings.schedule.is_none());
    let refresh = newest.map(|run| Refresh {
        status: run.status,
        from: None,
        to: run.revision,
        updated: run.active,
        available: run.completed,
        total: run.completions.unwrap_or(1),
        started: run.started,
        reason: run.reason.clone(),
    });
    Shown { runs, refresh, schedule }
}

fn job_run(record: &Record, run: &RecordedRun, settings: &GroupSettings, lanes: Lanes, now: u64) -> JobRun {
    let is_newest = record.runs.last().is_some_and(|newest| newest.number == run.number);
    let rules = record.rules.as_ref();
    // No time is late for a clock that stands still: AWS says what is. It does not of a CronJob, once the next run is due.
    let clock = if settings.schedule.is_some() { now.saturating_mul(1000) } else { 0 };
    let rests = rules.is_some_and(|rules| rules.lanes == 0);
    let verdict = match record.verdict(run, clock) {
        Verdict::Active if is_newest && lanes.is_late && !rests => {
            Verdict::Failed(late_reason(run, rules, now))
        }
        // Without completions machines that go on may still succeed, and lanes end one by one.
        Verdict::Succeeded
            if is_newest && !lanes.is_idle && rules.is_some_and(|rules| rules.completions.is_none()) =>
        {
            Verdict::Active
        }
        Verdict::Active if is_newest && is_lost(run, rules, lanes, now) => {
            let reason =
                "Lost: its machines are gone and did not say how they ended; was the group changed by hand?";
            Verdict::Failed(reason.to_owned())
        }
        verdict => verdict,
    };
    let (status, reason) = match verdict {
        Verdict::Active => (RefreshStatus::InProgress, None),
        Verdict::Succeeded => (RefreshStatus::Successful, None),
        Verdict::Failed(reason) => (RefreshStatus::Failed, Some(reason)),
    };
    let by_deadline = reason.as_ref().is_some_and(|reason| reason.starts_with("DeadlineExceeded"));
    let deadline = rules.and_then(|rules| rules.deadline).filter(|_| by_deadline).unwrap_or_default();
    let ended = (run.newest / 1000).max((run.since / 1000).saturating_add(deadline));
    let indexes = |set: &BTreeSet<u32>| {
        let mut indexes = Indexes::default();
        if rules.is_some_and(|rules| rules.indexed) {
            for index in set {
                indexes.insert(*index);
            }
        }
        indexes
    };
    let times = settings.schedule.as_ref().filter(|_| run.scheduled);
    let scheduled = times.map(|rules| rules.schedule.latest(0, run.began).unwrap_or(run.began) / 1000);
    JobRun {
        number: run.number,
        revision: run.revision,
        status,
        completed: run.succeeded,
        failed: run.failures,
        started: run.began / 1000,
        ended: (!status.is_active()).then_some(ended),
        scheduled,
        active: if status.is_active() { count(run.lanes.iter()) } else { 0 },
        completions: rules.and_then(|rules| rules.completions),
        completed_indexes: indexes(&run.completed),
        failed_indexes: indexes(&run.failed),
        reason,
    }
}

/// Why a run failed whose lanes may have no machine any more. That it is so Auto Scaling says; the clock, `now`, tells which of
/// the two it was.
fn late_reason(run: &RecordedRun, rules: Option<&Rules>, now: u64) -> String {
    let has_come = |deadline| now >= (run.since / 1000).saturating_add(deadline);
    let deadline = rules.filter(|rules| {
        rules.deadline.is_some_and(|deadline| deadline <= BEGIN_SECONDS || has_come(deadline))
    });
    deadline.map_or_else(
        || {
            format!(
                "NotBegun: for {BEGIN_SECONDS} s no machine of one of its lanes came to begin, so that no more are started; the console of one says why: \
                 can it reach CloudWatch Logs and Auto Scaling, and does the permissions boundary allow both?"
            )
        },
        Rules::deadline_reason,
    )
}

/// Whether nothing more will be heard of a run.
fn is_lost(run: &RecordedRun, rules: Option<&Rules>, lanes: Lanes, now: u64) -> bool {
    let rests = rules.is_some_and(|rules| rules.lanes == 0);
    lanes.is_idle && !rests && (run.newest / 1000).max(run.since / 1000).saturating_add(LOST_SECONDS) < now
}

/// Leaves out runs of a CronJob that are too many, the oldest first.
fn forget(runs: &mut Vec<JobRun>, rules: &CronRules) {
    let (mut successful, mut failed) = (rules.successful_history, rules.failed_history);
    let newest = runs.last().map(|run| run.number);
    let mut kept: Vec<JobRun> = Vec::new();
    for run in runs.drain(..).rev() {
        let room = match run.status {
            RefreshStatus::Successful => &mut successful,
            RefreshStatus::Failed => &mut failed,
            _ => {
                kept.push(run);
                continue;
            }
        };
        // Whoever waits for the newest sees it.
        if *room > 0 || Some(run.number) == newest {
            *room = room.saturating_sub(1);
            kept.push(run);
        }
    }
    kept.reverse();
    *runs = kept;
}

/// Whether a Job is to be removed by its age, at the time `now` in seconds since the Unix epoch: not while machines of it are
/// there, which whoever pays for them sees.
pub fn is_expired(settings: &GroupSettings, (runs, is_idle): (&[JobRun], bool), now: u64) -> bool {
    let Some(job) = settings.job.as_ref().filter(|_| settings.expires()) else { return false };
    let ended = runs.last().filter(|_| is_idle).and_then(|run| run.ended);
    ended
        .zip(job.ttl_seconds_after_finished)
        .is_some_and(|(ended, ttl)| now >= ended.saturating_add(ttl.0.max(SEEN_SECONDS)))
}

#[cfg(test)]
mod tests;
