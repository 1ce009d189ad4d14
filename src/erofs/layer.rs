//! One layer's tar into one image: what each entry means for the tree.
//!
//! Whiteouts become those of overlayfs, since the guest mounts the images of a container's layers over each other.

use std::io::{Read, Seek, Write};

use super::archive::{Archive, Entry, EntryKind, Piece};
use super::error::{EntryProblem, ErofsError};
use super::finish::{MAX_ROOT_XATTRS, Summary};
use super::format::{Xattrs, encode_device, encode_xattrs};
use super::tree::{Attributes, Child, DirId, MAX_COST, ROOT, Time, Tree};
use super::writer::{ImageWriter, Special, check_xattrs};

/// Prefix of the names that OCI layers reserve.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Marks the directory that holds it as opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of what aufs once left in layers; it means nothing.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Attributes with which overlayfs redirects lookups; only whiteouts of the layer may set one.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";

/// Writes the image of a layer. `out` must be empty: holes are skipped, not written. `tar` is uncompressed and read to
/// its end, also behind the archive's end mark, so that it can be hashed on the way.
pub fn write_layer(tar: impl Read, out: impl Write + Seek) -> Result<Summary, ErofsError> {
    let mut archive = Archive::new(tar);
    let mut writer = ImageWriter::new(out)?;
    let mut tree = Tree::new(MAX_COST);
    while let Some(entry) = archive.next_entry()? {
        check_parents(&entry.path).map_err(|problem| entry.refused(problem))?;
        let destination = tree.resolve(&entry.path).map_err(|problem| entry.refused(problem))?;
        match destination {
            None => set_root(&mut tree, &entry)?,
            Some((parent, name)) if name.starts_with(WHITEOUT_PREFIX) => {
                whiteout(&mut tree, parent, name).map_err(|problem| entry.refused(problem))?;
            }
            Some((parent, name)) => add(&mut archive, &mut writer, &mut tree, (parent, name), &entry)?,
        }
    }
    let implied = tree.implied().map_err(|problem| ErofsError::File { path: "/".to_owned(), problem })?;
    Ok(Summary { implied, ..writer.finish(&tree)? })
}

/// Refuses whiteouts in the middle of a path: they have no defined meaning.
fn check_parents(path: &[u8]) -> Result<(), EntryProblem> {
    let mut components = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    components.next_back();
    let reserved = components.any(|name| name.starts_with(WHITEOUT_PREFIX));
    if reserved { Err(EntryProblem::ReservedName) } else { Ok(()) }
}

fn set_root(tree: &mut Tree, entry: &Entry) -> Result<(), ErofsError> {
    if entry.kind != EntryKind::Directory {
        return Err(entry.refused(EntryProblem::Root));
    }
    let attributes = attributes(entry).map_err(|problem| entry.refused(problem))?;
    let xattrs = encode_xattrs(&attributes.xattrs).len();
    if xattrs > MAX_ROOT_XATTRS {
        return Err(entry.refused(EntryProblem::Xattrs(xattrs)));
    }
    tree.set_attributes(ROOT, attributes).map_err(|problem| entry.refused(problem))
}

/// A whiteout, whatever the type of its entry.
fn whiteout(tree: &mut Tree, parent: DirId, name: &[u8]) -> Result<(), EntryProblem> {
    if name == OPAQUE {
        tree.hide_below(parent);
        return Ok(());
    }
    if name.starts_with(AUFS_PREFIX) {
        return Ok(());
    }
    match &name[WHITEOUT_PREFIX.len()..] {
        b"" | b"." | b".." => Err(EntryProblem::ReservedName),
        hidden => tree.whiteout(parent, hidden),
    }
}

/// An entry that is neither the root nor a whiteout.
fn add<R: Read, W: Write + Seek>(
    archive: &mut Archive<R>,
    writer: &mut ImageWriter<W>,
    tree: &mut Tree,
    (parent, name): (DirId, &[u8]),
    entry: &Entry,
) -> Result<(), ErofsError> {
    let refused = |problem| entry.refused(problem);
    let attributes = attributes(entry).map_err(refused)?;
    let special = match &entry.kind {
        EntryKind::Directory => return tree.put_directory(parent, name, attributes).map_err(refused),
        EntryKind::HardLink(target) => return link(tree, parent, name, target).map_err(refused),
        EntryKind::File(size) => {
            writer.check_size(*size).map_err(refused)?;
            let mut file = writer.begin_file(&attributes, *size)?;
            archive.data(&mut |piece| match piece {
                Piece::Bytes(bytes) => writer.append(&mut file, bytes),
                Piece::Zeros(count) => writer.append_zeros(&mut file, count),
            })?;
            let leaf = writer.end_file(&file)?;
            let leaf = tree.add_leaf(leaf, None).map_err(refused)?;
            return tree.put_leaf(parent, name, leaf).map_err(refused);
        }
        EntryKind::Symlink(target) => Special::symlink(target).map_err(refused)?,
        EntryKind::Character(major, minor) => Special::Character(device(*major, *minor).map_err(refused)?),
        EntryKind::Block(major, minor) => Special::Block(device(*major, *minor).map_err(refused)?),
        EntryKind::Fifo => Special::Fifo,
        EntryKind::Other(kind) => return Err(refused(EntryProblem::Type(*kind))),
    };
    let target = if let Special::Symlink(target) = special { Some(target) } else { None };
    writer.check_size(0).map_err(refused)?;
    let leaf = writer.special(&attributes, special)?;
    let leaf = tree.add_leaf(leaf, target).map_err(refused)?;
    tree.put_leaf(parent, name, leaf).map_err(refused)
}

fn link(tree: &mut Tree, parent: DirId, name: &[u8], target: &[u8]) -> Result<(), EntryProblem> {
    let shown = || String::from_utf8_lossy(target).into_owned();
    match tree.find(target)? {
        Some(Child::Leaf(leaf)) => tree.put_leaf(parent, name, leaf),
        Some(Child::Directory(_)) => Err(EntryProblem::LinkToDirectory(shown())),
        Some(Child::Whiteout) | None => Err(EntryProblem::LinkTarget(shown())),
    }
}

fn device(major: u64, minor: u64) -> Result<u32, EntryProblem> {
    encode_device(major, minor).ok_or(EntryProblem::Device { major, minor })
}

fn attributes(entry: &Entry) -> Result<Attributes, EntryProblem> {
    let owner = |id: i64| u32::try_from(id).map_err(|_| EntryProblem::Owner(id));
    let xattrs: Xattrs = entry
        .xattrs
        .iter()
        .filter(|(name, _)| !name.starts_with(OVERLAY_PREFIX))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    check_xattrs(&xattrs)?;
    Ok(Attributes {
        mode: entry.mode,
        uid: owner(entry.uid)?,
        gid: owner(entry.gid)?,
        mtime: Time { seconds: entry.seconds, nanos: entry.nanos },
        xattrs,
    })
}
