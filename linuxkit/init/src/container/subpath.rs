//! Opens a part of a volume without ever leaving the volume: containers write to volumes, so any name on the way may be
//! a symbolic link that leads into the VM.

use std::os::fd::{AsFd, OwnedFd};

use i2kit_spec::VOLUMES_MOUNT;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;

use crate::error::{Doing, Error};

/// A part of a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    volume: &'a str,
    path: &'a str,
}

/// The part of a volume that the source of a bind mount means, if it is one.
pub(super) fn of(source: &str) -> Option<Part<'_>> {
    let rest = source.strip_prefix(VOLUMES_MOUNT)?.strip_prefix('/')?;
    let (volume, path) = rest.split_once('/')?;
    Some(Part { volume, path })
}

/// Opens the part. A folder that is not there is made, as kubelet does it, where the volume can be written to by
/// containers; it has the mode of the volume itself.
pub(super) fn open(part: &Part<'_>) -> Result<OwnedFd, Error> {
    let wrong = |reason: &str| Error::SubPath {
        volume: part.volume.to_owned(),
        path: part.path.to_owned(),
        reason: reason.to_owned(),
    };
    if part.path.split('/').any(|name| name == "..") {
        return Err(wrong("leads out of the volume"));
    }
    let folder = format!("{VOLUMES_MOUNT}/{}", part.volume);
    let root = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {folder}"))?;
    let told = |errno: Errno| match errno {
        Errno::XDEV | Errno::LOOP => wrong("leads out of the volume"),
        Errno::NOENT => wrong("is not there"),
        errno => wrong(&errno.to_string()),
    };
    match beneath(&root, part.path) {
        Err(Errno::NOENT) if writable(&root)? => {
            let mode =
                Mode::from_raw_mode(fstat(&root).doing(|| format!("look at {folder}"))?.st_mode & 0o7777);
            make(&root, part.path, mode).map_err(told)
        }
        found => found.map_err(told),
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

/// Whether containers can write to the volume. Volumes of files are ramfs, which only the guest writes to.
fn writable(root: &OwnedFd) -> Result<bool, Error> {
    /// `RAMFS_MAGIC` of the kernel's headers.
    const RAMFS: i64 = 0x8584_58f6;
    let found = rustix::fs::fstatfs(root).doing(|| "look at a volume".into())?;
    #[expect(clippy::useless_conversion, reason = "the kernel's types differ between architectures")]
    Ok(i64::from(found.f_type) != RAMFS)
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
    use super::*;

    #[test]
    fn only_parts_of_volumes_are_parts() {
        assert_eq!(of("/volumes/data/a/b"), Some(Part { volume: "data", path: "a/b" }));
        assert_eq!(of("/volumes/data"), None);
        assert_eq!(of("/pod/volumes/config/a"), None);
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
