//! A position in the journal of one container: reads line after line, over parts of lines, files that are moved
//! aside, and runs.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::journal;

/// The longest line that is put together from its parts, of 16 KiB each. A longer one is returned in pieces: it may
/// have no end.
pub(super) const LINE_BYTES: usize = 256 * 1024;

/// The longest line of a file, which is a part of a container's line.
const PART_BYTES: usize = 128 * 1024;

/// How much of a file is read at once from its end.
pub(super) const BLOCK: usize = 64 * 1024;

/// How many bytes at a line's beginning show whether it is a whole one.
const HEAD: usize = 64;

/// A position in the files of one container.
#[derive(Debug)]
pub(super) struct Cursor {
    folder: PathBuf,
    /// The only run to read; all of them without.
    run: Option<u64>,
    place: Option<Place>,
    /// The beginning of a line whose end is not in the file yet.
    rest: Vec<u8>,
    /// Beginnings of long lines, of standard output and standard error.
    pub(super) parts: [String; 2],
    /// The next line, as its time and text.
    pub(super) next: Option<(String, String)>,
    /// Whether there was nothing more at the last attempt.
    pub(super) idle: bool,
}

/// A position in a file. The file is identified by its inode: it is moved aside while it is read.
#[derive(Debug)]
struct Place {
    run: u64,
    inode: u64,
    file: BufReader<File>,
}

impl Cursor {
    /// The beginning of the files in `folder`, or of those of one run.
    pub(super) fn new(folder: PathBuf, run: Option<u64>) -> Self {
        Self {
            folder,
            run,
            place: None,
            rest: Vec::new(),
            parts: Default::default(),
            next: None,
            idle: false,
        }
    }

    /// Moves to a place from which there are at least `count` lines, if the container has as many, and not many more.
    pub(super) fn seek_tail(&mut self, count: usize) {
        self.place = self.near_end(count);
    }

    /// Reads the next line, if there is none and there may be more.
    pub(super) fn advance(&mut self) {
        if self.next.is_none() && !self.idle {
            // A file that cannot be read any more belongs to a run that was removed.
            self.next = self.read().unwrap_or_default();
            self.idle = self.next.is_none();
        }
    }

    fn read(&mut self) -> io::Result<Option<(String, String)>> {
        loop {
            if let Some(line) = self.line()? {
                let line = String::from_utf8_lossy(&line);
                let mut words = line.trim_end_matches('\n').splitn(4, ' ');
                let (Some(time), Some(stream), Some(tag)) = (words.next(), words.next(), words.next()) else {
                    continue;
                };
                let part = &mut self.parts[usize::from(stream == "stderr")];
                part.push_str(words.next().unwrap_or_default());
                if tag != "P" || part.len() >= LINE_BYTES {
                    let text = std::mem::take(part).trim_end_matches('\r').to_owned();
                    return Ok(Some((time.to_owned(), text)));
                }
            } else if !self.next_file()? {
                return Ok(None);
            }
        }
    }

    /// The next whole line of the file.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(place) = &mut self.place else { return Ok(None) };
        loop {
            let room = PART_BYTES.saturating_sub(self.rest.len()) as u64;
            place.file.by_ref().take(room).read_until(b'\n', &mut self.rest)?;
            if self.rest.ends_with(b"\n") {
                return Ok(Some(std::mem::take(&mut self.rest)));
            }
            if self.rest.len() < PART_BYTES {
                return Ok(None);
            }
            // Longer than the journal writes.
            self.rest.clear();
        }
    }

    /// Moves to the next file, when there is one and this one has nothing more. Whether there is something to read.
    fn next_file(&mut self) -> io::Result<bool> {
        let Some((run, path)) = self.following() else { return Ok(false) };
        // What was written to this file before the next one was begun is there by now.
        if let Some(place) = &mut self.place
            && !place.file.fill_buf()?.is_empty()
        {
            return Ok(true);
        }
        self.rest.clear();
        self.place = Some(Place::open(run, &path, 0)?);
        Ok(true)
    }

    fn file(&self, run: u64, aside: bool) -> PathBuf {
        self.folder.join(if aside { format!("{run}.log.1") } else { format!("{run}.log") })
    }

    /// The file after the present one, with its run.
    fn following(&self) -> Option<(u64, PathBuf)> {
        let first = |run| {
            let aside = self.file(run, true);
            (run, if aside.exists() { aside } else { self.file(run, false) })
        };
        let Some(Place { run, inode, .. }) = &self.place else {
            let run = self.run.or_else(|| journal::runs(&self.folder).first().copied());
            return run.map(first).filter(|(_, path)| path.exists());
        };
        let (aside, current) = (self.file(*run, true), self.file(*run, false));
        let is = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.ino());
        let (is_aside, is_current) = (is(&aside), is(&current));
        if is_current != Some(*inode) {
            // Moved aside, or moved aside and away.
            if is_aside.is_some() && is_aside != Some(*inode) {
                return Some((*run, aside));
            }
            if is_current.is_some() {
                return Some((*run, current));
            }
        }
        if self.run.is_some() {
            return None;
        }
        journal::runs(&self.folder).into_iter().find(|next| next > run).map(first)
    }

    fn near_end(&self, count: usize) -> Option<Place> {
        let runs = self.run.map_or_else(|| journal::runs(&self.folder), |run| vec![run]);
        let files = runs.into_iter().flat_map(|run| [true, false].map(|aside| (run, self.file(run, aside))));
        let mut missing = count;
        let mut first = None;
        for (run, path) in files.rev() {
            let Ok(mut file) = File::open(&path) else { continue };
            let Ok((start, found)) = tail_start(&mut file, missing) else { continue };
            first = Place::open(run, &path, start).ok().or(first);
            missing -= found.min(missing);
            if missing == 0 {
                break;
            }
        }
        first
    }
}

impl Place {
    fn open(run: u64, path: &Path, start: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let inode = file.metadata()?.ino();
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { run, inode, file: BufReader::with_capacity(BLOCK, file) })
    }
}

/// Where the last `count` lines of a file begin, with the parts of the first one, and how many lines there are behind
/// that place. Reads no more of the file than that.
fn tail_start(file: &mut File, count: usize) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    let is_whole = |line: &[u8]| {
        line.get(..HEAD.min(line.len()))
            .is_some_and(|head| head.split(|byte| *byte == b' ').nth(2) == Some(b"F"))
    };
    let (mut end, mut later, mut found) = (length, length, 0);
    // What is behind a line feed, as far as it tells something of the line that begins there.
    let mut behind = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let size = usize::try_from(end - start).map_err(io::Error::other)?;
        let mut block = vec![0; size];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.extend(behind);
        let ends = (0..size).rev().filter(|at| block[*at] == b'\n').map(|at| at + 1);
        for line in ends.chain((start == 0).then_some(0)) {
            if is_whole(&block[line..]) {
                if found == count {
                    return Ok((later, found));
                }
                found += 1;
            }
            later = start + line as u64;
        }
        block.truncate(HEAD);
        behind = block;
        end = start;
    }
    Ok((0, found))
}
