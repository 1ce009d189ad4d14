//! Manifests and indexes, of OCI and of Docker: which blobs make an image, and which image fits a platform.

use std::collections::BTreeMap;

use i2kit_spec::Architecture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::ImageConfig;
use super::digest::Digest;
use super::image::{Descriptor, Layer};
use super::media::{self, LayerFormat, MediaTypeError};
use super::null;

/// The operating system of machines, in Go's words.
const OS: &str = "linux";

/// Layers of an image at most: what overlayfs takes. They are refused before they are fetched.
const MAX_LAYERS: usize = 500;

/// A document that a reference or a digest led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; older OCI documents have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// Layer blobs, base first.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub layers: Vec<Descriptor>,
}

/// An image index, also called a manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The images.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub manifests: Vec<IndexEntry>,
}

/// One image of an [`Index`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexEntry {
    /// The manifest, or a further index.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// What the image runs on; layouts often leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformEntry>,
    /// Notes, among them the name of the image in a layout.
    #[serde(default, deserialize_with = "null::in_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of an [`IndexEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformEntry {
    /// Operating system.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub os: String,
    /// Processor architecture.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub architecture: String,
    /// Level of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a document is not an image that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the form of a manifest.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// The parser's error.
        reason: String,
    },
    /// A manifest of Docker before 2016.
    #[error("manifest has schema version {0}, which is out of use: push the image again with a current tool")]
    Schema(u64),
    /// Neither a manifest nor an index, or both at once.
    #[error("document of type `{0}` is not an image: neither a manifest nor an index of manifests")]
    Kind(String),
    /// The index holds no image for the platform.
    #[error("no image for {OS}/{wanted}; there are: {}", list(.available))]
    Platform {
        /// The machine's architecture.
        wanted: Architecture,
        /// What there is, as `os/architecture[/variant]`.
        available: Vec<String>,
    },
    /// Manifest and configuration disagree on the number of layers.
    #[error("manifest has {layers} layers but the configuration names {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// More layers than can be mounted over each other.
    #[error(
        "the image has {layers} layers, and Linux mounts at most {MAX_LAYERS} over each other: squash it"
    )]
    TooManyLayers {
        /// In the manifest.
        layers: usize,
    },
    /// An image of nothing.
    #[error("the image has no layer, and so no program that a container could start: check how it was built")]
    NoLayers,
    /// A layer of a type that cannot be used.
    #[error(transparent)]
    MediaType(#[from] MediaTypeError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Reads a manifest or an index. What the document is follows from its content: the type that came with it, in a
/// header or in a descriptor, is not covered by any digest.
pub fn parse(text: &[u8]) -> Result<Document, ManifestError> {
    let malformed =
        |e: serde_json::Error| ManifestError::Malformed { what: "manifest", reason: e.to_string() };
    let value: Value = serde_json::from_slice(text).map_err(malformed)?;
    let version = value.get("schemaVersion").and_then(Value::as_u64);
    if let Some(version) = version.filter(|v| *v != 2) {
        return Err(ManifestError::Schema(version));
    }
    let media_type = value.get("mediaType").and_then(Value::as_str).unwrap_or_default().to_owned();
    // A document that can be read both ways would mean different images to different tools.
    let holds = |key: &str| value.get(key).is_some_and(|value| !value.is_null());
    let names = |key: &str| value.get(key).is_some();
    let (index, manifest) = match (holds("manifests"), holds("layers") || holds("config")) {
        (false, false) => (names("manifests"), names("layers")),
        kind => kind,
    };
    match (index, manifest) {
        (true, false) if matches!(media_type.as_str(), "" | media::OCI_INDEX | media::DOCKER_INDEX) => {
            Ok(Document::Index(serde_json::from_value(value).map_err(malformed)?))
        }
        (false, true) if matches!(media_type.as_str(), "" | media::OCI_MANIFEST | media::DOCKER_MANIFEST) => {
            Ok(Document::Manifest(serde_json::from_value(value).map_err(malformed)?))
        }
        _ => Err(ManifestError::Kind(media_type)),
    }
}

/// Reads an image configuration.
pub fn parse_config(text: &[u8]) -> Result<ImageConfig, ManifestError> {
    serde_json::from_slice(text)
        .map_err(|e| ManifestError::Malformed { what: "image configuration", reason: e.to_string() })
}

impl Index {
    /// The entry for machines of this architecture. Of several variants the plainest wins, since every machine runs it. A
    /// sole entry that names no platform is taken: its configuration has one, which is checked.
    pub fn select(&self, architecture: Architecture) -> Result<&IndexEntry, ManifestError> {
        let fits = |entry: &&IndexEntry| {
            entry.platform.as_ref().is_some_and(|p| p.os == OS && p.architecture == architecture.name())
        };
        if let Some(entry) = self.manifests.iter().filter(fits).min_by_key(|entry| entry.variant_rank()) {
            return Ok(entry);
        }
        match self.manifests.as_slice() {
            [entry] if entry.platform.is_none() => Ok(entry),
            _ => Err(ManifestError::Platform { wanted: architecture, available: self.platforms() }),
        }
    }

    /// The platforms of all entries, attestations left out.
    pub fn platforms(&self) -> Vec<String> {
        let platforms = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        let mut names: Vec<String> = platforms
            .filter(|p| p.os != "unknown")
            .map(|p| match &p.variant {
                Some(variant) => format!("{}/{}/{variant}", p.os, p.architecture),
                None => format!("{}/{}", p.os, p.architecture),
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

impl IndexEntry {
    /// Order of preference among the variants of one architecture.
    fn variant_rank(&self) -> (u8, &str) {
        match self.platform.as_ref().and_then(|p| p.variant.as_deref()) {
            None | Some("") => (0, ""),
            // The baseline of amd64 and of arm64, by their usual names.
            Some(variant @ ("v1" | "v8")) => (1, variant),
            Some(variant) => (2, variant),
        }
    }
}

/// Joins a manifest's blobs with the configuration's identities, and checks that both fit each other and the machine's
/// architecture.
pub fn layers(
    manifest: &Manifest,
    config: &ImageConfig,
    architecture: Architecture,
) -> Result<Vec<Layer>, ManifestError> {
    if config.os != OS || config.architecture != architecture.name() {
        let available = vec![format!("{}/{}", config.os, config.architecture)];
        return Err(ManifestError::Platform { wanted: architecture, available });
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ManifestError::TooManyLayers { layers: manifest.layers.len() });
    }
    let diff_ids = &config.rootfs.diff_ids;
    if manifest.layers.len() != diff_ids.len() {
        return Err(ManifestError::Layers { layers: manifest.layers.len(), diff_ids: diff_ids.len() });
    }
    if diff_ids.is_empty() {
        return Err(ManifestError::NoLayers);
    }
    let pairs = manifest.layers.iter().zip(diff_ids);
    pairs
        .map(|(blob, diff_id)| {
            LayerFormat::of(&blob.media_type)?;
            Ok(Layer { blob: blob.clone(), diff_id: *diff_id })
        })
        .collect()
}

/// A manifest for an image that came without one, such as a docker archive's: the same blobs always give the same
/// bytes, hence the same digest.
pub fn synthesize(config: Descriptor, layers: Vec<Descriptor>) -> (Manifest, Vec<u8>, Digest) {
    let media_type = Some(media::OCI_MANIFEST.to_owned());
    let manifest = Manifest { schema_version: 2, media_type, config, layers };
    let text = serde_json::to_vec(&manifest).expect("a manifest has only string keys");
    let digest = Digest::of(&text);
    (manifest, text, digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: &str) -> String {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        let variant = parts.next().map(|v| format!(r#","variant":"{v}""#)).unwrap_or_default();
        let digest = Digest::of(platform.as_bytes());
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":1,
                "platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}}}"#,
            media::OCI_MANIFEST
        )
    }

    fn index(platforms: &[&str]) -> Index {
        let entries: Vec<String> = platforms.iter().map(|p| entry(p)).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match parse(text.as_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("an index was read as a manifest"),
        }
    }

    #[test]
    fn the_platform_decides_and_the_plainest_variant_wins() {
        let index = index(&["linux/arm64/v8", "linux/amd64/v3", "linux/amd64", "unknown/unknown"]);
        let chosen = index.select(Architecture::default()).unwrap();
        assert_eq!(chosen.descriptor.digest, Digest::of(b"linux/amd64"));
    }

    #[test]
    fn a_missing_platform_lists_those_that_are_there() {
        let index = index(&["linux/arm64/v8", "windows/amd64", "unknown/unknown"]);
        let error = index.select(Architecture::default()).unwrap_err();
        assert_eq!(error.to_string(), "no image for linux/amd64; there are: linux/arm64/v8, windows/amd64");
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let text = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
        assert_eq!(parse(text), Err(ManifestError::Kind(String::new())));
    }

    #[test]
    fn a_type_that_contradicts_the_content_is_refused() {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media::OCI_MANIFEST);
        assert_eq!(parse(text.as_bytes()), Err(ManifestError::Kind(media::OCI_MANIFEST.to_owned())));
    }

    #[test]
    fn schema_1_is_named() {
        let error = parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err();
        assert_eq!(error, ManifestError::Schema(1));
    }

    #[test]
    fn lists_that_are_null_or_absent_are_empty() {
        let index = |text: &str| matches!(parse(text.as_bytes()), Ok(Document::Index(index)) if index.manifests.is_empty());
        assert!(index(r#"{"schemaVersion":2,"manifests":null}"#));
        assert!(index(r#"{"schemaVersion":2,"manifests":[],"layers":null,"config":null}"#));
        let config = format!(r#"{{"mediaType":null,"digest":"{}","size":1}}"#, Digest::of(b"c"));
        for layers in ["", r#","layers":null"#, r#","layers":[],"manifests":null"#] {
            let text = format!(r#"{{"schemaVersion":2,"config":{config}{layers}}}"#);
            let Ok(Document::Manifest(manifest)) = parse(text.as_bytes()) else { panic!("{text}") };
            let image = parse_config(br#"{"architecture":"amd64","os":"linux","rootfs":null}"#).unwrap();
            assert_eq!(
                super::layers(&manifest, &image, Architecture::default()),
                Err(ManifestError::NoLayers)
            );
        }
        let entry = r#""platform":{"os":null,"architecture":"amd64"},"annotations":{"a":null}"#;
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1,{entry}}}]}}"#,
            Digest::of(b"m")
        );
        assert!(matches!(parse(text.as_bytes()), Ok(Document::Index(_))));
    }

    /// Words that documents are made of, so that random documents get past the first check.
    fn json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<u64>().prop_map(Value::from),
            Just(Value::from(2)),
            Just(Value::from("linux")),
            Just(Value::from(media::OCI_INDEX)),
            Just(Value::from(Digest::of(b"x").to_string())),
            ".{0,9}".prop_map(Value::from),
        ];
        let key = proptest::sample::select(vec![
            "schemaVersion",
            "mediaType",
            "manifests",
            "layers",
            "config",
            "digest",
            "size",
            "platform",
            "os",
            "architecture",
            "rootfs",
            "diff_ids",
            "annotations",
            "Config",
            "Layers",
        ]);
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn hostile_documents_are_read_or_refused(value in json(), noise in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let text = value.to_string().into_bytes();
            let platform = Architecture::default();
            let reference = "app:1".parse().unwrap();
            for bytes in [&text, &noise] {
                if let Ok(Document::Index(index)) = parse(bytes) {
                    let _ = index.select(platform);
                }
                let config = parse_config(bytes);
                if let (Ok(Document::Manifest(manifest)), Ok(config)) = (parse(bytes), &config) {
                    let _ = layers(&manifest, config, platform);
                }
                let _ = crate::oci::layout::select(bytes, &reference, platform);
                if let (Ok(image), Ok(config)) = (crate::oci::archive::select(bytes, &reference), &config) {
                    let _ = crate::oci::archive::manifest(&crate::oci::archive::ArchiveFiles::default(), &image, config);
                }
            }
        }
    }
}
