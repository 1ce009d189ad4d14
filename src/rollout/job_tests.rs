//! Deployments and runs of Jobs and CronJobs on the fake cloud.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use i2kit_spec::Seconds;

use super::tests::{desired, group, image, materials, name, on_runtime};
use super::watch::{Goal, until_run_ended, until_settled};
use super::{RolloutError, RolloutOptions, RunRecord, execute};
use crate::cloud::Cloud as _;
use crate::cloud::sim::{Behaviour, Sim};
use crate::manifest::api::{Concurrency, CronRules, JobRules, Schedule};
use crate::plan::act::Act;
use crate::plan::fleet::GroupSettings;
use crate::plan::rollout::{GroupSpec, RolloutPlan, Step, rollout, run, wait};
use crate::report::{Event, Events};

/// Far more than any of these takes; one that hangs fails.
const LIMIT: Duration = Duration::from_secs(20);

const PATIENCE: Duration = Duration::from_secs(1);

fn job(name: &str, version: u32, rules: JobRules) -> GroupSpec {
    let spec = group(name, rules.parallelism, version);
    GroupSpec { settings: GroupSettings { job: Some(rules), ..spec.settings.clone() }, ..spec }
}

fn cron_job(name: &str, version: u32, rules: JobRules) -> GroupSpec {
    let spec = job(name, version, rules);
    let schedule = CronRules {
        schedule: Schedule::parse("0 0 1 1 *", "Etc/UTC").unwrap(),
        concurrency: Concurrency::Allow,
        suspend: false,
        starting_deadline_seconds: None,
        successful_history: 3,
        failed_history: 1,
    };
    GroupSpec { settings: GroupSettings { schedule: Some(schedule), ..spec.settings.clone() }, ..spec }
}

async fn carry_out(plan: &RolloutPlan, sim: &Sim, events: &Events) -> Result<(), RolloutError> {
    let (images, options, record) = (materials(), RolloutOptions::default(), RunRecord::default());
    let ended = execute(plan, &images, sim, events, &options, &record);
    tokio::time::timeout(LIMIT, ended).await.expect("the plan comes to its end").map(drop)
}

async fn plan(groups: Vec<GroupSpec>, sim: &Sim) -> RolloutPlan {
    rollout(&desired(groups), &sim.observe().await.unwrap())
}

async fn deploy(groups: Vec<GroupSpec>, sim: &Sim) -> Result<(), RolloutError> {
    carry_out(&plan(groups, sim).await, sim, &Events::none()).await
}

/// Applies acts, one after the other, before time passes.
async fn apply(acts: Vec<Act>, sim: &Sim) {
    let generation = sim.observe().await.unwrap().generation;
    let steps = acts.into_iter().map(Step::from).collect();
    let plan = RolloutPlan { generation, steps, ..RolloutPlan::default() };
    carry_out(&plan, sim, &Events::none()).await.unwrap();
}

/// Events that keep the notes among them.
fn notes() -> (Events, Arc<Mutex<Vec<String>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&notes);
    let events = Events::new(move |event| {
        if let Event::Note { message } = event {
            sink.lock().unwrap().push(message);
        }
    });
    (events, notes)
}

#[test]
fn a_run_whose_record_is_gone_is_not_waited_for() {
    on_runtime(async {
        let sim = Sim::default();
        deploy(vec![cron_job("web", 1, JobRules::once(0))], &sim).await.unwrap();
        let (web, events) = (name("web"), Events::none());
        let ended = until_run_ended(&web, 0, PATIENCE, &sim, &events);
        let ended = tokio::time::timeout(LIMIT, ended).await.expect("an end");
        assert!(matches!(&ended, Err(RolloutError::RunRemoved { group }) if *group == web), "{ended:?}");
    });
}

#[test]
fn a_run_by_hand_is_waited_for_and_no_later_one() {
    on_runtime(async {
        let sim = Sim::default();
        for version in [1, 2] {
            deploy(vec![cron_job("web", version, JobRules::once(0))], &sim).await.unwrap();
        }
        let web = name("web");
        {
            let mut world = sim.world();
            world.behaviours.insert(image(1), Behaviour::Succeeds(9000));
            world.behaviours.insert(image(2), Behaviour::Fails(1000, 1));
        }
        let start = |revision| Act::StartRun { group: web.clone(), revision };
        apply(vec![start(1), start(2)], &sim).await;
        let events = Events::none();
        let ended = until_run_ended(&web, 0, PATIENCE, &sim, &events);
        tokio::time::timeout(LIMIT, ended).await.expect("an end").unwrap();
    });
}

#[test]
fn a_run_that_rests_is_noted_and_not_waited_for() {
    on_runtime(async {
        for rules in [
            JobRules { suspend: true, ..JobRules::once(0) },
            JobRules { parallelism: 0, completions: None, ..JobRules::once(0) },
        ] {
            let sim = Sim::default();
            deploy(vec![cron_job("web", 1, rules.clone())], &sim).await.unwrap();
            let fleet = sim.observe().await.unwrap();
            let (events, notes) = notes();
            carry_out(&run(&fleet, &name("web")).unwrap(), &sim, &events).await.unwrap();
            let notes = notes.lock().unwrap().clone();
            assert!(notes.iter().any(|note| note.contains("run 1 of web rests")), "{notes:?}");
            // A deployment of the Job does not wait either.
            deploy(vec![job("other", 1, rules)], &sim).await.unwrap();
        }
    });
}

#[test]
fn a_wait_for_a_job_that_failed_ends_with_its_reason() {
    on_runtime(async {
        let sim = Sim::default();
        sim.world().behaviours.insert(image(1), Behaviour::Fails(1000, 3));
        let failed = deploy(vec![job("web", 1, JobRules::once(0))], &sim).await;
        assert!(matches!(failed, Err(RolloutError::Failed { .. })), "{failed:?}");
        let waits = wait(&sim.observe().await.unwrap(), &[name("web")]);
        assert!(!waits.is_empty());
        let ended = carry_out(&waits, &sim, &Events::none()).await;
        assert!(
            matches!(&ended, Err(RolloutError::Failed { reason, .. }) if reason.starts_with("BackoffLimitExceeded")),
            "{ended:?}"
        );
    });
}

#[test]
fn a_job_whose_newest_run_is_of_another_revision_or_was_cancelled_is_run_again() {
    on_runtime(async {
        let sim = Sim::default();
        sim.world().behaviours.insert(image(1), Behaviour::Succeeds(1000));
        sim.world().behaviours.insert(image(2), Behaviour::Fails(1000, 3));
        let first = || vec![job("web", 1, JobRules::once(0))];
        deploy(first(), &sim).await.unwrap();
        deploy(vec![job("web", 2, JobRules::once(0))], &sim).await.unwrap_err();
        deploy(first(), &sim).await.unwrap();
        assert!(plan(first(), &sim).await.is_empty());
        let start = Act::StartRun { group: name("web"), revision: 1 };
        apply(vec![start, Act::CancelRefresh { group: name("web"), to: 1 }], &sim).await;
        let again = plan(first(), &sim).await;
        let starts = |step: &Step| matches!(step.act(), Some(Act::StartRefresh { to: 1, .. }));
        assert!(again.steps.iter().any(starts), "{again}");
        carry_out(&again, &sim, &Events::none()).await.unwrap();
    });
}

#[test]
fn a_cron_job_that_becomes_a_job_of_the_same_image_is_run() {
    on_runtime(async {
        let sim = Sim::default();
        sim.world().behaviours.insert(image(1), Behaviour::Succeeds(1000));
        deploy(vec![cron_job("web", 1, JobRules::once(0))], &sim).await.unwrap();
        deploy(vec![job("web", 1, JobRules::once(0))], &sim).await.unwrap();
        assert!(sim.observe().await.unwrap().group(&name("web")).unwrap().is_settled_at(1));
    });
}

#[test]
fn a_job_that_is_removed_by_its_age_is_waited_for_first_and_is_no_error_once_gone() {
    on_runtime(async {
        let sim = Sim::default();
        sim.world().behaviours.insert(image(1), Behaviour::Succeeds(1000));
        sim.world().behaviours.insert(image(2), Behaviour::Ready(40_000));
        let rules = JobRules { ttl_seconds_after_finished: Some(Seconds(0)), ..JobRules::once(0) };
        let groups = || vec![group("api", 1, 2), job("web", 1, rules.clone())];
        let both = plan(groups(), &sim).await;
        let waits = both.steps.iter().filter_map(|step| match step {
            Step::Await { group, expires, .. } => Some((group.name.as_str(), *expires)),
            _ => None,
        });
        assert_eq!(waits.collect::<Vec<_>>(), [("web", true), ("api", false)]);
        carry_out(&both, &sim, &Events::none()).await.unwrap();
        let (web, (events, notes)) = (name("web"), notes());
        let mut goal = Goal {
            group: &web,
            revision: 1,
            replicas: 1,
            deadline: PATIENCE,
            patience: PATIENCE,
            started_here: true,
            expires: true,
        };
        assert!(sim.observe().await.unwrap().group(&web).is_none());
        until_settled(&goal, &sim, &events).await.unwrap();
        assert!(notes.lock().unwrap()[0].contains("ttlSecondsAfterFinished"));
        goal.expires = false;
        let ended = until_settled(&goal, &sim, &events).await;
        assert!(matches!(ended, Err(RolloutError::Deleted { .. })));
    });
}
