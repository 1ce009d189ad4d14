//! What the containers of a VM wrote, read from the files that its channel keeps: what there is, and more as it comes.
//!
//! Takes memory for a line of each container at a time, however long the files are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::console;
use super::journal::{self, GUEST};
use crate::cloud::LogLine;

/// The longest line that is put together from its parts, of 16 KiB each. A longer one is handed out in pieces: it may
/// have no end.
const LINE_BYTES: usize = 256 * 1024;

/// The longest line of a file, which is a part of a container's line.
const PART_BYTES: usize = 128 * 1024;

/// How much of a file is read at once from its end.
const BLOCK: usize = 64 * 1024;

/// How much of a line's beginning tells whether it is a whole one.
const HEAD: usize = 64;

/// What a line that is handed out takes beside its text.
const LINE_OVERHEAD: usize = 64;

/// A place in the files of a VM from which lines are read.
#[derive(Debug)]
pub(crate) struct LogReader {
    folder: PathBuf,
    instance: String,
    /// Only of this container.
    container: Option<String>,
    /// Only these runs, by container.
    runs: Option<BTreeMap<String, u64>>,
    cursors: BTreeMap<String, Cursor>,
    /// How many lines are passed over before the first one that is handed out.
    skip: usize,
}

/// A place in the files of one container.
#[derive(Debug)]
struct Cursor {
    folder: PathBuf,
    run: Option<u64>,
    place: Option<Place>,
    /// The beginning of a line whose end is not in the file yet.
    rest: Vec<u8>,
    /// Beginnings of long lines, of standard output and standard error.
    parts: [String; 2],
    /// The next line, as its time and text.
    next: Option<(String, String)>,
    /// There was nothing more just now.
    idle: bool,
}

/// A place in a file. The file is known by its inode: it is moved aside while it is read.
#[derive(Debug)]
struct Place {
    run: u64,
    inode: u64,
    file: BufReader<File>,
}

/// Whether the VM's lines are in files; otherwise they are on its console.
pub(crate) fn exist(folder: &Path) -> bool {
    fs::read_dir(folder.join(journal::FOLDER)).is_ok_and(|mut entries| entries.next().is_some())
}

impl LogReader {
    /// Starts at the beginning of what is kept.
    pub(crate) fn new(folder: &Path, instance: &str) -> Self {
        Self {
            folder: folder.join(journal::FOLDER),
            instance: instance.to_owned(),
            container: None,
            runs: None,
            cursors: BTreeMap::new(),
            skip: 0,
        }
    }

    /// Only lines of this container, and of these runs.
    pub(crate) fn only(self, container: Option<String>, runs: Option<BTreeMap<String, u64>>) -> Self {
        Self { container, runs, ..self }
    }

    /// Only the last `count` lines of what there is, and what comes after them.
    pub(crate) fn tail(mut self, count: usize) -> Self {
        let mut counted = self.same();
        for name in self.names() {
            // Opened twice, since the lines are counted first.
            let cursors = [self.cursor(&name), self.cursor(&name)].map(|mut cursor| {
                cursor.place = cursor.near_end(count);
                cursor
            });
            let [cursor, to_count] = cursors;
            self.cursors.insert(name.clone(), cursor);
            counted.cursors.insert(name, to_count);
        }
        let mut lines = 0_usize;
        loop {
            match counted.more(BLOCK).len() {
                0 => break,
                more => lines += more,
            }
        }
        self.skip = lines.saturating_sub(count);
        self
    }

    fn same(&self) -> Self {
        let fresh = Self { folder: self.folder.clone(), ..Self::new(&self.folder, &self.instance) };
        fresh.only(self.container.clone(), self.runs.clone())
    }

    /// The VM.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The containers whose lines are wanted, as far as there are some.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let wanted = |name: &String| {
            self.container.as_ref().is_none_or(|container| container == name)
                && self.runs.as_ref().is_none_or(|runs| runs.contains_key(name))
        };
        names.filter(wanted).collect()
    }

    fn cursor(&self, name: &str) -> Cursor {
        let run = self.runs.as_ref().and_then(|runs| runs.get(name).copied());
        Cursor {
            folder: self.folder.join(name),
            run,
            place: None,
            rest: Vec::new(),
            parts: Default::default(),
            next: None,
            idle: false,
        }
    }

    /// Lines that come next, in the order of their times, until they have about so many bytes; none when there are no
    /// more at present.
    pub(crate) fn more(&mut self, bytes: usize) -> Vec<LogLine> {
        for name in self.names() {
            if !self.cursors.contains_key(&name) {
                let cursor = self.cursor(&name);
                self.cursors.insert(name, cursor);
            }
        }
        self.cursors.values_mut().for_each(|cursor| cursor.idle = false);
        let mut lines = Vec::new();
        let mut size = 0;
        while size < bytes {
            self.cursors.values_mut().for_each(Cursor::advance);
            let ready = self.cursors.iter_mut().filter(|(_, cursor)| cursor.next.is_some());
            let Some((name, cursor)) = ready.min_by(|(_, a), (_, b)| a.next.cmp(&b.next)) else { break };
            let Some((time, text)) = cursor.next.take() else { break };
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            size += text.len() + LINE_OVERHEAD;
            lines.push(LogLine {
                instance: self.instance.clone(),
                container: (name != GUEST).then(|| name.clone()),
                time: Some(time),
                text,
            });
        }
        lines
    }
}

impl Cursor {
    /// Reads the next line, if there is none and there may be more.
    fn advance(&mut self) {
        if self.next.is_none() && !self.idle {
            // A file that cannot be read any more belongs to a run that went.
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
            // No line of ours.
            self.rest.clear();
        }
    }

    /// Goes on with the next file, when there is one and this one has nothing more.
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

    /// A place from which there are at least `count` lines, if the container has as many, and not many more.
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

/// Where the last `count` lines of a file begin, with the parts of the first one, and how many lines there are behind that
/// place. Reads no more of the file than that.
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

/// The last lines of a VM, for the reason of a failure: those of its containers, and what the kernel said last.
pub(crate) fn tail(folder: &Path, count: usize) -> Vec<String> {
    if !exist(folder) {
        return console::tail(folder, count);
    }
    let kernel: Vec<String> = console::tail(folder, 3)
        .into_iter()
        .filter(|line| !line.starts_with(i2kit_spec::console::GUEST_PREFIX))
        .collect();
    let line = |line: LogLine| match line.container {
        Some(container) => format!("{container}{}{}", i2kit_spec::console::SEPARATOR, line.text),
        None => format!("{}{}", i2kit_spec::console::GUEST_PREFIX, line.text),
    };
    let mut reader = LogReader::new(folder, "").tail(count.saturating_sub(kernel.len()));
    let mut lines: Vec<String> = reader.more(usize::MAX).into_iter().map(line).collect();
    lines.extend(kernel);
    lines
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;

    use super::*;

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    fn time(number: u32) -> String {
        format!("2026-01-01T00:{:02}:{:02}.000000000Z", number / 60, number % 60)
    }

    fn folder(root: &Path, name: &str) -> PathBuf {
        let folder = root.join(journal::FOLDER).join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn containers_and_runs_are_in_the_order_of_time() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| folder(root.path(), name);
        fs::write(folder("web").join("0.log"), format!("{} stdout F one\n", time(1))).unwrap();
        fs::write(folder("web").join("1.log"), format!("{} stderr F three\n", time(3))).unwrap();
        fs::write(folder(GUEST).join("0.log"), format!("{} stdout F two\n", time(2))).unwrap();
        let mut reader = LogReader::new(root.path(), "web-1-a");
        let lines = reader.more(BLOCK);
        assert_eq!(lines[1].container, None);
        assert_eq!(lines[0].time, Some(time(1)));
        assert_eq!(texts(lines), ["one", "two", "three"]);

        let path = folder("web").join("1.log");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, "{} stdout P long \n{} stdout F line\n{} stdout F ha", time(4), time(5), time(6))
            .unwrap();
        assert_eq!(texts(reader.more(BLOCK)), ["long line"]);
        writeln!(file, "lf").unwrap();
        // Moved aside before it was read.
        fs::rename(&path, path.with_extension("log.1")).unwrap();
        fs::write(&path, format!("{} stdout F new\n", time(7))).unwrap();
        assert_eq!(texts(reader.more(BLOCK)), ["half", "new"]);
        assert_eq!(tail(root.path(), 2), ["web | half", "web | new"]);
        // Moved aside twice: what is between comes too.
        fs::rename(&path, path.with_extension("log.1")).unwrap();
        fs::write(&path, format!("{} stdout F newer\n", time(8))).unwrap();
        fs::write(folder("web").join("2.log"), format!("{} stdout F newest\n", time(9))).unwrap();
        assert_eq!(texts(reader.more(BLOCK)), ["newer", "newest"]);
        assert_eq!(texts(reader.more(BLOCK)), [""; 0]);
        let only = BTreeMap::from([("web".to_owned(), 1)]);
        let mut reader = LogReader::new(root.path(), "").only(None, Some(only));
        assert_eq!(texts(reader.more(BLOCK)), ["new", "newer"]);
    }

    #[test]
    fn the_last_lines_are_those_of_the_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| folder(root.path(), name);
        let names = ["a", "b", GUEST];
        let mut number = 0_u32;
        for run in 0..3 {
            for (index, name) in names.iter().enumerate() {
                for file in [format!("{run}.log.1"), format!("{run}.log")] {
                    let mut text = String::new();
                    // Lines of several lengths, some of them in parts, some of them longer than a block.
                    for _ in 0..40 {
                        number += 1;
                        let long = "x".repeat([10, 300, 3000, 17_000][number as usize % 4] * (index + 1));
                        if number.is_multiple_of(5) {
                            writeln!(text, "{} stderr P {long}", time(number)).unwrap();
                        }
                        writeln!(text, "{} stderr F {number} {long}", time(number)).unwrap();
                    }
                    fs::write(folder(name).join(file), text).unwrap();
                }
            }
        }
        let all = |mut reader: LogReader| {
            let mut lines = Vec::new();
            loop {
                let more = reader.more(1000);
                if more.is_empty() {
                    return texts(lines);
                }
                lines.extend(more);
            }
        };
        let whole = all(LogReader::new(root.path(), ""));
        assert_eq!(whole.len(), 720);
        for count in [0, 1, 2, 3, 7, 39, 40, 41, 80, 81, 200, 719, 720, 1000] {
            let last = all(LogReader::new(root.path(), "").tail(count));
            assert!(last == whole[whole.len().saturating_sub(count)..], "the last {count} lines");
        }
        let of_a = || LogReader::new(root.path(), "").only(Some("a".into()), None);
        let whole = all(of_a());
        assert!(all(of_a().tail(50)) == whole[whole.len() - 50..]);
    }

    #[test]
    fn a_line_without_end_is_handed_out_in_pieces() {
        let root = tempfile::tempdir().unwrap();
        let path = folder(root.path(), "web").join("0.log");
        let part = "A".repeat(16 * 1024);
        let mut file = File::create(&path).unwrap();
        let mut reader = LogReader::new(root.path(), "");
        let mut heard = 0;
        // 128 MiB of one line, of which never more than a piece is held.
        for number in 0..8192 {
            writeln!(file, "{} stdout P {part}", time(number % 3600)).unwrap();
            let lines = reader.more(usize::MAX);
            assert!(lines.len() <= 1 && lines.iter().all(|line| line.text.len() <= LINE_BYTES + part.len()));
            heard += lines.iter().map(|line| line.text.len()).sum::<usize>();
            let held: usize = reader.cursors["web"].parts.iter().map(String::capacity).sum();
            assert!(held <= 2 * (LINE_BYTES + part.len()), "{held} bytes are held");
            if number % 512 == 511 {
                // As its writer does.
                fs::rename(&path, path.with_extension("log.1")).unwrap();
                file = File::create(&path).unwrap();
            }
        }
        assert_eq!(heard, 8192 * part.len());
    }
}
