//! A guest's journal over failures: a write that fails is reported once, and lines that follow are refused until the
//! guest sends all of them again, from the last line that was kept. The guest holds its lines for that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::control::{LOG_WINDOW, LogHead};
use tokio::time::Instant;

use super::guest::Guest;
use super::journal::{FOLDER, Journal, JournalLimits, LIMITS};
use crate::cloud::local::log::Log;
use crate::cloud::local::supervise::Tasks;

/// The first pause before lines are requested again; doubled with each failure.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The longest pause: a disk that has room again has the lines at most this much later.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Writes the lines of one guest.
#[derive(Debug)]
pub(super) struct LogWriter {
    id: String,
    folder: PathBuf,
    containers: BTreeSet<String>,
    limits: JournalLimits,
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    /// None while it cannot be opened.
    journal: Option<Journal>,
    refusing: Option<Refusing>,
    /// Lines that came before the guest's answer. They may follow ones that an earlier process did not keep, so that they
    /// are dropped when the guest sends them again, and kept when it is gone instead. At most [`LOG_WINDOW`] bytes.
    early: Vec<(LogHead, Vec<u8>)>,
    pause: Duration,
    /// Whether it was logged that the guest sends lines of containers that its pod does not have.
    logged_foreign: bool,
}

/// Lines are refused.
#[derive(Debug, Clone, Copy)]
struct Refusing {
    /// When they are requested again.
    retry: Instant,
    /// Whether they were requested: lines that come before the guest's answer were sent before it got the request.
    requested: bool,
}

impl Refusing {
    fn requested() -> Self {
        Self { retry: Instant::now() + PAUSE_MAX, requested: true }
    }
}

impl LogWriter {
    /// The writer of a guest's lines.
    pub(super) fn open(guest: &Guest) -> Self {
        Self::open_with(guest, LIMITS)
    }

    pub(super) fn open_with(guest: &Guest, limits: JournalLimits) -> Self {
        let mut lines = Self {
            id: guest.id.clone(),
            folder: guest.folder.clone(),
            containers: guest.containers.clone(),
            limits,
            tasks: Arc::clone(&guest.tasks),
            log: Arc::clone(&guest.log),
            journal: None,
            // What an earlier process requested may be under way, without what that one did not keep.
            refusing: Some(Refusing::requested()),
            early: Vec::new(),
            pause: PAUSE_FIRST,
            logged_foreign: false,
        };
        lines.open_journal();
        lines
    }

    fn open_journal(&mut self) {
        match Journal::open(&self.folder, self.containers.clone(), self.limits) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => self.failed(&error),
        }
    }

    fn name(&self) -> String {
        format!("logs of {}", self.id)
    }

    /// Records a failure; from now on lines are refused.
    fn failed(&mut self, error: &std::io::Error) {
        self.refusing = Some(Refusing { retry: Instant::now() + self.pause, requested: false });
        self.early = Vec::new();
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let folder = self.folder.join(FOLDER);
        let reason = format!("{} cannot be written: {error}", folder.display());
        if self.tasks.fail(&self.name(), reason.clone()) {
            self.log
                .write(format_args!("{}: {reason}; the guest keeps its lines until it works", self.name()));
        }
    }

    /// The time of the last line that is kept of each container.
    pub(super) fn logged(&self) -> BTreeMap<String, String> {
        self.journal.as_ref().map(Journal::logged).unwrap_or_default()
    }

    /// Keeps lines. Returns the number of the next one that is wanted, or nothing when they are refused.
    pub(super) fn keep(&mut self, head: &LogHead, lines: &[u8]) -> Option<u64> {
        if self.refusing.is_some_and(|now| now.requested) {
            let size =
                |head: &LogHead, lines: &[u8]| size_of::<LogHead>() + head.container.len() + lines.len();
            let kept: usize = self.early.iter().map(|(head, lines)| size(head, lines)).sum();
            if kept + size(head, lines) <= LOG_WINDOW {
                self.early.push((head.clone(), lines.to_vec()));
            }
            return None;
        }
        let journal = self.journal.as_mut().filter(|_| self.refusing.is_none())?;
        match journal.keep(head, lines) {
            Ok(kept) => {
                if !kept.known && !self.logged_foreign {
                    self.logged_foreign = true;
                    let name: String = head.container.chars().take(63).collect();
                    self.log.write(format_args!(
                        "{}: the guest sends lines of a container {name:?}, which its pod does not have; they are not kept",
                        self.id
                    ));
                }
                if self.pause != PAUSE_FIRST {
                    self.pause = PAUSE_FIRST;
                    if self.tasks.forget(&self.name()) {
                        self.log.write(format_args!("{}: can be written again", self.name()));
                    }
                }
                Some(kept.next)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// When lines are to be requested again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.refusing.map(|refusing| refusing.retry)
    }

    /// Tries to open the journal again. A hello requests the lines afterwards, and once more later without an answer.
    pub(super) fn retry(&mut self) {
        self.refusing = Some(Refusing::requested());
        if self.journal.is_none() {
            self.open_journal();
        }
    }

    /// The guest sent a hello: lines that come now follow the last kept ones.
    pub(super) fn resume(&mut self, answer: bool) {
        let begins_anew = self.refusing.is_some_and(|refusing| refusing.requested || !answer);
        if begins_anew && self.journal.is_some() {
            self.refusing = None;
            self.early = Vec::new();
        }
    }

    /// The guest is gone: what came before an answer of it is all there is.
    pub(super) fn finish(&mut self) {
        if self.journal.is_some() {
            self.refusing = None;
            for (head, lines) in std::mem::take(&mut self.early) {
                self.keep(&head, &lines);
            }
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.tasks.forget(&self.name());
    }
}
