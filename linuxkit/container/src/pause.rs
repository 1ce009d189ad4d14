//! The PID namespace that the containers of a pod share with `shareProcessNamespace`. Its first process does
//! nothing but collect orphans, as Kubernetes' pause container does.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cgroup;
use crate::error::{Doing, Error, START_FAILED};
use crate::oom;

/// Makes the namespace with its first process, which stays as long as the VM.
pub fn start() -> Result<Pid, Error> {
    let group = cgroup::of_guest()?;
    let (pid, _pidfd) =
        i2kit_sys::fork(libc::CLONE_NEWPID, Some(group.as_fd()), collect_orphans).doing(|| "clone".into())?;
    oom::set(&pid.as_raw_nonzero().to_string(), oom::PAUSE)?;
    Ok(pid)
}

/// Nobody in the namespace can end this process, and nothing outside has a reason to. It keeps nothing of what PID 1 has
/// open.
fn collect_orphans() -> libc::c_int {
    if i2kit_sys::let_go_of_descriptors(&[]).is_err() || let_go_of_streams().is_err() {
        return START_FAILED;
    }
    let Ok(signals) = i2kit_sys::signal_fd(&[libc::SIGCHLD]) else { return START_FAILED };
    loop {
        // Errors are interruptions; the next turn looks again.
        let _ = rustix::event::poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
        let _ = rustix::io::read(&signals, &mut [0_u8; 128]);
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
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
