//! Images from a folder in the OCI layout. Blobs are copied into the store, since the folder's owner may change them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use i2kit_spec::Architecture;

use super::contract::{MAX_DOCUMENT, Source, verify};
use crate::oci::{Descriptor, Digest, Reference, layout};
use crate::registry::blocking::blocking;
use crate::registry::error::Error;
use crate::registry::ingest::Ingest;
use crate::registry::store::Partial;

/// A folder in the OCI layout.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file of a blob of `image`.
    fn file(&self, image: &Reference, digest: Digest) -> Result<PathBuf, Error> {
        let path = self.folder.join("blobs/sha256").join(digest.hex());
        if path.exists() {
            return Ok(path);
        }
        Err(Error::Missing { place: self.folder.display().to_string(), digest, image: image.to_string() })
    }
}

#[async_trait]
impl Source for Layout {
    async fn resolve(&self, image: &Reference, architecture: Architecture) -> Result<Digest, Error> {
        if self.folder.is_file() {
            let (kind, key, other) = ("file", "layout", "archive");
            return Err(Error::SourceKey { path: self.folder.clone(), kind, key, other });
        }
        let text = read(&self.folder.join("index.json"))?;
        let entry = layout::select(&text, image, architecture)
            .map_err(|source| Error::Layout { path: self.folder.clone(), source })?;
        Ok(entry.descriptor.digest)
    }

    async fn document(&self, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error> {
        let path = self.file(image, digest)?;
        let bytes = read(&path)?;
        verify(&bytes, digest, &path.display().to_string())?;
        Ok(bytes)
    }

    async fn blob(&self, image: &Reference, blob: &Descriptor, partial: Partial) -> Result<PathBuf, Error> {
        let path = self.file(image, blob.digest)?;
        let blob = blob.clone();
        blocking(move || {
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            Ingest::new(partial, &blob)?.copy(file, &path.display().to_string())
        })
        .await
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}
