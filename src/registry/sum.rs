//! What a derived file of the cache is: its size and its sha256, in a record beside it (`NAME.sum`), written before the
//! file gets its name. Blobs need none: their name is their sum.
//!
//! At each use the size is compared, and the file's time and inode with those of when the sum was last right; a file
//! that somebody else has written to or put there is summed again. What happens below the file system (a block that
//! rots) shows where all bytes are read anyway, and to `i2kit cache verify`. A file without a good record counts as
//! absent: it can be made again.
//!
//! The record's own modification time is the time of the file's last use.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::files;
use crate::oci::Digest;

/// What the name of a record ends with.
pub(crate) const SUFFIX: &str = ".sum";

/// Version of the record's form. A file with a record of another one is made again.
const VERSION: u32 = 1;

/// Bytes that are hashed at once.
const BUFFER: usize = 256 * 1024;

/// Largest record that is read; real ones have 200 bytes.
const MAX_RECORD: u64 = 4096;

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FileRecord {
    version: u32,
    size: u64,
    sha256: Digest,
    /// Seconds and nanoseconds of the file's modification when its sum was last right.
    modified: (i64, i64),
    /// Its inode then.
    inode: u64,
    /// Whether a layer has no entry for its root directory; most have none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    implies_root: bool,
    /// Whether a layer has no entry for other directories in which it has files. Their paths are in a file of their
    /// own, since hardly anybody asks for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    implies_others: bool,
}

/// What the name of the list of a layer's implied directories ends with, behind the layer's own name: paths, each ended
/// by a zero byte.
pub(crate) const IMPLIED_SUFFIX: &str = ".implied";

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileState {
    /// It is what was written.
    Good(FileRecord),
    /// There is none.
    Absent,
    /// It is not; why.
    Spoiled(&'static str),
}

impl FileRecord {
    fn is_of(&self, data: &Metadata) -> bool {
        self.modified == (data.mtime(), data.mtime_nsec()) && self.inode == data.ino()
    }

    fn stamp(&mut self, data: &Metadata) {
        self.modified = (data.mtime(), data.mtime_nsec());
        self.inode = data.ino();
    }
}

/// Where the record of the file at `path` lies.
pub(crate) fn record_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// Where the list of the directories that the layer at `path` implies lies.
fn implied_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(IMPLIED_SUFFIX);
    name.into()
}

/// The directories that the layer at `path` implies without describing them, the root's path being empty; none when
/// the layer is spoiled.
pub(crate) fn implied(path: &Path) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let FileState::Good(record) = look(path)? else { return Ok(None) };
    let mut paths = Vec::new();
    if record.implies_root {
        paths.push(Vec::new());
    }
    if record.implies_others {
        let Some(list) = read(&implied_path(path))? else { return Ok(None) };
        paths.extend(list.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec));
    }
    Ok(Some(paths))
}

/// Records what `file` holds, which is about to be renamed to `path`, and whose bytes are all written. They go to the
/// disk first: otherwise a power cut could leave holes behind a name whose record is right.
pub(crate) fn record(file: &mut File, path: &Path, implied: &[Vec<u8>]) -> Result<(), Error> {
    let others: Vec<&[u8]> = implied.iter().filter(|path| !path.is_empty()).map(Vec::as_slice).collect();
    if !others.is_empty() {
        write(&implied_path(path), &others.join(&0))?;
    }
    let kinds = (others.len() < implied.len(), !others.is_empty());
    sync_and_save(file, path, kinds).map_err(Error::io("write", record_path(path)))
}

fn sync_and_save(file: &mut File, path: &Path, (root, others): (bool, bool)) -> io::Result<()> {
    file.sync_data()?;
    file.rewind()?;
    let sha256 = sum(file)?;
    let data = file.metadata()?;
    let mut record = FileRecord {
        version: VERSION,
        size: data.len(),
        sha256,
        modified: (0, 0),
        inode: 0,
        implies_root: root,
        implies_others: others,
    };
    record.stamp(&data);
    save(path, &record)
}

/// Writes a file whole or not at all, with its record; whoever comes second writes the same bytes.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("create a file in", folder))?;
    new.write_all(bytes).map_err(Error::io("write", path))?;
    record(new.as_file_mut(), path, &[])?;
    new.persist(path).map(drop).map_err(|error| Error::io("rename", path)(error.error))
}

/// What became of the file at `path`, by its size, time and inode. It is read only when somebody else has touched it.
pub(crate) fn look(path: &Path) -> Result<FileState, Error> {
    let (record, data) = match known(path)? {
        Ok(known) => known,
        Err(state) => return Ok(state),
    };
    let state = if record.is_of(&data) { FileState::Good(record) } else { read_all(path, record)? };
    with_list(path, state, look)
}

/// As [`look`], by all bytes of the file.
pub(crate) fn verify(path: &Path) -> Result<FileState, Error> {
    match known(path)? {
        Ok((record, _)) => with_list(path, read_all(path, record)?, verify),
        Err(state) => Ok(state),
    }
}

/// The state of a layer with that of its list of implied directories.
fn with_list(
    path: &Path,
    state: FileState,
    check: impl Fn(&Path) -> Result<FileState, Error>,
) -> Result<FileState, Error> {
    match &state {
        FileState::Good(record) if record.implies_others => match check(&implied_path(path))? {
            FileState::Good(_) => Ok(state),
            _ => Ok(FileState::Spoiled("the list of its directories is damaged")),
        },
        _ => Ok(state),
    }
}

/// The bytes of a small file, verified; none when it is absent or spoiled.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let Ok((record, _)) = known(path)? else { return Ok(None) };
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    Ok((Digest::of(&bytes) == record.sha256).then_some(bytes))
}

/// Marks the file at `path` as used now.
pub(crate) fn touch(path: &Path) {
    // A file that cannot be marked is still good; it may be removed sooner.
    let _ = files::touch(&record_path(path));
}

/// The file that a record or a list of implied directories belongs to.
pub(crate) fn owner(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?;
    let file = text.strip_suffix(SUFFIX).unwrap_or(text);
    let file = file.strip_suffix(IMPLIED_SUFFIX).unwrap_or(file);
    (file != text).then(|| file.into())
}

/// Marks an image's folder as used now.
pub(crate) fn touch_folder(folder: &Path) -> io::Result<()> {
    files::touch(folder)
}

/// Reads all bytes of the file at `path`: good, or removed, with the problem.
pub(crate) fn verify_or_remove(path: &Path) -> Result<Option<&'static str>, Error> {
    let problem = match verify(path)? {
        FileState::Good(_) => return Ok(None),
        FileState::Absent => "it is lost",
        FileState::Spoiled(problem) => problem,
    };
    remove(path)?;
    Ok(Some(problem))
}

/// Removes a file with what belongs to it, the file first: the rest alone is a leftover.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let list = implied_path(path);
    for path in [path, &record_path(path), &list, &record_path(&list)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Record and metadata of the file, or what it is without them.
fn known(path: &Path) -> Result<Result<(FileRecord, Metadata), FileState>, Error> {
    let data = match std::fs::metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(FileState::Absent)),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut text = Vec::new();
    match File::open(record_path(path)).and_then(|file| file.take(MAX_RECORD).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(FileState::Spoiled("nothing says what it should be")));
        }
        Err(error) => return Err(Error::io("read", record_path(path))(error)),
    }
    let Ok(record) = serde_json::from_slice::<FileRecord>(&text) else {
        return Ok(Err(FileState::Spoiled("its record is damaged")));
    };
    if record.version != VERSION {
        return Ok(Err(FileState::Spoiled("its record is of another version")));
    }
    if record.size != data.len() {
        return Ok(Err(FileState::Spoiled("it has another size than when it was made")));
    }
    Ok(Ok((record, data)))
}

/// Reads the whole file. When it is right, its record gets its present time and inode.
fn read_all(path: &Path, mut record: FileRecord) -> Result<FileState, Error> {
    let hashed = File::open(path).and_then(|mut file| {
        let before = file.metadata()?;
        Ok((sum(&mut file)?, before))
    });
    let (sha256, data) = match hashed {
        Ok(hashed) => hashed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileState::Absent),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    if sha256 != record.sha256 {
        return Ok(FileState::Spoiled("its bytes are others than when it was made"));
    }
    if !record.is_of(&data) {
        record.stamp(&data);
        // Without it the file is only read once more the next time.
        let _ = save(path, &record);
    }
    Ok(FileState::Good(record))
}

fn save(path: &Path, record: &FileRecord) -> io::Result<()> {
    let target = record_path(path);
    let text = serde_json::to_vec(record).map_err(io::Error::other)?;
    let mut new = tempfile::NamedTempFile::new_in(target.parent().unwrap_or(&target))?;
    new.write_all(&text)?;
    new.persist(&target).map(drop).map_err(|error| error.error)
}

/// The sha256 of what is left of `input`.
pub(crate) fn sum(input: &mut File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, &[7; 5000]).unwrap();
        (folder, path)
    }

    /// Makes the file's time another one, as writing does on every clock but a coarse one.
    fn later(path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_times(FileTimes::new().set_modified(modified + std::time::Duration::from_secs(1))).unwrap();
    }

    fn good(state: &FileState) -> bool {
        matches!(state, FileState::Good(_))
    }

    #[test]
    fn a_file_is_good_until_somebody_writes_to_it() {
        let (_folder, path) = written();
        assert!(good(&look(&path).unwrap()) && good(&verify(&path).unwrap()));
        assert_eq!(read(&path).unwrap().unwrap(), [7; 5000]);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[6], 4000).unwrap();
        later(&path);
        assert!(matches!(look(&path).unwrap(), FileState::Spoiled(_)), "its time tells");
        assert_eq!(read(&path).unwrap(), None);
        file.write_all_at(&[7], 4000).unwrap();
        assert!(good(&look(&path).unwrap()), "summed again, and right");
        file.set_len(4999).unwrap();
        assert!(matches!(look(&path).unwrap(), FileState::Spoiled(_)));
        file.set_len(0).unwrap();
        assert!(matches!(look(&path).unwrap(), FileState::Spoiled(_)));
        remove(&path).unwrap();
        assert_eq!(look(&path).unwrap(), FileState::Absent);
        assert!(!record_path(&path).exists());
    }

    #[test]
    fn a_rotten_block_shows_when_all_bytes_are_read() {
        let (_folder, path) = written();
        let file = File::options().write(true).open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[6], 4000).unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        assert!(good(&look(&path).unwrap()), "size, time and inode are as they were");
        assert!(matches!(verify(&path).unwrap(), FileState::Spoiled(_)));
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_copy_is_summed_once() {
        let (folder, path) = written();
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(record_path(&path), record_path(&copy)).unwrap();
        let before = std::fs::read(record_path(&copy)).unwrap();
        assert!(good(&look(&copy).unwrap()));
        assert_ne!(before, std::fs::read(record_path(&copy)).unwrap(), "the record knows the copy");
    }

    #[test]
    fn a_record_that_is_lost_or_damaged_is_no_record() {
        let (_folder, path) = written();
        let record = record_path(&path);
        let text = std::fs::read_to_string(&record).unwrap();
        for damaged in ["", "{", &text[..text.len() / 2], &text.replace("\"version\":1", "\"version\":2")] {
            std::fs::write(&record, damaged).unwrap();
            assert!(matches!(look(&path).unwrap(), FileState::Spoiled(_)), "{damaged}");
        }
        std::fs::remove_file(&record).unwrap();
        assert!(matches!(look(&path).unwrap(), FileState::Spoiled(_)));
    }
}
