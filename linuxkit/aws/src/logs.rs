//! Lines of containers, from the journals that PID 1 keeps to `CloudWatch` Logs.
//!
//! A batch is read from a journal's file, sent, and only then left behind: the files are the buffer. While the service is
//! away they are bounded as always, the oldest going first, and a line in the log has their number.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use i2kit_spec::launch::LaunchSpec;
use serde_json::{Value, json};

use crate::error::Error;
use crate::service::{Client, LOGS};
use crate::time;

/// Limits of one call: its events, and their bytes with 26 for each. Less than the service takes, for escapes.
const BATCH_EVENTS: usize = 5_000;
const BATCH_BYTES: u64 = 512 << 10;
/// How often is looked for more. Fewer calls cost less, and a second is soon enough.
const PERIOD: Duration = Duration::from_secs(1);
/// After a failure, doubled by each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Where one journal is read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Place {
    /// The number of the next line.
    next: u64,
    /// The file that it is in: the number of its first line, its path, and where the line begins.
    file: Option<(u64, PathBuf, u64)>,
}

/// A line to send.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    milliseconds: u64,
    text: String,
}

/// Sends the lines of all journals below `folder` until the program is ended.
pub(crate) fn ship(
    client: &mut Client,
    (spec, instance): (&LaunchSpec, &str),
    folder: &Path,
    log: impl Fn(&str),
) {
    let Some(target) = &spec.logs else { return };
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let mut wait = FIRST_WAIT;
    let mut failing = false;
    loop {
        let stream = |name: &str| format!("{}/{}/{instance}/{name}", spec.namespace, spec.group);
        match round(client, &mut places, folder, &|name| (target.group.clone(), stream(name))) {
            Ok(more) => {
                if std::mem::take(&mut failing) {
                    log("logs are sent again");
                }
                wait = FIRST_WAIT;
                if !more {
                    std::thread::sleep(PERIOD);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log(&format!("logs are not sent for now: {error}"));
                }
                std::thread::sleep(wait);
                wait = (wait * 2).min(MAX_WAIT);
            }
        }
    }
}

/// Sends a batch of each journal; tells whether there may be more.
fn round(
    client: &mut Client,
    places: &mut BTreeMap<String, Place>,
    folder: &Path,
    target: &dyn Fn(&str) -> (String, String),
) -> Result<bool, Error> {
    let mut more = false;
    for name in names(folder) {
        let place = places.entry(name.clone()).or_default();
        let mut next = place.clone();
        let events = batch(&mut next, &folder.join(&name));
        if !events.is_empty() {
            put(client, target(&name), &events)?;
            more = true;
        }
        *place = next;
    }
    Ok(more)
}

/// Puts events into a stream, which is made when it is not there.
fn put(client: &mut Client, (group, stream): (String, String), events: &[Event]) -> Result<(), Error> {
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
            client.call(LOGS, "PutLogEvents", &body).map(drop)
        }
        done => done.map(drop),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The next lines of a journal.
fn batch(place: &mut Place, folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES && events.len() < BATCH_EVENTS {
        let Some((first, path, at)) = place.file.clone() else {
            let Some((first, path)) = following(folder, place) else { break };
            if first > place.next {
                let text = format!("i2kit: {} lines were dropped before they were sent", first - place.next);
                events.push(Event { milliseconds: 0, text });
                place.next = first;
            }
            place.file = Some((first, path, 0));
            continue;
        };
        let lines = read(&path, at, BATCH_BYTES - bytes).unwrap_or_default();
        if lines.is_empty() {
            // The end of this file: done with it once there is another.
            if following(folder, &Place { next: place.next, file: Some((first, path, at)) }).is_none() {
                break;
            }
            place.file = None;
            continue;
        }
        bytes += lines.len() as u64;
        place.file = Some((first, path, at + lines.len() as u64));
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            place.next += 1;
            bytes += 26;
            events.push(event(line));
        }
    }
    // What was dropped has the time of what follows.
    let mut later = events.iter().rev().map(|event| event.milliseconds).find(|time| *time > 0).unwrap_or(0);
    for event in events.iter_mut().rev() {
        if event.milliseconds == 0 {
            event.milliseconds = later;
        }
        later = event.milliseconds;
    }
    events
}

/// The file with the next line, or the first one after it.
fn following(folder: &Path, place: &Place) -> Option<(u64, PathBuf)> {
    let current = place.file.as_ref().map(|(first, ..)| *first);
    let number = |path: &PathBuf| path.file_name()?.to_str()?.split('.').next()?.parse::<u64>().ok();
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter_map(|path| Some((number(&path)?, path)))
        .filter(|(first, _)| *first >= place.next && current.is_none_or(|current| *first > current))
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn journals_are_read_on_and_what_is_lost_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |first: u64| folder.path().join(format!("{first:020}.1"));
        let line = |text: &str| format!("2026-01-31T12:00:00.000000001Z stdout F {text}\n");
        let mut place = Place::default();
        assert!(batch(&mut place, folder.path()).is_empty());
        fs::write(path(0), line("one") + &line("") + "2026-01-31T12:0").unwrap();
        let events = batch(&mut place, folder.path());
        assert_eq!(texts(&events), ["one", " "]);
        assert_eq!(events[0].milliseconds, 1_769_860_800_000);
        assert!(batch(&mut place, folder.path()).is_empty());
        fs::write(path(0), line("one") + &line("") + &line("three")).unwrap();
        fs::write(path(3), line("four")).unwrap();
        assert_eq!(texts(&batch(&mut place, folder.path())), ["three", "four"]);
        fs::remove_file(path(0)).unwrap();
        fs::remove_file(path(3)).unwrap();
        fs::write(path(10), line("eleven")).unwrap();
        let events = batch(&mut place, folder.path());
        assert_eq!(texts(&events), ["i2kit: 6 lines were dropped before they were sent", "eleven"]);
        assert_eq!(events[0].milliseconds, events[1].milliseconds);
    }

    proptest! {
        #[test]
        fn any_line_is_an_event(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(!event(&line).text.is_empty());
        }
    }
}
