//! How a refresh goes on: new VMs first as far as the surge allows, old ones leave as new ones become available, and
//! the way back when the new revision does not.

use serde::{Deserialize, Serialize};

use super::{Act, Decision, Group, Memory, REFRESH_FAILURES, Vm, worth};
use crate::cloud::Moment;
use crate::plan::fleet::{Health, InstanceState, RefreshStatus, count};

/// A refresh, as a group remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefreshState {
    /// How far it is.
    pub status: RefreshStatus,
    /// The revision that it leaves.
    pub from: Option<u32>,
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
    const NOTHING: Self = Self { made: 0, ready: 0, available: 0, old: u32::MAX };

    /// The best of two in each number, whether the second one brought it.
    fn best(self, now: Self) -> (Self, bool) {
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
        match self.status {
            RefreshStatus::RollingBack | RefreshStatus::RolledBack => self.from.unwrap_or(self.to),
            _ => self.to,
        }
    }
}

/// Whether a refresh is under way.
pub(super) fn is_active(memory: &Memory) -> bool {
    memory.refresh.as_ref().is_some_and(|refresh| refresh.status.is_active())
}

/// Notices progress, success and failure.
pub(super) fn advance(group: &Group, members: &[&Vm], failed: &[&Vm], now: u64, decision: &mut Decision) {
    let Some(refresh) = decision.memory.refresh.as_mut().filter(|refresh| refresh.status.is_active()) else {
        return;
    };
    let target = refresh.target();
    let min_ready = group.settings.min_ready_seconds.millis().0;
    let new = || members.iter().filter(|vm| vm.revision == target);
    let available = count(new().filter(|vm| vm.is_available(min_ready, now)));
    let old = count(members.iter().filter(|vm| vm.revision != target));
    let ready = count(new().filter(|vm| vm.health == Health::Healthy));
    // Against the best so far: a VM that comes, goes and comes again brings the refresh further once.
    let (best, further) = refresh.best.best(Reached { made: count(new()), ready, available, old });
    refresh.best = best;
    if further {
        refresh.moved = now;
    }
    if available >= group.replicas && old == 0 {
        let succeeded = refresh.status == RefreshStatus::InProgress;
        refresh.status = if succeeded { RefreshStatus::Successful } else { RefreshStatus::RolledBack };
        decision.memory.current = Some(target);
        decision.deployed = succeeded.then_some(target);
        return;
    }
    // A VM that was there before says nothing about what the refresh brings, even when it has the same revision.
    let of_refresh = |vm: &&&Vm| vm.revision == target && vm.state_since >= refresh.started;
    refresh.failures = refresh.failures.saturating_add(count(failed.iter().filter(of_refresh)));
    let deadline = group.settings.progress_deadline_seconds.millis().0;
    let late = now >= refresh.moved.saturating_add(deadline);
    // While it rolls back there is nothing better to fall back to: only the deadline ends that.
    let hopeless = refresh.status == RefreshStatus::InProgress && refresh.failures >= REFRESH_FAILURES;
    if late || hopeless {
        decision.blame = blame(group, target, late);
        fail(refresh, late, group, now);
        if is_active(&decision.memory) {
            decision.memory.failures = 0;
            decision.memory.not_before = now;
        }
    }
}

fn fail(refresh: &mut RefreshState, late: bool, group: &Group, now: u64) {
    let what = if late {
        format!("no progress for {} (progressDeadlineSeconds)", group.settings.progress_deadline_seconds)
    } else {
        format!("{} VMs failed", refresh.failures)
    };
    if refresh.status == RefreshStatus::RollingBack {
        refresh.status = RefreshStatus::Failed;
        let first = refresh.reason.take().unwrap_or_default();
        refresh.reason = Some(format!("{first}\nthe way back failed too: {what}"));
        return;
    }
    match refresh.from {
        Some(from) if from != refresh.to => {
            refresh.status = RefreshStatus::RollingBack;
            refresh.reason = Some(what);
        }
        _ => {
            refresh.status = RefreshStatus::Failed;
            refresh.reason = Some(format!("{what}, and no other revision ever served to go back to"));
        }
    }
    refresh.moved = now;
    refresh.best = Reached::NOTHING;
}

/// The VM that shows best why revision `target` fails: of one that is late the least healthy member, of one whose VMs
/// fail the one that did last.
fn blame(group: &Group, target: u32, late: bool) -> Option<String> {
    let of_target = || group.vms.iter().filter(|vm| vm.revision == target);
    let waits = of_target()
        .filter(|vm| vm.is_member() && vm.health != Health::Healthy)
        .min_by_key(|vm| (worth(vm), vm.state_since));
    let failed = of_target()
        .filter(|vm| vm.failed || !vm.alive || vm.is_lost())
        .max_by_key(|vm| (vm.state == InstanceState::Running, vm.state_since));
    let (first, second) = if late { (waits, failed) } else { (failed, waits) };
    first.or(second).map(|vm| vm.id.clone())
}

/// Starts new VMs and lets old ones go, within the bounds of the strategy.
pub(super) fn replace(group: &Group, members: &[&Vm], now: u64, decision: &mut Decision) {
    let Some(refresh) = &decision.memory.refresh else { return };
    let target = refresh.target();
    let bounds = group.settings.bounds(group.replicas);
    let min_ready = group.settings.min_ready_seconds.millis().0;
    let (new, old): (Vec<&Vm>, Vec<&Vm>) = members.iter().partition(|vm| vm.revision == target);
    let (have_new, total) = (count(new.iter()), count(members.iter()));

    // Recreate: the first new VM starts when the last old one is gone, not merely leaving.
    let recreate = group.settings.strategy == crate::manifest::api::Strategy::Recreate;
    let gone = group.vms.iter().all(|vm| vm.revision == target || !vm.alive);
    if now >= decision.memory.not_before && (!recreate || gone) {
        let room = bounds.max_total.saturating_sub(total).min(group.replicas.saturating_sub(have_new));
        decision.acts.extend((0..room).map(|_| Act::Launch { revision: target }));
    }

    let available = |vm: &&Vm| vm.is_available(min_ready, now);
    let mut spare = count(members.iter().copied().filter(available)).saturating_sub(bounds.min_available);
    let mut drain = |vm: &Vm| decision.acts.push(Act::Drain { id: vm.id.clone(), failed: false });
    // Old VMs that serve nothing go at once; those that serve go as new ones take over.
    let (serving, idle): (Vec<&Vm>, Vec<&Vm>) = old.into_iter().partition(available);
    idle.into_iter().for_each(&mut drain);
    for vm in serving {
        if spare == 0 {
            break;
        }
        spare -= 1;
        drain(vm);
    }
    // Scaled down while refreshing.
    let surplus = usize::try_from(have_new.saturating_sub(group.replicas)).unwrap_or(usize::MAX);
    let mut candidates = new;
    candidates.sort_by_key(|vm| worth(vm));
    candidates.into_iter().take(surplus).for_each(drain);
}
