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
}

impl<W: Write + Seek> Output<W> {
    /// Starts at the beginning of `inner`, which must be empty where holes are to read as zeros.
    pub(super) fn new(mut inner: W) -> Result<Self, ErofsError> {
        inner.seek(SeekFrom::Start(0)).map_err(ErofsError::Output)?;
        Ok(Self { inner, buffer: Vec::with_capacity(BUFFER), flushed: 0 })
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
            self.inner.write_all(bytes).map_err(ErofsError::Output)?;
            self.flushed += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Appends zeros; many of them become a hole.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<(), ErofsError> {
        if count >= HOLE {
            self.flush()?;
            self.flushed += count;
            self.inner.seek(SeekFrom::Start(self.flushed)).map_err(ErofsError::Output)?;
            return Ok(());
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

    /// Hands everything to the inner writer.
    pub(super) fn finish(mut self) -> Result<(), ErofsError> {
        self.flush()?;
        self.inner.flush().map_err(ErofsError::Output)
    }

    fn flush(&mut self) -> Result<(), ErofsError> {
        self.inner.write_all(&self.buffer).map_err(ErofsError::Output)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
