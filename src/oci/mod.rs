//! The words of the Open Container Initiative: references, digests, image configurations, manifests, layouts and
//! archives. Pure: values in, values out. It does not know registries, files or the network.
//!
//! [`Reference`] is what manifests write, [`Digest`] names bytes, [`DiffId`] the uncompressed tar of a layer;
//! [`ImageConfig`] is the part of an image's configuration that a machine needs. [`ResolvedImage`] is an image whose every
//! byte is named: what plans are made from.
//!
//! ```
//! let image: i2kit::oci::Reference = "nginx:1.27".parse()?;
//! assert_eq!(image.to_string(), "docker.io/library/nginx:1.27");
//! # Ok::<(), i2kit::oci::ReferenceError>(())
//! ```

pub mod archive;
mod config;
mod digest;
mod image;
pub mod layout;
pub mod manifest;
pub mod media;
mod null;
mod reference;
mod signal;

pub use config::{ContainerConfig, ImageConfig, RootFs};
pub use digest::{DiffId, Digest, DigestError};
pub use image::{Descriptor, Layer, ResolvedImage};
pub use reference::{Reference, ReferenceError};
pub use signal::signal_number;
