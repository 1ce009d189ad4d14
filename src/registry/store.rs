//! The content-addressed store: blobs by digest and layer file systems by diff id, shared by all runs of a user.
//!
//! ```text
//! ROOT/lock                      held shared by who reads or adds, exclusively by who removes
//! ROOT/blobs/sha256/HEX          complete and verified, since only a rename makes the name
//! ROOT/blobs/sha256/HEX.partial  being written by the holder of its lock, or left by a killed run
//! ROOT/layers/sha256/HEX.v1.erofs   likewise, by diff id and by the version of the erofs writer's bytes
//! ROOT/layers/sha256/HEX.v1.erofs.sum   what the file beside it is, see [`super::sum`]
//! ROOT/images/HEX/               built images
//! ```
//! Locks are the kernel's (`flock`): a killed process holds none. A name without `.partial` never changes its content.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::blocking::blocking;
use super::error::Error;
use super::files::{is_at, touch};
use super::sum::{self, FileState};
use crate::oci::{Descriptor, DiffId, Digest};

/// Suffix of files that are not complete.
pub(super) const PARTIAL: &str = ".partial";

/// Suffix of a layer's file system. Files of another version of the writer are leftovers, which pruning removes.
pub(super) fn layer_suffix() -> String {
    format!(".v{}.erofs", crate::erofs::FORMAT_VERSION)
}

/// How often a claim that another run holds is tried again. Short against a download, long against a system call.
const CLAIM_POLL: Duration = Duration::from_millis(50);

/// The store. Cheap to clone. While any clone lives, no other process removes anything.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<PathBuf>,
    /// Holds the shared lock; never read.
    _lock: Arc<File>,
}

/// What a file of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// A blob as a registry hands it out.
    Blob(Digest),
    /// The erofs file system of a layer.
    Layer(DiffId),
}

/// The answer to [`Store::claim`].
#[derive(Debug)]
pub enum Claim {
    /// The file is there.
    Ready(PathBuf),
    /// It is not, and the caller alone may write it.
    Vacant(Partial),
}

/// A file of the store that is being written. Dropped without [`Partial::commit`] it stays for a later run.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_layer: bool,
    /// The directories that a layer implies, for its record.
    implied: Vec<Vec<u8>>,
    /// Nothing may be removed meanwhile.
    _store: Store,
}

impl Store {
    /// Opens the store below `root`, i2kit's cache directory, and makes it when it is not there. Waits while another
    /// run removes files, which takes moments.
    pub fn open(root: &Path) -> Result<Self, Error> {
        make_private(root).map_err(Error::io("create", root))?;
        for folder in ["blobs/sha256", "layers/sha256", "images"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(Error::io("create", folder))?;
        }
        let lock = open_lock(root)?;
        lock.lock_shared().map_err(Error::io("lock", root.join("lock")))?;
        Ok(Self { root: Arc::new(root.to_owned()), _lock: Arc::new(lock) })
    }

    /// The folder below which everything lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file of `key` is or would be.
    pub fn path(&self, key: Key) -> PathBuf {
        match key {
            Key::Blob(digest) => self.root.join("blobs/sha256").join(digest.hex()),
            Key::Layer(DiffId(digest)) => {
                self.root.join("layers/sha256").join(format!("{}{}", digest.hex(), layer_suffix()))
            }
        }
    }

    /// The complete file of `key`, marked as used now; none when it is not in the store. A layer whose record does not
    /// fit counts as absent; a blob is verified when it is read.
    pub fn get(&self, key: Key) -> Option<PathBuf> {
        let path = self.path(key);
        if matches!(key, Key::Layer(_)) {
            return match sum::look(&path) {
                Ok(FileState::Good(_)) => {
                    sum::touch(&path);
                    Some(path)
                }
                _ => None,
            };
        }
        match touch(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // A file that cannot be marked is still good; it may be removed sooner.
            _ => Some(path),
        }
    }

    /// The complete blob of `descriptor`, marked as used now. One of another size than promised was cut off by a
    /// power failure; it is dropped.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Option<PathBuf>, Error> {
        let key = Key::Blob(descriptor.digest);
        let Some(path) = self.get(key) else { return Ok(None) };
        let size = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        if size == descriptor.size {
            return Ok(Some(path));
        }
        self.discard(key)?;
        Ok(None)
    }

    /// Whether a blob of this digest and size is there; it is marked as used now.
    pub(super) fn holds(&self, digest: Digest, size: u64) -> bool {
        let path = self.get(Key::Blob(digest));
        path.and_then(|path| std::fs::metadata(path).ok()).is_some_and(|data| data.len() == size)
    }

    /// Either the complete file, or the right to write it. Waits while another run or task has that right.
    pub async fn claim(&self, key: Key) -> Result<Claim, Error> {
        loop {
            let store = self.clone();
            if let Some(claim) = blocking(move || store.try_claim(key)).await? {
                return Ok(claim);
            }
            tokio::time::sleep(CLAIM_POLL).await;
        }
    }

    /// As [`Store::claim`], but nothing when another run or task writes the file just now.
    pub fn try_claim(&self, key: Key) -> Result<Option<Claim>, Error> {
        let target = self.path(key);
        let path = partial_path(&target);
        loop {
            if let Some(ready) = self.get(key) {
                return Ok(Some(Claim::Ready(ready)));
            }
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(Error::io("create", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
            }
            // Between opening and locking the file may have been finished and renamed, or removed. Then the lock is
            // on something else than the path, and everything starts again.
            if !is_at(&file, &path) {
                continue;
            }
            // A spoiled file keeps its name until the new one takes it: somebody may be reading it.
            if self.get(key).is_some() {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                continue;
            }
            let is_layer = matches!(key, Key::Layer(_));
            let partial = Partial { file, path, target, is_layer, implied: Vec::new(), _store: self.clone() };
            return Ok(Some(Claim::Vacant(partial)));
        }
    }

    /// Puts a small document whose bytes are at hand.
    pub async fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if let Claim::Vacant(mut partial) = self.claim(Key::Blob(digest)).await? {
            partial.restart()?;
            partial.write(bytes)?;
            partial.commit()?;
        }
        Ok(digest)
    }

    /// The bytes of a small document, verified again: what a power cut spoiled is dropped and counts as absent.
    pub fn read(&self, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = self.get(Key::Blob(digest)) else { return Ok(None) };
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        if Digest::of(&bytes) == digest {
            return Ok(Some(bytes));
        }
        self.discard(Key::Blob(digest))?;
        Ok(None)
    }

    /// Whether a blob still matches its name, read again from the disk; a spoiled one is dropped. For layers that
    /// fail to unpack: a power cut may have spoiled the copy, and then the registry still has a good one.
    pub fn recheck(&self, digest: Digest) -> Result<bool, Error> {
        let path = self.path(Key::Blob(digest));
        let actual = File::open(&path).and_then(|mut file| sum::sum(&mut file));
        if actual.map_err(Error::io("read", &path))? == digest {
            return Ok(true);
        }
        self.discard(Key::Blob(digest))?;
        Ok(false)
    }

    /// Drops a file that has turned out to be spoiled.
    pub fn discard(&self, key: Key) -> Result<(), Error> {
        sum::remove(&self.path(key))
    }
}

impl Partial {
    /// The file, at the position where the last write ended.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where the unfinished bytes are, for writers that want a path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that an earlier run left.
    pub fn len(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(Error::io("read", &self.path))?.len())
    }

    /// Whether no earlier run left anything.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Drops what is there and starts at the beginning.
    pub fn restart(&mut self) -> Result<(), Error> {
        let empty = |file: &mut File| {
            file.set_len(0)?;
            io::Seek::rewind(file)
        };
        empty(&mut self.file).map_err(Error::io("truncate", &self.path))
    }

    /// Appends `bytes`. When the disk has no room for them, what was written is removed: it would keep the disk full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = io::Write::write_all(&mut self.file, bytes).map_err(Error::io("write", &self.path));
        if matches!(written, Err(Error::Full { .. })) {
            let _ = self.file.set_len(0);
            let _ = std::fs::remove_file(&self.path);
        }
        written
    }

    /// Notes the directories that a layer implies without describing them.
    pub fn note_implied(&mut self, paths: Vec<Vec<u8>>) {
        self.implied = paths;
    }

    /// Gives the file its name, after which it never changes. The caller has verified the content.
    ///
    /// A layer gets a record first, and goes to the disk. Blobs are verified again when they are used.
    pub fn commit(mut self) -> Result<PathBuf, Error> {
        if self.is_layer
            && let Err(error) = sum::record(&mut self.file, &self.target, &self.implied)
        {
            // On a full disk the room is needed more than the layer, which is made again.
            let _ = std::fs::remove_file(&self.path);
            return Err(error);
        }
        std::fs::rename(&self.path, &self.target).map_err(Error::io("rename", &self.path))?;
        Ok(self.target)
    }

    /// Removes the unfinished file.
    pub fn abandon(self) -> Result<(), Error> {
        std::fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

/// Makes a folder, or closes one that is there, so that it is its owner's alone: layers of private images lie in it.
fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if folder.metadata()?.mode().trailing_zeros() >= 6 {
        return Ok(());
    }
    match std::fs::set_permissions(folder, Permissions::from_mode(0o700)) {
        // It is somebody else's, who shares it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        set => set,
    }
}

/// The file whose lock guards the whole store.
pub(super) fn open_lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    file.map_err(Error::io("create", path))
}

/// The name of the unfinished file for `target`.
pub(super) fn partial_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn vacant(claim: Option<Claim>) -> Partial {
        match claim {
            Some(Claim::Vacant(partial)) => partial,
            other => panic!("not vacant: {other:?}"),
        }
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_complete() {
        let (_folder, store) = store();
        let key = Key::Blob(Digest::of(b"ab"));
        let mut partial = vacant(store.try_claim(key).unwrap());
        partial.write(b"a").unwrap();
        assert_eq!(store.get(key), None);
        assert!(store.try_claim(key).unwrap().is_none(), "two writers of one blob");
        drop(partial);

        let mut partial = vacant(store.try_claim(key).unwrap());
        assert_eq!(partial.len().unwrap(), 1, "what a killed run wrote is kept");
        partial.restart().unwrap();
        partial.write(b"ab").unwrap();
        let path = partial.commit().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"ab");
        assert!(matches!(store.try_claim(key).unwrap(), Some(Claim::Ready(_))));
        assert_eq!(std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 1);
    }

    #[test]
    fn the_cache_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("i2kit");
        let mode = || root.metadata().unwrap().mode() & 0o777;
        drop(Store::open(&root).unwrap());
        assert_eq!(mode(), 0o700);
        std::fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        drop(Store::open(&root).unwrap());
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn spoiled_files_count_as_absent() {
        let (_folder, store) = store();
        let digest = Digest::of(b"good");
        std::fs::write(store.path(Key::Blob(digest)), b"evil").unwrap();
        assert_eq!(store.read(digest).unwrap(), None);
        assert!(store.get(Key::Blob(digest)).is_none());

        std::fs::write(store.path(Key::Blob(digest)), b"good").unwrap();
        assert!(store.recheck(digest).unwrap());
        std::fs::write(store.path(Key::Blob(digest)), b"evil").unwrap();
        assert!(!store.recheck(digest).unwrap());
        assert!(store.get(Key::Blob(digest)).is_none());

        std::fs::write(store.path(Key::Blob(digest)), b"").unwrap();
        let descriptor = Descriptor { media_type: String::new(), digest, size: 4 };
        assert_eq!(store.blob(&descriptor).unwrap(), None);
    }

    #[test]
    fn a_layer_without_a_good_record_is_made_again() {
        let (_folder, store) = store();
        let key = Key::Layer(DiffId(Digest::of(b"tar")));
        let make = || {
            let mut partial = vacant(store.try_claim(key).unwrap());
            partial.restart().unwrap();
            partial.write(b"erofs").unwrap();
            partial.note_implied(vec![vec![], b"tmp".to_vec(), b"a/\xff".to_vec()]);
            partial.commit().unwrap()
        };
        let path = make();
        assert_eq!(sum::implied(&path).unwrap().unwrap(), [vec![], b"tmp".to_vec(), b"a/\xff".to_vec()]);
        for spoil in [&b"erofX"[..], b"ero", b""] {
            std::fs::write(&path, spoil).unwrap();
            let modified = SystemTime::UNIX_EPOCH;
            let times = FileTimes::new().set_modified(modified);
            OpenOptions::new().write(true).open(&path).unwrap().set_times(times).unwrap();
            assert_eq!(store.get(key), None, "{spoil:?}");
            assert_eq!(std::fs::read(make()).unwrap(), b"erofs");
        }
        std::fs::remove_file(sum::record_path(&path)).unwrap();
        assert_eq!(store.get(key), None, "of a cache from before there were records");
        make();
        assert!(matches!(store.try_claim(key).unwrap(), Some(Claim::Ready(_))));
    }

    #[test]
    fn a_full_disk_is_reported_and_keeps_nothing() {
        let (folder, store) = store();
        let (path, target) = (folder.path().join("x.partial"), folder.path().join("x"));
        std::fs::write(&path, b"begun").unwrap();
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut partial = Partial {
            file,
            path: path.clone(),
            target,
            is_layer: false,
            implied: Vec::new(),
            _store: store.clone(),
        };
        let error = partial.write(b"more").unwrap_err().to_string();
        assert!(error.contains("bytes free") && error.contains("i2kit cache prune"), "{error}");
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn many_claims_of_one_blob_have_one_winner() {
        let (_folder, store) = store();
        let key = Key::Blob(Digest::of(b"x"));
        let written = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        match store.try_claim(key).unwrap() {
                            None => std::thread::yield_now(),
                            Some(Claim::Ready(path)) => {
                                assert_eq!(std::fs::read(path).unwrap(), b"x");
                                break;
                            }
                            Some(Claim::Vacant(mut partial)) => {
                                written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                partial.write(b"x").unwrap();
                                partial.commit().unwrap();
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(written.into_inner(), 1);
    }
}
