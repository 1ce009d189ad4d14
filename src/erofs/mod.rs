//! erofs images: one read-only file system a layer, and a small one for the pod. Pure: bytes in, bytes out.
//!
//! `format` has the on-disk structures, `tree` the meaning of a sequence of entries, `writer` and `finish` the layout,
//! `reader` and `dump` the way back. Images are uncompressed and plain: every kernel since 5.10 mounts them, and equal
//! input gives equal bytes. The room does not know files, layers' digests, or who mounts the image.
//!
//! [`write_layer`] makes the image of a layer's tar, [`write_tree`] one of files in memory; [`Reader`] and [`dump()`] read
//! either.
//!
//! ```
//! use i2kit::erofs::{Reader, TreeFile, write_tree};
//!
//! let image = write_tree(&[TreeFile::file("etc/motd", "hello")])?;
//! let mut reader = Reader::new(std::io::Cursor::new(image))?;
//! let file = reader.lookup(b"etc/motd")?;
//! assert_eq!(reader.read(&file)?, b"hello");
//! # Ok::<(), i2kit::erofs::ErofsError>(())
//! ```

pub mod archive;
mod directory;
mod dump;
mod error;
mod files;
mod finish;
mod format;
mod layer;
mod output;
mod reader;
mod run;
mod tree;
mod writer;

pub use dump::dump;
pub use error::{EntryProblem, ErofsError};
pub use files::{TreeContent, TreeFile, write_tree, write_tree_with};
pub use finish::Summary;
pub use format::Xattrs;
pub use layer::write_layer;
pub use reader::{DirectoryEntry, Node, NodeKind, Reader};
pub use tree::{Attributes, Time};
pub use writer::{FORMAT_VERSION, MAX_IMAGE};

#[cfg(test)]
mod tests;
