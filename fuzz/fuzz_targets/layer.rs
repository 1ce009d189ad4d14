//! Any bytes as a layer's tar: an error, or an image that reads back whole and is the same the second time.

#![no_main]

use std::io::{Cursor, Error, Result, Seek, SeekFrom, Write};

use i2kit::erofs::{dump, write_layer};
use libfuzzer_sys::fuzz_target;

/// Larger images are not kept: a sparse file may be of any size.
const MAX_KEPT: u64 = 16 << 20;

/// An output that ends where memory would.
struct Kept(Cursor<Vec<u8>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.0.position() + bytes.len() as u64 > MAX_KEPT {
            return Err(Error::other("too large to keep"));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Kept {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

fn image(tar: &[u8]) -> Option<Vec<u8>> {
    let mut out = Kept(Cursor::new(Vec::new()));
    write_layer(tar, &mut out).ok()?;
    Some(out.0.into_inner())
}

fuzz_target!(|data: &[u8]| {
    // The first byte says which blocks get a right checksum, which no mutation would find.
    let Some((repair, tar)) = data.split_first() else { return };
    let mut tar = tar.to_vec();
    for (number, block) in tar.chunks_exact_mut(512).enumerate() {
        if repair & 1 << (number % 8) != 0 {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    if let Some(first) = image(&tar) {
        dump(Cursor::new(&first)).expect("our own image reads back");
        assert!(image(&tar) == Some(first), "equal input gives equal bytes");
    }
});
