//! cgroup v2: the tree of the VM, one group a container, and its limits in the kernel's words.
//!
//! PID 1 stays in the root group, the supervisor has one of its own, and each container is `pod/NAME`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use i2kit_spec::runtime::Resources;

use crate::error::{Doing, Error};

/// Where the hierarchy is mounted in the VM.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The parent group of all containers.
const POD: &str = "pod";

/// The group of the supervisor.
const SUPERVISOR: &str = "supervisor";

/// Processes and threads that containers leave to the guest: PID 1's helpers, the supervisor with a thread a probe that
/// asks, the program that talks to a cloud, and the kernel's own threads that come later.
const GUEST_PROCESSES: u64 = 64;

/// The kernel hands out the first numbers of processes once, and comes back to those above alone.
const RESERVED_NUMBERS: u64 = 300;

/// The processes and threads that containers may have together in the smallest machine.
const LEAST_PROCESSES: u64 = 64;

/// What one container may take of them, where the others are to have some left: commands run in them, probes among them.
const LARGEST_SHARE: (u64, u64) = (3, 4);

/// What containers can be limited in.
const CONTROLLERS: &str = "+cpu +memory +pids";

/// cgroup v1 shares and cgroup v2 weights: both ranges, as the runtime specification converts them.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
const WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;

/// The kernel's default length of a cpu period in microseconds.
const PERIOD: u64 = 100_000;

/// Makes the groups that stay, with the controllers switched on.
pub fn make_tree() -> Result<(), Error> {
    let root = Path::new(MOUNT);
    write(root, "cgroup.subtree_control", CONTROLLERS)?;
    make(&root.join(SUPERVISOR))?;
    make(&root.join(POD))?;
    let pod = root.join(POD);
    write(&pod, "cgroup.subtree_control", CONTROLLERS)?;
    // The kernel protects no group's memory beyond what the group above it is promised: without this, the containers'
    // own `memory.low` would mean nothing.
    write(&pod, "memory.low", "max")?;
    write(&pod, "pids.max", &processes()?.to_string())
}

/// How many processes and threads the containers may have together: what the kernel has room for, less those that there
/// are and those that the guest may still need.
fn processes() -> Result<u64, Error> {
    let number = |path: &str, text: &str| {
        let reason = || io::Error::other(format!("{text:?} is no number"));
        text.trim().parse().map_err(|_| reason()).doing(|| format!("read {path}"))
    };
    let read = |path: &str| fs::read_to_string(path).doing(|| format!("read {path}"));
    let [threads, numbers] = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"];
    let (threads, numbers) = (number(threads, &read(threads)?)?, number(numbers, &read(numbers)?)?);
    // Running ones, a slash, and all.
    let path = "/proc/loadavg";
    let load = read(path)?;
    let all = load.split(' ').nth(3).and_then(|threads| threads.split('/').nth(1)).unwrap_or_default();
    Ok(room_for_containers(threads, number(path, all)?, numbers))
}

fn room_for_containers(threads: u64, taken: u64, numbers: u64) -> u64 {
    let room = threads.saturating_sub(taken).min(numbers.saturating_sub(RESERVED_NUMBERS));
    room.saturating_sub(GUEST_PROCESSES).max(LEAST_PROCESSES)
}

/// How many processes and threads one of several containers may have.
fn share(of_pod: u64) -> u64 {
    of_pod / LARGEST_SHARE.1 * LARGEST_SHARE.0
}

/// The folder of a container's group.
pub fn of_container(name: &str) -> PathBuf {
    Path::new(MOUNT).join(POD).join(name)
}

/// Makes a container's group, or takes the one of its earlier run, and sets its limits. One that is not `alone` in its pod
/// leaves processes to the others, unless it has a limit of its own.
pub(crate) fn make_container(name: &str, resources: Option<&Resources>, alone: bool) -> Result<File, Error> {
    let group = of_container(name);
    make(&group)?;
    if !alone {
        let path = Path::new(MOUNT).join(POD).join("pids.max");
        let of_pod = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        if let Ok(of_pod) = of_pod.trim().parse() {
            write(&group, "pids.max", &share(of_pod).to_string())?;
        }
    }
    for (file, value) in resources.map(limits).unwrap_or_default() {
        write(&group, file, &value)?;
    }
    File::open(&group).doing(|| format!("open {}", group.display()))
}

/// The group of all containers.
pub fn of_pod() -> Result<File, Error> {
    let group = Path::new(MOUNT).join(POD);
    File::open(&group).doing(|| format!("open {}", group.display()))
}

/// The group of a container that runs, for one more process in it.
pub(crate) fn of_container_that_runs(name: &str) -> Result<File, Error> {
    let group = of_container(name);
    File::open(&group).doing(|| format!("open {}", group.display()))
}

/// The group of the guest's own processes besides PID 1.
pub(crate) fn of_guest() -> Result<File, Error> {
    let group = Path::new(MOUNT).join(SUPERVISOR);
    File::open(&group).doing(|| format!("open {}", group.display()))
}

/// Moves a process of the guest itself into the group for such.
pub fn join_guest(pid: &str) -> Result<(), Error> {
    write(&Path::new(MOUNT).join(SUPERVISOR), "cgroup.procs", pid)
}

/// Ends every process of the container that outlived its first one.
pub fn kill(name: &str) -> Result<(), Error> {
    write(&of_container(name), "cgroup.kill", "1")
}

/// Stops every process of the container where it is, or lets all go on. Whether they stand is known by [`is_frozen`].
pub fn freeze(name: &str, frozen: bool) -> Result<(), Error> {
    write(&of_container(name), "cgroup.freeze", if frozen { "1" } else { "0" })
}

/// Whether every process of the container stands.
pub fn is_frozen(name: &str) -> bool {
    event(name, "frozen") == Some(1)
}

/// Whether the container has a process left. One that was never started has none.
pub fn is_populated(name: &str) -> bool {
    event(name, "populated") == Some(1)
}

fn event(name: &str, key: &str) -> Option<u64> {
    field(&fs::read_to_string(of_container(name).join("cgroup.events")).ok()?, key)
}

/// How many times the kernel killed a process of the container because it was out of memory.
pub fn oom_kills(name: &str) -> u64 {
    let text = fs::read_to_string(of_container(name).join("memory.events")).unwrap_or_default();
    field(&text, "oom_kill").unwrap_or(0)
}

/// The value behind a key in one of the kernel's flat keyed files.
pub fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// The files to write for some limits, in order.
fn limits(resources: &Resources) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    if let Some(memory) = &resources.memory {
        files.extend(memory.limit.map(|bytes| ("memory.max", bytes.to_string())));
        files.extend(memory.reservation.map(|bytes| ("memory.low", bytes.to_string())));
        // A container is one thing to the user: when it is out of memory all of it goes, as under kubelet.
        files.push(("memory.oom.group", "1".into()));
    }
    if let Some(cpu) = &resources.cpu {
        files.extend(cpu.shares.map(|shares| ("cpu.weight", weight(shares).to_string())));
        let period = cpu.period.unwrap_or(PERIOD);
        files.extend(cpu.quota.map(|quota| ("cpu.max", format!("{quota} {period}"))));
    }
    files.extend(resources.pids.as_ref().map(|pids| ("pids.max", pids.limit.to_string())));
    files
}

/// cgroup v2's weight for cgroup v1's shares: the linear map of one range to the other.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(*SHARES.start(), *SHARES.end());
    let span = |range: &std::ops::RangeInclusive<u64>| range.end() - range.start();
    WEIGHTS.start() + (shares - SHARES.start()) * span(&WEIGHTS) / span(&SHARES)
}

fn make(group: &Path) -> Result<(), Error> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).doing(|| format!("make the cgroup {}", group.display()))
        }
        _ => Ok(()),
    }
}

fn write(group: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = group.join(file);
    fs::write(&path, value).doing(|| format!("write {value:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use i2kit_spec::runtime::{Cpu, Memory, Pids};

    use super::*;

    #[test]
    fn shares_become_weights_as_the_runtime_specification_says() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight), [1, 1, 39, 10_000, 10_000]);
    }

    #[test]
    fn limits_are_written_in_the_kernels_words() {
        let resources = Resources {
            memory: Some(Memory { limit: Some(64 << 20), reservation: Some(32 << 20) }),
            cpu: Some(Cpu { shares: Some(512), quota: Some(50_000), period: None }),
            pids: Some(Pids { limit: 100 }),
        };
        assert_eq!(
            limits(&resources),
            [
                ("memory.max", "67108864".to_owned()),
                ("memory.low", "33554432".to_owned()),
                ("memory.oom.group", "1".to_owned()),
                ("cpu.weight", "20".to_owned()),
                ("cpu.max", "50000 100000".to_owned()),
                ("pids.max", "100".to_owned()),
            ]
        );
        assert_eq!(limits(&Resources::default()), []);
    }

    #[test]
    fn containers_leave_processes_to_the_guest_and_to_each_other() {
        assert_eq!(room_for_containers(900, 80, 32_768), 900 - 80 - GUEST_PROCESSES);
        assert_eq!(room_for_containers(9000, 80, 600), 300 - GUEST_PROCESSES);
        assert_eq!(room_for_containers(100, 80, 32_768), LEAST_PROCESSES);
        assert_eq!(room_for_containers(10, 80, 200), LEAST_PROCESSES);
        assert_eq!(share(756), 567);
        for of_pod in [LEAST_PROCESSES, 756, 16_000, u64::MAX] {
            assert!(share(of_pod) > of_pod / 2 && share(of_pod) < of_pod);
        }
    }

    #[test]
    fn fields_of_flat_keyed_files() {
        let text = "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(1));
        assert_eq!(field(text, "oom_k"), None);
    }
}
