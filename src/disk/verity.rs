//! Trees of hashes as dm-verity reads them: one flipped bit of a partition, and the kernel refuses the block.
//!
//! ```text
//! data          whole blocks of 4096 bytes
//! a block       veritysetup's superblock, for other tools; the guest does not read it
//! levels        the topmost first; each block holds the sha256 of 128 blocks of the level below, the lowest those of data
//! ```
//! There is no salt. It would keep collisions that were computed in advance from being used against many disks; sha256
//! has none, and without a salt the tree is a function of the data alone.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::error::DiskError;
use super::sector::read_full;

/// Size of a block of data and of hashes: the kernel's page, and the block of the file systems that we write.
pub const BLOCK: u64 = i2kit_spec::verity::VERITY_BLOCK;

const BLOCK_SIZE: usize = 4096;
const HASH_SIZE: usize = 32;
/// How much is read at once.
const READ_SIZE: usize = 256 * BLOCK_SIZE;

/// A tree of hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What lies behind the data in a partition: whole blocks.
    pub bytes: Vec<u8>,
    /// The hash that everything else follows from. It must reach the guest by another way than the partition.
    pub root: [u8; HASH_SIZE],
    /// Blocks of data.
    pub data_blocks: u64,
}

/// The tree of `data`, which must be whole blocks. `name` is for errors; `uuid` is what other tools show.
pub fn tree(name: &str, mut data: impl Read, uuid: [u8; 16]) -> Result<Tree, DiskError> {
    let mut leaves = Vec::new();
    let mut buffer = vec![0; READ_SIZE];
    let mut length = 0;
    loop {
        let read = read_full(&mut data, &mut buffer)
            .map_err(|source| DiskError::Read { name: name.to_owned(), source })?;
        length += read as u64;
        if read == 0 || read % BLOCK_SIZE != 0 {
            break;
        }
        push_hashes(&buffer[..read], &mut leaves);
    }
    if length == 0 || !length.is_multiple_of(BLOCK) {
        return Err(DiskError::Blocks { name: name.to_owned(), length });
    }
    let data_blocks = length / BLOCK;
    let mut levels = vec![leaves];
    loop {
        let last = levels.last_mut().expect("there is at least one level");
        if last.len() == HASH_SIZE {
            break;
        }
        last.resize(last.len().next_multiple_of(BLOCK_SIZE), 0);
        let mut above = Vec::new();
        push_hashes(last, &mut above);
        levels.push(above);
    }
    let root = levels.pop().and_then(|root| root.try_into().ok()).expect("the loop ends at one hash");
    let mut bytes = superblock(data_blocks, uuid);
    for level in levels.iter().rev() {
        bytes.extend_from_slice(level);
    }
    Ok(Tree { bytes, root, data_blocks })
}

/// The tree that `bytes` are, when they are one of ours for `first` (the first block of the data) and this number of blocks.
/// A tree is stored without its root, which is the hash of its topmost block, or of the only block of data.
pub fn read(bytes: Vec<u8>, first: &[u8], data_blocks: u64, uuid: [u8; 16]) -> Option<Tree> {
    let whole = bytes.len() as u64 == size(data_blocks);
    let top = if data_blocks == 1 { first } else { bytes.get(BLOCK_SIZE..2 * BLOCK_SIZE)? };
    let known = whole && bytes.get(..BLOCK_SIZE)? == superblock(data_blocks, uuid);
    let root = Sha256::digest(top.get(..BLOCK_SIZE)?).into();
    known.then_some(Tree { bytes, root, data_blocks })
}

/// Bytes of the tree of this number of blocks.
pub fn size(data_blocks: u64) -> u64 {
    let hashes = BLOCK / HASH_SIZE as u64;
    let (mut blocks, mut level) = (1, data_blocks);
    while level > 1 {
        level = level.div_ceil(hashes);
        blocks += level;
    }
    blocks * BLOCK
}

fn push_hashes(blocks: &[u8], out: &mut Vec<u8>) {
    for block in blocks.chunks(BLOCK_SIZE) {
        out.extend_from_slice(&Sha256::digest(block));
    }
}

/// `struct verity_sb`, as veritysetup writes it, and zeros to the end of the block.
fn superblock(data_blocks: u64, uuid: [u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK_SIZE);
    out.extend_from_slice(b"verity\0\0");
    // The format's version, and the kind of hashing of today's kernels.
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&uuid);
    let mut algorithm = [0; 32];
    algorithm[..6].copy_from_slice(b"sha256");
    out.extend_from_slice(&algorithm);
    for _ in ["data", "hashes"] {
        out.extend_from_slice(&4096_u32.to_le_bytes());
    }
    out.extend_from_slice(&data_blocks.to_le_bytes());
    // The salt's length and the salt: none.
    out.resize(BLOCK_SIZE, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK_SIZE).map(|i| u8::try_from(i / BLOCK_SIZE % 251).expect("below 251")).collect()
    }

    #[test]
    fn a_tree_has_the_size_and_the_levels_that_the_kernel_expects() {
        for (blocks, levels) in [(1, vec![]), (2, vec![1]), (128, vec![1]), (129, vec![2, 1])] {
            let tree = tree("x", &data(blocks)[..], [0; 16]).expect("whole blocks");
            let level_blocks: usize = levels.iter().sum();
            assert_eq!(tree.bytes.len(), (1 + level_blocks) * BLOCK_SIZE, "{blocks}");
            assert_eq!(tree.bytes.len() as u64, size(blocks as u64));
        }
        // Two levels of 128 are full at 16384 blocks.
        assert_eq!(size(16_384), (1 + 1 + 128) * BLOCK);
        assert_eq!(size(16_385), (1 + 1 + 2 + 129) * BLOCK);
    }

    #[test]
    fn the_root_changes_with_every_bit() {
        let mut bytes = data(300);
        let root = tree("x", &bytes[..], [0; 16]).expect("whole blocks").root;
        for at in [0, BLOCK_SIZE * 150 + 7, bytes.len() - 1] {
            bytes[at] ^= 4;
            assert_ne!(tree("x", &bytes[..], [0; 16]).expect("whole blocks").root, root);
            bytes[at] ^= 4;
        }
        assert_eq!(tree("x", &bytes[..], [0; 16]).expect("whole blocks").root, root);
    }

    #[test]
    fn a_stored_tree_reads_back_and_another_does_not() {
        for blocks in [1, 200] {
            let data = data(blocks);
            let made = tree("x", &data[..], [7; 16]).expect("whole blocks");
            let stored = || made.bytes.clone();
            assert_eq!(read(stored(), &data, blocks as u64, [7; 16]), Some(made.clone()));
            assert_eq!(read(stored(), &data, blocks as u64 + 1, [7; 16]), None);
            assert_eq!(read(stored(), &data, blocks as u64, [8; 16]), None);
            assert_eq!(read(stored()[..100].to_vec(), &data, blocks as u64, [7; 16]), None);
        }
    }

    #[test]
    fn what_is_not_whole_blocks_is_refused() {
        for length in [0, 1, 4095, 4097, READ_SIZE + 512] {
            let refused = tree("x", &vec![0; length][..], [0; 16]).expect_err("not whole blocks");
            assert!(matches!(refused, DiskError::Blocks { .. }), "{refused}");
        }
    }
}
