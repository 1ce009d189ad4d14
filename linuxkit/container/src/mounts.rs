//! Mounts inside a container's root, in the cloned child.
//!
//! [`open_sources`] runs in the VM's root and may open only volumes and files of the guest; everything else runs after the
//! root was changed, where no path and no symbolic link of an image leads out of the container.

use std::ffi::{CString, OsString};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

use i2kit_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree,
};

use crate::error::{Doing, Error};
use crate::subpath;
use crate::users;

/// fstab's words that set a flag, and those that clear one again.
const FLAGS: [(&str, MountFlags, bool); 18] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
];

/// fstab's words for propagation.
const PROPAGATION: [(&str, MountPropagationFlags); 6] = [
    ("private", MountPropagationFlags::PRIVATE),
    ("rprivate", MountPropagationFlags::PRIVATE.union(MountPropagationFlags::REC)),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    ("rslave", MountPropagationFlags::DOWNSTREAM.union(MountPropagationFlags::REC)),
    ("shared", MountPropagationFlags::SHARED),
    ("rshared", MountPropagationFlags::SHARED.union(MountPropagationFlags::REC)),
];

/// The device nodes that every container has, as the runtime specification lists them.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links that every container has in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// A mount's options, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    recursive: bool,
    /// What the file system itself reads, joined by commas.
    data: String,
}

impl Options {
    fn parse(words: &[String]) -> Self {
        let mut options =
            Self { flags: MountFlags::empty(), propagation: None, recursive: false, data: String::new() };
        for word in words {
            if let Some((_, flag, set)) = FLAGS.iter().find(|(name, _, _)| name == word) {
                options.flags.set(*flag, *set);
            } else if let Some((_, propagation)) = PROPAGATION.iter().find(|(name, _)| name == word) {
                options.propagation = Some(*propagation);
            } else if word == "bind" || word == "rbind" {
                options.recursive = word == "rbind";
            } else if word != "defaults" {
                if !options.data.is_empty() {
                    options.data.push(',');
                }
                options.data.push_str(word);
            }
        }
        options
    }
}

/// The sources of bind mounts, taken hold of before the VM's root is out of sight.
#[derive(Debug)]
pub(crate) struct Sources {
    trees: Vec<Option<(OwnedFd, bool)>>,
}

/// Takes hold of the sources of all bind mounts, in the VM's root. `expanded` are the destinations of those whose source has
/// variables in it.
///
/// In a user namespace owners are shifted where the file system can do it; in memory it cannot, and need not.
pub(crate) fn open_sources(
    mounts: &[Mount],
    expanded: &[String],
    users: Option<BorrowedFd<'_>>,
) -> Result<Sources, Error> {
    let open = |mount: &Mount| {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if Options::parse(&mount.options).recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let doing = || format!("open the bind mount's source {}", mount.source);
        let source = match subpath::of(&mount.source) {
            Some(part) => subpath::open(&part)?,
            // Whoever gives the variables their values must not choose what of the VM is mounted.
            None if expanded.contains(&mount.destination) => {
                return Err(Error::Unknown { what: "source of a mount", value: mount.source.clone() });
            }
            None => {
                rustix::fs::open(&mount.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?
            }
        };
        let tree = open_tree(&source, "", flags).doing(doing)?;
        if let Some(users) = users {
            let _ = i2kit_sys::shift_owners(tree.as_fd(), users);
        }
        let found = rustix::fs::fstat(&source).doing(doing)?;
        Ok((tree, FileType::from_raw_mode(found.st_mode).is_dir()))
    };
    let trees = mounts.iter().map(|mount| (mount.kind == "bind").then(|| open(mount)).transpose());
    Ok(Sources { trees: trees.collect::<Result<_, Error>>()? })
}

/// Makes the mounts in their order. What is missing on the way to a mount point belongs to `owner`.
pub(crate) fn make_all(mounts: &[Mount], sources: Sources, owner: Owner) -> Result<(), Error> {
    for (entry, source) in mounts.iter().zip(sources.trees) {
        let target = resolve(Path::new(&entry.destination))?;
        let mut options = Options::parse(&entry.options);
        if owner != Owner::Root && entry.kind == "tmpfs" {
            let comma = if options.data.is_empty() { "" } else { "," };
            let _ = write!(options.data, "{comma}uid={0},gid={0}", owner.number());
        }
        match source {
            Some((tree, folder)) => bind(&tree, folder, &target, &options, owner)?,
            None => fresh(entry, &target, &options, owner)?,
        }
        if let Some(propagation) = options.propagation {
            mount_change(&target, propagation)
                .doing(|| format!("set the propagation of {}", target.display()))?;
        }
        if entry.destination == "/dev" && entry.kind == "devtmpfs" {
            // The machine's own devices; every container that has them sees the same folder.
            link_dev()?;
        } else if entry.destination == "/dev" {
            populate_dev()?;
            if options.flags.contains(MountFlags::RDONLY) {
                // Read-only only now, and mount points under it must be there already.
                for folder in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
                    make_folder(Path::new(folder), owner)?;
                }
                make_file(Path::new(i2kit_spec::TERMINATION_LOG), owner)?;
                mount_remount(&target, MountFlags::BIND | options.flags, c"")
                    .doing(|| "make /dev read-only".into())?;
            }
        }
    }
    Ok(())
}

fn bind(tree: &OwnedFd, folder: bool, target: &Path, options: &Options, owner: Owner) -> Result<(), Error> {
    if folder {
        make_folder(target, owner)?;
    } else {
        make_file(target, owner)?;
    }
    // Also for what is mounted below: what must not be written to must not have a way around.
    i2kit_sys::restrict_mounts(tree.as_fd(), restrictions(options.flags))
        .doing(|| format!("restrict {}", target.display()))?;
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| format!("bind {}", target.display()))?;
    let restricted = RESTRICTIONS.iter().fold(MountFlags::empty(), |all, (flag, _)| all | *flag);
    if !options.flags.difference(restricted).is_empty() {
        let kept = flags_of(target).doing(|| format!("look at {}", target.display()))?;
        mount_remount(target, MountFlags::BIND | options.flags | kept, c"")
            .doing(|| format!("set the options of {}", target.display()))?;
    }
    Ok(())
}

/// What takes something away from a mount, by the two names that the kernel has for it.
const RESTRICTIONS: [(MountFlags, u64); 4] = [
    (MountFlags::RDONLY, i2kit_sys::MOUNT_READ_ONLY),
    (MountFlags::NOSUID, i2kit_sys::MOUNT_NO_SETUID),
    (MountFlags::NODEV, i2kit_sys::MOUNT_NO_DEVICES),
    (MountFlags::NOEXEC, i2kit_sys::MOUNT_NO_PROGRAMS),
];

fn restrictions(flags: MountFlags) -> u64 {
    RESTRICTIONS.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |all, (_, number)| all | number)
}

fn fresh(entry: &Mount, target: &Path, options: &Options, owner: Owner) -> Result<(), Error> {
    let kind = match entry.kind.as_str() {
        // The VM has the one hierarchy of cgroup v2, whichever of the two words the configuration uses.
        "cgroup" | "cgroup2" => "cgroup2",
        known @ ("proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "devtmpfs") => known,
        unknown => return Err(Error::Unknown { what: "mount type", value: unknown.to_owned() }),
    };
    make_folder(target, owner)?;
    let mut flags = options.flags;
    if entry.destination == "/dev" {
        flags.remove(MountFlags::RDONLY);
    }
    let data = CString::new(options.data.as_str())
        .map_err(|_| Error::Unknown { what: "mount option", value: options.data.clone() })?;
    mount(entry.source.as_str(), target, kind, flags, data.as_c_str())
        .doing(|| format!("mount {kind} on {} with {:?}", target.display(), options.data))
}

/// Fills a fresh `/dev`.
fn populate_dev() -> Result<(), Error> {
    for (name, major, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        let device = rustix::fs::makedev(major, minor);
        // The process's umask is zero until its own is set.
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
            .doing(|| format!("make {}", path.display()))?;
    }
    link_dev()
}

fn link_dev() -> Result<(), Error> {
    for (path, target) in LINKS {
        match symlink(target, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).doing(|| format!("make {path}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes each path read as empty: a file as `/dev/null`, a folder as an empty read-only one.
pub(crate) fn mask(paths: &[String]) -> Result<(), Error> {
    for path in paths {
        let doing = || format!("mask {path}");
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, c"size=0").doing(doing)?;
            }
            Ok(_) => mount_bind("/dev/null", path).doing(doing)?,
            // What is not there needs no mask.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Makes each path read-only, with whatever is mounted under it left as it is.
pub(crate) fn make_readonly(paths: &[String]) -> Result<(), Error> {
    for path in paths {
        let doing = || format!("make {path} read-only");
        match mount_bind_recursive(path.as_str(), path.as_str()) {
            Ok(()) => {}
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno).doing(doing),
        }
        let kept = flags_of(Path::new(path)).doing(doing)?;
        mount_remount(path.as_str(), MountFlags::BIND | MountFlags::RDONLY | kept, c"").doing(doing)?;
    }
    Ok(())
}

/// Makes the root itself read-only.
pub(crate) fn make_root_readonly() -> Result<(), Error> {
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV, c"")
        .doing(|| "make the root read-only".into())
}

/// The restricting flags of the mount that a path is on, which a new bind mount would lose.
fn flags_of(path: &Path) -> rustix::io::Result<MountFlags> {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let pairs = [
        (Has::RDONLY, MountFlags::RDONLY),
        (Has::NOSUID, MountFlags::NOSUID),
        (Has::NODEV, MountFlags::NODEV),
        (Has::NOEXEC, MountFlags::NOEXEC),
    ];
    Ok(pairs.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect())
}

/// Whom something belongs to that is made because the image does not have it: root, as the container knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The VM's root is the container's too.
    Root,
    /// The first user of the pod's own namespace.
    Shifted,
}

impl Owner {
    /// The VM's number of it.
    fn number(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Shifted => users::FIRST,
        }
    }

    fn take(self, path: &Path) -> Result<(), Error> {
        if self == Self::Root {
            return Ok(());
        }
        chown(path, Some(self.number()), Some(self.number()))
            .doing(|| format!("give {} to root", path.display()))
    }
}

/// Folders that are made on the way, and files to mount others over: as container engines make them.
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The path with all links followed, as the kernel would follow them from the root that this process has; what is missing
/// is taken for folders that will be made. So a mount point that is a link in the image is made where the link leads,
/// whether or not something is there.
fn resolve(path: &Path) -> Result<PathBuf, Error> {
    resolve_below(Path::new("/"), path).doing(|| format!("follow {}", path.display()))
}

/// The same from a folder that stands for the root.
fn resolve_below(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        names.collect()
    };
    let mut links = 0;
    let mut left = parts(path);
    let mut done = PathBuf::new();
    while let Some(name) = left.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        match fs::read_link(root.join(&next)) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                left.extend(parts(&target));
            }
            // It is no link, or it is not there.
            Err(_) => done = next,
        }
    }
    Ok(root.join(done))
}

/// Makes the folder that a path leads to, and all that is missing above it.
pub(crate) fn make_working_folder(path: &Path, owner: Owner) -> Result<(), Error> {
    make_folder(&resolve(path)?, owner)
}

/// The same for a path without links.
fn make_folder(path: &Path, owner: Owner) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), |parent| make_folder(parent, owner))?;
    // The process's umask is zero until its own is set.
    DirBuilder::new()
        .mode(FOLDER_MODE)
        .create(path)
        .doing(|| format!("make the folder {}", path.display()))?;
    owner.take(path)
}

fn make_file(path: &Path, owner: Owner) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), |parent| make_folder(parent, owner))?;
    let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    made.map(drop).doing(|| format!("make the file {}", path.display()))?;
    owner.take(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_inside_the_root_whether_or_not_something_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("var/deep")).unwrap();
        for (link, target) in [
            ("var/run", "/run"),
            ("var/lock", "../run/lock"),
            ("esc", "../../../etc/esc"),
            ("var/deep/up", ".."),
            ("chain", "var/run/./x/../y"),
            ("self", "self"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let leads = |path: &str| {
            let found = resolve_below(root, Path::new(path)).unwrap();
            format!("/{}", found.strip_prefix(root).unwrap().display())
        };
        assert_eq!(leads("/var/run"), "/run");
        assert_eq!(leads("/var/run/a/b"), "/run/a/b");
        assert_eq!(leads("/var/lock"), "/run/lock");
        assert_eq!(leads("/esc"), "/etc/esc");
        assert_eq!(leads("/var/deep/up/run"), "/run");
        assert_eq!(leads("/chain/z"), "/run/y/z");
        assert_eq!(leads("/../.."), "/");
        assert_eq!(resolve_below(root, Path::new("/self/x")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn restrictions_have_the_kernels_numbers() {
        let all = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        assert_eq!(restrictions(all | MountFlags::NOATIME), 0xf);
        assert_eq!(restrictions(MountFlags::NODEV), 0x4);
    }

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let words: Vec<String> =
            ["nosuid", "strictatime", "mode=755", "ro", "size=65536k", "rw", "rslave", "rbind"]
                .map(Into::into)
                .into();
        assert_eq!(
            Options::parse(&words),
            Options {
                flags: MountFlags::NOSUID | MountFlags::STRICTATIME,
                propagation: Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC),
                recursive: true,
                data: "mode=755,size=65536k".into(),
            }
        );
    }
}
