//! The program is killed after every call that starts a Job, or lets one go on that rests: run again, it starts it once, and leaves
//! no group or machine without a Job.

use super::job;
use crate::crash::{census, deploy_and_kill};
use crate::harness::Bed;
use crate::rollout::{assert_nothing_left, world};
use crate::support::{eventually, tools};

/// A machine tells its end before it leaves.
fn no_machine(bed: &Bed, when: &str) {
    eventually(&format!("end of all machines, {when}"), || {
        (!census(bed).contains_key("instance")).then_some(())
    });
}

/// The calls that start a Job, but for those that every revision takes, which `crash` kills the program after.
const STARTS: [&str; 7] = [
    "DeleteAutoScalingGroup",
    "DeleteLogStream",
    "CreateLogStream",
    "PutLogEvents",
    "CreateAutoScalingGroup",
    "PutScheduledUpdateGroupAction",
    "CreateOrUpdateTags",
];

/// The calls that let a Job go on.
const GOES_ON: [&str; 5] = [
    "DeleteScheduledAction",
    "PutLogEvents",
    "CreateAutoScalingGroup",
    "PutScheduledUpdateGroupAction",
    "UpdateAutoScalingGroup",
];

/// Each kill is of another revision of one Job.
#[test]
fn killed_after_any_call_that_starts_a_job_the_next_run_makes_it_good() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let manifest = |number: u32| {
        let lines = ["completions: 2", "parallelism: 2", "activeDeadlineSeconds: 3600"];
        job("web", &lines).replace("done", &format!("\"{number}\""))
    };
    let world = world(&bed).file("web.yaml", &manifest(0));
    world.i2kit(&["deploy", "web.yaml"]).run();
    bed.journal();
    world.write("web.yaml", &manifest(1));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let journal = bed.journal();
    let moments: Vec<usize> =
        (0..journal.len()).filter(|index| STARTS.contains(&journal[*index].as_str())).collect();
    assert!(moments.len() > 5, "{journal:?}");
    let mut killed = 0;
    for (number, moment) in (2..).zip(&moments) {
        world.write("web.yaml", &manifest(number));
        killed += usize::from(deploy_and_kill(&bed, &world, *moment));
        world.i2kit(&["deploy", "web.yaml"]).run();
        let (found, call) = (world.group("web"), &journal[*moment]);
        let run = found.runs.last().unwrap();
        assert!(found.is_settled_at(run.revision), "killed after call {moment}, {call}: {found:#?}");
        assert_eq!(run.completed, 2, "killed after call {moment}, {call}");
        no_machine(&bed, &format!("killed after call {moment}, {call}"));
        let held = census(&bed);
        assert_eq!(held.get("group"), Some(&2), "killed after call {moment}, {call}: {held:?}");
    }
    assert!(killed * 2 > moments.len(), "only {killed} of {} calls were the last ones", moments.len());
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

/// Each kill is of another revision of one Job, which rests at first.
#[test]
fn killed_after_any_call_that_lets_a_job_go_on_the_next_run_makes_it_good() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let manifest = |number: usize, suspend: bool| {
        let rests = format!("suspend: {suspend}");
        let lines = ["completions: 2", "parallelism: 2", "activeDeadlineSeconds: 3600", &rests];
        job("web", &lines).replace("done", &format!("\"{number}\""))
    };
    let world = world(&bed).file("web.yaml", &manifest(0, true));
    world.i2kit(&["deploy", "web.yaml"]).run();
    bed.journal();
    world.write("web.yaml", &manifest(0, false));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let journal = bed.journal();
    let moments: Vec<usize> =
        (0..journal.len()).filter(|index| GOES_ON.contains(&journal[*index].as_str())).collect();
    assert!(moments.len() > 4, "{journal:?}");
    let mut killed = 0;
    for (number, moment) in (1..).zip(&moments) {
        world.write("web.yaml", &manifest(number, true));
        world.i2kit(&["deploy", "web.yaml"]).run();
        world.write("web.yaml", &manifest(number, false));
        killed += usize::from(deploy_and_kill(&bed, &world, *moment));
        world.i2kit(&["deploy", "web.yaml"]).run();
        let (found, call) = (world.group("web"), &journal[*moment]);
        let run = found.runs.last().unwrap();
        assert!(found.is_settled_at(run.revision), "killed after call {moment}, {call}: {found:#?}");
        assert_eq!((run.completed, run.failed), (2, 0), "killed after call {moment}, {call}");
        no_machine(&bed, &format!("killed after call {moment}, {call}"));
    }
    assert!(killed * 2 > moments.len(), "only {killed} of {} calls were the last ones", moments.len());
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
