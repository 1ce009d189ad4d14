//! What a guest would boot: the description of the pod, which the stand-in reads from the machine's disk.

use std::fs::{self, File};
use std::path::Path;

use i2kit::erofs::Reader;
use i2kit_spec::{ContainerBoot, POD_BOOT_PATH, PodBoot};

/// The pod on a disk: that of the first of its parts that is a file system with a description.
pub(super) fn of(disk: &Path) -> Option<PodBoot> {
    let descriptor = fs::read_to_string(disk).ok()?;
    let folder = disk.parent()?;
    // RW SECTORS FLAT "FILE" OFFSET
    let mut parts = descriptor.lines().filter(|line| line.starts_with("RW "));
    parts.find_map(|line| described(&folder.join(line.split('"').nth(1)?)))
}

/// The description in a file system; none where the file is something else.
fn described(part: &Path) -> Option<PodBoot> {
    let mut files = Reader::new(File::open(part).ok()?).ok()?;
    let description = files.lookup(POD_BOOT_PATH.as_bytes()).ok()?;
    serde_json::from_slice(&files.read(&description).ok()?).ok()
}

/// The containers that run for as long as the pod: sidecars, then its own.
pub(super) fn running(pod: &PodBoot) -> impl Iterator<Item = &ContainerBoot> {
    pod.onboot.iter().filter(|container| container.sidecar).chain(&pod.services)
}
