//! Mounts inside a container's root. Everything runs in the cloned child, after its root was changed, so that no path
//! and no symbolic link of an image can lead out of it.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use i2kit_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree,
};

use super::subpath;
use crate::error::{Doing, Error};
use crate::{sys, users};

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
pub(super) struct Sources {
    trees: Vec<Option<(OwnedFd, bool)>>,
}

/// Takes hold of the sources of all bind mounts, in the VM's root.
///
/// In a user namespace owners are shifted where the file system can do it; in memory it cannot, and need not.
pub(super) fn open_sources(mounts: &[Mount], users: Option<BorrowedFd<'_>>) -> Result<Sources, Error> {
    let open = |mount: &Mount| {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if Options::parse(&mount.options).recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let doing = || format!("open the bind mount's source {}", mount.source);
        let source = match subpath::of(&mount.source) {
            Some(part) => subpath::open(&part)?,
            None => {
                rustix::fs::open(&mount.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?
            }
        };
        let tree = open_tree(&source, "", flags).doing(doing)?;
        if let Some(users) = users {
            let _ = sys::shift_owners(tree.as_fd(), users);
        }
        let found = rustix::fs::fstat(&source).doing(doing)?;
        Ok((tree, FileType::from_raw_mode(found.st_mode).is_dir()))
    };
    let trees = mounts.iter().map(|mount| (mount.kind == "bind").then(|| open(mount)).transpose());
    Ok(Sources { trees: trees.collect::<Result<_, Error>>()? })
}

/// Makes the mounts in their order.
pub(super) fn make_all(mounts: &[Mount], sources: Sources, in_namespace: bool) -> Result<(), Error> {
    for (entry, source) in mounts.iter().zip(sources.trees) {
        let target = Path::new(&entry.destination);
        let mut options = Options::parse(&entry.options);
        if in_namespace && entry.kind == "tmpfs" {
            let comma = if options.data.is_empty() { "" } else { "," };
            let _ = write!(options.data, "{comma}uid={0},gid={0}", users::FIRST);
        }
        match source {
            Some((tree, folder)) => bind(&tree, folder, target, &options)?,
            None => fresh(entry, target, &options)?,
        }
        if let Some(propagation) = options.propagation {
            mount_change(target, propagation)
                .doing(|| format!("set the propagation of {}", target.display()))?;
        }
        if target == Path::new("/dev") && entry.kind == "devtmpfs" {
            // The machine's own devices; every container that has them sees the same folder.
            link_dev()?;
        } else if target == Path::new("/dev") {
            populate_dev()?;
            if options.flags.contains(MountFlags::RDONLY) {
                // Read-only only now, and mount points under it must be there already.
                for folder in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
                    make_folder(Path::new(folder))?;
                }
                mount_remount(target, MountFlags::BIND | options.flags, c"")
                    .doing(|| "make /dev read-only".into())?;
            }
        }
    }
    Ok(())
}

fn bind(tree: &OwnedFd, folder: bool, target: &Path, options: &Options) -> Result<(), Error> {
    if folder {
        make_folder(target)?;
    } else {
        make_file(target)?;
    }
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| format!("bind {}", target.display()))?;
    if !options.flags.is_empty() {
        mount_remount(target, MountFlags::BIND | options.flags, c"")
            .doing(|| format!("set the options of {}", target.display()))?;
    }
    Ok(())
}

fn fresh(entry: &Mount, target: &Path, options: &Options) -> Result<(), Error> {
    let kind = match entry.kind.as_str() {
        // The VM has the one hierarchy of cgroup v2, whichever of the two words the configuration uses.
        "cgroup" | "cgroup2" => "cgroup2",
        known @ ("proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "devtmpfs") => known,
        unknown => return Err(Error::Unknown { what: "mount type", value: unknown.to_owned() }),
    };
    make_folder(target)?;
    let mut flags = options.flags;
    if target == Path::new("/dev") {
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
pub(super) fn mask(paths: &[String]) -> Result<(), Error> {
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
pub(super) fn make_readonly(paths: &[String]) -> Result<(), Error> {
    for path in paths {
        let doing = || format!("make {path} read-only");
        match mount_bind_recursive(path.as_str(), path.as_str()) {
            Ok(()) => {}
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno).doing(doing),
        }
        let kept = flags_of(path).doing(doing)?;
        mount_remount(path.as_str(), MountFlags::BIND | MountFlags::RDONLY | kept, c"").doing(doing)?;
    }
    Ok(())
}

/// Makes the root itself read-only.
pub(super) fn make_root_readonly() -> Result<(), Error> {
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV, c"")
        .doing(|| "make the root read-only".into())
}

/// The restricting flags of the mount that a path is on, which a new bind mount would lose.
fn flags_of(path: &str) -> rustix::io::Result<MountFlags> {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let pairs = [
        (Has::NOSUID, MountFlags::NOSUID),
        (Has::NODEV, MountFlags::NODEV),
        (Has::NOEXEC, MountFlags::NOEXEC),
    ];
    Ok(pairs.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect())
}

pub(super) fn make_folder(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).doing(|| format!("make the folder {}", path.display()))
}

fn make_file(path: &Path) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make_folder)?;
    // Images have links here that lead nowhere, `/etc/resolv.conf` above all; the file takes their place.
    if path.is_symlink() {
        fs::remove_file(path).doing(|| format!("replace the link {}", path.display()))?;
    }
    File::create(path).map(drop).doing(|| format!("make the file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
