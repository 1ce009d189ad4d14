//! What a machine of a Job begins, and how it leaves, by what its record says.

use super::*;

fn rules(scheduled: bool) -> Rules {
    serde_json::from_value(json!({
        "completions": 2, "lanes": 1, "backoffLimit": 0, "scheduled": scheduled, "indexed": true,
    }))
    .unwrap()
}

/// What machine `i-9` does at the time `now`.
fn planned_at(record: &Record, now: u64) -> Plan {
    let job = JobTarget { group: "g".into() };
    let (records, stream) = ("/i2kit/e/jobs".into(), "s".into());
    let place = Place { records, job: &job, instance: "i-9", lane: 0, stream };
    plan(record, record.rules.as_ref().unwrap(), (&place, 4), now)
}

fn planned(record: &Record) -> Plan {
    planned_at(record, 9)
}

/// The run and the slot of a machine that begins, and how much it writes.
fn begun(plan: Plan) -> (u32, Option<u32>, usize) {
    match plan {
        Plan::Begins { run, slot, events } => (run, slot, events.len()),
        leaves @ Plan::Leaves { .. } => panic!("{leaves:?}"),
    }
}

const NOTHING: Plan = Plan::Leaves { events: vec![] };

/// Rules and what followed them, one event a millisecond.
fn record(rules: Rules, more: Vec<What>) -> Record {
    let events = std::iter::once(What::Rules { rules }).chain(more);
    Record::of(events.zip(1..).map(|(what, at)| JobEvent { at, what }).collect())
}

fn run(number: u32, scheduled: bool) -> What {
    What::Run { number, revision: 4, scheduled }
}

fn start(run: u32, lane: u32, instance: &str, slot: Option<u32>) -> What {
    What::Start { run, lane, instance: instance.into(), slot }
}

fn end(run: u32, instance: &str, succeeded: bool) -> What {
    What::End { run, instance: instance.into(), succeeded, text: "job: Error, exit code 1".into() }
}

#[test]
fn a_machine_goes_on_with_the_run_that_is_there() {
    assert_eq!(begun(planned(&record(rules(false), vec![run(3, false)]))), (3, Some(0), 1));
    let failed = vec![run(3, false), start(3, 0, "i-1", Some(0)), end(3, "i-1", false)];
    assert_eq!(planned(&record(rules(false), failed)), NOTHING);
}

#[test]
fn a_machine_of_a_schedule_begins_a_run_once_the_last_one_is_over() {
    let Plan::Begins { run: 1, events, .. } = planned(&record(rules(true), vec![])) else { panic!() };
    assert_eq!(events.first(), Some(&run(1, true)));
    let mut story = vec![run(1, true)];
    assert_eq!(begun(planned(&record(rules(true), story.clone()))).2, 1, "it goes on");
    for (slot, instance) in [(0, "i-1"), (1, "i-2")] {
        story.extend([start(1, 0, instance, Some(slot)), end(1, instance, true)]);
    }
    assert_eq!(begun(planned(&record(rules(true), story.clone()))).0, 2);
    // In place of a machine that was lost after its last word it begins none.
    let hourly = record(Rules { gap: Some(3600), ..rules(true) }, story);
    assert_eq!(planned(&hourly), NOTHING);
    assert_eq!(begun(planned_at(&hourly, 3_600_000)).0, 2);
}

#[test]
fn a_machine_that_starts_again_in_place_runs_nothing_twice() {
    let again = |more: Vec<What>| {
        let mut story = vec![run(1, false), start(1, 0, "i-9", Some(0))];
        story.extend(more);
        let before = record(Rules { backoff_limit: 1, ..rules(false) }, story);
        let Plan::Leaves { events } = planned(&before) else { panic!("it runs its pod again") };
        let mut after = before.clone();
        for what in events {
            after.add(after.next_time(0), what);
        }
        (after.runs[0].failures, after.runs[0].succeeded, leaving(&after, (1, 0), 9))
    };
    let replaced = Leaving { stops_others: false, is_last: false };
    assert_eq!(again(vec![]), (1, 0, replaced));
    assert_eq!(again(vec![end(1, "i-9", true)]), (0, 1, replaced), "its success counts");
    let left = What::Left { run: 1, instance: "i-9".into() };
    assert_eq!(again(vec![left]), (0, 0, replaced), "it was asked to");
}

#[test]
fn a_machine_with_nothing_to_do_says_that_the_one_before_it_is_gone() {
    let queue = Rules { completions: None, lanes: 2, ..rules(false) };
    let story = vec![run(1, false), start(1, 0, "i-1", None), start(1, 1, "i-2", None), end(1, "i-2", true)];
    let left = What::Left { run: 1, instance: "i-1".into() };
    assert_eq!(planned(&record(queue, story)), Plan::Leaves { events: vec![left] });
}

#[test]
fn a_machine_leaves_as_the_record_says() {
    let two = Rules { lanes: 2, backoff_limit: 0, ..rules(false) };
    let story = vec![run(1, false), start(1, 0, "i-1", Some(0)), start(1, 1, "i-2", Some(1))];
    let after = |rules: &Rules, more: Vec<What>, lane| {
        leaving(&record(rules.clone(), [story.clone(), more].concat()), (1, lane), 9)
    };
    let last = Leaving { stops_others: false, is_last: true };
    assert_eq!(after(&two, vec![end(1, "i-1", true)], 0), last, "its lane has no other slot");
    let over = Leaving { stops_others: true, is_last: true };
    assert_eq!(after(&two, vec![end(1, "i-1", false)], 0), over);
    assert_eq!(after(&two, vec![end(1, "i-1", true), end(1, "i-2", true)], 1), over);
    let again = Rules { backoff_limit: 6, ..two.clone() };
    let replaced = Leaving { stops_others: false, is_last: false };
    assert_eq!(after(&again, vec![end(1, "i-1", false)], 0), replaced);
    // The start that has the one before counted as lost is one failure too many, and that machine runs nothing.
    assert_eq!(after(&two, vec![start(1, 0, "i-3", Some(0))], 0), over);
    // Of a work queue each lane ends by itself: another may have begun of which nothing is shown yet.
    let queue = Rules { completions: None, ..two };
    assert_eq!(after(&queue, vec![end(1, "i-1", true), end(1, "i-2", true)], 1), last);
    assert_eq!(after(&queue, vec![end(1, "i-1", false)], 0), over);
}

#[test]
fn what_ends_a_lane_follows_from_what_comes_next() {
    let story = vec![run(1, false), start(1, 0, "i-1", Some(0))];
    let after = |rules: Rules, is_last| next_end(&record(rules, story.clone()), (1, is_last), 9_000);
    let limited = |seconds| Rules { deadline: Some(seconds), ..rules(false) };
    assert_eq!(after(rules(false), false), NextEnd::At(9 + BEGIN_SECONDS));
    assert_eq!(after(rules(false), true), NextEnd::Never);
    assert_eq!(after(limited(600), false), NextEnd::At(600));
    assert_eq!(after(limited(86_400), false), NextEnd::At(9 + BEGIN_SECONDS));
    // What is over by its deadline keeps it, and a lane without more to do does not.
    assert_eq!((after(limited(5), true), after(limited(600), true)), (NextEnd::AsBefore, NextEnd::Never));
    let hourly = Rules { gap: Some(3600), ..rules(true) };
    assert_eq!(after(hourly, true), NextEnd::At(9 + 3600 + BEGIN_SECONDS));
}

#[test]
fn a_reader_goes_on_where_it_stopped() {
    let line = |what: &What| json!({"message": serde_json::to_string(&JobEvent { at: 5, what: what.clone() }).unwrap()});
    let mut reader = Reader::default();
    let page =
        json!({"events": [line(&run(1, false)), {"message": "strange"}, {}], "nextForwardToken": "f/1"});
    assert!(reader.take(&page), "there may be more");
    assert!(!reader.take(&json!({"events": [], "nextForwardToken": "f/1"})), "it is the end");
    assert!(reader.take(&json!({"events": [line(&end(1, "i-1", true))], "nextForwardToken": "f/2"})));
    assert_eq!((reader.events.len(), reader.next.as_deref()), (2, Some("f/2")));
    // A time far ahead of the service's own is none.
    let mut far = line(&run(2, false));
    far["ingestionTime"] = json!(1);
    assert!(!reader.take(&json!({"events": [far]})));
    assert_eq!(reader.events.len(), 3);
    let mut far =
        json!({"message": format!(r#"{{"at":{},"what":"run","number":2,"revision":1}}"#, u64::MAX)});
    far["ingestionTime"] = json!(1);
    assert!(!reader.take(&json!({"events": [far]})));
    assert_eq!(reader.events.len(), 3);
}

#[test]
fn pauses_differ_and_come_to_an_end() {
    for _ in 0..100 {
        let pause = by_chance(Duration::from_secs(2));
        assert!(pause >= Duration::from_secs(1) && pause < Duration::from_secs(3), "{pause:?}");
    }
    let mut pauses = Pauses::new(Duration::ZERO);
    assert!(!pauses.pause());
}
