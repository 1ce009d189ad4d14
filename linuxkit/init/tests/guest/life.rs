//! The life of a pod: sidecars, hooks, the order of the end.

use i2kit_spec::RestartPolicy::{Never, OnFailure};

use crate::manifest::pod_of;
use crate::pod::Pod;
use crate::vm::{Vm, wanted};

/// The texts appear on the console in this order.
fn in_order(console: &str, texts: &[&str]) {
    let mut position = 0;
    for text in texts {
        let found = console[position..].find(text);
        position += found.unwrap_or_else(|| panic!("no {text:?} after {position} in\n{console}"));
    }
}

#[test]
fn sidecars_start_in_order_and_stop_last() {
    if !wanted() {
        return;
    }
    // Each of them says goodbye; the first one is up only when its startup probe finds its file.
    let sidecar = |name: &str, start: &str, more: &str| {
        format!(
            "{{name: {name}, image: busybox, restartPolicy: Always, command: [sh, -c, \"trap 'echo bye; exit 0' TERM; \
             {start}; while :; do sleep 0.1; done\"]{more}}}"
        )
    };
    let probe = ", startupProbe: {periodSeconds: 1, failureThreshold: 60, exec: {command: [cat, /up]}}";
    let spec = format!(
        "{{terminationGracePeriodSeconds: 20, initContainers: [{}, {}, {{name: setup, image: busybox, command: [echo, \
         setting up]}}], containers: [{{name: main, image: busybox, command: [sh, -c, \"trap 'sleep 1; \
         echo bye; exit 0' TERM; echo main is up; while :; do sleep 0.1; done\"]}}]}}",
        sidecar("first", "sleep 3; echo first is up; touch /up", probe),
        sidecar("second", "echo second is up", ""),
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.ready();
    // Ready is a container that runs; only one that has spoken has its trap.
    vm.says("main | main is up\n");
    vm.says("second | second is up\n");
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    in_order(
        &vm.console(),
        &[
            "first | first is up\n",
            "second | second is up\n",
            "setup | setting up\n",
            "main | main is up\n",
            "i2kit: stopping the pod",
            "main | bye\n",
            "i2kit: main: Completed, exit code 0\n",
            "i2kit: second: Completed, exit code 0\n",
            "i2kit: first: Completed, exit code 0\n",
            "i2kit: end {",
            "i2kit: power off\n",
        ],
    );
}

#[test]
fn hooks_run_after_the_start_and_before_the_end() {
    if !wanted() {
        return;
    }
    let web = "{name: web, image: busybox, command: [sh, -c, \"trap 'echo got TERM; exit 0' TERM; httpd -p 80 -h /www; \
               echo up; while :; do sleep 0.1; done\"], lifecycle: {postStart: {exec: {command: [sh, -c, 'echo started \
               > /proc/1/fd/1']}}, preStop: {exec: {command: [sh, -c, 'sleep 1; echo leaving > /proc/1/fd/1']}}}}";
    // The request is answered by the other container, which says so.
    let asking = "{name: asking, image: busybox, command: [sh, -c, \"trap 'echo TERM after asking; exit 0' TERM; echo asks; while \
                  :; do sleep 0.1; done\"], lifecycle: {postStart: {sleep: {seconds: 1}}, preStop: {httpGet: {port: 7070, path: \
                  /bye}}}}";
    let asked = "{name: asked, image: busybox, command: [sh, -c, \"trap '' TERM; printf 'HTTP/1.1 200 OK\\r\\n\\r\\n' | nc -l \
                 -p 7070 | head -n 1; sleep 2\"]}";
    let spec = format!("{{terminationGracePeriodSeconds: 20, containers: [{web}, {asking}, {asked}]}}");
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.says("web | started\n");
    vm.says("asking | asks\n");
    vm.ready();
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    let console = vm.console();
    in_order(&console, &["web | leaving\n", "web | got TERM\n"]);
    in_order(&console, &["asked | GET /bye HTTP/1.1\n", "asking | TERM after asking\n"]);
    assert!(!console.contains("hook failed"), "{console}");
}

#[test]
fn a_hook_that_fails_after_the_start_ends_the_container() {
    if !wanted() {
        return;
    }
    let spec = "{containers: [{name: web, image: busybox, command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.1; \
                done\"], lifecycle: {postStart: {exec: {command: [sh, -c, 'echo no such table; exit 3']}}}}]}";
    let mut vm = Vm::boot(&pod_of(spec, ""));
    let why = "postStart hook failed: the command ended with exit code 3: no such table";
    vm.says(&format!("i2kit: web: {why}\n"));
    vm.says(&format!("i2kit: web: Completed, exit code 0 ({why}), to be started again in 10 s"));
    assert!(
        vm.get("/readyz")
            .body
            .contains(&format!("web: CrashLoopBackOff, last: Completed, exit code 0 ({why})"))
    );
}

#[test]
fn a_pod_that_ends_says_how() {
    if !wanted() {
        return;
    }
    let job = |policy, script: &str| {
        let mut pod = Pod::new().service("job", script);
        pod.boot.restart_policy = policy;
        pod
    };
    let end = |pod: &Pod| {
        let mut vm = Vm::boot(pod);
        assert!(vm.ended().success());
        let console = vm.console();
        let line = console.lines().find_map(|line| line.strip_prefix("i2kit: end ").map(str::to_owned));
        let line = line.unwrap_or_else(|| panic!("no end in\n{console}"));
        (serde_json::from_str::<i2kit_spec::PodEnd>(&line).unwrap(), console)
    };
    let (failed, _) = end(&job(Never, "exit 4"));
    assert_eq!((failed.succeeded, failed.to_string().as_str()), (false, "job: Error, exit code 4"));
    // Started again until it succeeds.
    let shared = job(OnFailure, "test $(cut -d. -f1 /proc/uptime) -gt 12");
    let (succeeded, console) = end(&shared);
    assert!(succeeded.succeeded, "{console}");
    assert!(console.contains("job: Error, exit code 1, to be started again in 0 s"), "{console}");
    let mut late = job(Never, "sleep 1000");
    late.boot.active_deadline_seconds = Some(3);
    let (end, console) = end(&late);
    assert_eq!(end.reason, "DeadlineExceeded", "{console}");
    assert!(console.contains("i2kit: job: Error, exit code 137 (killed by signal 9)"), "{console}");
}
