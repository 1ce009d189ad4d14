//! Places that hold images: registries, OCI layouts, archives, the Docker daemon.

mod archive;
mod contract;
mod daemon;
mod layout;
mod remote;

use std::sync::Arc;

use super::error::Error;
use super::settings::{ImageSource, Settings};
use super::store::Store;
use crate::oci::Reference;
use crate::report::Events;
use archive::{Archive, ArchiveFile};
use contract::Source;
use daemon::Daemon;
use layout::Layout;
use remote::Registries;

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
