//! What follows from records, told as stories of one event a second.

use super::*;

fn rules(completions: Option<u32>, lanes: u32, backoff_limit: u32) -> Rules {
    Rules {
        completions,
        lanes,
        backoff_limit,
        backoff_limit_per_index: None,
        max_failed_indexes: None,
        deadline: None,
        indexed: false,
        scheduled: false,
        gap: None,
    }
}

/// A record under way, one event a second.
struct Story(Vec<JobEvent>);

impl Story {
    fn new(rules: Rules) -> Self {
        let run = What::Run { number: 1, revision: 1, scheduled: false };
        Self(vec![]).then(What::Rules { rules }).then(run)
    }

    fn then(mut self, what: What) -> Self {
        let at = 1000 * (self.0.len() as u64 + 1);
        self.0.push(JobEvent { at, what });
        self
    }

    fn start(self, lane: u32, instance: &str, slot: Option<u32>) -> Self {
        self.then(What::Start { run: 1, lane, instance: instance.into(), slot })
    }

    fn end(self, instance: &str, succeeded: bool) -> Self {
        let text = "job: Error, exit code 3".to_owned();
        self.then(What::End { run: 1, instance: instance.into(), succeeded, text })
    }

    fn record(&self) -> Record {
        Record::of(self.0.clone())
    }

    fn verdict(&self) -> Verdict {
        let record = self.record();
        record.verdict(&record.runs[0], 0)
    }

    fn failed(&self) -> String {
        match self.verdict() {
            Verdict::Failed(reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn lanes_share_the_slots_without_meeting() {
    let story = Story::new(rules(Some(3), 2, 6));
    assert_eq!(
        [0, 1, 2].map(|lane| story.record().work(lane, 0)),
        [Work::Slot(Some(0)), Work::Slot(Some(1)), Work::Nothing]
    );
    let story = story.start(0, "a", Some(0)).end("a", true);
    assert_eq!(story.record().work(0, 0), Work::Slot(Some(2)));
    let story = story.start(1, "b", Some(1)).end("b", false);
    assert_eq!(story.record().work(1, 0), Work::Slot(Some(1)), "what failed is tried again");
    let story = story.start(1, "c", Some(1)).end("c", true).start(0, "d", Some(2));
    assert_eq!((story.record().work(1, 0), story.verdict()), (Work::Nothing, Verdict::Active));
    let story = story.end("d", true);
    assert_eq!((story.record().work(0, 0), story.verdict()), (Work::Nothing, Verdict::Succeeded));
}

#[test]
fn failures_are_counted_a_machine_each_however_often_they_are_said() {
    let story = Story::new(rules(Some(1), 1, 1)).start(0, "a", Some(0)).end("a", false).end("a", false);
    assert_eq!(story.verdict(), Verdict::Active);
    let story = story.start(0, "b", Some(0)).end("b", false);
    assert_eq!(story.failed(), "BackoffLimitExceeded: 2 VMs failed\nb: job: Error, exit code 3");
    assert_eq!(story.record().work(0, 0), Work::Nothing);
}

#[test]
fn a_machine_whose_successor_began_was_lost_and_one_that_was_stopped_was_not() {
    let story = Story::new(rules(Some(1), 1, 0)).start(0, "a", Some(0));
    let left = What::Left { run: 1, instance: "a".into() };
    assert_eq!(Story(story.0.clone()).then(left).start(0, "b", Some(0)).verdict(), Verdict::Active);
    let story = story.start(0, "b", Some(0));
    assert!(story.failed().ends_with("a: the machine ended before its pod"), "{}", story.failed());
    // It was only away, and its success counts.
    let story = Story::new(rules(Some(1), 1, 3)).start(0, "a", Some(0)).start(0, "b", Some(0));
    assert_eq!(story.end("a", true).verdict(), Verdict::Succeeded);
}

#[test]
fn indexes_fail_by_themselves_where_the_rules_say_so() {
    let own = Rules { backoff_limit_per_index: Some(0), ..rules(Some(2), 2, u32::MAX) };
    let story = Story::new(own.clone()).start(0, "a", Some(0)).end("a", false).start(1, "b", Some(1));
    assert_eq!((story.record().work(0, 0), story.verdict()), (Work::Nothing, Verdict::Active));
    let story = story.end("b", true);
    assert!(story.failed().starts_with("FailedIndexes: indexes 0 failed"), "{}", story.failed());
    let most = Rules { max_failed_indexes: Some(0), ..own };
    let story = Story::new(most).start(0, "a", Some(0)).end("a", false);
    assert!(story.failed().starts_with("MaxFailedIndexesExceeded"), "{}", story.failed());
}

#[test]
fn without_completions_the_first_success_is_the_last_beginning() {
    let story = Story::new(rules(None, 2, 6)).start(0, "a", None).start(1, "b", None).end("a", true);
    assert_eq!((story.record().work(0, 0), story.verdict()), (Work::Nothing, Verdict::Active));
    assert_eq!(story.end("b", false).verdict(), Verdict::Succeeded);
}

#[test]
fn a_run_that_has_failed_stays_so_whatever_is_said_later() {
    let story = Story::new(rules(None, 2, 0)).start(0, "a", None).start(1, "b", None).end("a", false);
    let story = story.end("b", true);
    assert!(story.failed().starts_with("BackoffLimitExceeded: 1 VMs failed"), "{}", story.failed());
    let story = story.then(What::Rules { rules: rules(None, 2, 9) });
    assert!(story.failed().starts_with("BackoffLimitExceeded: 1 VMs failed"), "{}", story.failed());
}

#[test]
fn a_deadline_counts_from_the_newest_rules_and_not_while_the_job_rests() {
    let limited = Rules { deadline: Some(10), ..rules(Some(1), 1, 6) };
    let story = Story::new(limited.clone()).start(0, "a", Some(0));
    let at = |story: &Story, now| {
        let record = story.record();
        record.verdict(&record.runs[0], now)
    };
    assert_eq!(at(&story, 11_999), Verdict::Active);
    assert_eq!(at(&story, 12_000), Verdict::Failed(limited.deadline_reason()));
    let story = story.then(What::Rules { rules: Rules { lanes: 0, ..limited.clone() } });
    assert_eq!(at(&story, 99_000), Verdict::Active);
    let story = story.then(What::Rules { rules: limited });
    assert_eq!(at(&story, 14_999), Verdict::Active);
    assert_ne!(at(&story, 15_000), Verdict::Active);
}

#[test]
fn what_follows_comes_later_whatever_a_clock_says() {
    let record = Story::new(rules(Some(1), 1, 6)).record();
    assert_eq!((record.newest, record.next_time(1), record.next_time(9_000)), (2_000, 2_001, 9_000));
    assert_eq!(Record::default().next_time(7), 7);
}

#[test]
fn a_run_that_another_follows_is_over() {
    let story = Story::new(rules(Some(1), 1, 6)).start(0, "a", Some(0));
    let story = story.then(What::Run { number: 2, revision: 1, scheduled: true });
    assert!(story.failed().starts_with("Lost"));
    assert_eq!(story.record().of_instance("a").map(|(run, lane)| (run.number, lane)), Some((1, 0)));
    assert_eq!(story.record().work(0, 0), Work::Slot(Some(0)));
}

#[test]
fn events_are_lines_that_never_change_and_others_are_passed_over() {
    let story = Story::new(rules(Some(2), 1, 6)).start(0, "i-1", Some(0)).end("i-1", true);
    let lines: Vec<String> = story.0.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    assert_eq!(
        lines,
        [
            r#"{"at":1000,"what":"rules","rules":{"completions":2,"lanes":1,"backoffLimit":6}}"#,
            r#"{"at":2000,"what":"run","number":1,"revision":1}"#,
            r#"{"at":3000,"what":"start","run":1,"lane":0,"instance":"i-1","slot":0}"#,
            r#"{"at":4000,"what":"end","run":1,"instance":"i-1","succeeded":true,"text":"job: Error, exit code 3"}"#,
        ]
    );
    let strange = ["", "{", r#"{"at":1,"what":"moved"}"#, "[]"];
    let mixed = lines.iter().rev().map(String::as_str).chain(strange);
    assert_eq!(Record::read(mixed), story.record());
}

#[test]
fn numbers_that_cannot_be_are_no_events() {
    let good = r#"{"at":1000,"what":"run","number":1,"revision":1}"#;
    assert!(JobEvent::read(good, None).is_some() && JobEvent::read(good, Some(1)).is_some());
    for strange in [
        r#"{"at":1000,"what":"run","number":0,"revision":1}"#,
        r#"{"at":1000,"what":"run","number":4294967295,"revision":1}"#,
        r#"{"at":1000,"what":"rules","rules":{"lanes":4294967295,"backoffLimit":6}}"#,
        r#"{"at":1000,"what":"rules","rules":{"lanes":1,"completions":4294967295,"backoffLimit":6}}"#,
        r#"{"at":1000,"what":"start","run":1,"lane":20,"instance":"a"}"#,
        r#"{"at":1000,"what":"start","run":1,"lane":0,"instance":"a","slot":4294967295}"#,
    ] {
        assert_eq!(JobEvent::read(strange, None), None, "{strange}");
    }
    // A time far ahead would have all that follows come after it.
    let ahead = format!(r#"{{"at":{},"what":"left","run":1,"instance":"a"}}"#, u64::MAX);
    assert_eq!(JobEvent::read(&ahead, Some(1_700_000_000_000)), None);
    let story = Story::new(rules(Some(1), 1, 6));
    let story = story.then(What::Run { number: 9, revision: 1, scheduled: false });
    assert_eq!(story.record().runs.len(), 1, "no number is left out");
    assert_eq!(Record { newest: u64::MAX, ..Record::default() }.next_time(1), u64::MAX);
}

#[test]
fn a_run_that_its_deadline_ended_stays_so_when_the_rules_change() {
    let limited = Rules { deadline: Some(10), scheduled: true, ..rules(Some(1), 1, 6) };
    let mut story = Story::new(limited.clone()).start(0, "a", Some(0));
    let longer = Rules { deadline: Some(1000), ..limited.clone() };
    story.0.push(JobEvent { at: 13_000, what: What::Rules { rules: longer.clone() } });
    assert_eq!(story.failed(), limited.deadline_reason());
    // In time they hold for it, from then on.
    let mut story = Story::new(limited).start(0, "a", Some(0));
    story.0.push(JobEvent { at: 11_000, what: What::Rules { rules: longer } });
    assert_eq!(story.verdict(), Verdict::Active);
}

#[test]
fn a_machine_in_place_of_a_lost_one_is_not_due_by_the_schedule() {
    let hourly = Rules { scheduled: true, gap: Some(3600), ..rules(Some(1), 1, 6) };
    let story = Story(vec![]).then(What::Rules { rules: hourly.clone() });
    assert!(story.record().is_due(2_000), "the first is");
    let run = |number, scheduled| What::Run { number, revision: 1, scheduled };
    let story = story.then(run(1, true));
    let began = 2_000;
    assert!(!story.record().is_due(began + 60_000));
    assert!(!story.record().is_due(began + 1_799_999) && story.record().is_due(began + 1_800_000));
    // One that was started by hand says nothing about the schedule.
    let story = story.then(run(2, false));
    assert!(story.record().is_due(began + 1_800_000));
    let often = Rules { gap: Some(60), ..hourly.clone() };
    let story = Story(vec![]).then(What::Rules { rules: often }).then(run(1, true));
    assert!(!story.record().is_due(began + 29_000) && story.record().is_due(began + 30_000));
    let unknown = Rules { gap: None, ..hourly };
    assert!(Story(vec![]).then(What::Rules { rules: unknown }).then(run(1, true)).record().is_due(began));
}

#[test]
fn a_machine_finds_its_run_whatever_became_of_it() {
    let story = Story::new(rules(Some(2), 1, 6)).start(0, "a", Some(0)).end("a", true);
    let found = |story: &Story, instance: &str| story.record().begun_by(instance).map(|run| run.number);
    assert_eq!((found(&story, "a"), found(&story, "b")), (Some(1), None));
    // A success that was told is none the less one when the machine starts again and says that it did.
    let story = story.end("a", false);
    let run = story.record().runs[0].clone();
    assert_eq!((run.succeeded, run.failures, run.has_begun()), (1, 0, true));
    assert!(!Story::new(rules(Some(2), 1, 6)).record().runs[0].has_begun());
}

#[test]
fn a_lost_machine_of_a_work_queue_is_out_of_the_way_once_its_successor_says_so() {
    let story = Story::new(rules(None, 2, 6)).start(0, "a", None).start(1, "b", None).end("a", true);
    // Lane 1 has another machine, which finds nothing to do.
    assert_eq!((story.record().work(1, 0), story.verdict()), (Work::Nothing, Verdict::Active));
    let story = story.then(What::Left { run: 1, instance: "b".into() });
    assert_eq!(story.verdict(), Verdict::Succeeded);
}
