//! Reads everything that the store holds, and finds what is not what it was when it was written.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cache::{CacheEntry, CacheKind, list, lock_alone, remove};
use super::error::Error;
use super::store::Store;
use super::sum::{self, FileState};
use crate::oci::Digest;

/// Something in the store that is spoiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spoiled {
    /// What it is, and where.
    #[serde(flatten)]
    pub entry: CacheEntry,
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// Whether it was removed, after which it is fetched or made again when it is next needed.
    pub removed: bool,
}

/// What a look at everything found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Entries that were read.
    pub entries: usize,
    /// Bytes that they take on the disk.
    pub bytes: u64,
    /// Those that are spoiled.
    pub spoiled: Vec<Spoiled>,
}

/// Reads the whole store below `root`, beside whoever uses it. What is spoiled is removed, or with `keep`
/// only reported; removal waits for runs that use the store, and fails when they use it for long.
pub fn verify(root: &Path, keep: bool) -> Result<Verified, Error> {
    let store = Store::open(root)?;
    let mut found = Verified::default();
    for entry in list(root)?.into_iter().filter(|entry| entry.kind != CacheKind::Leftover) {
        found.entries += 1;
        found.bytes += entry.bytes;
        if let Some((path, problem)) = problem(&entry)? {
            found.spoiled.push(Spoiled { entry, path, problem: problem.to_owned(), removed: false });
        }
    }
    drop(store);
    if keep || found.spoiled.is_empty() {
        return Ok(found);
    }
    let _lock = lock_alone(root)?;
    let mut still = Vec::new();
    for mut spoiled in std::mem::take(&mut found.spoiled) {
        // Another run may have made it anew meanwhile, or have been at writing it.
        if problem(&spoiled.entry)?.is_some() {
            remove(&spoiled.entry)?;
            spoiled.removed = true;
            still.push(spoiled);
        }
    }
    found.spoiled = still;
    Ok(found)
}

/// The file of `entry` that is not what it should be; none when all are. What was removed meanwhile is not spoiled.
fn problem(entry: &CacheEntry) -> Result<Option<(PathBuf, &'static str)>, Error> {
    let path = &entry.path;
    let problem = match entry.kind {
        CacheKind::Blob => blob(path, &entry.name)?,
        CacheKind::Memo => match std::fs::read_to_string(path) {
            Ok(text) if text.trim().parse::<Digest>().is_ok() => None,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            _ => Some("it names no digest"),
        },
        CacheKind::Image => return image(path),
        CacheKind::Template => template(path),
        CacheKind::Layer | CacheKind::HashTree | CacheKind::SystemPartition => match sum::verify(path)? {
            FileState::Good(_) | FileState::Absent => None,
            FileState::Spoiled(problem) => Some(problem),
        },
        CacheKind::Leftover => None,
    };
    Ok(problem.map(|problem| (path.clone(), problem)))
}

fn blob(path: &Path, name: &str) -> Result<Option<&'static str>, Error> {
    match File::open(path).and_then(|mut file| sum::sum(&mut file)) {
        Ok(digest) => Ok((digest.hex() != name).then_some("its bytes are not those of its digest")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// What is wrong with a template, as far as its record tells. Of its memory, which machines that run have mapped, the length is
/// looked at.
fn template(folder: &Path) -> Option<&'static str> {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&read("template.json")).unwrap_or_default();
    let devices = record["devices"].as_str().and_then(|text| text.parse::<Digest>().ok());
    let memory = std::fs::metadata(folder.join("ram")).map(|data| data.len()).ok();
    match devices {
        // What was removed meanwhile is not spoiled.
        _ if !folder.exists() => None,
        None => Some("it has no record"),
        Some(devices) if Digest::of(&read("devices")) != devices => {
            Some("its devices are not those of its record")
        }
        Some(_) if memory.is_none() || memory != record["memory"]["bytes"].as_u64() => {
            Some("its memory is not that of its record")
        }
        Some(_) => None,
    }
}

/// The files of an image's folder.
fn image(folder: &Path) -> Result<Option<(PathBuf, &'static str)>, Error> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut paths = BTreeSet::new();
    for file in files {
        let path = file.map_err(Error::io("read", folder))?.path();
        // What a run is writing, or was when it was killed.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp")) {
            continue;
        }
        // A record without its file stands for the file that is lost.
        let text = path.to_string_lossy().into_owned();
        paths.insert(text.strip_suffix(sum::SUFFIX).map_or(path, PathBuf::from));
    }
    for path in paths {
        match sum::verify(&path)? {
            FileState::Good(_) => {}
            FileState::Absent => return Ok(Some((path, "it is lost"))),
            FileState::Spoiled(problem) => return Ok(Some((path, problem))),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_is_not_as_its_record_says_is_spoiled() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("templates").join("0".repeat(64));
        std::fs::create_dir_all(&folder).unwrap();
        let found = || {
            let verified = verify(root.path(), true).unwrap();
            verified.spoiled.into_iter().map(|spoiled| spoiled.problem).collect::<Vec<_>>()
        };
        assert_eq!(found(), ["it has no record"]);
        let devices = Digest::of(b"devices");
        let record = serde_json::json!({ "devices": devices, "memory": { "bytes": 7 } });
        std::fs::write(folder.join("template.json"), record.to_string()).unwrap();
        assert_eq!(found(), ["its devices are not those of its record"]);
        std::fs::write(folder.join("devices"), "devices").unwrap();
        assert_eq!(found(), ["its memory is not that of its record"]);
        std::fs::write(folder.join("ram"), "1234567").unwrap();
        assert_eq!(found(), [""; 0]);
        std::fs::write(folder.join("ram"), "123456").unwrap();
        assert_eq!(verify(root.path(), false).unwrap().spoiled.len(), 1);
        assert!(!folder.exists(), "it is made again when it is needed");
    }
}
