//! Tests of what a container may do to its machine and to its neighbours, from inside a booted guest: capabilities, the filter
//! of system calls, privileges that are not gained, devices.

use i2kit::erofs::TreeFile;

use crate::manifest::{SHELL, pod_of};
use crate::vm::{Vm, wanted};

const RIGHTS: &str = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";

#[test]
fn a_container_has_kubernetes_rights_by_default() {
    if !wanted() {
        return;
    }
    let mut vm = Vm::boot(&pod_of(&format!("{{containers: [{{{SHELL}}}]}}"), ""));
    assert_eq!(vm.shell("id"), "uid=0(root) gid=0(root)\n");
    // The fourteen capabilities of Kubernetes' runtimes, and the system call filter.
    let rights = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n";
    assert_eq!(vm.shell(RIGHTS), rights);
    assert_eq!(vm.shell("mount -t tmpfs x /www"), "mount: permission denied (are you root?)\n");
    assert_eq!(
        vm.shell("ls -A /proc/acpi /sys/firmware; wc -c < /proc/kcore"),
        "/proc/acpi:\n\n/sys/firmware:\n0\n"
    );
    let refused = "sh: can't create /proc/sys/vm/swappiness: Read-only file system\n";
    assert_eq!(vm.shell("echo 1 > /proc/sys/vm/swappiness"), refused);
    assert_eq!(vm.shell("ulimit -n; ulimit -Hn"), "1024\n524288\n");
    // Timestamps of all connections count from one start, by which servers tell a later one.
    assert_eq!(vm.shell("cat /proc/sys/net/ipv4/tcp_timestamps"), "2\n");
    assert_eq!(vm.shell("wc -c < /proc/interrupts; grep -c nf_tables /proc/modules"), "0\n0\n");
    // A node of the machine's serial port, on which PID 1 tells the pod's end, may be made and not be used.
    let console = "mknod /dev/con c 5 1; echo 'i2kit: end {}' > /dev/con; head -c 1 /dev/con";
    let refused =
        "sh: can't create /dev/con: Operation not permitted\nhead: /dev/con: Operation not permitted\n";
    assert_eq!(vm.shell(console), refused);
    assert!(!vm.console().contains("i2kit: end"), "{}", vm.console());
}

#[test]
fn a_security_context_is_kept() {
    if !wanted() {
        return;
    }
    let context = "securityContext: {runAsGroup: 99, runAsNonRoot: true, readOnlyRootFilesystem: true, \
                   allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}";
    let spec = format!(
        "{{securityContext: {{runAsUser: 33, supplementalGroups: [1234]}}, containers: [{{{SHELL}, \
         {context}}}, {{name: root, image: busybox, command: [sh, -c, 'id; exec sleep 1000'], \
         securityContext: {{runAsUser: 0, capabilities: {{add: [NET_ADMIN], drop: [NET_RAW]}}}}}}]}}"
    );
    let mut vm = Vm::boot(&pod_of(&spec, "root"));
    vm.ready();
    // Groups that the image's /etc/group gives the user are kept, as Kubernetes merges them.
    assert_eq!(vm.shell("id"), "uid=33(web) gid=99 groups=4(log),1234\n");
    let rights = "CapEff:\t0000000000000000\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    assert_eq!(vm.shell(RIGHTS), rights);
    assert_eq!(vm.shell("echo x > /www/x"), "sh: can't create /www/x: Read-only file system\n");
    vm.says("root | uid=0(root) gid=0(root) groups=1234\n");
    // A container may set packet filters, so the kernel has them: tables, and the socket by which they are set.
    let filters = "grep -cE '^(nf_tables|iptable_nat|nft_masq|xt_owner) ' /proc/modules; grep -cE '^[0-9a-f]+ +12 ' /proc/net/netlink";
    assert_eq!(vm.shell(filters), "4\n1\n");
}

#[test]
fn a_profile_of_a_file_says_which_calls_are_made() {
    if !wanted() {
        return;
    }
    let profile = "seccompProfile: {type: Localhost, localhostProfile: calls.json}";
    // With no-new-privileges and without: the filter comes at another moment.
    for more in ["", ", runAsUser: 33, allowPrivilegeEscalation: false"] {
        let spec = format!("{{containers: [{{{SHELL}, securityContext: {{{profile}{more}}}}}]}}");
        let mut vm = Vm::boot(&pod_of(&spec, ""));
        let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
        check("grep Seccomp: /proc/self/status", "Seccomp:\t2\n");
        check("mkdir /dev/shm/x", "mkdir: can't create directory '/dev/shm/x': No space left on device\n");
        check(
            "kill -USR1 1; kill -0 1 && echo sent",
            "sh: can't kill pid 1: Operation not permitted\nsent\n",
        );
        check("chroot / true; echo $?", "Bad system call\n159\n");
        check("cd /dev/shm; touch a; ln a b && ls", "a\nb\n");
    }
}

#[test]
fn a_user_that_turns_out_to_be_root_is_refused() {
    if !wanted() {
        return;
    }
    let spec = format!("{{containers: [{{{SHELL}, securityContext: {{runAsNonRoot: true}}}}]}}");
    // A name that only the image's /etc/passwd can tell.
    let mut vm = Vm::boot(&pod_of(&spec, "toor"));
    vm.says("shell: StartError, exit code 128 (user \"toor\" is root, which runAsNonRoot forbids)");
}

#[test]
fn a_privileged_container_may_do_everything() {
    if !wanted() {
        return;
    }
    let spec = format!("{{containers: [{{{SHELL}, securityContext: {{privileged: true}}}}]}}");
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    let rights = "CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\n";
    assert_eq!(vm.shell(RIGHTS), rights);
    assert_eq!(
        vm.shell("mount -t tmpfs x /www; echo x > /www/x; cat /www/x; ls /dev/vda /dev/fd/0"),
        "x\n/dev/fd/0\n/dev/vda\n"
    );
    assert_eq!(vm.shell("echo 60 > /proc/sys/vm/swappiness; cat /proc/sys/vm/swappiness"), "60\n");
}

#[test]
fn containers_share_processes_when_the_pod_says_so() {
    if !wanted() {
        return;
    }
    let sysctls = SYSCTLS.iter().map(|(name, value)| format!("{{name: {name}, value: '{value}'}}"));
    let sysctls = sysctls.collect::<Vec<_>>().join(", ");
    let spec = format!(
        "{{shareProcessNamespace: true, securityContext: {{sysctls: [{sysctls}]}}, containers: [{{{SHELL}}}, {{name: other, image: busybox, command: [sh, \
         -c, 'sleep 1234 & until [ -e /dev/shm/bomb ]; do sleep 1; done; {BOMB}']}}]}}"
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.ready();
    // The first process collects orphans and is neither container's; the VM's own processes are not to be seen.
    vm.shell("until [ $(ps | grep -c ' [s]leep [0-9][0-9]') = 2 ]; do sleep 0.1; done");
    let seen = vm.shell("ps | grep -c '[s]upervisor'; kill -9 1; cat /proc/1/comm");
    assert_eq!(seen, "0\ninit\n");
    let zombies =
        "(sleep 0.1 &); until ! ps | grep -q ' [s]leep 0.1'; do :; done; ps -o stat,args | grep -c '^Z'";
    assert_eq!(vm.shell(zombies), "0\n");
    for (name, value) in SYSCTLS {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        assert_eq!(vm.shell(&format!("tr '\\t' ' ' < {path}")), format!("{value}\n"), "{name}");
    }
    // One container that takes all the processes it can get leaves some to the other, and to commands in it.
    vm.shell("touch /dev/shm/bomb; until [ $(ls -d /proc/[0-9]* | wc -l) -gt 100 ]; do sleep 0.5; done");
    vm.says("other | no more processes");
    assert_eq!(vm.shell("sh -c 'sh -c \"echo still here\"'"), "still here\n");
    assert_eq!(vm.get("/readyz").status, 200);
}

/// Starts processes until there is room for no more, and keeps them.
const BOMB: &str =
    "sh -c \"while :; do sleep 5000 & done\" 2>/dev/null || echo no more processes; exec sleep 100000";

/// Kernel parameters: all that Kubernetes calls safe, and two that it does not, which here are the pod's own.
const SYSCTLS: [(&str, &str); 15] = [
    ("kernel.shm_rmid_forced", "1"),
    ("net.ipv4.ip_local_port_range", "20000 30000"),
    ("net.ipv4.tcp_syncookies", "0"),
    ("net.ipv4.ping_group_range", "0 100"),
    ("net.ipv4.ip_unprivileged_port_start", "80"),
    ("net.ipv4.ip_local_reserved_ports", "20100-20200"),
    ("net.ipv4.tcp_keepalive_time", "600"),
    ("net.ipv4.tcp_fin_timeout", "30"),
    ("net.ipv4.tcp_keepalive_intvl", "20"),
    ("net.ipv4.tcp_keepalive_probes", "5"),
    ("net.ipv4.tcp_rmem", "4096 87380 1048576"),
    ("net.ipv4.tcp_wmem", "4096 16384 1048576"),
    ("net.core.somaxconn", "77"),
    ("vm.max_map_count", "262144"),
    // Few enough for all of them to find room in a small machine.
    ("kernel.pid_max", "600"),
];

#[test]
fn devices_and_the_writable_layer_have_their_limits() {
    if !wanted() {
        return;
    }
    let limits =
        "resources: {limits: {ephemeral-storage: 1Mi, memory: 32Mi, cpu: 500m}, requests: {memory: 16Mi}}";
    let mut vm = Vm::boot(&pod_of(&format!("{{containers: [{{{SHELL}, {limits}}}]}}"), ""));
    // A node for the disk may be made, and not used; on the root not even one for a harmless device.
    let block = "mknod /dev/disk b 254 0; head -c 1 /dev/disk; mknod /null c 1 3; head -c 1 /null; head -c 1 /dev/null";
    let refused = "head: /dev/disk: Operation not permitted\nhead: /null: Permission denied\n";
    assert_eq!(vm.shell(block), refused);
    let written =
        vm.shell("dd if=/dev/zero of=/big bs=64k count=32 2>&1 | grep -c 'No space'; df -k / | tail -n 1");
    assert!(written.starts_with("1\n") && written.contains(" 1024 "), "{written}");
    let files = "cd /sys/fs/cgroup; cat memory.max memory.low cpu.max cpu.weight";
    assert_eq!(vm.shell(files), "33554432\n16777216\n50000 100000\n20\n");
    // The kubelet's formula for a pod that requests a part of the machine's memory.
    let memory = vm.shell("grep MemTotal: /proc/meminfo | tr -dc 0-9").parse::<i32>().unwrap();
    let score = vm.shell("cat /proc/1/oom_score_adj").trim().parse::<i32>().unwrap();
    assert_eq!(score, 1000 - 1000 * (16 << 10) / memory, "{memory} kB");
    let page = vm.get("/metrics").body;
    for name in ["container_cpu_usage_seconds_total", "container_memory_usage_bytes", "container_processes"] {
        assert!(page.contains(&format!("{name}{{container=\"shell\"}} ")), "{name}\n{page}");
    }
}

#[test]
fn a_grpc_server_is_asked_for_its_health() {
    if !wanted() {
        return;
    }
    // Two frames of a server: its settings, and the answer to the call. First not serving, then serving.
    let server = |status: u8| {
        format!(
            "printf '\\\\0\\\\0\\\\0\\\\4\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\7\\\\0\\\\0\\\\0\\\\0\\\\0\\\\1\\\\0\\\\0\\\\0\\\\0\\\\2\\\\10\\\\{status}' | nc -l -p 50051 > /asked; grep -c health.v1.Health/Check.*db /asked"
        )
    };
    let script = format!(
        "nc -ll -p 7 -e sh & until test -e /serve; do {}; done; while :; do {}; done",
        server(2),
        server(1)
    );
    let probe = "readinessProbe: {periodSeconds: 1, timeoutSeconds: 60, grpc: {port: 50051, service: db}}";
    let spec =
        format!("{{containers: [{{name: db, image: busybox, command: [sh, -c, \"{script}\"], {probe}}}]}}");
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.wait_answer("/readyz", |answer| {
        answer.body.contains("db: readiness probe: grpc 10.0.2.15:50051 \"db\": the service is not serving")
    });
    vm.shell("touch /serve");
    vm.ready();
}

#[test]
fn root_of_a_user_namespace_is_nobody_in_the_machine() {
    if !wanted() {
        return;
    }
    let probe = "readinessProbe: {periodSeconds: 1, timeoutSeconds: 60, exec: {command: [sh, -c, 'test $(id -u) = 0 && grep -q 65536 \
                 /proc/self/uid_map']}}";
    let limits = "resources: {limits: {memory: 32Mi, cpu: 500m}}";
    let web = format!(
        "{{name: web, image: busybox, securityContext: {{runAsUser: 33}}, {limits}, command: [sh, -c, 'id; exec sleep 1000']}}"
    );
    let volume = format!("volumeMounts: [{{name: shared, mountPath: /shared}}], {limits}");
    let spec = format!(
        "{{hostUsers: false, volumes: [{{name: shared, emptyDir: {{}}}}], containers: [{{{SHELL}, {probe}, {volume}}}, \
         {web}]}}"
    );
    let over = TreeFile { mode: 0o711, ..TreeFile::directory("over-shell/www") };
    let mut vm = Vm::boot(&pod_of(&spec, "").file(over));
    vm.ready();
    assert_eq!(vm.shell("stat -c '%a %u' /www; cat /www/index.html"), "711 0\nfrom the top\n");
    assert_eq!(
        vm.shell("id; cat /proc/self/uid_map"),
        "uid=0(root) gid=0(root)\n         0      65536      65536\n"
    );
    // Files of the image and of the container are root's, and root may give them away.
    let owners = "touch /www/x /shared/x; stat -c %u / /www/index.html /www/x /shared/x /dev/shm; chown web /www/x; stat -c %u /www/x";
    assert_eq!(vm.shell(owners), "0\n0\n0\n0\n0\n33\n");
    assert_eq!(vm.shell("httpd -p 80 -h /www; wget -qO- http://127.0.0.1/"), "from the top\n");
    // What is not the pod's belongs to nobody.
    assert_eq!(
        vm.shell("stat -c %u /proc/sys/kernel; hostname x"),
        "65534\nhostname: sethostname: Operation not permitted\n"
    );
    vm.says("web | uid=33(web) gid=33(web) groups=4(log)\n");
    // All that runs here has limits, which makes the pod a Guaranteed one.
    assert_eq!(vm.shell("cat /proc/1/oom_score_adj"), "-997\n");
}
