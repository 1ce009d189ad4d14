//! A disk as EBS sees it: blocks of 512 KiB, of which only those that are not all zero exist, and a table of them in bytes of
//! the disk that nothing else uses.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::cloud::CloudError;
use crate::cloud::aws::plan::block_table;
pub(super) use crate::cloud::aws::plan::block_table::{BLOCK, BlockMap};
use crate::disk::gpt;
use crate::image::Segment;

/// Bytes of a GiB, of which volumes are made.
const GIB: u64 = 1 << 30;

/// A disk that lies in files.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    extents: Vec<Extent>,
    size: u64,
    /// What blocks begin with instead of zeroes: the table of blocks.
    table: BTreeMap<u32, Vec<u8>>,
}

/// Bytes of the disk that are the first bytes of a file.
#[derive(Debug, Clone)]
struct Extent {
    start: u64,
    length: u64,
    file: PathBuf,
}

impl Disk {
    pub(super) fn new(segments: &[Segment]) -> Self {
        let mut disk = Self { extents: Vec::new(), size: 0, table: BTreeMap::new() };
        for segment in segments {
            if let Some(file) = &segment.file {
                disk.extents.push(Extent { start: disk.size, length: segment.length, file: file.clone() });
            }
            disk.size += segment.length;
        }
        disk
    }

    /// The size of a volume that holds the disk, in GiB.
    pub(super) fn gib(&self) -> i32 {
        i32::try_from(self.size.div_ceil(GIB)).unwrap_or(i32::MAX)
    }

    /// The bytes of a block; beyond the disk's end they are zero.
    pub(super) fn read(&self, index: u32) -> Result<Vec<u8>, CloudError> {
        let (start, end) = (u64::from(index) * BLOCK, (u64::from(index) + 1) * BLOCK);
        let mut bytes = vec![0; size(BLOCK)];
        for extent in &self.extents {
            let from = extent.start.max(start);
            let to = (extent.start + extent.length).min(end);
            if from < to {
                let part = &mut bytes[size(from - start)..size(to - start)];
                let read =
                    File::open(&extent.file).and_then(|file| file.read_exact_at(part, from - extent.start));
                read.map_err(CloudError::file("read", &extent.file))?;
            }
        }
        if let Some(table) = self.table.get(&index) {
            bytes[..table.len()].copy_from_slice(table);
        }
        Ok(bytes)
    }

    /// Reads the whole disk once: its blocks and their digests.
    pub(super) fn map(&self) -> Result<BlockMap, CloudError> {
        let mut map = BlockMap::new();
        for extent in &self.extents {
            let last = (extent.start + extent.length).div_ceil(BLOCK);
            for index in extent.start / BLOCK..last {
                let index = u32::try_from(index).map_err(|_| CloudError::Conflict {
                    message: format!("a disk of {} bytes is too large for EBS", self.size),
                })?;
                // Two extents may share a block: it was read as a whole then.
                if map.contains_key(&index) {
                    continue;
                }
                let bytes = self.read(index)?;
                if bytes.iter().any(|byte| *byte != 0) {
                    map.insert(index, digest(&bytes));
                }
            }
        }
        Ok(map)
    }

    /// The disk with the table of its blocks in it, and the map of all blocks, those of the table among them. Where the table has
    /// no place, the disk stays as it is.
    pub(super) fn with_table(mut self) -> Result<(Self, BlockMap), CloudError> {
        let mut map = self.map()?;
        self.table = self.table_of(&map)?;
        for index in self.table.keys() {
            map.insert(*index, digest(&self.read(*index)?));
        }
        Ok((self, map))
    }

    /// The parts of the table of these blocks, by the block that begins with each; none where it has no place. The table has all
    /// blocks but its own, whose digests nobody knows before it is written: who reads it has them.
    fn table_of(&self, map: &BlockMap) -> Result<BTreeMap<u32, Vec<u8>>, CloudError> {
        let Some(free) = self.behind_partitions()? else { return Ok(BTreeMap::new()) };
        let mut others = map.clone();
        others.remove(&free.end.saturating_sub(1));
        let Some(table) = block_table::write(free.end, &others) else { return Ok(BTreeMap::new()) };
        let places = block_table::places(free.end, table.len()).unwrap_or_default();
        let mut parts = BTreeMap::new();
        for (index, part) in places {
            // Nothing but zeroes gives way to it.
            let there = self.read(index)?;
            if !free.contains(&index) || there[..part.len()].iter().any(|byte| *byte != 0) {
                return Ok(BTreeMap::new());
            }
            parts.insert(index, table[part].to_vec());
        }
        Ok(parts)
    }

    /// The blocks behind the last partition, of which the last one has the backup of the partition table at its end. None where
    /// the disk is no whole volume with a partition table for all of it.
    fn behind_partitions(&self) -> Result<Option<Range<u32>>, CloudError> {
        let mut head = self.read(0)?;
        head.extend(self.read(1)?);
        let is_whole = self.size > 0 && self.size.is_multiple_of(GIB);
        let layout = gpt::parse(&head).ok().filter(|layout| is_whole && layout.size == self.size);
        let Some(layout) = layout else { return Ok(None) };
        let end = layout.partitions.last().map_or(gpt::HEAD_SIZE, |last| last.offset + last.length);
        let start = u32::try_from(end.div_ceil(BLOCK)).ok();
        let blocks = u32::try_from(self.size / BLOCK).ok();
        Ok(start.zip(blocks).map(|(start, blocks)| start..blocks))
    }
}

/// The blocks of a volume of so many GiB; none of one that EBS does not have.
pub(super) fn count(gib: i64) -> u32 {
    let blocks = u64::try_from(gib).ok().and_then(|gib| gib.checked_mul(GIB / BLOCK));
    blocks.and_then(|blocks| u32::try_from(blocks).ok()).unwrap_or_default()
}

/// The blocks that make `new` out of a copy of `parent`, in order: those that differ, and those that `new` does not have
/// and the copy must not keep.
pub(super) fn delta(parent: &BlockMap, new: &BlockMap) -> Vec<u32> {
    let changed =
        new.iter().filter(|(index, digest)| parent.get(index) != Some(digest)).map(|(index, _)| *index);
    let gone = parent.keys().copied().filter(|index| !new.contains_key(index));
    let mut blocks: Vec<u32> = changed.chain(gone).collect();
    blocks.sort_unstable();
    blocks
}

pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("offsets within a block fit into memory")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::plan::layout::{ALIGNMENT, DiskLayout, Guid, Partition};

    /// A volume of so many GiB with one partition that ends at `end` and is all zero.
    fn volume(folder: &Path, gib: u64, end: u64) -> Disk {
        let partition = Partition {
            name: "pod".into(),
            guid: Guid::from_bytes([7; 16]),
            offset: ALIGNMENT,
            length: end - ALIGNMENT,
        };
        let size = gib * GIB;
        let layout = DiskLayout { guid: Guid::from_bytes([9; 16]), partitions: vec![partition], size };
        let file = |name: &str, bytes: Vec<u8>| {
            std::fs::write(folder.join(name), &bytes).unwrap();
            Segment { file: Some(folder.join(name)), length: bytes.len() as u64 }
        };
        let hole = Segment { file: None, length: size - gpt::HEAD_SIZE - gpt::TAIL_SIZE };
        Disk::new(&[file("head", gpt::head(&layout)), hole, file("tail", gpt::tail(&layout))])
    }

    fn map(blocks: &[Option<u8>]) -> BlockMap {
        let filled = (0..).zip(blocks).filter_map(|(index, fill)| Some((index, [(*fill)?; 32])));
        filled.collect()
    }

    #[test]
    fn a_block_is_put_together_from_all_that_lies_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, fill: u8, length: usize| {
            std::fs::write(folder.path().join(name), vec![fill; length]).unwrap();
            Segment { file: Some(folder.path().join(name)), length: length as u64 }
        };
        let hole = |length| Segment { file: None, length };
        let half = size(BLOCK) / 2;
        let disk = Disk::new(&[
            file("a", 1, half),
            hole(BLOCK / 4),
            file("b", 2, half),
            hole(2 * BLOCK - BLOCK / 4),
            file("zero", 0, half),
            hole((1 << 30) - 4 * BLOCK),
        ]);
        let first = disk.read(0).unwrap();
        assert_eq!((first[0], first[half], first[half / 2 * 3]), (1, 0, 2));
        assert_eq!(disk.read(1).unwrap()[0], 2);
        assert_eq!(disk.map().unwrap().keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(disk.map().unwrap()[&0], digest(&first));
        assert_eq!(disk.gib(), 1);
    }

    #[test]
    fn the_table_lies_in_front_of_the_backup_of_the_partition_table() {
        let folder = tempfile::tempdir().unwrap();
        let plain = volume(folder.path(), 1, 3 << 20);
        let (mut others, backup) = (plain.map().unwrap(), plain.read(2047).unwrap());
        let (disk, map) = plain.clone().with_table().unwrap();
        assert_eq!(map, disk.map().unwrap());
        assert_eq!(map.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>(), "no further block");
        let last = disk.read(2047).unwrap();
        others.remove(&2047);
        assert_eq!(block_table::read(&last), Some((2048, others)));
        let length = block_table::length(&last).unwrap();
        assert!(last[length..] == backup[length..], "the backup stays as it is");
        assert_eq!(plain.with_table().unwrap().1, map, "the same disk has the same table");
    }

    #[test]
    fn a_table_takes_no_place_of_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let entries = |count: u32| (0..count).map(|index| (index, [1; 32])).collect::<BlockMap>();
        let taken =
            |disk: &Disk, count: u32| disk.table_of(&entries(count)).unwrap().into_keys().collect::<Vec<_>>();
        // As far as partitions may reach: the last MiB is never theirs.
        let full = volume(folder.path(), 16, (16 << 30) - ALIGNMENT);
        assert_eq!(taken(&full, 27_000), [32_766, 32_767]);
        assert_eq!(taken(&full, 30_000), [0_u32; 0], "the third block would be in the partition");
        let other = tempfile::tempdir().unwrap();
        assert_eq!(taken(&volume(other.path(), 16, 3 << 20), 30_000), [32_765, 32_766, 32_767]);
        // Bytes that are there already.
        let tail = folder.path().join("tail");
        let backup = std::fs::read(&tail).unwrap();
        let mut bytes = backup.clone();
        bytes[size(BLOCK)] = 1;
        std::fs::write(&tail, bytes).unwrap();
        assert_eq!(taken(&full, 3), [0_u32; 0]);
        std::fs::write(&tail, backup).unwrap();
        assert_eq!(taken(&full, 3), [32_767]);
        // Without a partition table nobody knows what is free.
        std::fs::write(folder.path().join("head"), vec![0; size(gpt::HEAD_SIZE)]).unwrap();
        assert_eq!(taken(&full, 3), [0_u32; 0]);
    }

    #[test]
    fn volumes_are_counted_in_blocks() {
        assert_eq!([0, 1, 16, -1, i64::MAX].map(count), [0, 2048, 32_768, 0, 0]);
    }

    proptest! {
        #[test]
        fn a_delta_over_its_parent_is_the_whole(
            parent in proptest::collection::vec(proptest::option::of(0_u8..4), 0..20),
            new in proptest::collection::vec(proptest::option::of(0_u8..4), 0..20),
        ) {
            let (parent, new) = (map(&parent), map(&new));
            let mut copy = parent.clone();
            for index in delta(&parent, &new) {
                match new.get(&index) {
                    Some(digest) => copy.insert(index, *digest),
                    None => copy.remove(&index),
                };
            }
            prop_assert_eq!(copy, new);
        }
    }
}
