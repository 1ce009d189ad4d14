//! What a tar has besides data: paths, types, attributes.

use crate::erofs::error::{EntryProblem, ErofsError};
use crate::erofs::format::Xattrs;

/// The type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of this length, holes included.
    File(u64),
    /// Another name for an earlier file of the layer.
    HardLink(Vec<u8>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A character device: major and minor number.
    Character(u64, u64),
    /// A block device.
    Block(u64, u64),
    /// A named pipe.
    Fifo,
    /// Something else, by its type flag.
    Other(char),
}

/// An entry of the tar without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Offset of the header that the entry starts with.
    pub offset: u64,
    /// Path as given.
    pub path: Vec<u8>,
    /// Type with what belongs to it.
    pub kind: EntryKind,
    /// Permissions.
    pub mode: u16,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Modification time in seconds.
    pub seconds: i64,
    /// Nanoseconds of the same.
    pub nanos: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Entry {
    /// The error that names this entry.
    pub(in crate::erofs) fn refused(&self, problem: EntryProblem) -> ErofsError {
        let path = String::from_utf8_lossy(&self.path).into_owned();
        ErofsError::Entry { path, offset: self.offset, problem }
    }
}
