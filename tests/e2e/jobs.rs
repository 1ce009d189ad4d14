//! Machines that run to an end.

use crate::support::{World, machines, root};

#[test]
fn a_job_runs_to_its_end_and_its_end_is_seen() {
    if !machines() {
        return;
    }
    let world = World::new();
    let manifest = &root().join("manifests/job.yaml").display().to_string();
    world.i2kit(&["deploy", manifest]).run();
    let call = world.i2kit(&["status", "report"]).prints("completed (2/2)").prints("ended: Completed");
    call.prints("report").run();
    world.i2kit(&["logs", "report"]).prints("report of report-1-").run();
    world.i2kit(&["deploy", manifest]).prints("unchanged").run();
    world.i2kit(&["destroy", manifest]).run();
    world.assert_nothing_left();
}

#[test]
fn a_pod_that_fails_says_why() {
    if !machines() {
        return;
    }
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: once}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    \
               image: busybox:1.35\n    command: [/bin/sh, -c, 'echo giving up; exit 4']\n";
    let world = World::new().file("pod.yaml", pod);
    let call = world.i2kit(&["deploy", "pod.yaml"]).code(8).says("BackoffLimitExceeded: 1 VMs failed");
    call.says("main: Error, exit code 4").run();
    let call = world.i2kit(&["status"]).prints("failed (0/1): BackoffLimitExceeded");
    call.prints("ended: main: Error, exit code 4").run();
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}
