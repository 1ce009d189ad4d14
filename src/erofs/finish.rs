//! The end of an image: link counts, directories, superblock.

use std::io::{Seek, Write};

use super::directory::{self, Entry};
use super::error::{EntryProblem, ErofsError};
use super::format::{
    BLOCK, BLOCK_SIZE, INODE_SIZE, LINKS_OFFSET, Layout, SLOT, SUPER_OFFSET, SUPER_SIZE, SuperBlock, Xattrs,
    dirent_type, encode_xattrs, mode,
};
use super::run::Run;
use super::tree::{Attributes, Child, DirId, Leaf, LeafId, ROOT, Tree};
use super::writer::{ImageWriter, MAX_IMAGE, Special, layout_of, new_inode};

/// Where the root's inode is: right behind the superblock, which has only 16 bits for its node id.
const ROOT_OFFSET: usize = SUPER_OFFSET + SUPER_SIZE;
/// Room for the root's inode and what is behind it.
const ROOT_ROOM: usize = BLOCK_SIZE - ROOT_OFFSET;
/// Room for the root's extended attributes, the opaque mark apart.
pub(super) const MAX_ROOT_XATTRS: usize = ROOT_ROOM - INODE_SIZE - 64;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Length of the image, a multiple of 4096.
    pub size: u64,
    /// Inodes in the image.
    pub inodes: u64,
    /// Whiteouts among its names.
    pub whiteouts: u64,
    /// Paths of directories that the input implies without describing them, parents first; the root's is empty. What
    /// they are is for the layers below to say.
    pub implied: Vec<Vec<u8>>,
}

impl<W: Write + Seek> ImageWriter<W> {
    /// Writes the directories and the superblock.
    pub(super) fn finish(mut self, tree: &Tree) -> Result<Summary, ErofsError> {
        let census = Census::of(tree);
        let whiteout = self.write_whiteout(census.whiteouts)?;
        self.patch_links(tree, &census)?;
        let layout = DirectoryLayout::new(tree, &census.directories, self.block(), &mut self.run)?;
        self.runs.push(layout.run_block);
        let nids = Nids { runs: &self.runs, layout: &layout, tree, whiteout };

        let mut first_block = [0; BLOCK_SIZE];
        for (number, (plan, id)) in (self.inodes + 1..).zip(layout.plans.iter().zip(&census.directories)) {
            let entries = entries(tree, *id, &|child| nids.of(child));
            let mut blocks = directory::blocks(&entries);
            for block in blocks.by_ref().take(plan.whole_blocks as usize) {
                let mut bytes = directory::encode(block);
                bytes.resize(BLOCK_SIZE, 0);
                self.out.write(&bytes)?;
            }
            let mut record = directory_inode(tree, plan, *id, number, census.subdirectories[id.index()]);
            record.extend(blocks.next().map(directory::encode).unwrap_or_default());
            if *id == ROOT {
                first_block[ROOT_OFFSET..ROOT_OFFSET + record.len()].copy_from_slice(&record);
            } else {
                self.run.put(plan.start, &record);
            }
        }
        debug_assert_eq!(self.block(), layout.run_block);
        self.out.write(self.run.bytes())?;

        let inodes = census.inodes();
        let superblock = SuperBlock {
            root_nid: u16::try_from(ROOT_OFFSET as u64 / SLOT).expect("the root is in the first block"),
            inodes,
            build_time: 0,
            build_nanos: 0,
            blocks: self.block(),
            meta_block: 0,
            incompat: 0,
        };
        superblock.encode_into(&mut first_block);
        self.out.patch(0, &first_block)?;
        let size = self.out.position();
        self.out.finish()?;
        Ok(Summary { size, inodes, whiteouts: census.whiteouts.into(), implied: Vec::new() })
    }

    /// The one inode of all whiteouts: a character device 0/0, as overlayfs wants it.
    fn write_whiteout(&mut self, count: u32) -> Result<Option<Leaf>, ErofsError> {
        if count == 0 {
            return Ok(None);
        }
        let leaf = self.special(&Attributes::default(), Special::Character(0))?;
        self.patch_leaf(leaf, count)?;
        Ok(Some(leaf))
    }

    /// Sets the link counts that are not 1.
    fn patch_links(&mut self, tree: &Tree, census: &Census) -> Result<(), ErofsError> {
        for (index, links) in census.links.iter().enumerate() {
            if *links > 1 {
                self.patch_leaf(tree.leaf(LeafId::from_index(index)), *links)?;
            }
        }
        Ok(())
    }

    fn patch_leaf(&mut self, leaf: Leaf, links: u32) -> Result<(), ErofsError> {
        let in_run = u64::from(leaf.slot) * SLOT + LINKS_OFFSET;
        if let Some(block) = self.runs.get(leaf.run as usize) {
            self.out.patch(u64::from(*block) * BLOCK + in_run, &links.to_le_bytes())
        } else {
            self.run.put(usize::try_from(in_run).expect("a run is in memory"), &links.to_le_bytes());
            Ok(())
        }
    }
}

/// What of the tree is still reachable, and how often.
struct Census {
    /// Reachable directories, parents first, names in order.
    directories: Vec<DirId>,
    /// Number of names, by leaf.
    links: Vec<u32>,
    /// Number of directories inside, by directory.
    subdirectories: Vec<u32>,
    whiteouts: u32,
}

impl Census {
    fn of(tree: &Tree) -> Self {
        let mut census = Self {
            directories: vec![ROOT],
            links: vec![0; tree.leaf_count()],
            subdirectories: vec![0; tree.directory_count()],
            whiteouts: 0,
        };
        let mut next = 0;
        while let Some(id) = census.directories.get(next).copied() {
            next += 1;
            for child in tree.directory(id).children.values() {
                match child {
                    Child::Directory(child) => {
                        census.directories.push(*child);
                        census.subdirectories[id.index()] += 1;
                    }
                    Child::Leaf(leaf) => census.links[leaf.index()] += 1,
                    Child::Whiteout => census.whiteouts += 1,
                }
            }
        }
        census
    }

    fn inodes(&self) -> u64 {
        let leaves = self.links.iter().filter(|links| **links > 0).count();
        (leaves + self.directories.len()) as u64 + u64::from(self.whiteouts > 0)
    }
}

/// Where one directory goes.
struct DirectoryPlan {
    /// Where its inode is in the last run; the root's is not.
    start: usize,
    first_block: u32,
    whole_blocks: u32,
    size: u64,
    layout: Layout,
    /// Length of the inode with everything behind it.
    record: usize,
}

impl DirectoryPlan {
    fn new(tree: &Tree, id: DirId, first_block: u32) -> Self {
        let entries = entries(tree, id, &|_| 0);
        let (mut count, mut last) = (0, 0);
        for block in directory::blocks(&entries) {
            count += 1;
            last = directory::length(block);
        }
        let size = u64::from(count - 1) * BLOCK + last as u64;
        let xattrs = encode_xattrs(&xattrs(tree, id)).len();
        let layout = layout_of(size, xattrs, if id == ROOT { ROOT_ROOM } else { BLOCK_SIZE });
        let (whole_blocks, inline) = if layout == Layout::Inline { (count - 1, last) } else { (count, 0) };
        Self {
            start: 0,
            first_block: if whole_blocks > 0 { first_block } else { 0 },
            whole_blocks,
            size,
            layout,
            record: INODE_SIZE + xattrs + inline,
        }
    }
}

/// Where all directories go. Sizes depend on names alone, so node ids are known before any directory is written.
struct DirectoryLayout {
    /// In the order of the census.
    plans: Vec<DirectoryPlan>,
    /// Node ids, by directory.
    nids: Vec<u64>,
    /// Where the last run of inodes starts.
    run_block: u32,
}

impl DirectoryLayout {
    fn new(tree: &Tree, directories: &[DirId], block: u32, run: &mut Run) -> Result<Self, ErofsError> {
        let mut layout = Self { plans: Vec::new(), nids: vec![0; tree.directory_count()], run_block: block };
        for id in directories {
            let plan = DirectoryPlan::new(tree, *id, layout.run_block);
            layout.run_block += plan.whole_blocks;
            layout.plans.push(plan);
        }
        let first = u64::from(layout.run_block) * (BLOCK / SLOT);
        for (plan, id) in layout.plans.iter_mut().zip(directories) {
            layout.nids[id.index()] = if *id == ROOT {
                ROOT_OFFSET as u64 / SLOT
            } else {
                plan.start = run.allocate(plan.record);
                first + plan.start as u64 / SLOT
            };
        }
        if u64::from(layout.run_block) * BLOCK + run.bytes().len() as u64 > MAX_IMAGE {
            let problem = EntryProblem::ImageSize(MAX_IMAGE);
            return Err(ErofsError::File { path: "/".to_owned(), problem });
        }
        Ok(layout)
    }
}

/// Node ids of everything that a directory can name.
struct Nids<'a> {
    runs: &'a [u32],
    layout: &'a DirectoryLayout,
    tree: &'a Tree,
    whiteout: Option<Leaf>,
}

impl Nids<'_> {
    fn of(&self, child: Child) -> u64 {
        let leaf = match child {
            Child::Directory(id) => return self.layout.nids[id.index()],
            Child::Leaf(id) => self.tree.leaf(id),
            Child::Whiteout => self.whiteout.expect("whiteouts were counted, so they have an inode"),
        };
        u64::from(self.runs[leaf.run as usize]) * (BLOCK / SLOT) + u64::from(leaf.slot)
    }
}

/// A directory's entries in order, with `.` and `..`.
fn entries<'t>(tree: &'t Tree, id: DirId, nid: &dyn Fn(Child) -> u64) -> Vec<Entry<'t>> {
    let directory = tree.directory(id);
    let own = [(&b"."[..], Child::Directory(id)), (&b".."[..], Child::Directory(directory.parent))];
    let named = directory.children.iter().map(|(name, child)| (&**name, *child));
    let mut entries: Vec<_> = own
        .into_iter()
        .chain(named)
        .map(|(name, child)| {
            let kind = match child {
                Child::Directory(_) => dirent_type(mode::DIRECTORY),
                Child::Leaf(leaf) => tree.leaf(leaf).kind,
                Child::Whiteout => dirent_type(mode::CHARACTER),
            };
            Entry { name, nid: nid(child), kind }
        })
        .collect();
    entries.sort_unstable();
    entries
}

/// A directory's extended attributes with the opaque mark.
fn xattrs(tree: &Tree, id: DirId) -> Xattrs {
    let directory = tree.directory(id);
    let mut xattrs = directory.attributes.xattrs.clone();
    if directory.opaque {
        xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    }
    xattrs
}

/// A directory's inode with its extended attributes.
fn directory_inode(
    tree: &Tree,
    plan: &DirectoryPlan,
    id: DirId,
    number: u32,
    subdirectories: u32,
) -> Vec<u8> {
    let xattrs = encode_xattrs(&xattrs(tree, id));
    let mut inode = new_inode(&tree.directory(id).attributes, mode::DIRECTORY, &xattrs, number);
    inode.size = plan.size;
    inode.data = plan.first_block;
    inode.layout = plan.layout;
    inode.links = 2 + subdirectories;
    let mut record = inode.encode().to_vec();
    record.extend_from_slice(&xattrs);
    record
}
