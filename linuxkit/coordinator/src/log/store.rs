//! The face of the log: what there is, appending, reading, and what is found at start.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::group::{self, Damage};
use super::places::{self, Contents, Places};
use super::record::{Entry, EntryId, Record, Vote};
use super::segment::{self, Maker};
use super::writer::{Done, Position, Standing, Writer};
use crate::lock::lock;
use crate::metrics::Metrics;

/// Entries that are kept in memory take at most about this: followers that keep up are served from here.
const CACHE_BYTES: usize = 8 << 20;

/// Bytes of a segment, at least and at most: its zeros are written ahead of need, and it goes as a whole.
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 32 << 20);

/// The file with the log's id: `I2KI`, version u8, id u64, CRC-32C u32.
const IDENTITY: &str = "identity";

/// The beginning of [`IDENTITY`].
const IDENTITY_MAGIC: &[u8; 5] = b"I2KI\x01";

/// The number of a log's first group.
const FIRST_GROUP: u64 = 1;

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Bytes of a segment.
    pub(crate) segment_bytes: u64,
    /// Whether it is written past the page cache.
    pub(crate) direct: bool,
}

impl Options {
    /// Bytes of the disk that snapshots leave to a log of this limit, and below which nothing is ordered: a few segments.
    pub(crate) fn spare(limit: u64) -> u64 {
        Self::for_limit(limit).segment_bytes * 4
    }

    /// For a log that has a snapshot when it is `limit` bytes long: some segments of it can go by then.
    pub(crate) fn for_limit(limit: u64) -> Self {
        Self {
            segment_bytes: (limit / 16).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1).next_multiple_of(4096),
            direct: true,
        }
    }
}

/// What is in memory.
#[derive(Debug, Default)]
struct State {
    /// The newest entries, one after the other.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Entries up to this index are on disk.
    durable: u64,
    last: Option<EntryId>,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    /// Whether `committed` is to be written with the next entries.
    committed_is_new: bool,
}

/// The log. Handles share it.
#[derive(Clone)]
pub(crate) struct Log {
    id: u64,
    state: Arc<Mutex<State>>,
    places: Arc<Mutex<Places>>,
    writer: Arc<Writer>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Entries, or what has to be read for them: the file, the place in it, and the indexes.
enum Found {
    Entries(Vec<Entry>),
    Place(Arc<File>, u64, (u64, u64)),
}

/// What the segments say.
struct Recovered {
    state: State,
    places: Places,
    position: Position,
}

impl Log {
    /// Opens the log in `folder`, or makes an empty one with the id `fresh_id`. Cuts off a torn group at the end.
    pub(crate) fn open(
        folder: &Path,
        fresh_id: u64,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Damage> {
        fs::create_dir_all(folder)?;
        let mut maker = Maker::new(folder, options.segment_bytes, options.direct);
        let id = identity(folder, fresh_id, &mut maker)?;
        let recovered = recover(folder, id, &maker)?;
        let places = Arc::new(Mutex::new(recovered.places));
        let writer = Writer::start(
            (folder.to_owned(), id, options.segment_bytes),
            maker,
            &recovered.position,
            places.clone(),
            metrics,
        )?;
        let state = Arc::new(Mutex::new(recovered.state));
        Ok(Self { id, state, places, writer: Arc::new(writer) })
    }

    /// Its id, which is the replica's.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether nothing was ever promised or written.
    pub(crate) fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.vote.is_none() && state.last.is_none()
    }

    /// The vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        lock(&self.state).vote
    }

    /// The last entry, or the last that was purged.
    pub(crate) fn last(&self) -> Option<EntryId> {
        lock(&self.state).last
    }

    /// The last entry that was purged.
    pub(crate) fn purged(&self) -> Option<EntryId> {
        lock(&self.state).purged
    }

    /// The last entry that is known to be committed.
    pub(crate) fn committed(&self) -> Option<EntryId> {
        lock(&self.state).committed
    }

    /// Bytes that it takes on disk, without the zeros behind its end.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.places).bytes()
    }

    /// Bytes of records that wait for the disk.
    pub(crate) fn pending(&self) -> usize {
        self.writer.pending()
    }

    /// The last entry that may go when what is behind it is to take at most about `most` bytes of disk.
    pub(crate) fn beyond(&self, most: u64) -> u64 {
        lock(&self.places).beyond(most)
    }

    /// About how many bytes of disk the entries behind `index` take.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        lock(&self.places).bytes_after(index)
    }

    /// Notes what is committed; it is written with the next entries.
    pub(crate) fn save_committed(&self, committed: Option<EntryId>) {
        let mut state = lock(&self.state);
        state.committed = committed;
        state.committed_is_new = committed.is_some();
    }

    /// Writes the vote, and returns when it is durable.
    pub(crate) async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        lock(&self.state).vote = Some(vote);
        self.durable(Record::Vote(vote)).await
    }

    /// Adds entries behind the last: they can be read at once, and `done` is called when they are durable.
    pub(crate) fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), Damage> {
        let mut records = Vec::with_capacity(entries.len() + 1);
        let mut state = lock(&self.state);
        for entry in entries {
            if let Some(wanted) = state.last.map(|last| last.index + 1)
                && entry.id.index != wanted
            {
                return Err(Damage::Hole { wanted, found: entry.id.index });
            }
            state.last = Some(entry.id);
            state.cache_bytes += entry.weight();
            state.cache.push_back(entry.clone());
            records.push(Record::Entry(entry));
        }
        if std::mem::take(&mut state.committed_is_new) {
            records.extend(state.committed.map(Record::Committed));
        }
        let last = state.last.map_or(0, |last| last.index);
        let shared = self.state.clone();
        // Under the lock, so that records are in the order of the state.
        self.writer.push(
            &records,
            Some(Box::new(move || {
                let mut state = lock(&shared);
                state.durable = state.durable.max(last);
                state.evict();
                drop(state);
                done();
            })),
        );
        Ok(())
    }

    /// Takes the entries from `index` on away, and returns when that is durable.
    pub(crate) async fn truncate(&self, index: u64) -> Result<(), Damage> {
        let before = match index.checked_sub(1) {
            Some(before) if lock(&self.state).purged.is_none_or(|purged| purged.index < before) => {
                self.fetch(before, index, 1).await?.first().map(|entry| entry.id)
            }
            _ => None,
        };
        let durable = {
            let mut state = lock(&self.state);
            while state.cache.back().is_some_and(|entry| entry.id.index >= index) {
                let weight = state.cache.pop_back().map_or(0, |entry| entry.weight());
                state.cache_bytes -= weight;
            }
            state.last = before.or(state.purged);
            state.durable = state.durable.min(index.saturating_sub(1));
            self.durable(Record::Truncate(index))
        };
        Ok(durable.await?)
    }

    /// Lets entries up to `id` go; segments that have no others are deleted when that is durable. The log may end before `id`, when
    /// a snapshot took its place.
    pub(crate) async fn purge(&self, id: EntryId) -> io::Result<()> {
        let durable = {
            let mut state = lock(&self.state);
            while state.cache.front().is_some_and(|entry| entry.id.index <= id.index) {
                let weight = state.cache.pop_front().map_or(0, |entry| entry.weight());
                state.cache_bytes -= weight;
            }
            state.purged = state.purged.max(Some(id));
            if state.last.is_none_or(|last| last.index <= id.index) {
                state.last = Some(id);
                state.durable = state.durable.max(id.index);
            }
            self.durable(Record::Purge(id))
        };
        durable.await
    }

    /// Entries from `from` to `to`, which is not read; fewer where they take more than `max` bytes or the log has no more, but at least
    /// one when there is one. The disk is read on a thread of its own.
    pub(crate) async fn fetch(&self, from: u64, to: u64, max: usize) -> Result<Vec<Entry>, Damage> {
        let (file, offset, range) = match self.find(from, to, max)? {
            Found::Entries(entries) => return Ok(entries),
            Found::Place(file, offset, range) => (file, offset, range),
        };
        let id = self.id;
        let read = move || places::read(&file, id, offset, range, max.max(1));
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Entries that are in memory, or where they are.
    fn find(&self, from: u64, to: u64, max: usize) -> Result<Found, Damage> {
        let (from, to) = {
            let state = lock(&self.state);
            let first = state.purged.map_or(0, |purged| purged.index + 1);
            let end = state.last.map_or(0, |last| last.index + 1);
            let (from, to) = (from.max(first), to.min(end));
            if from >= to {
                return Ok(Found::Entries(Vec::new()));
            }
            if let Some(cached) = state.cache.front().filter(|entry| entry.id.index <= from) {
                let skip = usize::try_from(from - cached.id.index).unwrap_or(usize::MAX);
                let count = usize::try_from(to - from).unwrap_or(usize::MAX);
                let mut bytes = 0;
                let within = |entry: &&Entry| {
                    let fits = bytes < max || bytes == 0;
                    bytes += entry.weight();
                    fits
                };
                let entries = state.cache.iter().skip(skip).take(count).take_while(within).cloned();
                return Ok(Found::Entries(entries.collect()));
            }
            (from, state.cache.front().map_or(to, |entry| to.min(entry.id.index)))
        };
        let Some((file, offset, end)) = lock(&self.places).find(from)? else {
            return Err(Damage::Hole { wanted: from, found: 0 });
        };
        Ok(Found::Place(file, offset, (from, to.min(end))))
    }

    /// Returns when `record` is durable. It is in the log's order at once.
    fn durable(&self, record: Record) -> impl Future<Output = io::Result<()>> + use<> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.writer.push(
            &[record],
            Some(Box::new(move || {
                // Who waited for it may be gone.
                let _ = sender.send(());
            })),
        );
        async { receiver.await.map_err(|_| io::Error::other("the log's thread ended")) }
    }
}

impl State {
    /// Entries that are on disk leave the memory beyond its limit.
    fn evict(&mut self) {
        while self.cache_bytes > CACHE_BYTES
            && self.cache.front().is_some_and(|entry| entry.id.index <= self.durable)
        {
            self.cache_bytes -= self.cache.pop_front().map_or(0, |entry| entry.weight());
        }
    }

    /// Applies a record that was read at start. `first` is the first entry that was found: what stands before it may be gone with its
    /// segments, by a purge whose record comes later.
    fn replay(
        &mut self,
        record: &Record,
        last_ids: &mut VecDeque<EntryId>,
        first: &mut Option<u64>,
    ) -> Result<(), Damage> {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(id) => {
                self.committed = Some(*id);
                // What is committed is never truncated: earlier ids need not be known any more.
                while last_ids.front().is_some_and(|front| front.index < id.index) && last_ids.len() > 1 {
                    last_ids.pop_front();
                }
            }
            Record::Purge(id) => {
                self.purged = self.purged.max(Some(*id));
                if self.last.is_none_or(|last| last.index <= id.index) {
                    self.last = Some(*id);
                    last_ids.clear();
                }
            }
            Record::Truncate(index) => {
                while last_ids.back().is_some_and(|id| id.index >= *index) {
                    last_ids.pop_back();
                }
                self.last = last_ids.back().copied().or(self.purged);
            }
            Record::Entry(entry) => {
                // A segment repeats at its start what was purged when its first group was gathered.
                if self.purged.is_some_and(|purged| entry.id.index <= purged.index) {
                    return Ok(());
                }
                let is_first = first.is_none();
                first.get_or_insert(entry.id.index);
                match self.last {
                    Some(last) if !is_first && entry.id.index != last.index + 1 => {
                        return Err(Damage::Hole { wanted: last.index + 1, found: entry.id.index });
                    }
                    _ => self.last = Some(entry.id),
                }
                last_ids.push_back(entry.id);
            }
        }
        Ok(())
    }
}

/// The id of the log in `folder`, which is made with `fresh_id` when there is none. The first segment is there before the id is:
/// an id without a segment has lost its vote and its entries, and must not go on.
fn identity(folder: &Path, fresh_id: u64, maker: &mut Maker) -> Result<u64, Damage> {
    let path = folder.join(IDENTITY);
    let lost = |text: &str| {
        let text = format!("{text}: replace this slot's disk, the replica joins anew");
        Damage::from(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let segments = segment::list(folder)?;
    match File::open(&path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            Read::take(&mut file, 64).read_to_end(&mut bytes)?;
            let wrong = || lost("the file `identity` is damaged");
            let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(wrong)?;
            let id = body.strip_prefix(IDENTITY_MAGIC).and_then(|id| id.try_into().ok()).ok_or_else(wrong)?;
            if crc32c::crc32c(body).to_le_bytes() != *crc {
                return Err(wrong());
            }
            if segments.is_empty() {
                return Err(lost("the log has an identity, and its segments are gone"));
            }
            Ok(u64::from_le_bytes(id))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for number in segments {
                if !segment::is_unused(folder, number)? {
                    return Err(lost("the log has segments, and its file `identity` is gone"));
                }
                // The start before was broken off between the two.
                fs::remove_file(segment::path(folder, number))?;
            }
            maker.make(FIRST_GROUP)?;
            let mut bytes = IDENTITY_MAGIC.to_vec();
            bytes.extend_from_slice(&fresh_id.to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            let new = folder.join("identity.new");
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(new, path)?;
            segment::sync_folder(folder)?;
            Ok(fresh_id)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads all segments.
fn recover(folder: &Path, id: u64, maker: &Maker) -> Result<Recovered, Damage> {
    let mut state = State::default();
    let mut places = Places::new(folder);
    let mut standing = Standing::default();
    let mut last_ids = VecDeque::new();
    let mut first = None;
    let mut next = None;
    let mut last = None;
    let numbers = segment::list(folder)?;
    for (at, number) in numbers.iter().enumerate() {
        let wanted = *next.get_or_insert(*number);
        if wanted != *number {
            return Err(Damage::Gap { wanted, found: *number });
        }
        let file = File::open(segment::path(folder, *number))?;
        let len = file.metadata()?.len();
        places.begin(*number);
        let scan = group::scan(&file, id, len, *number, |offset, group| {
            let mut contents = Contents::default();
            for record in group.records()? {
                state.replay(&record, &mut last_ids, &mut first)?;
                contents.note(&record);
                standing.note(&record);
            }
            places.add(offset, group.size, contents);
            Ok(())
        })?;
        if scan.torn {
            if let Some(later) = numbers.get(at + 1) {
                return Err(Damage::Middle { number: scan.next, offset: scan.end, good: *later });
            }
            crate::report!(
                "the log ends with a torn group {} at byte {}: cut off, it was never acknowledged",
                scan.next,
                scan.end
            );
            maker.cut(*number, scan.end)?;
        }
        next = Some(scan.next);
        last = Some((*number, scan.end));
    }
    let wanted = state.purged.map_or(0, |purged| purged.index + 1);
    if let Some(found) = first.filter(|found| *found > wanted) {
        return Err(Damage::Hole { wanted, found });
    }
    // Deleting what was purged may have been interrupted.
    if let Some(purged) = state.purged {
        for number in places.purge(purged.index) {
            fs::remove_file(segment::path(folder, number))?;
        }
    }
    state.durable = state.last.map_or(0, |last| last.index);
    Ok(Recovered { state, places, position: Position { last, next: next.unwrap_or(FIRST_GROUP), standing } })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
