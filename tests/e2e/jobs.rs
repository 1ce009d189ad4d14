//! Machines that run to an end.

use std::time::{Duration, Instant};

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
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: twice}\nspec:\n  template:\n    spec:\n      \
               restartPolicy: OnFailure\n      containers:\n      - name: main\n        image: busybox:1.35\n        \
               command: [/bin/sh, -c, 'echo x >> /kept/runs; test $(wc -l < /kept/runs) = 3']\n        \
               volumeMounts: [{name: kept, mountPath: /kept}]\n      volumes: [{name: kept, emptyDir: {}}]\n";
    let world = World::new().file("pod.yaml", pod).file("job.yaml", job);
    world.i2kit(&["deploy", "job.yaml"]).run();
    let call =
        world.i2kit(&["status", "twice", "--output", "json"]).prints(r#""state": "Completed, exit code 0""#);
    call.prints(r#""restarts": 2"#).prints(r#""ready": false"#).run();
    let call = world.i2kit(&["deploy", "pod.yaml"]).code(8).says("BackoffLimitExceeded: 1 VMs failed");
    call.says("main: Error, exit code 4").run();
    let call = world.i2kit(&["status"]).prints("failed (0/1): BackoffLimitExceeded");
    call.prints("ended: main: Error, exit code 4").run();
    world.i2kit(&["status", "once", "--output", "json"]).prints(r#""state": "Error, exit code 4""#).run();
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}

#[test]
fn a_pod_that_is_ended_says_why() {
    if !machines() {
        return;
    }
    let job = |name: &str, container: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      \
             restartPolicy: Never\n      activeDeadlineSeconds: 600\n      terminationGracePeriodSeconds: 60\n      containers:\n      - name: main\n        image: \
             busybox:1.35\n{container}"
        )
    };
    let greedy = "        command: [/bin/sh, -c, 'head -c 40m /dev/zero | tail']\n        resources: {limits: {memory: 16Mi}}\n";
    let sick = "        command: [/bin/sh, -c, \"trap 'exit 3' TERM; while :; do sleep 0.1; done\"]\n        livenessProbe:\n          \
                initialDelaySeconds: 4\n          periodSeconds: 1\n          timeoutSeconds: 60\n          failureThreshold: 1\n          \
                exec: {command: [/bin/sh, -c, 'echo no pulse; exit 1']}\n";
    let late = "        command: [sleep, '1000']\n";
    let jobs = [
        (job("greedy", greedy), "main: OOMKilled, exit code 137"),
        (
            job("sick", sick),
            "main: Error, exit code 3 (liveness probe failed: the command ended with exit code 1: no pulse)",
        ),
        (
            job("late", late).replace("Seconds: 600", "Seconds: 3").replace("Seconds: 60", "Seconds: 2"),
            "DeadlineExceeded: the pod was active for longer than 3 s",
        ),
    ];
    let world = World::new();
    for (text, reason) in jobs {
        world.write("job.yaml", &text);
        world.i2kit(&["deploy", "job.yaml"]).code(8).says(reason).run();
        world.i2kit(&["status", "--output", "json"]).prints(reason).run();
        // A table has no room for the whole of it.
        let beginning: String = format!("ended: {reason}").chars().take(59).collect();
        world.i2kit(&["status"]).prints(&beginning).run();
        world.i2kit(&["destroy", "job.yaml"]).run();
    }
    world.assert_nothing_left();
}

/// A CronJob that is due every minute.
const NIGHTLY: &str = r#"apiVersion: batch/v1
kind: CronJob
metadata:
  name: nightly
spec:
  schedule: '* * * * *'
  timeZone: Europe/Berlin
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  jobTemplate:
    spec:
      backoffLimit: 2
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: report
              image: busybox:1.35
              command: [sh, -c, 'echo "report of $(date -u +%F)"']
              resources:
                limits: {memory: 32Mi}
"#;

/// An Indexed Job with rules about its failures.
const PARTS: &str = r#"apiVersion: batch/v1
kind: Job
metadata:
  name: parts
spec:
  completionMode: Indexed
  completions: 3
  parallelism: 2
  backoffLimitPerIndex: 1
  maxFailedIndexes: 1
  podFailurePolicy:
    rules:
      - action: FailJob
        onExitCodes: {containerName: part, operator: In, values: [42]}
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget}]
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: part
          image: busybox:1.35
          command: [sh, -c, 'echo "part $JOB_COMPLETION_INDEX on $(hostname)"']
          resources:
            limits: {memory: 32Mi}
"#;

#[test]
fn an_indexed_job_runs_each_index_and_a_cron_job_runs_by_its_schedule_and_by_hand() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write("cron.yaml", NIGHTLY);
    world.write("parts.yaml", PARTS);
    world.i2kit(&["deploy", "cron.yaml"]).run();
    assert!(world.group("nightly").runs.is_empty(), "a deployment runs nothing");
    // Its first time comes while the other Job runs.
    world.i2kit(&["deploy", "parts.yaml"]).run();
    world.i2kit(&["status", "parts"]).prints("completed (3/3)").prints("3/3 (0-2)").run();
    let said = world.i2kit(&["logs", "parts"]).run().stdout;
    for index in 0..3 {
        assert!(said.contains(&format!("| part {index} on parts-{index}\n")), "{said}");
    }
    world.i2kit(&["run", "cronjob/nightly"]).run();
    let started = Instant::now();
    let by_schedule =
        || world.group("nightly").runs.into_iter().find(|run| run.scheduled.is_some() && run.completed == 1);
    let run = loop {
        if let Some(run) = by_schedule() {
            break run;
        }
        assert!(started.elapsed() < Duration::from_mins(10), "{:?}", world.group("nightly").runs);
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(
        run.scheduled.unwrap().is_multiple_of(60) && run.started - run.scheduled.unwrap() < 60,
        "{run:?}"
    );
    world.i2kit(&["logs", "nightly"]).prints("| report of 20").run();
    world.i2kit(&["history", "nightly"]).prints("completed").run();
    world.i2kit(&["events", "nightly"]).prints("RunStarted").prints("by the schedule").run();
    world.i2kit(&["run", "parts", "--wait=false"]).run();
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}
