//! What the guest must find on its disk: the root hash of every partition.
//!
//! The file lies in the initial RAM file system of what firmware boots, where it is measured and signed together with the
//! kernel, and never on a partition that it speaks of. Where it is present, the guest mounts nothing that it does not
//! name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of [`Verity`] that this crate writes and reads. A guest reports any other version and refuses it.
pub const VERITY_VERSION: u32 = 1;

/// Where [`Verity`] lies in the initial RAM file system, without a leading slash.
pub const VERITY_PATH: &str = "etc/i2kit/verity.json";

/// The size of a block of data and of a block of hashes, in bytes.
pub const VERITY_BLOCK: u64 = 4096;

/// The partitions of a disk, by their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verity {
    /// Always [`VERITY_VERSION`].
    pub version: u32,
    /// Every partition that the guest may mount.
    pub partitions: BTreeMap<String, VerityPartition>,
}

/// A partition: data, then a block that describes the tree of hashes to other tools, then the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerityPartition {
    /// Blocks of data before the tree.
    pub data_blocks: u64,
    /// The tree's root: sha256 in 64 lower-case hexadecimal digits.
    pub root: String,
}
