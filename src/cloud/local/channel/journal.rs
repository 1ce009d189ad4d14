//! The lines of a VM's containers in files, laid out and written as kubelet keeps them: `logs/CONTAINER/RUN.log` in the
//! VM's folder, a line `TIME STREAM TAG TEXT`. The times of a container only grow, so that the last line of a file says
//! where to go on, and a line that comes twice is seen.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use i2kit_spec::control::LogHead;

/// The folder of all containers' folders, in the VM's folder.
pub(in crate::cloud::local) const FOLDER: &str = "logs";

/// A longer file is moved aside, and what was aside before goes.
pub(in crate::cloud::local) const LIMIT_BYTES: u64 = 16 << 20;

/// How many runs of a container are kept.
const RUNS: usize = 5;

/// The folder of what the guest itself says; no container can have this name.
pub(in crate::cloud::local) const GUEST: &str = "_guest";

/// The files of one VM.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    containers: BTreeMap<String, Container>,
}

#[derive(Debug, Default)]
struct Container {
    /// The time of the last line.
    last: String,
    run: u64,
    file: Option<File>,
    bytes: u64,
}

impl Journal {
    /// The journal of the VM in `folder`, with what an earlier process kept in it.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let folder = folder.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut containers = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut last = String::new();
            for run in runs(&entry.path()) {
                for name in [format!("{run}.log.1"), format!("{run}.log")] {
                    last = last.max(mend(&entry.path().join(name))?);
                }
            }
            containers.insert(name, Container { last, ..Container::default() });
        }
        Ok(Self { folder, containers })
    }

    /// The time of the last line of each container.
    pub(super) fn logged(&self) -> BTreeMap<String, String> {
        let kept = self.containers.iter().filter(|(_, container)| !container.last.is_empty());
        kept.map(|(name, container)| (named(name).to_owned(), container.last.clone())).collect()
    }

    /// Keeps lines, except those that it has. Returns the number of the line that comes next.
    pub(super) fn keep(&mut self, head: &LogHead, lines: &[u8]) -> io::Result<u64> {
        let name = if head.container.is_empty() { GUEST } else { &head.container };
        // The name becomes a folder: a guest that was broken into must not write elsewhere.
        if name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(io::Error::other(format!("the guest speaks of a container {name:?}")));
        }
        let folder = self.folder.join(name);
        let container = self.containers.entry(name.to_owned()).or_default();
        let mut new = Vec::with_capacity(lines.len());
        let mut next = head.first;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            next += 1;
            let time = line.split(|byte| *byte == b' ').next().unwrap_or_default();
            if time > container.last.as_bytes() {
                container.last = String::from_utf8_lossy(time).into_owned();
                new.extend_from_slice(line);
            }
        }
        if head.dropped > 0 && !new.is_empty() {
            let words = format!("i2kit: {} lines were dropped before this one", head.dropped);
            let time =
                String::from_utf8_lossy(new.split(|b| *b == b' ').next().unwrap_or_default()).into_owned();
            new.splice(0..0, format!("{time} stderr F {words}\n").into_bytes());
        }
        if !new.is_empty() {
            container.write(&folder, head.run, &new)?;
        }
        Ok(next)
    }
}

/// The container of a folder.
fn named(folder: &str) -> &str {
    if folder == GUEST { "" } else { folder }
}

impl Container {
    fn write(&mut self, folder: &Path, run: u64, lines: &[u8]) -> io::Result<()> {
        let path = folder.join(format!("{run}.log"));
        if self.run != run || self.file.is_none() {
            fs::create_dir_all(folder)?;
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            self.bytes = file.metadata()?.len();
            (self.run, self.file) = (run, Some(file));
            let runs = runs(folder);
            for old in &runs[..runs.len().saturating_sub(RUNS)] {
                for name in [format!("{old}.log"), format!("{old}.log.1")] {
                    // Most runs have no second file.
                    let _ = fs::remove_file(folder.join(name));
                }
            }
        }
        if self.bytes > LIMIT_BYTES {
            fs::rename(&path, folder.join(format!("{run}.log.1")))?;
            self.file = Some(OpenOptions::new().create(true).append(true).open(&path)?);
            self.bytes = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
            self.bytes += lines.len() as u64;
        }
        Ok(())
    }
}

/// The runs of a container, in order.
pub(in crate::cloud::local) fn runs(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut runs: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok()).collect();
    runs.sort_unstable();
    runs
}

/// Cuts off what a process that was killed had not written whole. Returns the time of the last line.
fn mend(path: &Path) -> io::Result<String> {
    if !path.exists() {
        return Ok(String::new());
    }
    let bytes = fs::read(path)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if end < bytes.len() {
        OpenOptions::new().write(true).open(path)?.set_len(end as u64)?;
    }
    let last = bytes[..end].split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
    Ok(String::from_utf8_lossy(last.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned())
}
