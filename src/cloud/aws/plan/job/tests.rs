//! What AWS can have of Jobs, and what their records show.

use i2kit_spec::Seconds;
use i2kit_spec::job::{JobEvent, What};
use proptest::prelude::*;

use super::*;
use crate::cloud::aws::plan::cost::tests::launch;
use crate::manifest::api::{Name, Schedule, Strategy};
use crate::mutations::survive;
use crate::plan::example;

fn spec(job: JobRules) -> GroupSpec {
    let settings = GroupSettings { job: Some(job), ..example::settings(Strategy::Recreate) };
    let name = Name { namespace: "shop".into(), name: "sum".into() };
    GroupSpec { name, replicas: 1, launch: launch(), settings }
}

fn cron(schedule: &str, concurrency: Concurrency) -> CronRules {
    CronRules {
        schedule: Schedule::parse(schedule, "Europe/Berlin").unwrap(),
        concurrency,
        suspend: false,
        starting_deadline_seconds: None,
        successful_history: 1,
        failed_history: 1,
    }
}

#[test]
fn what_aws_cannot_have_is_said_with_what_to_do() {
    let said = |spec: &GroupSpec| refuse(spec).map_err(|error| error.to_string()).err().unwrap_or_default();
    assert_eq!(said(&spec(JobRules::once(6))), "");
    let many = |completions| spec(JobRules { parallelism: 21, completions, ..JobRules::once(6) });
    assert!(said(&many(None)).contains("shop/sum cannot run, since 21 machines"), "{}", said(&many(None)));
    assert_eq!(said(&many(Some(3))), "", "no more than three run at a time");
    let long = spec(JobRules { completions: Some(5001), ..JobRules::once(6) });
    assert!(said(&long).contains("5001 completions are more than 5000"), "{}", said(&long));
    let restarts = spec(JobRules { restarts_containers: true, ..JobRules::once(6) });
    assert!(said(&restarts).contains("`restartPolicy: Never`"));
    let mut role = spec(JobRules::once(6));
    let account = Name { namespace: "shop".into(), name: "reader".into() };
    role.launch.role = Some(MachineRole { account, role: Some("theirs".into()) });
    assert!(said(&role).contains("role theirs"), "{}", said(&role));

    let scheduled = |schedule: &str, concurrency| {
        let mut spec = spec(JobRules::once(6));
        spec.settings.schedule = Some(cron(schedule, concurrency));
        spec
    };
    assert_eq!(said(&scheduled("0 6 * * *", Concurrency::Forbid)), "");
    assert_eq!(said(&scheduled("0 6 * * *", Concurrency::Allow)), "");
    assert!(said(&scheduled("0 6 * * *", Concurrency::Replace)).contains("Forbid"));
    assert!(said(&scheduled("0 6 13 * 5", Concurrency::Forbid)).contains("0 6 13 * 5"));
    assert!(said(&scheduled("@every 90m", Concurrency::Forbid)).contains("five fields"));
    let mut two = scheduled("0 6 * * *", Concurrency::Forbid);
    two.settings.job = Some(JobRules { parallelism: 2, completions: Some(2), ..JobRules::once(6) });
    assert!(said(&two).contains("parallelism: 1"), "{}", said(&two));
}

#[test]
fn a_job_rests_without_lanes() {
    assert_eq!(rules(&JobRules { suspend: true, ..JobRules::once(6) }, None).lanes, 0);
    let job = JobRules { parallelism: 5, completions: Some(3), ..JobRules::once(6) };
    assert_eq!(rules(&job, None).lanes, 3);
}

#[test]
fn what_a_job_was_started_with_is_read_back() {
    let started = Started { number: 2, revision: 7, at: 1_700_000_000_000 };
    assert_eq!(started.to_string().parse(), Ok(started));
    survive(&[started.to_string().into_bytes()], 2_000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(found) = text.parse::<Started>() {
            assert_eq!(found.to_string().parse(), Ok(found));
        }
    });
}

/// Events, the first at second 1000 and one a second then.
fn record(rules: Rules, more: Vec<What>) -> Record {
    let first = [What::Rules { rules }, What::Run { number: 1, revision: 4, scheduled: false }];
    let all = first.into_iter().chain(more);
    Record::of((1000..).zip(all).map(|(second, what)| JobEvent { at: second * 1000, what }).collect())
}

fn start(slot: u32) -> What {
    What::Start { run: 1, lane: 0, instance: format!("i-{slot}"), slot: Some(slot) }
}

fn end(slot: u32, succeeded: bool) -> What {
    let text = if succeeded { "Completed" } else { "job: Error, exit code 3" }.to_owned();
    What::End { run: 1, instance: format!("i-{slot}"), succeeded, text }
}

#[test]
fn a_run_is_shown_as_the_local_cloud_shows_it() {
    let job = JobRules { indexed: true, completions: Some(2), ..JobRules::once(0) };
    let settings = spec(job.clone()).settings;
    let shown = |more: Vec<What>, lanes| {
        shown(&record(rules(&job, None), more), &settings, lanes, 1500).runs[0].clone()
    };
    let active = shown(vec![start(0)], Lanes::default());
    assert_eq!((active.status, active.active, active.ended), (RefreshStatus::InProgress, 1, None));
    let half = shown(vec![start(0), end(0, true)], Lanes::default());
    assert_eq!((half.completed, half.completed_indexes.to_string()), (1, "0".into()));
    let done = shown(vec![start(0), end(0, true), start(1), end(1, true)], Lanes::default());
    assert_eq!((done.status, done.ended), (RefreshStatus::Successful, Some(1005)));
    let failed = shown(vec![start(0), end(0, false)], Lanes::default());
    let reason = failed.reason.unwrap();
    assert!(reason.starts_with("BackoffLimitExceeded: 1 VMs failed"), "{reason}");
    assert!(reason.contains("i-0: job: Error, exit code 3"), "{reason}");
    // That nothing more starts is what AWS says, and a success before it stays one.
    let late = Lanes { is_late: true, is_idle: true };
    assert!(shown(vec![start(0)], late).reason.unwrap().starts_with("NotBegun"));
    let done = shown(vec![start(0), end(0, true), start(1), end(1, true)], late);
    assert_eq!(done.status, RefreshStatus::Successful);
}

#[test]
fn lanes_without_machines_tell_a_deadline_from_machines_that_never_began() {
    let late = Lanes { is_late: true, is_idle: true };
    let reason = |job: &JobRules, more: Vec<What>, now| {
        let found = shown(&record(rules(job, None), more), &spec(job.clone()).settings, late, now);
        (found.runs[0].status, found.runs[0].reason.clone().unwrap_or_default())
    };
    let limited = |seconds| JobRules { active_deadline_seconds: Some(Seconds(seconds)), ..JobRules::once(0) };
    for (job, more, now, wanted) in [
        (JobRules::once(0), vec![], 5000, "NotBegun"),
        (limited(86_400), vec![], 5000, "NotBegun"),
        (limited(600), vec![], 1700, "DeadlineExceeded"),
        // A machine of another lane did not come to begin.
        (limited(86_400), vec![start(0)], 5000, "NotBegun"),
        (limited(86_400), vec![start(0)], 87_500, "DeadlineExceeded"),
    ] {
        let (status, reason) = reason(&job, more, now);
        assert_eq!(status, RefreshStatus::Failed);
        assert!(reason.starts_with(wanted), "{reason}");
    }
    // An old deadline that came while the Job rests is none.
    let rests = JobRules { suspend: true, ..limited(600) };
    assert_eq!(reason(&rests, vec![], 1700), (RefreshStatus::InProgress, String::new()));
}

#[test]
fn a_work_queue_goes_on_for_as_long_as_a_machine_of_it_is_there() {
    let job = JobRules { completions: None, parallelism: 2, ..JobRules::once(0) };
    let queue = |lanes| {
        let start = What::Start { run: 1, lane: 0, instance: "i-0".into(), slot: None };
        let record = record(rules(&job, None), vec![start, end(0, true)]);
        shown(&record, &spec(job.clone()).settings, lanes, 1500).runs[0].status
    };
    // Another lane's machine may have begun, of which the record does not show it yet.
    assert_eq!(queue(Lanes::default()), RefreshStatus::InProgress);
    assert_eq!(queue(Lanes { is_late: false, is_idle: true }), RefreshStatus::Successful);
}

#[test]
fn a_cron_job_s_rules_name_its_shortest_gap() {
    let hourly = cron("0 * * * *", Concurrency::Forbid);
    assert_eq!(rules(&JobRules::once(0), Some(&hourly)).gap, Some(3600));
    assert_eq!(rules(&JobRules::once(0), None).gap, None);
}

#[test]
fn machines_that_are_gone_without_a_word_are_waited_for_for_a_while() {
    let job = JobRules::once(0);
    let record = record(rules(&job, None), vec![start(0)]);
    let idle = Lanes { is_late: false, is_idle: true };
    let status = |lanes, now| shown(&record, &spec(job.clone()).settings, lanes, now).runs[0].status;
    assert_eq!(status(idle, 1002 + LOST_SECONDS), RefreshStatus::InProgress);
    assert_eq!(status(idle, 1003 + LOST_SECONDS), RefreshStatus::Failed);
    assert_eq!(status(Lanes::default(), 1_000_000), RefreshStatus::InProgress);
}

#[test]
fn a_cron_job_shows_its_times_and_the_newest_runs() {
    let job = JobRules::once(0);
    let mut settings = spec(job.clone()).settings;
    settings.schedule = Some(cron("*/10 * * * *", Concurrency::Forbid));
    let mut events =
        vec![JobEvent { at: 0, what: What::Rules { rules: rules(&job, settings.schedule.as_ref()) } }];
    for number in 1..=3 {
        let at = u64::from(number) * 600_000 + 45_000;
        let instance = format!("i-{number}");
        events.push(JobEvent { at, what: What::Run { number, revision: 1, scheduled: true } });
        events.push(JobEvent {
            at: at + 1,
            what: What::Start { run: number, lane: 0, instance: instance.clone(), slot: Some(0) },
        });
        let text = "Completed".into();
        let what = What::End { run: number, instance, succeeded: number < 3, text };
        events.push(JobEvent { at: at + 2, what });
    }
    let found = shown(&Record::of(events), &settings, Lanes::default(), 1900);
    let numbers: Vec<(u32, Option<u64>)> = found.runs.iter().map(|run| (run.number, run.scheduled)).collect();
    assert_eq!(numbers, [(2, Some(1200)), (3, Some(1800))]);
    let times = found.schedule.unwrap();
    assert_eq!((times.last, times.next, found.refresh), (Some(1800), Some(2400), None));
    settings.schedule.as_mut().unwrap().suspend = true;
    assert_eq!(shown(&Record::default(), &settings, Lanes::default(), 0).schedule.unwrap().next, None);
}

#[test]
fn a_job_expires_some_time_after_its_end() {
    let job = JobRules { ttl_seconds_after_finished: Some(Seconds(100)), ..JobRules::once(0) };
    let settings = spec(job.clone()).settings;
    let found = |more| shown(&record(rules(&job, None), more), &settings, Lanes::default(), 1100).runs;
    let ended = found(vec![start(0), end(0, true)]);
    assert!(!is_expired(&settings, (&ended, true), 1102) && is_expired(&settings, (&ended, true), 1103));
    assert!(!is_expired(&settings, (&ended, false), 9999), "a machine of it is still there");
    assert!(!is_expired(&settings, (&found(vec![start(0)]), true), 9999));
    assert!(!is_expired(&spec(JobRules::once(0)).settings, (&ended, true), 9999));
}

#[test]
fn a_line_that_a_stranger_wrote_into_a_record_breaks_nothing() {
    let job = JobRules { indexed: true, completions: Some(3), parallelism: 2, ..JobRules::once(1) };
    let lines = [
        JobEvent { at: 1, what: What::Rules { rules: rules(&job, None) } },
        JobEvent { at: 2, what: What::Run { number: 1, revision: 1, scheduled: false } },
        JobEvent { at: 3, what: start(0) },
        JobEvent { at: 4, what: end(0, false) },
    ];
    let lines: Vec<String> = lines.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let settings = spec(job).settings;
    survive(&[lines.join("\n").into_bytes()], 5_000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let record = Record::read(text.lines());
        for lane in [0, 1, u32::MAX] {
            let work = record.work(lane, u64::MAX);
            let most = record.rules.as_ref().map_or(0, |rules| rules.lanes);
            assert!(most <= MOST_LANES && (lane < most || work == i2kit_spec::job::Work::Nothing));
        }
        let found = shown(&record, &settings, Lanes { is_late: false, is_idle: true }, u64::MAX);
        assert_eq!(found.runs.len(), record.runs.len());
        assert!(found.runs.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Lanes whose machines follow what the record says, whoever of them is next and however they end: no two of them work at
    /// one slot, a run ends, and it has succeeded just when every slot did.
    #[test]
    fn machines_that_follow_the_record_bring_every_run_to_an_end(
        completions in 1_u32..9,
        lanes in 1_u32..5,
        limit in 0_u32..6,
        order in prop::collection::vec((0_u32..5, 0_u8..5), 1..200),
    ) {
        let job = JobRules { completions: Some(completions), parallelism: lanes, ..JobRules::once(limit) };
        let rules = rules(&job, None);
        let mut record = Record::default();
        record.add(0, What::Rules { rules: rules.clone() });
        record.add(1, What::Run { number: 1, revision: 1, scheduled: false });
        let finish = (0..400).map(|step| (step % 5, 3));
        let (mut made, mut failures) = (0_u32, 0_u32);
        let mut gone = BTreeSet::new();
        for ((lane, end), at) in order.into_iter().chain(finish).zip(2..) {
            let lane = lane % rules.lanes;
            let working = record.runs[0].lanes.get(&lane).cloned();
            match working.filter(|_| !gone.contains(&lane)) {
                None => {
                    let i2kit_spec::job::Work::Slot(slot) = record.work(lane, at) else { continue };
                    let others = record.runs[0].lanes.iter().filter(|(other, _)| **other != lane);
                    prop_assert!(others.map(|(_, other)| other.slot).all(|other| other != slot));
                    made += 1;
                    failures += u32::from(gone.remove(&lane));
                    let instance = format!("i-{made}");
                    record.add(at, What::Start { run: 1, lane, instance, slot });
                    // One whose start was a failure too many for the one before runs nothing.
                    if record.verdict(&record.runs[0], at) != Verdict::Active {
                        gone.insert(lane);
                    }
                }
                Some(working) if end == 0 => {
                    record.add(at, What::Left { run: 1, instance: working.instance });
                }
                // It is gone without a word, and another one begins in its place.
                Some(_) if end == 4 => {
                    gone.insert(lane);
                }
                Some(working) => {
                    let succeeded = end > 1;
                    failures += u32::from(!succeeded);
                    let (instance, text) = (working.instance, String::new());
                    record.add(at, What::End { run: 1, instance, succeeded, text });
                }
            }
        }
        let run = &record.runs[0];
        let is_whole = (0..completions).all(|slot| run.completed.contains(&slot));
        match record.verdict(run, 1000) {
            Verdict::Active => prop_assert!(false, "it goes on: {run:?}"),
            Verdict::Succeeded => prop_assert!(is_whole),
            Verdict::Failed(_) => prop_assert!(!is_whole && failures > limit),
        }
    }
}
