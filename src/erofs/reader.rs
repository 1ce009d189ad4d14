//! Reading an uncompressed image: by path, by directory, by file.
//!
//! Reads what `writer` writes and what `mkfs.erofs` makes without compression. The image need not be trusted: lengths
//! are checked against the image before memory is taken for them, and nothing recurses.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::ErofsError;
use super::format::{
    BLOCK, BLOCK_SIZE, COMPACT_INODE_SIZE, DIRENT_SIZE, INODE_SIZE, Inode, Layout, SLOT, SuperBlock,
    decode_device, decode_xattrs, get_u16, get_u64, mode, xattr_length,
};
use super::tree::{Attributes, Time};

/// Bytes of a file that are in memory at once.
const COPY_BUFFER: u64 = 64 << 10;

/// An image that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    length: u64,
    superblock: SuperBlock,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device: major and minor number. 0/0 is a whiteout.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its node id.
    pub nid: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Mode, owner, time, extended attributes.
    pub attributes: Attributes,
    /// Number of names.
    pub links: u32,
    /// Length of its data.
    pub size: u64,
    layout: Layout,
    first_block: u32,
    /// Where inline data starts.
    tail: u64,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Node id of what it stands for.
    pub nid: u64,
    /// Type as the directory records it.
    pub(super) kind: u8,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the superblock.
    pub fn new(mut input: R) -> Result<Self, ErofsError> {
        let length =
            input.seek(SeekFrom::End(0)).map_err(|source| ErofsError::Image { offset: 0, source })?;
        if length < BLOCK {
            return Err(ErofsError::Damaged(format!("{length} bytes are less than one block")));
        }
        let mut block = [0; BLOCK_SIZE];
        read_at(&mut input, 0, &mut block)?;
        let superblock = SuperBlock::decode(&block).map_err(ErofsError::Damaged)?;
        if superblock.incompat != 0 {
            return Err(ErofsError::Unsupported(format!("features {:#x}", superblock.incompat)));
        }
        if u64::from(superblock.blocks) * BLOCK > length {
            let needed = u64::from(superblock.blocks) * BLOCK;
            return Err(ErofsError::Damaged(format!("it should have {needed} bytes and has {length}")));
        }
        Ok(Self { input, length, superblock })
    }

    /// Length that the superblock gives to the image.
    pub fn size(&self) -> u64 {
        u64::from(self.superblock.blocks) * BLOCK
    }

    /// Number of inodes by the superblock.
    pub fn inodes(&self) -> u64 {
        self.superblock.inodes
    }

    /// The root directory.
    pub fn root(&mut self) -> Result<Node, ErofsError> {
        self.node(self.superblock.root_nid.into())
    }

    /// What is at a path below the root. Symbolic links are not followed.
    pub fn lookup(&mut self, path: &[u8]) -> Result<Node, ErofsError> {
        let mut node = self.root()?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let missing = || ErofsError::NotFound(String::from_utf8_lossy(path).into_owned());
            if node.kind != NodeKind::Directory {
                return Err(missing());
            }
            let entries = self.entries(&node)?;
            let entry = entries.iter().find(|entry| entry.name == name).ok_or_else(missing)?;
            node = self.node(entry.nid)?;
        }
        Ok(node)
    }

    /// The inode with a node id.
    pub fn node(&mut self, nid: u64) -> Result<Node, ErofsError> {
        let start = nid
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(u64::from(self.superblock.meta_block) * BLOCK))
            .filter(|offset| offset.saturating_add(COMPACT_INODE_SIZE as u64) <= self.length)
            .ok_or_else(|| ErofsError::Damaged(format!("inode {nid} is outside of the image")))?;
        // A compact inode may be the last thing of the image.
        let available = (self.length - start).min(INODE_SIZE as u64);
        let mut bytes = [0; INODE_SIZE];
        let prefix = usize::try_from(available).expect("at most the size of an inode");
        read_at(&mut self.input, start, &mut bytes[..prefix])?;
        let (inode, inode_size) = Inode::decode(&bytes, &self.superblock).map_err(ErofsError::Unsupported)?;
        let xattrs_start = start + inode_size as u64;
        let xattrs_length = xattr_length(inode.xattr_count);
        let bytes = self.bytes(xattrs_start, xattrs_length as u64)?;
        let xattrs = decode_xattrs(&bytes).map_err(ErofsError::Unsupported)?;
        let (major, minor) = decode_device(inode.data);
        let kind = match inode.mode & mode::TYPE {
            mode::REGULAR => NodeKind::File,
            mode::DIRECTORY => NodeKind::Directory,
            mode::SYMLINK => NodeKind::Symlink,
            mode::CHARACTER => NodeKind::Character(major, minor),
            mode::BLOCK => NodeKind::Block(major, minor),
            mode::FIFO => NodeKind::Fifo,
            mode::SOCKET => NodeKind::Socket,
            other => return Err(ErofsError::Damaged(format!("inode {nid} has the type {other:o}"))),
        };
        Ok(Node {
            nid,
            kind,
            attributes: Attributes {
                mode: inode.mode & !mode::TYPE,
                uid: inode.uid,
                gid: inode.gid,
                mtime: Time { seconds: inode.seconds, nanos: inode.nanos },
                xattrs,
            },
            links: inode.links,
            size: inode.size,
            layout: inode.layout,
            first_block: inode.data,
            tail: xattrs_start + xattrs_length as u64,
        })
    }

    /// The names in a directory in their order, without `.` and `..`.
    pub fn entries(&mut self, directory: &Node) -> Result<Vec<DirectoryEntry>, ErofsError> {
        let damaged = || ErofsError::Damaged(format!("directory {} is malformed", directory.nid));
        if directory.kind != NodeKind::Directory {
            return Err(ErofsError::Damaged(format!("inode {} is not a directory", directory.nid)));
        }
        let data = self.read(directory)?;
        let mut entries = Vec::new();
        for block in data.chunks(BLOCK_SIZE) {
            read_block(block, &mut entries).ok_or_else(damaged)?;
        }
        entries.retain(|entry| !matches!(&*entry.name, b"." | b".."));
        Ok(entries)
    }

    /// All data of a file, the target of a symbolic link.
    pub fn read(&mut self, node: &Node) -> Result<Vec<u8>, ErofsError> {
        let mut data = Vec::new();
        self.pieces(node, &mut |bytes| {
            data.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(data)
    }

    /// Writes all data of a file to `to`, a buffer at a time.
    pub fn copy(&mut self, node: &Node, to: &mut impl Write) -> Result<(), ErofsError> {
        self.pieces(node, &mut |bytes| to.write_all(bytes).map_err(ErofsError::Output))
    }

    /// Hands all data of a file to `sink`, a buffer at a time.
    pub(super) fn pieces(
        &mut self,
        node: &Node,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        if !matches!(node.kind, NodeKind::File | NodeKind::Directory | NodeKind::Symlink) {
            return Ok(());
        }
        let tail = if node.layout == Layout::Inline { node.size % BLOCK } else { 0 };
        self.range(u64::from(node.first_block) * BLOCK, node.size - tail, sink)?;
        self.range(node.tail, tail, sink)
    }

    fn range(
        &mut self,
        start: u64,
        length: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        self.check_range(start, length)?;
        let mut done = 0;
        while done < length {
            let step = (length - done).min(COPY_BUFFER);
            sink(&self.bytes(start + done, step)?)?;
            done += step;
        }
        Ok(())
    }

    fn bytes(&mut self, start: u64, length: u64) -> Result<Vec<u8>, ErofsError> {
        self.check_range(start, length)?;
        let mut bytes = vec![0; usize::try_from(length).expect("ranges are read in pieces")];
        read_at(&mut self.input, start, &mut bytes)?;
        Ok(bytes)
    }

    fn check_range(&self, start: u64, length: u64) -> Result<(), ErofsError> {
        if length > 0 && start.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(ErofsError::Damaged(format!("{length} bytes at {start} are outside of the image")));
        }
        Ok(())
    }
}

/// Adds the entries of one directory block; `None` where it is malformed.
fn read_block(block: &[u8], entries: &mut Vec<DirectoryEntry>) -> Option<()> {
    if block.len() < DIRENT_SIZE {
        return None;
    }
    let names = usize::from(get_u16(block, 8));
    if names == 0 || names % DIRENT_SIZE != 0 || names > block.len() {
        return None;
    }
    for at in (0..names).step_by(DIRENT_SIZE) {
        let start = usize::from(get_u16(block, at + 8));
        let end = if at + DIRENT_SIZE < names {
            usize::from(get_u16(block, at + DIRENT_SIZE + 8))
        } else {
            block.len()
        };
        let name = block.get(start..end)?;
        // The last name of a block ends at its end or at a NUL.
        let name = name.split(|byte| *byte == 0).next()?;
        entries.push(DirectoryEntry { name: name.to_vec(), nid: get_u64(block, at), kind: block[at + 10] });
    }
    Some(())
}

fn read_at(input: &mut (impl Read + Seek), offset: u64, to: &mut [u8]) -> Result<(), ErofsError> {
    let read = input.seek(SeekFrom::Start(offset)).and_then(|_| input.read_exact(to));
    read.map_err(|source| ErofsError::Image { offset, source })
}
