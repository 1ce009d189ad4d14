//! Jobs and CronJobs on the fake cloud.

use std::collections::{BTreeMap, BTreeSet};

use i2kit_spec::Seconds;
use proptest::prelude::*;

use crate::cloud::engine::environment::{GroupRecord, MachineFacts};
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::reconcile;
use crate::cloud::sim::{Behaviour, Sim, World};
use crate::manifest::api::{
    Concurrency, CronRules, FailureAction, FailureMatch, FailureRule, JobRules, Name, Schedule,
    Strategy as Rollout, SuccessRule,
};
use crate::oci::Digest;
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::example;
use crate::plan::fleet::{GroupSettings, InstanceState, RefreshStatus};
use crate::plan::image::ImageId;

const MINUTE: u64 = 60_000;

fn web() -> Name {
    Name { namespace: "default".into(), name: "web".into() }
}

fn image(number: u32) -> ImageId {
    ImageId(Digest::of(&number.to_le_bytes()))
}

fn group(world: &World) -> &GroupRecord {
    &world.environment.groups[&web()]
}

fn running(world: &World) -> Vec<u32> {
    let vms = group(world).instances.values().filter(|vm| vm.state == InstanceState::Running);
    vms.map(|vm| vm.revision).collect()
}

/// Indexes of the machines that run.
fn indexes(world: &World) -> Vec<u32> {
    let vms = group(world).instances.values().filter(|vm| vm.state == InstanceState::Running);
    let mut indexes: Vec<u32> = vms.filter_map(|vm| vm.run?.index).collect();
    indexes.sort_unstable();
    indexes
}

/// A world with a job of one revision that behaves like this.
fn job(rules: JobRules, behaviour: Behaviour) -> Sim {
    scheduled(rules, None, behaviour)
}

/// The same, run by a schedule.
fn scheduled(rules: JobRules, schedule: Option<CronRules>, behaviour: Behaviour) -> Sim {
    let sim = Sim::default();
    {
        let mut world = sim.world();
        let parallelism = rules.parallelism;
        let settings = GroupSettings { job: Some(rules), schedule, ..settings_of_a_job() };
        world.environment.put_group(&web(), &settings).unwrap();
        world.behaviours.insert(image(1), behaviour);
        world.environment.images.insert(image(1));
        let launch = example::launch(image(1));
        let revision = NewRevision { number: 1, launch, cause: "test".into() };
        world.environment.put_revision(&web(), &revision, Moment::default()).unwrap();
        world.environment.start_refresh(&web(), 1, parallelism, Moment::default()).unwrap();
    }
    sim
}

fn settings_of_a_job() -> GroupSettings {
    example::settings(Rollout::Recreate)
}

/// Three must succeed, two at a time, and one may fail.
fn three() -> JobRules {
    JobRules { completions: Some(3), parallelism: 2, ..JobRules::once(1) }
}

/// The newest run.
fn run(world: &World) -> &reconcile::Run {
    group(world).memory.runs.last().unwrap()
}

#[test]
fn a_job_runs_until_enough_machines_succeeded() {
    let sim = job(three(), Behaviour::Succeeds(4000));
    let mut world = sim.world();
    let mut most = 0;
    for _ in 0..30 {
        world.pass(1);
        most = most.max(running(&world).len());
    }
    assert_eq!(most, 2, "no more at a time than it says");
    assert_eq!((run(&world).status, run(&world).completed), (RefreshStatus::Successful, 3));
    assert!(running(&world).is_empty(), "a machine that ended well is not replaced");
    let fleet = world.environment.fleet("sim", &|_| MachineFacts::default(), &|_| Vec::new(), world.moment());
    assert!(fleet.group(&web()).unwrap().is_settled_at(1));
}

#[test]
fn a_job_fails_when_too_many_machines_do_or_when_it_is_late() {
    let sim = job(three(), Behaviour::Ends(2000));
    let mut world = sim.world();
    world.pass(60);
    assert_eq!(run(&world).status, RefreshStatus::Failed);
    let reason = run(&world).reason.clone().unwrap();
    assert!(reason.starts_with("BackoffLimitExceeded: 2 VMs failed"), "{reason}");
    assert!(running(&world).is_empty());
    // A guest that says it cannot go on is as good as ended.
    let sim = job(three(), Behaviour::Lost);
    let mut world = sim.world();
    world.pass(60);
    assert_eq!((run(&world).status, running(&world)), (RefreshStatus::Failed, vec![]));
    let late = JobRules { active_deadline_seconds: Some(Seconds(5)), ..three() };
    let sim = job(late, Behaviour::Ready(1000));
    let mut world = sim.world();
    world.pass(10);
    assert_eq!(run(&world).status, RefreshStatus::Failed);
    world.pass(100);
    assert!(group(&world).instances.values().all(|vm| vm.state == InstanceState::Ended));
}

#[test]
fn every_run_of_a_job_is_remembered_for_a_while() {
    let sim = job(three(), Behaviour::Succeeds(1000));
    let mut world = sim.world();
    let last = u32::try_from(reconcile::RUNS_KEPT).unwrap() + 2;
    for number in 1..=last {
        let now = world.moment();
        world.environment.start_refresh(&web(), 1, 2, now).unwrap();
        assert_eq!(run(&world).number, number, "the one under way is adopted");
        world.pass(20);
        assert_eq!((run(&world).status, run(&world).completed), (RefreshStatus::Successful, 3));
        let now = world.moment();
        world.environment.start_refresh(&web(), 1, 2, now).unwrap();
    }
    assert_eq!(group(&world).memory.runs.len(), reconcile::RUNS_KEPT);
    let fleet = world.environment.fleet("sim", &|_| MachineFacts::default(), &|_| Vec::new(), world.moment());
    let web = fleet.group(&web()).unwrap();
    assert_eq!(web.runs.last().unwrap().number, last + 1);
    assert!(!web.is_settled_at(1), "the newest one is under way");
}

#[test]
fn an_indexed_job_runs_each_index_until_it_succeeds_once() {
    let rules = JobRules { indexed: true, completions: Some(4), parallelism: 2, ..JobRules::once(3) };
    let sim = job(rules, Behaviour::Succeeds(4000));
    let mut world = sim.world();
    world.pass(2);
    assert_eq!(indexes(&world), [0, 1]);
    let killed = group(&world).instances.keys().next().unwrap().clone();
    let lost = group(&world).instances[&killed].run.unwrap().index.unwrap();
    world.kill(&killed);
    world.pass(5);
    assert!(!run(&world).completed_indexes.contains(lost));
    world.pass(40);
    assert_eq!(
        (run(&world).status, run(&world).completed, run(&world).failures),
        (RefreshStatus::Successful, 4, 1)
    );
    assert_eq!(run(&world).completed_indexes.to_string(), "0-3");
}

#[test]
fn failures_are_counted_by_index_where_the_job_asks_for_it() {
    let rules = JobRules {
        indexed: true,
        completions: Some(3),
        parallelism: 3,
        backoff_limit_per_index: Some(1),
        ..JobRules::once(1000)
    };
    let sim = job(rules.clone(), Behaviour::Fails(1000, 1));
    let mut world = sim.world();
    world.pass(4);
    assert!(run(&world).status.is_active() && run(&world).failed_indexes.is_empty(), "each may fail once");
    world.pass(30);
    assert_eq!(run(&world).status, RefreshStatus::Failed);
    let reason = run(&world).reason.clone().unwrap();
    assert!(reason.starts_with("FailedIndexes: indexes 0-2 failed"), "{reason}");
    let sim = job(JobRules { max_failed_indexes: Some(0), ..rules }, Behaviour::Fails(1000, 1));
    let mut world = sim.world();
    world.pass(30);
    let reason = run(&world).reason.clone().unwrap();
    assert!(reason.starts_with("MaxFailedIndexesExceeded: indexes 0"), "{reason}");
}

#[test]
fn the_first_rule_that_matches_a_failure_decides() {
    let codes = |action, is_in, values: &[i32]| FailureRule {
        action,
        on: FailureMatch::ExitCodes { container: Some("web".into()), is_in, values: values.to_vec() },
    };
    let rules = JobRules {
        failure_rules: vec![
            codes(FailureAction::FailJob, true, &[42]),
            FailureRule { action: FailureAction::Ignore, on: FailureMatch::Disruption },
        ],
        replace_failed_only: true,
        ..JobRules::once(2)
    };
    let sim = job(rules.clone(), Behaviour::Fails(1000, 42));
    let mut world = sim.world();
    world.pass(3);
    assert_eq!((run(&world).status, run(&world).failures), (RefreshStatus::Failed, 1));
    let reason = run(&world).reason.clone().unwrap();
    let expected =
        "PodFailurePolicy: container web failed with exit code 42, which rule 0 (FailJob) matches: web-1-1";
    assert_eq!(reason, expected);
    // Another code counts.
    let sim = job(rules.clone(), Behaviour::Fails(1000, 1));
    let mut world = sim.world();
    world.pass(60);
    let reason = run(&world).reason.clone().unwrap();
    assert!(reason.starts_with("BackoffLimitExceeded: 3 VMs failed"), "{reason}");
    // A machine that ends before its pod is a disruption.
    let sim = job(rules, Behaviour::Ends(1000));
    let mut world = sim.world();
    world.pass(120);
    assert!(run(&world).status.is_active());
    assert_eq!(run(&world).failures, 0);
}

#[test]
fn a_job_is_done_once_a_rule_of_its_success_policy_is_met() {
    let rule = SuccessRule { indexes: Some("0,2".parse().unwrap()), count: None };
    let rules = JobRules {
        indexed: true,
        completions: Some(5),
        parallelism: 1,
        success_rules: vec![rule],
        ..JobRules::once(0)
    };
    let sim = job(rules, Behaviour::Succeeds(1000));
    let mut world = sim.world();
    world.pass(20);
    assert_eq!(run(&world).status, RefreshStatus::Successful);
    assert_eq!(run(&world).completed_indexes.to_string(), "0-2");
}

#[test]
fn a_job_without_completions_is_done_when_one_succeeded_and_all_have_ended() {
    let sim =
        job(JobRules { completions: None, parallelism: 3, ..JobRules::once(5) }, Behaviour::Succeeds(5000));
    let mut world = sim.world();
    world.pass(2);
    assert_eq!(running(&world).len(), 3);
    let mut started = BTreeSet::new();
    for _ in 0..20 {
        world.pass(1);
        started.extend(group(&world).instances.keys().cloned());
    }
    assert_eq!((run(&world).status, run(&world).completed, started.len()), (RefreshStatus::Successful, 3, 3));
}

#[test]
fn a_suspended_job_stops_its_machines_and_goes_on_when_it_is_resumed() {
    let rules = JobRules { active_deadline_seconds: Some(Seconds(30)), ..three() };
    let sim = job(rules.clone(), Behaviour::Succeeds(8000));
    let mut world = sim.world();
    world.pass(3);
    let suspended =
        GroupSettings { job: Some(JobRules { suspend: true, ..rules.clone() }), ..settings_of_a_job() };
    world.environment.put_group(&web(), &suspended).unwrap();
    world.pass(100);
    assert!(running(&world).is_empty());
    assert!(run(&world).status.is_active(), "its deadline does not pass meanwhile");
    assert_eq!((run(&world).completed, run(&world).failures), (0, 0));
    let fleet = world.environment.fleet("sim", &|_| MachineFacts::default(), &|_| Vec::new(), world.moment());
    assert!(fleet.group(&web()).unwrap().is_settled_at(1), "nobody waits for a job that rests");
    let resumed = GroupSettings { job: Some(rules), ..settings_of_a_job() };
    world.environment.put_group(&web(), &resumed).unwrap();
    world.pass(25);
    assert_eq!(run(&world).status, RefreshStatus::Successful);
}

#[test]
fn a_job_is_removed_some_time_after_its_end() {
    let rules = JobRules { ttl_seconds_after_finished: Some(Seconds(10)), ..three() };
    let sim = job(rules, Behaviour::Succeeds(1000));
    let mut world = sim.world();
    world.pass(12);
    assert_eq!(run(&world).status, RefreshStatus::Successful);
    world.pass(15);
    assert!(world.environment.groups.is_empty());
}

fn every(text: &str, concurrency: Concurrency) -> CronRules {
    CronRules {
        schedule: Schedule::parse(text, "Etc/UTC").unwrap(),
        concurrency,
        suspend: false,
        starting_deadline_seconds: None,
        successful_history: 2,
        failed_history: 1,
    }
}

#[test]
fn a_schedule_starts_runs_and_keeps_the_newest_of_them_with_their_machines() {
    let sim =
        scheduled(JobRules::once(0), Some(every("* * * * *", Concurrency::Allow)), Behaviour::Succeeds(4000));
    let mut world = sim.world();
    world.pass(59);
    assert!(group(&world).memory.runs.is_empty(), "a deployment runs nothing");
    world.pass(1);
    assert_eq!((run(&world).number, run(&world).scheduled), (1, Some(MINUTE)));
    world.pass(5 * 60);
    let numbers: Vec<u32> = group(&world).memory.runs.iter().map(|run| run.number).collect();
    assert_eq!(numbers, [4, 5, 6], "two that succeeded, and the one under way");
    world.pass(30);
    let runs: BTreeSet<u32> =
        group(&world).instances.values().filter_map(|vm| Some(vm.run?.number)).collect();
    assert_eq!(runs.into_iter().collect::<Vec<_>>(), [5, 6], "machines are kept with their runs");
    let fleet = world.environment.fleet("sim", &|_| MachineFacts::default(), &|_| Vec::new(), world.moment());
    let web = fleet.group(&web()).unwrap();
    let times = web.schedule.as_ref().unwrap();
    assert_eq!((times.last, times.next, &times.notice), (Some(360), Some(420), &None));
    assert!(web.refresh.is_none() && web.is_settled_at(1));
}

#[test]
fn a_run_by_hand_goes_beside_the_schedule_and_a_new_revision_is_that_of_the_next_run() {
    let sim = scheduled(
        JobRules::once(0),
        Some(every("0 * * * *", Concurrency::Forbid)),
        Behaviour::Succeeds(9000),
    );
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_run(&web(), 1, now).unwrap();
    world.environment.start_run(&web(), 1, now).unwrap();
    world.pass(2);
    assert_eq!(running(&world), [1, 1], "the policy is about the schedule");
    world.environment.images.insert(image(2));
    let revision = NewRevision { number: 2, launch: example::launch(image(2)), cause: "test".into() };
    world.environment.put_revision(&web(), &revision, now).unwrap();
    world.environment.start_refresh(&web(), 2, 1, now).unwrap();
    world.pass(2);
    assert_eq!(running(&world), [1, 1], "what runs goes on as it is");
    assert!(world.environment.delete_revisions(&web(), &[1]).is_err(), "it is used");
    world.environment.start_run(&web(), 2, now).unwrap();
    world.pass(1);
    assert_eq!(running(&world), [1, 1, 2]);
    assert!(world.environment.start_run(&web(), 3, now).is_err());
}

#[test]
fn replace_stops_the_run_under_way_and_forbid_lets_the_next_one_wait() {
    let sim = scheduled(
        JobRules::once(0),
        Some(every("* * * * *", Concurrency::Replace)),
        Behaviour::Succeeds(90_000),
    );
    let mut world = sim.world();
    world.pass(61);
    let first = run(&world).number;
    world.pass(60);
    assert_eq!((run(&world).number, running(&world).len()), (first + 1, 1));
    world.pass(10);
    assert!(group(&world).memory.runs.iter().all(|run| run.number != first), "it is gone, as in Kubernetes");
    let sim = scheduled(
        JobRules::once(0),
        Some(every("* * * * *", Concurrency::Forbid)),
        Behaviour::Succeeds(90_000),
    );
    let mut world = sim.world();
    world.pass(130);
    assert_eq!((run(&world).number, running(&world).len()), (1, 1));
    let notice = group(&world).memory.schedule.clone().unwrap().noticed.unwrap();
    assert_eq!((notice.0, notice.1.reason.as_str()), (2 * MINUTE, "JobAlreadyActive"));
    world.pass(30);
    assert_eq!((run(&world).number, run(&world).scheduled), (2, Some(2 * MINUTE)), "it is made up for");
}

#[test]
fn a_clock_that_was_set_runs_no_time_twice() {
    let sim = scheduled(
        JobRules::once(0),
        Some(every("*/10 * * * *", Concurrency::Allow)),
        Behaviour::Succeeds(1000),
    );
    let mut world = sim.world();
    world.pass(15 * 60);
    assert_eq!(run(&world).scheduled, Some(10 * MINUTE));
    world.ahead = 3 * 60 * i64::try_from(MINUTE).unwrap();
    world.pass(1);
    assert_eq!(
        (run(&world).number, run(&world).scheduled),
        (2, Some(190 * MINUTE)),
        "one for all that passed"
    );
    world.ahead = 0;
    world.pass(170 * 60);
    assert_eq!(run(&world).number, 2, "nothing until the clock is there again");
    world.pass(20 * 60);
    assert_eq!((run(&world).number, run(&world).scheduled), (3, Some(200 * MINUTE)));
}

#[test]
fn restarts_of_containers_count_where_the_pod_says_on_failure() {
    let rules = |limit| JobRules { restarts_containers: true, ..JobRules::once(limit) };
    for (limit, restarts) in [(0, 1), (1, 1), (3, 3)] {
        let sim = job(rules(limit), Behaviour::Restarts(5000));
        let mut world = sim.world();
        world.pass(3 + 5 * (restarts - 1));
        assert!(run(&world).status.is_active(), "{limit}: {:?}", run(&world));
        world.pass(30);
        assert_eq!(run(&world).status, RefreshStatus::Failed);
        let expected =
            format!("BackoffLimitExceeded: containers were started again {restarts} times: web-1-1");
        assert_eq!(run(&world).reason.as_deref(), Some(expected.as_str()));
        let states: Vec<_> = group(&world).instances.values().map(|vm| vm.state).collect();
        assert_eq!(states, [InstanceState::Ended], "it is kept with its output");
    }
    // A Pod alone has its containers started again for as long as it takes.
    let sim = job(JobRules::once(0), Behaviour::Restarts(1000));
    let mut world = sim.world();
    world.pass(100);
    assert!(run(&world).status.is_active());
}

#[test]
fn the_policy_of_a_schedule_is_not_about_runs_by_hand() {
    for concurrency in [Concurrency::Forbid, Concurrency::Replace] {
        let sim =
            scheduled(JobRules::once(0), Some(every("* * * * *", concurrency)), Behaviour::Succeeds(90_000));
        let mut world = sim.world();
        world.pass(50);
        let now = world.moment();
        world.environment.start_run(&web(), 1, now).unwrap();
        world.pass(15);
        let active: Vec<_> =
            group(&world).memory.runs.iter().map(|run| (run.number, run.scheduled)).collect();
        assert_eq!(active, [(1, None), (2, Some(MINUTE))], "{concurrency:?}");
        assert!(group(&world).memory.runs.iter().all(|run| run.status.is_active()), "{concurrency:?}");
    }
}

#[test]
fn new_rules_of_a_cron_job_are_those_of_its_next_run() {
    let hourly = || Some(every("0 * * * *", Concurrency::Allow));
    let sim = scheduled(JobRules::once(0), hourly(), Behaviour::Succeeds(60_000));
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_run(&web(), 1, now).unwrap();
    world.pass(2);
    let strict = JobRules { active_deadline_seconds: Some(Seconds(5)), ..JobRules::once(0) };
    let settings = GroupSettings { job: Some(strict), schedule: hourly(), ..settings_of_a_job() };
    world.environment.put_group(&web(), &settings).unwrap();
    world.pass(20);
    assert!(run(&world).status.is_active(), "{:?}", run(&world));
    let now = world.moment();
    world.environment.start_run(&web(), 1, now).unwrap();
    world.pass(20);
    assert_eq!((run(&world).number, run(&world).status), (2, RefreshStatus::Failed));
}

#[test]
fn a_deployment_keeps_a_job_that_is_too_old_for_its_next_run() {
    let sim = job(three(), Behaviour::Succeeds(1000));
    let mut world = sim.world();
    world.pass(20);
    let rules = JobRules { ttl_seconds_after_finished: Some(Seconds(0)), ..three() };
    let settings = GroupSettings { job: Some(rules), ..settings_of_a_job() };
    let act = Act::PutGroup { group: web(), settings };
    let planned = PlannedAct { act, generation: world.environment.generation(), by: "test".into() };
    let now = world.moment();
    world.environment.apply(&planned, now, String::new).unwrap();
    world.pass(10);
    let now = world.moment();
    world.environment.start_refresh(&web(), 1, 2, now).unwrap();
    while run(&world).status.is_active() {
        world.pass(1);
    }
    assert_eq!((run(&world).number, run(&world).status), (2, RefreshStatus::Successful));
    world.pass(5);
    assert!(world.environment.groups.is_empty(), "from then on its age counts");
}

#[test]
fn a_run_of_a_cron_job_deploys_nothing() {
    let sim =
        scheduled(JobRules::once(0), Some(every("0 * * * *", Concurrency::Allow)), Behaviour::Succeeds(9000));
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_run(&web(), 1, now).unwrap();
    let before = group(&world).revision(1).unwrap().deployed;
    world.pass(30);
    assert_eq!(run(&world).status, RefreshStatus::Successful);
    assert_eq!(group(&world).revision(1).unwrap().deployed, before, "a rollback goes by deployments");
}

#[test]
fn runs_of_a_group_share_the_machines_that_it_may_have() {
    let rules = JobRules { completions: Some(700), parallelism: 700, ..JobRules::once(0) };
    let sim = scheduled(rules, Some(every("0 * * * *", Concurrency::Allow)), Behaviour::Succeeds(10_000_000));
    let mut world = sim.world();
    for _ in 0..2 {
        let now = world.moment();
        world.environment.start_run(&web(), 1, now).unwrap();
    }
    world.pass(60);
    assert_eq!(running(&world).len(), usize::try_from(reconcile::MAX_MEMBERS).unwrap());
}

#[test]
fn a_cron_job_that_becomes_a_job_ends_its_runs_and_forgets_its_schedule() {
    let sim = scheduled(
        JobRules::once(0),
        Some(every("* * * * *", Concurrency::Allow)),
        Behaviour::Succeeds(90_000),
    );
    let mut world = sim.world();
    world.pass(61);
    assert!(run(&world).status.is_active() && group(&world).memory.schedule.is_some());
    let settings = GroupSettings { job: Some(JobRules::once(0)), ..settings_of_a_job() };
    world.environment.put_group(&web(), &settings).unwrap();
    world.environment.images.insert(image(2));
    let revision = NewRevision { number: 2, launch: example::launch(image(2)), cause: "test".into() };
    let now = world.moment();
    world.environment.put_revision(&web(), &revision, now).unwrap();
    world.environment.start_refresh(&web(), 2, 1, now).unwrap();
    world.pass(2);
    let memory = &group(&world).memory;
    assert_eq!(memory.schedule, None);
    let runs: Vec<_> = memory.runs.iter().map(|run| (run.revision, run.status)).collect();
    assert_eq!(runs, [(1, RefreshStatus::Cancelled), (2, RefreshStatus::InProgress)]);
    assert_eq!(running(&world), [2]);
}

#[test]
fn the_machine_that_a_rule_failed_the_run_for_is_the_one_to_blame() {
    let on = FailureMatch::ExitCodes { container: None, is_in: true, values: vec![42] };
    let rules = JobRules {
        completions: Some(2),
        parallelism: 2,
        failure_rules: vec![FailureRule { action: FailureAction::FailJob, on }],
        ..JobRules::once(5)
    };
    let sim = job(rules, Behaviour::Fails(1000, 42));
    let mut world = sim.world();
    world.pass(10);
    let reason = run(&world).reason.clone().unwrap();
    assert!(reason.ends_with("(FailJob) matches: web-1-1"), "{reason}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a Job asks for and however its machines end: it comes to an end, no index runs twice at a time, never more
    /// machines run than it says, and what succeeded is what it says.
    #[test]
    fn every_job_ends(
        completions in 1_u32..6,
        parallelism in 1_u32..4,
        indexed in any::<bool>(),
        per_index in prop::option::of(0_u32..2),
        limit in 0_u32..4,
        behaviour in prop_oneof![
            (0_u64..9000).prop_map(Behaviour::Succeeds),
            (0_u64..9000, 1_i32..3).prop_map(|(after, code)| Behaviour::Fails(after, code)),
            Just(Behaviour::Lost),
        ],
        kills in prop::collection::vec(0_u64..60, 0..4),
    ) {
        let rules = JobRules {
            completions: Some(completions),
            parallelism,
            indexed,
            backoff_limit_per_index: per_index.filter(|_| indexed),
            ..JobRules::once(limit)
        };
        let sim = job(rules, behaviour);
        let mut world = sim.world();
        for second in 0..2000 {
            world.pass(1);
            let vms: Vec<_> = group(&world).instances.values().filter(|vm| vm.state == InstanceState::Running).collect();
            prop_assert!(vms.len() <= usize::try_from(parallelism).unwrap());
            let mut held: BTreeMap<u32, u32> = BTreeMap::new();
            for index in vms.iter().filter_map(|vm| vm.run.unwrap().index) {
                *held.entry(index).or_default() += 1;
            }
            prop_assert!(held.values().all(|count| *count == 1), "{:?}", held);
            prop_assert_eq!(vms.iter().all(|vm| vm.run.unwrap().index.is_some()), indexed || vms.is_empty());
            if kills.contains(&second) && let Some(id) = group(&world).instances.keys().next().cloned() {
                world.kill(&id);
            }
            if !run(&world).status.is_active() {
                break;
            }
        }
        let ended = run(&world).clone();
        prop_assert!(!ended.status.is_active(), "{:?}", ended);
        prop_assert!(ended.finished.is_some());
        if ended.status == RefreshStatus::Successful {
            prop_assert_eq!(ended.completed, completions);
            prop_assert_eq!(ended.completed_indexes.len(), if indexed { completions } else { 0 });
        }
        world.pass(60);
        prop_assert!(running(&world).is_empty());
    }
}
