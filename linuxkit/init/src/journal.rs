//! The journals: the containers' lines, kept in files until the host has them.
//!
//! Each container has a bounded number of files in a folder of its own, named by the number of their first line and the
//! run that they belong to. Their lines have the form of Kubernetes' container logs, `TIME STREAM TAG TEXT`, and the
//! times of a container only grow, so that a line's time names it. The supervisor reads the files and ships them; when
//! nobody does, the oldest file goes. Whoever writes never waits.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use i2kit_supervisor::journal::{FOLDER, GUEST};
use rustix::event::EventfdFlags;
use rustix::time::{ClockId, clock_gettime};

/// How much is kept of each container, as long as there are few.
const CONTAINER_BYTES: u64 = 1 << 20;

/// How much is kept of all containers together.
const TOTAL_BYTES: u64 = 8 << 20;

/// How many files that is: the oldest one goes at once.
const SEGMENTS: u64 = 4;

/// The journals of all containers.
#[derive(Debug)]
pub(crate) struct Journals {
    list: Vec<Journal>,
    /// Tells the supervisor that there is more to read. An eventfd: however often it rings, nobody waits.
    bell: OwnedFd,
    segment_bytes: u64,
}

/// The lines of one container, over all its runs.
#[derive(Debug, Default)]
struct Journal {
    folder: String,
    segments: VecDeque<Segment>,
    /// Lines that are not in a file yet.
    buffer: Vec<u8>,
    buffered: u64,
    file: Option<File>,
    /// The number of the next line.
    next: u64,
    /// The number of the first line that the host does not have.
    taken: u64,
    /// Lines that went before anybody took them.
    dropped: u64,
    clock: Clock,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    run: u64,
    bytes: u64,
}

impl Journals {
    /// Journals of these containers, all empty.
    pub(crate) fn new<'a>(containers: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let journal = |name: &str| Journal { folder: name.to_owned(), ..Journal::default() };
        let list: Vec<Journal> = [GUEST].into_iter().chain(containers).map(journal).collect();
        for journal in &list {
            fs::create_dir_all(PathBuf::from(FOLDER).join(&journal.folder))?;
        }
        let bell = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let each = CONTAINER_BYTES.min(TOTAL_BYTES / list.len().max(1) as u64);
        Ok(Self { list, bell, segment_bytes: each / SEGMENTS })
    }

    /// What rings when there is more to read.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes note of a line of a run of a container, or of the guest's own; with [`Self::flush`] it gets into a file.
    pub(crate) fn line(&mut self, name: &str, run: u64, (stream, line, whole): (&str, &[u8], bool)) {
        let segment_bytes = self.segment_bytes;
        if let Some(journal) = self.list.iter_mut().find(|journal| journal.folder == name) {
            journal.line(run, stream, line, whole);
            if journal.buffer.len() as u64 >= segment_bytes / 2 {
                journal.flush(run, segment_bytes);
            }
        }
    }

    /// Writes what was noted of a container's run.
    pub(crate) fn flush(&mut self, name: &str, run: u64) {
        let segment_bytes = self.segment_bytes;
        if let Some(journal) = self.list.iter_mut().find(|journal| journal.folder == name) {
            journal.flush(run, segment_bytes);
            // It fails when it has rung so often that nobody listens.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// The host has all lines of a container before this one, except for some that were dropped.
    pub(crate) fn taken(&mut self, container: &str, next: u64, dropped: u64) {
        let name = if container.is_empty() { GUEST } else { container };
        if let Some(journal) = self.list.iter_mut().find(|journal| journal.folder == name)
            && next > journal.taken
            && next <= journal.next
        {
            journal.taken = next;
            journal.dropped += dropped;
        }
    }

    /// Lines of a container that were dropped.
    pub(crate) fn dropped(&self, container: &str) -> u64 {
        self.list.iter().find(|journal| journal.folder == container).map_or(0, |journal| journal.dropped)
    }

    /// Whether the host has everything.
    pub(crate) fn all_taken(&self) -> bool {
        self.list.iter().all(|journal| journal.taken == journal.next)
    }
}

impl Journal {
    fn line(&mut self, run: u64, stream: &str, line: &[u8], whole: bool) {
        debug_assert!(self.segments.back().is_none_or(|segment| segment.run <= run));
        if self.buffered == 0 {
            // Lines that are read together have come together; reading the clock for each line would cost more than the line.
            self.clock.read();
        }
        self.clock.stamp(&mut self.buffer);
        let tag = if whole { " F " } else { " P " };
        for part in [b" ", stream.as_bytes(), tag.as_bytes(), line, b"\n"] {
            self.buffer.extend_from_slice(part);
        }
        self.buffered += 1;
    }

    fn flush(&mut self, run: u64, segment_bytes: u64) {
        let bytes = self.buffer.len() as u64;
        let fits = |last: &Segment| last.run == run && last.bytes + bytes <= segment_bytes;
        if self.buffered == 0 {
            return;
        }
        if self.file.is_none() || !self.segments.back().is_some_and(fits) {
            self.file = self.begin(run).ok();
        }
        // A file that cannot be written loses its lines: the number of the next file's first line shows it.
        let written = self.file.as_mut().is_some_and(|file| file.write_all(&self.buffer).is_ok());
        if !written {
            self.file = None;
        } else if let Some(last) = self.segments.back_mut() {
            last.bytes += bytes;
        }
        self.next += self.buffered;
        self.buffered = 0;
        self.buffer.clear();
    }

    fn begin(&mut self, run: u64) -> io::Result<File> {
        while self.segments.len() as u64 >= SEGMENTS {
            if let Some(oldest) = self.segments.pop_front() {
                fs::remove_file(self.path(&oldest))?;
            }
        }
        let segment = Segment { first: self.next, run, bytes: 0 };
        let file = OpenOptions::new().create(true).append(true).open(self.path(&segment))?;
        self.segments.push_back(segment);
        Ok(file)
    }

    fn path(&self, segment: &Segment) -> PathBuf {
        i2kit_supervisor::journal::segment(&self.folder, segment.first, segment.run)
    }
}

/// Writes times that only grow.
#[derive(Debug, Default)]
struct Clock {
    /// Nanoseconds since 1970, when the clock was looked at.
    now: u64,
    /// The last time written.
    last: u64,
    /// The second that `text` is about.
    second: u64,
    /// `2026-01-31T12:00:00.`
    text: String,
}

impl Clock {
    fn read(&mut self) {
        let now = clock_gettime(ClockId::Realtime);
        self.now =
            u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
    }

    fn stamp(&mut self, out: &mut Vec<u8>) {
        self.last = self.now.max(self.last + 1);
        let (second, nanoseconds) = (self.last / 1_000_000_000, self.last % 1_000_000_000);
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text = date_and_time(second);
        }
        out.extend_from_slice(self.text.as_bytes());
        let mut digits = *b"000000000Z";
        let mut rest = nanoseconds;
        for digit in digits[..9].iter_mut().rev() {
            *digit += u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

/// Seconds since 1970 as `2026-01-31T12:00:00.`, in the calendar that everybody uses.
fn date_and_time(seconds: u64) -> String {
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}.", day + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date_and_time(0), "1970-01-01T00:00:00.");
        assert_eq!(date_and_time(951_827_696), "2000-02-29T12:34:56.");
        assert_eq!(date_and_time(4_107_542_399), "2100-02-28T23:59:59.");
        assert_eq!(date_and_time(4_107_542_400), "2100-03-01T00:00:00.");
    }

    #[test]
    fn times_only_grow() {
        let mut clock = Clock::default();
        let mut stamp = |now| {
            let mut out = vec![];
            clock.now = now;
            clock.stamp(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(stamp(1_999_999_999), "1970-01-01T00:00:01.999999999Z");
        assert_eq!(stamp(5), "1970-01-01T00:00:02.000000000Z");
        assert_eq!(stamp(7_000_000_000), "1970-01-01T00:00:07.000000000Z");
    }
}
