//! What the Open Container Initiative's runtime specification promises a process, and container engines with it, seen
//! from inside.

use crate::manifest::{SHELL, pod_of};
use crate::vm::{Vm, wanted};

#[test]
fn a_process_finds_what_runtimes_promise() {
    if !wanted() {
        return;
    }
    let mut vm = Vm::boot(&pod_of(&format!("{{containers: [{{{SHELL}}}]}}"), "web"));
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    check(
        "id; umask; pwd; cat /proc/self/oom_score_adj",
        "uid=33(web) gid=33(web) groups=4(log)\n0022\n/\n1000\n",
    );
    check("env | sort", "HOME=/www\nHOSTNAME=test-1\nPATH=/bin\nPWD=/\nSHLVL=2\n");
    check(
        "cat /proc/self/cgroup; grep -E '^Sig(Pnd|Blk|Ign|Cgt)' /proc/self/status | cut -f 2 | sort -u",
        "0::/\n0000000000000000\n",
    );
    // The kernel's own limit of processes follows the size of the machine; engines have none, cgroups are there for that.
    check(
        "grep -E '^Max (proc|open|core|stack|locked)' /proc/self/limits | tr -s ' '",
        "Max stack size 8388608 unlimited bytes \nMax core file size 0 unlimited bytes \nMax processes unlimited unlimited \
         processes \nMax open files 1024 524288 files \nMax locked memory 8388608 8388608 bytes \n",
    );
    check(MOUNTS, EXPECTED_MOUNTS);
    check("ls /dev; ls /dev/pts; ls -A /dev/shm /dev/mqueue", DEVICES);
    check(
        "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n",
    );
    check(
        "cd /proc; cat kcore keys timer_list | wc -c; ls -A acpi /sys/firmware",
        "0\n/sys/firmware:\n\nacpi:\n",
    );
    let everywhere = "for f in sys/kernel/hostname sysrq-trigger; do (: > /proc/$f) 2>&1 | grep -cE 'Read-only|Permission'; done";
    check(everywhere, "1\n1\n");
    check(
        "echo bye > /dev/termination-log && cat /dev/termination-log; stat -c %a /dev/termination-log",
        "bye\n666\n",
    );
    check(
        "echo x > /dev/shm/x && cat /dev/shm/x; mkdir /sys/fs/cgroup/x",
        "x\nmkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system\n",
    );
}

/// Where something is mounted, of which kind, and whether it can be written to; the root's layers are another test's.
const MOUNTS: &str = "while read source target kind options rest; do echo $target $kind $(echo $options | \
                      grep -oE '^r[ow]|nosuid|nodev|noexec'); done < /proc/self/mounts";

const EXPECTED_MOUNTS: &str = "/ overlay rw nodev
/proc proc rw nosuid nodev noexec
/dev tmpfs rw nosuid
/dev/pts devpts rw nosuid noexec
/dev/shm tmpfs rw nosuid nodev noexec
/dev/mqueue mqueue rw nosuid nodev noexec
/sys sysfs ro nosuid nodev noexec
/sys/fs/cgroup cgroup2 ro nosuid nodev noexec
/etc/hosts tmpfs rw nosuid nodev
/etc/hostname tmpfs rw nosuid nodev
/run/nowhere/resolv.conf tmpfs rw nosuid nodev
/dev/termination-log tmpfs rw nosuid nodev
/proc/bus proc ro nosuid nodev noexec
/proc/fs proc ro nosuid nodev noexec
/proc/irq proc ro nosuid nodev noexec
/proc/sys proc ro nosuid nodev noexec
/proc/sysrq-trigger proc ro nosuid nodev noexec
/proc/acpi tmpfs ro
/proc/interrupts tmpfs rw nosuid
/proc/kcore tmpfs rw nosuid
/proc/keys tmpfs rw nosuid
/proc/timer_list tmpfs rw nosuid
/sys/firmware tmpfs ro
";

const DEVICES: &str = "fd
full
mqueue
null
ptmx
pts
random
shm
stderr
stdin
stdout
termination-log
tty
urandom
zero
ptmx
/dev/mqueue:

/dev/shm:
";

#[test]
fn a_container_is_stopped_with_the_signal_that_it_wants() {
    if !wanted() {
        return;
    }
    let container = |name: &str, signal: &str, number: u32| {
        format!(
            "{{name: {name}, image: busybox, lifecycle: {{stopSignal: {signal}}}, command: [sh, -c, \"trap 'echo asked \
             to end; exit 7' {number}; trap 'echo wrong' TERM; echo up; while :; do sleep 0.1; done\"]}}"
        )
    };
    let spec = format!(
        "{{terminationGracePeriodSeconds: 2147483647, containers: [{}, {}]}}",
        container("quit", "SIGQUIT", 3),
        container("real-time", "SIGRTMIN+3", 37)
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.says("quit | up");
    vm.says("real-time | up");
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    let console = vm.console();
    for text in ["quit | asked to end\n", "real-time | asked to end\n", "i2kit: quit: Error, exit code 7\n"] {
        assert!(console.contains(text), "no {text:?} in\n{console}");
    }
    assert!(!console.contains("| wrong"), "{console}");
}
