//! The directory tree of an image while it is being written: names, and where the inodes of all but the directories
//! already are. Directories stay here until the end, since anything may still change them.
//!
//! The tree gives the meaning of a sequence of entries, which is that of extracting them one after the other: a later
//! entry replaces an earlier one of the same path, directories keep their contents, paths may lead through symbolic
//! links of the same tree but never out of its root. It knows neither tar nor the on-disk format.

use std::collections::{BTreeMap, HashMap};

use super::error::EntryProblem;
use super::format::{NAME_MAX, Xattrs};

/// Longest path that Linux opens.
const PATH_MAX: usize = 4095;
/// Links that Linux follows on one path.
const MAX_LINKS: usize = 40;
/// Memory that the tree may take, so that a small archive of many names cannot exhaust the machine. An image with a
/// million files of ordinary names stays below.
pub(super) const MAX_COST: usize = 128 << 20;
/// Bytes of the paths of directories without entries of their own: a hundred thousand of ordinary length.
const MAX_IMPLIED: usize = 8 << 20;
/// What one name costs besides its bytes.
const NAME_COST: usize = 80;
/// What one directory costs besides its name and attributes.
const DIRECTORY_COST: usize = 160;

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanos: u32,
}

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// A directory of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirId(u32);

/// The root directory.
pub(super) const ROOT: DirId = DirId(0);

/// An inode that is not a directory and is already written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeafId(u32);

impl DirId {
    /// Position among all directories ever made.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl LeafId {
    /// Position among all written inodes.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    /// The inode at a position below [`Tree::leaf_count`].
    pub(super) fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("the cost of names bounds the leaves"))
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    /// A directory.
    Directory(DirId),
    /// Anything else.
    Leaf(LeafId),
    /// Nothing, and nothing of the layers below either.
    Whiteout,
}

/// Where a written inode is, in the writer's terms, and its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Which run of inodes.
    pub(super) run: u32,
    /// Position in the run, in inode slots.
    pub(super) slot: u32,
    /// Type for the directory entry.
    pub(super) kind: u8,
}

/// A directory with its names.
#[derive(Debug)]
pub(super) struct Directory {
    /// Attributes; the opaque mark is apart.
    pub(super) attributes: Attributes,
    /// The directory that holds this one; the root holds itself.
    pub(super) parent: DirId,
    /// Names in byte order, which is also erofs' order.
    pub(super) children: BTreeMap<Box<[u8]>, Child>,
    /// Whether an entry of its own gave it its attributes; otherwise it is there because of what lies in it.
    described: bool,
    /// Hides what the layers below have here.
    pub(super) opaque: bool,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    directories: Vec<Directory>,
    leaves: Vec<Leaf>,
    symlinks: HashMap<LeafId, Box<[u8]>>,
    cost: usize,
    max_cost: usize,
}

/// Attributes of directories that no entry describes.
fn implied() -> Attributes {
    Attributes { mode: 0o755, ..Attributes::default() }
}

impl Tree {
    /// An empty root directory, in a tree that may take about `max_cost` bytes of memory.
    pub(super) fn new(max_cost: usize) -> Self {
        let root = Directory {
            attributes: implied(),
            parent: ROOT,
            children: BTreeMap::new(),
            opaque: false,
            described: false,
        };
        Self { directories: vec![root], leaves: Vec::new(), symlinks: HashMap::new(), cost: 0, max_cost }
    }

    /// A directory.
    pub(super) fn directory(&self, id: DirId) -> &Directory {
        &self.directories[id.0 as usize]
    }

    /// A written inode.
    pub(super) fn leaf(&self, id: LeafId) -> Leaf {
        self.leaves[id.0 as usize]
    }

    /// Number of written inodes, and one more than the largest [`LeafId`].
    pub(super) fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// Number of directories, and one more than the largest [`DirId`].
    pub(super) fn directory_count(&self) -> usize {
        self.directories.len()
    }

    /// Registers a written inode; `target` when it is a symbolic link, so that later paths can lead through it.
    pub(super) fn add_leaf(&mut self, leaf: Leaf, target: Option<&[u8]>) -> Result<LeafId, EntryProblem> {
        let id = LeafId::from_index(self.leaves.len());
        self.leaves.push(leaf);
        if let Some(target) = target {
            self.spend(NAME_COST + target.len())?;
            self.symlinks.insert(id, target.into());
        }
        Ok(id)
    }

    /// The directory that holds the last component of a path, and that component; `None` for the root itself.
    /// Directories that are missing on the way are made.
    pub(super) fn resolve<'p>(&mut self, path: &'p [u8]) -> Result<Option<(DirId, &'p [u8])>, EntryProblem> {
        let Some((parents, name)) = split(path)? else { return Ok(None) };
        let parent = self.walk(parents, true)?;
        Ok(parent.map(|parent| (parent, name)))
    }

    /// What a path stands for, without following a last symbolic link; nothing is made.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Child>, EntryProblem> {
        let Some((parents, name)) = split(path)? else { return Ok(Some(Child::Directory(ROOT))) };
        Ok(self.walk(parents, false)?.and_then(|parent| self.child(parent, name)))
    }

    /// What a name in a directory stands for.
    pub(super) fn child(&self, directory: DirId, name: &[u8]) -> Option<Child> {
        self.directory(directory).children.get(name).copied()
    }

    /// Gives a name to a written inode, in place of whatever had it.
    pub(super) fn put_leaf(&mut self, parent: DirId, name: &[u8], leaf: LeafId) -> Result<(), EntryProblem> {
        self.put(parent, name, Child::Leaf(leaf))
    }

    /// Makes a directory, or gives new attributes to the one that has the name. One in place of a whiteout is opaque.
    pub(super) fn put_directory(
        &mut self,
        parent: DirId,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<(), EntryProblem> {
        match self.child(parent, name) {
            Some(Child::Directory(id)) => self.set_attributes(id, attributes),
            _ => self.make_directory(parent, name, Some(attributes)).map(drop),
        }
    }

    /// Gives new attributes to a directory.
    pub(super) fn set_attributes(&mut self, id: DirId, attributes: Attributes) -> Result<(), EntryProblem> {
        self.spend(xattr_cost(&attributes))?;
        self.directories[id.0 as usize].attributes = attributes;
        self.directories[id.0 as usize].described = true;
        Ok(())
    }

    /// Hides a name of the layers below. What this layer has of that name stays: it is newer.
    pub(super) fn whiteout(&mut self, parent: DirId, name: &[u8]) -> Result<(), EntryProblem> {
        check_name(name)?;
        match self.child(parent, name) {
            Some(Child::Directory(id)) => self.hide_below(id),
            Some(_) => {}
            None => self.put(parent, name, Child::Whiteout)?,
        }
        Ok(())
    }

    /// Hides what the layers below have in a directory.
    pub(super) fn hide_below(&mut self, id: DirId) {
        self.directories[id.0 as usize].opaque = true;
    }

    /// The paths of the directories that no entry describes, parents first; the root's is empty.
    pub(super) fn implied(&self) -> Result<Vec<Vec<u8>>, EntryProblem> {
        // Each reachable directory, its name and the position of its parent; paths are made of those that are wanted.
        let mut reachable: Vec<(DirId, &[u8], usize)> = vec![(ROOT, &b""[..], 0)];
        let mut found = Vec::new();
        let (mut next, mut bytes) = (0, 0);
        while let Some((id, ..)) = reachable.get(next).copied() {
            let directory = self.directory(id);
            if !directory.described {
                let mut names = Vec::new();
                let mut at = next;
                while at != 0 {
                    names.push(reachable[at].1);
                    at = reachable[at].2;
                }
                names.reverse();
                let path = names.join(&b'/');
                bytes += path.len() + 1;
                if bytes > MAX_IMPLIED {
                    return Err(EntryProblem::TreeSize(MAX_IMPLIED));
                }
                found.push(path);
            }
            for (name, child) in &directory.children {
                if let Child::Directory(child) = child {
                    reachable.push((*child, &**name, next));
                }
            }
            next += 1;
        }
        Ok(found)
    }

    fn make_directory(
        &mut self,
        parent: DirId,
        name: &[u8],
        attributes: Option<Attributes>,
    ) -> Result<DirId, EntryProblem> {
        let described = attributes.is_some();
        let attributes = attributes.unwrap_or_else(implied);
        self.spend(DIRECTORY_COST + xattr_cost(&attributes))?;
        let id =
            DirId(u32::try_from(self.directories.len()).expect("the cost of names bounds the directories"));
        let opaque = self.child(parent, name) == Some(Child::Whiteout);
        self.directories.push(Directory { attributes, parent, children: BTreeMap::new(), opaque, described });
        self.put(parent, name, Child::Directory(id))?;
        Ok(id)
    }

    fn put(&mut self, parent: DirId, name: &[u8], child: Child) -> Result<(), EntryProblem> {
        check_name(name)?;
        self.spend(NAME_COST + name.len())?;
        self.directories[parent.0 as usize].children.insert(name.into(), child);
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), EntryProblem> {
        self.cost += bytes;
        if self.cost > self.max_cost { Err(EntryProblem::TreeSize(self.max_cost)) } else { Ok(()) }
    }

    /// Walks from the root along components, through symbolic links as if the root were `/`. Directories that are
    /// missing are made when `make` says so; otherwise there is no such directory.
    fn walk(&mut self, path: &[u8], make: bool) -> Result<Option<DirId>, EntryProblem> {
        let mut at = ROOT;
        let (mut links, mut steps) = (0, 0);
        // Components still to go, the next one last.
        let mut pending: Vec<Box<[u8]>> = Vec::new();
        push_components(&mut pending, path);
        while let Some(name) = pending.pop() {
            steps += 1;
            if steps > PATH_MAX {
                return Err(EntryProblem::SymlinkLoop);
            }
            if &*name == b".." {
                at = self.directory(at).parent;
                continue;
            }
            match self.child(at, &name) {
                Some(Child::Directory(id)) => at = id,
                Some(Child::Leaf(leaf)) => {
                    let Some(target) = self.symlinks.get(&leaf) else {
                        return Err(EntryProblem::NotADirectory(String::from_utf8_lossy(&name).into_owned()));
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(EntryProblem::SymlinkLoop);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    push_components(&mut pending, target);
                }
                Some(Child::Whiteout) | None if make => at = self.make_directory(at, &name, None)?,
                Some(Child::Whiteout) | None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

/// A path's parents and its last component.
type Split<'p> = (&'p [u8], &'p [u8]);

/// Splits a path before its last component. `..` is refused: no tool that makes layers writes it. Leading slashes,
/// empty components and `.` mean nothing, as for extraction below a root.
fn split(path: &[u8]) -> Result<Option<Split<'_>>, EntryProblem> {
    if path.len() > PATH_MAX {
        return Err(EntryProblem::PathLength(path.len()));
    }
    if path.contains(&0) {
        return Err(EntryProblem::Nul);
    }
    let mut last = None;
    let mut start = 0;
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(EntryProblem::ParentPath),
            name => last = Some((start, name)),
        }
        start += component.len() + 1;
    }
    Ok(last.map(|(start, name)| (&path[..start], name)))
}

fn push_components(pending: &mut Vec<Box<[u8]>>, path: &[u8]) {
    let components = path.split(|byte| *byte == b'/').rev();
    pending.extend(components.filter(|name| !matches!(*name, b"" | b".")).map(Box::from));
}

fn check_name(name: &[u8]) -> Result<(), EntryProblem> {
    if name.len() > NAME_MAX { Err(EntryProblem::NameLength(name.len())) } else { Ok(()) }
}

fn xattr_cost(attributes: &Attributes) -> usize {
    attributes.xattrs.iter().map(|(name, value)| NAME_COST + name.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: Leaf = Leaf { run: 0, slot: 0, kind: 1 };
    const BUDGET: usize = 100_000;

    /// Repeats something with ever new names until the tree has no room; says how often it went well.
    fn until_full(add: impl Fn(&mut Tree, &str) -> Result<(), EntryProblem>) -> usize {
        let mut tree = Tree::new(BUDGET);
        for number in 0..BUDGET {
            if let Err(problem) = add(&mut tree, &number.to_string()) {
                assert_eq!(problem, EntryProblem::TreeSize(BUDGET));
                return number;
            }
        }
        panic!("the tree grows without end");
    }

    #[test]
    fn everything_that_takes_memory_is_counted() {
        let files = until_full(|tree, name| {
            let leaf = tree.add_leaf(LEAF, None)?;
            tree.put_leaf(ROOT, name.as_bytes(), leaf)
        });
        let rewritten = until_full(|tree, _| {
            let leaf = tree.add_leaf(LEAF, None)?;
            tree.put_leaf(ROOT, b"same", leaf)
        });
        let directories =
            until_full(|tree, name| tree.put_directory(ROOT, name.as_bytes(), Attributes::default()));
        let implied = until_full(|tree, name| tree.resolve(format!("{name}/a/b").as_bytes()).map(drop));
        let targets = until_full(|tree, _| tree.add_leaf(LEAF, Some(&[b't'; 1000])).map(drop));
        let whiteouts = until_full(|tree, name| tree.whiteout(ROOT, name.as_bytes()));
        let xattrs = Xattrs::from([(b"user.a".to_vec(), vec![0; 1000])]);
        let attributes = Attributes { xattrs, ..Attributes::default() };
        let described = until_full(|tree, _| tree.set_attributes(ROOT, attributes.clone()));
        let counts = [files, rewritten, directories, implied, targets, whiteouts, described];
        assert_eq!(counts, [1203, 1190, 411, 206, 92, 1203, 92], "what fits into {BUDGET} bytes");
    }
}
