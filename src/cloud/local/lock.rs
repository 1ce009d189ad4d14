//! The lock that makes one process the local cloud, and who holds it.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;

use super::home::Home;
use crate::cloud::CloudError;

/// The lock that makes this process the local cloud, or nothing when another one is it.
pub(super) fn take(home: &Home) -> Result<Option<File>, CloudError> {
    let path = home.lock();
    loop {
        home.create()?;
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            // The last one has just removed the folder.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file.map_err(CloudError::file("open", &path))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(CloudError::file("lock", &path)(error)),
        }
        // A lock on a file that was removed in between keeps nobody out.
        let place = |found: fs::Metadata| (found.dev(), found.ino());
        if fs::metadata(&path).map(place).ok() == file.metadata().map(place).ok() {
            return Ok(Some(file));
        }
    }
}

/// The process that holds the local cloud's lock, where that can be found out.
pub(super) fn holder(home: &Home) -> Option<u32> {
    let lock = home.lock().canonicalize().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 00:2f:5678 0 EOF`
    let pids = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = words.iter().position(|word| *word == "FLOCK")?;
        words.get(place + 3)?.parse::<u32>().ok()
    });
    let holds = |pid: &u32| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target == lock)
    };
    let this = std::process::id();
    pids.filter(|pid| *pid != this).find(holds)
}

/// Whether a process was stopped by a signal.
pub(super) fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// The process does not answer.
pub(super) fn silent(home: &Home) -> CloudError {
    let message = match holder(home) {
        Some(pid) if is_stopped(pid) => format!(
            "its process {pid} is stopped; `kill -CONT {pid}` lets it go on, `kill -9 {pid}` ends it, and its VMs go on \
             either way"
        ),
        Some(pid) => format!(
            "its process {pid} does not answer; run the command again, or end it with `kill -9 {pid}`: its VMs go on, \
             and the next command starts it anew"
        ),
        None => "its process does not answer; run the command again".to_owned(),
    };
    CloudError::Unreachable { message }
}

/// The process is there, and an answer takes too long.
pub(super) fn slow(home: &Home) -> CloudError {
    let process = holder(home).map_or_else(|| "its process".to_owned(), |pid| format!("its process {pid}"));
    CloudError::Unreachable {
        message: format!(
            "{process} runs and has not finished in time; `i2kit status` shows what was done, and {} may tell why",
            home.log().display()
        ),
    }
}
