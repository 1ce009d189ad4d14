//! Boots virtual machines and looks at the guest from outside and from inside its containers.
//!
//! A test talks to its machine through `vm` alone, and names no module of the guest.
//!
//! They run when `I2KIT_TEST_QEMU=1` is set, with the guest bundle that `scripts/guest` makes.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod aws;
mod control;
mod disk;
mod files;
mod formats;
mod identity;
mod isolation;
mod life;
mod manifest;
mod pod;
mod probes;
mod replace;
mod replicated;
mod runtime;
mod secure_boot;
mod verity;
mod vm;

use std::io::Write as _;
use std::time::Instant;

use i2kit::erofs::TreeFile;
use i2kit_spec::runtime::{Cpu, Memory, NamespaceKind, Pids, Resources, Rlimit};
use i2kit_spec::status::{PodPhase, PodStatus};
use i2kit_spec::{Probe, ProbeAction, RestartPolicy, Seccomp, Seconds};

use crate::pod::{Pod, mount};
use crate::vm::{PATIENCE, Vm, wanted};

/// What the guest says of itself.
fn status(vm: &mut Vm) -> PodStatus {
    let answer = vm.get("/status");
    assert!(answer.head.contains("Content-Type: application/json\r\n"), "{}", answer.head);
    serde_json::from_str(&answer.body).unwrap()
}

/// The number in a line of `/metrics`.
fn metric(page: &str, name: &str) -> f64 {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{page}"))
}

#[test]
fn a_pod_boots_in_phases_and_serves() {
    if !wanted() {
        return;
    }
    let pod = Pod::new()
        .onboot("first", "echo one; echo two >&2")
        .onboot("second", "printf 'no newline'")
        // Without a shell, which ignores signals of its own.
        .onboot("third", "")
        .with(|config| config.process.args = ["grep", "SigIgn", "/proc/self/status"].map(Into::into).into())
        .service("web", "exec httpd -f -p 80 -h /www")
        .shell();
    let mut vm = Vm::boot(&pod);
    vm.ready();
    let answer = vm.get("/readyz");
    assert_eq!(answer.body, "ok\n");
    assert!(answer.head.contains("X-I2kit-Boot-Id: "), "{}", answer.head);
    assert_eq!(vm.get("/livez").status, 200);
    assert_eq!(vm.get("/nothing").status, 404);
    let boot_id = vm.shell("cat /proc/sys/kernel/random/boot_id");
    assert_eq!(vm.get("/bootid").body, boot_id);
    let told = status(&mut vm);
    assert_eq!((told.phase, told.boot_id.as_str()), (PodPhase::Ready, boot_id.trim()));
    let ready: Vec<bool> = told.containers.iter().map(|container| container.ready).collect();
    assert_eq!(ready, [true; 5], "init containers that are done are ready");
    assert_eq!(vm.shell("wget -qO- http://127.0.0.1/"), "from the top\n");
    assert_eq!(vm.shell("ls /www"), "index.html\nsecret\n");

    let console = vm.console();
    let mut position = 0;
    for text in [
        "pseudo-filesystems, ",
        "modules, ",
        "network, ",
        "first | one\n",
        "onboot first, ",
        "second | no newline\n",
        "services, ",
    ] {
        let found = console[position..].find(text);
        position += found.unwrap_or_else(|| panic!("no {text:?} after {position} in\n{console}"));
    }
    assert!(console.contains("first | two\n"), "{console}");
    assert!(console.contains("third | SigIgn:\t0000000000000000\n"), "{console}");

    let page = vm.get("/metrics").body;
    assert!(metric(&page, "container_memory_usage_bytes{container=\"web\"}") > 0.0);
    assert!(metric(&page, "kube_pod_container_status_running{container=\"web\"}") > 0.0);
    assert!(metric(&page, "i2kit_boot_phase_seconds{phase=\"modules\"}") > 0.0);
    let resident = metric(&page, "i2kit_guest_resident_bytes");
    assert!(resident < 6e6, "PID 1 and the supervisor use {resident} bytes");
}

#[test]
fn firmware_boots_the_disk_from_any_controller() {
    if !wanted() {
        return;
    }
    let pod = Pod::new().service("web", "exec httpd -f -p 80 -h /www").shell();
    for device in ["virtio-blk-pci", "nvme,serial=vol0123456789abcdef0"] {
        let mut vm = Vm::boot_by_firmware(&pod, device);
        vm.ready();
        assert_eq!(vm.shell("wget -qO- http://127.0.0.1/"), "from the top\n");
        // The power button, which is how clouds stop an instance.
        vm.qmp("system_powerdown");
        assert!(vm.ended().success());
    }
}

#[test]
fn a_container_sees_only_what_its_configuration_gives_it() {
    if !wanted() {
        return;
    }
    let over = TreeFile { mode: 0o711, ..TreeFile::directory("over-shell/www") };
    let files = Pod::new().file(TreeFile::file("files/greeting", "hello\n")).file(over);
    let pod = files.shell().user("web").with(|config| {
        config.root.readonly = true;
        config.process.cwd = "/srv/new".into();
        config.process.env.push("GREETING=a b=c".into());
        config.process.user.additional_gids = vec![1234];
        config.process.user.umask = Some(0o027);
        config.process.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }];
        config.mounts.push(mount("/data/greeting", "bind", "/pod/files/greeting", "bind,ro"));
        config.mounts.push(mount("/scratch", "tmpfs", "tmpfs", "mode=1777,size=1m"));
        config.linux.resources = Some(Resources {
            memory: Some(Memory { limit: Some(32 << 20), reservation: None }),
            cpu: Some(Cpu { shares: Some(1024), quota: Some(50_000), period: Some(100_000) }),
            pids: Some(Pids { limit: 50 }),
        });
    });
    let mut vm = Vm::boot(&pod);
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    check("id", "uid=33(web) gid=33(web) groups=4(log),1234\n");
    check("pwd; umask; ulimit -n; ulimit -Hn", "/srv/new\n0027\n100\n200\n");
    check("echo $HOME $HOSTNAME $GREETING; hostname", "/www test-1 a b=c\ntest-1\n");
    check(
        "cat /data/greeting; echo x > /data/greeting",
        "hello\nsh: can't create /data/greeting: Read-only file system\n",
    );
    check("echo x > /www/x", "sh: can't create /www/x: Read-only file system\n");
    check("echo x > /scratch/x; cat /scratch/x; rm /scratch/x", "x\n");
    check("echo to-stderr > /proc/1/fd/2; echo x > /dev/null; head -c 3 /dev/zero | wc -c", "3\n");
    check("cat /etc/resolv.conf", "nameserver 10.0.2.3\n");
    check("grep test-1 /etc/hosts", "10.0.2.15\ttest-1\n");
    // What lies over the layers says what a directory is, not what is in it.
    check("stat -c %a / /www; cat /www/index.html", "755\n711\nfrom the top\n");
    check("ps | grep -c '[n]c -ll'; cat /proc/1/comm", "1\nnc\n");
    check(
        "grep -E '^(NoNewPrivs|CapEff|CapBnd|SigBlk|Seccomp):' /proc/1/status",
        "SigBlk:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000000004e1\nNoNewPrivs:\t1\nSeccomp:\t2\n",
    );
    check(
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.weight",
        "0::/\n33554432\n50\n50000 100000\n39\n",
    );
    check(
        "ls -A /sys/firmware; wc -c < /proc/kcore; echo 1 > /proc/sys/vm/swappiness",
        "0\nsh: can't create /proc/sys/vm/swappiness: Read-only file system\n",
    );
    // User namespaces need no capability: here it is the filter that refuses.
    check("unshare -U true", "unshare: unshare(0x10000000): Operation not permitted\n");
    check("ls /proc/self/fd | wc -l; ls /", "4\nbin\ndata\ndev\netc\nproc\nrun\nscratch\nsrv\nsys\nwww\n");
    check("mount | grep -c /l/", "1\n");
    vm.says("shell | to-stderr\n");
}

#[test]
fn a_container_that_ends_is_started_again_afresh() {
    if !wanted() {
        return;
    }
    let pod = Pod::new()
        .shell()
        .service("crash", "test -e /marker && echo leftover; touch /marker; echo try; exit 3")
        .service("typo", "")
        .with(|config| config.process.args = vec!["ngnix".into()])
        .service("greedy", "echo starting; head -c 20m /dev/zero | tail")
        .with(|config| {
            let memory = Memory { limit: Some(8 << 20), reservation: None };
            config.linux.resources = Some(Resources { memory: Some(memory), ..Resources::default() });
        });
    let mut vm = Vm::boot(&pod);
    // The first restart is immediate, the second one waits.
    let later = "crash: Error, exit code 3, to be started again in 10 s";
    vm.says(later);
    let console = vm.console();
    let before = console.split_once(later).unwrap().0;
    assert_eq!(before.matches("crash | try\n").count(), 2, "{console}");
    vm.says("greedy: OOMKilled, exit code 137, to be started again in 0 s");
    let why = "StartError, exit code 128 (\"ngnix\" is not found in PATH=/bin)";
    vm.says(&format!("typo: {why}, to be started again in 0 s"));
    let console = vm.console();
    assert!(!console.contains("leftover"), "{console}");
    // They wait most of the time, and run in between.
    for waits in [
        "crash: CrashLoopBackOff, last: Error, exit code 3\n",
        &format!("typo: CrashLoopBackOff, last: {why}\n"),
    ] {
        vm.wait_answer("/readyz", |answer| answer.status == 503 && answer.body.contains(waits));
    }
    let typo = format!("typo: CrashLoopBackOff, last: {why}");
    vm.wait_answer("/status", |answer| {
        let status: PodStatus = serde_json::from_str(&answer.body).unwrap();
        matches!(status.phase, PodPhase::NotReady { reasons } if reasons.contains(&typo))
    });
    let page = vm.get("/metrics").body;
    assert!(metric(&page, "kube_pod_container_status_restarts_total{container=\"crash\"}") >= 1.0);
    assert!(metric(&page, "kube_pod_container_status_running{container=\"shell\"}") >= 1.0);
}

#[test]
fn the_power_button_stops_the_pod_in_order() {
    if !wanted() {
        return;
    }
    let mut pod = Pod::new()
        .service(
            "polite",
            "trap 'echo closing; sleep 1; echo closed; exit 0' TERM; echo up; while :; do sleep 0.1; done",
        )
        .service("stubborn", "trap '' TERM; while :; do sleep 1; done");
    // Long enough to look at the pod while it stops.
    pod.boot.grace_period_seconds = Seconds(15);
    let mut vm = Vm::boot(&pod);
    vm.says("polite | up");
    vm.ready();
    vm.qmp("system_powerdown");
    vm.says("polite | closing");
    assert_eq!(vm.get("/readyz").status, 503);
    assert!(vm.ended().success());
    let console = vm.console();
    for text in [
        "polite | closed\n",
        "i2kit: polite: Completed, exit code 0\n",
        "i2kit: the grace period is over",
        "i2kit: stubborn: Error, exit code 137 (killed by signal 9)\n",
        "i2kit: power off\n",
    ] {
        assert!(console.contains(text), "no {text:?} in\n{console}");
    }
}

#[test]
fn without_a_static_address_the_guest_asks_by_dhcp() {
    if !wanted() {
        return;
    }
    let mut pod = Pod::new().shell();
    pod.boot.services[0].seccomp = Seccomp::Unconfined;
    let mut vm = Vm::boot_with(&pod, "", &[]);
    vm.ready();
    // What qemu's own DHCP server gives.
    assert_eq!(
        vm.shell("cat /etc/resolv.conf; tail -n 1 /etc/hosts"),
        "nameserver 10.0.2.3\n10.0.2.15\ttest\n"
    );
    assert_eq!(vm.shell("grep Seccomp: /proc/self/status; unshare -U id -u"), "Seccomp:\t0\n65534\n");
}

#[test]
fn services_of_the_host_are_reached_by_their_loopback_addresses() {
    if !wanted() {
        return;
    }
    let service = std::net::TcpListener::bind("127.77.3.4:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut client, _) = service.accept().unwrap();
        client.write_all(b"a Service\n").unwrap();
    });
    let network = "i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3 i2kit.services=127.76.0.0/14";
    let mut vm = Vm::boot_with(&Pod::new().shell(), network, &[]);
    vm.ready();
    assert_eq!(vm.shell(&format!("nc 127.77.3.4 {port} </dev/null")), "a Service\n");
    serving.join().unwrap();
    // The other loopback addresses are the machine's own, as ever.
    let own = "(echo own | nc -l -p 7070 >/dev/null &); until nc 127.0.0.9 7070 </dev/null 2>/dev/null; do sleep 0.1; done";
    assert_eq!(vm.shell(own), "own\n");
}

#[test]
fn a_supervisor_may_die_at_any_moment_and_no_client_notices() {
    const KILLED: &str = "the supervisor was killed by signal 9";
    if !wanted() {
        return;
    }
    // Without a PID namespace of its own this container sees the VM's processes.
    let kill = "kill -9 $(ps | grep '[s]upervisor' | while read pid rest; do echo $pid; done)";
    let pod = Pod::new()
        .service("killer", &format!("sleep 5; while :; do {kill}; sleep 0.2; done"))
        .with(|config| config.linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid));
    let mut vm = Vm::boot(&pod);
    vm.says(KILLED);
    let mut requests = 0;
    let start = Instant::now();
    while requests < 100 || vm.console().matches(KILLED).count() < 10 {
        let answer = vm.try_get("/readyz", PATIENCE);
        assert_eq!(answer.map(|answer| answer.body), Some("ok\n".to_owned()), "request {requests}");
        assert!(start.elapsed() < PATIENCE, "the supervisor does not end ten times: {}", vm.console());
        requests += 1;
    }
    let page = vm.get("/metrics").body;
    assert!(metric(&page, "i2kit_supervisor_restarts_total") >= 9.0);
    assert!(metric(&page, "kube_pod_container_status_restarts_total{container=\"killer\"}") < 1.0);
}

/// A probe that asks every second.
pub(crate) fn every_second(action: ProbeAction) -> Probe {
    Probe {
        action,
        initial_delay_seconds: Seconds(0),
        period_seconds: Seconds(1),
        timeout_seconds: Seconds(60),
        success_threshold: 1,
        failure_threshold: 2,
        termination_grace_period_seconds: None,
    }
}

#[test]
fn readiness_follows_the_probes_of_the_containers() {
    if !wanted() {
        return;
    }
    let http = ProbeAction::HttpGet { host: None, port: 80, tls: false, path: "/up".into(), headers: vec![] };
    let file = ProbeAction::Exec { command: ["cat", "/dev/shm/ready"].map(Into::into).into() };
    let pod = Pod::new()
        .shell()
        .probes(|probes| probes.readiness = Some(every_second(file)))
        .user("web")
        .service(
            "web",
            "mkdir /tmp; nc -l -p 8001 </dev/null; httpd -p 80 -h /tmp; nc -l -p 8002 </dev/null; echo yes > /tmp/up; exec sleep 1000",
        )
        .probes(|probes| {
            probes.startup = Some(every_second(ProbeAction::Tcp { host: None, port: 80 }));
            probes.startup.as_mut().unwrap().failure_threshold = 600;
            probes.readiness = Some(every_second(http));
        });
    let mut vm = Vm::boot(&pod);
    let unready = |vm: &mut Vm, reason: &str| {
        vm.wait_answer("/readyz", |answer| answer.status == 503 && answer.body.contains(reason));
    };
    // The container goes on when it is told to.
    let go_on = |vm: &mut Vm, port: u16| {
        vm.shell(&format!("until nc 127.0.0.1 {port} </dev/null 2>/dev/null; do sleep 0.1; done"));
    };
    unready(&mut vm, "web: startup probe: tcp 10.0.2.15:80: Connection refused");
    go_on(&mut vm, 8001);
    unready(&mut vm, "web: readiness probe: http://10.0.2.15:80/up: status 404");
    go_on(&mut vm, 8002);
    unready(
        &mut vm,
        "shell: readiness probe: the command ended with exit code 1: cat: can't open '/dev/shm/ready'",
    );
    vm.shell("echo yes > /dev/shm/ready");
    vm.ready();
    assert!(metric(&vm.get("/metrics").body, "kube_pod_container_status_ready{container=\"web\"}") > 0.0);
    vm.shell("rm /dev/shm/ready");
    vm.wait_answer("/readyz", |answer| {
        answer.status == 503 && answer.body.starts_with("shell: readiness probe")
    });
    let phase = status(&mut vm).phase;
    assert!(matches!(&phase, PodPhase::NotReady { reasons } if reasons.len() == 1), "{phase:?}");
}

#[test]
fn a_container_that_is_not_alive_is_started_again() {
    if !wanted() {
        return;
    }
    let alive = ProbeAction::Exec {
        command: ["sh", "-c", "test ! -e /sick || { echo sick; exit 1; }"].map(Into::into).into(),
    };
    let slow = ProbeAction::Exec { command: ["sleep", "1000"].map(Into::into).into() };
    let mut pod = Pod::new()
        .service(
            "web",
            "trap 'echo asked to stop; exit 0' TERM; sleep 4; touch /sick; while :; do sleep 0.1; done",
        )
        .probes(|probes| probes.liveness = Some(every_second(alive)))
        .service("hung", "trap '' TERM; while :; do sleep 1; done")
        .probes(|probes| {
            let liveness = Probe { timeout_seconds: Seconds(1), ..every_second(slow) };
            probes.liveness = Some(Probe { termination_grace_period_seconds: Some(Seconds(1)), ..liveness });
        });
    pod.boot.grace_period_seconds = Seconds(60);
    let mut vm = Vm::boot(&pod);
    vm.says("web: liveness probe failed: the command ended with exit code 1: sick\n");
    vm.says("web | asked to stop\n");
    vm.says("i2kit: web: Completed, exit code 0 (liveness probe failed: ");
    vm.says("i2kit: hung: Error, exit code 137 (liveness probe failed: the command took too long)");
    // Once it has failed for the second time it has been started again, whatever the pod's readiness is just then.
    vm.says("exit code 1: sick), to be started again in 10 s");
    let page = vm.get("/metrics").body;
    assert!(metric(&page, "kube_pod_container_status_restarts_total{container=\"web\"}") > 0.0);
}

#[test]
fn a_pod_that_is_done_powers_off() {
    if !wanted() {
        return;
    }
    let mut pod = Pod::new().service("job", "echo working; exit 4").service("other", "true");
    pod.boot.restart_policy = RestartPolicy::Never;
    let mut vm = Vm::boot(&pod);
    assert!(vm.ended().success());
    let console = vm.console();
    assert!(console.contains("job | working\n"), "{console}");
    assert!(console.contains("i2kit: job: Error, exit code 4\n"), "{console}");
    assert!(console.contains("i2kit: the pod has ended\n"), "{console}");
}

#[test]
fn what_cannot_boot_says_why_and_powers_off() {
    if !wanted() {
        return;
    }
    let ends = |pod: &Pod, parameters: &str, text: &str| {
        let mut vm = Vm::boot_with(pod, parameters, &[]);
        assert!(vm.ended().success());
        let console = vm.console();
        assert!(console.contains(&format!("i2kit: fatal: {text}")), "no {text:?} in\n{console}");
    };
    let mut newer = Pod::new();
    newer.boot.version = 99;
    ends(&newer, "", "/newroot/pod/etc/i2kit/pod.json is of version 99, and this guest reads version 1");
    let mut incomplete = Pod::new().shell();
    incomplete.boot.services[0].layers.push("gone".into());
    ends(&incomplete, "", "no partition named gone after 10 s; seen: base, pod, top");
    ends(&Pod::new().shell(), "i2kit.net=10.0.2.15", "kernel command line: i2kit.net=10.0.2.15");
}
