//! Reading of what may have no end.

use std::io::Read as _;

use crate::manifest::MAX_BYTES;

/// All bytes, or one more than a manifest file may have.
pub(super) fn bounded(source: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
