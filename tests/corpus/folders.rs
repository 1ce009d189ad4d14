//! The sets of a corpus: which files below a folder belong together.

use std::fs;
use std::path::{Path, PathBuf};

/// What lies below the folder of a corpus.
#[derive(Default)]
pub(crate) struct Folders {
    /// Its sets, each with a name, which is a path relative to the corpus: the manifests of a folder, or one file where an
    /// `EXPECT.tsv` lies beside it.
    pub(crate) sets: Vec<(String, Vec<PathBuf>)>,
    /// The folders with an `EXPECT.tsv`.
    pub(crate) tables: Vec<PathBuf>,
}

impl Folders {
    /// Looks at `root` and all below.
    pub(crate) fn new(root: &Path) -> Self {
        let mut folders = Self::default();
        folders.add(root, root);
        folders
    }

    fn add(&mut self, root: &Path, folder: &Path) {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let manifests: Vec<PathBuf> = paths
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"))
            .filter(|path| path.symlink_metadata().unwrap().is_file())
            .cloned()
            .collect();
        if folder.join("EXPECT.tsv").is_file() {
            self.tables.push(folder.to_owned());
            self.sets.extend(manifests.into_iter().map(|path| (relative(root, &path), vec![path])));
        } else if !manifests.is_empty() {
            self.sets.push((relative(root, folder), manifests));
        }
        for path in paths.iter().filter(|path| path.symlink_metadata().unwrap().is_dir()) {
            self.add(root, path);
        }
    }
}

/// The name of a set, or of a row of an `EXPECT.tsv`.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    if name.is_empty() { ".".into() } else { name }
}
