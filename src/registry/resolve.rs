//! From a reference to an image whose every part is known by digest.

use i2kit_spec::Architecture;

use super::error::Error;
use super::fetch::Registry;
use crate::oci::manifest::{self, Document, Manifest, ManifestError};
use crate::oci::{Digest, Reference, ResolvedImage};

/// Indexes inside indexes that are followed. Real ones have at most one level more than needed.
const MAX_INDEXES: usize = 4;

/// Largest image configuration that is read. Real ones have kilobytes.
const MAX_CONFIG: u64 = 8 * 1024 * 1024;

impl Registry {
    /// The image that `reference` means for machines of this architecture: manifest and configuration read and verified,
    /// layers named. A tag is looked up at its source each time; everything by digest comes from the store when it is
    /// there.
    pub async fn resolve(
        &self,
        reference: &Reference,
        architecture: Architecture,
    ) -> Result<ResolvedImage, Error> {
        let root = match reference.digest {
            Some(digest) => digest,
            None => self.sources().of(reference).resolve(reference, architecture).await?,
        };
        let (digest, manifest) = follow(self, reference, root, architecture).await?;
        let config = &manifest.config;
        if config.size > MAX_CONFIG {
            let reason = format!("{} bytes are more than a configuration has", config.size);
            let error = ManifestError::Malformed { what: "image configuration", reason };
            return Err(Error::manifest(reference)(error));
        }
        let text = if let Some(text) = self.store().read(config.digest)? {
            text
        } else {
            // It was never here, or was spoiled, and is dropped by now.
            let path = self.blob_of(reference, config).await?;
            let missing = || Error::Missing {
                place: path.display().to_string(),
                digest: config.digest,
                image: reference.to_string(),
            };
            self.store().read(config.digest)?.ok_or_else(missing)?
        };
        let config = manifest::parse_config(&text).map_err(Error::manifest(reference))?;
        let layers =
            manifest::layers(&manifest, &config, architecture).map_err(Error::manifest(reference))?;
        Ok(ResolvedImage { reference: reference.with_digest(digest), manifest: digest, config, layers })
    }
}

/// Follows indexes down to the manifest for `architecture`.
async fn follow(
    registry: &Registry,
    reference: &Reference,
    root: Digest,
    architecture: Architecture,
) -> Result<(Digest, Manifest), Error> {
    let mut digest = root;
    for _ in 0..MAX_INDEXES {
        let text = registry.document(reference, digest).await?;
        match manifest::parse(&text).map_err(Error::manifest(reference))? {
            Document::Manifest(manifest) => return Ok((digest, manifest)),
            Document::Index(index) => {
                let entry = index.select(architecture).map_err(Error::manifest(reference))?;
                digest = entry.descriptor.digest;
            }
        }
    }
    Err(Error::manifest(reference)(ManifestError::Kind("index inside index".to_owned())))
}
