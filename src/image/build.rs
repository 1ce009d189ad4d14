//! Carrying out an image plan: each layer becomes an erofs file once, ever; the pod file system and the partition
//! table are written anew; the disk is the list of all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use i2kit_spec::POD_PARTITION;

use super::guest::GuestBundle;
use super::{DiskImage, ImageError, Segment};
use crate::disk::gpt;
use crate::erofs;
use crate::oci::{DiffId, Layer, Reference, ResolvedImage};

use super::implied;
use crate::plan::image::ImagePlan;
use crate::plan::layout::{self, DiskLayout, PartitionError};
use crate::plan::{linuxkit, podfs};
use crate::registry::sum::{self, FileState};
use crate::registry::{Claim, Key, Partial, Registry, open_watched_layer};
use crate::report::{Event, Events};

/// Layers fetched and converted at once. Conversion is bound by the processor and downloads by the network, so two
/// of them keep both busy; each takes a few hundred KiB of buffers.
const LAYERS_AT_ONCE: usize = 2;

/// The pod file system in an image's folder.
const POD: &str = "pod.erofs";

/// What the image was made from.
const PLAN: &str = "plan.json";

/// The same as `LinuxKit` would have it.
const LINUXKIT: &str = "linuxkit.yml";

/// The disk's first bytes, up to the first partition.
const HEAD: &str = "head.gpt";

/// The disk's last bytes.
const TAIL: &str = "tail.gpt";

/// A layer's erofs file.
#[derive(Debug)]
struct LayerFile {
    id: DiffId,
    path: PathBuf,
    size: u64,
}

/// What images are built with.
#[derive(Debug)]
pub struct Workshop {
    registry: Registry,
    guest: GuestBundle,
    events: Events,
}

impl Workshop {
    /// Builds with `guest`, from the images of `registry`, in its store.
    pub fn new(registry: Registry, guest: GuestBundle, events: Events) -> Self {
        Self { registry, guest, events }
    }

    /// The registry that layers come from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The guest that images boot with.
    pub fn guest(&self) -> &GuestBundle {
        &self.guest
    }

    /// Builds the image of `plan`; `images` holds what the plan was made from. What is in the cache is not made again.
    pub async fn build(
        &self,
        plan: &ImagePlan,
        images: &BTreeMap<Reference, ResolvedImage>,
    ) -> Result<DiskImage, ImageError> {
        let sources: BTreeMap<DiffId, (&ResolvedImage, &Layer)> = images
            .values()
            .flat_map(|image| image.layers.iter().map(move |layer| (layer.diff_id, (image, layer))))
            .collect();
        let layers: Vec<PathBuf> = stream::iter(&plan.layers)
            .map(|id| self.layer(*id, sources.get(id).copied()))
            .buffered(LAYERS_AT_ONCE)
            .try_collect()
            .await?;
        let layers = sized(plan.layers.iter().copied().zip(layers).collect())?;
        let folder = self.registry.store().root().join("images").join(plan.id().0.hex());
        if !is_good(&folder)? {
            self.guest.verify()?;
            write_folder(&folder, plan, &layers)?;
        }
        // A folder that cannot be marked as used now is still good.
        let _ = sum::touch_folder(&folder);
        image(plan, &self.guest, &folder, &layers)
    }

    /// The erofs file of one layer. A power cut may have spoiled a blob that was complete before: when a layer cannot be
    /// read and its blob no longer matches its name, it is fetched once more.
    async fn layer(
        &self,
        id: DiffId,
        source: Option<(&ResolvedImage, &Layer)>,
    ) -> Result<PathBuf, ImageError> {
        let failure = match self.layer_once(id, source).await {
            Err(failure) => failure,
            made => return made,
        };
        let store = self.registry.store();
        let spoiled = source.is_some_and(|(_, layer)| matches!(store.recheck(layer.blob.digest), Ok(false)));
        if spoiled { self.layer_once(id, source).await } else { Err(failure) }
    }

    /// The erofs file of one layer: from the store, or made from the layer's tar.
    async fn layer_once(
        &self,
        id: DiffId,
        source: Option<(&ResolvedImage, &Layer)>,
    ) -> Result<PathBuf, ImageError> {
        let partial = match self.registry.store().claim(Key::Layer(id)).await? {
            Claim::Ready(path) => return Ok(path),
            Claim::Vacant(partial) => partial,
        };
        let (image, layer) = source.ok_or(ImageError::UnknownLayer(id))?;
        let blob = match self.guest.coordinator.as_ref().filter(|own| own.digest == id.0) {
            Some(own) => own.path.clone(),
            None => self.registry.blob(image, layer).await?,
        };
        let task = format!("layer {}", id.0.short());
        self.events.emit(Event::TaskStarted {
            id: task.clone(),
            title: format!("convert layer {} of {}", id.0.short(), image.reference.repository),
            total: Some(layer.blob.size),
        });
        let media_type = layer.blob.media_type.clone();
        let (events, watched) = (self.events.clone(), task.clone());
        let progress = move |done| events.emit(Event::TaskProgress { id: watched.clone(), done });
        let (path, size) =
            tokio::task::spawn_blocking(move || convert((&blob, &media_type, id), partial, progress))
                .await
                .map_err(|_| ImageError::Thread)??;
        self.events.emit(Event::TaskFinished { id: task, outcome: mib(size) });
        Ok(path)
    }
}

/// Writes the erofs file of a layer: its blob's path and media type, and its id.
fn convert(
    layer: (&Path, &str, DiffId),
    mut partial: Partial,
    progress: impl Fn(u64) + Send + 'static,
) -> Result<(PathBuf, u64), ImageError> {
    match write_erofs(layer, &mut partial, progress) {
        Ok(summary) => {
            partial.note_implied(summary.implied);
            Ok((partial.commit()?, summary.size))
        }
        Err(error) => {
            // Nobody goes on with half of a layer, and it may be what fills the disk.
            partial.abandon()?;
            Err(error)
        }
    }
}

fn write_erofs(
    layer: (&Path, &str, DiffId),
    partial: &mut Partial,
    progress: impl Fn(u64) + Send + 'static,
) -> Result<erofs::Summary, ImageError> {
    partial.restart()?;
    let (_, _, id) = layer;
    let mut tar = open_watched_layer(layer, progress)?;
    match erofs::write_layer(&mut tar, partial.file()) {
        Err(erofs::ErofsError::Output(source)) => Err(ImageError::io(partial.path(), source)),
        written => {
            // A layer that is not what its diff id says is the cause of whatever the writer stumbled over.
            tar.finish()?;
            written.map_err(|source| ImageError::Layer { layer: id, source })
        }
    }
}

fn sized(layers: Vec<(DiffId, PathBuf)>) -> Result<Vec<LayerFile>, ImageError> {
    layers
        .into_iter()
        .map(|(id, path)| {
            let size = fs::metadata(&path).map_err(|e| ImageError::io(&path, e))?.len();
            Ok(LayerFile { id, path, size })
        })
        .collect()
}

/// The disk's layout: the pod file system, then the layers.
fn disk_layout(plan: &ImagePlan, pod_size: u64, layers: &[LayerFile]) -> Result<DiskLayout, PartitionError> {
    let pod = layout::Part { name: POD_PARTITION.into(), content: plan.id().0, size: pod_size };
    let layers = layers.iter().map(|layer| layout::Part {
        name: layer.id.partition_name(),
        content: layer.id.0,
        size: layer.size,
    });
    DiskLayout::new(plan.id().0, std::iter::once(pod).chain(layers))
}

/// Whether an image's folder has all that [`write_folder`] put there.
fn is_good(folder: &Path) -> Result<bool, ImageError> {
    for name in [PLAN, LINUXKIT, POD, HEAD, TAIL] {
        if !matches!(sum::look(&folder.join(name))?, FileState::Good(_)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the folder of an image whole or not at all. Whoever comes second finds the same bytes and leaves them; what is
/// spoiled is taken away first.
fn write_folder(folder: &Path, plan: &ImagePlan, layers: &[LayerFile]) -> Result<(), ImageError> {
    let parent = folder.parent().expect("image folders lie in `images`");
    let files_of_layers: BTreeMap<DiffId, &Path> =
        layers.iter().map(|layer| (layer.id, layer.path.as_path())).collect();
    let over = implied::directories(plan, &files_of_layers)?;
    let pod = erofs::write_tree_with(&podfs::files(plan), &over).map_err(ImageError::Pod)?;
    let layout = disk_layout(plan, pod.len() as u64, layers)?;
    let new =
        tempfile::Builder::new().prefix(".new-").tempdir_in(parent).map_err(|e| ImageError::io(parent, e))?;
    for (name, content) in [
        (PLAN, plan.canonical().as_bytes()),
        (LINUXKIT, linuxkit::render(plan).as_bytes()),
        (POD, &pod),
        (HEAD, &gpt::head(&layout)),
        (TAIL, &gpt::tail(&layout)),
    ] {
        sum::write(&new.path().join(name), content)?;
    }
    if folder.exists() && !is_good(folder)? {
        let doomed = tempfile::Builder::new().prefix(".removed-").tempdir_in(parent);
        let doomed = doomed.map_err(|e| ImageError::io(parent, e))?;
        match fs::rename(folder, doomed.path().join("image")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(ImageError::io(folder, e)),
            _ => {}
        }
    }
    match fs::rename(new.path(), folder) {
        Ok(()) => {
            // The folder has another name now; there is nothing left to remove.
            let _ = new.keep();
            Ok(())
        }
        Err(_) if is_good(folder)? => Ok(()),
        Err(e) => Err(ImageError::io(folder, e)),
    }
}

/// The image as the list of its parts.
fn image(
    plan: &ImagePlan,
    guest: &GuestBundle,
    folder: &Path,
    layers: &[LayerFile],
) -> Result<DiskImage, ImageError> {
    let pod = folder.join(POD);
    let pod_size = fs::metadata(&pod).map_err(|e| ImageError::io(&pod, e))?.len();
    let layout = disk_layout(plan, pod_size, layers)?;
    let files = std::iter::once((pod, pod_size)).chain(layers.iter().map(|l| (l.path.clone(), l.size)));
    let mut segments = Vec::new();
    let mut end = 0;
    let mut push = |file: Option<PathBuf>, start: u64, length: u64| {
        if start > end {
            segments.push(Segment { file: None, length: start - end });
        }
        segments.push(Segment { file, length });
        end = start + length;
    };
    push(Some(folder.join(HEAD)), 0, gpt::HEAD_SIZE);
    for (partition, (file, size)) in layout.partitions.iter().zip(files) {
        push(Some(file), partition.offset, size);
    }
    push(Some(folder.join(TAIL)), layout.size - gpt::TAIL_SIZE, gpt::TAIL_SIZE);
    Ok(DiskImage {
        id: plan.id(),
        architecture: plan.guest.architecture,
        kernel: guest.kernel.clone(),
        initrd: guest.initrd.clone(),
        cloud: guest.cloud.clone(),
        stub: guest.stub.clone(),
        cmdline: plan.cmdline.clone(),
        segments,
    })
}

/// A size for people.
fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, (bytes >> 10) % 1024 * 10 / 1024)
}
