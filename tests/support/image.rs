//! Small images, made in memory: the documents and blobs that a build tool would push.

use std::io::Write as _;

use i2kit::oci::{DiffId, Digest, media};
use serde_json::{Value, json};

/// A layer: its tar, and the blob as pushed.
#[derive(Debug, Clone)]
pub(crate) struct TestLayer {
    /// The uncompressed tar.
    pub(crate) tar: Vec<u8>,
    /// What is stored.
    pub(crate) blob: Vec<u8>,
    /// The type of the blob.
    pub(crate) media_type: &'static str,
}

/// An image: what a registry would store of it.
#[derive(Debug, Clone)]
pub(crate) struct TestImage {
    /// Layers, base first.
    pub(crate) layers: Vec<TestLayer>,
    /// Image configuration.
    pub(crate) config: Vec<u8>,
    /// Manifest.
    pub(crate) manifest: Vec<u8>,
}

impl TestLayer {
    /// A layer with one file of `size` bytes that does not compress to nothing, gzipped when `gzip` is set.
    pub(crate) fn new(name: &str, size: usize, gzip: bool) -> Self {
        let mut seed = Digest::of(name.as_bytes());
        let mut content = Vec::with_capacity(size + 32);
        while content.len() < size {
            seed = Digest::of(seed.as_bytes());
            content.extend_from_slice(seed.as_bytes());
        }
        content.truncate(size);
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
        let tar = tar.into_inner().unwrap();
        if !gzip {
            return Self { blob: tar.clone(), tar, media_type: media::OCI_LAYER };
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        Self { blob: encoder.finish().unwrap(), tar, media_type: media::OCI_LAYER_GZIP }
    }

    /// The layer's identity.
    pub(crate) fn diff_id(&self) -> DiffId {
        DiffId(Digest::of(&self.tar))
    }

    /// The blob's address.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }
}

impl TestImage {
    /// An image of these layers for `linux/architecture`.
    pub(crate) fn new(architecture: &str, layers: Vec<TestLayer>) -> Self {
        Self::with_config(architecture, layers, &json!({ "Cmd": ["/app"] }))
    }

    /// The same with this `config` of what its containers run.
    pub(crate) fn with_config(architecture: &str, layers: Vec<TestLayer>, config: &Value) -> Self {
        let diff_ids: Vec<DiffId> = layers.iter().map(TestLayer::diff_id).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let blobs: Vec<Value> = layers.iter().map(|l| descriptor(l.media_type, &l.blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": descriptor(media::OCI_CONFIG, &config), "layers": blobs,
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    /// The manifest's address.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// All that a registry stores of the image.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        let layers = self.layers.iter().map(|layer| layer.blob.as_slice());
        layers.chain([self.config.as_slice(), self.manifest.as_slice()])
    }
}

/// A descriptor of `content`.
pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(content), "size": content.len() })
}

/// An index of images by `os/architecture`.
pub(crate) fn index(images: &[(&str, &TestImage)]) -> Vec<u8> {
    let entries: Vec<Value> = images
        .iter()
        .map(|(architecture, image)| {
            let mut entry = descriptor(media::OCI_MANIFEST, &image.manifest);
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            entry
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries })
        .to_string()
        .into_bytes()
}
