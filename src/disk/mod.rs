//! Raw disks: the partition table, a disk put together from its parts, a descriptor that shows parts as a disk, and what
//! firmware boots from one.
//! Pure: layouts and bytes in, bytes out. It does not know what is in a partition, nor files.

mod assemble;
mod dump;
mod error;
pub mod esp;
#[cfg(test)]
pub(crate) mod example;
pub mod gpt;
mod uki;
pub mod vmdk;

pub use assemble::assemble;
pub use dump::dump;
pub use error::DiskError;
pub use uki::{Kernel, uki};

/// The sector that partition tables and descriptors count in.
pub const SECTOR: u64 = 512;
