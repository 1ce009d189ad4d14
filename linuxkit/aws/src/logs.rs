//! Lines of containers, from the journals that PID 1 keeps to `CloudWatch` Logs.
//!
//! A batch is read from a journal's file, sent, and only then left behind: the files are the buffer. While the service is
//! away they are bounded as always, the oldest going first, and a line in the log has their number. How far each journal
//! was sent is kept in a file, so that a sender that is started anew repeats one batch at most.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use i2kit_spec::user_data::UserData;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;
use crate::service::{Client, LOGS};
use crate::time;

/// Limits of one call: its events, and their bytes with 26 for each. Less than the service takes, for escapes.
const BATCH_EVENTS: usize = 5_000;
const BATCH_BYTES: u64 = 512 << 10;
/// What the service takes of the same, which is 10,000 events besides.
const MAX_BYTES: u64 = 1 << 20;
/// The time between the first and the last event of one call; the service takes 24 hours.
const BATCH_MILLISECONDS: u64 = 23 * 3600 * 1000;
/// How often is looked for more. Fewer calls cost less, and a second is soon enough.
const PERIOD: Duration = Duration::from_secs(1);
/// After a failure, doubled by each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Where one journal is read.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The number of the next line.
    next: u64,
    /// The file that it is in: the number of its first line, its path, and where the line begins.
    file: Option<(u64, PathBuf, u64)>,
}

/// A line to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) milliseconds: u64,
    pub(crate) text: String,
}

/// How far each journal was sent, by the container's name.
type Places = BTreeMap<String, Place>;

/// Sends the lines of all journals below `folder` until the program is ended, from where `file` says that a sender
/// before this one has come.
pub(crate) fn ship(
    client: &mut Client,
    (spec, instance): (&UserData, &str),
    (folder, file): (&Path, &Path),
    log: impl Fn(&str),
) {
    let Some(target) = &spec.logs else { return };
    let mut places = load(file);
    let mut wait = FIRST_WAIT;
    let mut failing = false;
    loop {
        let mut send = |name: &str, events: &[Event]| {
            let stream = format!("{}/{}/{instance}/{name}", spec.namespace, spec.group);
            put(client, (&target.group, &stream), events)
        };
        let Round { more, failure } = round(&mut places, folder, &mut send, &log);
        if more {
            // Without the file a successor repeats what is still there.
            let _ = save(&places, file);
        }
        if let Some(error) = failure {
            if !std::mem::replace(&mut failing, true) {
                log(&format!("logs are not sent for now: {error}"));
            }
            std::thread::sleep(wait);
            wait = after_failure(wait, more);
            continue;
        }
        if std::mem::take(&mut failing) {
            log("logs are sent again");
        }
        wait = FIRST_WAIT;
        if !more {
            std::thread::sleep(PERIOD);
        }
    }
}

/// How long is waited after one more failure. A service that took lines of another journal is there, and those who write go on:
/// their files are bounded.
fn after_failure(wait: Duration, more: bool) -> Duration {
    if more { FIRST_WAIT } else { (wait * 2).min(MAX_WAIT) }
}

fn load(path: &Path) -> Places {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn save(places: &Places, path: &Path) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(places)?)?;
    fs::rename(&new, path)
}

/// Sends events of the container of that name, and says how many of them were not taken.
type Send<'s> = dyn FnMut(&str, &[Event]) -> Result<usize, Error> + 's;

/// What came of a batch of each journal.
#[derive(Debug, Default)]
struct Round {
    /// Whether something was sent, so that there may be more.
    more: bool,
    /// The first failure that may pass.
    failure: Option<Error>,
}

/// Sends a batch of each journal. One that fails is tried again in the next round, and keeps no other one waiting; one that
/// the service refuses for what is in it is left out.
fn round(places: &mut Places, folder: &Path, send: &mut Send<'_>, log: &dyn Fn(&str)) -> Round {
    let mut round = Round::default();
    for name in names(folder) {
        let place = places.entry(name.clone()).or_default();
        let mut next = place.clone();
        let events = batch(&mut next, &folder.join(&name));
        if !events.is_empty() {
            let mut refused = Refused::default();
            if let Err(error) = deliver(&name, &events, send, &mut refused) {
                round.failure.get_or_insert(error);
                continue;
            }
            if let Some(reason) = refused.reason {
                log(&format!("{} lines of {name} are left out of the log: {reason}", refused.count));
            }
            round.more = true;
        }
        *place = next;
    }
    round
}

/// Lines that the service refused for what they are.
#[derive(Debug, Default)]
struct Refused {
    count: usize,
    reason: Option<String>,
}

/// Sends events; what is refused is sent in halves, until what is left out is nothing but the lines that cannot be taken. After
/// another failure those that were taken are sent again.
fn deliver(name: &str, events: &[Event], send: &mut Send<'_>, refused: &mut Refused) -> Result<(), Error> {
    match send(name, events) {
        Ok(0) => Ok(()),
        Ok(count) => {
            refused.count += count;
            refused.reason.get_or_insert_with(|| "they are too old or too new".to_owned());
            Ok(())
        }
        Err(error) if error.is_invalid() && events.len() < 2 => {
            refused.count += events.len();
            refused.reason.get_or_insert_with(|| error.to_string());
            Ok(())
        }
        Err(error) if error.is_invalid() => {
            let (first, second) = events.split_at(events.len() / 2);
            deliver(name, first, send, refused)?;
            deliver(name, second, send, refused)
        }
        Err(error) => Err(error),
    }
}

/// How many of so many events an answer says were not taken: the first ones are too old or expired, the last ones too new.
fn not_taken(answer: &Value, all: usize) -> usize {
    let rejected = &answer["rejectedLogEventsInfo"];
    let index = |key: &str| rejected[key].as_u64().and_then(|number| usize::try_from(number).ok());
    let old = index("tooOldLogEventEndIndex").max(index("expiredLogEventEndIndex")).unwrap_or(0);
    let new = index("tooNewLogEventStartIndex").unwrap_or(all);
    (old + all.saturating_sub(new)).min(all)
}

/// Puts events into a stream, which is made when it is not there. Returns how many the service did not take.
pub(crate) fn put(
    client: &mut Client,
    (group, stream): (&str, &str),
    events: &[Event],
) -> Result<usize, Error> {
    let all = events.len();
    let events: Vec<Value> =
        events.iter().map(|event| json!({"timestamp": event.milliseconds, "message": event.text})).collect();
    let body = json!({"logGroupName": group, "logStreamName": stream, "logEvents": events});
    match client.call(LOGS, "PutLogEvents", &body) {
        Err(Error::Refused { reason, .. }) if reason.contains("ResourceNotFound") => {
            let name = json!({"logGroupName": group, "logStreamName": stream});
            match client.call(LOGS, "CreateLogStream", &name) {
                Err(Error::Refused { reason, .. }) if reason.contains("AlreadyExists") => {}
                made => drop(made?),
            }
            client.call(LOGS, "PutLogEvents", &body).map(|answer| not_taken(&answer, all))
        }
        done => done.map(|answer| not_taken(&answer, all)),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The times of a batch's first and last event.
#[derive(Debug, Default)]
struct Span(Option<(u64, u64)>);

impl Span {
    /// Takes an event of this time. Returns whether it belongs into the batch: the service takes events in the order of their
    /// times, and not too far apart.
    fn take(&mut self, milliseconds: u64) -> bool {
        let (first, last) = self.0.unwrap_or((milliseconds, milliseconds));
        // One without a time has that of its neighbour.
        let fits = milliseconds == 0 || (milliseconds >= last && milliseconds - first <= BATCH_MILLISECONDS);
        if fits && milliseconds > 0 {
            self.0 = Some((first, milliseconds));
        }
        fits
    }
}

/// The next lines of a journal.
fn batch(place: &mut Place, folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut span = Span::default();
    'batch: while bytes < BATCH_BYTES && events.len() < BATCH_EVENTS {
        // Looked for before the file is read: once there is another, nothing is written into this one any more.
        let another = following(folder, place);
        let current = place.file.clone();
        let lines = match &current {
            Some((_, path, at)) => read(path, *at, BATCH_BYTES - bytes).unwrap_or_default(),
            None => Vec::new(),
        };
        let (Some((first, path, mut at)), false) = (current, lines.is_empty()) else {
            let Some((first, path)) = another else { break };
            if first > place.next {
                let text = format!("i2kit: {} lines were dropped before they were sent", first - place.next);
                events.push(Event { milliseconds: 0, text });
            }
            // The files count, whatever was counted of them.
            place.next = first;
            place.file = Some((first, path, 0));
            continue;
        };
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let event = event(line);
            // What is no text takes more room as such.
            let size = line.len().max(event.text.len()) as u64 + 26;
            let is_full = events.len() == BATCH_EVENTS || bytes + size > MAX_BYTES;
            if is_full || !span.take(event.milliseconds) {
                place.file = Some((first, path, at));
                break 'batch;
            }
            at += line.len() as u64;
            bytes += size;
            place.next += 1;
            events.push(event);
        }
        place.file = Some((first, path, at));
    }
    give_times(&mut events);
    events
}

/// Gives events without a time, such as what was dropped, that of what follows, or else of what comes before.
fn give_times(events: &mut [Event]) {
    let known = events.iter().rev().map(|event| event.milliseconds).find(|time| *time > 0);
    let mut later = known.unwrap_or_else(time::milliseconds);
    for event in events.iter_mut().rev() {
        if event.milliseconds == 0 {
            event.milliseconds = later;
        }
        later = event.milliseconds;
    }
}

/// The file behind the one that is being read, or the first one: files are read in the order of their first lines.
fn following(folder: &Path, place: &Place) -> Option<(u64, PathBuf)> {
    let current = place.file.as_ref().map(|(first, ..)| *first);
    let number = |path: &PathBuf| path.file_name()?.to_str()?.split('.').next()?.parse::<u64>().ok();
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter_map(|path| Some((number(&path)?, path)))
        .filter(|(first, _)| current.is_none_or(|current| *first > current))
        .min()
}

/// Whole lines from an offset on.
fn read(path: &Path, at: u64, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    // A line has at most 16 KiB and its time.
    file.take(limit.max(32 << 10)).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(end);
    Ok(bytes)
}

/// A line of the form `TIME STREAM TAG TEXT`; what has another form is sent as it is.
fn event(line: &[u8]) -> Event {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\n');
    let mut words = line.splitn(4, ' ');
    let milliseconds = words.next().and_then(time::parse_rfc3339).unwrap_or(0);
    let text = words.nth(2).filter(|_| milliseconds > 0).unwrap_or(line);
    // The service refuses an empty message.
    let text = if text.is_empty() { " " } else { text };
    Event { milliseconds, text: text.to_owned() }
}

#[cfg(test)]
mod tests;
