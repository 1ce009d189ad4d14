//! A run of inodes with what is behind them, packed into blocks before they are written.

use super::format::{BLOCK_SIZE, SLOT_SIZE};

/// Blocks in which room for the next inode is looked for: enough that hardly any room stays unused, few enough to
/// look through for every inode.
const WINDOW: usize = 64;

/// Blocks under construction.
#[derive(Debug, Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    /// Free bytes at the end of each block, in whole slots.
    free: Vec<usize>,
}

impl Run {
    /// The blocks so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Finds room for an inode of this length with what is behind it. It crosses no block unless it is longer than
    /// one, as the kernel demands of inline data.
    pub(super) fn allocate(&mut self, length: usize) -> usize {
        let window = self.free.len().saturating_sub(WINDOW)..self.free.len();
        let fullest =
            window.filter(|block| self.free[*block] >= length).min_by_key(|block| self.free[*block]);
        let (block, start) = if let Some(block) = fullest {
            (block, (block + 1) * BLOCK_SIZE - self.free[block])
        } else {
            let start = self.bytes.len();
            self.bytes.resize(start + length.next_multiple_of(BLOCK_SIZE), 0);
            self.free.resize(self.bytes.len() / BLOCK_SIZE, 0);
            (self.free.len() - 1, start)
        };
        self.free[block] = (block + 1) * BLOCK_SIZE - (start + length).next_multiple_of(SLOT_SIZE);
        start
    }

    /// Puts bytes at an offset inside of an allocation.
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Starts over.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_fill_blocks_and_cross_none() {
        let mut run = Run::default();
        assert_eq!(run.allocate(4000), 0);
        assert_eq!(run.allocate(64), 4000_usize.next_multiple_of(32));
        assert_eq!(run.allocate(64), 4096, "64 bytes are not left in the first block");
        assert_eq!(run.allocate(5000), 8192, "longer than a block, so it starts at one");
        assert_eq!(
            run.allocate(3000),
            8192 + 5024,
            "behind the long one, which is fuller than the second block"
        );
        assert_eq!(run.allocate(4032), 4096 + 64);
        assert_eq!(run.bytes().len(), 16384);
    }
}
