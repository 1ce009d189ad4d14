//! Snapshots of a replica: when it takes one, and how it gets another's.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use i2kit_spec::replica::State;
use tokio::time::Instant;

use crate::log::Options;
use crate::machine::incoming::Incoming;
use crate::machine::snapshot;
use crate::node::Node;
use crate::node_tasks::HANDS_OVER;
use crate::order::messages::{Message, Part, PartAnswer};
use crate::order::raft::KEPT_ENTRIES;

/// Entries after which a snapshot is taken, however long the log is.
const EVERY: u64 = 100_000;

/// So often it is tried to let entries go that are held up, each time with one entry more.
const ATTEMPTS: u64 = 8;

/// Between two looks whether one is due.
const LOOKS: Duration = Duration::from_millis(500);

impl Node {
    fn incoming_path(&self) -> PathBuf {
        self.settings.place.log.join("snapshot.part")
    }

    /// Takes a part of a snapshot; the answer says which is wanted next. None when the disk does not take it.
    pub(crate) async fn take_part(&self, part: Part) -> Option<Bytes> {
        let mut incoming = self.incoming.lock().await;
        let which = (part.id, part.len, part.crc);
        let taken = incoming.take(&self.incoming_path(), which, part.offset, part.bytes).await;
        let wanted = told(taken)?;
        if wanted < part.len {
            return Some(PartAnswer::Continue(wanted).encode());
        }
        *incoming = Incoming::default();
        let path = self.incoming_path();
        let opened = tokio::task::spawn_blocking(move || snapshot::open(&path)).await.ok()?;
        let (snapshot, _) = told(opened)?;
        if snapshot.id != part.id {
            return None;
        }
        crate::report!("a snapshot up to entry {} came from another replica", part.id.index);
        let vote = self.order.install(part.vote, snapshot).await?;
        self.snapshot_at.fetch_max(part.id.index, Ordering::Relaxed);
        Some(PartAnswer::Installed(vote).encode())
    }

    /// Looks again and again whether the log may grow: beyond twice its limit, or with a disk that is nearly full, nothing is ordered any
    /// more. A replica whose disk is full would end, and with it the others, one after the other.
    pub(crate) async fn watch_disk(self: Arc<Self>) {
        let spare = Options::spare(self.settings.config.limits.log_bytes.0);
        let mut handed_over: Option<Instant> = None;
        loop {
            let folder = self.settings.place.log.clone();
            let free = tokio::task::spawn_blocking(move || snapshot::free(&folder)).await;
            let is_full = free.is_ok_and(|free| free.is_ok_and(|free| free < spare));
            if self.disk_is_full.swap(is_full, Ordering::Relaxed) != is_full {
                crate::report!(
                    "the disk of the log {}",
                    if is_full { "is nearly full: nothing is ordered here" } else { "has room again" }
                );
            }
            // Another's disk may have room.
            let is_due = handed_over.is_none_or(|at| at.elapsed() > HANDS_OVER);
            if is_full && is_due && self.leads() && self.settings.config.members.len() > 1 {
                handed_over = Some(Instant::now());
                drop(self.order.hand_over(self.log.id(), |_| true).await);
            }
            tokio::time::sleep(LOOKS).await;
        }
    }

    /// Takes snapshots when they are due, for ever.
    pub(crate) async fn take_snapshots(self: Arc<Self>) {
        if self.settings.config.state == State::Memory {
            return;
        }
        let (mut pause, mut asked) = (LOOKS, (0, 0));
        loop {
            tokio::time::sleep(pause).await;
            pause = LOOKS;
            self.purge(&mut asked).await;
            if !self.snapshot_is_due() {
                continue;
            }
            let taken = match self.executor.capture().await {
                Ok(snapshot) => {
                    self.snapshot_at.store(snapshot.id.index, Ordering::Relaxed);
                    self.order.snapshot().await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            self.captures_fail.store(taken.is_err(), Ordering::Relaxed);
            if let Err(error) = taken {
                crate::report!("no snapshot was taken: {error}; it is tried again in a minute");
                pause = Duration::from_mins(1);
            }
        }
    }

    /// Lets entries go that the snapshot has. A leader keeps what a replica that is away would need next, for ever; it hands over, and
    /// the next one gives that replica a snapshot. `asked` is up to which entry, and how often in vain.
    async fn purge(&self, asked: &mut (u64, u64)) {
        let snapshot = self.snapshot_at.load(Ordering::Relaxed);
        // Entries may be long: what is kept for replicas that are behind is bounded in bytes, too.
        let long = self.log.beyond(self.settings.config.limits.log_bytes.0 / 4);
        let until = snapshot.saturating_sub(KEPT_ENTRIES).max(long.min(snapshot.saturating_sub(ATTEMPTS)));
        let is_done = || self.log.purged().map_or(0, |purged| purged.index) >= until;
        if is_done() {
            return;
        }
        *asked = if asked.0 == until { (until, asked.1 + 1) } else { (until, 0) };
        if asked.1 >= ATTEMPTS {
            // It waits for the next snapshot.
            return;
        }
        // What was asked for once and held up is only looked at again with a later entry.
        if let Err(error) = self.order.purge(until + asked.1).await {
            crate::report!("the log is not made shorter: {error}");
        }
        tokio::time::sleep(LOOKS).await;
        if !is_done() && self.leads() && self.settings.config.members.len() > 1 {
            drop(self.order.hand_over(self.log.id(), |_| true).await);
        }
    }

    /// Replicas take theirs at different entries, so that not all stand still at once: each slot a part of the way later.
    fn snapshot_is_due(&self) -> bool {
        let progress = *self.executor.progress.borrow();
        if progress.life.is_none() || self.diverged_at().is_some() {
            return false;
        }
        let snapshot = self.snapshot_at.load(Ordering::Relaxed);
        let since = progress.next.saturating_sub(snapshot);
        let (slot, count) = (u64::from(self.settings.slot), self.settings.config.members.len() as u64);
        let offset = |of: u64| of / 2 / count * slot;
        let limit = self.settings.config.limits.log_bytes.0;
        // With little but entries that are kept for others a new snapshot would make no room.
        let is_new = since > KEPT_ENTRIES || self.log.bytes_after(snapshot) > limit / 8;
        let is_long = since > 1 && is_new && self.log.bytes() > limit / 2 + offset(limit);
        is_long || since > EVERY + offset(EVERY)
    }
}

/// The value, or none when it failed, which is told.
fn told<T>(result: std::io::Result<T>) -> Option<T> {
    result.map_err(|error| crate::report!("a snapshot of another replica is not taken: {error}")).ok()
}

/// Removes what a crash left behind.
pub(crate) fn clean(folder: &std::path::Path) {
    for name in ["snapshot.part", "snapshot.new"] {
        drop(fs::remove_file(folder.join(name)));
    }
}
