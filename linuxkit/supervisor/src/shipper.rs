//! Reads the journals and hands out what the host does not have yet. Holds no more than places in files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use i2kit_spec::control::{LOG_WINDOW, LogHead, Message};

use crate::journal::{FOLDER, GUEST, segment};

/// How much is read at once of one container, so that containers take turns.
const CHUNK: usize = Message::LINES;

/// The host's progress through the journals.
#[derive(Debug, Default)]
pub(crate) struct Shipper {
    /// By folder.
    places: BTreeMap<String, Place>,
    /// Bytes that were handed out and that the host has not acknowledged.
    under_way: usize,
    /// The folder that was served last.
    last: String,
}

/// Where the host is in one journal.
#[derive(Debug, Default)]
struct Place {
    /// The number of the next line.
    next: u64,
    file: Option<Segment>,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    run: u64,
    file: File,
}

impl Shipper {
    /// Begins after the lines that the host keeps, which it names by their times.
    pub(crate) fn begin(&mut self, logged: &BTreeMap<String, String>) {
        self.under_way = 0;
        self.places = folders()
            .into_iter()
            .map(|folder| {
                let name = if folder == GUEST { "" } else { &folder };
                let next = logged.get(name).map_or(0, |time| line_after(&folder, time));
                (folder, Place { next, file: None })
            })
            .collect();
    }

    /// The host took that many bytes.
    pub(crate) fn taken(&mut self, bytes: u64) {
        self.under_way = self.under_way.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// The next lines that the host is to get, of the containers in turn.
    pub(crate) fn next(&mut self) -> Option<Message> {
        if self.under_way >= LOG_WINDOW {
            return None;
        }
        let after = self.places.keys().filter(|folder| **folder > self.last);
        let order: Vec<String> =
            after.chain(self.places.keys().filter(|f| **f <= self.last)).cloned().collect();
        for folder in order {
            let place = self.places.get_mut(&folder)?;
            if let Some((head, lines)) = place.read(&folder) {
                self.under_way += lines.len();
                self.last = folder;
                return Some(Message::Log { head, lines });
            }
        }
        None
    }
}

impl Place {
    fn read(&mut self, folder: &str) -> Option<(LogHead, Vec<u8>)> {
        loop {
            if let Some(segment) = &mut self.file
                && let Some(lines) = whole_lines(&mut segment.file)
            {
                let container = if folder == GUEST { "" } else { folder };
                let head =
                    LogHead { container: container.into(), run: segment.run, first: self.next, dropped: 0 };
                self.next += count(&lines);
                return Some((head, lines));
            }
            // The end of this file; another one may have been begun.
            let current = self.file.as_ref().map(|segment| segment.first);
            let segments = segments(folder);
            let following = segments
                .iter()
                .rev()
                .find(|(first, _)| *first <= self.next && current.is_none_or(|current| *first > current))
                .or_else(|| segments.iter().find(|(first, _)| *first > self.next))?;
            let (first, run) = *following;
            let mut file = File::open(segment(folder, first, run)).ok()?;
            if first < self.next {
                skip_lines(&mut file, self.next - first)?;
            }
            let dropped = first.saturating_sub(self.next);
            self.next = self.next.max(first);
            self.file = Some(Segment { first, run, file });
            if dropped > 0
                && let Some(segment) = &mut self.file
                && let Some(lines) = whole_lines(&mut segment.file)
            {
                let container = if folder == GUEST { "" } else { folder };
                let head = LogHead { container: container.into(), run, first, dropped };
                self.next += count(&lines);
                return Some((head, lines));
            }
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.split(|byte| *byte == b'\n').count() as u64 - 1
}

fn folders() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// First line and run of each file, in order.
fn segments(folder: &str) -> Vec<(u64, u64)> {
    let entries =
        fs::read_dir(PathBuf::from(FOLDER).join(folder)).into_iter().flatten().filter_map(Result::ok);
    let parse = |name: &str| {
        let (first, run) = name.split_once('.')?;
        Some((first.parse().ok()?, run.parse().ok()?))
    };
    let mut segments: Vec<(u64, u64)> =
        entries.filter_map(|entry| parse(entry.file_name().to_str()?)).collect();
    segments.sort_unstable();
    segments
}

/// The whole lines that come next, up to a chunk of them.
fn whole_lines(file: &mut File) -> Option<Vec<u8>> {
    let mut lines = vec![0; CHUNK];
    let length = file.read(&mut lines).ok()?;
    let end = lines[..length].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let back = i64::try_from(length - end).expect("a chunk is small");
    file.seek(SeekFrom::Current(-back)).ok()?;
    lines.truncate(end);
    (!lines.is_empty()).then_some(lines)
}

fn skip_lines(file: &mut File, mut lines: u64) -> Option<()> {
    while lines > 0 {
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk).ok().filter(|length| *length > 0)?;
        let mut ends = chunk[..length].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let end = ends.by_ref().take(usize::try_from(lines).unwrap_or(usize::MAX)).last();
        let found = count(&chunk[..end.map_or(0, |(at, _)| at + 1)]);
        lines -= found;
        if lines == 0 {
            let used = end.map_or(0, |(at, _)| at + 1);
            let back = i64::try_from(length - used).expect("a chunk is small");
            file.seek(SeekFrom::Current(-back)).ok()?;
        }
    }
    Some(())
}

/// The number of the first line whose time is after this one.
fn line_after(folder: &str, time: &str) -> u64 {
    let mut next = 0;
    for (first, run) in segments(folder) {
        let Ok(bytes) = fs::read(segment(folder, first, run)) else { continue };
        for (number, line) in (first..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            let found = line.split(|byte| *byte == b' ').next().unwrap_or_default();
            if found > time.as_bytes() {
                return number;
            }
            next = number + 1;
        }
    }
    next
}
