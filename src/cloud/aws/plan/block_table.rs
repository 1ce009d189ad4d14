//! The table of a disk's blocks that travels with its snapshot: the digest of each block that is not all zero, in bytes of the
//! disk that nothing else uses.
//!
//! ```text
//! 0    8   `i2kitmap`
//! 8    4   version, 1
//! 12   4   blocks of the disk
//! 16   4   entries
//! 20  32   sha256 of the bytes before it and of the entries
//! 52  36   an entry: index of the block, sha256 of the block; indexes rise
//! ```
//! Numbers are little endian. On a disk the table begins where the last block does; what does not fit in front of the backup of
//! the partition table goes on in the block before it, and so on downwards. `docs/formats.md` has the same for readers with
//! other tools.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest as _, Sha256};

/// Bytes of a block, as an amount of memory.
const BLOCK_LENGTH: usize = 512 << 10;

/// The size of a block in bytes; EBS knows no other.
pub const BLOCK: u64 = BLOCK_LENGTH as u64;

/// The digest (sha256) of each block that is not all zero, by its index.
pub type BlockMap = BTreeMap<u32, [u8; 32]>;

const MAGIC: &[u8; 8] = b"i2kitmap";
const VERSION: u32 = 1;
/// Where the checksum begins.
const SUM: usize = 20;
const HEADER: usize = 52;
const ENTRY: usize = 36;

/// Entries of a table: 256 GiB of blocks that are not zero. Nobody is made to read more than the 18 MiB that they take.
const MOST_ENTRIES: u32 = 1 << 19;

/// Bytes at the end of the last block that are the partition table's: its backup has at most 33 KiB.
const BACKUP: usize = 64 << 10;

/// The table of a disk of so many blocks; none where there are more entries than a table may have.
pub fn write(disk: u32, map: &BlockMap) -> Option<Vec<u8>> {
    let count = u32::try_from(map.len()).ok().filter(|count| *count <= MOST_ENTRIES)?;
    let mut table = Vec::with_capacity(HEADER + map.len() * ENTRY);
    table.extend_from_slice(MAGIC);
    for number in [VERSION, disk, count] {
        table.extend_from_slice(&number.to_le_bytes());
    }
    table.resize(HEADER, 0);
    for (index, digest) in map {
        table.extend_from_slice(&index.to_le_bytes());
        table.extend_from_slice(digest);
    }
    let sum = sum(&table);
    table[SUM..HEADER].copy_from_slice(&sum);
    Some(table)
}

/// The blocks of the disk and the map that `bytes` begin with; none where they are no whole table of this version, or damaged.
/// What follows the table is not looked at.
pub fn read(bytes: &[u8]) -> Option<(u32, BlockMap)> {
    let table = bytes.get(..length(bytes)?)?;
    if sum(table)[..] != table[SUM..HEADER] {
        return None;
    }
    let disk = number(table, 12)?;
    let mut map = BlockMap::new();
    for entry in table[HEADER..].as_chunks::<ENTRY>().0 {
        let (index, digest) = entry.split_first_chunk::<4>()?;
        let index = u32::from_le_bytes(*index);
        let rises = map.last_key_value().is_none_or(|(last, _)| *last < index);
        if !rises || index >= disk {
            return None;
        }
        map.insert(index, digest.try_into().ok()?);
    }
    Some((disk, map))
}

/// How many bytes the table has that `bytes` begin with, by its header alone; none where no table of this version begins.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let is_ours = bytes.starts_with(MAGIC) && number(bytes, 8)? == VERSION;
    let entries = number(bytes, 16).filter(|entries| is_ours && *entries <= MOST_ENTRIES)?;
    Some(HEADER + usize::try_from(entries).ok()? * ENTRY)
}

/// Where a table of `length` bytes lies on a disk of so many blocks: for each block, the part of the table that the block begins
/// with. None where the disk is too small.
pub fn places(disk: u32, length: usize) -> Option<Vec<(u32, Range<usize>)>> {
    let mut places = Vec::new();
    let (mut index, mut start, mut room) = (disk, 0, BLOCK_LENGTH - BACKUP);
    while start < length {
        index = index.checked_sub(1)?;
        let end = length.min(start + room);
        places.push((index, start..end));
        (start, room) = (end, BLOCK_LENGTH);
    }
    Some(places)
}

/// The checksum of a table that is at least as long as a header.
fn sum(table: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(&table[..SUM]).chain_update(&table[HEADER..]).finalize().into()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> BlockMap {
        [(0, [1; 32]), (7, [2; 32]), (2046, [3; 32])].into()
    }

    #[test]
    fn a_table_reads_back_whatever_follows_it() {
        let mut table = write(2048, &map()).unwrap();
        assert_eq!((table.len(), length(&table)), (160, Some(160)));
        assert_eq!(read(&table), Some((2048, map())));
        table.extend([9; 100]);
        assert_eq!(read(&table), Some((2048, map())));
        assert_eq!(read(&write(0, &BlockMap::new()).unwrap()), Some((0, BlockMap::new())));
    }

    #[test]
    fn every_damage_of_a_table_is_noticed() {
        let table = write(2048, &map()).unwrap();
        for at in 0..table.len() {
            let mut damaged = table.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), None, "byte {at}");
            assert_eq!(read(&table[..at]), None, "cut off at {at}");
        }
    }

    #[test]
    fn a_table_that_contradicts_itself_is_refused() {
        // A block beyond the disk.
        assert_eq!(read(&write(2046, &map()).unwrap()), None);
        // The same block twice, with the right checksum.
        let mut twice = write(2048, &map()).unwrap();
        let first = twice[HEADER..HEADER + 4].to_vec();
        twice[HEADER + ENTRY..HEADER + ENTRY + 4].copy_from_slice(&first);
        let right = sum(&twice);
        twice[SUM..HEADER].copy_from_slice(&right);
        assert_eq!(read(&twice), None);
        // More entries than one may have.
        let mut large = write(2048, &map()).unwrap();
        large[16..SUM].copy_from_slice(&(MOST_ENTRIES + 1).to_le_bytes());
        assert_eq!(length(&large), None);
    }

    #[test]
    fn a_table_grows_downwards_from_the_last_block() {
        assert_eq!(places(2048, 160), Some(vec![(2047, 0..160)]));
        let first = BLOCK_LENGTH - BACKUP;
        assert_eq!(places(2048, first), Some(vec![(2047, 0..first)]));
        let second = first + BLOCK_LENGTH;
        let expected = vec![(2047, 0..first), (2046, first..second), (2045, second..second + 1)];
        assert_eq!(places(2048, second + 1), Some(expected));
        assert_eq!((places(0, 160), places(1, first + 1)), (None, None));
    }
}
