//! A small image from values in memory: the pod's own file system.

use std::io::Cursor;

use super::error::{EntryProblem, ErofsError};
use super::format::Xattrs;
use super::tree::{Attributes, MAX_COST, Time, Tree};
use super::writer::{ImageWriter, Special, check_xattrs};

/// A file of the image, owned by root, with the epoch as its modification time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeFile {
    /// Path below the root; missing directories on the way are made.
    pub path: String,
    /// Permission bits.
    pub mode: u16,
    /// What it is.
    pub content: TreeContent,
}

/// What a [`TreeFile`] is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TreeContent {
    /// A directory, which may be empty.
    Directory,
    /// A regular file.
    File(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(String),
}

impl TreeFile {
    /// A regular file that everyone may read.
    pub fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, content: TreeContent::File(bytes.into()) }
    }

    /// A directory that everyone may enter.
    pub fn directory(path: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o755, content: TreeContent::Directory }
    }

    /// A symbolic link.
    pub fn symlink(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o777, content: TreeContent::Symlink(target.into()) }
    }
}

/// The image of some files. Their order does not matter; of two files with one path the later one counts.
pub fn write_tree(files: &[TreeFile]) -> Result<Vec<u8>, ErofsError> {
    write_tree_with(files, &[])
}

/// As [`write_tree`], with directories of any attributes, by their paths.
pub fn write_tree_with(
    files: &[TreeFile],
    directories: &[(Vec<u8>, Attributes)],
) -> Result<Vec<u8>, ErofsError> {
    let mut sorted: Vec<&TreeFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut image = Cursor::new(Vec::new());
    let mut writer = ImageWriter::new(&mut image)?;
    let mut tree = Tree::new(MAX_COST);
    for file in sorted {
        let refused = |problem| ErofsError::File { path: file.path.clone(), problem };
        let attributes =
            Attributes { mode: file.mode, uid: 0, gid: 0, mtime: Time::default(), xattrs: Xattrs::new() };
        let Some((parent, name)) = tree.resolve(file.path.as_bytes()).map_err(refused)? else {
            return Err(refused(EntryProblem::Root));
        };
        let (leaf, target) = match &file.content {
            TreeContent::Directory => {
                tree.put_directory(parent, name, attributes).map_err(refused)?;
                continue;
            }
            TreeContent::File(bytes) => {
                writer.check_size(bytes.len() as u64).map_err(refused)?;
                let mut open = writer.begin_file(&attributes, bytes.len() as u64)?;
                writer.append(&mut open, bytes)?;
                (writer.end_file(&open)?, None)
            }
            TreeContent::Symlink(target) => {
                let special = Special::symlink(target.as_bytes()).map_err(refused)?;
                (writer.special(&attributes, special)?, Some(target.as_bytes()))
            }
        };
        let leaf = tree.add_leaf(leaf, target).map_err(refused)?;
        tree.put_leaf(parent, name, leaf).map_err(refused)?;
    }
    for (path, attributes) in directories {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let refused = |problem| ErofsError::File { path: shown(), problem };
        check_xattrs(&attributes.xattrs).map_err(refused)?;
        let Some((parent, name)) = tree.resolve(path).map_err(refused)? else {
            return Err(refused(EntryProblem::Root));
        };
        tree.put_directory(parent, name, attributes.clone()).map_err(refused)?;
    }
    writer.finish(&tree)?;
    Ok(image.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::{Reader, dump};
    use super::*;

    fn pod() -> Vec<TreeFile> {
        vec![
            TreeFile::file("etc/i2kit/pod.json", "{}\n"),
            TreeFile::symlink("etc/current", "i2kit"),
            TreeFile::directory("containers/services"),
            TreeFile::file("containers/services/web/config.json", vec![b' '; 5000]),
        ]
    }

    #[test]
    fn a_pod_tree_reads_back() {
        let image = write_tree(&pod()).expect("plain files fit");
        insta::assert_snapshot!(dump(Cursor::new(&image)).expect("our own image"), @r"
        erofs 12288 bytes, 9 inodes
        dir    755 0:0 0 /
        dir    755 0:0 0 /containers
        dir    755 0:0 0 /containers/services
        dir    755 0:0 0 /containers/services/web
        file   644 0:0 0 /containers/services/web/config.json 5000 bytes sha256:aa20193b3098
        dir    755 0:0 0 /etc
        link   777 0:0 0 /etc/current -> i2kit
        dir    755 0:0 0 /etc/i2kit
        file   644 0:0 0 /etc/i2kit/pod.json 3 bytes sha256:ca3d163bab05
        ");
        let mut reader = Reader::new(Cursor::new(&image)).expect("our own image");
        let node = reader.lookup(b"containers/services/web/config.json").expect("it was written");
        assert_eq!(reader.read(&node).expect("our own image"), vec![b' '; 5000]);
        assert!(
            matches!(reader.lookup(b"etc/missing"), Err(ErofsError::NotFound(path)) if path == "etc/missing")
        );
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        let mut reversed = pod();
        reversed.reverse();
        assert_eq!(
            write_tree(&pod()).expect("plain files fit"),
            write_tree(&reversed).expect("plain files fit")
        );
    }
}
