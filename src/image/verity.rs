//! The trees of hashes of an image's parts: each is made once, when a disk that firmware boots first needs it, and kept
//! in the cache beside the part.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use i2kit_spec::verity::{VERITY_PATH, VERITY_VERSION, Verity, VerityPartition};

use super::{ImageError, Segment};
use crate::disk::{self, cpio, verity};
use crate::oci::Digest;
use crate::plan::layout::{DiskLayout, Partition};
use crate::registry::sum;

/// The folder of the cache.
const FOLDER: &str = "verity";

/// The archive with the root hashes is as long as a multiple of this: what follows it in the kernel image stays where it
/// is while the image changes, unless it has more than about a hundred partitions.
const UNIT: usize = 16 << 10;

/// The tree of one partition.
#[derive(Debug)]
pub(super) struct HashTree {
    /// The partition's data.
    pub(super) data: Segment,
    /// What follows it.
    pub(super) tree: Segment,
    name: String,
    root: [u8; 32],
    data_blocks: u64,
}

/// The trees of the partitions of `layout`, whose files are `parts`, in their order.
pub(super) fn trees(
    layout: &DiskLayout,
    parts: &[Segment],
    cache: &Path,
) -> Result<Vec<HashTree>, ImageError> {
    let files = parts.iter().filter_map(|part| Some((part.file.as_deref()?, part)));
    let files: Vec<(&Path, &Segment)> = files.collect();
    if files.len() != layout.partitions.len() {
        let (partitions, parts) = (layout.partitions.len(), files.len());
        return Err(disk::DiskError::Parts { partitions, parts }.into());
    }
    let folder = cache.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| ImageError::io(&folder, e))?;
    let partitions = layout.partitions.iter().zip(files);
    partitions.map(|(partition, (file, data))| tree(partition, file, data, &folder)).collect()
}

fn tree(partition: &Partition, file: &Path, data: &Segment, folder: &Path) -> Result<HashTree, ImageError> {
    let at_file = |e| ImageError::io(file, e);
    let uuid = *partition.guid.as_bytes();
    let path = folder.join(format!("{}.tree", Digest::of(&uuid).hex()));
    let stored = stored(&path, file, data.length / verity::BLOCK, uuid)?;
    let made = if let Some(tree) = stored {
        tree
    } else {
        let input = File::open(file).map_err(at_file)?.take(data.length);
        let tree = verity::tree(&partition.name, input, uuid)?;
        sum::write(&path, &tree.bytes)?;
        tree
    };
    Ok(HashTree {
        data: data.clone(),
        tree: Segment { file: Some(path), length: made.bytes.len() as u64 },
        name: partition.name.clone(),
        root: made.root,
        data_blocks: made.data_blocks,
    })
}

/// The tree in the cache, if it is one. Its time of use is renewed.
fn stored(path: &Path, data: &Path, blocks: u64, uuid: [u8; 16]) -> Result<Option<verity::Tree>, ImageError> {
    let Some(bytes) = sum::read(path)? else { return Ok(None) };
    let mut first = Vec::new();
    File::open(data)
        .and_then(|file| file.take(verity::BLOCK).read_to_end(&mut first))
        .map_err(|e| ImageError::io(data, e))?;
    let tree = verity::read(bytes, &first, blocks, uuid);
    if tree.is_some() {
        sum::touch(path);
    }
    Ok(tree)
}

/// The root hashes for the guest: an archive that is unpacked before the initial RAM file system.
pub(super) fn archive(trees: &[HashTree]) -> Vec<u8> {
    let partition =
        |tree: &HashTree| VerityPartition { data_blocks: tree.data_blocks, root: hex::encode(tree.root) };
    let verity = Verity {
        version: VERITY_VERSION,
        partitions: trees.iter().map(|tree| (tree.name.clone(), partition(tree))).collect(),
    };
    let text = serde_json::to_vec(&verity).expect("names and numbers have a JSON form");
    cpio::archive(VERITY_PATH, &text, UNIT)
}
