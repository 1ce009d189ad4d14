//! Disks for scratch space: found by their serial numbers, given an empty file system at boot, and lost with the machine.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use i2kit_spec::scratch_serial;
use rustix::mount::{MountFlags, mount};

use super::ext4;
use crate::error::{Doing, Error};

/// Whole disks, a folder each.
const DISKS: &str = "/sys/block";

/// The file system, as the kernel calls it.
pub(super) const KIND: &str = "ext4";

/// The identity of each file system, with which names in folders are hashed. No two of them need different ones, and
/// whoever makes names that collide slows down nobody but its own pod.
const ID: [u8; 16] = *b"i2kit scratch fs";

/// What the kernel counts sizes of disks in.
const SECTOR: u64 = 512;

/// A disk of zeros.
#[derive(Debug)]
pub(crate) struct Disk {
    device: PathBuf,
    bytes: u64,
}

/// The scratch disk of this number, when the machine has it and the kernel the file system.
pub(crate) fn disk(number: u32) -> Option<Disk> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.trim() == KIND) {
        return None;
    }
    find(&scratch_serial(number)).map(|(device, bytes)| Disk { device, bytes })
}

/// The device and the bytes of the disk with this serial number.
pub(super) fn find(serial: &str) -> Option<(PathBuf, u64)> {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let disks = fs::read_dir(DISKS).into_iter().flatten().flatten();
    let folder = disks.map(|disk| disk.path()).find(|disk| read(disk.join("serial")).trim() == serial)?;
    let sectors: u64 = read(folder.join("size")).trim().parse().ok()?;
    Some((Path::new("/dev").join(folder.file_name()?), sectors.saturating_mul(SECTOR)))
}

impl Disk {
    /// Makes the file system and mounts it. Everybody may write to it, and it belongs to the group where there is one.
    pub(crate) fn mount(&self, target: &Path, group: Option<u32>) -> Result<(), Error> {
        let device = self.device.display();
        let doing = || format!("make a file system on {device}");
        // With the group's bit, so that what is made inside belongs to the group too.
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        let root = ext4::Root { mode, gid: group.unwrap_or(0) };
        let small = || std::io::Error::other(format!("{} bytes are too few", self.bytes));
        let writes = ext4::format(self.bytes, ID, root).ok_or_else(small).doing(doing)?;
        let disk = OpenOptions::new().write(true).open(&self.device).doing(doing)?;
        for (at, bytes) in writes {
            disk.write_all_at(&bytes, at).doing(doing)?;
        }
        // Blocks that are free again are given back to the host.
        mount(&self.device, target, KIND, MountFlags::NODEV | MountFlags::NOATIME, c"discard")
            .doing(|| format!("mount {device} on {}", target.display()))
    }
}
