//! Where entries are in the segments: a sparse index, and reading by it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::group::{self, Damage};
use super::record::{Entry, Record};
use super::segment;

/// Between two places that the index knows lie at most about as many bytes of a segment.
const STRIDE: u64 = 256 << 10;

/// The entries of one group, as far as the index needs them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contents {
    /// The first index from which on the group takes entries away.
    pub(super) truncated: Option<u64>,
    /// The first entry that it adds.
    pub(super) first: Option<u64>,
    /// The last.
    pub(super) last: Option<u64>,
}

impl Contents {
    /// Notes a record.
    pub(super) fn note(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.first.get_or_insert(entry.id.index);
                self.last = Some(entry.id.index);
            }
            Record::Truncate(index) => {
                self.truncated = Some(self.truncated.map_or(*index, |earlier| earlier.min(*index)));
                self.first = self.first.filter(|first| first < index);
            }
            Record::Vote(_) | Record::Purge(_) | Record::Committed(_) => {}
        }
    }
}

/// A segment that is kept.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Number of its first group.
    number: u64,
    /// Highest index that it has or had.
    last: u64,
    /// Bytes that its groups take.
    bytes: u64,
}

/// The sparse index.
#[derive(Debug)]
pub(super) struct Places {
    folder: PathBuf,
    segments: VecDeque<Segment>,
    /// Index of an entry to the segment and the place of the group that has it. The group has the entry's last version, and so have
    /// the groups behind it up to the next mark.
    marks: BTreeMap<u64, (u64, u64)>,
    /// Whether the next group with entries gets a mark.
    forced: bool,
    /// The file that was read last.
    open: Option<(u64, Arc<File>)>,
}

impl Places {
    /// An index of nothing.
    pub(super) fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder, segments: VecDeque::new(), marks: BTreeMap::new(), forced: true, open: None }
    }

    /// A segment begins.
    pub(super) fn begin(&mut self, number: u64) {
        self.segments.push_back(Segment { number, last: 0, bytes: 0 });
        self.forced = true;
    }

    /// A group is written at `offset` of the last segment.
    pub(super) fn add(&mut self, offset: u64, size: u64, contents: Contents) {
        let Some(segment) = self.segments.back_mut() else { return };
        segment.bytes = offset + size;
        segment.last = segment.last.max(contents.last.unwrap_or(0));
        if let Some(index) = contents.truncated {
            self.marks.split_off(&index);
            self.forced = true;
        }
        let Some(first) = contents.first else { return };
        let far = self.marks.last_key_value().is_none_or(|(_, place)| offset >= place.1 + STRIDE);
        if self.forced || far {
            self.marks.insert(first, (segment.number, offset));
            self.forced = false;
        }
    }

    /// Bytes of all groups.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The last entry that may go when the groups behind it are to take at most about `most` bytes.
    pub(super) fn beyond(&self, most: u64) -> u64 {
        let mut bytes = self.bytes();
        let mut last = 0;
        for segment in self.segments.iter().take(self.segments.len().saturating_sub(1)) {
            if bytes <= most {
                break;
            }
            bytes -= segment.bytes;
            last = last.max(segment.last);
        }
        last
    }

    /// About how many bytes the groups take that have entries behind `index`.
    pub(super) fn bytes_after(&self, index: u64) -> u64 {
        let Some((_, &(number, offset))) = self.marks.range(..=index).next_back() else {
            return self.bytes();
        };
        let later = self.segments.iter().filter(|segment| segment.number >= number);
        later.map(|segment| segment.bytes).sum::<u64>().saturating_sub(offset)
    }

    /// Takes the segments out that have entries up to `index` alone, but for the last.
    pub(super) fn purge(&mut self, index: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.segments.len() > 1 && self.segments[0].last <= index {
            gone.extend(self.segments.pop_front().map(|segment| segment.number));
        }
        if let Some(first) = self.segments.front().map(|segment| segment.number) {
            self.marks.retain(|_, place| place.0 >= first);
        }
        gone
    }

    /// What has to be read for entries from `from` on: the file, the place, and the index before which it ends.
    pub(super) fn find(&mut self, from: u64) -> io::Result<Option<(Arc<File>, u64, u64)>> {
        let Some((_, &(number, offset))) = self.marks.range(..=from).next_back() else { return Ok(None) };
        let end = self.marks.range(from + 1..).next().map_or(u64::MAX, |(index, _)| *index);
        let file = match &self.open {
            Some((open, file)) if *open == number => file.clone(),
            _ => Arc::new(File::open(segment::path(&self.folder, number))?),
        };
        self.open = Some((number, file.clone()));
        Ok(Some((file, offset, end)))
    }
}

/// How many of `entries` take `max` bytes together, one at least; none while all of them take less.
fn within(entries: &[Entry], max: usize) -> Option<usize> {
    let mut bytes = 0;
    for (at, entry) in entries.iter().enumerate() {
        bytes += entry.weight();
        if bytes >= max {
            // What goes beyond is left out, unless it is all there is.
            return Some(if bytes > max { at.max(1) } else { at + 1 });
        }
    }
    None
}

/// Reads the entries from `from` to `to`, which is not read, out of the groups at `offset`: at most `max` bytes of them, and one
/// at least.
pub(super) fn read(
    file: &File,
    id: u64,
    mut offset: u64,
    (from, to): (u64, u64),
    max: usize,
) -> Result<Vec<Entry>, Damage> {
    let mut found: Vec<Entry> = Vec::new();
    while from + (found.len() as u64) < to {
        let wanted = from + found.len() as u64;
        let Some(group) = group::read(file, id, offset)? else {
            return Err(Damage::Hole { wanted, found: 0 });
        };
        offset += group.size;
        for record in group.records()? {
            match record {
                Record::Entry(entry) if entry.id.index >= from && entry.id.index < to => {
                    let at = usize::try_from(entry.id.index - from).unwrap_or(usize::MAX);
                    if at > found.len() {
                        return Err(Damage::Hole {
                            wanted: from + found.len() as u64,
                            found: entry.id.index,
                        });
                    }
                    // In one group a later version takes an earlier one's place.
                    found.truncate(at);
                    found.push(entry);
                }
                Record::Truncate(index) => {
                    found.truncate(usize::try_from(index.saturating_sub(from)).unwrap_or(usize::MAX));
                }
                _ => {}
            }
        }
        // The last group may have had more than was asked for.
        if let Some(count) = within(&found, max) {
            found.truncate(count);
            break;
        }
    }
    Ok(found)
}
