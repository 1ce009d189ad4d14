//! The journal of a machine: the lines of its containers in files, laid out and written as kubelet does. The files
//! are `logs/CONTAINER/RUN.log` in the machine's folder, their lines `TIME STREAM TAG TEXT`. The times of a container
//! only grow, so that the last line of a file is where to go on, and a line that comes twice is recognised.
//!
//! Whatever a guest sends, a machine has folders for its own containers alone, and [`JournalLimits::vm_bytes`] in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use i2kit_spec::control::LogHead;

/// The folder of all containers' folders, in the machine's folder.
pub(crate) const FOLDER: &str = "logs";

/// The folder of the guest's own lines; no container can have this name.
pub(crate) const GUEST: &str = "_guest";

/// The longest time of a line: `2026-01-31T12:00:00.000000000Z`, with room for an offset.
const TIME_BYTES: usize = 35;

/// How many bytes of a file's end are read to find its last line. A line comes in one frame, which is half as long.
const TAIL_BYTES: u64 = 128 * 1024;

/// Bounds of the files of one machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalLimits {
    /// The size at which a file is moved aside, in place of the one that was aside before. Less in pods of many
    /// containers, so that the files that are written take a quarter of [`Self::vm_bytes`] at most.
    pub(crate) file_bytes: u64,
    /// The size of all files of a machine. Above it, those that were not written for longest are removed.
    pub(crate) vm_bytes: u64,
    /// The number of runs of a container that are kept.
    pub(crate) runs: usize,
}

/// The bounds. 256 MiB hold both files of several busy containers, and twenty machines of a kind stay below 5 GiB.
pub(crate) const LIMITS: JournalLimits = JournalLimits { file_bytes: 16 << 20, vm_bytes: 256 << 20, runs: 5 };

/// The files of one machine.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    /// The pod's containers. Their names become folders: a guest that was broken into must not write elsewhere.
    names: BTreeSet<String>,
    limits: JournalLimits,
    containers: BTreeMap<String, Container>,
    /// Bytes of all files.
    total: u64,
}

#[derive(Debug, Default)]
struct Container {
    /// The time of the last line.
    last: String,
    run: u64,
    file: Option<File>,
    bytes: u64,
}

/// The result of [`Journal::keep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The number of the line that comes next.
    pub(crate) next: u64,
    /// Whether the pod has the container. Lines of another one are not kept.
    pub(crate) known: bool,
}

impl Journal {
    /// Opens the journal of the machine in `folder`, with what an earlier process kept in it.
    pub(crate) fn open(folder: &Path, names: BTreeSet<String>, limits: JournalLimits) -> io::Result<Self> {
        let folder = folder.join(FOLDER);
        make(&folder)?;
        let mut containers = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut last = String::new();
            let runs = runs(&entry.path());
            for run in &runs {
                for name in [format!("{run}.log.1"), format!("{run}.log")] {
                    last = last.max(mend(&entry.path().join(name))?);
                }
            }
            let run = runs.last().copied().unwrap_or_default();
            containers.insert(name, Container { last, run, ..Container::default() });
        }
        let total = files(&folder).iter().map(|file| file.bytes).sum();
        Ok(Self { folder, names, limits, containers, total })
    }

    /// The time of the last line of each container.
    pub(crate) fn logged(&self) -> BTreeMap<String, String> {
        let kept = self.containers.iter().filter(|(_, container)| !container.last.is_empty());
        kept.map(|(name, container)| (named(name).to_owned(), container.last.clone())).collect()
    }

    /// Keeps lines, except those that it has, those of containers that the pod does not have, and malformed ones.
    /// After an error none of them is kept.
    pub(crate) fn keep(&mut self, head: &LogHead, lines: &[u8]) -> io::Result<Kept> {
        let count = lines.split_inclusive(|byte| *byte == b'\n').count() as u64;
        let next = head.first.saturating_add(count);
        let name = if head.container.is_empty() { GUEST } else { &head.container };
        if !self.has(head) {
            return Ok(Kept { next, known: false });
        }
        let last = self.containers.get(name).map(|container| container.last.as_bytes()).unwrap_or_default();
        let mut last = last.to_vec();
        let mut new = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if let Some(time) = time_of(line)
                && time > last.as_slice()
            {
                if new.is_empty() && head.dropped > 0 {
                    let words = format!("i2kit: {} lines were dropped before this one", head.dropped);
                    new.extend([time, b" stderr F ", words.as_bytes(), b"\n"].concat());
                }
                last = time.to_vec();
                new.extend_from_slice(line);
            }
        }
        if !new.is_empty() {
            let last = String::from_utf8(last).map_err(io::Error::other)?;
            self.write(name, head.run, &new)?;
            self.containers.entry(name.to_owned()).or_default().last = last;
        }
        Ok(Kept { next, known: true })
    }

    /// Whether the pod has such a container; the guest's own lines have no name.
    fn has(&self, head: &LogHead) -> bool {
        head.container.is_empty() || self.names.contains(&head.container)
    }

    fn write(&mut self, name: &str, run: u64, lines: &[u8]) -> io::Result<()> {
        let folder = self.folder.join(name);
        let count = self.containers.len().max(1) as u64;
        let file_bytes = self.limits.file_bytes.min(self.limits.vm_bytes / (4 * count));
        let container = self.containers.entry(name.to_owned()).or_default();
        // Runs only grow. A smaller one must not bring back files that were removed.
        let run = run.max(container.run);
        let path = folder.join(format!("{run}.log"));
        if container.run != run || container.file.is_none() {
            make(&folder)?;
            // An incomplete line of an earlier write is cut off.
            mend(&path)?;
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            container.bytes = file.metadata()?.len();
            (container.run, container.file) = (run, Some(file));
            let runs = runs(&folder);
            for old in &runs[..runs.len().saturating_sub(self.limits.runs)] {
                for name in [format!("{old}.log"), format!("{old}.log.1")] {
                    remove(&folder.join(name), &mut self.total);
                }
            }
        }
        if container.bytes > file_bytes {
            let aside = folder.join(format!("{run}.log.1"));
            remove(&aside, &mut self.total);
            fs::rename(&path, aside)?;
            container.file = None;
            container.file = Some(OpenOptions::new().create(true).append(true).open(&path)?);
            container.bytes = 0;
        }
        let Some(file) = &mut container.file else { return Ok(()) };
        if let Err(error) = file.write_all(lines) {
            // Lines are kept whole or not at all; a part that cannot be cut off now is when the file is opened again.
            if file.set_len(container.bytes).is_err() {
                container.file = None;
            }
            return Err(error);
        }
        container.bytes += lines.len() as u64;
        self.total += lines.len() as u64;
        if self.total > self.limits.vm_bytes {
            self.shrink(&path);
        }
        Ok(())
    }

    /// Removes the files that were not written for longest, down to three quarters of the bound, so that this is not
    /// done with every line. Keeps the file that was written just now.
    fn shrink(&mut self, written: &Path) {
        let mut files = files(&self.folder);
        files.sort_by_key(|file| file.modified);
        self.total = files.iter().map(|file| file.bytes).sum();
        for file in files.iter().filter(|file| file.path != written) {
            if self.total <= self.limits.vm_bytes / 4 * 3 {
                break;
            }
            remove(&file.path, &mut self.total);
            let container = file.path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
            if let Some(container) = container.and_then(|name| self.containers.get_mut(name)) {
                // It may have been the one that is open.
                container.file = None;
            }
        }
    }
}

/// A line's time, when it is a whole line in the form of the files.
fn time_of(line: &[u8]) -> Option<&[u8]> {
    let mut words = line.strip_suffix(b"\n")?.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag, _) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let is_time = !time.is_empty()
        && time.len() <= TIME_BYTES
        && time.iter().all(|byte| byte.is_ascii_digit() || b"TZ:.+-".contains(byte));
    (is_time && matches!(stream, b"stdout" | b"stderr") && matches!(tag, b"P" | b"F")).then_some(time)
}

/// The container of a folder.
fn named(folder: &str) -> &str {
    if folder == GUEST { "" } else { folder }
}

/// Makes a folder, but not those above it: the folder of a machine that is gone must not come back.
fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }
}

/// Removes a file if it is there, and takes its bytes off `total`.
fn remove(path: &Path, total: &mut u64) {
    let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if fs::remove_file(path).is_ok() {
        *total = total.saturating_sub(bytes);
    }
}

/// A file below the journal's folder.
struct Found {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// All files of all containers.
fn files(folder: &Path) -> Vec<Found> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let found = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Some(Found { path: entry.path(), bytes: metadata.len(), modified })
    };
    entries(folder).flat_map(|container| entries(&container.path()).filter_map(found)).collect()
}

/// The runs of a container, in order.
pub(crate) fn runs(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut runs: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok()).collect();
    runs.sort_unstable();
    runs
}

/// Cuts off the incomplete line of a process that was killed. Returns the time of the last line.
fn mend(path: &Path) -> io::Result<String> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(TAIL_BYTES);
        let mut tail = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut tail)?;
        if let Some(at) = tail.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            if end < length {
                file.set_len(end)?;
            }
            let last = tail[..at].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let time = last.split(|byte| *byte == b' ').next().unwrap_or_default();
            return Ok(String::from_utf8_lossy(&time[..time.len().min(TIME_BYTES)]).into_owned());
        }
        end = start;
    }
    if length > 0 {
        file.set_len(0)?;
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: JournalLimits = JournalLimits { file_bytes: 4096, vm_bytes: 32 * 1024, runs: 3 };

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn head(container: &str, run: u64) -> LogHead {
        LogHead { container: container.into(), run, ..LogHead::default() }
    }

    fn line(number: u64, bytes: usize) -> Vec<u8> {
        format!("2026-01-01T00:00:00.{number:09}Z stdout F {}\n", "x".repeat(bytes)).into_bytes()
    }

    fn bytes_and_files(folder: &Path) -> (u64, usize) {
        let files = files(&folder.join(FOLDER));
        (files.iter().map(|file| file.bytes).sum(), files.len())
    }

    #[test]
    fn a_vm_has_folders_for_its_own_containers_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(root.path(), names(&["web"]), SMALL).unwrap();
        let long = "a".repeat(300);
        for name in ["other", "../x", "_guest", "a/b", ".", "", "web", "\0", long.as_str()] {
            let kept = journal.keep(&head(name, 0), &line(1, 10)).unwrap();
            assert_eq!(kept, Kept { next: 1, known: name.is_empty() || name == "web" }, "{name:?}");
        }
        let mut found: Vec<_> =
            fs::read_dir(root.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, ["_guest", "web"]);
    }

    #[test]
    fn whatever_comes_takes_a_bounded_part_of_the_disk() {
        let root = tempfile::tempdir().unwrap();
        let mut journal =
            Journal::open(root.path(), names(&["app", "c0", "c1", "c2", "web"]), SMALL).unwrap();
        for number in 0..2000_u64 {
            let name = format!("c{}", number % 3);
            // Runs that grow, jump and fall back.
            let run = if number.is_multiple_of(7) { u64::MAX - number } else { number / 50 };
            journal.keep(&head(&name, run), &line(number, 500)).unwrap();
            let (bytes, files) = bytes_and_files(root.path());
            assert!(
                bytes <= SMALL.vm_bytes && journal.total == bytes,
                "{bytes} bytes, {} known",
                journal.total
            );
            assert!(files <= 3 * 2 * SMALL.runs, "{files} files");
        }
        let (bytes, _) = bytes_and_files(root.path());
        assert!(bytes > SMALL.vm_bytes / 4, "the newest lines are there: {bytes} bytes");
        // The next process finds the same.
        let next = Journal::open(root.path(), names(&["app", "c0", "c1", "c2", "web"]), SMALL).unwrap();
        assert_eq!((next.total, next.logged()), (bytes, journal.logged()));
    }

    #[test]
    fn what_is_no_line_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let mut journal =
            Journal::open(root.path(), names(&["app", "c0", "c1", "c2", "web"]), SMALL).unwrap();
        let lines = [
            b"no line\n".as_slice(),
            b"2026-01-01T00:00:00.1Z stdlog F x\n",
            b"2026-01-01T00:00:00.1Z stdout Q x\n",
            &[b'9'; 60],
            b" stdout F x\n",
            b"\xff\xff stdout F x\n",
            b"2026-01-01T00:00:00.2Z stdout F kept\n",
            b"2026-01-01T00:00:00.3Z stdout F no end",
        ];
        let head = LogHead { first: u64::MAX, ..head("web", 0) };
        assert_eq!(journal.keep(&head, &lines.concat()).unwrap().next, u64::MAX);
        let text = fs::read_to_string(root.path().join(FOLDER).join("web/0.log")).unwrap();
        assert_eq!(text, "2026-01-01T00:00:00.2Z stdout F kept\n");
        assert_eq!(journal.logged()["web"], "2026-01-01T00:00:00.2Z");
    }

    #[test]
    fn lines_that_could_not_be_written_are_kept_when_they_are_said_again() {
        let root = tempfile::tempdir().unwrap();
        let mut journal =
            Journal::open(root.path(), names(&["app", "c0", "c1", "c2", "web"]), SMALL).unwrap();
        journal.keep(&head("web", 0), &line(1, 10)).unwrap();
        // Nothing can be made below a file.
        let blocked = root.path().join(FOLDER).join("app");
        fs::write(&blocked, "").unwrap();
        assert!(journal.keep(&head("app", 0), &line(2, 10)).is_err());
        assert!(!journal.logged().contains_key("app"));
        fs::remove_file(&blocked).unwrap();
        journal.keep(&head("app", 0), &line(2, 10)).unwrap();
        assert_eq!(fs::read(blocked.join("0.log")).unwrap(), line(2, 10));
    }

    #[test]
    fn half_a_line_is_cut_off_however_long_it_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        fs::write(&path, [line(1, 10), line(2, 10), vec![b'x'; 300 * 1024]].concat()).unwrap();
        assert_eq!(mend(&path).unwrap(), "2026-01-01T00:00:00.000000002Z");
        assert_eq!(fs::read(&path).unwrap(), [line(1, 10), line(2, 10)].concat());
        fs::write(&path, vec![b'x'; 300 * 1024]).unwrap();
        assert_eq!(mend(&path).unwrap(), "");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }
}
