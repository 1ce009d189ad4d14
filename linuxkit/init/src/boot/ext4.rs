//! An empty ext4 file system for a disk of zeros, for scratch space: without a journal, because nobody reads it after its
//! machine is gone, and with marks for the parts that are not in use yet, so that a few blocks are all that is written
//! however large the disk is. Pure; the kernel's own documentation of ext4 has the layout.

/// Bytes of a block.
const BLOCK: u64 = 4096;

/// A block of zeros.
const ZEROS: [u8; 4096] = [0; 4096];

/// Blocks of a group: as many as a block has bits.
const GROUP: u64 = 8 * BLOCK;

/// Bytes of an inode.
const INODE: u64 = 256;

/// Blocks per inode.
const BLOCKS_PER_INODE: u64 = 4;

/// Bytes of a group's descriptor.
const DESCRIPTOR: u64 = 32;

/// The root folder's inode, the second one; the first ten are the file system's own.
const ROOT: u64 = 2;
const ROOT_AT: usize = 256;
const RESERVED: u64 = 10;

/// Nothing smaller is a file system that one can use, and more blocks than these cannot be numbered.
const MIN_BLOCKS: u64 = 32;
const MAX_BLOCKS: u64 = 0xffff_ffff;

/// Marks of a group: its inodes and its blocks are not in use, and its inode table is zero.
const INODES_UNUSED: u64 = 1;
const BLOCKS_UNUSED: u64 = 2;
const INODES_ZERO: u64 = 4;

/// What the root folder is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root {
    /// Its permissions.
    pub(crate) mode: u16,
    /// Its group.
    pub(crate) gid: u32,
}

/// What is written at which place in bytes.
pub(crate) type Write = (u64, Vec<u8>);

/// How a disk is divided.
#[derive(Debug, Clone, Copy)]
struct Layout {
    blocks: u64,
    groups: u64,
    /// Inodes of a group.
    inodes: u64,
}

/// The writes that make a file system of a disk of zeros, given its size in bytes; none when it is too small.
pub(crate) fn format(bytes: u64, id: [u8; 16], root: Root) -> Option<Vec<Write>> {
    let layout = Layout::of(bytes)?;
    let mut writes = vec![(0, superblock(layout, id)), (BLOCK, descriptors(layout, id))];
    let (first, last) = (0, layout.groups - 1);
    let mut groups = vec![first, last];
    groups.dedup();
    for group in groups {
        writes.push((layout.bitmaps(group) * BLOCK, bitmap(layout.used(group), layout.size(group))));
    }
    writes.push(((layout.bitmaps(0) + 1) * BLOCK, bitmap(RESERVED, layout.inodes)));
    writes.push(((layout.bitmaps(0) + 2) * BLOCK, inodes(layout, root)));
    writes.push((layout.root() * BLOCK, folder()));
    Some(writes)
}

impl Layout {
    fn of(bytes: u64) -> Option<Self> {
        let blocks = (bytes / BLOCK).min(MAX_BLOCKS);
        if blocks < MIN_BLOCKS {
            return None;
        }
        let per_block = BLOCK / INODE;
        let inodes = (blocks.min(GROUP) / BLOCKS_PER_INODE).next_multiple_of(per_block);
        let mut layout = Self { blocks, groups: blocks.div_ceil(GROUP), inodes };
        let last = layout.groups - 1;
        // A last group that has hardly room for its own bookkeeping is left out.
        if last > 0 && layout.size(last) < layout.used(last) + MIN_BLOCKS {
            layout = Self { blocks: last * GROUP, groups: last, inodes };
        }
        Some(layout)
    }

    /// Blocks of a group.
    fn size(self, group: u64) -> u64 {
        GROUP.min(self.blocks - group * GROUP)
    }

    /// Blocks of all descriptors.
    fn descriptors(self) -> u64 {
        (self.groups * DESCRIPTOR).div_ceil(BLOCK)
    }

    /// The first block of a group behind copies of the superblock and the descriptors: its two bitmaps, then its inodes.
    fn bitmaps(self, group: u64) -> u64 {
        group * GROUP + if has_copy(group) { 1 + self.descriptors() } else { 0 }
    }

    fn table(self) -> u64 {
        self.inodes * INODE / BLOCK
    }

    /// The block of the root folder.
    fn root(self) -> u64 {
        self.bitmaps(0) + 2 + self.table()
    }

    /// Blocks in use of a group, which are its first ones.
    fn used(self, group: u64) -> u64 {
        self.bitmaps(group) - group * GROUP + 2 + self.table() + u64::from(group == 0)
    }

    fn free(self, group: u64) -> u64 {
        self.size(group) - self.used(group)
    }
}

/// Whether a group begins with a copy of the superblock: the first, and powers of 3, 5 and 7.
fn has_copy(group: u64) -> bool {
    let is_power = |base: u64| {
        let mut rest = group;
        while rest > 1 && rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group == 0 || [3, 5, 7].into_iter().any(is_power)
}

/// Puts a number of `bytes` bytes in its place, the lowest first.
fn put(block: &mut [u8], at: usize, bytes: usize, number: u64) {
    block[at..at + bytes].copy_from_slice(&number.to_le_bytes()[..bytes]);
}

/// The first block: the superblock begins at 1024.
fn superblock(layout: Layout, id: [u8; 16]) -> Vec<u8> {
    let free: u64 = (0..layout.groups).map(|group| layout.free(group)).sum();
    let inodes = layout.inodes * layout.groups;
    let mut block = ZEROS.to_vec();
    let superblock = &mut block[1024..2048];
    for (at, bytes, number) in [
        (0, 4, inodes),
        (4, 4, layout.blocks),
        (12, 4, free),
        (16, 4, inodes - RESERVED),
        // Sizes of blocks and clusters: 1024 shifted by this.
        (24, 4, 2),
        (28, 4, 2),
        (32, 4, GROUP),
        (36, 4, GROUP),
        (40, 4, layout.inodes),
        // Never to be checked for its age.
        (54, 2, 0xffff),
        (56, 2, 0xef53),
        // Clean; errors are reported and nothing else.
        (58, 2, 1),
        (60, 2, 1),
        (76, 4, 1),
        (84, 4, RESERVED + 1),
        (88, 2, INODE),
        // Extended attributes, indexed folders.
        (92, 4, 0x28),
        // Types in folders, extents.
        (96, 4, 0x42),
        // Few copies of the superblock, large files, checksums of descriptors, many subfolders, inodes with extra fields.
        (100, 4, 0x7b),
        (252, 1, 1),
        (348, 2, 32),
        (350, 2, 32),
        // Names are hashed as signed characters.
        (352, 4, 1),
    ] {
        put(superblock, at, bytes, number);
    }
    superblock[104..120].copy_from_slice(&id);
    // What names are hashed with.
    superblock[236..252].copy_from_slice(&id);
    block
}

fn descriptors(layout: Layout, id: [u8; 16]) -> Vec<u8> {
    let mut table = Vec::new();
    let last = layout.groups - 1;
    for group in 0..layout.groups {
        let mut descriptor = [0; 32];
        let bitmaps = layout.bitmaps(group);
        let reserved = if group == 0 { RESERVED } else { 0 };
        let marks = match group {
            0 => INODES_ZERO,
            group if group == last => INODES_ZERO | INODES_UNUSED,
            _ => INODES_ZERO | INODES_UNUSED | BLOCKS_UNUSED,
        };
        for (at, bytes, number) in [
            (0, 4, bitmaps),
            (4, 4, bitmaps + 1),
            (8, 4, bitmaps + 2),
            (12, 2, layout.free(group)),
            (14, 2, layout.inodes - reserved),
            (16, 2, u64::from(group == 0)),
            (18, 2, marks),
            (28, 2, layout.inodes - reserved),
        ] {
            put(&mut descriptor, at, bytes, number);
        }
        let number = group.to_le_bytes();
        let sum = [&id[..], &number[..4], &descriptor[..30]].into_iter().fold(0xffff, crc16);
        put(&mut descriptor, 30, 2, u64::from(sum));
        table.extend(descriptor);
    }
    table.resize(table.len().next_multiple_of(ZEROS.len()), 0);
    table
}

/// The checksum of group descriptors.
fn crc16(sum: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(sum, |sum, byte| {
        (0..8)
            .fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xa001 } else { sum >> 1 })
    })
}

/// A block of bits, the first `used` of them set, and those that mean nothing.
fn bitmap(used: u64, bits: u64) -> Vec<u8> {
    let is_set = |bit: u64| bit < used || bit >= bits;
    let byte = |byte: u64| (0..8).fold(0, |sum, bit| sum | u8::from(is_set(byte * 8 + bit)) << bit);
    (0..BLOCK).map(byte).collect()
}

/// The first block of inodes: the root folder, in one block.
fn inodes(layout: Layout, root: Root) -> Vec<u8> {
    let mut block = ZEROS.to_vec();
    let inode = &mut block[ROOT_AT..];
    for (at, bytes, number) in [
        (0, 2, 0o40000 | u64::from(root.mode)),
        (4, 4, BLOCK),
        (24, 2, u64::from(root.gid & 0xffff)),
        (26, 2, 2),
        // Its length in units of 512 bytes.
        (28, 4, BLOCK / 512),
        (40, 4, layout.root()),
        (122, 2, u64::from(root.gid >> 16)),
        (128, 2, 32),
    ] {
        put(inode, at, bytes, number);
    }
    block
}

/// An empty folder: itself and what is above it, which for the root is the same.
fn folder() -> Vec<u8> {
    let mut block = ZEROS.to_vec();
    for (at, length, name) in [(0, 12, b"."), (12, BLOCK - 12, b".")] {
        put(&mut block, at, 4, ROOT);
        put(&mut block, at + 4, 2, length);
        block[at + 6] = if at == 0 { 1 } else { 2 };
        // It is a folder.
        block[at + 7] = 2;
        block[at + 8] = name[0];
    }
    block[21] = b'.';
    block
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_too_small_is_none() {
        let root = Root { mode: 0o777, gid: 0 };
        assert!(format(MIN_BLOCKS * BLOCK - 1, [7; 16], root).is_none());
        assert!(format(MIN_BLOCKS * BLOCK, [7; 16], root).is_some());
    }

    #[test]
    fn copies_lie_where_they_are_looked_for() {
        let copies: Vec<u64> = (0..130).filter(|group| has_copy(*group)).collect();
        assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn checksums_are_the_kernels() {
        // The usual check value of CRC-16/MODBUS.
        assert_eq!(crc16(0xffff, b"123456789"), 0x4b37);
    }

    #[test]
    #[expect(
        clippy::print_stderr,
        clippy::disallowed_methods,
        reason = "a test that does nothing must say so"
    )]
    fn e2fsck_finds_nothing_wrong() {
        if std::env::var("I2KIT_TEST_TOOLS").as_deref() != Ok("1") {
            eprintln!("skipped: I2KIT_TEST_TOOLS=1 is not set");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        // One group; nearly one; a last group too small to be one, and one that is just large enough; many groups.
        let sizes =
            [MIB / 4, MIB, 5 * MIB + 12_345, 127 * MIB, 129 * MIB, 131 * MIB, 200 * MIB, 16_384 * MIB];
        for bytes in sizes {
            let disk = File::create(&path).unwrap();
            disk.set_len(bytes).unwrap();
            let writes = format(bytes, [7; 16], Root { mode: 0o2777, gid: 70_000 }).unwrap();
            assert!(writes.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < 64 << 10);
            for (at, bytes) in writes {
                disk.write_all_at(&bytes, at).unwrap();
            }
            let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{bytes}: {said}");
            // Not even the folder for what is found: a volume of a pod is empty.
            assert!(said.contains(": 10/"), "{bytes}: {said}");
        }
    }
}
