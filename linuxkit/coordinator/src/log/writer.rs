//! The thread that writes the log: whatever gathered while it wrote becomes the next group. A group follows only a durable one, and an
//! acknowledged block is never written again.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;
use std::{fs, io};

use bytes::BytesMut;

use super::group;
use super::places::{Contents, Places};
use super::record::{EntryId, Record, Vote};
use super::segment::{self, Maker};
use crate::lock::lock;
use crate::metrics::Metrics;

/// Called when all records of a push are durable.
pub(crate) type Done = Box<dyn FnOnce() + Send>;

/// A buffer that a large group needed is given back beyond this.
const KEPT_BUFFER: usize = 1 << 20;

/// Records of one group take at most this, unless one alone takes more: what gathered while the disk was slow becomes several
/// groups, each of which can be read again within bounds.
const MAX_GATHERED: usize = 8 << 20;

/// What the first group of a segment repeats, so that older segments can go.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Standing {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
}

impl Standing {
    /// Notes a record.
    pub(super) fn note(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Purge(id) => self.purged = self.purged.max(Some(*id)),
            Record::Committed(id) => self.committed = Some(*id),
            Record::Entry(_) | Record::Truncate(_) => {}
        }
    }

    fn encode(&self) -> (BytesMut, u32) {
        let mut out = BytesMut::new();
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purge);
        let committed = self.committed.map(Record::Committed);
        let mut count = 0;
        for record in [vote, purged, committed].into_iter().flatten() {
            record.encode(&mut out);
            count += 1;
        }
        (out, count)
    }
}

/// What waits for one group.
#[derive(Default)]
struct Gathered {
    records: BytesMut,
    count: u32,
    contents: Contents,
    /// What stands behind it.
    standing: Standing,
    done: Vec<Done>,
}

/// What waits for the thread.
#[derive(Default)]
struct Waiting {
    /// The next groups. All but the last are full.
    groups: VecDeque<Gathered>,
    /// What stands behind the last of them.
    standing: Standing,
    /// Bytes of records that are not durable yet, those that are just written among them.
    pending: usize,
    /// A buffer for the next group.
    spare: BytesMut,
    ends: bool,
}

impl Waiting {
    /// The group that takes a record next.
    fn last(&mut self) -> &mut Gathered {
        if self.groups.back().is_none_or(|group| group.records.len() >= MAX_GATHERED) {
            let records = std::mem::take(&mut self.spare);
            self.groups.push_back(Gathered { records, standing: self.standing, ..Gathered::default() });
        }
        let last = self.groups.len() - 1;
        &mut self.groups[last]
    }

    /// Takes a record.
    fn take(&mut self, record: &Record) {
        let mut standing = self.standing;
        standing.note(record);
        self.standing = standing;
        let group = self.last();
        let before = group.records.len();
        record.encode(&mut group.records);
        let mut added = group.records.len() - before;
        // A record that is too long beside others begins a group of its own.
        if before > 0 && group.records.len() > MAX_GATHERED {
            let records = group.records.split_off(before);
            added = records.len();
            self.groups.push_back(Gathered { records, ..Gathered::default() });
        }
        let last = self.groups.len() - 1;
        let group = &mut self.groups[last];
        group.contents.note(record);
        group.standing = standing;
        group.count += 1;
        self.pending += added;
    }
}

/// Hands records to the thread. It ends when this is dropped.
pub(super) struct Writer {
    shared: Arc<(Mutex<Waiting>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Where the thread is.
pub(super) struct Position {
    /// The last segment and how far it is filled; none in a new log.
    pub(super) last: Option<(u64, u64)>,
    /// The number of the next group.
    pub(super) next: u64,
    /// What stands at that point.
    pub(super) standing: Standing,
}

/// The thread's own.
struct Thread {
    folder: PathBuf,
    id: u64,
    segment_bytes: u64,
    maker: Maker,
    file: Option<(File, bool)>,
    offset: u64,
    next: u64,
    /// What stands after the group that was written last.
    standing: Standing,
    places: Arc<Mutex<Places>>,
    metrics: Arc<Metrics>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        (folder, id, segment_bytes): (PathBuf, u64, u64),
        maker: Maker,
        position: &Position,
        places: Arc<Mutex<Places>>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let file = position.last.map(|(number, _)| maker.open(number)).transpose()?;
        let offset = position.last.map_or(0, |last| last.1);
        let standing = position.standing;
        let shared = Arc::new((Mutex::new(Waiting { standing, ..Waiting::default() }), Condvar::new()));
        let next = position.next;
        let buffer = Vec::new();
        let mut thread = Thread {
            folder,
            id,
            segment_bytes,
            maker,
            file,
            offset,
            next,
            standing,
            places,
            metrics,
            buffer,
        };
        let waiting = shared.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || thread.run(&waiting))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Adds records to the next group. Without `done` they wait for the next push that has one.
    pub(super) fn push(&self, records: &[Record], done: Option<Done>) {
        let (mutex, condition) = &*self.shared;
        let mut waiting = lock(mutex);
        for record in records {
            waiting.take(record);
        }
        let wakes = done.is_some();
        if wakes {
            waiting.last().done.extend(done);
        }
        drop(waiting);
        if wakes {
            condition.notify_one();
        }
    }

    /// Bytes of records that are not durable yet.
    pub(super) fn pending(&self) -> usize {
        lock(&self.shared.0).pending
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.0).ends = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Thread {
    fn run(&mut self, shared: &(Mutex<Waiting>, Condvar)) {
        loop {
            let mut waiting = lock(&shared.0);
            while waiting.groups.iter().all(|group| group.done.is_empty()) && !waiting.ends {
                waiting = shared.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(group) = waiting.groups.pop_front() else { return };
            drop(waiting);
            if let Err(error) = self.write(&group) {
                fail(&error);
            }
            self.standing = group.standing;
            let mut records = group.records;
            let mut waiting = lock(&shared.0);
            waiting.pending = waiting.pending.saturating_sub(records.len());
            if records.capacity() <= KEPT_BUFFER {
                records.clear();
                waiting.spare = records;
            }
            drop(waiting);
            group.done.into_iter().for_each(|done| done());
        }
    }

    /// Writes one group and, where it takes entries away for good, the segments that are not needed any more.
    fn write(&mut self, group: &Gathered) -> io::Result<()> {
        let begun = Instant::now();
        let mut size = group::size(group.records.len());
        let mut repeated = (BytesMut::new(), 0);
        if self.file.is_none() || (self.offset > 0 && self.offset + size as u64 > self.segment_bytes) {
            repeated = self.standing.encode();
            size = group::size(group.records.len() + repeated.0.len());
            self.file = Some(self.maker.make(self.next)?);
            self.offset = 0;
            lock(&self.places).begin(self.next);
        }
        if group.records.len() + repeated.0.len() > group::MAX_GROUP {
            // It could not be read again: it must not be acknowledged.
            return Err(io::Error::other(format!(
                "a group of {size} bytes is longer than the format allows"
            )));
        }
        let Some((file, durable)) = &self.file else {
            return Err(io::Error::other("the log has no segment"));
        };
        if self.buffer.len() < size + group::BLOCK {
            self.buffer = vec![0; (size + group::BLOCK).next_power_of_two()];
        }
        let start = self.buffer.as_ptr().align_offset(group::BLOCK);
        let out = &mut self.buffer[start..start + size];
        group::write(out, self.id, self.next, group.count + repeated.1, [&repeated.0, &group.records]);
        file.write_all_at(out, self.offset)?;
        if !durable {
            file.sync_data()?;
        }
        let mut places = lock(&self.places);
        places.add(self.offset, size as u64, group.contents);
        let purged = group.standing.purged.filter(|purged| Some(*purged) != self.standing.purged);
        let gone = purged.map_or_else(Vec::new, |purged| places.purge(purged.index));
        drop(places);
        self.next += 1;
        self.offset += size as u64;
        if self.buffer.len() > KEPT_BUFFER * 2 {
            self.buffer = Vec::new();
        }
        if self.offset > self.segment_bytes / 2 {
            self.maker.prepare_ahead()?;
        }
        self.metrics.synced(begun.elapsed());
        for number in gone {
            fs::remove_file(segment::path(&self.folder, number))?;
        }
        Ok(())
    }
}

/// Ends the process. After a write or a sync that failed the kernel may have dropped the pages, so that nothing may be
/// acknowledged any more, and no destructor may run that could.
fn fail(error: &io::Error) -> ! {
    crate::report!("the log cannot be written: {error}; the replica ends. Look at the disk of its claim");
    std::process::abort()
}
