//! The manifests of a command line, read as one set.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::args::FileOptions;
use super::bounded::bounded;
use super::exit::{Exit, Failure};
use super::kustomize::{self, Tools};
use crate::manifest::{MAX_BYTES, SourceFile};

/// Most bytes of all files of a set, twice what one file may have: they are held in memory until the set is read.
const MAX_SET_BYTES: usize = 2 * MAX_BYTES;
/// Most files of a set; a folder may hold more by accident.
const MAX_FILES: usize = 10_000;

/// Reads files, folders (every `.yaml`, `.yml` and `.json` directly below, by name), `-`, and kustomizations.
pub(super) fn files(paths: &[PathBuf], options: &FileOptions) -> Result<Vec<SourceFile>, Failure> {
    read(paths, options).map_err(|error| Failure::new(Exit::Manifest, error))
}

/// A sentence about the folders with manifests below the given ones, which are not read.
pub(super) fn left_out(paths: &[PathBuf], options: &FileOptions) -> Option<String> {
    let below = |path: &PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let folders = paths.iter().chain(&options.filename).flat_map(below).map(|entry| entry.path());
    let has_manifest =
        |folder: &PathBuf| folder.is_dir() && below(folder).any(|entry| is_manifest(&entry.path()));
    let mut names: Vec<String> =
        folders.filter(has_manifest).map(|folder| folder.display().to_string()).collect();
    names.sort();
    (!names.is_empty()).then(|| {
        format!("not read: {}; a folder's own files are read, not those of folders in it", names.join(", "))
    })
}

fn read(paths: &[PathBuf], options: &FileOptions) -> anyhow::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in paths.iter().chain(&options.filename) {
        if path == Path::new("-") {
            let bytes = bounded(std::io::stdin()).context("cannot read standard input")?;
            push(&mut files, "-".into(), bytes)?;
        } else if path.is_dir() {
            folder(path, &mut files)?;
        } else {
            file(path, &mut files)?;
        }
    }
    for folder in &options.kustomize {
        let name = format!("{} (kustomized)", folder.display());
        push(&mut files, name, kustomize::build(folder, &Tools::default())?)?;
    }
    Ok(files)
}

/// Adds a file to the set, within its bounds.
fn push(files: &mut Vec<SourceFile>, name: String, bytes: Vec<u8>) -> anyhow::Result<()> {
    anyhow::ensure!(
        files.len() < MAX_FILES,
        "more than {MAX_FILES} files are given, which is the most that one set may have; give the folders that belong together"
    );
    let size = files.iter().map(|file| file.bytes.len()).sum::<usize>() + bytes.len();
    // The reader reports a single file that is too large.
    anyhow::ensure!(
        size <= MAX_SET_BYTES || bytes.len() > MAX_BYTES,
        "the files up to {name} have more than {} MiB together, which is the most that one set may have; deploy them in parts",
        MAX_SET_BYTES >> 20
    );
    files.push(SourceFile { name, bytes });
    Ok(())
}

fn file(path: &Path, files: &mut Vec<SourceFile>) -> anyhow::Result<()> {
    let bytes = std::fs::File::open(path)
        .and_then(bounded)
        .with_context(|| format!("cannot read {}", path.display()))?;
    push(files, path.display().to_string(), bytes)
}

/// Whether a folder's entry is read with it.
fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") && path.is_file()
}

fn folder(path: &Path, files: &mut Vec<SourceFile>) -> anyhow::Result<()> {
    anyhow::ensure!(
        !kustomize::is_kustomization(path),
        "{0} holds a kustomization, which says how its files are to be changed: give it with `-k {0}`",
        path.display()
    );
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        if is_manifest(&name) {
            names.push(name);
        }
    }
    anyhow::ensure!(!names.is_empty(), "{} holds no .yaml, .yml or .json file", path.display());
    names.sort();
    names.iter().try_for_each(|name| file(name, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_kustomization_is_not_read_as_plain_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pod.yaml"), "a: b\n").unwrap();
        assert_eq!(files(&[folder.path().to_owned()], &FileOptions::default()).unwrap().len(), 1);
        std::fs::write(folder.path().join("kustomization.yaml"), "resources: [pod.yaml]\n").unwrap();
        let error = files(&[folder.path().to_owned()], &FileOptions::default()).unwrap_err().error.unwrap();
        assert!(
            error.to_string().ends_with(&format!("give it with `-k {}`", folder.path().display())),
            "{error}"
        );
    }

    #[test]
    fn files_of_options_are_read_and_folders_in_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "a: b\n").unwrap();
            path
        };
        let (top, _below, _text) = (file("pod.yaml"), file("base/pod.yaml"), file("notes/read.txt"));
        let options = FileOptions { filename: vec![top], ..FileOptions::default() };
        assert_eq!(files(&[], &options).unwrap().len(), 1);
        assert_eq!(left_out(&[], &options), None);
        let said = left_out(&[folder.path().to_owned()], &FileOptions::default()).unwrap();
        assert!(said.starts_with(&format!("not read: {};", folder.path().join("base").display())), "{said}");
    }

    #[test]
    fn a_set_is_bounded_in_bytes_and_files() {
        let mut all = Vec::new();
        for part in 0..2 {
            push(&mut all, part.to_string(), vec![b'#'; MAX_BYTES]).unwrap();
        }
        let error = push(&mut all, "last".into(), vec![b'#']).unwrap_err();
        assert!(error.to_string().contains("files up to last have more than 64 MiB together"), "{error}");
        let mut many: Vec<SourceFile> = Vec::new();
        many.resize(MAX_FILES, SourceFile { name: String::new(), bytes: Vec::new() });
        assert!(
            push(&mut many, "one more".into(), vec![])
                .unwrap_err()
                .to_string()
                .contains("more than 10000 files")
        );
    }
}
