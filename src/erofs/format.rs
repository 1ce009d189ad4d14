//! The on-disk structures of erofs that i2kit uses: superblock, extended inode, directory entry, extended attribute.
//!
//! Encoding and decoding of single structures only; where they go is the business of `writer` and `reader`. Names and
//! offsets follow the kernel's `fs/erofs/erofs_fs.h`; all numbers are little-endian.

use std::collections::BTreeMap;

/// log2 of the block size. 4 KiB is the page size of every machine that runs our guests, which all kernels mount.
pub(super) const BLOCK_BITS: u8 = 12;
/// Size of a block.
pub(super) const BLOCK_SIZE: usize = 1 << BLOCK_BITS;
/// The same as a length in a file.
pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;
/// Where the superblock starts; the bytes before it are left to boot loaders.
pub(super) const SUPER_OFFSET: usize = 1024;
/// Size of the superblock.
pub(super) const SUPER_SIZE: usize = 128;
/// Granularity of inode positions: a node id is the position of an inode in these units.
pub(super) const SLOT: u64 = SLOT_SIZE as u64;
/// The same as a length in memory.
pub(super) const SLOT_SIZE: usize = 32;
/// Size of an extended inode; the compact form has no modification time of its own, so it is only read.
pub(super) const INODE_SIZE: usize = 64;
/// Size of a compact inode.
pub(super) const COMPACT_INODE_SIZE: usize = 32;
/// Size of a directory entry without its name.
pub(super) const DIRENT_SIZE: usize = 12;
/// Longest file name.
pub(super) const NAME_MAX: usize = 255;

const MAGIC: u32 = 0xE0F5_E1E2;
/// The superblock's checksum is valid.
const FEATURE_COMPAT_CHECKSUM: u32 = 1;
/// Inodes carry modification times, not change times.
const FEATURE_COMPAT_MTIME: u32 = 2;
/// Size of the header in front of an inode's extended attributes.
const XATTR_HEADER: usize = 12;

/// File type bits of a mode.
pub(super) mod mode {
    pub(in crate::erofs) const TYPE: u16 = 0o170_000;
    pub(in crate::erofs) const FIFO: u16 = 0o010_000;
    pub(in crate::erofs) const CHARACTER: u16 = 0o020_000;
    pub(in crate::erofs) const DIRECTORY: u16 = 0o040_000;
    pub(in crate::erofs) const BLOCK: u16 = 0o060_000;
    pub(in crate::erofs) const REGULAR: u16 = 0o100_000;
    pub(in crate::erofs) const SYMLINK: u16 = 0o120_000;
    pub(in crate::erofs) const SOCKET: u16 = 0o140_000;
}

/// The type that a directory entry records for an inode with this mode.
pub(super) fn dirent_type(mode: u16) -> u8 {
    match mode & mode::TYPE {
        mode::REGULAR => 1,
        mode::DIRECTORY => 2,
        mode::CHARACTER => 3,
        mode::BLOCK => 4,
        mode::FIFO => 5,
        mode::SOCKET => 6,
        mode::SYMLINK => 7,
        _ => 0,
    }
}

/// Extended attributes by full name, such as `security.capability`.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The fields of the superblock that vary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SuperBlock {
    /// Node id of the root directory.
    pub(super) root_nid: u16,
    /// Number of inodes.
    pub(super) inodes: u64,
    /// Modification time of compact inodes.
    pub(super) build_time: u64,
    /// Nanoseconds of the same.
    pub(super) build_nanos: u32,
    /// Size of the image in blocks.
    pub(super) blocks: u32,
    /// Block from which node ids count.
    pub(super) meta_block: u32,
    /// Features that a reader must know; 0 for everything written here.
    pub(super) incompat: u32,
}

impl SuperBlock {
    /// Writes the superblock and its checksum into the first block, whose other bytes must be final.
    pub(super) fn encode_into(&self, block: &mut [u8; BLOCK_SIZE]) {
        let sb = &mut block[SUPER_OFFSET..SUPER_OFFSET + SUPER_SIZE];
        sb.fill(0);
        put_u32(sb, 0, MAGIC);
        put_u32(sb, 8, FEATURE_COMPAT_CHECKSUM | FEATURE_COMPAT_MTIME);
        sb[12] = BLOCK_BITS;
        put_u16(sb, 14, self.root_nid);
        put_u64(sb, 16, self.inodes);
        put_u64(sb, 24, self.build_time);
        put_u32(sb, 32, self.build_nanos);
        put_u32(sb, 36, self.blocks);
        put_u32(sb, 40, self.meta_block);
        // The UUID stays zero: nothing finds a layer by it, and a random one would make the bytes differ.
        put_u32(sb, 80, self.incompat);
        let sum = checksum(block);
        put_u32(&mut block[SUPER_OFFSET..], 4, sum);
    }

    /// Reads the superblock from the first block.
    pub(super) fn decode(block: &[u8; BLOCK_SIZE]) -> Result<Self, String> {
        let sb = &block[SUPER_OFFSET..SUPER_OFFSET + SUPER_SIZE];
        if get_u32(sb, 0) != MAGIC {
            return Err(format!("the magic number is {:#x}, not {MAGIC:#x}", get_u32(sb, 0)));
        }
        if sb[12] != BLOCK_BITS {
            return Err(format!("blocks of 2^{} bytes, only 4096 is supported", sb[12]));
        }
        if get_u32(sb, 8) & FEATURE_COMPAT_CHECKSUM != 0 {
            let mut copy = *block;
            put_u32(&mut copy[SUPER_OFFSET..], 4, 0);
            if checksum(&copy) != get_u32(sb, 4) {
                return Err("the superblock's checksum is wrong".to_owned());
            }
        }
        Ok(Self {
            root_nid: get_u16(sb, 14),
            inodes: get_u64(sb, 16),
            build_time: get_u64(sb, 24),
            build_nanos: get_u32(sb, 32),
            blocks: get_u32(sb, 36),
            meta_block: get_u32(sb, 40),
            incompat: get_u32(sb, 80),
        })
    }
}

/// CRC-32C over the first block from the superblock on, without the final inversion, as the kernel computes it.
fn checksum(block: &[u8; BLOCK_SIZE]) -> u32 {
    !crc32c::crc32c(&block[SUPER_OFFSET..])
}

/// How an inode's data is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Whole blocks from the start block on.
    Plain,
    /// Whole blocks, and the last partial block right behind the inode.
    Inline,
}

/// An inode, in the fields that matter to both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    /// Layout of the data.
    pub(super) layout: Layout,
    /// Value of the extended attributes' length field.
    pub(super) xattr_count: u16,
    /// Type and permissions.
    pub(super) mode: u16,
    /// Length of the data.
    pub(super) size: u64,
    /// First data block, or the device number.
    pub(super) data: u32,
    /// Number that 32-bit `stat` shows.
    pub(super) ino: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Modification time in seconds since the epoch.
    pub(super) seconds: i64,
    /// Nanoseconds of the same.
    pub(super) nanos: u32,
    /// Number of names.
    pub(super) links: u32,
}

/// Offset of the link count in an extended inode, patched when a hard link turns up after the inode was written.
pub(super) const LINKS_OFFSET: u64 = 44;

impl Inode {
    /// The extended form.
    pub(super) fn encode(&self) -> [u8; INODE_SIZE] {
        let mut out = [0; INODE_SIZE];
        let layout = match self.layout {
            Layout::Plain => 0,
            Layout::Inline => 2,
        };
        put_u16(&mut out, 0, 1 | layout << 1);
        put_u16(&mut out, 2, self.xattr_count);
        put_u16(&mut out, 4, self.mode);
        put_u64(&mut out, 8, self.size);
        put_u32(&mut out, 16, self.data);
        put_u32(&mut out, 20, self.ino);
        put_u32(&mut out, 24, self.uid);
        put_u32(&mut out, 28, self.gid);
        out[32..40].copy_from_slice(&self.seconds.to_le_bytes());
        put_u32(&mut out, 40, self.nanos);
        put_u32(&mut out, 44, self.links);
        out
    }

    /// Reads either form from at least [`COMPACT_INODE_SIZE`] bytes; the size of the form read comes with it. Returns
    /// `Err` with the words for what is not supported.
    pub(super) fn decode(bytes: &[u8; INODE_SIZE], sb: &SuperBlock) -> Result<(Self, usize), String> {
        let format = get_u16(bytes, 0);
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain,
            2 => Layout::Inline,
            4 => return Err("chunk-based files".to_owned()),
            other => return Err(format!("compressed files (layout {other})")),
        };
        let xattr_count = get_u16(bytes, 2);
        let mode = get_u16(bytes, 4);
        let (data, ino) = (get_u32(bytes, 16), get_u32(bytes, 20));
        if format & 1 == 0 {
            let inode = Self {
                layout,
                xattr_count,
                mode,
                size: get_u32(bytes, 8).into(),
                data,
                ino,
                uid: get_u16(bytes, 24).into(),
                gid: get_u16(bytes, 26).into(),
                seconds: sb.build_time.cast_signed(),
                nanos: sb.build_nanos,
                links: get_u16(bytes, 6).into(),
            };
            return Ok((inode, COMPACT_INODE_SIZE));
        }
        let inode = Self {
            layout,
            xattr_count,
            mode,
            size: get_u64(bytes, 8),
            data,
            ino,
            uid: get_u32(bytes, 24),
            gid: get_u32(bytes, 28),
            seconds: get_u64(bytes, 32).cast_signed(),
            nanos: get_u32(bytes, 40),
            links: get_u32(bytes, 44),
        };
        Ok((inode, INODE_SIZE))
    }
}

/// Length in bytes of the extended attributes behind an inode with this length field.
pub(super) fn xattr_length(count: u16) -> usize {
    if count == 0 { 0 } else { XATTR_HEADER + (usize::from(count) - 1) * 4 }
}

/// The length field for extended attributes of this many bytes, `None` where they are too long.
pub(super) fn xattr_count(length: usize) -> Option<u16> {
    if length == 0 { Some(0) } else { u16::try_from((length - XATTR_HEADER) / 4 + 1).ok() }
}

/// Name prefixes that erofs stores as a number, the longest match first.
const XATTR_PREFIXES: [(u8, &str); 6] = [
    (2, "system.posix_acl_access"),
    (3, "system.posix_acl_default"),
    (1, "user."),
    (4, "trusted."),
    (5, "lustre."),
    (6, "security."),
];

/// The prefix number and the rest of an attribute's name; `None` for a name space that Linux does not have.
pub(super) fn xattr_prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(index, prefix)| {
        let rest = name.strip_prefix(prefix.as_bytes())?;
        // The two access lists are whole names; the others need something behind the dot.
        (prefix.ends_with('.') != rest.is_empty()).then_some((index, rest))
    })
}

/// The bytes behind an inode that hold its extended attributes; empty without any. Attributes outside of Linux'
/// name spaces are left out, since no kernel could show them.
pub(super) fn encode_xattrs(xattrs: &Xattrs) -> Vec<u8> {
    let mut out = vec![0; XATTR_HEADER];
    for (name, value) in xattrs {
        let Some((index, rest)) = xattr_prefix(name) else { continue };
        let (Ok(name_length), Ok(value_length)) = (u8::try_from(rest.len()), u16::try_from(value.len()))
        else {
            continue;
        };
        out.extend([name_length, index]);
        out.extend(value_length.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() == XATTR_HEADER { Vec::new() } else { out }
}

/// Reads the extended attributes behind an inode.
pub(super) fn decode_xattrs(bytes: &[u8]) -> Result<Xattrs, String> {
    let mut xattrs = Xattrs::new();
    if bytes.is_empty() {
        return Ok(xattrs);
    }
    if bytes[4] != 0 {
        return Err("shared extended attributes".to_owned());
    }
    let mut rest = &bytes[XATTR_HEADER..];
    while rest.len() >= 4 && rest[1] != 0 {
        let name_end = 4 + usize::from(rest[0]);
        let value_end = name_end + usize::from(get_u16(rest, 2));
        let prefix = XATTR_PREFIXES.iter().find(|(index, _)| *index == rest[1]);
        let (Some((_, prefix)), Some(name), Some(value)) =
            (prefix, rest.get(4..name_end), rest.get(name_end..value_end))
        else {
            return Err("extended attributes in an unknown form".to_owned());
        };
        xattrs.insert([prefix.as_bytes(), name].concat(), value.to_vec());
        rest = rest.get(value_end.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(xattrs)
}

/// The device number in the form of the kernel's `new_encode_dev`; `None` when out of range.
pub(super) fn encode_device(major: u64, minor: u64) -> Option<u32> {
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// Major and minor number of an encoded device number.
pub(super) fn decode_device(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

fn put_u16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Puts a number at an offset.
pub(super) fn put_u32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The number at an offset that the caller knows to be inside.
pub(super) fn get_u16(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}

fn get_u32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
}

/// The number at an offset that the caller knows to be inside.
pub(super) fn get_u64(from: &[u8], at: usize) -> u64 {
    u64::from(get_u32(from, at)) | u64::from(get_u32(from, at + 4)) << 32
}
