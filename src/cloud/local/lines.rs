//! What the containers of a VM wrote, read from the files that its channel keeps: what there is, and more as it comes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::channel::{self, GUEST};
use super::console;
use crate::cloud::LogLine;

/// How much of a file is read at once while it is followed.
const CHUNK: u64 = 4 << 20;

/// A place in the files of a VM from which lines are read.
#[derive(Debug)]
pub(super) struct Reader {
    folder: PathBuf,
    instance: String,
    /// How far each file was read.
    places: BTreeMap<(String, u64), u64>,
    /// Beginnings of long lines, by container and stream.
    parts: BTreeMap<(String, String), String>,
}

/// Lines with the run that they come from.
pub(super) type Run = (u64, LogLine);

/// Whether the VM's lines are in files; otherwise they are on its console.
pub(super) fn exist(folder: &Path) -> bool {
    fs::read_dir(folder.join(channel::FOLDER)).is_ok_and(|mut entries| entries.next().is_some())
}

impl Reader {
    /// Starts at the beginning of what is kept.
    pub(super) fn new(folder: &Path, instance: &str) -> Self {
        Self {
            folder: folder.join(channel::FOLDER),
            instance: instance.to_owned(),
            places: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    /// The VM.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    /// Lines that were written since the last call, in the order of their times.
    pub(super) fn more(&mut self) -> Vec<Run> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let containers: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let mut lines = Vec::new();
        for container in containers {
            for run in channel::runs(&self.folder.join(&container)) {
                // A file that cannot be read any more belongs to a run that went.
                let bytes = self.read(&container, run).unwrap_or_default();
                for line in String::from_utf8_lossy(&bytes).lines() {
                    lines.extend(self.parse(&container, line).map(|line| (run, line)));
                }
            }
        }
        lines.sort_by(|(_, a), (_, b)| a.time.cmp(&b.time));
        lines
    }

    fn read(&mut self, container: &str, run: u64) -> io::Result<Vec<u8>> {
        let path = self.folder.join(container).join(format!("{run}.log"));
        let old = path.with_extension("log.1");
        let place = self.places.entry((container.to_owned(), run));
        let mut bytes = Vec::new();
        let mut file = File::open(&path)?;
        let is_new = matches!(place, std::collections::btree_map::Entry::Vacant(_));
        let place = place.or_insert(0);
        if (is_new || file.metadata()?.len() < *place)
            && let Ok(mut old) = File::open(old)
        {
            // It was moved aside after it had been read up to here, or before it was read at all.
            old.seek(SeekFrom::Start(*place))?;
            old.read_to_end(&mut bytes)?;
            *place = 0;
        }
        file.seek(SeekFrom::Start(*place))?;
        let mut new = Vec::new();
        let limit = if is_new { u64::MAX } else { CHUNK };
        file.take(limit).read_to_end(&mut new)?;
        // A line that is being written comes with the next call.
        new.truncate(new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        *place += new.len() as u64;
        bytes.extend(new);
        Ok(bytes)
    }

    /// A line of a file; nothing while it is a part of a longer one.
    fn parse(&mut self, container: &str, line: &str) -> Option<LogLine> {
        let mut words = line.splitn(4, ' ');
        let (time, stream, tag) = (words.next()?, words.next()?, words.next()?);
        let part = self.parts.entry((container.to_owned(), stream.to_owned())).or_default();
        part.push_str(words.next().unwrap_or_default());
        (tag != "P").then(|| LogLine {
            instance: self.instance.clone(),
            container: (container != GUEST).then(|| container.to_owned()),
            time: Some(time.to_owned()),
            text: std::mem::take(part).trim_end_matches('\r').to_owned(),
        })
    }
}

/// The last lines of a VM, for the reason of a failure: those of its containers, and what the kernel said last.
pub(super) fn tail(folder: &Path, count: usize) -> Vec<String> {
    if !exist(folder) {
        return console::tail(folder, count);
    }
    let kernel: Vec<String> = console::tail(folder, 3)
        .into_iter()
        .filter(|line| !line.starts_with(i2kit_spec::console::GUEST_PREFIX))
        .collect();
    let line = |(_, line): Run| match line.container {
        Some(container) => format!("{container}{}{}", i2kit_spec::console::SEPARATOR, line.text),
        None => format!("{}{}", i2kit_spec::console::GUEST_PREFIX, line.text),
    };
    let mut lines: Vec<String> = Reader::new(folder, "").more().into_iter().map(line).collect();
    lines.drain(..lines.len().saturating_sub(count - kernel.len()));
    lines.extend(kernel);
    lines
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn texts(lines: Vec<Run>) -> Vec<String> {
        lines.into_iter().map(|(run, line)| format!("{run} {}", line.text)).collect()
    }

    #[test]
    fn containers_and_runs_are_in_the_order_of_time() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = root.path().join(channel::FOLDER).join(name);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        let time = |second: u32| format!("2026-01-01T00:00:{second:02}.000000000Z");
        fs::write(folder("web").join("0.log"), format!("{} stdout F one\n", time(1))).unwrap();
        fs::write(folder("web").join("1.log"), format!("{} stderr F three\n", time(3))).unwrap();
        fs::write(folder(GUEST).join("0.log"), format!("{} stdout F two\n", time(2))).unwrap();
        let mut reader = Reader::new(root.path(), "web-1-a");
        let lines = reader.more();
        assert_eq!(lines[1].1.container, None);
        assert_eq!(lines[0].1.time, Some(time(1)));
        assert_eq!(texts(lines), ["0 one", "0 two", "1 three"]);

        let path = folder("web").join("1.log");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, "{} stdout P long \n{} stdout F line\n{} stdout F ha", time(4), time(5), time(6))
            .unwrap();
        assert_eq!(texts(reader.more()), ["1 long line"]);
        writeln!(file, "lf").unwrap();
        // Moved aside before it was read.
        fs::rename(&path, path.with_extension("log.1")).unwrap();
        fs::write(&path, format!("{} stdout F new\n", time(7))).unwrap();
        assert_eq!(texts(reader.more()), ["1 half", "1 new"]);
        assert_eq!(tail(root.path(), 2), ["web | half", "web | new"]);
    }
}
