//! Any bytes as the documents of an image: manifests and indexes, the index of a layout, the list of a docker archive, and
//! the configuration. What is chosen of them is in them, and what is read is written and read again the same.

use i2kit::oci::archive::{self, ArchiveEntry, ArchiveFile, ArchiveFiles};
use i2kit::oci::manifest::{self, Document};
use i2kit::oci::media::LayerFormat;
use i2kit::oci::{Digest, ImageConfig, Reference, layout};
use i2kit_spec::Architecture;

/// The configuration of an image of one layer, for documents that come without one.
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux"}"#;

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let reference: Reference = "docker.io/library/app:1".parse().expect("it is a reference");
    let given = manifest::parse_config(CONFIG.as_bytes()).expect("it is a configuration");
    let config = manifest::parse_config(data).unwrap_or(given);
    for architecture in Architecture::ALL {
        let _ = layout::select(data, &reference, architecture);
        document(data, &config, architecture);
    }
    docker(data, &reference, &config);
}

fn document(data: &[u8], config: &ImageConfig, architecture: Architecture) {
    let Ok(read) = manifest::parse(data) else { return };
    let written = match &read {
        Document::Index(index) => {
            let _ = index.platforms();
            if let Ok(entry) = index.select(architecture) {
                assert!(index.manifests.contains(entry));
            }
            serde_json::to_vec(index)
        }
        Document::Manifest(manifest) => {
            if let Ok(layers) = manifest::layers(manifest, config, architecture) {
                assert_eq!(layers.len(), manifest.layers.len());
            }
            serde_json::to_vec(manifest)
        }
    };
    assert_eq!(manifest::parse(&written.expect("it has only string keys")), Ok(read));
}

/// The bytes as `manifest.json`, in an archive that has what it names: every other path as a file, the rest as links to the
/// paths before them.
fn docker(data: &[u8], reference: &Reference, config: &ImageConfig) {
    let Ok(image) = archive::select(data, reference) else { return };
    let mut files = ArchiveFiles::default();
    let mut before = "";
    for (number, path) in [&image.config].into_iter().chain(&image.layers).enumerate() {
        let bytes = path.as_bytes();
        let file = ArchiveFile {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            format: LayerFormat::of_bytes(bytes),
        };
        let entry = if number.is_multiple_of(2) {
            ArchiveEntry::File(file)
        } else {
            ArchiveEntry::Link(before.to_owned())
        };
        files.insert(path, entry);
        before = path.as_str();
    }
    if let Ok((made, text, digest)) = archive::manifest(&files, &image, config) {
        assert_eq!(Digest::of(&text), digest);
        assert_eq!(manifest::parse(&text), Ok(Document::Manifest(made)));
    }
}
