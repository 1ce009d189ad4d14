//! The log of a machine's containers, read from its journal: what there is, and more as it comes.
//!
//! Takes memory for a line of each container at a time, however long the files are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::console;
use super::journal::{self, GUEST};
use super::log_cursor::{BLOCK, Cursor};
use crate::cloud::LogLine;

/// The size of a returned line beside its text, in bytes.
const LINE_OVERHEAD: usize = 64;

/// A position in the journal of a machine.
#[derive(Debug)]
pub(crate) struct LogReader {
    folder: PathBuf,
    instance: String,
    /// The only container to read; all of them without.
    container: Option<String>,
    /// The only runs to read, by container; all of them without.
    runs: Option<BTreeMap<String, u64>>,
    cursors: BTreeMap<String, Cursor>,
    /// How many lines are skipped before the first one that is returned.
    skip: usize,
}

/// Whether a machine has a journal; otherwise its lines are on its console.
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
            let [cursor, to_count] = [self.cursor(&name), self.cursor(&name)].map(|mut cursor| {
                cursor.seek_tail(count);
                cursor
            });
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

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The containers to read, as far as they have files.
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
        Cursor::new(self.folder.join(name), run)
    }

    /// The next lines, in the order of their times, about `bytes` of them; none when there are no more at present.
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

/// The last lines of a machine, for the reason of a failure: those of its containers, then the last ones of the kernel.
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
    use std::fs::File;
    use std::io::{Seek as _, SeekFrom, Write as _};

    use super::*;
    use crate::cloud::local::link::log_cursor::LINE_BYTES;
    use crate::mutations::survive;

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

    #[test]
    fn the_last_line_of_a_journal_without_bound_is_read_from_its_end() {
        let root = tempfile::tempdir().unwrap();
        let mut file = File::create(folder(root.path(), "web").join("0.log")).unwrap();
        // A hole of 1 TiB in front: reading all of it would not come to an end.
        file.set_len(1 << 40).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        write!(file, "\n{} stdout F before\n{} stdout F last\n", time(1), time(2)).unwrap();
        let mut reader = LogReader::new(root.path(), "").tail(1);
        assert_eq!(texts(reader.more(BLOCK)), ["last"]);
        assert_eq!(tail(root.path(), 1), ["web | last"]);
    }

    #[test]
    fn whatever_a_journal_holds_is_read_to_its_end() {
        let root = tempfile::tempdir().unwrap();
        let path = folder(root.path(), "web").join("0.log");
        let seeds = [
            format!("{} stdout F one\n{} stderr F two\r\n{} stdout F three\n", time(1), time(2), time(3)),
            format!("{} stdout P long \n{} stderr F other\n{} stdout F line\n", time(4), time(5), time(6)),
        ];
        survive(&seeds.map(String::into_bytes), 1000, |bytes| {
            fs::write(&path, bytes).unwrap();
            let mut reader = LogReader::new(root.path(), "");
            let lines = reader.more(usize::MAX);
            assert!(reader.more(usize::MAX).is_empty(), "all of it was read");
            assert!(lines.len() < bytes.split(|byte| *byte == b'\n').count());
            assert!(tail(root.path(), 2).len() <= 2);
        });
    }
}
