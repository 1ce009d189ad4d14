//! The blocks of a directory: entries in byte order of their names, each block readable on its own.
//!
//! A block starts with its fixed-size entries; their names follow in the same order without separators.

use super::format::{BLOCK_SIZE, DIRENT_SIZE};

/// One name of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry<'a> {
    /// The name.
    pub(super) name: &'a [u8],
    /// Node id of what it stands for.
    pub(super) nid: u64,
    /// Type of what it stands for.
    pub(super) kind: u8,
}

/// Divides sorted entries into blocks, each as full as it can be.
pub(super) fn blocks<'e, 'n>(mut entries: &'e [Entry<'n>]) -> impl Iterator<Item = &'e [Entry<'n>]> {
    std::iter::from_fn(move || {
        let mut length = 0;
        let fits = |entry: &&Entry<'_>| {
            length += DIRENT_SIZE + entry.name.len();
            length <= BLOCK_SIZE
        };
        let count = entries.iter().take_while(fits).count();
        let (block, rest) = entries.split_at(count);
        entries = rest;
        (!block.is_empty()).then_some(block)
    })
}

/// Bytes that a block's entries and names take.
pub(super) fn length(block: &[Entry<'_>]) -> usize {
    block.iter().map(|entry| DIRENT_SIZE + entry.name.len()).sum()
}

/// The bytes of a block without padding.
pub(super) fn encode(block: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK_SIZE);
    let mut name_offset = block.len() * DIRENT_SIZE;
    for entry in block {
        out.extend(entry.nid.to_le_bytes());
        out.extend(u16::try_from(name_offset).expect("an offset in a block").to_le_bytes());
        out.extend([entry.kind, 0]);
        name_offset += entry.name.len();
    }
    for entry in block {
        out.extend(entry.name);
    }
    out
}
