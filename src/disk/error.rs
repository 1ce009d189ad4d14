//! Why a disk could not be written or read.

use std::io;

/// Why a disk could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The number of parts is not that of the layout.
    #[error("the layout has {partitions} partitions, {parts} parts were given")]
    Parts {
        /// Partitions of the layout.
        partitions: usize,
        /// Parts given.
        parts: usize,
    },
    /// A part and its place in the layout differ in length.
    #[error("partition `{name}` should have {expected} bytes, its part has {found}; build the image again")]
    Length {
        /// Name of the partition.
        name: String,
        /// Length in the layout.
        expected: u64,
        /// Length of the part, as far as it was read.
        found: u64,
    },
    /// A part that no tree of hashes can be made of.
    #[error(
        "partition `{name}` has {length} bytes, which are not whole blocks of 4096; run `i2kit cache prune` and build again"
    )]
    Blocks {
        /// Name of the partition.
        name: String,
        /// Its length.
        length: u64,
    },
    /// A part could not be read.
    #[error("read the part of partition `{name}`: {source}")]
    Read {
        /// Name of the partition.
        name: String,
        /// The reader's error.
        source: io::Error,
    },
    /// The disk could not be written.
    #[error("write the disk: {0}")]
    Write(#[source] io::Error),
    /// The disk could not be read.
    #[error("read the disk: {0}")]
    Input(#[source] io::Error),
    /// The partition table is damaged, or not one of ours.
    #[error("damaged partition table: {0}")]
    Table(String),
    /// The EFI stub cannot be made into an image that boots.
    #[error("the EFI stub cannot carry this kernel: {0}; make the guest bundle again with scripts/guest")]
    Stub(String),
    /// A file name that a descriptor cannot hold.
    #[error("file name `{0}` has a quote or a line end, which a disk descriptor cannot hold")]
    FileName(String),
}
