//! Why an erofs image could not be written or read.

use std::io;

/// Why an erofs image could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The layer's tar could not be read.
    #[error("read the layer's tar at byte {offset}: {source}")]
    Input {
        /// Offset in the tar.
        offset: u64,
        /// The reader's error.
        source: io::Error,
    },
    /// The layer's tar ends inside of an entry.
    #[error("the layer's tar ends at byte {offset} in the middle of an entry; pull the layer again")]
    Truncated {
        /// Offset in the tar.
        offset: u64,
    },
    /// A header of the layer's tar is malformed.
    #[error("malformed tar header at byte {offset}: {reason}")]
    Header {
        /// Offset of the header in the tar.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry is well-formed but cannot be part of a layer.
    #[error("tar entry `{path}` at byte {offset}: {problem}")]
    Entry {
        /// Path as the tar gives it.
        path: String,
        /// Offset of the entry's header in the tar.
        offset: u64,
        /// Why it is refused.
        problem: EntryProblem,
    },
    /// A file handed to [`super::write_tree`] cannot be part of an image.
    #[error("file `{path}`: {problem}")]
    File {
        /// Path as given.
        path: String,
        /// Why it is refused.
        problem: EntryProblem,
    },
    /// The image could not be written.
    #[error("write the erofs image: {0}")]
    Output(#[source] io::Error),
    /// The image could not be read.
    #[error("read the erofs image at byte {offset}: {source}")]
    Image {
        /// Offset in the image.
        offset: u64,
        /// The reader's error.
        source: io::Error,
    },
    /// The bytes are not an erofs image, or a damaged one.
    #[error("damaged erofs image: {0}")]
    Damaged(String),
    /// The image uses a feature that this reader does not know.
    #[error(
        "the erofs image uses {0}, which i2kit does not read; make it with i2kit or uncompressed mkfs.erofs"
    )]
    Unsupported(String),
    /// No such path in the image.
    #[error("no `{0}` in the erofs image")]
    NotFound(String),
}

/// Why one entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// The path has a `..` component.
    #[error("a path with `..` could leave the layer")]
    ParentPath,
    /// The path names the root where only a directory can be.
    #[error("the root of a layer can only be a directory")]
    Root,
    /// A name that Linux cannot hold.
    #[error("a name of {0} bytes is longer than the 255 that Linux allows")]
    NameLength(usize),
    /// A path that Linux cannot open.
    #[error("a path of {0} bytes is longer than the 4095 that Linux allows")]
    PathLength(usize),
    /// A NUL byte in a path or a link.
    #[error("a NUL byte in a path")]
    Nul,
    /// A component in the name space that OCI layers reserve.
    #[error("names that start with `.wh.` are reserved for whiteouts")]
    ReservedName,
    /// A file where the path needs a directory.
    #[error("`{0}` is a file, not a directory")]
    NotADirectory(String),
    /// Symbolic links that lead to each other.
    #[error("more than 40 symbolic links on the way")]
    SymlinkLoop,
    /// A symbolic link without a target.
    #[error("a symbolic link needs a target")]
    EmptyTarget,
    /// A hard link to a file that this layer does not have.
    #[error(
        "hard link to `{0}`, which this layer does not hold; each layer becomes a file system of its own, so squash the image or rebuild the layer"
    )]
    LinkTarget(String),
    /// A hard link to a directory.
    #[error("hard link to the directory `{0}`")]
    LinkToDirectory(String),
    /// A type of entry that no layer has.
    #[error("entries of type `{0}` are not supported in a layer")]
    Type(char),
    /// A device number that Linux cannot represent.
    #[error("device {major}:{minor} is out of range")]
    Device {
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// An owner that Linux cannot represent.
    #[error("owner or group {0} is out of range")]
    Owner(i64),
    /// Too large for an image.
    #[error("the image would be larger than {0} bytes")]
    ImageSize(u64),
    /// Too many names for an image.
    #[error("names and extended attributes of the layer need more than {0} bytes")]
    TreeSize(usize),
    /// Extended attributes that do not fit.
    #[error("{0} bytes of extended attributes do not fit into an inode")]
    Xattrs(usize),
    /// A sparse map that contradicts itself.
    #[error("the map of the sparse file is wrong: {0}")]
    Sparse(&'static str),
}
