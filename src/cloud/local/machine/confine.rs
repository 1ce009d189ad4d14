//! The confinement of qemu: should a guest break out of its machine, it can do nothing on this host that qemu need
//! not do.
//!
//! - Its environment is [`Home::environment`](crate::cloud::local::home::Home), and it has no descriptor that was not
//!   meant for it.
//! - Its system calls are filtered by qemu's own sandbox, and it can gain no rights by a program (`no_new_privs`).
//! - Where the kernel has Landlock, it opens its image to read, its own folder, the memory of a template that it starts from (an
//!   older qemu to write, too), and the system's programs.
//! - Where the local cloud runs as root, qemu becomes a user of its own, one a machine, without capabilities, once it
//!   has opened its files. That of a machine which becomes a template stays root, without capabilities: whoever becomes another
//!   user is no more told of the end of who started it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
    Scope, path_beneath_rules,
};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::CapabilitySet;

use super::qemu::MemoryFile;
use crate::cloud::local::network::enter;
use crate::oci::Digest;

/// The first of the machines' user ids. No range of systemd or of user namespaces (`/etc/subuid`) lies there.
const FIRST_USER: u32 = 0x7000_0000;

/// The number of user ids, so large that two machines of one host never have the same.
const USERS: u32 = 1 << 27;

/// Capabilities that the local cloud needs for machines of other users: to start, to find and to end them.
const NEEDED: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::KILL);

/// Folders of the system that qemu reads: programs, libraries and their settings.
const SYSTEM: &[&str] = &[
    "/bin",
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/opt",
    "/run/current-system",
    "/sbin",
    "/usr",
    "/proc",
    "/sys/devices/system",
    "/sys/kernel/mm",
    "/sys/module/kvm",
];

/// Devices that qemu opens: KVM, and those of every program.
const DEVICES: &[&str] = &["/dev/kvm", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The newest rules of Landlock that are requested; an older kernel applies those that it knows.
const RULES: ABI = ABI::V6;

/// The user id of the machine `id`, where this process can give it one: as root with the capabilities that this needs.
pub(super) fn user(id: &str) -> Option<u32> {
    let has_rights = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED));
    if !rustix::process::geteuid().is_root() || !has_rights {
        return None;
    }
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"];
    let is_mapped = maps.iter().all(|map| fs::read_to_string(map).is_ok_and(|text| maps_users(&text)));
    is_mapped.then(|| user_of(id))
}

fn user_of(id: &str) -> u32 {
    let digest = Digest::of(id.as_bytes());
    let [a, b, c, d, ..] = *digest.as_bytes();
    FIRST_USER + u32::from_be_bytes([a, b, c, d]) % USERS
}

/// Whether this user namespace has the machines' users, by the text of its `uid_map`: a line a range, with its first id
/// here, its first id outside, and its length.
fn maps_users(text: &str) -> bool {
    text.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        first <= u64::from(FIRST_USER) && first + count >= u64::from(FIRST_USER) + u64::from(USERS)
    })
}

/// What a process may open besides what is the system's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opens<'o> {
    /// Its image, to read.
    pub(crate) image: &'o Path,
    /// Its own folder, to write in.
    pub(crate) folder: &'o Path,
    /// The memory of a template, to read; to write only where its qemu cannot do otherwise.
    pub(crate) memory: Option<MemoryFile<'o>>,
}

impl<'o> Opens<'o> {
    /// A process with this image and this folder.
    pub(crate) fn new(image: &'o Path, folder: &'o Path) -> Self {
        Self { image, folder, memory: None }
    }

    /// The same as paths that a thread can take along.
    fn owned(&self) -> (PathBuf, PathBuf, Option<(PathBuf, bool)>) {
        let memory = self.memory.map(|file| (file.path.to_owned(), file.read_only));
        (self.image.to_owned(), self.folder.to_owned(), memory)
    }
}

/// Starts `command`, which may open that. Returns how far Landlock enforces that.
pub(super) fn spawn(command: Command, opens: &Opens<'_>) -> io::Result<(Child, RulesetStatus)> {
    let (image, folder, memory) = opens.owned();
    // Rules hold for a thread and its children, hence a thread that ends after it.
    let confined = std::thread::Builder::new().name("spawn".into()).spawn(move || {
        let memory = memory.as_ref().map(|(path, read_only)| MemoryFile { path, read_only: *read_only });
        let status = restrict(&command, &Opens { image: &image, folder: &folder, memory })?;
        let mut command = command;
        Ok((command.spawn()?, status))
    })?;
    confined.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
}

/// The same of a command that ends with the thread that started it: that thread waits for it, and ends with this process
/// however this process ends. Returns what becomes readable when it has ended.
pub(super) fn spawn_bound(command: Command, opens: &Opens<'_>) -> io::Result<OwnedFd> {
    let (image, folder, _) = opens.owned();
    let (sender, started) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("template".into()).spawn(move || {
        let start = || -> io::Result<(Child, OwnedFd)> {
            restrict(&command, &Opens::new(&image, &folder))?;
            let mut command = command;
            let mut child = command.spawn()?;
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            // Nobody else waits for it, so that the number is still its own.
            let opened = pid.ok_or_else(|| io::ErrorKind::InvalidInput.into()).and_then(|pid| {
                rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)
            });
            match opened {
                Ok(pidfd) => Ok((child, pidfd)),
                Err(error) => {
                    let _ = child.kill().and_then(|()| child.wait());
                    Err(error)
                }
            }
        };
        match start() {
            Ok((mut child, pidfd)) => {
                if sender.send(Ok(pidfd)).is_err() {
                    // Nobody would end it.
                    let _ = child.kill();
                }
                let _ = child.wait();
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
}

/// Restricts this thread.
fn restrict(command: &Command, opens: &Opens<'_>) -> io::Result<RulesetStatus> {
    rustix::thread::set_no_new_privs(true)?;
    let read = AccessFs::from_read(RULES);
    let mut own = read & !AccessFs::Execute;
    own |= AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let system = SYSTEM.iter().chain(&[enter::THIS_PROGRAM]).map(PathBuf::from);
    let system = system.chain(program_folders(command)).chain(name_servers());
    let rules = |paths: Vec<PathBuf>, access: BitFlags<AccessFs>| path_beneath_rules(paths, access);
    let (image, folder) = (opens.image.to_owned(), opens.folder.to_owned());
    let memory: Vec<PathBuf> = opens.memory.map(|file| file.path.to_owned()).into_iter().collect();
    let copied: BitFlags<AccessFs> = match opens.memory {
        Some(MemoryFile { read_only: false, .. }) => AccessFs::ReadFile | AccessFs::WriteFile,
        _ => AccessFs::ReadFile.into(),
    };
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(RULES)))
        .and_then(landlock::Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(rules(system.collect(), read)))
        .and_then(|ruleset| ruleset.add_rules(rules(vec![image], read & !AccessFs::Execute)))
        .and_then(|ruleset| ruleset.add_rules(rules(vec![folder], own)))
        .and_then(|ruleset| ruleset.add_rules(rules(memory, copied)))
        .and_then(|ruleset| ruleset.add_rules(rules(DEVICES.iter().map(PathBuf::from).collect(), device)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(status.ruleset)
}

/// Folders of a program that does not lie where programs of the system do: its own, and those beside it.
fn program_folders(command: &Command) -> Vec<PathBuf> {
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    let folders = path.map(std::env::split_paths).into_iter().flatten();
    // This program enters the environment's network and becomes the one behind the dashes.
    let behind = command.get_args().skip_while(|argument| *argument != "--").nth(1);
    let program =
        behind.filter(|_| command.get_program() == enter::THIS_PROGRAM).unwrap_or(command.get_program());
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    let mut all = Vec::new();
    // The path itself, and the target of its links.
    for program in found.iter().cloned().chain(found.as_ref().and_then(|path| path.canonicalize().ok())) {
        let Some(folder) = program.parent() else { continue };
        all.push(folder.to_owned());
        if let (true, Some(prefix)) = (folder.ends_with("bin"), folder.parent()) {
            all.extend(["lib", "lib64", "libexec", "share"].map(|beside| prefix.join(beside)));
        }
    }
    all
}

/// The target of `/etc/resolv.conf`, where that is a link out of `/etc`.
fn name_servers() -> Option<PathBuf> {
    let file = fs::canonicalize("/etc/resolv.conf").ok()?;
    let folder = file.parent()?;
    // A new version of the file replaces it, so the rule is for its folder, unless that holds everything.
    Some(if folder == Path::new("/run") { file } else { folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn each_vm_has_a_user_of_its_own() {
        let one = user_of("web-1-bcdfg");
        assert_eq!(one, user_of("web-1-bcdfg"));
        assert_ne!(one, user_of("web-1-bcdfh"));
        assert!((FIRST_USER..FIRST_USER + USERS).contains(&one));
    }

    #[test]
    fn a_namespace_without_these_users_is_seen() {
        assert!(maps_users("         0          0 4294967295\n"));
        assert!(!maps_users("         0     100000      65536\n"));
        assert!(!maps_users("         0       1000          1\n         1     100000      65536\n"));
        assert!(!maps_users("") && !maps_users("x y z"));
    }

    #[test]
    fn a_process_reads_its_image_writes_its_folder_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), name).unwrap();
            folder
        };
        let (image, own, other) = (folder("image"), folder("own"), folder("other"));
        let script = "cat $1/file; echo x 2>&1 >> $1/file; cat $2/file; echo x > $2/new; cat $3/file; \
                      cat $3/memory; echo x > $3/memory; exit 0";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).args([&image, &own, &other]);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let file = other.join("memory");
        fs::write(&file, "copied").unwrap();
        let memory = Some(MemoryFile { path: &file, read_only: true });
        let (child, status) = spawn(command, &Opens { memory, ..Opens::new(&image, &own) }).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("image") && text.contains("own") && text.contains("copied"), "{text}");
        assert!(own.join("new").exists());
        // Everything else is as the kernel has it: without Landlock a process reads what its user reads.
        let is_kept = status == RulesetStatus::NotEnforced || !text.contains("other");
        assert!(is_kept, "{status:?}: {text}");
        if status != RulesetStatus::NotEnforced {
            assert_eq!(fs::read_to_string(image.join("file")).unwrap(), "image");
            assert_eq!(fs::read_to_string(&file).unwrap(), "copied");
        }
    }

    #[test]
    fn a_process_gains_no_rights() {
        let mut command = Command::new("grep");
        command.args(["NoNewPrivs", "/proc/self/status"]).stdout(Stdio::piped());
        let folder = tempfile::tempdir().unwrap();
        let (child, _) = spawn(command, &Opens::new(folder.path(), folder.path())).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "NoNewPrivs:\t1\n");
    }
}
