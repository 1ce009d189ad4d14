//! Machine images: carries an image plan out. It knows the guest bundle, the registry and the cache; it does not know
//! clouds.
//!
//! [`Workshop`] builds a [`DiskImage`] of an image plan, by listing parts that the cache has and making those that it lacks.
//! [`GuestBundle`] is what machines boot, [`raw`] and [`formats`] write disks as files, [`bootable()`] makes one that firmware
//! boots, and [`Signer`] signs it.
//!
//! ```no_run
//! # async fn build(
//! #     registry: i2kit::registry::Registry,
//! #     guest: i2kit::image::GuestBundle,
//! #     plan: &i2kit::plan::image::ImagePlan,
//! #     images: &std::collections::BTreeMap<i2kit::oci::Reference, i2kit::oci::ResolvedImage>,
//! # ) -> Result<(), i2kit::image::ImageError> {
//! let workshop = i2kit::image::Workshop::new(registry, guest, i2kit::report::Events::none());
//! let disk = workshop.build(plan, images).await?;
//! # let _ = disk;
//! # Ok(())
//! # }
//! ```

mod bootable;
mod build;
mod error;
pub mod export;
pub mod formats;
pub mod guest;
mod implied;
pub mod raw;
mod sign;
#[cfg(test)]
mod tests;
mod verity;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::bootable::{bootable, bootable_signed};
pub use self::build::Workshop;
pub use self::error::ImageError;
pub use self::formats::FileFormat;
pub use self::guest::GuestBundle;
pub use self::sign::Signer;
use crate::plan::image::ImageId;

/// A built machine image: where its parts lie on this machine. The files are content-addressed and never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskImage {
    /// The image's identity.
    pub id: ImageId,
    /// The kernel, as a file that qemu boots directly.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initrd: PathBuf,
    /// What is added to the initial RAM file system where firmware boots the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<PathBuf>,
    /// The EFI stub that [`bootable()`] needs, when the guest bundle has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stub: Option<PathBuf>,
    /// Kernel command line that belongs to the image.
    pub cmdline: String,
    /// The disk from its first byte to its last. Every length is a multiple of 512.
    pub segments: Vec<Segment>,
}

/// Writes a part of a disk whole or not at all, with a record of what it is: [`bootable()`] and [`raw::write`] take
/// nothing without.
pub fn write_part(path: &std::path::Path, bytes: &[u8]) -> Result<(), ImageError> {
    Ok(crate::registry::sum::write(path, bytes)?)
}

/// Reads a file of the cache whole; what is not what was written there is removed, and an error.
pub(crate) fn check(file: &std::path::Path) -> Result<(), ImageError> {
    match crate::registry::sum::verify_or_remove(file)? {
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
