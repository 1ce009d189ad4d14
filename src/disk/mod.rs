//! Raw disks: the partition table, a disk put together from its parts, a descriptor that shows parts as a disk, trees of
//! hashes that verify it, and what firmware boots from one.
//! Pure: layouts and bytes in, bytes out. It does not know what is in a partition, nor files.
//!
//! [`assemble()`] writes a whole disk, [`vmdk::descriptor`] shows its parts as one without a copy, [`gpt`] has the table,
//! [`verity`] the trees of hashes, [`esp`] and [`uki()`] what firmware boots; [`dump()`] prints a disk.
//!
//! ```
//! use i2kit::disk::vmdk::{Extent, descriptor};
//!
//! let parts = [Extent { file: Some("pod.erofs"), length: 1 << 20 }];
//! assert!(descriptor(&parts, "zeros")?.contains("RW 2048 FLAT \"pod.erofs\" 0"));
//! # Ok::<(), i2kit::disk::DiskError>(())
//! ```

mod assemble;
pub mod cpio;
mod dump;
mod error;
pub mod esp;
#[cfg(test)]
pub(crate) mod example;
pub mod gpt;
pub mod qcow2;
mod sector;
mod sparse;
mod uki;
pub mod verity;
pub mod vhd;
pub mod vmdk;
pub mod vmdk_sparse;

pub use assemble::assemble;
pub use dump::dump;
pub use error::DiskError;
pub use sector::SECTOR;
pub use uki::{Kernel, uki};
