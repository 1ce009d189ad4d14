//! Image archives, as `docker save` writes them: which files of the tar make the image that a reference means.
//!
//! An archive names its parts by path, not by digest, and carries no registry manifest. Whoever reads the tar says
//! what each file hashes to; this module makes a manifest of it. Archives in the OCI layout (`oci-archive`) have no
//! `manifest.json` and are read by [`super::layout`].

use std::collections::BTreeMap;

use serde::Deserialize;

use super::config::ImageConfig;
use super::digest::Digest;
use super::image::Descriptor;
use super::manifest::Manifest;
use super::media::{self, LayerFormat};
use super::null;
use super::reference::Reference;

/// Longest chain of links inside an archive; old Docker versions write one.
const MAX_LINKS: usize = 8;

/// What a tar holds, by path without a leading `./`.
#[derive(Debug, Clone, Default)]
pub struct ArchiveFiles(BTreeMap<String, ArchiveEntry>);

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveEntry {
    /// A regular file.
    File(ArchiveFile),
    /// A link to another path; relative ones start at the folder of the entry.
    Link(String),
}

/// A regular file of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveFile {
    /// What it hashes to.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// What it is, judged by its first bytes.
    pub format: LayerFormat,
}

/// One image of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArchiveImage {
    /// Path of the image configuration.
    pub config: String,
    /// References that the image was saved by.
    #[serde(default, deserialize_with = "null::in_list")]
    pub repo_tags: Vec<String>,
    /// Paths of the layers, base first.
    #[serde(default, deserialize_with = "null::in_list")]
    pub layers: Vec<String>,
}

/// Why an archive has no image for a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// `manifest.json` is not what it should be.
    #[error("manifest.json is malformed: {0}")]
    Malformed(String),
    /// No image has the name, and there is more than one or none at all.
    #[error("no image named `{wanted}`; there are: {}", if .available.is_empty() { "none".to_owned() } else { .available.join(", ") })]
    Name {
        /// The reference.
        wanted: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// A file that `manifest.json` names is not in the archive.
    #[error("`{0}` is named in manifest.json but missing: is the archive complete?")]
    Missing(String),
    /// The layer is not the one that the configuration means.
    #[error("layer `{path}` is {actual} but the configuration says {expected}: save the image again")]
    Layer {
        /// Path in the archive.
        path: String,
        /// What it hashes to.
        actual: Digest,
        /// What it should hash to.
        expected: Digest,
    },
}

impl ArchiveFiles {
    /// Adds an entry of the tar. As when a tar is unpacked, the last entry of a path counts.
    pub fn insert(&mut self, path: &str, entry: ArchiveEntry) {
        self.0.insert(normal(path), entry);
    }

    /// The file at `path`, through links.
    pub fn file(&self, path: &str) -> Option<ArchiveFile> {
        let mut path = normal(path);
        for _ in 0..MAX_LINKS {
            match self.0.get(&path)? {
                ArchiveEntry::File(file) => return Some(*file),
                ArchiveEntry::Link(target) => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    path = normal(&format!("{folder}/{target}"));
                }
            }
        }
        None
    }
}

/// The path without empty and `.` parts and with `..` applied; what lies above the root is the root.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The image of `manifest.json` that `reference` means. An archive of one image needs no name.
pub fn select(manifest_json: &[u8], reference: &Reference) -> Result<ArchiveImage, ArchiveError> {
    let mut images: Vec<ArchiveImage> =
        serde_json::from_slice(manifest_json).map_err(|e| ArchiveError::Malformed(e.to_string()))?;
    let is_named = |image: &ArchiveImage| {
        let tags = image.repo_tags.iter();
        tags.filter_map(|tag| tag.parse::<Reference>().ok()).any(|named| named.is_same_name(reference))
    };
    let position = images.iter().position(is_named).or((images.len() == 1).then_some(0));
    match position {
        Some(position) => Ok(images.swap_remove(position)),
        None => Err(ArchiveError::Name {
            wanted: reference.to_string(),
            available: images.into_iter().flat_map(|image| image.repo_tags).collect(),
        }),
    }
}

/// The descriptor of the image's configuration.
pub fn config(files: &ArchiveFiles, image: &ArchiveImage) -> Result<Descriptor, ArchiveError> {
    let file = files.file(&image.config).ok_or_else(|| ArchiveError::Missing(image.config.clone()))?;
    Ok(Descriptor { media_type: media::OCI_CONFIG.to_owned(), digest: file.digest, size: file.size })
}

/// The manifest of the image, its bytes and its digest. Layers that are plain tars must be those that `config` names;
/// packed ones are checked when they are unpacked.
pub fn manifest(
    files: &ArchiveFiles,
    image: &ArchiveImage,
    config: &ImageConfig,
) -> Result<(Manifest, Vec<u8>, Digest), ArchiveError> {
    let mut layers = Vec::with_capacity(image.layers.len());
    for (number, path) in image.layers.iter().enumerate() {
        let file = files.file(path).ok_or_else(|| ArchiveError::Missing(path.clone()))?;
        if let (LayerFormat::Tar, Some(diff_id)) = (file.format, config.rootfs.diff_ids.get(number))
            && file.digest != diff_id.0
        {
            return Err(ArchiveError::Layer { path: path.clone(), actual: file.digest, expected: diff_id.0 });
        }
        let media_type = file.format.media_type().to_owned();
        layers.push(Descriptor { media_type, digest: file.digest, size: file.size });
    }
    Ok(super::manifest::synthesize(self::config(files, image)?, layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> ArchiveEntry {
        ArchiveEntry::File(ArchiveFile {
            digest: Digest::of(content),
            size: content.len() as u64,
            format: LayerFormat::of_bytes(content),
        })
    }

    #[test]
    fn links_are_followed_and_loops_end() {
        let mut files = ArchiveFiles::default();
        files.insert("./a.tar", file(b"a"));
        files.insert("b/layer.tar", ArchiveEntry::Link("../a.tar".into()));
        files.insert("c", ArchiveEntry::Link("c".into()));
        assert_eq!(files.file("b/layer.tar").map(|f| f.digest), Some(Digest::of(b"a")));
        assert_eq!(files.file("c"), None);
        assert_eq!(files.file("../../a.tar").map(|f| f.size), Some(1));
    }

    #[test]
    fn images_are_found_by_name_or_because_they_are_alone() {
        let one = br#"[{"Config":"c.json","RepoTags":null,"Layers":null}]"#;
        assert_eq!(select(one, &"app".parse().unwrap()).unwrap().config, "c.json");
        let two = br#"[{"Config":"a","RepoTags":["app:1"],"Layers":[]},{"Config":"b","RepoTags":["app:2"],"Layers":[]}]"#;
        assert_eq!(select(two, &"docker.io/library/app:2".parse().unwrap()).unwrap().config, "b");
        let error = select(two, &"app:3".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "no image named `docker.io/library/app:3`; there are: app:1, app:2");
    }

    #[test]
    fn a_layer_that_the_configuration_does_not_mean_is_refused() {
        let mut files = ArchiveFiles::default();
        files.insert("c.json", file(b"{}"));
        files.insert("l.tar", file(b"layer"));
        let image = ArchiveImage { config: "c.json".into(), repo_tags: vec![], layers: vec!["l.tar".into()] };
        let text = |digest: Digest| {
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"diff_ids":["{digest}"]}}}}"#)
        };
        let good: ImageConfig = serde_json::from_str(&text(Digest::of(b"layer"))).unwrap();
        let (_, bytes, digest) = manifest(&files, &image, &good).unwrap();
        assert_eq!(Digest::of(&bytes), digest);
        let bad: ImageConfig = serde_json::from_str(&text(Digest::of(b"other"))).unwrap();
        assert!(matches!(manifest(&files, &image, &bad), Err(ArchiveError::Layer { .. })));
    }
}
