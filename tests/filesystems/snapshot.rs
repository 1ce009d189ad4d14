//! A directory tree or an image as lines of text, one a path, so that two of them compare and differ readably.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use i2kit::erofs::{NodeKind, Reader};
use i2kit::oci::Digest;

/// Lines by path.
pub(crate) type Snapshot = BTreeMap<String, String>;

/// What the kernel shows below `root`.
pub(crate) fn of_tree(root: &Path) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let device = || {
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            format!("{major}:{minor}")
        };
        let (kind, detail) = if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            ("directory", String::new())
        } else if kind.is_symlink() {
            ("symlink", text(fs::read_link(&path).unwrap().as_os_str().as_bytes()))
        } else if kind.is_file() {
            ("file", Digest::of(&fs::read(&path).unwrap()).short())
        } else if kind.is_char_device() {
            ("character", device())
        } else if kind.is_block_device() {
            ("block", device())
        } else {
            ("fifo", String::new())
        };
        // Link counts and sizes of directories are each file system's own.
        let (links, size) = if meta.is_dir() { (0, 0) } else { (meta.nlink(), meta.size()) };
        let line = format!(
            "{kind} {:o} {}:{} {}.{:09} {links} {size} {detail} {:?}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            xattrs(&path)
        );
        let name = text(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
        snapshot.insert(name, line);
    }
    snapshot
}

/// What our reader finds in an image.
pub(crate) fn of_image(image: &Path) -> Snapshot {
    let mut reader = Reader::new(File::open(image).unwrap()).unwrap();
    let mut snapshot = Snapshot::new();
    let mut pending = vec![(String::new(), reader.root().unwrap())];
    while let Some((path, node)) = pending.pop() {
        let (kind, detail) = match node.kind {
            NodeKind::Directory => {
                for entry in reader.entries(&node).unwrap() {
                    let slash = if path.is_empty() { "" } else { "/" };
                    let child = reader.node(entry.nid).unwrap();
                    pending.push((format!("{path}{slash}{}", text(&entry.name)), child));
                }
                ("directory", String::new())
            }
            NodeKind::File => ("file", Digest::of(&reader.read(&node).unwrap()).short()),
            NodeKind::Symlink => ("symlink", text(&reader.read(&node).unwrap())),
            NodeKind::Character(major, minor) => ("character", format!("{major}:{minor}")),
            NodeKind::Block(major, minor) => ("block", format!("{major}:{minor}")),
            NodeKind::Fifo | NodeKind::Socket => ("fifo", String::new()),
        };
        let directory = node.kind == NodeKind::Directory;
        let (links, size) = if directory { (0, 0) } else { (node.links, node.size) };
        let attributes = &node.attributes;
        let xattrs: BTreeMap<_, _> =
            attributes.xattrs.iter().map(|(name, value)| (text(name), text(value))).collect();
        let line = format!(
            "{kind} {:o} {}:{} {}.{:09} {links} {size} {detail} {xattrs:?}",
            attributes.mode, attributes.uid, attributes.gid, attributes.mtime.seconds, attributes.mtime.nanos,
        );
        snapshot.insert(path, line);
    }
    snapshot
}

/// Fails the test with the lines that differ.
pub(crate) fn assert_same(left: &Snapshot, right: &Snapshot) {
    let differ = |key: &&String| left.get(*key) != right.get(*key);
    let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).filter(differ).collect();
    let lines: Vec<_> = keys
        .iter()
        .take(10)
        .map(|key| format!("{key:.300}\n  {:.300?}\n  {:.300?}", left.get(*key), right.get(*key)))
        .collect();
    assert!(lines.is_empty(), "{} paths differ:\n{}", keys.len(), lines.join("\n"));
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (text(name), text(&value[..length]))
        })
        .collect()
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
