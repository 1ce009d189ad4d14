//! Machines as processes: start one, find those that run already, poll whether one still runs, end it.
//!
//! A machine outlives its starter: it has a process group of its own, everything that it needs is on its command
//! line, and it goes on when the process that started it is killed. The next process finds it by its command line and
//! its working folder.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use i2kit_spec::Bytes;
use landlock::RulesetStatus;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::confine::{self, Opens};
use super::qemu::{self, Grants, Inside, Machine, MemoryPlace};
use super::{descriptors, platform};
use crate::cloud::CloudError;
use crate::cloud::local::network::enter;

/// qemu's own messages, in the machine's folder.
const MESSAGES: &str = "qemu.log";

/// How much of them is read for the last one.
const MESSAGE_BYTES: u64 = 64 << 10;

/// The name of a scratch disk's file, until it is removed right after it was made.
const SCRATCH: &str = "scratch";

/// The process of a machine, which runs or has just ended.
#[derive(Debug)]
pub(crate) struct MachineProcess {
    pid: u32,
    pidfd: OwnedFd,
    /// Only of machines that this process started: they must be waited for.
    child: Option<Child>,
    /// The scratch disks, held until the process has ended: their files have no name.
    scratch: Vec<File>,
}

/// Starts `machine` in `folder`, which must exist. `secrets` becomes its standard input. It inherits `disks`, with
/// their locks.
pub(crate) fn start(
    machine: &Machine<'_>,
    folder: &Path,
    secrets: Option<File>,
    disks: &[File],
) -> Result<MachineProcess, CloudError> {
    let platform = platform::of(machine.launch.architecture);
    let scratch = scratch(folder, &machine.launch.scratch_bytes)?;
    let grants = Grants {
        scratch: scratch.iter().map(AsRawFd::as_raw_fd).collect(),
        disks: disks.iter().map(AsRawFd::as_raw_fd).collect(),
        user: confine::user(machine.id),
    };
    let mut inherited: Vec<BorrowedFd<'_>> = scratch.iter().chain(disks).map(AsFd::as_fd).collect();
    inherited.extend(namespaces(machine));
    let mut command = match &machine.network.inside {
        None => Command::new(platform.program),
        Some(Inside { user, net, tap }) => {
            let kept: Vec<RawFd> = kept(&grants).chain([tap.as_raw_fd()]).collect();
            enter::command((user.as_raw_fd(), net.as_raw_fd()), &kept, platform.program)
        }
    };
    configure(&mut command, machine, folder, &grants)?;
    command.stdin(secrets.map_or_else(Stdio::null, Stdio::from));
    let memory = match machine.memory {
        MemoryPlace::Copied(file) => Some(file),
        MemoryPlace::Own | MemoryPlace::Template(_) => None,
    };
    let opens = Opens { image: machine.image, folder, memory };
    let (child, _) = spawn(command, &opens, &inherited).map_err(refused(platform))?;
    let pid = child.id();
    let (child, pidfd) = or_end(child, pidfd(pid)).map_err(refused(platform))?;
    Ok(MachineProcess { pid, pidfd, child: Some(child), scratch })
}

/// The process of a machine that becomes a template. It ends with this process, however this one ends, and gives way to whatever
/// else the host does.
#[derive(Debug)]
pub(crate) struct TemplateProcess {
    pidfd: OwnedFd,
    /// Held for as long as it runs: their files have no name.
    _scratch: Vec<File>,
}

/// Starts a machine in `folder` that becomes a template. It has no Secrets, and no disk that outlives it.
pub(crate) fn start_template(machine: &Machine<'_>, folder: &Path) -> Result<TemplateProcess, CloudError> {
    let platform = platform::of(machine.launch.architecture);
    let scratch = scratch(folder, &machine.launch.scratch_bytes)?;
    // Without a user of its own: whoever becomes another one is no more told of the end of who started it. It has no capability
    // either, and nothing that came from elsewhere runs in it.
    let grants = Grants { scratch: scratch.iter().map(AsRawFd::as_raw_fd).collect(), ..Grants::default() };
    let mut inherited: Vec<BorrowedFd<'_>> = scratch.iter().map(AsFd::as_fd).collect();
    inherited.extend(namespaces(machine));
    let inside = machine.network.inside.as_ref();
    let kept: Vec<RawFd> = kept(&grants).chain(inside.map(|inside| inside.tap.as_raw_fd())).collect();
    let namespaces = inside.map(|inside| (inside.user.as_raw_fd(), inside.net.as_raw_fd()));
    let mut command = enter::bound_command(namespaces, &kept, platform.program);
    configure(&mut command, machine, folder, &grants)?;
    command.stdin(Stdio::null());
    let opens = Opens::new(machine.image, folder);
    let mut started = None;
    let restored = inheriting(&inherited, || {
        started = Some(confine::spawn_bound(command, &opens)?);
        Ok(())
    });
    // Ended where a step after its start failed.
    let process = started.map(|pidfd| TemplateProcess { pidfd, _scratch: scratch });
    restored.map_err(refused(platform))?;
    process.ok_or_else(|| refused(platform)(io::ErrorKind::Other.into()))
}

impl TemplateProcess {
    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        !has_ended(&self.pidfd)
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for TemplateProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The descriptors by which a process gets into the network of its machine.
fn namespaces<'m>(machine: &'m Machine<'_>) -> impl Iterator<Item = BorrowedFd<'m>> {
    let inside = machine.network.inside.iter();
    inside.flat_map(|Inside { user, net, tap }| [user.as_fd(), net.as_fd(), tap.as_fd()])
}

/// The descriptors that qemu finds by their numbers.
fn kept(grants: &Grants) -> impl Iterator<Item = RawFd> {
    grants.scratch.iter().chain(&grants.disks).copied()
}

/// The arguments, the environment, the folder and the output of a machine's process.
fn configure(
    command: &mut Command,
    machine: &Machine<'_>,
    folder: &Path,
    grants: &Grants,
) -> Result<(), CloudError> {
    let messages = folder.join(MESSAGES);
    let messages = File::create(&messages).map_err(CloudError::file("write", &messages))?;
    command
        .args(qemu::arguments(machine, grants))
        .env_clear()
        .envs(machine.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(messages)
        .process_group(0);
    Ok(())
}

/// Why qemu was not started.
fn refused(platform: &platform::Platform) -> impl Fn(io::Error) -> CloudError {
    move |error: io::Error| CloudError::Program {
        program: platform.program.to_owned(),
        message: if error.kind() == io::ErrorKind::NotFound {
            format!("it is not installed; install the package {}", platform.package)
        } else {
            error.to_string()
        },
    }
}

/// Ends the process when a step after its start failed: one that nobody can end later must not stay.
fn or_end<T>(mut child: Child, done: io::Result<T>) -> io::Result<(Child, T)> {
    match done {
        Ok(done) => Ok((child, done)),
        Err(error) => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(error)
        }
    }
}

/// Starts `command`, confined, with these descriptors open under the same numbers.
pub(crate) fn spawn(
    command: Command,
    opens: &Opens<'_>,
    inherited: &[BorrowedFd<'_>],
) -> io::Result<(Child, RulesetStatus)> {
    let mut started = None;
    let restored = inheriting(inherited, || {
        started = Some(confine::spawn(command, opens)?);
        Ok(())
    });
    let Some((child, status)) = started else {
        return Err(restored.err().unwrap_or_else(|| io::ErrorKind::Other.into()));
    };
    let (child, ()) = or_end(child, restored)?;
    Ok((child, status))
}

/// Starts a process by `spawn` that inherits these descriptors under the same numbers, and no other process does. An error after
/// its start leaves it running.
fn inheriting<T>(inherited: &[BorrowedFd<'_>], spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _starting = descriptors::starting();
    let inherit =
        |flags| inherited.iter().try_for_each(|descriptor| rustix::io::fcntl_setfd(descriptor, flags));
    let spawned = inherit(FdFlags::empty()).map_err(io::Error::from).and_then(|()| spawn());
    let restored = inherit(FdFlags::CLOEXEC).map_err(io::Error::from);
    let spawned = spawned?;
    restored?;
    Ok(spawned)
}

/// Starts `command`, which inherits no descriptor of a machine that is being started.
pub(crate) fn spawn_apart(command: &mut Command) -> io::Result<Child> {
    let _starting = descriptors::starting();
    command.spawn()
}

/// Makes files of these sizes that take no room yet and have no name: they vanish with the machine, however it ends.
fn scratch(folder: &Path, sizes: &[Bytes]) -> Result<Vec<File>, CloudError> {
    let file = |size: &Bytes| {
        let path = folder.join(SCRATCH);
        let made = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = made.map_err(CloudError::file("create", &path))?;
        fs::remove_file(&path).map_err(CloudError::file("remove", &path))?;
        file.set_len(size.0).map_err(CloudError::file("write", &path))?;
        Ok(file)
    };
    sizes.iter().map(file).collect()
}

/// Whether the process of a pidfd has ended: it becomes readable then, whether or not the process was waited for.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

impl MachineProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What becomes readable when it ends.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        let is_alive = self.runs();
        if !is_alive {
            close(std::mem::take(&mut self.scratch));
        }
        is_alive
    }

    fn runs(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            return matches!(child.try_wait(), Ok(None));
        }
        !has_ended(&self.pidfd)
    }

    /// The signal that ended it, when one did and this process is its parent.
    pub(crate) fn killed_by(&mut self) -> Option<i32> {
        self.child.as_mut()?.try_wait().ok()??.signal()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for MachineProcess {
    fn drop(&mut self) {
        close(std::mem::take(&mut self.scratch));
    }
}

/// Closes files without a name on a thread of their own: the last close of a large one frees its blocks, which takes
/// seconds, and whoever asks whether a machine runs may hold a lock.
fn close(files: Vec<File>) {
    if !files.is_empty() {
        // Without a thread to be had they are closed here.
        drop(std::thread::Builder::new().name("scratch".to_owned()).spawn(move || drop(files)));
    }
}

/// The last of qemu's own messages, in one line: why it did not start, or why it ended.
pub(crate) fn last_message(folder: &Path) -> Option<String> {
    let text = end_of(&folder.join(MESSAGES)).ok()?;
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(platform::without_program(line).to_owned())
}

/// The end of a text, for as much as a message may be long: nothing bounds the file.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MESSAGE_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MESSAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The machines that run already, by name; their folders are in `instances`.
///
/// They are found among all processes by command line and working folder, not by a stored process id: a machine is
/// never missed, even when its starter was killed before it could write anything down, and a reused id is never taken
/// for one.
pub(crate) fn running(instances: &Path) -> io::Result<Vec<(String, MachineProcess)>> {
    let instances = resolved(instances)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ended in between is no machine.
        let Some(id) = machine_of(pid, &instances) else { continue };
        let Ok(pidfd) = pidfd(pid) else { continue };
        // The id may have been reused since it was read.
        if machine_of(pid, &instances).as_ref() == Some(&id) {
            found.push((id, MachineProcess { pid, pidfd, child: None, scratch: Vec::new() }));
        }
    }
    Ok(found)
}

/// The path without links, also of a folder that is gone: its machines may run on.
fn resolved(folder: &Path) -> io::Result<PathBuf> {
    match (folder.canonicalize(), folder.parent(), folder.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(resolved(parent)?.join(name))
        }
        (found, ..) => found,
    }
}

/// The name of the machine that the process is, if it is one of those in `instances`.
fn machine_of(pid: u32, instances: &Path) -> Option<String> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let cmdline = fs::read(proc.join("cmdline")).ok()?;
    let mut arguments = cmdline.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-name")?;
    let name = std::str::from_utf8(arguments.next()?).ok()?.strip_prefix("guest=")?;
    let folder = fs::read_link(proc.join("cwd")).ok()?;
    // The kernel's name of a folder that was removed.
    let removed = instances.join(format!("{name} (deleted)"));
    (folder == instances.join(name) || folder == removed).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_descriptors_that_are_its_own_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| File::create(folder.path().join(name)).unwrap();
        let (inherited, stray) = ([file("a"), file("b")], file("stray"));
        // As a descriptor that this process inherited.
        rustix::io::fcntl_setfd(&stray, FdFlags::empty()).unwrap();
        crate::cloud::local::machine::descriptors::close_on_exec();
        let opens = Opens::new(folder.path(), folder.path());
        for _ in 0..2 {
            let mut command = Command::new("ls");
            command.arg("/proc/self/fd").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let (child, _) = spawn(command, &opens, &inherited.each_ref().map(AsFd::as_fd)).unwrap();
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

    #[test]
    fn a_process_whose_start_failed_halfway_is_ended() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let folder = PathBuf::from(format!("/proc/{}", child.id()));
        assert!(folder.exists());
        let error = or_end(child, Err::<(), _>(io::Error::other("no descriptor"))).unwrap_err();
        assert_eq!(error.to_string(), "no descriptor");
        assert!(!folder.exists(), "it has ended, and was waited for");
        let (mut child, done) = or_end(Command::new("true").spawn().unwrap(), Ok(7)).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(done, 7);
    }
}
