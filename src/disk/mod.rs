//! Raw disks: the partition table, a disk put together from its parts, and a descriptor that shows parts as a disk.
//! Pure: layouts and bytes in, bytes out. It does not know what is in a partition, nor files.

mod assemble;
mod dump;
mod error;
pub mod gpt;
pub mod vmdk;

pub use assemble::assemble;
pub use dump::dump;
pub use error::DiskError;

/// The sector that partition tables and descriptors count in.
pub const SECTOR: u64 = 512;
