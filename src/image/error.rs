//! What can go wrong while images are built.

use std::path::{Path, PathBuf};

use crate::oci::DiffId;
use crate::plan::layout::PartitionError;
use crate::registry;

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no guest bundle.
    #[error("no guest bundle in {}; make it with `scripts/guest`, or name one with I2KIT_GUEST", .folder.display())]
    NoGuest {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The guest bundle does not match its description.
    #[error("the guest bundle in {} cannot be used: {reason}; make it anew with `scripts/guest`", .folder.display())]
    BadGuest {
        /// Where it lies.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The guest bundle has nothing that firmware could start.
    #[error("the guest bundle has no EFI stub, which firmware boots from; make it anew with `scripts/guest`")]
    NoStub,
    /// What firmware starts could not be signed.
    #[error("sign with {}: {reason}", .key.display())]
    Sign {
        /// The key's file.
        key: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A layer could not be fetched or read.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A layer's tar cannot become a file system.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer.
        layer: DiffId,
        /// Why.
        source: crate::erofs::ErofsError,
    },
    /// A plan names a layer that none of its images has.
    #[error("internal error: no image of the pod has the layer {0}")]
    UnknownLayer(DiffId),
    /// The parts do not fit on a disk.
    #[error(transparent)]
    Layout(#[from] PartitionError),
    /// The raw disk could not be written.
    #[error(transparent)]
    Disk(#[from] crate::disk::DiskError),
    /// The pod file system could not be written.
    #[error("pod file system: {0}")]
    Pod(crate::erofs::ErofsError),
    /// A file of the cache is not what was written there. It has been removed.
    #[error("{} is not what was written there: {problem}; it was removed, run the command again to have it made anew, and `i2kit cache verify` to look at all others", .path.display())]
    Spoiled {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The cache cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A layer's file system cannot be read.
    #[error("{}: {source}; run `i2kit cache verify`", .path.display())]
    Erofs {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::erofs::ErofsError,
    },
    /// The layers of a container imply more directories than anything but an attack on this machine's memory does.
    #[error(
        "container {container}: the paths of directories that its image's layers have no entries for take more than {limit} bytes; build the image with whole layers"
    )]
    TooManyPaths {
        /// The container.
        container: String,
        /// The bound, in bytes.
        limit: usize,
    },
    /// Work in the background ended without a result.
    #[error("internal error: a builder thread panicked")]
    Thread,
}

impl ImageError {
    /// An error about the file at `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            // Says what to do about it.
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                registry::Error::io("write", path)(source).into()
            }
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}
