//! What the store holds, and removing what is not needed.
//!
//! Removal holds the store's lock exclusively, so that no run finds a file and loses it before it has opened it. What
//! is in use without a run, such as the layers under running virtual machines, the caller names in [`Keep`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::error::Error;
use super::files::now;
use super::store::{layer_suffix, open_lock};
use super::sum;
use crate::oci::{DiffId, Digest};

/// How long to wait for runs that use the store.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to look whether they have finished.
const POLL: Duration = Duration::from_millis(50);

/// What a name begins with between the decision to remove a folder and its last file.
const REMOVED: &str = ".removed-";

/// What the name of a template begins with while the local cloud makes it.
const TEMPLATE_UNDER_WAY: &str = ".new-";

/// One that is older was left by a process that was killed.
const TEMPLATE_ABANDONED: Duration = Duration::from_mins(30);

/// Something in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheEntry {
    /// What it is.
    pub kind: CacheKind,
    /// Its digest, diff id or image id in hexadecimal digits; of a leftover, its file name.
    pub name: String,
    /// Where it is.
    #[serde(skip)]
    pub path: PathBuf,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// When it was last made or used.
    #[serde(serialize_with = "seconds")]
    pub last_used: SystemTime,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CacheKind {
    /// A blob as a registry hands it out.
    Blob,
    /// A layer's erofs file system.
    Layer,
    /// The parts of a built image.
    Image,
    /// A note on what an archive held.
    Memo,
    /// The tree of hashes of a layer or of a pod file system.
    HashTree,
    /// The EFI system partition of a bootable disk.
    SystemPartition,
    /// A machine that was stopped before its containers, from which others start.
    Template,
    /// What a killed run left unfinished.
    Leftover,
}

/// What must stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Layers in use.
    pub layers: BTreeSet<DiffId>,
    /// Images in use, by the digest of their id.
    pub images: BTreeSet<Digest>,
}

/// What may go: leftovers always, and of the rest what either limit excludes, the longest unused first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Entries that were not used for longer than this go.
    pub unused_for: Option<Duration>,
    /// Entries go until no more than this many bytes are left.
    pub max_bytes: Option<u64>,
    /// What stays nevertheless.
    pub keep: Keep,
}

/// Everything in the store below `root`, by kind and name.
pub fn list(root: &Path) -> Result<Vec<CacheEntry>, Error> {
    let mut entries = Vec::new();
    let layers = layer_suffix();
    for (folder, kind, suffix) in [
        ("blobs/sha256", CacheKind::Blob, ""),
        ("layers/sha256", CacheKind::Layer, layers.as_str()),
        ("images", CacheKind::Image, ""),
        ("memos", CacheKind::Memo, ""),
        ("verity", CacheKind::HashTree, ".tree"),
        ("efi", CacheKind::SystemPartition, ".img"),
        ("templates", CacheKind::Template, ""),
    ] {
        let folder = root.join(folder);
        let files = match std::fs::read_dir(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", folder)(error)),
        };
        for file in files {
            let path = file.map_err(Error::io("read", &folder))?.path();
            // Whoever has just finished a file has renamed it; it is listed under its new name or not at all.
            let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
            // What belongs to a file is no entry of its own; alone, it is a leftover.
            if sum::owner(&path).is_some_and(|file| file.exists()) {
                continue;
            }
            // Whoever makes one has no lock: it takes minutes.
            if kind == CacheKind::Template && is_under_way(&path, &data) {
                continue;
            }
            entries.push(entry(path, kind, suffix, &data));
        }
    }
    entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(entries)
}

/// Removes the entries that `policy` does not keep, and returns them. Fails when other runs use the store for long.
pub fn prune(root: &Path, policy: &PrunePolicy) -> Result<Vec<CacheEntry>, Error> {
    let _lock = lock_alone(root)?;
    let removed = choose(list(root)?, policy, now());
    for entry in &removed {
        remove(entry)?;
    }
    Ok(removed)
}

/// The store's lock, held by nobody else. Fails when other runs use the store for long.
pub(super) fn lock_alone(root: &Path) -> Result<File, Error> {
    std::fs::create_dir_all(root).map_err(Error::io("create", root))?;
    let lock = open_lock(root)?;
    let start = now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if start.elapsed().is_ok_and(|waited| waited < PATIENCE) => {
                std::thread::sleep(POLL);
            }
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", root.join("lock"))(source)),
        }
    }
}

/// The entries that go, the longest unused first.
pub fn choose(mut entries: Vec<CacheEntry>, policy: &PrunePolicy, now: SystemTime) -> Vec<CacheEntry> {
    entries.sort_by_key(|entry| (entry.last_used, entry.kind, entry.name.clone()));
    let mut left: u64 = entries.iter().map(|entry| entry.bytes).sum();
    entries.retain(|entry| {
        let unused = now.duration_since(entry.last_used).unwrap_or_default();
        let goes = entry.kind == CacheKind::Leftover
            || (!policy.keep.holds(entry)
                && (policy.unused_for.is_some_and(|limit| unused > limit)
                    || policy.max_bytes.is_some_and(|limit| left > limit)));
        if goes {
            left -= entry.bytes;
        }
        goes
    });
    entries
}

impl Keep {
    fn holds(&self, entry: &CacheEntry) -> bool {
        let Ok(digest) = format!("sha256:{}", entry.name).parse() else { return false };
        match entry.kind {
            CacheKind::Layer => self.layers.contains(&DiffId(digest)),
            CacheKind::Image => self.images.contains(&digest),
            CacheKind::Blob
            | CacheKind::Memo
            | CacheKind::HashTree
            | CacheKind::SystemPartition
            | CacheKind::Template
            | CacheKind::Leftover => false,
        }
    }
}

fn entry(path: PathBuf, kind: CacheKind, suffix: &str, data: &Metadata) -> CacheEntry {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = file.strip_suffix(suffix).filter(|name| is_hex(name));
    let (kind, name) = match name {
        Some(name) => (kind, name.to_owned()),
        None => (CacheKind::Leftover, file.clone()),
    };
    let bytes = if data.is_dir() { folder_bytes(&path) } else { disk_bytes(data) };
    // A file with a record does not change with its use, the record does.
    let record = std::fs::metadata(sum::record_path(&path)).and_then(|record| record.modified());
    let last_used = record.or_else(|_| data.modified()).unwrap_or(UNIX_EPOCH);
    CacheEntry { kind, name, path, bytes, last_used }
}

/// Whether this is a template that is being made.
fn is_under_way(path: &Path, data: &Metadata) -> bool {
    let is_named =
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(TEMPLATE_UNDER_WAY));
    let age = data.modified().map(|modified| now().duration_since(modified).unwrap_or_default());
    is_named && age.is_ok_and(|age| age <= TEMPLATE_ABANDONED)
}

fn is_hex(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes allocated, so that holes do not count.
fn disk_bytes(data: &Metadata) -> u64 {
    data.blocks() * 512
}

/// What a folder takes; what vanishes while it is read takes nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    let bytes = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.ok()?.path();
        let data = std::fs::symlink_metadata(&path).ok()?;
        Some(if data.is_dir() { folder_bytes(&path) } else { disk_bytes(&data) })
    };
    files.filter_map(bytes).sum()
}

/// Removes one entry. A folder loses its name first: half of an image must not be taken for an image.
pub(super) fn remove(entry: &CacheEntry) -> Result<(), Error> {
    let path = &entry.path;
    if !path.is_dir() {
        return sum::remove(path);
    }
    let doomed = match entry.kind {
        CacheKind::Leftover => path.clone(),
        _ => path.with_file_name(format!("{REMOVED}{}", entry.name)),
    };
    if doomed != *path {
        std::fs::rename(path, &doomed).map_err(Error::io("rename", path))?;
    }
    std::fs::remove_dir_all(&doomed).map_err(Error::io("remove", &doomed))
}

fn seconds<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::store::{Claim, Key, Store};
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn entry(kind: CacheKind, n: u8, bytes: u64, age: u32) -> CacheEntry {
        let name = Digest::of(&[n]).hex();
        let last_used = UNIX_EPOCH + DAY * 100 - DAY * age;
        CacheEntry { kind, path: PathBuf::from(&name), name, bytes, last_used }
    }

    fn chosen(entries: &[CacheEntry], policy: &PrunePolicy) -> Vec<usize> {
        let gone = choose(entries.to_vec(), policy, UNIX_EPOCH + DAY * 100);
        gone.iter().map(|gone| entries.iter().position(|entry| entry == gone).unwrap()).collect()
    }

    #[test]
    fn the_oldest_go_first_and_what_is_in_use_stays() {
        let entries = [
            entry(CacheKind::Blob, 0, 10, 1),
            entry(CacheKind::Blob, 1, 10, 9),
            entry(CacheKind::Layer, 2, 10, 8),
            entry(CacheKind::Image, 3, 10, 7),
            entry(CacheKind::Leftover, 4, 10, 0),
        ];
        let keep = Keep {
            layers: BTreeSet::from([DiffId(Digest::of(&[2]))]),
            images: BTreeSet::from([Digest::of(&[3])]),
        };
        let policy = PrunePolicy { keep, ..PrunePolicy::default() };
        assert_eq!(chosen(&entries, &policy), [4]);
        let by_age = PrunePolicy { unused_for: Some(DAY * 2), ..policy.clone() };
        assert_eq!(chosen(&entries, &by_age), [1, 4]);
        let by_size = PrunePolicy { max_bytes: Some(40), ..policy.clone() };
        assert_eq!(chosen(&entries, &by_size), [1, 4]);
        let all = PrunePolicy { unused_for: Some(Duration::ZERO), ..policy };
        assert_eq!(chosen(&entries, &all), [1, 0, 4]);
        let nothing_kept = PrunePolicy { max_bytes: Some(0), ..PrunePolicy::default() };
        assert_eq!(chosen(&entries, &nothing_kept), [1, 2, 3, 0, 4]);
    }

    #[test]
    fn a_template_that_is_being_made_stays_and_one_that_was_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let made = |name: &str, age| {
            let path = root.join("templates").join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("ram"), b"x").unwrap();
            File::open(&path).unwrap().set_modified(now() - age).unwrap();
            path
        };
        let (being, left) = (made(".new-a", Duration::from_mins(5)), made(".new-b", Duration::from_mins(31)));
        let whole = made(&Digest::of(b"kind").hex(), Duration::ZERO);
        let kinds: Vec<CacheKind> = list(root).unwrap().iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [CacheKind::Template, CacheKind::Leftover]);
        prune(root, &PrunePolicy::default()).unwrap();
        assert!(being.exists() && whole.exists() && !left.exists());
        prune(root, &PrunePolicy { max_bytes: Some(0), ..PrunePolicy::default() }).unwrap();
        assert!(being.exists() && !whole.exists());
    }

    #[test]
    fn pruning_waits_for_whoever_uses_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let store = Store::open(root).unwrap();
        let digest = Digest::of(b"blob");
        let Some(Claim::Vacant(mut partial)) = store.try_claim(Key::Blob(digest)).unwrap() else {
            panic!("a new store holds nothing");
        };
        partial.write(b"blob").unwrap();
        partial.commit().unwrap();
        let left = store.try_claim(Key::Layer(DiffId(digest))).unwrap();
        drop(left);
        std::fs::create_dir(root.join("images/.new")).unwrap();
        std::fs::write(root.join("images/.new/part"), b"x").unwrap();
        assert_eq!(list(root).unwrap().len(), 3);
        let everything = PrunePolicy { max_bytes: Some(0), ..PrunePolicy::default() };
        assert!(matches!(prune(root, &everything), Err(Error::Busy { .. })));
        drop(store);

        let removed = prune(root, &everything).unwrap();
        let kinds: BTreeSet<CacheKind> = removed.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, BTreeSet::from([CacheKind::Blob, CacheKind::Leftover]));
        assert_eq!(list(root).unwrap(), []);
    }
}
