//! Sequential output through one buffer, with holes and the rare patch of what was written before.

use std::io::{Seek, SeekFrom, Write};

use super::error::ErofsError;
use super::format::{BLOCK, BLOCK_SIZE};

/// Bytes collected before they are written: few calls, and still in the processor's cache.
const BUFFER: usize = 256 << 10;
/// Holes from this length on are skipped instead of written.
const HOLE: u64 = 64 << 10;

/// An output that starts at offset 0 and is written once from front to end.
#[derive(Debug)]
pub(super) struct Output<W> {
    inner: W,
    buffer: Vec<u8>,
    flushed: u64,
    ends_in_hole: bool,
}

/// The length of the pieces at the start of `bytes`, each a block, that `are` so.
fn run(bytes: &[u8], are: impl Fn(&[u8]) -> bool) -> usize {
    bytes.chunks(BLOCK_SIZE).take_while(|piece| are(piece)).map(<[u8]>::len).sum()
}

fn is_zero(piece: &[u8]) -> bool {
    piece == &[0; BLOCK_SIZE][..piece.len()]
}

impl<W: Write + Seek> Output<W> {
    /// Starts at the beginning of `inner`, which must be empty where holes are to read as zeros.
    pub(super) fn new(mut inner: W) -> Result<Self, ErofsError> {
        inner.seek(SeekFrom::Start(0)).map_err(ErofsError::Output)?;
        Ok(Self { inner, buffer: Vec::with_capacity(BUFFER), flushed: 0, ends_in_hole: false })
    }

    /// Bytes so far.
    pub(super) fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.put(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Appends zeros; many of them become a hole.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<(), ErofsError> {
        if count >= HOLE {
            self.flush()?;
            return self.skip(count);
        }
        while count > 0 {
            let step = count.min(BLOCK);
            self.write(&[0; BLOCK_SIZE][..usize::try_from(step).expect("a block fits into memory")])?;
            count -= step;
        }
        Ok(())
    }

    /// Overwrites bytes that were written before.
    pub(super) fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ErofsError> {
        if let Some(at) = offset.checked_sub(self.flushed) {
            let at = usize::try_from(at).expect("the buffer is in memory");
            self.buffer[at..at + bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        self.flush()?;
        self.inner.seek(SeekFrom::Start(offset)).map_err(ErofsError::Output)?;
        self.inner.write_all(bytes).map_err(ErofsError::Output)?;
        self.inner.seek(SeekFrom::Start(self.flushed)).map_err(ErofsError::Output)?;
        Ok(())
    }

    /// Hands everything to the inner writer. A hole at the end gets a last byte, which gives the output its length.
    pub(super) fn finish(mut self) -> Result<(), ErofsError> {
        self.flush()?;
        if self.ends_in_hole {
            self.patch(self.flushed - 1, &[0])?;
        }
        self.inner.flush().map_err(ErofsError::Output)
    }

    fn flush(&mut self) -> Result<(), ErofsError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.put(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// Hands bytes to the inner writer; long runs of zeros among them become holes, so that a file of zeros, which
    /// compresses to nothing, does not fill the disk.
    fn put(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = run(rest, is_zero);
            if zeros as u64 >= HOLE {
                self.skip(zeros as u64)?;
                rest = &rest[zeros..];
                continue;
            }
            // Up to the next zeros, which may in turn be too few.
            let length = zeros + run(&rest[zeros..], |piece| !is_zero(piece));
            let (now, later) = rest.split_at(length);
            self.inner.write_all(now).map_err(ErofsError::Output)?;
            self.flushed += length as u64;
            self.ends_in_hole = false;
            rest = later;
        }
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), ErofsError> {
        self.flushed += count;
        self.ends_in_hole = true;
        self.inner.seek(SeekFrom::Start(self.flushed)).map(drop).map_err(ErofsError::Output)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Counts the bytes that are written, not skipped.
    struct Counted(Cursor<Vec<u8>>, u64);

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1 += bytes.len() as u64;
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }

    proptest::proptest! {
        #[test]
        fn holes_read_as_what_was_written(
            pieces in proptest::collection::vec((0_u8..2, 1_usize..300_000, 1_usize..5000), 0..12),
        ) {
            let mut inner = Counted(Cursor::default(), 0);
            let mut expected = Vec::new();
            {
                let mut out = Output::new(&mut inner).unwrap();
                for (fill, length, step) in pieces {
                    let piece = vec![fill; length];
                    // As readers hand it out: in steps that fit to nothing.
                    for part in piece.chunks(if length % 2 == 0 { length } else { step }) {
                        out.write(part).unwrap();
                    }
                    expected.extend(piece);
                }
                proptest::prop_assert_eq!(out.position(), expected.len() as u64);
                out.finish().unwrap();
            }
            proptest::prop_assert!(inner.0.into_inner() == expected);
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let mut inner = Counted(Cursor::default(), 0);
        let mut out = Output::new(&mut inner).unwrap();
        out.write(&[1; 100]).unwrap();
        for _ in 0..1000 {
            out.write(&[0; 8192]).unwrap();
        }
        out.finish().unwrap();
        assert_eq!(inner.0.get_ref().len(), 100 + 1000 * 8192);
        assert!(inner.1 < 100_000, "{} bytes were written", inner.1);
    }
}
