//! From a reference to an image whose every part is known by digest.

use super::{Error, ImageSource, Inner, Registry, archive, fetch, layout};
use crate::oci::manifest::{self, Document, Manifest, ManifestError};
use crate::oci::{Digest, Platform, Reference, ResolvedImage};

/// Indexes inside indexes that are followed. Real ones have at most one level more than needed.
const MAX_INDEXES: usize = 4;

/// Largest image configuration that is read. Real ones have kilobytes.
const MAX_CONFIG: u64 = 8 * 1024 * 1024;

impl Registry {
    /// The image that `reference` means on `platform`: manifest and configuration read and verified, layers named.
    /// A tag is asked for at its source each time; everything by digest comes from the store when it is there.
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<ResolvedImage, Error> {
        let inner = &*self.0;
        let root = match reference.digest {
            Some(digest) => digest,
            None => look_up(inner, reference, platform).await?,
        };
        let (digest, manifest) = follow(inner, reference, root, platform).await?;
        let config = &manifest.config;
        if config.size > MAX_CONFIG {
            let reason = format!("{} bytes are more than a configuration has", config.size);
            let error = ManifestError::Malformed { what: "image configuration", reason };
            return Err(Error::manifest(reference)(error));
        }
        let text = if let Some(text) = inner.store.read(config.digest)? {
            text
        } else {
            // It was never here, or was spoiled, and is dropped by now.
            let path = fetch::blob(inner, reference, config).await?;
            let missing = || Error::Missing {
                place: path.display().to_string(),
                digest: config.digest,
                image: reference.to_string(),
            };
            inner.store.read(config.digest)?.ok_or_else(missing)?
        };
        let config = manifest::parse_config(&text).map_err(Error::manifest(reference))?;
        let layers = manifest::layers(&manifest, &config, platform).map_err(Error::manifest(reference))?;
        Ok(ResolvedImage { reference: reference.with_digest(digest), manifest: digest, config, layers })
    }
}

/// What the tag of `reference` points at.
async fn look_up(inner: &Inner, reference: &Reference, platform: &Platform) -> Result<Digest, Error> {
    match inner.source(reference) {
        None => {
            let tag = reference.tag_or_default().expect("a reference without digest has a tag");
            fetch::tag(inner, reference, tag).await
        }
        Some(ImageSource::Layout(folder)) => layout::look_up(folder, reference, platform),
        Some(source) => archive::look_up(inner, source, reference, platform).await,
    }
}

/// Follows indexes down to the manifest for `platform`.
async fn follow(
    inner: &Inner,
    reference: &Reference,
    root: Digest,
    platform: &Platform,
) -> Result<(Digest, Manifest), Error> {
    let mut digest = root;
    for _ in 0..MAX_INDEXES {
        let text = fetch::document(inner, reference, digest).await?;
        match manifest::parse(&text).map_err(Error::manifest(reference))? {
            Document::Manifest(manifest) => return Ok((digest, manifest)),
            Document::Index(index) => {
                let entry = index.select(platform).map_err(Error::manifest(reference))?;
                digest = entry.descriptor.digest;
            }
        }
    }
    Err(Error::manifest(reference)(ManifestError::Kind("index inside index".to_owned())))
}
