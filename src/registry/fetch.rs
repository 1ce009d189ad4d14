//! Access to images: documents and blobs come from the store, or from the image's source into the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::files::free_bytes;
use super::settings::Settings;
use super::source::Sources;
use super::store::{Claim, Key, Store, partial_path};
use crate::oci::{Descriptor, Digest, Layer, Reference, ResolvedImage};
use crate::report::Events;

/// Waiting for another run is not worth a word before this time.
const SILENT_WAIT: Duration = Duration::from_secs(2);

/// Largest blob that is taken: what a layer may become, so that nothing larger could be used.
const MAX_BLOB: u64 = crate::erofs::MAX_IMAGE;

/// Bytes that a download leaves free on the disk, for everybody else who writes to it.
const RESERVE: u64 = 256 << 20;

/// Access to images. Cheap to clone; clones share connections and limits.
#[derive(Debug, Clone)]
pub struct Registry {
    sources: Arc<Sources>,
    store: Store,
    events: Events,
}

impl Registry {
    /// Access to the images that `settings` describe, through `store`; progress goes to `events`.
    pub fn new(settings: Settings, store: Store, events: Events) -> Result<Self, Error> {
        // An error means that a provider is installed already, by an earlier call or by a program that embeds us.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let sources = Arc::new(Sources::new(settings, &store, &events)?);
        Ok(Self { sources, store, events })
    }

    /// The store that images are kept in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The blob of one layer of `image`, complete and verified. Read it with [`open_layer`](super::open_layer).
    pub async fn blob(&self, image: &ResolvedImage, layer: &Layer) -> Result<PathBuf, Error> {
        self.blob_of(&image.reference, &layer.blob).await
    }

    /// The blobs of all layers, fetched at the same time, base first.
    pub async fn blobs(&self, image: &ResolvedImage) -> Result<Vec<PathBuf>, Error> {
        futures::future::try_join_all(image.layers.iter().map(|layer| self.blob(image, layer))).await
    }

    /// The sources of images.
    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The file of `blob`, which belongs to `image`.
    pub(super) async fn blob_of(&self, image: &Reference, blob: &Descriptor) -> Result<PathBuf, Error> {
        if let Some(path) = self.store.blob(blob)? {
            return Ok(path);
        }
        check_size(&self.store, image, blob)?;
        match self.claim(image, blob.digest).await? {
            Claim::Ready(path) => Ok(path),
            Claim::Vacant(partial) => self.sources.of(image).blob(image, blob, partial).await,
        }
    }

    /// The bytes of a manifest or an index of `image`.
    pub(super) async fn document(&self, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.store.read(digest)? {
            return Ok(bytes);
        }
        let bytes = self.sources.of(image).document(image, digest).await?;
        self.store.put(&bytes).await?;
        Ok(bytes)
    }

    /// The right to write the blob, or the blob when another run or task was faster. A long wait is reported.
    async fn claim(&self, image: &Reference, digest: Digest) -> Result<Claim, Error> {
        let key = Key::Blob(digest);
        if let Ok(claim) = tokio::time::timeout(SILENT_WAIT, self.store.claim(key)).await {
            return claim;
        }
        self.events.note(format!(
            "{} {}: another run is fetching it, waiting",
            image.repository,
            digest.short()
        ));
        self.store.claim(key).await
    }
}

/// Refuses a blob that no disk should be filled with, by what its descriptor promises.
fn check_size(store: &Store, image: &Reference, blob: &Descriptor) -> Result<(), Error> {
    if blob.size > MAX_BLOB {
        return Err(Error::TooLarge { image: image.to_string(), size: blob.size, limit: MAX_BLOB });
    }
    let path = store.path(Key::Blob(blob.digest));
    let folder = path.parent().unwrap_or(&path);
    // A file system that does not report its free space reports an error when it is full.
    let free = free_bytes(folder).unwrap_or(u64::MAX);
    let begun = std::fs::metadata(partial_path(&path)).map_or(0, |data| data.len());
    if fits(blob.size, begun, free) { Ok(()) } else { Err(Error::full("fetch", path)) }
}

/// Whether a disk with `free` bytes takes the rest of a blob of which `begun` bytes are there. A blob that is smaller
/// than the reserve needs no more than itself of it.
fn fits(size: u64, begun: u64, free: u64) -> bool {
    size.saturating_sub(begun).saturating_add(RESERVE.min(size)) <= free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_leaves_a_reserve() {
        const GIB: u64 = 1 << 30;
        assert!(fits(GIB, 0, 2 * GIB) && !fits(2 * GIB, 0, 2 * GIB) && fits(2 * GIB, GIB, 2 * GIB));
        assert!(fits(1000, 0, 2000) && !fits(1000, 0, 1000), "a small one asks for little");
        assert!(!fits(u64::MAX, 0, u64::MAX - 1));
    }
}
