//! Opens a part of a volume without ever leaving the volume: containers write to volumes, so any name on the way may be
//! a symbolic link that leads into the VM.

use std::os::fd::{AsFd, OwnedFd};

use i2kit_spec::VOLUMES_MOUNT;
use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;

use crate::error::{Doing, Error};

/// A part of a volume.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// The folder that all such volumes are in.
    root: &'static str,
    pub(crate) volume: &'a str,
    /// Below the volume's folder; the volume itself when it is empty.
    path: &'a str,
}

/// The part of a volume that the source of a bind mount means, if it is one: of a volume that the guest makes at boot, or of
/// one whose files lie in the pod file system.
pub(crate) fn of(source: &str) -> Option<Part<'_>> {
    ROOTS.into_iter().find_map(|root| {
        let (volume, path) = source.strip_prefix(root)?.strip_prefix('/')?.split_once('/')?;
        Some(Part { root, volume, path: path.trim_matches('/') })
    })
}

/// Where volumes are: those that the guest makes, and those of the pod file system.
const ROOTS: [&str; 2] = [VOLUMES_MOUNT, "/pod/volumes"];

/// Opens the part. A folder that is not there is made, as kubelet does it, where the volume can be written to by
/// containers; it has the mode of the volume itself.
pub(crate) fn open(part: &Part<'_>) -> Result<OwnedFd, Error> {
    let wrong = |reason: &str| Error::SubPath {
        volume: part.volume.to_owned(),
        path: part.path.to_owned(),
        reason: reason.to_owned(),
    };
    if matches!(part.volume, "" | "." | "..") || part.path.split('/').any(|name| name == "..") {
        return Err(wrong("leads out of the volume"));
    }
    let folder = format!("{}/{}", part.root, part.volume);
    let root = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {folder}"))?;
    open_below(&root, part.path).map_err(|errno| match errno {
        Errno::XDEV | Errno::LOOP => wrong("leads out of the volume"),
        Errno::NOENT => wrong("is not there"),
        errno => wrong(&errno.to_string()),
    })
}

/// Opens a path below a volume's folder, or makes it.
fn open_below(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    match beneath(root, if path.is_empty() { "." } else { path }) {
        Err(Errno::NOENT) if writable(root)? => {
            make(root, path, Mode::from_raw_mode(fstat(root)?.st_mode & 0o7777))
        }
        found => found,
    }
}

fn beneath(root: &impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Whether containers can write to the volume. Volumes of files are ramfs, which only the guest writes to, or the pod file
/// system.
fn writable(root: &OwnedFd) -> Result<bool, Errno> {
    /// `RAMFS_MAGIC` of the kernel's headers.
    const RAMFS: i64 = 0x8584_58f6;
    let found = rustix::fs::fstatfs(root)?;
    #[expect(clippy::useless_conversion, reason = "the kernel's types differ between architectures")]
    let kind = i64::from(found.f_type);
    let read_only = rustix::fs::fstatvfs(root)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(kind != RAMFS && !read_only)
}

/// Makes all folders on the way and opens the last one.
fn make(root: &OwnedFd, path: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut folder = beneath(root, ".")?;
    let mut done = String::new();
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        match mkdirat(&folder, name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        done.push_str(name);
        folder = beneath(root, &done)?;
        done.push('/');
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use i2kit_spec::{POD_MOUNT, POD_VOLUMES};

    use super::*;

    #[test]
    fn only_parts_of_volumes_are_parts() {
        assert_eq!(ROOTS[1], format!("{POD_MOUNT}/{POD_VOLUMES}"));
        let part = |root, volume, path| Some(Part { root: ROOTS[root], volume, path });
        assert_eq!(of("/volumes/data/a/b"), part(0, "data", "a/b"));
        assert_eq!(of("/volumes/data/"), part(0, "data", ""));
        assert_eq!(of("/pod/volumes/config/../../.."), part(1, "config", "../../.."));
        for whole in ["/volumes/data", "/pod/volumes/config", "/pod/files/x", "/etc/hosts", "/volumesx/a/b"] {
            assert_eq!(of(whole), None, "{whole}");
        }
    }

    #[test]
    fn nothing_leads_out_of_a_volume_of_files() {
        for source in ["/pod/volumes/config/../../..", "/pod/volumes/../x/y", "/volumes/data/a/../../b"] {
            let message = open(&of(source).unwrap()).unwrap_err().to_string();
            assert!(message.ends_with("leads out of the volume"), "{source}: {message}");
        }
    }

    proptest::proptest! {
        /// Whatever path a variable makes and whatever links a container has made: what is opened lies in the volume.
        #[test]
        fn what_is_opened_lies_in_the_volume(
            parts in proptest::collection::vec("\\.\\.|\\.|/|a|b|up|out|home|\\$", 0..8),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let volume = folder.path().join("volume");
            std::fs::create_dir_all(volume.join("a/b")).unwrap();
            std::fs::create_dir(folder.path().join("outside")).unwrap();
            for (link, target) in [("up", ".."), ("a/up", "../.."), ("out", "/"), ("home", "../outside"), ("a/b/a", "../b")] {
                std::os::unix::fs::symlink(target, volume.join(link)).unwrap();
            }
            let root = rustix::fs::open(&volume, OFlags::PATH, Mode::empty()).unwrap();
            if let Ok(found) = open_below(&root, parts.join("/").trim_matches('/')) {
                let at = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap();
                proptest::prop_assert!(at.starts_with(&volume), "{}", at.display());
            }
            let outside = std::fs::read_dir(folder.path().join("outside")).unwrap().count();
            proptest::prop_assert_eq!(outside, 0);
            proptest::prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn links_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("in")).unwrap();
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mode = Mode::from_raw_mode(0o755);
        assert_eq!(beneath(&root, "out").unwrap_err(), Errno::XDEV);
        assert_eq!(make(&root, "out/made", mode).unwrap_err(), Errno::XDEV);
        make(&root, "real/deep", mode).unwrap();
        beneath(&root, "in/deep").unwrap();
        assert!(!std::path::Path::new("/etc/made").exists());
    }
}
