//! Disks that outlive the machine: found by their serial numbers, mounted with what is on them, grown to their disk's size,
//! and given to the pod's group.
//!
//! Their file system was made by the host. What a machine that was killed left in its journal is put in place by the
//! kernel when it mounts.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use i2kit_spec::disk_serial;
use rustix::mount::{MountFlags, mount};

use super::scratch::{self, KIND};
use crate::error::{Doing, Error};

/// Bytes of a block of the file system.
const BLOCK: u64 = 4096;

/// What the group may do with everything: read and write.
const GROUP_MODE: u32 = 0o660;

/// And with folders: enter, and have what is made inside belong to it too.
const FOLDER_MODE: u32 = 0o2110;

/// The group that disks are given to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) group: u32,
    /// Whether a disk is left as it is when its top folder is the group's already.
    pub(crate) on_mismatch: bool,
}

/// Mounts the disk of this number. It belongs to the owner where there is one, as kubelet gives a volume to a pod's
/// `fsGroup`.
pub(crate) fn make(number: u32, target: &Path, owner: Option<Owner>) -> Result<(), Error> {
    let serial = disk_serial(number);
    let (device, bytes) = scratch::find(&serial)
        .ok_or_else(|| std::io::Error::other("the machine has no such disk"))
        .doing(|| format!("find the disk {serial}"))?;
    // Blocks that are free again are given back to the host.
    mount(&device, target, KIND, MountFlags::NODEV, c"discard").doing(|| {
        format!(
            "mount {} ({serial}) on {}; `e2fsck` on the disk's file mends it",
            device.display(),
            target.display()
        )
    })?;
    let folder = File::open(target).doing(|| format!("open {}", target.display()))?;
    match i2kit_sys::resize_ext4(&folder, bytes / BLOCK) {
        // The kernel grows none that an error was noted in, also when it is as large as its disk. It is mounted all the same:
        // what is on it is there, and `e2fsck` on the host takes the note away.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        grown => grown.doing(|| format!("grow the file system on {serial}"))?,
    }
    match owner {
        Some(owner) if !(owner.on_mismatch && has(target, owner.group)?) => {
            give_below(target, owner.group);
            give(target, owner.group)
        }
        _ => Ok(()),
    }
}

/// Whether the folder is the group's already.
fn has(folder: &Path, group: u32) -> Result<bool, Error> {
    let found = fs::metadata(folder).doing(|| format!("look at {}", folder.display()))?;
    let wanted = GROUP_MODE | FOLDER_MODE;
    Ok(found.gid() == group && found.mode() & wanted == wanted)
}

/// Gives everything in a folder to a group that may read and write it. What cannot be given, such as a file that is
/// immutable or a path that is too long, stays as it is: what a pod wrote must not keep its machine from booting.
fn give_below(folder: &Path, group: u32) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            drop(give(&entry.path(), group));
        }
    }
}

/// Gives a file or a folder to a group that may read and write it.
fn give(path: &Path, group: u32) -> Result<(), Error> {
    let doing = || format!("give {} to group {group}", path.display());
    let found = fs::symlink_metadata(path).doing(doing)?;
    if found.gid() != group {
        lchown(path, None, Some(group)).doing(doing)?;
    }
    if found.is_symlink() {
        return Ok(());
    }
    let added = if found.is_dir() { GROUP_MODE | FOLDER_MODE } else { GROUP_MODE };
    let mode = found.mode() & 0o7777;
    if mode | added != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | added)).doing(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_group_gets_all_of_a_disk_and_no_target_of_a_link() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("disk")).unwrap();
        fs::create_dir(path("disk/data")).unwrap();
        for file in ["outside", "disk/data/file"] {
            fs::write(path(file), "").unwrap();
            fs::set_permissions(path(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(path("outside"), path("disk/link")).unwrap();
        // The group that is there already needs no rights to be given.
        let group = fs::metadata(path("disk")).unwrap().gid();
        let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o7777;
        assert!(!has(&path("disk"), group).unwrap());
        give_below(&path("disk"), group);
        give(&path("disk"), group).unwrap();
        assert!(has(&path("disk"), group).unwrap() && !has(&path("disk"), group + 1).unwrap());
        assert_eq!(mode("disk/data") & 0o2770, 0o2770);
        assert_eq!((mode("disk/data/file"), mode("outside")), (0o660, 0o600));
    }
}
