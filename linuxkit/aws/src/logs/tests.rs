//! Journals as PID 1 writes them, and what a service answers.

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

#[test]
fn files_are_read_in_their_order_whatever_was_counted() {
    let folder = tempfile::tempdir().unwrap();
    let write = |first: u64, texts: &[&str]| {
        let lines = texts.iter().map(|text| format!("2026-01-31T12:00:00Z stdout F {text}\n"));
        fs::write(folder.path().join(format!("{first:020}.1")), lines.collect::<String>()).unwrap();
    };
    // Three lines where two were counted: the next file is read all the same, and nothing counts as dropped.
    write(0, &["one", "two", "three"]);
    let mut place = Place::default();
    assert_eq!(texts(&batch(&mut place, folder.path())), ["one", "two", "three"]);
    write(2, &["four"]);
    assert_eq!(texts(&batch(&mut place, folder.path())), ["four"]);
    write(5, &["five"]);
    let events = batch(&mut place, folder.path());
    assert_eq!(texts(&events), ["i2kit: 2 lines were dropped before they were sent", "five"]);
}

#[test]
fn what_is_written_while_it_is_read_is_sent_once() {
    use std::io::Write as _;
    const FILES: u64 = 300;
    const LINES: u64 = 5;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // As PID 1 does: a file that was begun is written until the next one is.
    let writer = std::thread::spawn(move || {
        for first in (0..FILES).map(|file| file * LINES) {
            let mut file = File::create(path.join(format!("{first:020}.1"))).unwrap();
            for line in first..first + LINES {
                writeln!(file, "2026-01-31T12:00:00Z stdout F {line}").unwrap();
            }
        }
    });
    let (mut place, mut sent) = (Place::default(), 0);
    while sent < FILES * LINES {
        for event in batch(&mut place, folder.path()) {
            assert_eq!(event.text, sent.to_string());
            sent += 1;
        }
    }
    writer.join().unwrap();
    assert!(batch(&mut place, folder.path()).is_empty());
}

#[test]
fn a_journal_that_fails_slows_down_no_service_that_takes_others() {
    let mut wait = FIRST_WAIT;
    for _ in 0..10 {
        wait = after_failure(wait, false);
    }
    assert_eq!((wait, after_failure(wait, true)), (MAX_WAIT, FIRST_WAIT));
}

fn folder(journals: &[(&str, &[&str])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, times) in journals {
        fs::create_dir(folder.path().join(name)).unwrap();
        let lines = times.iter().map(|time| format!("{time} stdout F of {name}\n"));
        fs::write(folder.path().join(name).join(format!("{:020}.1", 0)), lines.collect::<String>()).unwrap();
    }
    folder
}

fn refused(reason: &str) -> Error {
    Error::Refused { action: "PutLogEvents".into(), status: 400, reason: reason.into() }
}

#[test]
fn a_batch_spans_less_than_a_day_in_the_order_of_time() {
    let folder = folder(&[(
        "web",
        &[
            "2026-01-31T00:00:00Z",
            "2026-01-31T22:59:59Z",
            "2026-01-31T23:00:01Z",
            // The clock was set back.
            "2026-01-31T12:00:00Z",
            "no time",
        ],
    )]);
    let mut place = Place::default();
    let mut counts = vec![];
    loop {
        let events = batch(&mut place, &folder.path().join("web"));
        if events.is_empty() {
            break;
        }
        assert!(events.is_sorted_by_key(|event| event.milliseconds));
        assert!(events.iter().all(|event| event.milliseconds > 1_700_000_000_000));
        counts.push(events.len());
    }
    assert_eq!(counts, [2, 1, 2]);
    assert_eq!(place.next, 5);
}

#[test]
fn a_batch_has_no_more_events_and_bytes_than_the_service_takes() {
    let short = vec!["2026-01-31T00:00:00Z"; 13_000];
    let folder = folder(&[("short", &short), ("binary", &[])]);
    let mut bytes = vec![];
    for _ in 0..40 {
        bytes.extend(b"2026-01-31T00:00:00Z stdout F ");
        bytes.extend([0xff; 16_000]);
        bytes.push(b'\n');
    }
    fs::write(folder.path().join("binary").join(format!("{:020}.1", 0)), bytes).unwrap();
    for (name, lines) in [("short", 13_000), ("binary", 40)] {
        let (mut place, mut count) = (Place::default(), 0);
        while count < lines {
            let events = batch(&mut place, &folder.path().join(name));
            let bytes: usize = events.iter().map(|event| event.text.len() + 26).sum();
            assert!(!events.is_empty() && events.len() <= 10_000 && bytes <= 1 << 20, "{name}: {bytes}");
            count += events.len();
        }
        assert_eq!((count, place.next), (lines, lines as u64));
    }
}

#[test]
fn a_journal_that_fails_keeps_no_other_one_waiting() {
    let time = "2026-01-31T00:00:00Z";
    let folder = folder(&[("a", &[time]), ("b", &[time]), ("c", &[time])]);
    let (mut places, logged) = (Places::new(), std::cell::RefCell::new(vec![]));
    let log = |text: &str| logged.borrow_mut().push(text.to_owned());
    let mut taken = vec![];
    let mut send = |name: &str, _: &[Event]| match name {
        "a" => Err(refused("ThrottlingException: Rate exceeded")),
        "b" => Err(refused("InvalidParameterException: too old")),
        _ => {
            taken.push(name.to_owned());
            Ok(0)
        }
    };
    let done = round(&mut places, folder.path(), &mut send, &log);
    assert!(done.more && done.failure.unwrap().to_string().contains("Throttling"));
    let done = round(&mut places, folder.path(), &mut send, &log);
    assert!(!done.more && done.failure.is_some(), "only the first is left");
    assert_eq!(taken, ["c"]);
    assert_eq!(
        *logged.borrow(),
        [
            "1 lines of b are left out of the log: PutLogEvents: status 400: InvalidParameterException: too old"
        ]
    );
}

#[test]
fn of_a_batch_that_is_refused_only_the_lines_that_cannot_be_taken_are_left_out() {
    let folder = folder(&[("web", &["2026-01-31T00:00:00Z"; 100])]);
    let path = folder.path().join("web").join(format!("{:020}.1", 0));
    let text = fs::read_to_string(&path).unwrap().replacen("of web", "bad", 1);
    fs::write(&path, text).unwrap();
    let (mut places, logged) = (Places::new(), std::cell::RefCell::new(vec![]));
    let log = |text: &str| logged.borrow_mut().push(text.to_owned());
    let mut taken = 0;
    let mut send = |_: &str, events: &[Event]| {
        if events.iter().any(|event| event.text.contains("bad")) {
            return Err(refused("InvalidParameterException: a line"));
        }
        taken += events.len();
        Ok(0)
    };
    assert!(round(&mut places, folder.path(), &mut send, &log).failure.is_none());
    assert_eq!(taken, 99);
    assert!(logged.borrow()[0].starts_with("1 lines of web are left out"), "{logged:?}");
}

#[test]
fn an_answer_says_what_was_not_taken() {
    let rejected = |info: Value| not_taken(&json!({"rejectedLogEventsInfo": info}), 10);
    assert_eq!(not_taken(&json!({}), 10), 0);
    assert_eq!(rejected(json!({"tooOldLogEventEndIndex": 3})), 3);
    assert_eq!(rejected(json!({"expiredLogEventEndIndex": 2, "tooNewLogEventStartIndex": 9})), 3);
}

#[test]
fn a_sender_that_is_started_anew_goes_on() {
    let folder = folder(&[("web", &["2026-01-31T00:00:00Z", "2026-01-31T00:00:01Z"])]);
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("sent.json");
    let mut places = load(&file);
    let mut count = 0;
    let mut send = |_: &str, events: &[Event]| {
        count += events.len();
        Ok(0)
    };
    round(&mut places, folder.path(), &mut send, &|_| {});
    save(&places, &file).unwrap();
    assert_eq!(load(&file), places);
    assert!(!round(&mut load(&file), folder.path(), &mut send, &|_| {}).more);
    assert_eq!(count, 2);
}

proptest! {
    #[test]
    fn any_line_is_an_event(line in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(!event(&line).text.is_empty());
    }
}
