//! CronJobs: Auto Scaling starts their runs, by a clock that the test sets.

use i2kit::plan::fleet::RefreshStatus;
use serde_json::json;

use super::{ahead, behave, groups, scheduled};
use crate::harness::Bed;
use crate::rollout::{assert_nothing_left, world};
use crate::support::{World, eventually, tools};

const HOUR: u64 = 3600;

fn cron(lines: &[&str], text: &str) -> String {
    let lines = lines.iter().fold(String::new(), |all, line| all + "  " + line + "\n");
    format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: sum}}\nspec:\n  schedule: \"0 * * * *\"\n  \
         timeZone: Europe/Berlin\n{lines}  jobTemplate:\n    spec:\n      backoffLimit: 0\n      template:\n        spec:\n          \
         restartPolicy: Never\n          containers:\n            - name: main\n              image: busybox:1.35\n              \
         args: [echo, {text}]\n"
    )
}

/// Waits until the newest run has this number and status.
fn wait_for_run(world: &World, number: u32, status: RefreshStatus) {
    eventually(&format!("run {number} to be {status}"), || {
        let found = world.group("sum").runs.pop()?;
        ((found.number, found.status) == (number, status)).then_some(())
    });
}

/// A machine tells its end before it leaves, and a time of the schedule that comes in between is left out.
fn no_machine(world: &World) {
    eventually("no machine", || world.group("sum").instances.is_empty().then_some(()));
}

#[test]
fn a_schedule_starts_runs_and_never_two_at_once() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("cron.yaml", &cron(&["concurrencyPolicy: Forbid"], "one"));
    world.i2kit(&["deploy", "cron.yaml"]).run();
    let found = world.group("sum");
    assert!(found.is_settled_at(1) && found.runs.is_empty() && found.schedule.unwrap().next.is_some());
    let actions = scheduled(&bed);
    assert!(actions.contains(&"i2kit-test_default_sum i2kit-schedule 0 * * * * 1".to_owned()), "{actions:?}");
    assert!(
        actions.len() == 2 && actions.iter().any(|action| action.contains(" i2kit-deadline ")),
        "{actions:?}"
    );
    world.i2kit(&["deploy", "cron.yaml"]).prints("unchanged").run();

    ahead(&bed, HOUR);
    wait_for_run(&world, 1, RefreshStatus::Successful);
    assert!(world.group("sum").runs[0].scheduled.is_some_and(|time| time % HOUR == 0));
    behave(&bed, &json!({"default/sum": {"codes": [5]}}));
    no_machine(&world);
    ahead(&bed, 2 * HOUR);
    wait_for_run(&world, 2, RefreshStatus::Failed);
    let reason = world.group("sum").runs.pop().unwrap().reason.unwrap();
    assert!(reason.contains("main: Error, exit code 5"), "{reason}");

    // A run that goes on is not joined by another one, neither by the schedule nor by hand.
    behave(&bed, &json!({"default/sum": {"hang": true}}));
    no_machine(&world);
    ahead(&bed, 3 * HOUR);
    wait_for_run(&world, 3, RefreshStatus::InProgress);
    ahead(&bed, 4 * HOUR);
    world.i2kit(&["run", "sum"]).code(7).says("do not go on side by side").run();
    let found = world.group("sum");
    assert_eq!((found.runs.last().unwrap().number, found.instances.len()), (3, 1));
    behave(&bed, &json!({"default/sum": {}}));
    // Its machine is still there when it has just succeeded, and a run by hand waits until it is gone.
    wait_for_run(&world, 3, RefreshStatus::Successful);
    world.i2kit(&["run", "sum"]).run();
    assert_eq!(world.group("sum").runs.last().unwrap().number, 4);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert!(scheduled(&bed).is_empty());
}

#[test]
fn a_cron_job_rests_changes_and_becomes_a_job() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("cron.yaml", &cron(&["suspend: true"], "one"));
    world.i2kit(&["deploy", "cron.yaml"]).run();
    assert!(scheduled(&bed).is_empty(), "{:?}", scheduled(&bed));
    world.write("cron.yaml", &cron(&[], "two"));
    world.i2kit(&["deploy", "cron.yaml"]).run();
    assert!(world.group("sum").is_settled_at(2));
    ahead(&bed, HOUR);
    wait_for_run(&world, 1, RefreshStatus::Successful);
    assert_eq!(world.group("sum").runs[0].revision, 2);
    world.write("cron.yaml", &cron(&["concurrencyPolicy: Replace"], "two"));
    world.i2kit(&["deploy", "cron.yaml"]).code(3).says("not deployable on AWS").run();

    no_machine(&world);
    // What is put ahead by this machine's clock lies ahead in that of the model.
    ahead(&bed, 0);
    world.write("cron.yaml", &super::job("sum", &[]));
    world.i2kit(&["deploy", "cron.yaml"]).run();
    let found = world.group("sum");
    assert!(found.settings.schedule.is_none() && found.runs.last().unwrap().completed == 1);
    assert!(scheduled(&bed).is_empty() && groups(&bed).len() == 1, "{:?}", groups(&bed));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_schedule_s_machine_that_never_begins_is_not_replaced_for_ever() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("cron.yaml", &cron(&[], "one"));
    world.i2kit(&["deploy", "cron.yaml"]).run();
    ahead(&bed, HOUR);
    wait_for_run(&world, 1, RefreshStatus::Successful);
    no_machine(&world);
    behave(&bed, &json!({"default/sum": {"silent": true}}));
    ahead(&bed, 2 * HOUR);
    eventually("a machine of the schedule", || groups(&bed)[0].contains(" 0 1 1 ").then_some(()));
    ahead(&bed, 3 * HOUR + 120);
    eventually("an end of machines that do not begin", || groups(&bed)[0].contains(" 0 0 0 ").then_some(()));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
