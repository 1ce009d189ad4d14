//! VMs as processes: start one, find those that run already, see whether one still runs, end it.
//!
//! A VM belongs to nobody: it is started in a process group of its own, with everything that it needs named on its
//! command line, and goes on when the process that started it is killed. Whoever comes next finds it by its command
//! line and its working folder.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use landlock::RulesetStatus;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::confine;
use super::qemu::{self, Machine};
use crate::cloud::CloudError;

/// What qemu itself says, in the VM's folder.
const MESSAGES: &str = "qemu.log";

/// What a scratch disk is called for a moment.
const SCRATCH: &str = "scratch";

/// A running VM, or one that has just ended.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// Only of those that this process started: they must be waited for.
    child: Option<Child>,
    /// Its scratch disks, held until it has ended: their files have no name.
    scratch: Vec<File>,
}

/// Held while a process is started that inherits descriptors, so that no other one does.
static INHERITING: Mutex<()> = Mutex::new(());

/// Starts `machine` in `folder`, which must exist. `secrets` is what it reads from its standard input.
pub(crate) fn start(
    mut machine: Machine<'_>,
    folder: &Path,
    secrets: Option<File>,
) -> Result<Process, CloudError> {
    let scratch = scratch(folder, &machine.launch.scratch_bytes)?;
    machine.scratch = scratch.iter().map(AsRawFd::as_raw_fd).collect();
    machine.user = confine::user(machine.id);
    let messages = folder.join(MESSAGES);
    let messages = File::create(&messages).map_err(CloudError::file("write", &messages))?;
    let mut command = Command::new(qemu::PROGRAM);
    command
        .args(qemu::arguments(&machine))
        .env_clear()
        .envs(machine.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .stdin(secrets.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::null())
        .stderr(messages)
        .process_group(0);
    let refused = |error: io::Error| CloudError::Program {
        program: qemu::PROGRAM.to_owned(),
        message: if error.kind() == io::ErrorKind::NotFound {
            "it is not installed; install the package qemu-system-x86".to_owned()
        } else {
            error.to_string()
        },
    };
    let (child, _) = spawn(command, machine.image, folder, &scratch).map_err(refused)?;
    let pid = child.id();
    let (child, pidfd) = or_end(child, pidfd(pid)).map_err(refused)?;
    Ok(Process { pid, pidfd, child: Some(child), scratch })
}

/// The process, when what had to be done after its start was done; else it is ended: one that nobody can end later must
/// not stay.
fn or_end<T>(mut child: Child, done: io::Result<T>) -> io::Result<(Child, T)> {
    match done {
        Ok(done) => Ok((child, done)),
        Err(error) => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(error)
        }
    }
}

/// Starts `command`, confined, with these files open under the numbers that they have here.
pub(crate) fn spawn(
    command: Command,
    image: &Path,
    folder: &Path,
    inherited: &[File],
) -> io::Result<(Child, RulesetStatus)> {
    let _inheriting = INHERITING.lock().unwrap_or_else(PoisonError::into_inner);
    let inherit = |flags| inherited.iter().try_for_each(|file| rustix::io::fcntl_setfd(file, flags));
    let spawned = inherit(FdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|()| confine::spawn(command, image, folder));
    let restored = inherit(FdFlags::CLOEXEC).map_err(io::Error::from);
    let (child, status) = spawned?;
    let (child, ()) = or_end(child, restored)?;
    Ok((child, status))
}

/// Files of these sizes that take no room yet and have no name: they go with the VM, however that ends.
fn scratch(folder: &Path, sizes: &[u64]) -> Result<Vec<File>, CloudError> {
    let file = |bytes: &u64| {
        let path = folder.join(SCRATCH);
        let made = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = made.map_err(CloudError::file("create", &path))?;
        fs::remove_file(&path).map_err(CloudError::file("remove", &path))?;
        file.set_len(*bytes).map_err(CloudError::file("write", &path))?;
        Ok(file)
    };
    sizes.iter().map(file).collect()
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

impl Process {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        let is_alive = self.runs();
        if !is_alive {
            // Nobody reads them any more, and they may be large.
            self.scratch.clear();
        }
        is_alive
    }

    fn runs(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            return matches!(child.try_wait(), Ok(None));
        }
        // A pidfd becomes readable when its process ends, whether or not somebody waited for it.
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        !matches!(rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }

    /// How it ended, when it was a signal that ended it and this process was its parent.
    pub(crate) fn killed_by(&mut self) -> Option<i32> {
        self.child.as_mut()?.try_wait().ok()??.signal()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; that is what was wanted.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// What qemu said when it did not start or ended, in one line.
pub(crate) fn last_words(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join(MESSAGES)).ok()?;
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.trim_start_matches(&format!("{}: ", qemu::PROGRAM)).to_owned())
}

/// The VMs of `instances` (the folder that holds theirs) that run already, by name.
///
/// Found among all processes by command line and working folder, not by a stored process id: a VM is never missed,
/// even when its starter was killed before it could write anything down, and a reused id is never taken for a VM.
pub(crate) fn running(instances: &Path) -> io::Result<Vec<(String, Process)>> {
    let instances = resolved(instances)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ended in between has no VM.
        let Some(id) = vm_of(pid, &instances) else { continue };
        let Ok(pidfd) = pidfd(pid) else { continue };
        // The id may have been reused between the two looks.
        if vm_of(pid, &instances).as_ref() == Some(&id) {
            found.push((id, Process { pid, pidfd, child: None, scratch: Vec::new() }));
        }
    }
    Ok(found)
}

/// The path without links, also of a folder that is gone: its VMs may run on.
fn resolved(folder: &Path) -> io::Result<PathBuf> {
    match (folder.canonicalize(), folder.parent(), folder.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(resolved(parent)?.join(name))
        }
        (found, ..) => found,
    }
}

/// The name of the VM that the process runs, if it runs one of those in `instances`.
fn vm_of(pid: u32, instances: &Path) -> Option<String> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let cmdline = fs::read(proc.join("cmdline")).ok()?;
    let mut arguments = cmdline.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-name")?;
    let name = std::str::from_utf8(arguments.next()?).ok()?.strip_prefix("guest=")?;
    let folder = fs::read_link(proc.join("cwd")).ok()?;
    // So the kernel shows a folder that was removed.
    let removed = instances.join(format!("{name} (deleted)"));
    (folder == instances.join(name) || folder == removed).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;

    use super::*;

    #[test]
    fn a_process_has_the_descriptors_that_are_its_own_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| File::create(folder.path().join(name)).unwrap();
        let (inherited, stray) = ([file("a"), file("b")], file("stray"));
        // As a descriptor is that another program left to this one.
        rustix::io::fcntl_setfd(&stray, FdFlags::empty()).unwrap();
        crate::cloud::local::machine::descriptors::close_on_exec();
        for _ in 0..2 {
            let mut command = Command::new("ls");
            command.arg("/proc/self/fd").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let (child, _) = spawn(command, folder.path(), folder.path(), &inherited).unwrap();
            let output = child.wait_with_output().unwrap().stdout;
            let text = String::from_utf8(output).unwrap();
            let mut numbers: Vec<RawFd> = text.lines().map(|line| line.parse().unwrap()).collect();
            numbers.retain(|number| *number > 2);
            for file in &inherited {
                assert!(numbers.contains(&file.as_raw_fd()), "{numbers:?}");
            }
            // The third one is the folder that it lists.
            assert_eq!(numbers.len(), 3, "{numbers:?}");
        }
    }

    #[test]
    fn a_running_vm_is_found_and_its_end_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("web-1-a");
        fs::create_dir(&folder).unwrap();
        // A shell that looks like a VM: the arguments after the script are its own. It waits without a child.
        let mut child = Command::new("sh")
            .args(["-c", "read line", "-name", "guest=web-1-a"])
            .stdin(Stdio::piped())
            .current_dir(&folder)
            .process_group(0)
            .spawn()
            .unwrap();
        // The kernel lets the parent go on a moment before it shows the child's new command line.
        let mut found = Vec::new();
        while found.is_empty() {
            found = running(root.path()).unwrap();
        }
        assert_eq!(found.len(), 1);
        let (id, process) = &mut found[0];
        assert_eq!((id.as_str(), process.pid()), ("web-1-a", child.id()));
        assert!(process.is_alive());
        process.kill();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(running(root.path()).unwrap().is_empty());
    }
}
