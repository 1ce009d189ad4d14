//! Images from where they are kept: registries, OCI layouts, archives, the Docker daemon. Everything that comes in is
//! verified by digest and kept in a content-addressed store; what is pinned by digest and stored needs no network.
//!
//! It does not know manifests of Kubernetes, disks or clouds. Settings are handed to it; it reads no environment.
//! Logic about documents (which image of an index, what an archive means) is in [`crate::oci`].

mod archive;
pub mod cache;
mod challenge;
mod credentials;
mod daemon;
mod download;
mod endpoint;
mod error;
mod failure;
mod fetch;
mod ingest;
mod layer;
mod layout;
mod memo;
mod progress;
mod remote;
mod resolve;
mod retry;
mod settings;
mod store;
pub(crate) mod sum;
mod verify;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

pub use error::Error;
pub use layer::{LayerReader, open_layer};
pub use settings::{ImageSource, Patience, Proxies, RegistrySettings, Settings};
pub use store::{Claim, Key, Partial, Store};
pub use verify::{Spoiled, Verified, verify};

use crate::oci::{Layer, Reference, ResolvedImage};
use crate::report::Events;
use remote::Remote;

/// Access to images. Cheap to clone; clones share connections and limits.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    /// [`Settings::images`], parsed.
    sources: Vec<(Reference, ImageSource)>,
    store: Store,
    events: Events,
    /// One client for each host and way to speak to it, made when first needed.
    remotes: Mutex<HashMap<(String, bool, bool), Arc<Remote>>>,
    /// Limits the blobs in flight.
    downloads: Semaphore,
    /// An archive is read as a whole; two readers at once would do the same work.
    archives: Mutex<()>,
}

impl Registry {
    /// Access to the images that `settings` describe, through `store`; progress goes to `events`.
    pub fn new(settings: Settings, store: Store, events: Events) -> Result<Self, Error> {
        // An error means that a provider is installed already, by an earlier call or by a program that embeds us.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let parse = |(name, source): (&String, &ImageSource)| Ok((name.parse()?, source.clone()));
        let sources = settings.images.iter().map(parse).collect::<Result<_, Error>>()?;
        let downloads = Semaphore::new(settings.concurrency.max(1));
        let (remotes, archives) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { settings, sources, store, events, remotes, downloads, archives })))
    }

    /// The store that images are kept in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The blob of one layer of `image`, complete and verified. Read it with [`open_layer`].
    pub async fn blob(&self, image: &ResolvedImage, layer: &Layer) -> Result<PathBuf, Error> {
        fetch::blob(&self.0, &image.reference, &layer.blob).await
    }

    /// The blobs of all layers, fetched at the same time, base first.
    pub async fn blobs(&self, image: &ResolvedImage) -> Result<Vec<PathBuf>, Error> {
        futures::future::try_join_all(image.layers.iter().map(|layer| self.blob(image, layer))).await
    }
}

impl Inner {
    /// Where `reference` comes from when it is not a registry.
    fn source(&self, reference: &Reference) -> Option<&ImageSource> {
        let (_, source) = self.sources.iter().find(|(name, _)| name.is_same_name(reference))?;
        Some(source)
    }
}

/// Runs file work, hashing and unpacking where it does not hold up the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Client("the program is ending".to_owned())),
        },
    }
}
