//! Any bytes as a layer's tar: an error, or an image that reads back whole and is the same the second time.

use std::io::{Cursor, Error, Result, Seek, SeekFrom, Write};

use i2kit::erofs::{dump, write_layer};

use super::checksums::repaired;

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

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let Some(tar) = repaired(data) else { return };
    if let Some(first) = image(&tar) {
        dump(Cursor::new(&first)).expect("our own image reads back");
        assert!(image(&tar) == Some(first), "equal input gives equal bytes");
    }
}
