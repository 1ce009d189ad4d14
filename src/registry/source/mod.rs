//! Places that hold images: registries, OCI layouts, archives, the Docker daemon.

mod archive;
mod daemon;
mod layout;
mod remote;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use i2kit_spec::Architecture;

use super::error::Error;
use super::settings::{ImageSource, Settings};
use super::store::{Partial, Store};
use crate::oci::{Descriptor, Digest, Reference};
use crate::report::Events;
use archive::{Archive, ArchiveFile};
use daemon::Daemon;
use layout::Layout;
use remote::Registries;

/// Largest index or manifest that is read; the distribution specification's own limit.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// A place that holds images.
#[async_trait]
pub(super) trait Source: Debug + Send + Sync {
    /// The digest of the manifest or index that the tag of `image` points at now. `architecture` decides where a place
    /// has one name for several images.
    async fn resolve(&self, image: &Reference, architecture: Architecture) -> Result<Digest, Error>;

    /// The bytes of a manifest or an index of `image`, verified.
    async fn document(&self, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error>;

    /// Writes a blob of `image` into the store and returns its file.
    async fn blob(&self, image: &Reference, blob: &Descriptor, partial: Partial) -> Result<PathBuf, Error>;
}

/// Where each image comes from.
#[derive(Debug)]
pub(super) struct Sources {
    /// Images with a source of their own.
    named: Vec<(Reference, Box<dyn Source>)>,
    /// The source of all others.
    registries: Registries,
}

impl Sources {
    /// The sources that `settings` describe, which put what they read into `store`.
    pub(super) fn new(settings: Settings, store: &Store, events: &Events) -> Result<Self, Error> {
        let reading = Arc::default();
        let socket = settings.docker_socket.clone();
        let source = |source: &ImageSource| -> Box<dyn Source> {
            let archive = |input| Archive::new(input, store.clone(), events.clone(), Arc::clone(&reading));
            match source {
                ImageSource::Layout(folder) => Box::new(Layout::new(folder.clone())),
                ImageSource::Archive(path) => Box::new(archive(Box::new(ArchiveFile::new(path.clone())))),
                ImageSource::Daemon => Box::new(archive(Box::new(Daemon::new(socket.clone())))),
            }
        };
        let parse = |(name, from): (&String, &ImageSource)| Ok((name.parse()?, source(from)));
        let named = settings.images.iter().map(parse).collect::<Result<_, Error>>()?;
        Ok(Self { named, registries: Registries::new(settings, events.clone()) })
    }

    /// The source of `image`.
    pub(super) fn of(&self, image: &Reference) -> &dyn Source {
        let named = self.named.iter().find(|(name, _)| name.is_same_name(image));
        named.map_or(&self.registries as &dyn Source, |(_, source)| source.as_ref())
    }
}

/// Compares the bytes of a document with the digest that it was asked for by.
fn verify(bytes: &[u8], expected: Digest, place: &str) -> Result<(), Error> {
    let actual = Digest::of(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(Error::Digest { place: place.to_owned(), expected, actual })
}
