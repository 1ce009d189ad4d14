//! Images from a folder in the OCI layout. Blobs are copied into the store, since the folder's owner may change them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::ingest::Ingest;
use super::store::Partial;
use super::{Error, blocking};
use crate::oci::{Descriptor, Digest, Platform, Reference, layout};

/// Largest index or manifest that is read; the distribution specification's own limit.
pub(super) const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// What `reference` points at, by `index.json`.
pub(super) fn look_up(folder: &Path, reference: &Reference, platform: &Platform) -> Result<Digest, Error> {
    if folder.is_file() {
        let (kind, key, other) = ("file", "layout", "archive");
        return Err(Error::SourceKey { path: folder.to_owned(), kind, key, other });
    }
    let text = read(&folder.join("index.json"))?;
    let entry = layout::select(&text, reference, platform)
        .map_err(|source| Error::Layout { path: folder.to_owned(), source })?;
    Ok(entry.descriptor.digest)
}

/// The bytes of a document, not verified, and what to call the place in messages.
pub(super) fn document(folder: &Path, image: &Reference, digest: Digest) -> Result<(Vec<u8>, String), Error> {
    let path = blob_path(folder, digest);
    if !path.exists() {
        return Err(missing(folder, image, digest));
    }
    Ok((read(&path)?, path.display().to_string()))
}

/// Copies a blob into the store.
pub(super) async fn blob(
    folder: &Path,
    image: &Reference,
    blob: &Descriptor,
    partial: Partial,
) -> Result<PathBuf, Error> {
    let path = blob_path(folder, blob.digest);
    if !path.exists() {
        return Err(missing(folder, image, blob.digest));
    }
    let blob = blob.clone();
    blocking(move || {
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ingest::new(partial, &blob)?.copy(file, &path.display().to_string())
    })
    .await
}

fn blob_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

fn missing(folder: &Path, image: &Reference, digest: Digest) -> Error {
    Error::Missing { place: folder.display().to_string(), digest, image: image.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}
