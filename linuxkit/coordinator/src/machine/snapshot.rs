//! Snapshots: a state that was captured, with what the replica itself has to know of it.
//!
//! The file begins with `I2KS`, version u8, length of the head u32, length of the application's part u64, and the CRC-32C u32 of both parts.
//! The head is: id of the last entry, whether there is an id of the members and it, members, the chain of digests (revision, window and digest, u64 each), agreed time u64, kind of the state u8
//! (1 directory, 2 hooks), and the tables. All numbers are little-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use i2kit_spec::replica::State;

use super::digests::Chain;
use super::tables::Tables;
use crate::log::record::RecordError;
use crate::log::{EntryId, Members};

/// The beginning of a snapshot.
const MAGIC: &[u8; 5] = b"I2KS\x01";

/// Bytes before the head.
const PREFIX: usize = 5 + 4 + 8 + 4;

/// The longest head: tables are bounded to about a third of it.
const MAX_HEAD: u32 = 64 << 20;

/// The current snapshot.
const NAME: &str = "snapshot";

/// One in the making.
const NEW: &str = "snapshot.new";

/// What the replica has to know of a state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    /// The last entry that is in it.
    pub(crate) id: EntryId,
    /// The entry that named the members.
    pub(crate) members_id: Option<EntryId>,
    /// The members there.
    pub(crate) members: Members,
    /// The digests there.
    pub(crate) chain: Chain,
    /// Agreed time there.
    pub(crate) time_ms: u64,
    /// How the application's part was made.
    pub(crate) kind: u8,
    /// What was done before.
    pub(crate) tables: Tables,
}

/// The number of a way to capture.
pub(crate) fn kind(state: &State) -> u8 {
    match state {
        State::Memory => 0,
        State::Directory { .. } => 1,
        State::Hooks { .. } => 2,
    }
}

/// A whole snapshot on disk. It stays readable when a newer one takes its place.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The file, and where it lay when it was opened.
    pub(crate) file: Arc<File>,
    /// Its path.
    pub(crate) path: PathBuf,
    /// The last entry that is in it.
    pub(crate) id: EntryId,
    /// The entry that named the members.
    pub(crate) members_id: Option<EntryId>,
    /// The members there.
    pub(crate) members: Members,
    /// Its length.
    pub(crate) len: u64,
    /// Its checksum.
    pub(crate) crc: u32,
}

impl Head {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.id.encode(&mut out);
        EntryId::encode_option(self.members_id, &mut out);
        self.members.encode(&mut out);
        for number in [self.chain.revision, self.chain.window, self.chain.digest] {
            out.put_u64_le(number);
        }
        out.put_u64_le(self.time_ms);
        out.put_u8(self.kind);
        self.tables.encode(&mut out);
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        let head = Self {
            id: EntryId::decode(&mut bytes)?,
            members_id: EntryId::decode_option(&mut bytes)?,
            members: Members::decode(&mut bytes)?,
            chain: Chain {
                revision: bytes.try_get_u64_le()?,
                window: bytes.try_get_u64_le()?,
                digest: bytes.try_get_u64_le()?,
            },
            time_ms: bytes.try_get_u64_le()?,
            kind: bytes.try_get_u8()?,
            tables: Tables::decode(&mut bytes)?,
        };
        if bytes.is_empty() { Ok(head) } else { Err(RecordError) }
    }
}

/// The current snapshot of `folder`.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// Begins a snapshot: the application's part goes behind what is written here.
pub(crate) fn begin(folder: &Path, head: &Head) -> io::Result<File> {
    let new = folder.join(NEW);
    let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(true).open(new)?;
    let head = head.encode();
    file.write_all(&[0; PREFIX])?;
    file.write_all(&head)?;
    Ok(file)
}

/// Removes what [`begin`] began.
pub(crate) fn discard(folder: &Path) {
    drop(fs::remove_file(folder.join(NEW)));
}

/// Makes sure that the disk of `folder` has room for `bytes`, and that `spare` bytes are left to the log.
pub(crate) fn has_room(folder: &Path, bytes: u64, spare: u64) -> io::Result<()> {
    let free = free(folder)?;
    if free >= bytes.saturating_add(spare) {
        return Ok(());
    }
    let text = format!(
        "{free} bytes of its disk are free, and a snapshot of {bytes} bytes beside a log needs {spare} more: raise i2kit.dev/replicated-log"
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// Bytes of the disk of `folder` that are free.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The current snapshot of a folder. What becomes the current one does so under one lock, and is newer than the one before.
#[derive(Debug)]
pub(crate) struct Current {
    folder: PathBuf,
    kept: Mutex<Option<Snapshot>>,
}

impl Current {
    /// That of `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot, when there is one. It is read and checked once. Blocks.
    pub(crate) fn get(&self) -> io::Result<Option<Snapshot>> {
        let mut kept = self.lock();
        let path = path(&self.folder);
        if kept.is_none() && path.exists() {
            *kept = Some(open(&path)?.0);
        }
        Ok(kept.clone())
    }

    /// Makes the file at `new` the current snapshot, when it is a whole one and newer. Blocks.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when it is not newer.
    pub(crate) fn install(&self, new: &Path) -> io::Result<Snapshot> {
        let current = self.get()?;
        let mut kept = self.lock();
        let current = kept.as_ref().or(current.as_ref()).map(|snapshot| snapshot.id.index);
        let (snapshot, _) = open(new)?;
        if current.is_some_and(|current| current >= snapshot.id.index) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a newer snapshot"));
        }
        snapshot.file.sync_all()?;
        fs::rename(new, path(&self.folder))?;
        File::open(&self.folder)?.sync_all()?;
        *kept = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Ends a snapshot that [`begin`] began for `head`: it becomes the current one. When that fails, or leaves the log less than `spare`
    /// bytes of the disk, nothing is left of it. Blocks.
    pub(crate) fn finish(&self, file: File, head: &Head, spare: u64) -> io::Result<Snapshot> {
        let made = has_room(&self.folder, 0, spare)
            .and_then(|()| seal(file, head))
            .and_then(|()| self.install(&self.folder.join(NEW)));
        if made.is_err() {
            discard(&self.folder);
        }
        made
    }
}

/// Writes the beginning of a snapshot whose other parts are there.
fn seal(mut file: File, head: &Head) -> io::Result<()> {
    let wrong = |_| io::Error::other("the head of the snapshot is too long");
    let head_len = u32::try_from(head.encode().len()).map_err(wrong)?;
    let len = file.metadata()?.len();
    let state = len
        .checked_sub(PREFIX as u64 + u64::from(head_len))
        .ok_or_else(|| io::Error::other("the snapshot was cut"))?;
    let crc = checksum(&mut file)?;
    let mut prefix = BytesMut::new();
    prefix.put_slice(MAGIC);
    prefix.put_u32_le(head_len);
    prefix.put_u64_le(state);
    prefix.put_u32_le(crc);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&prefix)
}

/// Opens the snapshot at `path`, checks all of it, and leaves the file at the application's part. Blocks.
pub(crate) fn open(path: &Path) -> io::Result<(Snapshot, Head)> {
    let shown = path.display();
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{shown}: {text}"));
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut prefix = [0; PREFIX];
    file.read_exact(&mut prefix).map_err(|_| wrong("the snapshot was cut"))?;
    let mut fields = prefix.strip_prefix(MAGIC).ok_or_else(|| wrong("it is no snapshot of this version"))?;
    let (head_len, state, crc) = (fields.get_u32_le(), fields.get_u64_le(), fields.get_u32_le());
    let len = file.metadata()?.len();
    if head_len > MAX_HEAD
        || (PREFIX as u64).checked_add(u64::from(head_len)).and_then(|at| at.checked_add(state)) != Some(len)
    {
        return Err(wrong("the snapshot was cut"));
    }
    if checksum(&mut file)? != crc {
        return Err(wrong("the snapshot is damaged"));
    }
    let mut head = vec![0; head_len as usize];
    file.seek(SeekFrom::Start(PREFIX as u64))?;
    file.read_exact(&mut head)?;
    let head = Head::decode(head.into()).map_err(|error| wrong(&error.to_string()))?;
    let file = Arc::new(file);
    let path = path.to_owned();
    let snapshot = Snapshot {
        file,
        path,
        id: head.id,
        members_id: head.members_id,
        members: head.members.clone(),
        len,
        crc,
    };
    Ok((snapshot, head))
}

/// The CRC-32C of all behind the prefix.
fn checksum(file: &mut File) -> io::Result<u32> {
    file.seek(SeekFrom::Start(PREFIX as u64))?;
    let mut crc = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc),
            len => crc = crc32c::crc32c_append(crc, &buffer[..len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folder: &Path) -> Head {
        make(&Current::new(folder), folder, 5, 0).unwrap()
    }

    fn make(current: &Current, folder: &Path, index: u64, spare: u64) -> io::Result<Head> {
        let id = EntryId { term: 3, leader: 4, index };
        let members = Members { configs: vec![vec![1, 2]], nodes: vec![(1, 0), (2, 1)] };
        let head = Head {
            id,
            members_id: Some(id),
            members,
            chain: Chain { revision: 8, window: 9, digest: 6 },
            time_ms: 7,
            kind: 1,
            tables: Tables::default(),
        };
        let mut file = begin(folder, &head).unwrap();
        file.write_all(b"the state").unwrap();
        current.finish(file, &head, spare).map(|_| head)
    }

    #[test]
    fn a_snapshot_takes_the_place_of_an_older_one_alone_and_leaves_room_to_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join(NEW);
        let current = Current::new(folder.path());
        assert!(current.get().unwrap().is_none());
        make(&current, folder.path(), 5, 0).unwrap();
        for index in [4, 5] {
            let error = make(&current, folder.path(), index, 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert!(!new.exists(), "nothing is left of it");
        }
        // Another start knows of the one on the disk.
        let current = Current::new(folder.path());
        assert!(make(&current, folder.path(), 4, 0).is_err());
        let error = make(&current, folder.path(), 6, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!new.exists());
        assert_eq!(current.get().unwrap().unwrap().id.index, 5);
        make(&current, folder.path(), 6, 0).unwrap();
        assert_eq!(current.get().unwrap().unwrap().id.index, 6);
        assert!(has_room(folder.path(), 0, 0).is_ok() && has_room(folder.path(), u64::MAX, 1).is_err());
    }

    #[test]
    fn a_snapshot_is_read_back_with_its_state_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let head = made(folder.path());
        let (snapshot, read) = open(&path(folder.path())).unwrap();
        assert_eq!((read, snapshot.id), (head.clone(), head.id));
        let mut state = String::new();
        (&*snapshot.file).read_to_string(&mut state).unwrap();
        assert_eq!(state, "the state");
    }

    #[test]
    fn a_snapshot_that_is_cut_or_changed_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        made(folder.path());
        let whole = fs::read(path(folder.path())).unwrap();
        let other = folder.path().join("other");
        for at in 0..whole.len() {
            fs::write(&other, &whole[..at]).unwrap();
            assert!(open(&other).is_err(), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 0x11;
            fs::write(&other, changed).unwrap();
            assert!(open(&other).is_err(), "changed at {at}");
        }
        fs::write(&other, [&whole[..], b"x"].concat()).unwrap();
        assert!(open(&other).is_err());
    }
}
