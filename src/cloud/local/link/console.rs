//! The consoles of machines: the container of a line, the last lines, and lines as they come.
//!
//! qemu writes the file; this side bounds it by moving its content aside when it is long.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use i2kit_spec::PodEnd;
use i2kit_spec::console::{END, GUEST_PREFIX, SEPARATOR};

use crate::cloud::LogLine;
use crate::cloud::local::machine::qemu;

/// A longer file is moved aside, in place of the one that was aside before. Only its last bytes are kept, as many as
/// these: it may be longer when no process bounded it for a while.
const LIMIT_BYTES: u64 = 4 << 20;

/// How many bytes of the end are read for the last lines.
const TAIL_BYTES: u64 = 64 * 1024;

/// How many bytes of the end are searched for the end of the pod, which is the guest's last line.
const END_BYTES: u64 = 256 * 1024;

/// How many bytes are read at once while a console is followed.
const CHUNK: u64 = 1 << 20;

/// A longer line is returned in pieces: it may have no end.
const LINE_BYTES: usize = 64 * 1024;

fn current(folder: &Path) -> PathBuf {
    folder.join(qemu::CONSOLE)
}

fn previous(folder: &Path) -> PathBuf {
    folder.join(format!("{}.1", qemu::CONSOLE))
}

/// Moves the machine's console aside when it is too long. qemu appends, so it goes on at the start of the emptied
/// file; what it writes between the copy and the cut is lost.
pub(crate) fn rotate(folder: &Path) -> io::Result<()> {
    let path = current(folder);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LIMIT_BYTES) {
        fs::write(previous(folder), last(&path, LIMIT_BYTES))?;
        OpenOptions::new().write(true).open(&path)?.set_len(0)?;
    }
    Ok(())
}

/// One line of the console of the machine `instance`, without its line end.
pub fn parse(instance: &str, line: &str) -> LogLine {
    let line = line.trim_end_matches(['\r', '\n']);
    // A container's name is an RFC 1123 label.
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let (container, text) = match line.split_once(SEPARATOR) {
        Some((name, text)) if is_name(name) && !line.starts_with(GUEST_PREFIX) => {
            (Some(name.to_owned()), text)
        }
        _ => (None, line),
    };
    LogLine { instance: instance.to_owned(), container, time: None, text: text.to_owned() }
}

/// The last bytes of a file, at most `bytes`; none when it cannot be read.
fn last(path: &Path, bytes: u64) -> Vec<u8> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut read = Vec::new();
        file.take(bytes).read_to_end(&mut read)?;
        io::Result::Ok(read)
    };
    read().unwrap_or_default()
}

/// All lines of the machine's console, at most the last [`LIMIT_BYTES`] of each of its files.
pub(crate) fn lines(folder: &Path, instance: &str) -> Vec<LogLine> {
    let mut bytes = last(&previous(folder), LIMIT_BYTES);
    bytes.extend(last(&current(folder), LIMIT_BYTES));
    String::from_utf8_lossy(&bytes).lines().map(|line| parse(instance, line)).collect()
}

/// The last lines of the machine's console, for the reason of a failure.
pub(crate) fn tail(folder: &Path, count: usize) -> Vec<String> {
    let text = last(&current(folder), TAIL_BYTES);
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

/// How the pod ended, once its guest has reported it.
pub(crate) fn end(folder: &Path) -> Option<PodEnd> {
    let reported = |path: PathBuf| pod_end(&last(&path, END_BYTES));
    reported(current(folder)).or_else(|| reported(previous(folder)))
}

/// How the pod ended, by the last bytes of its console: the last line that begins with [`GUEST_PREFIX`] and [`END`]. `None`
/// where there is no such line, and where what follows on it is no end of a pod.
pub fn pod_end(console: &[u8]) -> Option<PodEnd> {
    let text = String::from_utf8_lossy(console);
    let json = text.lines().rev().find_map(|line| line.strip_prefix(GUEST_PREFIX)?.strip_prefix(END))?;
    serde_json::from_str(json.trim_end()).ok()
}

/// A position in a machine's console from which new lines are read.
#[derive(Debug)]
pub(crate) struct Follower {
    folder: PathBuf,
    instance: String,
    offset: u64,
    rest: Vec<u8>,
}

impl Follower {
    /// Starts at the end of what is there; with `from_start` at its beginning.
    pub(crate) fn new(folder: PathBuf, instance: String, from_start: bool) -> Self {
        let length = fs::metadata(current(&folder)).map_or(0, |metadata| metadata.len());
        Self { folder, instance, offset: if from_start { 0 } else { length }, rest: Vec::new() }
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Lines that were completed since the last call.
    pub(crate) fn more(&mut self) -> io::Result<Vec<LogLine>> {
        let mut file = match File::open(current(&self.folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(CHUNK).read_to_end(&mut self.rest)?;
        self.offset += u64::try_from(read).unwrap_or(0);
        let end = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.rest.len() > LINE_BYTES => self.rest.len(),
            None => return Ok(Vec::new()),
        };
        let complete: Vec<u8> = self.rest.drain(..end).collect();
        let text = String::from_utf8_lossy(&complete);
        Ok(text.lines().map(|line| parse(&self.instance, line)).collect())
    }
}

/// The bytes of a console, from the beginning of what is kept.
#[derive(Debug)]
pub(crate) struct ConsoleBytes {
    folder: PathBuf,
    /// Whether nothing was read yet.
    is_new: bool,
    offset: u64,
}

impl ConsoleBytes {
    /// The console of the machine in this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), is_new: true, offset: 0 }
    }

    /// The bytes since the last call, or a part of them.
    pub(crate) fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if std::mem::replace(&mut self.is_new, false) {
            bytes = last(&previous(&self.folder), LIMIT_BYTES);
        }
        let mut file = File::open(current(&self.folder))?;
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(CHUNK).read_to_end(&mut bytes)?;
        self.offset += u64::try_from(read).unwrap_or(0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let container = |line| parse("web-1-a", line).container;
        assert_eq!(container("nginx | GET / 200\r\n").as_deref(), Some("nginx"));
        assert_eq!(container("i2kit: phase | network"), None);
        assert_eq!(container("[    0.1] Linux | version"), None);
        assert_eq!(parse("web-1-a", "nginx | a | b\r").text, "a | b");
        assert_eq!(parse("web-1-a", "Kernel panic\r").text, "Kernel panic");
    }

    #[test]
    fn a_follower_sees_whole_lines_and_survives_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = current(folder.path());
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"old\n").unwrap();
        let mut follower = Follower::new(folder.path().to_owned(), "web-1-a".into(), false);
        file.write_all(b"web | one\r\nweb | tw").unwrap();
        assert_eq!(follower.more().unwrap().len(), 1);
        file.write_all(b"o\r\n").unwrap();
        assert_eq!(follower.more().unwrap()[0].text, "two");

        let long = "x".repeat(1023) + "\n";
        for _ in 0..=LIMIT_BYTES / 1024 {
            file.write_all(long.as_bytes()).unwrap();
        }
        while !follower.more().unwrap().is_empty() {}
        rotate(folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        file.write_all(b"web | three\n").unwrap();
        assert_eq!(follower.more().unwrap().last().unwrap().text, "three");
        assert_eq!(tail(folder.path(), 5), ["web | three"]);
        assert!(lines(folder.path(), "web-1-a").len() > 4000);
    }

    #[test]
    fn a_console_that_nobody_looked_after_is_read_from_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = current(folder.path());
        // A hole of 1 TiB in front: reading all of it would not come to an end.
        let mut file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"\ni2kit: end {\"succeeded\":true,\"containers\":[]}\r\nPower down\r\n").unwrap();
        assert!(end(folder.path()).unwrap().succeeded);
        assert_eq!(tail(folder.path(), 1), ["Power down"]);
        assert_eq!(lines(folder.path(), "web-1-a").last().unwrap().text, "Power down");
        rotate(folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::metadata(previous(folder.path())).unwrap().len(), LIMIT_BYTES);
    }

    #[test]
    fn a_line_without_end_is_handed_out_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(current(folder.path())).unwrap();
        let mut follower = Follower::new(folder.path().to_owned(), "web-1-a".into(), true);
        let mut heard = 0;
        for _ in 0..64 {
            file.write_all(&vec![b'A'; 32 * 1024]).unwrap();
            heard += follower.more().unwrap().iter().map(|line| line.text.len()).sum::<usize>();
            assert!(follower.rest.len() <= LINE_BYTES);
        }
        assert!(heard >= 64 * 32 * 1024 - LINE_BYTES);
    }
}
