//! What containers may do, seen from inside.

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
