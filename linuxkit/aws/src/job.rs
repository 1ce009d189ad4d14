//! A machine of a Job: what it does, which it learns from the Job's record, and what it tells of its end, there and to Auto
//! Scaling.
//!
//! The record is a stream in the environment's log group, of which `i2kit_spec::job` has the meaning. It is written to and
//! never changed, so that machines need no lock. What is written is read back before anything follows from it: the service
//! shows it late, and the next machine of the lane must find it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use i2kit_spec::PodEnd;
use i2kit_spec::job::{
    self, BEGIN_SECONDS, DEADLINE, JobEvent, LANE_TAG, LEAST_AHEAD, RECORD_TAG, Record, Rules, Verdict, What,
    Work,
};
use i2kit_spec::user_data::{JobTarget, UserData};
use serde_json::{Value, json};

use crate::error::Error;
use crate::logs;
use crate::service::{AUTO_SCALING, Client, LOGS};
use crate::time;

/// How long a call is tried again that may pass: all machines of a Job may call at one moment, services take few calls a second,
/// and a group takes none while a machine of it comes or goes.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long the service may not show what was written.
const SHOWN: Duration = Duration::from_mins(2);

/// The first pause between two attempts or looks, doubled by each further one up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Pages of a record that are read: each has up to 10,000 events.
const MOST_PAGES: u32 = 100;

/// The most characters of a text about an end: a record is read as a whole, over and over.
const MOST_TEXT: usize = 400;

/// Pauses that grow, each by chance a little shorter or longer, so that machines which failed together do not go on so.
struct Pauses {
    since: Instant,
    next: Duration,
    limit: Duration,
}

impl Pauses {
    fn new(limit: Duration) -> Self {
        Self { since: Instant::now(), next: FIRST_PAUSE, limit }
    }

    /// Sleeps; `false` where the time is up.
    fn pause(&mut self) -> bool {
        if self.since.elapsed() >= self.limit {
            return false;
        }
        std::thread::sleep(by_chance(self.next));
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        true
    }
}

/// A time between half of `pause` and one and a half of it.
fn by_chance(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1000;
    pause / 2 + pause * u32::try_from(random).unwrap_or_default() / 1000
}

/// Tries again for minutes what may pass.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut pauses = Pauses::new(PATIENCE);
    loop {
        match attempt() {
            Err(error) if (error.passes() || error.is_denied()) && pauses.pause() => {}
            done => return done,
        }
    }
}

/// A machine among those of its Job.
#[derive(Debug)]
struct Place<'s> {
    /// The log group of records.
    records: String,
    job: &'s JobTarget,
    instance: &'s str,
    lane: u32,
    stream: String,
}

/// What was read of a record, and where to read on.
#[derive(Debug, Default)]
struct Reader {
    events: Vec<JobEvent>,
    next: Option<String>,
}

/// What a machine of a Job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It runs its pod, which has this index.
    Work(Option<u32>),
    /// There is nothing to do, and its group was told so.
    Nothing,
}

impl<'s> Place<'s> {
    /// That of this machine; none where it is of no Job.
    fn find(client: &mut Client, spec: &'s UserData, instance: &'s str) -> Result<Option<Self>, Error> {
        let (Some(job), Some(logs)) = (&spec.job, &spec.logs) else { return Ok(None) };
        let lane = client.metadata.tag(LANE_TAG)?;
        let lane = lane.parse().map_err(|_| Error::Answer {
            what: format!("tag {LANE_TAG}"),
            reason: format!("{lane:?} is no number"),
        })?;
        let stream = client.metadata.tag(RECORD_TAG)?;
        Ok(Some(Self { records: logs.records(), job, instance, lane, stream }))
    }

    /// The record as far as it is shown, an empty one where there is none; what a reader has read is not read again.
    fn read(&self, client: &mut Client, reader: &mut Reader) -> Result<Record, Error> {
        for _ in 0..MOST_PAGES {
            let mut body = json!({
                "logGroupName": self.records, "logStreamName": self.stream, "startFromHead": true,
            });
            if let Some(next) = &reader.next {
                body["nextToken"] = Value::from(next.as_str());
            }
            let answer = match patiently(|| client.call(LOGS, "GetLogEvents", &body)) {
                Err(Error::Refused { reason, .. }) if reason.contains("ResourceNotFound") => {
                    return Ok(Record::of(reader.events.clone()));
                }
                other => other?,
            };
            if !reader.take(&answer) {
                return Ok(Record::of(reader.events.clone()));
            }
        }
        // What a part of it says may be wrong.
        Err(self.wrong("it is too long to be read: delete its Job with `i2kit destroy`, and deploy it again"))
    }

    /// Writes to the record, which was read as `before`, and reads it until it shows that.
    fn write(
        &self,
        client: &mut Client,
        (reader, before): (&mut Reader, &Record),
        what: Vec<What>,
    ) -> Result<Record, Error> {
        let milliseconds = time::milliseconds();
        let at = before.next_time(milliseconds);
        let written: Vec<JobEvent> = what.into_iter().map(|what| JobEvent { at, what }).collect();
        let lines: Vec<logs::Event> = written
            .iter()
            .filter_map(|event| serde_json::to_string(event).ok())
            .map(|text| logs::Event { milliseconds, text })
            .collect();
        patiently(|| logs::put(client, (&self.records, &self.stream), &lines))?;
        let mut pauses = Pauses::new(SHOWN);
        loop {
            let found = self.read(client, reader)?;
            if written.iter().all(|event| reader.events.contains(event)) {
                return Ok(found);
            }
            if !pauses.pause() {
                return Err(self.wrong("it does not show what was written to it"));
            }
        }
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::Answer { what: format!("the record {}", self.stream), reason: reason.into() }
    }

    /// Has Auto Scaling end this machine, and start another in its place or not.
    fn leave(&self, client: &mut Client, is_last: bool) -> Result<(), Error> {
        let decrement = if is_last { "true" } else { "false" };
        let words = [("InstanceId", self.instance), ("ShouldDecrementDesiredCapacity", decrement)];
        match patiently(|| client.query(AUTO_SCALING, "TerminateInstanceInAutoScalingGroup", &words)) {
            // Another lane's machine had its group want none already.
            Err(error) if is_last && error.is_invalid() => Ok(()),
            other => other,
        }
    }

    /// Has Auto Scaling end the machines of all other lanes. One that is busy keeps none of the others waiting.
    fn stop_others(&self, client: &mut Client, lanes: u32) -> Result<(), Error> {
        let mut left: Vec<u32> = (0..lanes).filter(|lane| *lane != self.lane).collect();
        patiently(|| {
            let mut first = Ok(());
            left.retain(|lane| {
                let group = self.job.lane(*lane);
                let words = [("AutoScalingGroupName", group.as_str()), ("DesiredCapacity", "0")];
                match client.query(AUTO_SCALING, "SetDesiredCapacity", &words) {
                    Ok(()) => false,
                    // It is gone, was never made, or may have no machine any more.
                    Err(error) if error.is_invalid() => false,
                    Err(error) => {
                        if first.is_ok() {
                            first = Err(error);
                        }
                        true
                    }
                }
            });
            first
        })
    }

    /// Has Auto Scaling end this lane at that second, also if this machine can do nothing any more by then: from then on the
    /// group may have no machine.
    fn put_deadline(&self, client: &mut Client, second: u64) -> Result<(), Error> {
        let end = time::iso(job::action_time(second, time::milliseconds() / 1000 + LEAST_AHEAD));
        let group = self.job.lane(self.lane);
        let words = [
            ("AutoScalingGroupName", group.as_str()),
            ("ScheduledActionName", DEADLINE),
            ("StartTime", &end),
            ("MinSize", "0"),
            // The role allows no other.
            ("MaxSize", "0"),
            ("DesiredCapacity", "0"),
        ];
        patiently(|| client.query(AUTO_SCALING, "PutScheduledUpdateGroupAction", &words))
    }

    /// Has the lane end when the run takes too long, and no more because no machine began.
    fn limit(&self, client: &mut Client, rules: &Rules, since: u64) -> Result<(), Error> {
        match rules.deadline {
            Some(deadline) => self.put_deadline(client, (since / 1000).saturating_add(deadline)),
            None => self.unlimit(client),
        }
    }

    /// Takes the deadline of this lane away, so that it ends nothing that comes later.
    fn unlimit(&self, client: &mut Client) -> Result<(), Error> {
        let group = self.job.lane(self.lane);
        let words = [("AutoScalingGroupName", group.as_str()), ("ScheduledActionName", DEADLINE)];
        match patiently(|| client.query(AUTO_SCALING, "DeleteScheduledAction", &words)) {
            Err(error) if error.is_invalid() => Ok(()),
            other => other,
        }
    }

    /// Ends this machine, and what else follows from the record. Whatever fails, the rest is done, and the machine ends.
    fn finish(&self, client: &mut Client, record: &Record, run: u32) -> Result<(), Error> {
        let now = time::milliseconds();
        let leaving = leaving(record, (run, self.lane), now);
        let mut first = Ok(());
        if leaving.stops_others {
            first = self.stop_others(client, record.rules.as_ref().map_or(0, |rules| rules.lanes));
        }
        let then = match next_end(record, (run, leaving.is_last), now) {
            NextEnd::At(second) => self.put_deadline(client, second),
            NextEnd::AsBefore => Ok(()),
            NextEnd::Never => self.unlimit(client),
        };
        let left = self.leave(client, leaving.is_last);
        first.and(then).and(left)
    }

    /// Reads the record until it shows what this machine begins by.
    fn read_start(&self, client: &mut Client, reader: &mut Reader) -> Result<(Record, Rules), Error> {
        let mut pauses = Pauses::new(SHOWN);
        loop {
            let record = self.read(client, reader)?;
            let has_run = !record.runs.is_empty();
            match record.rules.clone() {
                Some(rules) if has_run || rules.scheduled => return Ok((record, rules)),
                // It was written before the group was made, and is shown late.
                _ if pauses.pause() => {}
                _ => return Err(self.wrong("it shows no run")),
            }
        }
    }
}

impl Reader {
    /// Takes a page; whether there may be another one.
    fn take(&mut self, answer: &Value) -> bool {
        let lines = answer["events"].as_array().into_iter().flatten();
        self.events
            .extend(lines.filter_map(|line| {
                JobEvent::read(line["message"].as_str()?, line["ingestionTime"].as_u64())
            }));
        let token = answer["nextForwardToken"].as_str().map(str::to_owned);
        // The end of a stream is where its token stays the same.
        let goes_on = token.is_some() && token != self.next;
        if goes_on {
            self.next = token;
        }
        goes_on
    }
}

/// How a machine leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaving {
    /// The machines of other lanes end, too.
    stops_others: bool,
    /// No other machine comes in its place.
    is_last: bool,
}

/// How the machine of a lane leaves that was of this run, by what the record says at the time `now`.
fn leaving(record: &Record, (run, lane): (u32, u32), now: u64) -> Leaving {
    let found = record.runs.iter().find(|found| found.number == run);
    let verdict = found.map_or(Verdict::Succeeded, |found| record.verdict(found, now));
    let is_over = verdict != Verdict::Active;
    // Without completions each lane goes on to an end of its own, and some may have begun of which the record does not show it yet.
    let is_queue = record.rules.as_ref().is_some_and(|rules| rules.completions.is_none());
    let stops_others = is_over && !(is_queue && verdict == Verdict::Succeeded);
    Leaving { stops_others, is_last: is_over || record.work(lane, now) == Work::Nothing }
}

/// When the lane ends that a machine leaves, whatever its next machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextEnd {
    /// At that second since the Unix epoch.
    At(u64),
    /// As was put before.
    AsBefore,
    /// It has no machine, and comes to no other.
    Never,
}

/// The same by the record at the time `now`, for a machine of this run which another one follows unless it is the last.
fn next_end(record: &Record, (run, is_last): (u32, bool), now: u64) -> NextEnd {
    let Some(rules) = &record.rules else { return NextEnd::AsBefore };
    let found = record.runs.iter().find(|found| found.number == run);
    // The next machine, which the schedule starts or which comes at once, has to begin.
    let begins = (now / 1000).saturating_add(BEGIN_SECONDS);
    let deadline = rules.deadline.zip(found).map(|(limit, run)| (run.since / 1000).saturating_add(limit));
    let is_over = found.is_none_or(|found| record.verdict(found, now) != Verdict::Active);
    match rules.gap {
        _ if !is_last => NextEnd::At(deadline.map_or(begins, |deadline| deadline.min(begins))),
        Some(gap) if rules.scheduled => NextEnd::At(begins.saturating_add(gap)),
        // That the deadline came, Auto Scaling says.
        _ if is_over && deadline.is_some() => NextEnd::AsBefore,
        _ => NextEnd::Never,
    }
}

/// Finds out what this machine does, and writes that it begins. `None` where it is of no Job.
pub(crate) fn begin(client: &mut Client, spec: &UserData, instance: &str) -> Result<Option<Begun>, Error> {
    let Some(place) = Place::find(client, spec, instance)? else { return Ok(None) };
    let mut reader = Reader::default();
    let (record, rules) = place.read_start(client, &mut reader)?;
    let plan = plan(&record, &rules, (&place, spec.revision), time::milliseconds());
    let newest = record.runs.last().map_or(0, |run| run.number);
    let (run, slot, events) = match plan {
        Plan::Begins { run, slot, events } => (run, slot, events),
        Plan::Leaves { events } => {
            let record = if events.is_empty() {
                record
            } else {
                place.write(client, (&mut reader, &record), events)?
            };
            place.finish(client, &record, newest)?;
            return Ok(Some(Begun::Nothing));
        }
    };
    let record = place.write(client, (&mut reader, &record), events)?;
    let found = record.runs.iter().find(|found| found.number == run);
    let now = time::milliseconds();
    // That this machine began said that the one before it was lost, which may be one failure too many.
    if found.is_none_or(|found| record.verdict(found, now) != Verdict::Active) {
        place.finish(client, &record, run)?;
        return Ok(Some(Begun::Nothing));
    }
    place.limit(client, &rules, found.map_or(0, |found| found.since))?;
    Ok(Some(Begun::Work(slot.filter(|_| rules.indexed))))
}

/// What a machine does when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    /// It writes this and works.
    Begins { run: u32, slot: Option<u32>, events: Vec<What> },
    /// It writes this and leaves.
    Leaves { events: Vec<What> },
}

/// What a machine does at the time `now`.
fn plan(record: &Record, rules: &Rules, (place, revision): (&Place<'_>, u64), now: u64) -> Plan {
    if let Some(run) = record.begun_by(place.instance) {
        let text = "the machine started again".to_owned();
        let instance = place.instance.to_owned();
        let end = What::End { run: run.number, instance, succeeded: false, text };
        return Plan::Leaves { events: vec![end] };
    }
    let newest = record.runs.last();
    let is_over = newest.is_none_or(|run| record.verdict(run, now) != Verdict::Active);
    let (mut record, mut events) = (record.clone(), Vec::new());
    if is_over && rules.scheduled && record.is_due(now) {
        let number = newest.map_or(1, |run| run.number.saturating_add(1));
        let revision = u32::try_from(revision).unwrap_or(u32::MAX);
        events.push(What::Run { number, revision, scheduled: true });
        record.add(record.next_time(now), events[0].clone());
    }
    let (Work::Slot(slot), Some(run)) = (record.work(place.lane, now), record.runs.last()) else {
        return Plan::Leaves { events: lost(&record, place.lane, now) };
    };
    let run = run.number;
    events.push(What::Start { run, lane: place.lane, instance: place.instance.to_owned(), slot });
    Plan::Begins { run, slot, events }
}

/// What is said of the machine that a lane's record still shows, by one that is there in its place and has nothing to do.
fn lost(record: &Record, lane: u32, now: u64) -> Vec<What> {
    let newest = record.runs.last().filter(|run| record.verdict(run, now) == Verdict::Active);
    let shown = newest.and_then(|run| Some((run.number, run.lanes.get(&lane)?.instance.clone())));
    shown.map(|(run, instance)| What::Left { run, instance }).into_iter().collect()
}

/// Tells how the pod ended: in the record, and to Auto Scaling, which starts another machine or none in its place. `asked`
/// says that the machine was stopped from outside, or did not come to run its pod.
pub(crate) fn end(
    client: &mut Client,
    (spec, instance): (&UserData, &str),
    end: &PodEnd,
    asked: bool,
) -> Result<(), Error> {
    let Some(place) = Place::find(client, spec, instance)? else { return Ok(()) };
    if asked {
        return leave_word(&place, client);
    }
    match tell(&place, client, end) {
        Ok((record, run)) => place.finish(client, &record, run),
        Err(error) => {
            // The next machine says that this one was lost. The first failure is the one to tell of.
            let begins = (time::milliseconds() / 1000).saturating_add(BEGIN_SECONDS);
            let guarded = place.put_deadline(client, begins);
            let _ = guarded.and(place.leave(client, false));
            Err(error)
        }
    }
}

/// Tells that the machine was asked to stop, before its pod has done so: its time may be short.
pub(crate) fn asked(client: &mut Client, spec: &UserData, instance: &str) -> Result<(), Error> {
    let Some(place) = Place::find(client, spec, instance)? else { return Ok(()) };
    leave_word(&place, client)
}

/// Writes that this machine ends, which is no failure; nothing where it did not begin.
fn leave_word(place: &Place<'_>, client: &mut Client) -> Result<(), Error> {
    let mut reader = Reader::default();
    let record = place.read(client, &mut reader)?;
    let Some(run) = record.begun_by(place.instance).map(|run| run.number) else { return Ok(()) };
    let left = What::Left { run, instance: place.instance.to_owned() };
    place.write(client, (&mut reader, &record), vec![left]).map(drop)
}

/// Writes how the pod ended. Returns the record, and the run that it was of.
fn tell(place: &Place<'_>, client: &mut Client, end: &PodEnd) -> Result<(Record, u32), Error> {
    let mut reader = Reader::default();
    let record = place.read(client, &mut reader)?;
    let instance = place.instance.to_owned();
    let found = record.begun_by(&instance).map(|run| run.number);
    let run = found.ok_or_else(|| place.wrong("it does not show that this machine began"))?;
    let text = end.to_string().chars().take(MOST_TEXT).collect();
    let what = What::End { run, instance, succeeded: end.succeeded, text };
    let record = place.write(client, (&mut reader, &record), vec![what])?;
    Ok((record, run))
}

#[cfg(test)]
mod tests;
