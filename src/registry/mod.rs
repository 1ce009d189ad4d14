//! Images from where they are kept: registries, OCI layouts, archives, the Docker daemon. Everything that comes in is
//! verified by digest and kept in a content-addressed store; what is pinned by digest and stored needs no network.
//!
//! It does not know manifests of Kubernetes, disks or clouds. Settings are handed to it; it reads no environment.
//! Logic about documents (which image of an index, what an archive means) is in [`crate::oci`].

mod blocking;
pub mod cache;
mod error;
mod fetch;
mod files;
mod ingest;
mod layer;
mod memo;
mod progress;
mod resolve;
mod settings;
mod source;
mod store;
pub(crate) mod sum;
mod verify;

pub use error::Error;
pub use fetch::Registry;
pub use layer::{LayerReader, open_layer, open_watched_layer};
pub use settings::{ImageSource, Patience, Proxies, PullSecret, RegistrySettings, Settings};
pub use store::{Claim, Key, Partial, Store};
pub use verify::{Spoiled, Verified, verify};
