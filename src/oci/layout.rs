//! OCI image layouts: which entry of `index.json` is the image that a reference means.
//!
//! Source of the format: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>. Tools do not agree
//! on how an image is named in a layout: some write the tag alone, some the whole reference; both are understood.

use i2kit_spec::Architecture;

use super::manifest::{Document, Index, IndexEntry, ManifestError, parse};
use super::reference::Reference;

/// The annotations that name an image, by the specification and by containerd.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Why a layout has no image for a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// `index.json` cannot be read.
    #[error("index.json: {0}")]
    Index(#[from] ManifestError),
    /// No entry has the name, and there is more than one or none at all.
    #[error("no image named `{wanted}`; there are: {}", if .available.is_empty() { "none".to_owned() } else { .available.join(", ") })]
    Name {
        /// The reference.
        wanted: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// There are several images without names.
    #[error(
        "there are {images} images and none has a name; give them names, such as with `skopeo copy oci:FOLDER:NAME`"
    )]
    Unnamed {
        /// How many there are.
        images: usize,
    },
}

/// The entry of `index.json` that `reference` means for machines of `architecture`. A layout of one image needs no name.
pub fn select(
    index_json: &[u8],
    reference: &Reference,
    architecture: Architecture,
) -> Result<IndexEntry, LayoutError> {
    let index = match parse(index_json)? {
        Document::Index(index) => index,
        Document::Manifest(_) => return Err(ManifestError::Kind("image manifest".to_owned()).into()),
    };
    let pinned = |entry: &&IndexEntry| Some(entry.descriptor.digest) == reference.digest;
    if let Some(entry) = index.manifests.iter().find(pinned) {
        return Ok(entry.clone());
    }
    let mut named: Vec<IndexEntry> =
        index.manifests.iter().filter(|e| is_named(e, reference)).cloned().collect();
    let anonymous = index.manifests.iter().all(|entry| names(entry).next().is_none());
    if named.is_empty() && (index.manifests.len() == 1 || anonymous) {
        named.clone_from(&index.manifests);
    }
    match named.as_slice() {
        [] => Err(LayoutError::Name {
            wanted: reference.to_string(),
            available: index.manifests.iter().flat_map(names).map(str::to_owned).collect(),
        }),
        [entry] => Ok(entry.clone()),
        // One image for several platforms is what its entries say; several images are not told apart by them.
        _ if anonymous && !is_one_image(&named) => Err(LayoutError::Unnamed { images: named.len() }),
        _ => Ok(Index { schema_version: 2, manifests: named }.select(architecture)?.clone()),
    }
}

/// Whether entries without names may be one image: each is for a platform of its own.
fn is_one_image(entries: &[IndexEntry]) -> bool {
    let mut platforms: Vec<_> = entries
        .iter()
        .map(|entry| entry.platform.as_ref().map(|p| (&p.os, &p.architecture, &p.variant)))
        .filter(|platform| platform.is_none_or(|(os, ..)| os != "unknown"))
        .collect();
    let count = platforms.len();
    platforms.sort_unstable();
    platforms.dedup();
    platforms.len() == count && !platforms.contains(&None)
}

fn names(entry: &IndexEntry) -> impl Iterator<Item = &str> {
    let named = NAME_ANNOTATIONS.iter().filter_map(move |key| entry.annotations.get(*key));
    named.map(String::as_str).filter(|name| !name.is_empty())
}

fn is_named(entry: &IndexEntry, reference: &Reference) -> bool {
    names(entry).any(|name| {
        reference.tag_or_default() == Some(name)
            || name.parse::<Reference>().is_ok_and(|named| named.is_same_name(reference))
    })
}

#[cfg(test)]
mod tests {
    use super::super::digest::Digest;
    use super::*;

    fn index(names: &[Option<&str>]) -> Vec<u8> {
        let entries: Vec<serde_json::Value> = names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let mut entry = serde_json::json!({
                    "mediaType": crate::oci::media::OCI_MANIFEST,
                    "digest": Digest::of(&[u8::try_from(n).unwrap()]),
                    "size": 1,
                });
                if let Some(name) = name {
                    entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
                }
                entry
            })
            .collect();
        serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": entries })).unwrap()
    }

    fn chosen(names: &[Option<&str>], reference: &str) -> Result<u8, String> {
        let reference = reference.parse().unwrap();
        let entry = select(&index(names), &reference, Architecture::default()).map_err(|e| e.to_string())?;
        Ok((0..8).find(|n| Digest::of(&[*n]) == entry.descriptor.digest).unwrap())
    }

    #[test]
    fn an_image_is_found_by_tag_by_full_name_or_because_it_is_alone() {
        assert_eq!(chosen(&[Some("1.0"), Some("1.1")], "app:1.1"), Ok(1));
        assert_eq!(chosen(&[Some("a/app:1"), Some("docker.io/b/app:1")], "b/app:1"), Ok(1));
        assert_eq!(chosen(&[Some("other")], "app:1.1"), Ok(0));
        assert_eq!(chosen(&[None], "app"), Ok(0));
    }

    #[test]
    fn an_unknown_name_lists_those_that_are_there() {
        let error = chosen(&[Some("1.0"), Some("1.1")], "app:2").unwrap_err();
        assert_eq!(error, "no image named `docker.io/library/app:2`; there are: 1.0, 1.1");
    }
}
