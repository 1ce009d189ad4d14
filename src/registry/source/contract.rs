//! What every source of images does.

use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use i2kit_spec::Architecture;

use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::error::Error;
use crate::registry::store::Partial;

/// Largest index or manifest that is read; the distribution specification's own limit.
pub(in crate::registry::source) const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// A place that holds images.
#[async_trait]
pub(in crate::registry) trait Source: Debug + Send + Sync {
    /// The digest of the manifest or index that the tag of `image` points at now. `architecture` decides where a place
    /// has one name for several images.
    async fn resolve(&self, image: &Reference, architecture: Architecture) -> Result<Digest, Error>;

    /// The bytes of a manifest or an index of `image`, verified.
    async fn document(&self, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error>;

    /// Writes a blob of `image` into the store and returns its file.
    async fn blob(&self, image: &Reference, blob: &Descriptor, partial: Partial) -> Result<PathBuf, Error>;
}

/// Compares the bytes of a document with the digest that it was asked for by.
pub(in crate::registry::source) fn verify(bytes: &[u8], expected: Digest, place: &str) -> Result<(), Error> {
    let actual = Digest::of(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(Error::Digest { place: place.to_owned(), expected, actual })
}
