//! Writing an image in one pass.
//!
//! ```text
//! block 0        superblock and the root directory's inode, written last
//! blocks 1..     file data as it comes; between files, every 256 KiB, a run of the inodes written so far, each
//!                with its extended attributes and the last partial block of its data
//! at the end     blocks of large directories, then the last run: remaining inodes and those of all directories
//! ```
//! Node ids count from block 0, so inodes may be anywhere, and no file's data is ever held in memory. Directories
//! come last because only then are their contents known. An inode of which hard links turn up later has its link
//! count patched in place.
//!
//! It knows no paths and no tar: `layer` and `files` drive it, `finish` writes what comes at the end.

use std::io::{Seek, Write};

use super::error::{EntryProblem, ErofsError};
use super::format::{
    BLOCK, BLOCK_SIZE, INODE_SIZE, Inode, Layout, SLOT, Xattrs, dirent_type, encode_xattrs, mode,
    xattr_count, xattr_prefix,
};
use super::output::Output;
use super::run::Run;
use super::tree::{Attributes, Leaf};

/// Version of the bytes that this writer makes of given contents. Every name under which an image is cached has it, and
/// so has every identity derived from one: names in the cache, GUIDs of partitions.
pub const FORMAT_VERSION: u32 = 1;

/// Largest image. Real layers end at a few GB; a sparse file of a terabyte is a lie or a mistake.
pub const MAX_IMAGE: u64 = 64 << 30;

/// Inodes collected before they are written between two files: large enough that small files come in long writes.
const RUN_SIZE: usize = 256 << 10;
/// Most bytes of extended attributes of one inode. Linux lists at most 64 KiB of names.
const MAX_XATTRS: usize = 128 << 10;
/// Longest target of a symbolic link.
const TARGET_MAX: usize = 4095;

/// What an inode is besides its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special<'a> {
    /// A symbolic link and its target.
    Symlink(&'a [u8]),
    /// A character device.
    Character(u32),
    /// A block device.
    Block(u32),
    /// A named pipe.
    Fifo,
}

impl<'a> Special<'a> {
    /// A symbolic link to a target that Linux can hold.
    pub(super) fn symlink(target: &'a [u8]) -> Result<Self, EntryProblem> {
        match target {
            [] => Err(EntryProblem::EmptyTarget),
            _ if target.contains(&0) => Err(EntryProblem::Nul),
            _ if target.len() > TARGET_MAX => Err(EntryProblem::PathLength(target.len())),
            _ => Ok(Self::Symlink(target)),
        }
    }
}

/// A regular file that is being written.
#[derive(Debug)]
pub(super) struct OpenFile {
    inode: Inode,
    xattrs: Vec<u8>,
    /// Bytes that still go to whole blocks.
    blocks_left: u64,
    /// Bytes of the last partial block so far.
    tail: Vec<u8>,
}

/// An image that is being written.
#[derive(Debug)]
pub(super) struct ImageWriter<W> {
    /// The output.
    pub(super) out: Output<W>,
    /// The run of inodes that is being collected.
    pub(super) run: Run,
    /// The blocks where the finished runs start.
    pub(super) runs: Vec<u32>,
    /// Inodes so far, which number them.
    pub(super) inodes: u32,
}

impl<W: Write + Seek> ImageWriter<W> {
    /// Starts at the beginning of an empty file.
    pub(super) fn new(out: W) -> Result<Self, ErofsError> {
        let mut out = Output::new(out)?;
        out.write(&[0; BLOCK_SIZE])?;
        Ok(Self { out, run: Run::default(), runs: Vec::new(), inodes: 0 })
    }

    /// Whether this many more bytes of data still fit.
    pub(super) fn check_size(&self, size: u64) -> Result<(), EntryProblem> {
        let used = self.out.position() + self.run.bytes().len() as u64;
        if size > MAX_IMAGE || used + size > MAX_IMAGE {
            return Err(EntryProblem::ImageSize(MAX_IMAGE));
        }
        Ok(())
    }

    /// Begins a regular file of exactly `size` bytes, for which [`Self::check_size`] has found room.
    pub(super) fn begin_file(&mut self, attributes: &Attributes, size: u64) -> Result<OpenFile, ErofsError> {
        self.flush_full_run()?;
        let xattrs = encode_xattrs(&attributes.xattrs);
        let mut inode = self.inode(attributes, mode::REGULAR, &xattrs);
        inode.size = size;
        inode.layout = layout_of(size, xattrs.len(), BLOCK_SIZE);
        if size >= BLOCK || inode.layout == Layout::Plain && size > 0 {
            inode.data = self.block();
        }
        Ok(OpenFile { inode, xattrs, blocks_left: size - size % BLOCK, tail: Vec::new() })
    }

    /// Writes the next bytes of a file.
    pub(super) fn append(&mut self, file: &mut OpenFile, bytes: &[u8]) -> Result<(), ErofsError> {
        let whole = bytes.len().min(usize::try_from(file.blocks_left).unwrap_or(usize::MAX));
        self.out.write(&bytes[..whole])?;
        file.blocks_left -= whole as u64;
        file.tail.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    /// Writes zeros as the next bytes of a file.
    pub(super) fn append_zeros(&mut self, file: &mut OpenFile, count: u64) -> Result<(), ErofsError> {
        let whole = count.min(file.blocks_left);
        self.out.zeros(whole)?;
        file.blocks_left -= whole;
        let rest = usize::try_from(count - whole).expect("what follows the whole blocks is less than one");
        file.tail.resize(file.tail.len() + rest, 0);
        Ok(())
    }

    /// Ends a file whose bytes have all been written.
    pub(super) fn end_file(&mut self, file: &OpenFile) -> Result<Leaf, ErofsError> {
        let OpenFile { inode, xattrs, tail, .. } = file;
        debug_assert_eq!((file.blocks_left, tail.len() as u64), (0, inode.size % BLOCK));
        self.place(inode, xattrs, tail)
    }

    /// Writes an inode that is neither a regular file nor a directory.
    pub(super) fn special(
        &mut self,
        attributes: &Attributes,
        special: Special<'_>,
    ) -> Result<Leaf, ErofsError> {
        self.flush_full_run()?;
        let (kind, device, content) = match special {
            Special::Symlink(target) => (mode::SYMLINK, 0, target),
            Special::Character(device) => (mode::CHARACTER, device, &[][..]),
            Special::Block(device) => (mode::BLOCK, device, &[][..]),
            Special::Fifo => (mode::FIFO, 0, &[][..]),
        };
        let xattrs = encode_xattrs(&attributes.xattrs);
        let mut inode = self.inode(attributes, kind, &xattrs);
        if kind == mode::SYMLINK {
            // Linux gives every symbolic link all permissions, whatever an archive says.
            inode.mode = mode::SYMLINK | 0o777;
        }
        inode.size = content.len() as u64;
        inode.layout = layout_of(inode.size, xattrs.len(), BLOCK_SIZE);
        inode.data = match inode.layout {
            Layout::Plain if !content.is_empty() => self.block(),
            _ => device,
        };
        self.place(&inode, &xattrs, content)
    }

    /// The block that is written next; everything but inodes starts at one.
    pub(super) fn block(&self) -> u32 {
        debug_assert_eq!(self.out.position() % BLOCK, 0);
        u32::try_from(self.out.position() / BLOCK).expect("the largest image has fewer blocks")
    }

    fn inode(&mut self, attributes: &Attributes, kind: u16, xattrs: &[u8]) -> Inode {
        self.inodes += 1;
        new_inode(attributes, kind, xattrs, self.inodes)
    }

    /// Puts an inode into the current run; a tail that is not inline becomes a block of its own.
    fn place(&mut self, inode: &Inode, xattrs: &[u8], tail: &[u8]) -> Result<Leaf, ErofsError> {
        let inline = if inode.layout == Layout::Inline { tail } else { &[] };
        if inline.is_empty() && !tail.is_empty() {
            self.out.write(tail)?;
            self.out.zeros((BLOCK_SIZE - tail.len()) as u64)?;
        }
        let start = self.run.allocate(INODE_SIZE + xattrs.len() + inline.len());
        self.run.put(start, &inode.encode());
        self.run.put(start + INODE_SIZE, xattrs);
        self.run.put(start + INODE_SIZE + xattrs.len(), inline);
        Ok(Leaf {
            run: u32::try_from(self.runs.len()).expect("runs are fewer than blocks"),
            slot: u32::try_from(start as u64 / SLOT).expect("a run is small"),
            kind: dirent_type(inode.mode),
        })
    }

    fn flush_full_run(&mut self) -> Result<(), ErofsError> {
        if self.run.bytes().len() < RUN_SIZE {
            return Ok(());
        }
        self.runs.push(self.block());
        self.out.write(self.run.bytes())?;
        self.run.clear();
        Ok(())
    }
}

/// An inode without data.
pub(super) fn new_inode(attributes: &Attributes, kind: u16, xattrs: &[u8], number: u32) -> Inode {
    Inode {
        layout: Layout::Plain,
        xattr_count: xattr_count(xattrs.len()).expect("attributes are checked before they are written"),
        mode: kind | attributes.mode & 0o7777,
        size: 0,
        data: 0,
        ino: number,
        uid: attributes.uid,
        gid: attributes.gid,
        seconds: attributes.mtime.seconds,
        nanos: attributes.mtime.nanos,
        links: 1,
    }
}

/// Inline whenever there is a partial block and it fits behind the inode: it saves half a block a file on average,
/// and reading the inode has then already read the data.
pub(super) fn layout_of(size: u64, xattrs: usize, room: usize) -> Layout {
    let tail = size % BLOCK;
    if tail > 0 && tail + (INODE_SIZE + xattrs) as u64 <= room as u64 {
        Layout::Inline
    } else {
        Layout::Plain
    }
}

/// Refuses extended attributes that no inode can hold.
pub(super) fn check_xattrs(xattrs: &Xattrs) -> Result<(), EntryProblem> {
    for (name, value) in xattrs {
        let fits = xattr_prefix(name).is_none_or(|(_, rest)| rest.len() <= 255 && value.len() <= 0xffff);
        if !fits {
            return Err(EntryProblem::Xattrs(name.len() + value.len()));
        }
    }
    let length = encode_xattrs(xattrs).len();
    if length > MAX_XATTRS { Err(EntryProblem::Xattrs(length)) } else { Ok(()) }
}
