//! Media types: what the bytes behind a descriptor are.
//!
//! Docker and OCI have a name each for the same thing; both are read. Layers that registries must not hand out are
//! kept apart from unknown layers, since the advice differs.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Uncompressed OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a client that reads images accepts where a manifest is asked for.
pub const MANIFESTS: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormat {
    /// Plain tar.
    Tar,
    /// Gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
}

/// Why the bytes of a layer cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaTypeError {
    /// The licence of the layer forbids registries to hand it out; Windows base images have such layers.
    #[error(
        "layer type `{0}` is not distributable: its bytes are not in the registry; use an image without such layers"
    )]
    Foreign(String),
    /// Not a layer of a file system.
    #[error("layer type `{0}` is not a file system layer: is this a container image?")]
    Unknown(String),
}

impl LayerFormat {
    /// The format that `media_type` stands for.
    pub fn of(media_type: &str) -> Result<Self, MediaTypeError> {
        // Parameters, such as `; charset`, say nothing about a tar.
        let name = media_type.split(';').next().unwrap_or_default().trim();
        if name.contains(".nondistributable.") || name.contains(".rootfs.foreign.") {
            return Err(MediaTypeError::Foreign(media_type.to_owned()));
        }
        match name {
            OCI_LAYER | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Self::Tar),
            OCI_LAYER_GZIP
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar+gzip" => Ok(Self::Gzip),
            OCI_LAYER_ZSTD
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.diff.tar+zstd" => Ok(Self::Zstd),
            _ => Err(MediaTypeError::Unknown(media_type.to_owned())),
        }
    }

    /// The format that the first bytes of a file show. Archives carry layers without naming their type.
    pub fn of_bytes(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Tar,
        }
    }

    /// The name of a way of packing that is not read, when the first bytes of a file show it.
    pub fn other_packing(start: &[u8]) -> Option<&'static str> {
        match start {
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Some("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
            [b'P', b'K', 3, 4, ..] => Some("zip"),
            _ => None,
        }
    }

    /// The OCI media type of a layer in this format.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Tar => OCI_LAYER,
            Self::Gzip => OCI_LAYER_GZIP,
            Self::Zstd => OCI_LAYER_ZSTD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_names_are_known() {
        for format in [LayerFormat::Tar, LayerFormat::Gzip, LayerFormat::Zstd] {
            assert_eq!(LayerFormat::of(format.media_type()), Ok(format));
        }
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(LayerFormat::of(docker), Ok(LayerFormat::Gzip));
    }

    #[test]
    fn foreign_and_unknown_layers_are_told_apart() {
        let foreign = [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ];
        for name in foreign {
            assert_eq!(LayerFormat::of(name), Err(MediaTypeError::Foreign(name.to_owned())));
        }
        let chart = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
        assert_eq!(LayerFormat::of(chart), Err(MediaTypeError::Unknown(chart.to_owned())));
    }
}
