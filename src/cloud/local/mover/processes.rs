//! The processes of a front door as others see them: they are recognised by their command line, never by a stored id.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::time::Instant;

use super::member::VERB;

/// How long ended processes may take to be gone.
const END: Duration = Duration::from_secs(10);

/// Between two looks whether they are.
const POLL: Duration = Duration::from_millis(10);

/// The processes of the front door of the local cloud in the folder `state`.
pub(crate) fn find(state: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_one(*pid, state)).collect()
}

/// Whether that process is one of them. Anybody may choose a command line, so it has to be this user's too.
pub(super) fn is_one(pid: u32, state: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(VERB.as_bytes())
        && words.next() == Some(state.as_os_str().as_bytes())
        && user(pid) == Some(geteuid().as_raw())
}

/// The user of a process. The owner of its folder in /proc is root where it has entered another user namespace.
fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until all processes are gone; false when some are left.
pub(super) async fn gone(state: &Path) -> bool {
    let given_up = Instant::now() + END;
    while !find(state).is_empty() {
        if Instant::now() > given_up {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Ends all processes by force. They are stopped first: each that runs would start the others again.
pub(super) async fn kill(state: &Path) -> bool {
    let given_up = Instant::now() + END;
    loop {
        let found = find(state);
        if found.is_empty() {
            return true;
        }
        if Instant::now() > given_up {
            return false;
        }
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in found.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
                // It has ended meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
