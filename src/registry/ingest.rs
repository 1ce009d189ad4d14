//! Writing a blob into the store: hashed once, while it is written, and named only when the hash is right.

use std::io::{self, Read, Seek as _};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::store::Partial;
use crate::oci::{Descriptor, Digest};

/// Bytes moved at once between files.
const CHUNK: usize = 256 * 1024;

/// A blob on its way into the store.
pub(super) struct Ingest {
    partial: Partial,
    hash: Sha256,
    written: u64,
    digest: Digest,
    size: u64,
}

impl Ingest {
    /// Starts at the beginning.
    pub(super) fn new(partial: Partial, blob: &Descriptor) -> Result<Self, Error> {
        let hash = Sha256::new();
        let mut ingest = Self { partial, hash, written: 0, digest: blob.digest, size: blob.size };
        ingest.partial.restart()?;
        Ok(ingest)
    }

    /// Goes on where an earlier run stopped. Reads what that run left, since nobody else knows its hash.
    pub(super) fn resume(partial: Partial, blob: &Descriptor) -> Result<Self, Error> {
        let left = partial.len()?;
        let mut ingest =
            Self { partial, hash: Sha256::new(), written: 0, digest: blob.digest, size: blob.size };
        if left > blob.size {
            ingest.restart()?;
            return Ok(ingest);
        }
        let path = ingest.partial.path().to_owned();
        ingest.partial.file().rewind().map_err(Error::io("read", &path))?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = ingest.partial.file().read(&mut buffer).map_err(Error::io("read", &path))?;
            if count == 0 {
                return Ok(ingest);
            }
            ingest.hash.update(&buffer[..count]);
            ingest.written += count as u64;
        }
    }

    /// Bytes that are there.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether all bytes are there.
    pub(super) fn is_complete(&self) -> bool {
        self.written == self.size
    }

    /// Drops what is there.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        self.hash = Sha256::new();
        self.written = 0;
        self.partial.restart()
    }

    /// Appends `bytes` that `place` gave.
    pub(super) fn write(&mut self, bytes: &[u8], place: &str) -> Result<(), Error> {
        let actual = self.written + bytes.len() as u64;
        if actual > self.size {
            return Err(self.wrong_size(actual, place));
        }
        self.hash.update(bytes);
        self.partial.write(bytes)?;
        self.written = actual;
        Ok(())
    }

    /// Fills the rest of the blob from `input` and commits it.
    pub(super) fn copy(mut self, mut input: impl Read, place: &str) -> Result<PathBuf, Error> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.write(&buffer[..count], place)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", place)(error)),
            }
        }
        if !self.is_complete() {
            return Err(self.wrong_size(self.written, place));
        }
        self.verify(place)?;
        self.commit()
    }

    /// Compares the hash of everything written; on a mismatch everything is dropped.
    pub(super) fn verify(&mut self, place: &str) -> Result<(), Error> {
        let actual = Digest::from_bytes(self.hash.clone().finalize().into());
        if actual == self.digest {
            return Ok(());
        }
        self.restart()?;
        Err(Error::Digest { place: place.to_owned(), expected: self.digest, actual })
    }

    /// Gives the verified blob its name.
    pub(super) fn commit(self) -> Result<PathBuf, Error> {
        self.partial.commit()
    }

    fn wrong_size(&self, actual: u64, place: &str) -> Error {
        Error::Size { place: place.to_owned(), digest: self.digest, expected: self.size, actual }
    }
}
