//! What happens between the clone and the exec of a container's first process.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use i2kit_spec::runtime::{NamespaceKind, Process};
use i2kit_spec::{Bytes, Seccomp};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Signal, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::error::{Doing, Error};
use crate::mounts::{self, Owner};
use crate::sandbox::Sandbox;
use crate::spec::Spec;
use crate::streams::Streams;
use crate::{oom, pod_files, privileges, profile, program, seccomp, user, users};

/// Where a container's process builds its root, in a mount namespace of its own.
pub const SCRATCH: &str = "/run/i2kit/container";

/// The largest `/etc/passwd` or `/etc/group` that is read out of an image.
const DATABASE_BYTES: u64 = 4 << 20;

/// Makes the folders of [`SCRATCH`]: once, before the first container.
pub fn make_scratch() -> Result<(), Error> {
    for name in ["upper", "root"] {
        let folder = format!("{SCRATCH}/{name}");
        fs::create_dir_all(&folder).doing(|| format!("make {folder}"))?;
    }
    Ok(())
}

/// Turns the cloned child into the container's process. Returns only when that fails.
pub(crate) fn run(spec: &Spec, sandbox: &Sandbox, stdout: &OwnedFd, stderr: &OwnedFd) -> Error {
    let config = &spec.config;
    let prepared = connect_output(stdout, stderr)
        .and_then(|()| enter_namespaces(spec))
        .and_then(|()| set_oom_score(spec, sandbox))
        .and_then(|()| change_root(spec, sandbox))
        .and_then(|()| prepare_process(spec, &config.process, sandbox, [stdout.as_fd(), stderr.as_fd()]));
    match prepared.and_then(|command| install_late_profile(spec, &spec.config.process).map(|()| command)) {
        Ok(command) => become_program(command),
        Err(error) => error,
    }
}

/// Becomes the program. Returns only when that fails.
fn become_program(mut command: Command) -> Error {
    let source = command.exec();
    Error::Io { what: format!("execute {}", command.get_program().display()), source }
}

/// Runs a command in the namespaces of the container whose first process is `target`, and returns its exit code. An error
/// goes to the command's standard error.
///
/// Three processes take part. This one, a cloned child, waits for the command; it keeps PID 1's rights and stays outside
/// the container. Its child enters the namespaces and becomes the container's user with the container's rights; it too
/// stays outside the PID namespace, which only children enter. The last one is that child's sibling inside, and becomes
/// the command: what the container's processes see, and those with `SYS_PTRACE` may take over, never has more rights than
/// the container.
pub(crate) fn enter_and_run(
    spec: &Spec,
    sandbox: &Sandbox,
    target: BorrowedFd<'_>,
    command: &[String],
    streams: &Streams,
) -> i32 {
    enter(spec, sandbox, target, command, streams).unwrap_or_else(|error| report(&error))
}

/// Writes an error of a command to its standard error. Returns the exit code.
fn report(error: &Error) -> i32 {
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{error}\n").as_bytes());
    error.exit_code()
}

fn enter(
    spec: &Spec,
    sandbox: &Sandbox,
    target: BorrowedFd<'_>,
    command: &[String],
    streams: &Streams,
) -> Result<i32, Error> {
    connect_output(&streams.stdout, &streams.stderr)?;
    if let Some(stdin) = &streams.stdin {
        rustix::stdio::dup2_stdin(stdin).doing(|| "connect stdin".into())?;
    }
    // As all that follows from the VM's own files: in the container's mounts they are not to be seen.
    let spec = &*spec.filled(sandbox)?;
    set_oom_score(spec, sandbox)?;
    // This process goes on for as long as the command; what PID 1 has open must not stay open with it.
    let users = sandbox.users.as_ref().map(AsFd::as_fd);
    let kept: Vec<BorrowedFd<'_>> = users.into_iter().chain([target]).collect();
    i2kit_sys::let_go_of_descriptors(&kept).doing(|| "close descriptors".into())?;
    let inside = || match launch_inside(spec, sandbox, target, command, streams.terminal) {
        Ok(()) => 0,
        Err(error) => report(&error),
    };
    let (launcher, _pidfd) = i2kit_sys::fork(0, None, inside).doing(|| "clone".into())?;
    loop {
        // Both are children of this process, and it has no others.
        let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing(|| "wait for the command".into()),
        };
        let signal = status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or(signal).unwrap_or(255);
        if pid != launcher || code != 0 {
            return Ok(code);
        }
    }
}

/// Enters the container's namespaces, takes on its rights, and makes the process that becomes the command.
fn launch_inside(
    spec: &Spec,
    sandbox: &Sandbox,
    target: BorrowedFd<'_>,
    command: &[String],
    terminal: bool,
) -> Result<(), Error> {
    let mut spaces = ThreadNameSpaceType::MOUNT;
    for namespace in &spec.config.linux.namespaces {
        spaces |= match namespace.kind {
            NamespaceKind::Mount | NamespaceKind::User => ThreadNameSpaceType::MOUNT,
            NamespaceKind::Pid => ThreadNameSpaceType::PROCESS_ID,
            NamespaceKind::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
            NamespaceKind::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            NamespaceKind::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
            NamespaceKind::Network => ThreadNameSpaceType::NETWORK,
        };
    }
    move_into_thread_name_spaces(target, spaces).doing(|| "enter the container's namespaces".into())?;
    let mut process = Process { args: command.to_vec(), ..spec.config.process.clone() };
    if terminal {
        process.env.insert(0, "TERM=xterm".into());
    }
    let sibling = i2kit_sys::Sibling::prepare().doing(|| "clone".into())?;
    let streams = [rustix::stdio::stdout(), rustix::stdio::stderr()];
    let command = prepare_process(spec, &process, sandbox, streams)?;
    // Whoever may trace the sibling could go on as the sibling, without the profile.
    let traced = process.capabilities.bounding.iter().any(|name| name == "CAP_SYS_PTRACE");
    if traced {
        install_late_profile(spec, &process)?;
    }
    let prepare = || {
        // A command that sends a signal to its process group must not reach the process that waits for it. Where a profile
        // refuses this, it does.
        let session = rustix::process::setsid();
        if terminal {
            session.doing(|| "start a session".into())?;
            take_terminal()?;
        }
        if traced { Ok(()) } else { install_late_profile(spec, &process) }
    };
    let inside = || match prepare() {
        Ok(()) => {
            // Whoever kills the process that waits means the command.
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            report(&become_program(command))
        }
        Err(error) => report(&error),
    };
    sibling.fork(inside).doing(|| "start a process in the container, by the system call clone".into())
}

/// Makes the terminal on the standard input that of this process's session, so that its keys send signals.
fn take_terminal() -> Result<(), Error> {
    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).doing(|| "take the terminal".into())
}

fn connect_output(stdout: &OwnedFd, stderr: &OwnedFd) -> Result<(), Error> {
    i2kit_sys::unblock_signals().doing(|| "unblock signals".into())?;
    rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::setsid().doing(|| "start a session".into())?;
    let null = fs::File::open("/dev/null").doing(|| "open /dev/null".into())?;
    rustix::stdio::dup2_stdin(&null).doing(|| "connect stdin".into())?;
    rustix::stdio::dup2_stdout(stdout).doing(|| "connect stdout".into())?;
    rustix::stdio::dup2_stderr(stderr).doing(|| "connect stderr".into())
}

/// The namespaces that the clone could not make: the root of a cgroup namespace is the group that its maker is in,
/// and the clone changes groups only after it made namespaces.
fn enter_namespaces(spec: &Spec) -> Result<(), Error> {
    if spec.has(NamespaceKind::Cgroup) {
        i2kit_sys::enter_new_cgroup_namespace().doing(|| "make a cgroup namespace".into())?;
    }
    let hostname = &spec.config.hostname;
    if !hostname.is_empty() && spec.has(NamespaceKind::Uts) {
        rustix::system::sethostname(hostname.as_bytes()).doing(|| "set the host name".into())?;
    }
    Ok(())
}

fn set_oom_score(spec: &Spec, sandbox: &Sandbox) -> Result<(), Error> {
    let requested = || spec.boot.oom_request_bytes.map(|bytes| oom::score(bytes.0, sandbox.instance.memory));
    // The VM's own /proc is still in sight, a container's may not be there at all.
    spec.config.process.oom_score_adj.or_else(requested).map_or(Ok(()), |score| oom::set("self", score))
}

/// Builds the root from the layers, makes it `/`, and mounts what the container sees in it.
fn change_root(spec: &Spec, sandbox: &Sandbox) -> Result<(), Error> {
    let config = &spec.config;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "make mounts private".into())?;
    let root = overlay(&spec.layers, spec.boot.writable_bytes)?;
    let users = sandbox.users.as_ref().map(AsFd::as_fd);
    let all = pod_files::mounts(spec);
    let expanded = spec.boot.late.as_ref().map(|late| late.expand_mounts.as_slice()).unwrap_or_default();
    let sources = mounts::open_sources(&all, expanded, users)?;
    pivot_to(&root)?;
    let owner = if users.is_some() { Owner::Shifted } else { Owner::Root };
    mounts::make_all(&all, sources, owner)?;
    mounts::make_readonly(&config.linux.readonly_paths)?;
    mounts::mask(&config.linux.masked_paths)?;
    mounts::make_working_folder(Path::new(&config.process.cwd), owner)?;
    if config.root.readonly { mounts::make_root_readonly() } else { Ok(()) }
}

/// Makes a mount the root of this process's mount namespace, with nothing of the VM's root left.
pub(crate) fn pivot_to(root: &str) -> Result<(), Error> {
    rustix::process::chdir(root).doing(|| format!("enter {root}"))?;
    // The old root comes to lie on top of the new one, under the same name, and is taken away at once.
    rustix::process::pivot_root(".", ".").doing(|| "change the root".into())?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leave the VM's root".into())?;
    rustix::process::chdir("/").doing(|| "enter the new root".into())
}

/// Mounts the layers with a tmpfs on top. Both go away with the mount namespace, so that a container that is started
/// again starts afresh.
fn overlay(layers: &[String], writable_bytes: Option<Bytes>) -> Result<String, Error> {
    let (upper, root) = (format!("{SCRATCH}/upper"), format!("{SCRATCH}/root"));
    // Its pages count for the container's memory. Without a limit of its own it takes at most half of the VM's.
    let size = writable_bytes.map_or_else(String::new, |size| format!(",size={}", size.0));
    let data = CString::new(format!("mode=755{size}")).expect("a number has no zero byte");
    mount("tmpfs", &upper, "tmpfs", MountFlags::NODEV, data.as_c_str())
        .doing(|| "mount a tmpfs for what the container writes".into())?;
    for folder in ["data", "work"] {
        fs::create_dir(format!("{upper}/{folder}")).doing(|| format!("make {upper}/{folder}"))?;
    }
    // The root's own mode and owner are those of the topmost layer; the upper folder would hide them.
    if let Some(top) = layers.first()
        && let Ok(found) = fs::metadata(top)
    {
        let mode = fs::Permissions::from_mode(found.permissions().mode() & 0o7777);
        fs::set_permissions(format!("{upper}/data"), mode).doing(|| "set the root's mode".into())?;
        chown(format!("{upper}/data"), Some(found.uid()), Some(found.gid()))
            .doing(|| "set the root's owner".into())?;
    }
    let options = format!("lowerdir={},upperdir={upper}/data,workdir={upper}/work", layers.join(":"));
    let data = CString::new(options.clone()).expect("paths of our own making have no zero byte");
    // Device nodes of an image mean nothing; those of /dev are made for the container.
    mount("overlay", &root, "overlay", MountFlags::NODEV, data.as_c_str())
        .doing(|| format!("mount the layers with {options}"))?;
    Ok(root)
}

/// Limits, identity and environment, as the last steps because each takes rights away.
fn prepare_process(
    spec: &Spec,
    process: &Process,
    sandbox: &Sandbox,
    pipes: [BorrowedFd<'_>; 2],
) -> Result<Command, Error> {
    let read = |path: &str| read_database(Path::new(path));
    let identity = user::of(&spec.boot, &process.user, &read("/etc/passwd"), &read("/etc/group"))?;
    if sandbox.users.is_some() {
        identity.require_in_namespace()?;
    }
    privileges::set_rlimits(&process.rlimits)?;
    rustix::process::chdir(process.cwd.as_str()).doing(|| format!("enter {}", process.cwd))?;
    let first = if sandbox.users.is_some() { users::FIRST } else { 0 };
    privileges::hand_over(pipes, identity.uid.saturating_add(first))?;
    if let Some(namespace) = &sandbox.users {
        users::enter(namespace.as_fd())?;
    }
    // The kernel asks for a right to install a filter, which the user may not have, or for no-new-privileges. A profile
    // comes as late as that allows, so that it need not allow what is done here.
    match spec.config.linux.seccomp.as_ref() {
        Some(profile) if !process.no_new_privileges => profile::install(profile)?,
        None if spec.boot.seccomp == Seccomp::RuntimeDefault => {
            seccomp::install_default(&process.capabilities)?;
        }
        _ => {}
    }
    privileges::become_user(&identity, &process.capabilities, process.no_new_privileges)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(process.user.umask.unwrap_or(0o022)));
    let environment = environment(process, sandbox, identity.home.as_deref());
    let path = environment.iter().rev().find_map(|(name, value)| (name == "PATH").then_some(value.as_str()));
    let (name, arguments) =
        process.args.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
    let file = program::find(name, path.unwrap_or(program::DEFAULT_PATH))?;
    let mut command = Command::new(file);
    command.arg0(name).args(arguments).env_clear().envs(environment);
    Ok(command)
}

/// Installs the container's profile where that needs no right but no-new-privileges; [`prepare_process`] did else.
fn install_late_profile(spec: &Spec, process: &Process) -> Result<(), Error> {
    let profile = spec.config.linux.seccomp.as_ref().filter(|_| process.no_new_privileges);
    profile.map_or(Ok(()), profile::install)
}

/// The configured environment, and before it what container engines add when it is not configured.
fn environment(process: &Process, sandbox: &Sandbox, home: Option<&str>) -> Vec<(String, String)> {
    let defaults = [
        ("PATH", program::DEFAULT_PATH),
        ("HOSTNAME", sandbox.hostname.as_str()),
        ("HOME", home.unwrap_or("/")),
    ];
    let defaults = defaults.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let configured = process.env.iter().filter_map(|entry| entry.split_once('='));
    defaults.chain(configured.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

/// The text of a user database of the image; what is missing, too large or not text has no users.
fn read_database(path: &Path) -> String {
    let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= DATABASE_BYTES);
    if small { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::runtime::{Capabilities, User};

    use super::*;

    #[test]
    fn configured_variables_win_over_the_defaults() {
        let process = Process {
            terminal: false,
            user: User::default(),
            args: vec!["sh".into()],
            env: vec!["HOME=/srv".into(), "A=b=c".into()],
            cwd: "/".into(),
            capabilities: Capabilities::default(),
            rlimits: vec![],
            no_new_privileges: true,
            oom_score_adj: None,
        };
        let sandbox = Sandbox { hostname: "web-1".into(), ..Sandbox::default() };
        let environment = environment(&process, &sandbox, Some("/root"));
        let last = |name: &str| environment.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(last("HOME"), Some("/srv"));
        assert_eq!(last("HOSTNAME"), Some("web-1"));
        assert_eq!(last("A"), Some("b=c"));
        assert_eq!(last("PATH"), Some(program::DEFAULT_PATH));
    }
}
