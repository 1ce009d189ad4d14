//! The log file of the local cloud's process, for when something went wrong and no verb was there to report it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::clock;
use crate::cloud::CloudError;

/// The file is begun anew when it is longer than this.
const LIMIT_BYTES: u64 = 1 << 20;

/// Lines that wait for a disk that stands still. What comes while so many wait is counted and lost.
const WAITING: usize = 1024;

/// An open log. A thread of its own writes: nobody waits for the disk, least of all under a lock.
#[derive(Debug)]
pub(super) struct Log {
    /// Taken when the log is closed.
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    lost: AtomicU64,
}

impl Log {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, CloudError> {
        let failed = || CloudError::file("write", path);
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed())?;
        let (lines, waiting) = sync_channel(WAITING);
        let writer = std::thread::Builder::new().name("log".to_owned());
        let writer = writer.spawn(move || write(&waiting, file)).map_err(failed())?;
        Ok(Self { lines: Some(lines), writer: Some(writer), lost: AtomicU64::new(0) })
    }

    /// Writes one line, whatever is in the text: a guest may have chosen it. A full disk must not stop VMs from being
    /// kept: failures are passed over.
    pub(super) fn write(&self, text: std::fmt::Arguments) {
        let Some(lines) = &self.lines else { return };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let gap =
            if lost == 0 { String::new() } else { format!("({lost} lines were lost before this one) ") };
        let line = line(&format!("{gap}{text}"));
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for Log {
    /// What was logged is in the file afterwards.
    fn drop(&mut self) {
        self.lines.take();
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

fn write(lines: &Receiver<String>, mut file: File) {
    for line in lines {
        if file.metadata().is_ok_and(|metadata| metadata.len() > LIMIT_BYTES) {
            drop(file.set_len(0));
        }
        drop(file.write_all(line.as_bytes()));
    }
}

/// The line of the log for a text: the time, and the text, whatever is in it.
pub(super) fn line(text: &str) -> String {
    let now = clock::wall();
    format!("{}.{:03} {}\n", now / 1000, now % 1000, on_one_line(text))
}

/// The text with its control characters, line feeds among them, written as escapes.
fn on_one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// The log at `path`, once it has `text` in it: it is written by a thread of its own.
#[cfg(test)]
pub(super) fn with(path: &Path, text: &str) -> String {
    let given_up = std::time::Instant::now() + std::time::Duration::from_mins(1);
    loop {
        let log = std::fs::read_to_string(path).unwrap();
        if log.contains(text) || std::time::Instant::now() > given_up {
            return log;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_and_is_written_when_the_log_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(&path).unwrap();
        log.write(format_args!("web-1 is ended\n1700000000.000 web-2 is healthy\u{1b}[2J"));
        for number in 0..100 {
            log.write(format_args!("line {number}"));
        }
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 101, "{text}");
        let first = text.lines().next().unwrap();
        assert!(first.ends_with("web-1 is ended\\n1700000000.000 web-2 is healthy\\u{1b}[2J"), "{first}");
    }

    #[test]
    fn nobody_waits_for_a_disk_that_stands_still_and_what_was_lost_is_counted() {
        let (lines, waiting) = sync_channel(2);
        let log = Log { lines: Some(lines), writer: None, lost: AtomicU64::new(0) };
        for number in 0..5 {
            log.write(format_args!("{number}"));
        }
        assert!(waiting.recv().unwrap().ends_with(" 0\n"));
        log.write(format_args!("again"));
        drop(log);
        let rest: Vec<String> = waiting.into_iter().collect();
        assert!(rest[0].ends_with(" 1\n"), "{rest:?}");
        assert!(rest[1].ends_with("(3 lines were lost before this one) again\n"), "{rest:?}");
    }
}
