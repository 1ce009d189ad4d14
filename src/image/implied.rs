//! Directories that a layer implies: it has something in them, and no entry for them. What such a directory is, its mode,
//! its owner and its extended attributes, is for the layers below to say, as where layers are unpacked over each other.
//! Each layer is a file system by itself, which knows no other, and overlayfs shows a directory as its topmost layer has
//! it. So an image in which that matters gets the right directories once more, without content, over all its layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use i2kit_spec::over;

use super::ImageError;
use crate::erofs::{Attributes, ErofsError, Node, NodeKind, Reader};
use crate::oci::DiffId;
use crate::plan::image::ImagePlan;
use crate::registry::sum;

/// The attribute by which overlayfs hides what lower layers have in a directory.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What the names of overlayfs' own attributes start with.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Memory for the paths of the directories that the layers of one container imply, and of those above them: a small layer
/// may have long paths, and an image many layers.
const MAX_BYTES: usize = 64 << 20;

/// What a path costs besides its bytes.
const PATH_COST: usize = 64;

/// A directory below a container's root, which is the empty path, and what it is.
type Directory = (Vec<u8>, Attributes);

/// A directory in the layers that have it, the topmost first.
type Nodes = Vec<(usize, Node)>;

/// One layer of a stack.
struct Layer {
    reader: Reader<File>,
    implied: BTreeSet<Vec<u8>>,
}

/// The directories to write into the pod file system, parents first, for all containers of `plan`; `files` are the
/// erofs files of its layers.
pub(super) fn directories(
    plan: &ImagePlan,
    files: &BTreeMap<DiffId, &Path>,
) -> Result<Vec<Directory>, ImageError> {
    let ids: BTreeMap<String, DiffId> = plan.layers.iter().map(|id| (id.partition_name(), *id)).collect();
    let mut all = Vec::new();
    for container in plan.boot.onboot.iter().chain(&plan.boot.services) {
        let stack = container.layers.iter().filter_map(|name| files.get(ids.get(name)?).copied());
        let mut layers = Vec::new();
        let mut bytes = 0;
        // The topmost first, as overlayfs has them.
        for path in stack.rev() {
            let Some(implied) = sum::implied(path)? else {
                sum::remove(path)?;
                let problem = "the list of its directories is damaged";
                return Err(ImageError::Spoiled { path: path.to_owned(), problem });
            };
            bytes += implied.iter().map(|path| path.len() + PATH_COST).sum::<usize>();
            if bytes > MAX_BYTES {
                return Err(ImageError::TooManyPaths { container: container.name.clone(), limit: MAX_BYTES });
            }
            let implied = implied.into_iter().collect();
            let file = File::open(path).map_err(|e| ImageError::io(path, e))?;
            let read = |source| ImageError::Erofs { path: path.to_owned(), source };
            layers.push(Layer { reader: Reader::new(file).map_err(read)?, implied });
        }
        let found = merged(&mut layers, MAX_BYTES).map_err(|source| {
            let path = files.values().next().map_or_else(Default::default, |path| (*path).to_owned());
            ImageError::Erofs { path, source }
        })?;
        let Some(found) = found else {
            return Err(ImageError::TooManyPaths { container: container.name.clone(), limit: MAX_BYTES });
        };
        let folder = over(&container.name).into_bytes();
        all.extend(found.into_iter().map(|(path, attributes)| {
            let below = if path.is_empty() { Vec::new() } else { [b"/", &*path].concat() };
            ([folder.clone(), below].concat(), attributes)
        }));
    }
    Ok(all)
}

/// The directories of a stack of layers, the topmost first, that overlayfs would show otherwise than a layer describes
/// them, and all above those; none when their paths take more than `max_bytes`.
fn merged(layers: &mut [Layer], max_bytes: usize) -> Result<Option<Vec<Directory>>, ErofsError> {
    let Some((_base, upper)) = layers.split_last() else { return Ok(Some(Vec::new())) };
    // The base has nothing below that could say more. Of each directory on the way, which ones in it are of interest.
    let mut inside: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let (mut wanted, mut bytes) = (false, 0);
    for path in upper.iter().flat_map(|layer| &layer.implied) {
        wanted = true;
        let mut path = path.as_slice();
        while !path.is_empty() {
            let slash = path.iter().rposition(|byte| *byte == b'/');
            let (parent, name) = match slash {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&path[..0], path),
            };
            if !inside.entry(parent.to_vec()).or_default().insert(name.to_vec()) {
                break;
            }
            bytes += parent.len() + name.len() + PATH_COST;
            if bytes > max_bytes {
                return Ok(None);
            }
            path = parent;
        }
    }
    if !wanted {
        return Ok(Some(Vec::new()));
    }
    let mut roots = Vec::new();
    for (index, layer) in layers.iter_mut().enumerate() {
        let root = layer.reader.root()?;
        let hides = root.attributes.xattrs.contains_key(OPAQUE);
        roots.push((index, root));
        if hides {
            break;
        }
    }
    let mut shown: BTreeMap<Vec<u8>, Attributes> = BTreeMap::new();
    let mut needed: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut pending = vec![(Vec::new(), roots)];
    while let Some((path, nodes)) = pending.pop() {
        if let Some((attributes, differs)) = shown_as(layers, &path, &nodes) {
            shown.insert(path.clone(), attributes);
            if differs {
                need(&mut needed, &path);
            }
        }
        let Some(names) = inside.get(&path) else { continue };
        for (name, nodes) in children(layers, &nodes, names)? {
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            pending.push(([&*path, separator, &*name].concat(), nodes));
        }
    }
    shown.retain(|path, _| needed.contains(path));
    Ok(Some(shown.into_iter().collect()))
}

/// The path and all above it.
fn need(needed: &mut BTreeSet<Vec<u8>>, path: &[u8]) {
    let mut path = path;
    while needed.insert(path.to_vec()) && !path.is_empty() {
        path = path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at]);
    }
}

/// What the directory is by the topmost layer that describes it, and whether overlayfs would show something else.
fn shown_as(layers: &[Layer], path: &[u8], nodes: &[(usize, Node)]) -> Option<(Attributes, bool)> {
    let (_, top) = nodes.first()?;
    let described = nodes.iter().find(|(index, _)| !layers[*index].implied.contains(path));
    let mut attributes = described.map_or(&top.attributes, |(_, node)| &node.attributes).clone();
    attributes.xattrs.retain(|name, _| !name.starts_with(OVERLAY));
    let top = &top.attributes;
    let own = top.xattrs.iter().filter(|(name, _)| !name.starts_with(OVERLAY));
    let same = (top.mode, top.uid, top.gid) == (attributes.mode, attributes.uid, attributes.gid)
        && own.eq(attributes.xattrs.iter());
    Some((attributes, !same))
}

/// Of the names in a directory, those that are directories: in which layers, as far down as they are not hidden.
fn children(
    layers: &mut [Layer],
    nodes: &[(usize, Node)],
    names: &BTreeSet<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, Nodes)>, ErofsError> {
    let mut found: BTreeMap<&[u8], Nodes> = BTreeMap::new();
    let mut closed: BTreeSet<&[u8]> = BTreeSet::new();
    for (index, directory) in nodes {
        let reader = &mut layers[*index].reader;
        for entry in reader.entries(directory)? {
            let Some(name) = names.get(&entry.name).map(Vec::as_slice) else { continue };
            if closed.contains(name) {
                continue;
            }
            let node = reader.node(entry.nid)?;
            if node.kind != NodeKind::Directory || node.attributes.xattrs.contains_key(OPAQUE) {
                closed.insert(name);
            }
            if node.kind == NodeKind::Directory {
                found.entry(name).or_default().push((*index, node));
            }
        }
    }
    Ok(found.into_iter().map(|(name, nodes)| (name.to_vec(), nodes)).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::erofs::write_layer;

    /// An entry of a tar: a path, and for a directory its mode.
    type Entry = (&'static str, Option<u32>);

    fn layer(entries: &[Entry]) -> Layer {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_entry_type(if mode.is_some() {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_mode(mode.unwrap_or(0o644));
            header.set_uid(if mode.is_some() { 7 } else { 0 });
            header.set_gid(0);
            tar.append_data(&mut header, path, std::io::empty()).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        let summary = write_layer(tar.into_inner().unwrap().as_slice(), &mut file).unwrap();
        file.flush().unwrap();
        Layer { reader: Reader::new(file).unwrap(), implied: summary.implied.into_iter().collect() }
    }

    /// The directories over some layers, the base first.
    fn over_layers(layers: &[&[Entry]]) -> Vec<String> {
        let mut layers: Vec<Layer> = layers.iter().rev().map(|entries| layer(entries)).collect();
        let found = merged(&mut layers, MAX_BYTES).unwrap().unwrap();
        found
            .into_iter()
            .map(|(path, a)| format!("{:o} {} /{}", a.mode, a.uid, String::from_utf8_lossy(&path)))
            .collect()
    }

    const BASE: &[Entry] =
        &[("./", Some(0o755)), ("tmp", Some(0o1777)), ("root", Some(0o700)), ("root/deep", Some(0o711))];

    #[test]
    fn an_implied_directory_is_what_the_layers_below_say() {
        assert_eq!(
            over_layers(&[BASE, &[("tmp/x", None), ("root/y", None), ("new/z", None)]]),
            ["755 7 /", "700 7 /root", "1777 7 /tmp"]
        );
        assert_eq!(
            over_layers(&[BASE, &[("./", Some(0o755)), ("root/deep/y", None)], &[("root/deep/z/f", None)]]),
            ["755 7 /", "700 7 /root", "711 7 /root/deep"]
        );
    }

    #[test]
    fn paths_take_bounded_memory() {
        const DEEP: &[Entry] = &[("a/b/c/d/e/f/g/h", None)];
        let stack = || vec![layer(DEEP), layer(BASE)];
        assert!(merged(&mut stack(), 10_000).unwrap().is_some());
        assert!(merged(&mut stack(), 300).unwrap().is_none());
    }

    #[test]
    fn what_is_described_again_hidden_or_nowhere_needs_nothing() {
        const ROOT: Entry = ("./", Some(0o755));
        for upper in [
            &[ROOT, ("tmp", Some(0o777)), ("tmp/x", None)][..],
            &[ROOT, ("new/z", None)],
            &[ROOT, ("etc", None)],
        ] {
            assert_eq!(over_layers(&[BASE, upper]), Vec::<String>::new(), "{upper:?}");
        }
        // Described above where it is implied; removed above; removed and made anew.
        let implied: &[Entry] = &[ROOT, ("tmp/x", None)];
        let described: &[Entry] = &[ROOT, ("tmp", Some(0o711))];
        assert_eq!(over_layers(&[BASE, implied, described]), Vec::<String>::new());
        assert_eq!(over_layers(&[BASE, implied, &[ROOT, (".wh.tmp", None)]]), Vec::<String>::new());
        assert_eq!(over_layers(&[BASE, &[ROOT, (".wh.tmp", None)], implied]), Vec::<String>::new());
        assert_eq!(over_layers(&[&[ROOT, ("tmp", None)], implied]), Vec::<String>::new(), "a file below");
        assert_eq!(over_layers(&[&[("a/b/c", None)]]), Vec::<String>::new(), "a single layer");
        assert_eq!(over_layers(&[]), Vec::<String>::new());
    }
}
