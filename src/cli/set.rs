//! The manifests of a command line, read as one set.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use crate::manifest::{MAX_BYTES, SourceFile};

/// Reads files, folders (every `.yaml`, `.yml` and `.json` directly below, by name) and `-`.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let read = if path == Path::new("-") {
            bounded(std::io::stdin()).context("cannot read standard input").map(|bytes| {
                files.push(SourceFile { name: "-".into(), bytes });
            })
        } else if path.is_dir() {
            folder(path, &mut files)
        } else {
            file(path, &mut files)
        };
        read.map_err(|error| Failure::new(Exit::Manifest, error))?;
    }
    Ok(files)
}

/// All bytes, or as many as show that there are too many: what is given may have no end.
fn bounded(source: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn file(path: &Path, files: &mut Vec<SourceFile>) -> anyhow::Result<()> {
    let bytes = std::fs::File::open(path)
        .and_then(bounded)
        .with_context(|| format!("cannot read {}", path.display()))?;
    files.push(SourceFile { name: path.display().to_string(), bytes });
    Ok(())
}

fn folder(path: &Path, files: &mut Vec<SourceFile>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        let is_manifest = name.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_manifest && name.is_file() {
            names.push(name);
        }
    }
    anyhow::ensure!(!names.is_empty(), "{} holds no .yaml, .yml or .json file", path.display());
    names.sort();
    names.iter().try_for_each(|name| file(name, files))
}
