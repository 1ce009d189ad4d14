//! Follows disks that outlive the machine: when the host makes one larger, its file system is grown while it is in use.
//!
//! Whoever asks how the pod is has it looked at, which the host does every few seconds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use i2kit_spec::disk_serial;

/// Whole disks, a folder each.
const DISKS: &str = "/sys/block";

/// What the kernel counts sizes of disks in, as part of a block of the file system.
const SECTORS_PER_BLOCK: u64 = 8;

/// Sizes of the disks in sectors, as they were when their file systems were last grown.
static GROWN: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

/// Grows what is smaller than its disk.
pub(crate) fn follow() {
    let mut grown = GROWN.lock().unwrap_or_else(PoisonError::into_inner);
    for (device, sectors) in kept_disks(Path::new(DISKS)) {
        if grown.get(&device) == Some(&sectors) {
            continue;
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let Some(folder) = mount_point(&mounts, &device) else { continue };
        // One that cannot be grown now is when the machine starts anew, which reports why.
        let _ = File::open(folder)
            .and_then(|folder| i2kit_sys::resize_ext4(&folder, sectors / SECTORS_PER_BLOCK));
        grown.insert(device, sectors);
    }
}

/// Disks that outlive the machine, with their sizes in sectors.
fn kept_disks(folder: &Path) -> Vec<(PathBuf, u64)> {
    let prefix = disk_serial(0);
    let prefix = prefix.trim_end_matches('0');
    let disks = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|disk| {
        let read = |name: &str| fs::read_to_string(disk.path().join(name)).ok();
        let serial = read("serial")?;
        let sectors = read("size")?.trim().parse().ok()?;
        serial.starts_with(prefix).then(|| (Path::new("/dev").join(disk.file_name()), sectors))
    });
    disks.collect()
}

/// Where a device is mounted first.
fn mount_point<'m>(mounts: &'m str, device: &Path) -> Option<&'m str> {
    mounts.lines().find_map(|line| {
        let (source, rest) = line.split_once(' ')?;
        (Path::new(source) == device).then(|| rest.split(' ').next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_are_kept_are_found_by_their_serials() {
        let folder = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", ""), ("vdb", "i2kit-scratch-0"), ("vdc", "i2kit-disk-1\n")] {
            let disk = folder.path().join(name);
            fs::create_dir(&disk).unwrap();
            fs::write(disk.join("serial"), serial).unwrap();
            fs::write(disk.join("size"), "2048\n").unwrap();
        }
        assert_eq!(kept_disks(folder.path()), [(PathBuf::from("/dev/vdc"), 2048)]);
        let mounts =
            "/dev/vda1 /pod erofs ro 0 0\n/dev/vdc /volumes/data ext4 rw 0 0\n/dev/vdc /x ext4 rw 0 0\n";
        assert_eq!(mount_point(mounts, Path::new("/dev/vdc")), Some("/volumes/data"));
        assert_eq!(mount_point(mounts, Path::new("/dev/vd")), None);
    }
}
