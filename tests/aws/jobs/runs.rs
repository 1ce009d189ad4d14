//! Jobs and Pods that end: their success, their failure, their deadline, and what is left of them.

use std::collections::BTreeSet;

use i2kit::cloud::aws::plan::calls;
use i2kit::plan::fleet::RefreshStatus;
use serde_json::json;

use super::{ahead, behave, groups, job, records, scheduled};
use crate::harness::Bed;
use crate::rollout::{assert_nothing_left, world};
use crate::support::{eventually, tools};

#[test]
fn an_indexed_job_runs_to_its_end_and_leaves_nothing() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let lines =
        ["completions: 5", "parallelism: 2", "completionMode: Indexed", "activeDeadlineSeconds: 86400"];
    let world = world(&bed).file("job.yaml", &job("sum", &lines));
    // The machine of index 3 fails once, one is lost without a word, and one starts again in place.
    behave(&bed, &json!({"default/sum": {"codes": {"3": [7]}, "lost": 1, "again": 1}}));
    bed.journal();
    world.i2kit(&["deploy", "job.yaml"]).run();
    let found = world.group("sum");
    let run = found.runs.last().unwrap();
    assert_eq!((run.status, run.completed, run.failed), (RefreshStatus::Successful, 5, 3), "{found:#?}");
    assert_eq!(run.completed_indexes.to_string(), "0-4");
    world.i2kit(&["status", "sum"]).prints("completed (5/5)").run();
    world.i2kit(&["wait", "sum"]).run();
    let lines = world.i2kit(&["logs", "sum"]).prints("slot 4 of run 1").run().stdout;
    assert!(!lines.contains("backoffLimit"), "the record is no output: {lines}");
    world.i2kit(&["deploy", "job.yaml"]).prints("unchanged").run();
    assert_eq!(groups(&bed).len(), 2, "a group a lane");
    // Its machines end themselves after they said how they ended.
    eventually("lanes at rest", || groups(&bed).iter().all(|group| group.contains(" 0 1 0 ")).then_some(()));
    let untagged = bed.call("GET", "/moto-api/i2kit/untagged", "");
    assert_eq!(serde_json::from_str::<Vec<String>>(&untagged).unwrap(), Vec::<String>::new());

    // Once more, by hand.
    world.i2kit(&["run", "sum"]).run();
    assert_eq!(world.group("sum").runs.last().unwrap().number, 2);
    assert_eq!(records(&bed).len(), 1, "that of the run before went with it: {:?}", records(&bed));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert!(scheduled(&bed).is_empty(), "{:?}", scheduled(&bed));
    let journal: BTreeSet<String> = bed.journal().into_iter().collect();
    let unknown: Vec<_> =
        journal.iter().filter(|call| !call.contains("/moto-api/") && calls::action(call).is_none()).collect();
    assert!(unknown.is_empty(), "cloud::aws::plan::calls lacks {unknown:?}");
    for call in [
        "CreateLogStream",
        "CreateOrUpdateTags",
        "DeleteLogStream",
        "DescribeLogStreams",
        "PutLogEvents",
        "PutScheduledUpdateGroupAction",
    ] {
        assert!(journal.contains(call), "{journal:?}");
    }
}

#[test]
fn a_job_that_fails_too_often_has_failed_for_whoever_asks() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let lines = ["completions: 3", "parallelism: 3", "backoffLimit: 1"];
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: once}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    \
               image: busybox:1.35\n    args: [echo, done]\n";
    let world = world(&bed).file("job.yaml", &job("sum", &lines)).file("pod.yaml", pod);
    behave(
        &bed,
        &json!({
            "default/sum": {"codes": {"0": [3, 3, 3, 3]}, "seconds": 0.5},
            "default/once": {"codes": [4]},
        }),
    );
    let deploy = world.i2kit(&["deploy", "job.yaml"]).code(8).says("BackoffLimitExceeded: 2 VMs failed");
    deploy.says("main: Error, exit code 3").run();
    for _ in 0..2 {
        world.i2kit(&["wait", "sum"]).code(8).says("BackoffLimitExceeded").run();
    }
    world.i2kit(&["status"]).prints("BackoffLimitExceeded").run();
    eventually("no machine of a job that failed", || {
        groups(&bed).iter().all(|group| group.contains(" 0 1 0 ")).then_some(())
    });
    world.i2kit(&["deploy", "pod.yaml"]).code(8).says("main: Error, exit code 4").run();
    // What failed is run again by the next deployment.
    behave(&bed, &json!({"default/sum": {}, "default/once": {}}));
    world.i2kit(&["deploy", "job.yaml"]).run();
    world.i2kit(&["deploy", "pod.yaml"]).run();
    world.i2kit(&["wait"]).run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_deadline_holds_for_a_machine_that_hangs() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let lines = ["completions: 2", "parallelism: 2", "activeDeadlineSeconds: 3600"];
    let world = world(&bed).file("job.yaml", &job("sum", &lines));
    behave(&bed, &json!({"default/sum": {"hang": true}}));
    world.i2kit(&["deploy", "--wait=false", "job.yaml"]).run();
    eventually("both machines to work", || (world.group("sum").runs.last()?.active == 2).then_some(()));
    ahead(&bed, 3700);
    // Asked at once, and asked again.
    for _ in 0..2 {
        world.i2kit(&["wait", "sum"]).code(8).says("DeadlineExceeded").run();
    }
    eventually("no machine", || world.group("sum").instances.is_empty().then_some(()));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn machines_that_never_begin_are_not_replaced_for_ever() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("job.yaml", &job("sum", &["completions: 2", "parallelism: 2"]));
    behave(&bed, &json!({"default/sum": {"silent": true}}));
    world.i2kit(&["deploy", "--wait=false", "job.yaml"]).run();
    assert_eq!(scheduled(&bed).len(), 2, "{:?}", scheduled(&bed));
    ahead(&bed, 3700);
    world.i2kit(&["wait", "sum"]).code(8).says("NotBegun").run();
    assert!(groups(&bed).iter().all(|group| group.contains(" 0 0 0 ")), "{:?}", groups(&bed));
    // With what they need they run. Those that began are ended by nothing that was put for those that do not.
    ahead(&bed, 0);
    behave(&bed, &json!({"default/sum": {"hang": true}}));
    world.i2kit(&["deploy", "--wait=false", "job.yaml"]).run();
    eventually("both machines to work", || (world.group("sum").runs.last()?.active == 2).then_some(()));
    assert!(scheduled(&bed).is_empty(), "{:?}", scheduled(&bed));
    behave(&bed, &json!({"default/sum": {}}));
    world.i2kit(&["wait", "sum"]).run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_work_queue_whose_machine_is_lost_has_succeeded() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("job.yaml", &job("sum", &["parallelism: 2"]));
    // One of both is lost while the other goes on to its success.
    behave(&bed, &json!({"default/sum": {"lost": 1}}));
    world.i2kit(&["deploy", "job.yaml"]).run();
    let run = world.group("sum").runs.last().unwrap().clone();
    assert_eq!(run.status, RefreshStatus::Successful, "{run:#?}");
    assert_eq!(run.completions, None);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_job_rests_goes_on_and_is_removed_by_its_age() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    // Lines of records are shown late, as everything that is looked for.
    bed.call("POST", "/moto-api/i2kit/lag", "1");
    let with = |suspend: bool| {
        let rests = format!("suspend: {suspend}");
        job("sum", &["completions: 4", "parallelism: 2", "ttlSecondsAfterFinished: 1", &rests])
    };
    let world = world(&bed).file("job.yaml", &with(false));
    behave(&bed, &json!({"default/sum": {"hang": true}}));
    world.i2kit(&["deploy", "--wait=false", "job.yaml"]).run();
    eventually("both machines to work", || (world.group("sum").runs.last()?.active == 2).then_some(()));
    world.write("job.yaml", &with(true));
    world.i2kit(&["deploy", "job.yaml"]).run();
    assert!(world.group("sum").instances.is_empty());
    // What was stopped did not fail.
    behave(&bed, &json!({"default/sum": {}}));
    world.write("job.yaml", &with(false));
    world.i2kit(&["deploy", "job.yaml"]).run();
    let run = world.group("sum").runs.last().unwrap().clone();
    assert_eq!((run.number, run.completed, run.failed), (1, 4, 0));

    eventually("the job to be shown no more", || world.fleet().groups.is_empty().then_some(()));
    assert!(!groups(&bed).is_empty());
    world.i2kit(&["gc"]).prints("job default/sum").run();
    assert!(groups(&bed).is_empty(), "{:?}", groups(&bed));
    // As in a cluster it is another one then.
    world.i2kit(&["deploy", "job.yaml"]).run();
    assert!(world.group("sum").is_settled_at(1));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn what_aws_cannot_have_of_jobs_is_refused_before_anything_is_made() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let many = job("sum", &["completions: 60", "parallelism: 21"]);
    let world = world(&bed).file("many.yaml", &many);
    world.write("restarts.yaml", &job("sum", &[]).replace("Never", "OnFailure"));
    bed.journal();
    world.i2kit(&["deploy", "many.yaml"]).code(3).says("21 machines at a time are more than 20").run();
    world.i2kit(&["deploy", "restarts.yaml"]).code(3).says("`restartPolicy: Never`").run();
    let made: Vec<String> = bed.journal().into_iter().filter(|call| call.starts_with("Create")).collect();
    assert!(made.is_empty(), "{made:?}");
}
