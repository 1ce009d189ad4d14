//! A disk as EBS sees it: blocks of 512 KiB, of which only those that are not all zero exist.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::cloud::CloudError;
use crate::image::Segment;

/// The size of a block; EBS knows no other.
pub(super) const BLOCK: u64 = 512 << 10;

/// The digest of each block that is not all zero, by its index.
pub(super) type BlockMap = BTreeMap<u32, [u8; 32]>;

/// A disk that lies in files.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    extents: Vec<Extent>,
    size: u64,
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
        let mut disk = Self { extents: Vec::new(), size: 0 };
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
        i32::try_from(self.size.div_ceil(1 << 30)).unwrap_or(i32::MAX)
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
    use proptest::prelude::*;

    use super::*;

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
