//! An image whose every part is known by digest: what a resolved reference becomes, and what plans are made from.

use serde::{Deserialize, Serialize};

use super::config::ImageConfig;
use super::digest::{DiffId, Digest};
use super::null;
use super::reference::Reference;

/// A pointer to content: what it is, its address, its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type, such as `application/vnd.oci.image.layer.v1.tar+gzip`.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub media_type: String,
    /// Content address.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// A layer: the blob that carries it and the identity of what is inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The blob, compressed or not.
    pub blob: Descriptor,
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
}

/// An image whose manifest and configuration have been read and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference, pinned to the digest of the platform's manifest.
    pub reference: Reference,
    /// The digest of the platform's manifest.
    pub manifest: Digest,
    /// The configuration.
    pub config: ImageConfig,
    /// Layers, base first; as many as `config.rootfs.diff_ids`.
    pub layers: Vec<Layer>,
}
