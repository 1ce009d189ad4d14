//! The PID namespace that the containers of a pod share with `shareProcessNamespace`. Its first process does
//! nothing but collect orphans, as Kubernetes' pause container does. Containers see it, so it has nothing to give: an
//! empty root, no capability, no user's rights, and the filter of system calls.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use i2kit_spec::runtime::Capabilities;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Doing, Error, START_FAILED};
use crate::user::Identity;
use crate::{cgroup, child, privileges, seccomp};

/// The kernel's number of a user and a group without rights.
const NOBODY: u32 = 65_534;

/// What the first process writes once it has given up its rights.
const READY: &str = "ready";

/// Makes the namespace with its first process, which stays as long as the VM. Returns once that process has given up its
/// rights, before any container can see it. Its out-of-memory score is the caller's to set.
pub fn start() -> Result<Pid, Error> {
    let group = cgroup::of_guest()?;
    let doing = || "make the pod's PID namespace".to_owned();
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let (pid, _pidfd) =
        i2kit_sys::fork(flags, Some(group.as_fd()), || collect_orphans(write)).doing(doing)?;
    let mut answer = String::new();
    File::from(read).read_to_string(&mut answer).doing(doing)?;
    if answer != READY {
        return Err(Error::Pause { reason: answer });
    }
    Ok(pid)
}

/// Nobody in the namespace can end this process, and nothing outside has a reason to.
fn collect_orphans(ready: OwnedFd) -> libc::c_int {
    let prepared = give_up_rights(&ready);
    let answer = prepared.as_ref().err().map_or_else(|| READY.to_owned(), ToString::to_string);
    // PID 1 takes a missing answer for a failure.
    let _ = File::from(ready).write_all(answer.as_bytes());
    let Ok(signals) = prepared else { return START_FAILED };
    loop {
        // Errors are interruptions; the next turn looks again.
        let _ = rustix::event::poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
        let _ = rustix::io::read(&signals, &mut [0_u8; 128]);
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// Gives up all that this copy of PID 1 has: its descriptors, the VM's files, its capabilities, and its user. Returns what
/// delivers the ends of orphans.
fn give_up_rights(ready: &OwnedFd) -> Result<OwnedFd, Error> {
    i2kit_sys::let_go_of_descriptors(&[ready.as_fd()]).doing(|| "close descriptors".into())?;
    let_go_of_streams().doing(|| "close the standard streams".into())?;
    let signals = i2kit_sys::signal_fd(&[libc::SIGCHLD]).doing(|| "take signals".into())?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "make mounts private".into())?;
    let root = format!("{}/root", child::SCRATCH);
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", &root, "tmpfs", flags, c"size=0,mode=555").doing(|| "mount an empty root".into())?;
    child::pivot_to(&root)?;
    let nobody = Identity { uid: NOBODY, gid: NOBODY, groups: vec![], home: None };
    let none = Capabilities::default();
    privileges::become_user(&nobody, &none, true)?;
    seccomp::install_default(&none)?;
    Ok(signals)
}

fn let_go_of_streams() -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// While this is there, this process's children are made in the shared namespace.
#[derive(Debug)]
pub(crate) struct Shared {
    own: File,
}

impl Shared {
    pub(crate) fn join(first: Pid) -> Result<Self, Error> {
        let open = |path: String| File::open(&path).doing(|| format!("open {path}"));
        let own = open("/proc/self/ns/pid".into())?;
        let shared = open(format!("/proc/{}/ns/pid", first.as_raw_nonzero()))?;
        move_into_link_name_space(shared.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .doing(|| "enter the pod's PID namespace".into())?;
        Ok(Self { own })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Children of a process may always be made in its own namespace again.
        let _ = move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::ProcessID));
    }
}
