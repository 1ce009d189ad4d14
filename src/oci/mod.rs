//! The words of the Open Container Initiative: references, digests, image configurations. Pure: values in, values
//! out. It does not know registries, files or the network.

mod config;
mod digest;
mod image;
mod reference;

pub use config::{ContainerConfig, ImageConfig, RootFs};
pub use digest::{DiffId, Digest, DigestError};
pub use image::{Descriptor, Layer, Platform, ResolvedImage};
pub use reference::{Reference, ReferenceError};
