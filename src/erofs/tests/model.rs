//! What extracting a layer means, written down a second time without any regard for speed or memory: a map from
//! canonical path to what is there. The property test compares images with it.

use std::collections::BTreeMap;

use super::super::{Attributes, NodeKind, Time, Xattrs};
use super::tarball::{Header, Tarball};

/// One entry of a generated layer.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) path: String,
    pub(super) action: Action,
    pub(super) attributes: Attributes,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    HardLink(String),
    Character(u32, u32),
    Fifo,
    Whiteout,
    Opaque,
}

/// What a path holds; files of one identity are one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: NodeKind,
    pub(super) attributes: Attributes,
    pub(super) data: Vec<u8>,
    /// Number of names; 0 for directories, where it follows from the tree.
    pub(super) links: u32,
}

/// Items by canonical path; the root is the empty one.
pub(super) type Items = BTreeMap<Vec<String>, Item>;

#[derive(Debug, Clone)]
struct Held {
    identity: usize,
    item: Item,
    opaque: bool,
}

/// A directory tree that entries are extracted into.
#[derive(Debug)]
pub(super) struct Model {
    held: BTreeMap<Vec<String>, Held>,
    identities: usize,
}

impl Model {
    pub(super) fn new() -> Self {
        let mut model = Self { held: BTreeMap::new(), identities: 0 };
        model.put(Vec::new(), directory(implied()));
        model
    }

    /// Extracts one entry; `None` where a layer with it is refused.
    pub(super) fn apply(&mut self, op: &Op) -> Option<()> {
        let (parent, name) = match op.path.rsplit_once('/') {
            Some((parents, name)) => (self.resolve(parents, true, 0)?, name),
            None => (Vec::new(), op.path.as_str()),
        };
        let path = [parent.clone(), vec![name.to_owned()]].concat();
        let existing = self.held.get(&path).map(|held| held.item.kind);
        let attributes = op.attributes.clone();
        let (kind, data) = match &op.action {
            Action::Directory => {
                if existing == Some(NodeKind::Directory) {
                    self.held.get_mut(&path)?.item.attributes = attributes;
                } else {
                    self.put(path, directory(attributes));
                }
                return Some(());
            }
            Action::HardLink(target) => {
                let (parents, last) = target.rsplit_once('/').unwrap_or(("", target));
                let target = [self.resolve(parents, false, 0)?, vec![last.to_owned()]].concat();
                let held = self.held.get(&target)?.clone();
                if matches!(held.item.kind, NodeKind::Directory | NodeKind::Character(0, 0)) {
                    return None;
                }
                self.remove(&path);
                self.held.insert(path, held);
                return Some(());
            }
            Action::Whiteout => {
                match existing {
                    Some(NodeKind::Directory) => self.held.get_mut(&path)?.opaque = true,
                    Some(_) => {}
                    None => self.put(path, whiteout()),
                }
                return Some(());
            }
            Action::Opaque => {
                self.held.get_mut(&parent)?.opaque = true;
                return Some(());
            }
            Action::File(data) => (NodeKind::File, data.clone()),
            Action::Symlink(target) => {
                let attributes = Attributes { mode: 0o777, ..attributes };
                let data = target.clone().into_bytes();
                self.put(path, Item { kind: NodeKind::Symlink, attributes, data, links: 0 });
                return Some(());
            }
            Action::Character(major, minor) => (NodeKind::Character(*major, *minor), Vec::new()),
            Action::Fifo => (NodeKind::Fifo, Vec::new()),
        };
        self.put(path, Item { kind, attributes, data, links: 0 });
        Some(())
    }

    /// Everything that the tree holds, with link counts and opaque marks.
    pub(super) fn items(&self) -> Items {
        let links = |identity| self.held.values().filter(|held| held.identity == identity).count();
        let whiteouts = self.held.values().filter(|held| held.item.kind == NodeKind::Character(0, 0)).count();
        self.held
            .iter()
            .map(|(path, held)| {
                let mut item = held.item.clone();
                item.links = match item.kind {
                    NodeKind::Directory => 0,
                    NodeKind::Character(0, 0) => u32::try_from(whiteouts).expect("a few"),
                    _ => u32::try_from(links(held.identity)).expect("a few"),
                };
                if held.opaque {
                    item.attributes.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
                }
                (path.clone(), item)
            })
            .collect()
    }

    /// The canonical path of a directory, through symbolic links, making what is missing when told to.
    fn resolve(&mut self, path: &str, make: bool, depth: usize) -> Option<Vec<String>> {
        self.walk(Vec::new(), path, make, depth)
    }

    fn walk(&mut self, mut at: Vec<String>, path: &str, make: bool, depth: usize) -> Option<Vec<String>> {
        if path.starts_with('/') {
            at.clear();
        }
        for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = [at.clone(), vec![name.to_owned()]].concat();
            match self.held.get(&next).map(|held| (held.item.kind, held.item.data.clone())) {
                Some((NodeKind::Directory, _)) => at = next,
                Some((NodeKind::Symlink, target)) => {
                    let target = String::from_utf8(target).expect("targets are text");
                    if depth > 40 {
                        return None;
                    }
                    at = self.walk(at, &target, make, depth + 1)?;
                }
                None | Some((NodeKind::Character(0, 0), _)) if make => {
                    self.put(next.clone(), directory(implied()));
                    at = next;
                }
                _ => return None,
            }
        }
        Some(at)
    }

    fn put(&mut self, path: Vec<String>, item: Item) {
        let hidden = self.held.get(&path).is_some_and(|held| held.item.kind == NodeKind::Character(0, 0));
        let opaque = hidden && item.kind == NodeKind::Directory;
        self.remove(&path);
        self.identities += 1;
        self.held.insert(path, Held { identity: self.identities, item, opaque });
    }

    fn remove(&mut self, path: &[String]) {
        self.held.retain(|other, _| !other.starts_with(path));
    }
}

/// The tar of some entries.
pub(super) fn tar(ops: &[Op]) -> Vec<u8> {
    let mut tarball = Tarball::default();
    for Op { path, action, attributes } in ops {
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        let (kind, link, data, device) = match action {
            Action::Directory => (b'5', "", &[][..], (0, 0)),
            Action::File(data) => (b'0', "", &data[..], (0, 0)),
            Action::Symlink(target) => (b'2', target.as_str(), &[][..], (0, 0)),
            Action::HardLink(target) => (b'1', target.as_str(), &[][..], (0, 0)),
            Action::Character(major, minor) => (b'3', "", &[][..], (*major, *minor)),
            Action::Fifo => (b'6', "", &[][..], (0, 0)),
            Action::Whiteout | Action::Opaque => (b'0', "", &[][..], (0, 0)),
        };
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let path = match action {
            Action::Whiteout => format!("{parents}/.wh.{name}"),
            Action::Opaque => format!("{parents}/.wh..wh..opq"),
            _ => path.clone(),
        };
        let mtime = match mtime {
            // A text of -1.25 means 0.75 seconds after -2.
            Time { seconds: ..0, nanos: 1.. } => {
                format!("-{}.{:09}", -(mtime.seconds + 1), 1_000_000_000 - mtime.nanos)
            }
            Time { seconds, nanos } => format!("{seconds}.{nanos:09}"),
        };
        let names: Vec<String> =
            xattrs.keys().map(|name| format!("SCHILY.xattr.{}", String::from_utf8_lossy(name))).collect();
        let mut records = vec![("mtime", mtime.as_bytes())];
        records.extend(names.iter().map(String::as_str).zip(xattrs.values().map(Vec::as_slice)));
        let header = Header {
            mode: (*mode).into(),
            owner: ((*uid).into(), (*gid).into()),
            device: (device.0.into(), device.1.into()),
            ..Header::new(kind, &path).link(link)
        };
        tarball.pax(&records).add(&header, data);
    }
    tarball.finish()
}

fn implied() -> Attributes {
    Attributes { mode: 0o755, ..Attributes::default() }
}

fn directory(attributes: Attributes) -> Item {
    Item { kind: NodeKind::Directory, attributes, data: Vec::new(), links: 0 }
}

fn whiteout() -> Item {
    let attributes = Attributes { mode: 0, uid: 0, gid: 0, mtime: Time::default(), xattrs: Xattrs::new() };
    Item { kind: NodeKind::Character(0, 0), attributes, data: Vec::new(), links: 0 }
}
