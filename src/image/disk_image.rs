//! A built machine image, and the files that it is made of.

use std::path::{Path, PathBuf};

use i2kit_spec::Architecture;
use serde::{Deserialize, Serialize};

use super::error::ImageError;
use crate::plan::image::ImageId;
use crate::registry::sum;

/// A built machine image: where its parts lie on this machine. The files are content-addressed and never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskImage {
    /// The image's identity.
    pub id: ImageId,
    /// The architecture of kernel and programs.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub architecture: Architecture,
    /// The kernel, as a file that qemu boots directly.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initrd: PathBuf,
    /// What is added to the initial RAM file system where firmware boots the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<PathBuf>,
    /// The EFI stub that [`bootable`](super::bootable()) needs, when the guest bundle has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stub: Option<PathBuf>,
    /// Kernel command line that belongs to the image.
    pub cmdline: String,
    /// The disk from its first byte to its last. Every length is a multiple of 512.
    pub segments: Vec<Segment>,
}

/// Writes a part of a disk whole or not at all, with a record of what it is: [`bootable`](super::bootable()) and [`raw::write`](super::raw::write) take
/// nothing without.
pub fn write_part(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    Ok(sum::write(path, bytes)?)
}

/// Reads a file of the cache whole; what is not what was written there is removed, and an error.
pub(super) fn check(file: &Path) -> Result<(), ImageError> {
    match sum::verify_or_remove(file)? {
        None => Ok(()),
        Some(problem) => Err(ImageError::Spoiled { path: file.to_owned(), problem }),
    }
}

impl DiskImage {
    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }
}

/// A run of bytes of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// The file whose first bytes they are; `None` for zeroes.
    pub file: Option<PathBuf>,
    /// Number of bytes.
    pub length: u64,
}
