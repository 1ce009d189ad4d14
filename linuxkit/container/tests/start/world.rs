//! The world of a case: what PID 1's boot makes before the first container starts, in namespaces that end with the case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use i2kit_container::{Sandbox, Spec, Started, pod_files};
use i2kit_spec::ContainerBoot;
use i2kit_spec::runtime::Config;
use rustix::event::{PollFd, PollFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Pid, WaitOptions};

/// A pod without containers, and layers for them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    layers: PathBuf,
}

/// How a container, or a command in one, ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Why its program did not start.
    pub(crate) failure: String,
}

/// Runs a case in a world of its own. Returns whether it passed.
pub(crate) fn run(case: fn(&mut World)) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let code = in_namespaces(libc::CLONE_NEWNS, None, || {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("none", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
        let group = PathBuf::from(format!("/sys/fs/cgroup/i2kit-start-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let flags = libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWNET;
        let passed = in_namespaces(flags, Some(&group), || case(&mut World::new(folder.path()))) == 0;
        // With the PID namespace all its processes have ended.
        remove_groups(&group);
        assert!(passed);
    });
    code == 0
}

/// Runs `work` in a process of its own. Returns its exit code, which is not 0 when it has panicked.
fn in_namespaces(flags: libc::c_int, group: Option<&Path>, work: impl FnOnce()) -> i32 {
    let group = group.map(|path| File::open(path).unwrap());
    let child = || i32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
    let (pid, _pidfd) = i2kit_sys::fork(flags, group.as_ref().map(File::as_fd), child).unwrap();
    wait(pid)
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(group).unwrap();
}

fn wait(pid: Pid) -> i32 {
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return status.exit_status().or(signal).unwrap();
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("wait: {errno}"),
        }
    }
}

impl World {
    fn new(folder: &Path) -> Self {
        // The root of what is seen of the cgroup tree is the case's own group.
        i2kit_sys::enter_new_cgroup_namespace().unwrap();
        unmount("/sys/fs/cgroup", UnmountFlags::DETACH).unwrap();
        mount("none", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
        for group in ["pod", "supervisor"] {
            fs::create_dir(format!("/sys/fs/cgroup/{group}")).unwrap();
        }
        mount("proc", "/proc", "proc", MountFlags::empty(), None).unwrap();
        for target in ["/run", "/etc"] {
            mount("tmpfs", target, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        for (path, text) in [
            ("/etc/hosts", "127.0.0.1\tlocalhost\n"),
            ("/etc/hostname", "test-1\n"),
            ("/etc/resolv.conf", "nameserver 192.0.2.1\n"),
        ] {
            fs::write(path, text).unwrap();
        }
        i2kit_container::make_scratch().unwrap();
        pod_files::make_shared_memory(false).unwrap();
        make_layers(folder);
        let sandbox = Sandbox { hostname: "test-1".into(), alone: true, ..Sandbox::default() };
        Self { sandbox, layers: folder.to_owned() }
    }

    /// A container that runs a shell script as root with the rights of Kubernetes' default.
    pub(crate) fn shell(&self, script: &str) -> Spec {
        let boot = ContainerBoot { name: "web".into(), ..ContainerBoot::default() };
        let layers = ["top", "base"].map(|name| self.layers.join(name).display().to_string()).into();
        Spec { boot, config: config(script), layers }
    }

    /// Starts a container, whose program may not start.
    pub(crate) fn start(&self, spec: &Spec) -> Started {
        i2kit_container::start(spec, &self.sandbox).unwrap()
    }

    /// Starts a container and waits for its end.
    pub(crate) fn run(&self, spec: &Spec) -> Outcome {
        ended(self.start(spec))
    }

    /// What the shell script writes to its standard output in a container of its own. It succeeds.
    pub(crate) fn says(&self, change: impl FnOnce(&mut Spec), script: &str) -> String {
        let mut spec = self.shell(script);
        change(&mut spec);
        let outcome = self.run(&spec);
        assert_eq!((outcome.code, outcome.failure.as_str()), (0, ""), "{outcome:?}");
        outcome.stdout
    }
}

/// Waits for the end of a container.
pub(crate) fn ended(Started { pid, setup, stdout, stderr, .. }: Started) -> Outcome {
    let (failure, stdout, stderr) = (read(&setup), read(&stdout), read(&stderr));
    Outcome { code: wait(pid), stdout, stderr, failure }
}

/// Waits for the end of a command and reads its output.
pub(crate) fn finished((pid, _pidfd, output): (Pid, OwnedFd, OwnedFd)) -> (i32, String) {
    let text = read(&output);
    (wait(pid), text)
}

/// What `/proc` shows, until a command ends, of the processes in a PID namespace below this one: the fields of their status
/// that say what rights they have.
pub(crate) fn rights_while_it_runs(
    (pid, _pidfd, _output): (Pid, OwnedFd, OwnedFd),
) -> BTreeMap<i32, BTreeSet<String>> {
    let mut seen: BTreeMap<i32, BTreeSet<String>> = BTreeMap::new();
    loop {
        for entry in fs::read_dir("/proc").unwrap().map(Result::unwrap) {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // It may have ended meanwhile.
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            // The last moments of a process, without its memory, have nothing to give.
            if field("NSpid:").split_whitespace().count() > 1 && !field("VmSize:").is_empty() {
                let rights = ["CapPrm:", "CapBnd:", "Seccomp:"].map(|name| field(name).trim().to_owned());
                seen.entry(number).or_default().insert(rights.join(" "));
            }
        }
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some(_)) => return seen,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("wait: {errno}"),
        }
    }
}

/// Reads a pipe, whose end does not block, until it ends. A terminal ends with an error.
pub(crate) fn read(pipe: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        rustix::event::poll(&mut [PollFd::new(pipe, PollFlags::IN)], None).unwrap();
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => return String::from_utf8(bytes).unwrap(),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(errno) => assert_eq!(errno, rustix::io::Errno::AGAIN),
        }
    }
}

/// Waits until a container's program runs.
pub(crate) fn runs(started: &Started) {
    assert_eq!(read(&started.setup), "");
}

/// Busybox with its applets in the lower layer; the upper one has a file that hides one of the lower.
fn make_layers(folder: &Path) {
    let base = folder.join("base");
    for path in ["base/bin", "base/etc", "base/www", "top/www"] {
        fs::create_dir_all(folder.join(path)).unwrap();
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).expect("busybox-static is installed");
    for applet in
        "cat chown echo grep head id kill ls mknod mount readlink sh sleep stat tr tty unshare".split(' ')
    {
        symlink("busybox", base.join("bin").join(applet)).unwrap();
    }
    for (path, text) in [
        ("base/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/www:/bin/false\n"),
        ("base/etc/group", "root:x:0:\nweb:x:33:\nlog:x:4:web\n"),
        ("base/www/index.html", "from the base\n"),
        ("top/www/index.html", "from the top\n"),
    ] {
        fs::write(folder.join(path), text).unwrap();
    }
}

/// A configuration as i2kit writes it.
fn config(script: &str) -> Config {
    let capabilities = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
    .map(|name| format!("CAP_{name}"));
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| serde_json::json!({"destination": destination, "type": kind, "source": source, "options": options});
    let bind = |path: &str| mount(path, "bind", path, &["rbind", "rw"]);
    let namespaces = ["pid", "mount", "cgroup"].map(|kind| serde_json::json!({"type": kind}));
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": &capabilities, "effective": &capabilities, "permitted": &capabilities},
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            bind("/etc/hosts"),
            bind("/etc/hostname"),
            bind("/etc/resolv.conf"),
        ],
        "linux": {"namespaces": namespaces, "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]},
    });
    serde_json::from_value(config).unwrap()
}
