//! Carrying out an image plan: each layer becomes an erofs file once, ever; the pod file system and the partition
//! table are written anew; the disk is the list of all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures::stream::{StreamExt as _, TryStreamExt as _};

use super::guest::GuestBundle;
use super::{DiskImage, ImageError, Segment};
use crate::disk::gpt;
use crate::erofs;
use crate::oci::{DiffId, Digest, Layer, Reference, ResolvedImage};
use crate::plan::image::{ImageId, ImagePlan};
use crate::plan::layout::{self, DiskLayout};
use crate::plan::{linuxkit, podfs};
use crate::registry::{Claim, Key, Registry, open_layer};
use crate::report::{Event, Events};

/// Layers fetched and converted at once. Conversion is bound by the processor and downloads by the network, so two
/// of them keep both busy; each takes a buffer of a few hundred KiB.
const LAYERS_AT_ONCE: usize = 2;

/// What images are built with.
#[derive(Debug)]
pub struct Workshop {
    registry: Registry,
    guest: GuestBundle,
    events: Events,
}

impl Workshop {
    /// Builds with this guest, from this registry and its store.
    pub fn new(registry: Registry, guest: GuestBundle, events: Events) -> Self {
        Self { registry, guest, events }
    }

    /// Builds the image of `plan`; `images` holds what the plan was made from. An image that is in the cache is not
    /// built again.
    pub async fn build(
        &self,
        plan: &ImagePlan,
        images: &BTreeMap<Reference, ResolvedImage>,
    ) -> Result<DiskImage, ImageError> {
        let sources: BTreeMap<DiffId, &Layer> =
            images.values().flat_map(|image| &image.layers).map(|layer| (layer.diff_id, layer)).collect();
        let layers: Vec<(DiffId, PathBuf)> = futures::stream::iter(&plan.layers)
            .map(async |id| Ok::<_, ImageError>((*id, self.layer(*id, sources.get(id).copied()).await?)))
            .buffered(LAYERS_AT_ONCE)
            .try_collect()
            .await?;
        let folder = self.folder(plan.id());
        self.guest.verify()?;
        write_folder(&folder, plan, &layers)?;
        todo!()
    }

    fn folder(&self, id: ImageId) -> PathBuf {
        self.registry.store().root().join("images").join(id.0.hex())
    }
}
