//! The words of the Open Container Initiative: references, digests, image configurations, manifests, layouts and
//! archives. Pure: values in, values out. It does not know registries, files or the network.

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
pub use image::{Descriptor, Layer, Platform, ResolvedImage};
pub use reference::{Reference, ReferenceError};
pub use signal::signal_number;
