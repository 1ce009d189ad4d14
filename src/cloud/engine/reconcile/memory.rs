//! What a group remembers from one decision to the next: its current revision, its refresh or its runs, its failures.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::run_state::Run;
use super::schedule::Scheduled;
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::replicas::ReplicaMemory;
use crate::plan::fleet::{GroupSettings, RefreshStatus};

/// What a group remembers from one decision to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupMemory {
    /// The revision that it runs, or returns to.
    pub current: Option<u32>,
    /// The newest refresh.
    pub refresh: Option<RefreshState>,
    /// Of a StatefulSet with a partition: the revision of the members below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
    /// VMs that failed since the group was last well.
    pub failures: u32,
    /// Of a job: its runs, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
    /// The number of the newest run that there was.
    #[serde(default)]
    pub last_run: u32,
    /// Of a CronJob: its schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Scheduled>,
    /// Of a job whose run has ended: it is not removed by its age before this time, because another run is about to start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept_until: u64,
    /// What its scaler did, oldest first: as much as its policies and those who read events need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rescales: Vec<Rescale>,
    /// Of a replicated group: what its replicas said of themselves.
    #[serde(default, skip_serializing_if = "ReplicaMemory::is_empty")]
    pub replicas: ReplicaMemory,
    /// No VM is started before this time.
    pub not_before: u64,
    /// Since when all VMs are healthy.
    pub well_since: Option<u64>,
    /// All VMs are to go, and then the group.
    pub deleting: bool,
}

/// A change of a group's size by its scaler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rescale {
    /// When.
    pub at: u64,
    /// The same in seconds since the Unix epoch, for people.
    pub created: u64,
    /// The size before.
    pub from: u32,
    /// The size after.
    pub to: u32,
    /// Why, such as `cpu 180 % of 80 %`.
    pub reason: String,
}

impl fmt::Display for Rescale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.to > self.from { "up" } else { "down" };
        write!(f, "scaled {direction} from {} to {}: {}", self.from, self.to, self.reason)
    }
}

/// For `skip_serializing_if`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's interface")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl GroupMemory {
    /// The revision that the VM of an index should run; none before anything was started. Below the partition that is the
    /// one which the group left there.
    pub(super) fn revision_of(&self, settings: &GroupSettings, ordinal: Option<u32>) -> Option<u32> {
        let refresh = self.refresh.as_ref().filter(|refresh| refresh.status.is_active());
        let target = refresh.map(RefreshState::target).or(self.current)?;
        let partition = settings.stateful.as_ref().map_or(0, |stateful| stateful.partition);
        if ordinal.is_none_or(|ordinal| ordinal >= partition) {
            return Some(target);
        }
        Some(self.held.or(refresh.and_then(|refresh| refresh.from)).unwrap_or(target))
    }

    /// Why the newest refresh, or the run of that number, failed, where it did.
    pub fn reason_mut(&mut self, run: Option<u32>) -> Option<&mut String> {
        match run {
            Some(number) => self.runs.iter_mut().find(|run| run.number == number)?.reason.as_mut(),
            None => self.refresh.as_mut()?.reason.as_mut(),
        }
    }

    /// How far the newest refresh and all runs are, in words; and why they failed.
    pub fn outcomes(&self) -> Vec<(String, RefreshStatus, Option<&str>)> {
        let refresh = self.refresh.as_ref().map(|refresh| {
            (format!("refresh to revision {}", refresh.to), refresh.status, refresh.reason.as_deref())
        });
        let runs =
            self.runs.iter().map(|run| (format!("run {}", run.number), run.status, run.reason.as_deref()));
        refresh.into_iter().chain(runs).collect()
    }
}

/// A refresh, as a group remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefreshState {
    /// How far it is.
    pub status: RefreshStatus,
    /// The revision that it leaves.
    pub from: Option<u32>,
    /// A revision that served before it, and that it cannot return to: one of another number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barred: Option<u32>,
    /// The revision that it brings.
    pub to: u32,
    /// When it started.
    pub started: u64,
    /// The same in seconds since the Unix epoch, for people.
    pub created: u64,
    /// When it last came further.
    pub moved: u64,
    /// How far it came at best.
    pub best: Reached,
    /// VMs that it started and that failed.
    pub failures: u32,
    /// Why it failed.
    pub reason: Option<String>,
}

/// How far a refresh is, in what Kubernetes takes for progress: new replicas were made, became ready, became available,
/// or old ones were scaled down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// VMs of the wanted revision.
    pub made: u32,
    /// Those of them that are ready.
    pub ready: u32,
    /// Those of them that were ready for long enough.
    pub available: u32,
    /// VMs of other revisions.
    pub old: u32,
}

impl Reached {
    pub(super) const NOTHING: Self = Self { made: 0, ready: 0, available: 0, old: u32::MAX };

    /// The best of two in each number, whether the second one brought it.
    pub(super) fn best(self, now: Self) -> (Self, bool) {
        let best = Self {
            made: self.made.max(now.made),
            ready: self.ready.max(now.ready),
            available: self.available.max(now.available),
            old: self.old.min(now.old),
        };
        (best, best != self)
    }
}

impl RefreshState {
    /// A refresh that starts now.
    pub fn start(from: Option<u32>, to: u32, now: Moment) -> Self {
        Self {
            status: RefreshStatus::InProgress,
            from,
            barred: None,
            to,
            started: now.steady,
            created: now.wall / 1000,
            moved: now.steady,
            best: Reached::NOTHING,
            failures: 0,
            reason: None,
        }
    }

    /// The revision that it works towards or has reached: the old one once it turned back.
    pub fn target(&self) -> u32 {
        self.status.target(self.from, self.to)
    }
}

/// So many runs of a job are remembered.
pub const RUNS_KEPT: usize = 10;
