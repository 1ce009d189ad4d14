//! The life of a pod: sidecars, hooks, the order of the end.

use i2kit_spec::RestartPolicy::{Never, OnFailure};
use i2kit_spec::runtime::{Memory, Resources};
use i2kit_spec::{Seconds, VolumeBoot, VolumeKind};

use crate::manifest::{SHELL, pod_of};
use crate::pod::{Pod, mount};
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
fn an_init_container_is_tried_again_until_it_succeeds() {
    if !wanted() {
        return;
    }
    let data = "volumeMounts: [{name: data, mountPath: /data}]";
    let init = format!(
        "{{name: wait, image: busybox, {data}, command: [sh, -c, 'echo tried >> /data/tries; test $(wc -l < /data/tries) = 3']}}, \
         {{name: next, image: busybox, {data}, command: [sh, -c, 'echo next >> /data/tries']}}"
    );
    let spec = format!(
        "{{volumes: [{{name: data, emptyDir: {{}}}}], initContainers: [{init}], containers: [{{{SHELL}, {data}}}]}}"
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.says("wait: Error, exit code 1, to be started again in 0 s");
    vm.says("wait: Error, exit code 1, to be started again in 10 s");
    vm.wait_answer("/readyz", |answer| {
        answer.status == 503 && answer.body.contains("shell: PodInitializing\n")
    });
    vm.ready();
    assert_eq!(vm.shell("cat /data/tries"), "tried\ntried\ntried\nnext\n");
}

#[test]
fn a_pod_is_stopped_while_its_init_container_waits() {
    if !wanted() {
        return;
    }
    let pod = Pod::new().onboot("wait", "exit 1").service("web", "exec httpd -f -p 80");
    let mut vm = Vm::boot(&pod);
    vm.says("wait: Error, exit code 1, to be started again in 10 s");
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    assert!(!vm.console().contains("i2kit: web: "), "{}", vm.console());
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
    let probe = ", startupProbe: {periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 600, exec: {command: [cat, /up]}}";
    let spec = format!(
        "{{terminationGracePeriodSeconds: 120, initContainers: [{}, {}, {{name: setup, image: busybox, command: [echo, \
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
    let asked = "{name: asked, image: busybox, command: [sh, -c, \"trap '' TERM; (until grep -qs ':1B9E 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done; echo \
                 listens) & printf 'HTTP/1.1 200 OK\\r\\n\\r\\n' | nc -l \
                 -p 7070 | head -n 1; sleep 2\"]}";
    let spec = format!("{{terminationGracePeriodSeconds: 120, containers: [{web}, {asking}, {asked}]}}");
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.says("web | started\n");
    vm.says("asking | asks\n");
    vm.says("asked | listens\n");
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
fn a_hook_that_takes_too_long_leaves_a_moment_for_the_signal() {
    if !wanted() {
        return;
    }
    let container = |name: &str, hook: &str, more: &str| {
        format!(
            "{{name: {name}, image: busybox, command: [sh, -c, \"trap 'echo got TERM; exit 0' TERM; echo up; while :; do sleep 0.1; \
             done\"], lifecycle: {{preStop: {{{hook}}}}}{more}}}"
        )
    };
    // A probe that fails runs the hook too, before it ends the container.
    let probe = ", livenessProbe: {initialDelaySeconds: 4, periodSeconds: 1, failureThreshold: 1, exec: {command: ['false']}}";
    let spec = format!(
        "{{terminationGracePeriodSeconds: 3, containers: [{}, {}, {}]}}",
        container("slow", "exec: {command: [sleep, '1000']}", ""),
        container("pausing", "sleep: {seconds: 3}", ""),
        container("sick", "exec: {command: [sh, -c, 'echo leaving > /proc/1/fd/1']}", probe),
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.says("slow | up\n");
    vm.says("pausing | up\n");
    vm.says("i2kit: sick: Completed, exit code 0 (liveness probe failed: ");
    in_order(&vm.console(), &["sick | leaving\n", "sick | got TERM\n"]);
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    let console = vm.console();
    in_order(&console, &["i2kit: slow: preStop hook failed: the command took too long", "slow | got TERM\n"]);
    assert!(console.contains("pausing | got TERM\n"), "{console}");
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
    // What its programs leave in the file for it is told with the end, as one line: it forges none of ours.
    let mut words =
        job(Never, "printf 'last\\nwords\\ni2kit: end {}\\n' > /var/log/end/message; exit 4").user("web");
    words.boot.services[0].termination_message_path = Some("/var/log/end/message".into());
    let (failed, _) = end(&words);
    let told = "job: Error, exit code 4 (last words i2kit: end {})";
    assert_eq!((failed.succeeded, failed.to_string().as_str()), (false, told));
    // Started again until it succeeds.
    let mut shared = job(OnFailure, "test -e /data/tried || { touch /data/tried; exit 1; }")
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data", "rbind,rw,nodev")));
    let kind = VolumeKind::EmptyDir { size_limit: None, disk: None };
    shared.boot.volumes = vec![VolumeBoot { name: "data".into(), kind }];
    let (succeeded, console) = end(&shared);
    assert!(succeeded.succeeded, "{console}");
    assert!(console.contains("job: Error, exit code 1, to be started again in 0 s"), "{console}");
    let (failed, console) = end(&job(Never, "echo never").onboot("setup", "exit 3"));
    assert_eq!(
        failed.to_string(),
        "InitError: init container setup failed and is not started again",
        "{console}"
    );
    assert!(!console.contains("job | never"), "{console}");
    let greedy = job(Never, "head -c 20m /dev/zero | tail").with(|config| {
        let memory = Memory { limit: Some(8 << 20), reservation: None };
        config.linux.resources = Some(Resources { memory: Some(memory), ..Resources::default() });
    });
    assert_eq!(end(&greedy).0.to_string(), "job: OOMKilled, exit code 137");
    let mut late = job(Never, "sleep 1000");
    late.boot.active_deadline_seconds = Some(Seconds(10));
    let (end, console) = end(&late);
    assert_eq!(end.reason, "DeadlineExceeded", "{console}");
    assert!(console.contains("i2kit: job: Error, exit code 137 (killed by signal 9)"), "{console}");
}
