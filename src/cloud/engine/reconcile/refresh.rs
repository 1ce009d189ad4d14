//! How a refresh goes on: new VMs first as far as the surge allows, old ones leave as new ones become available, and
//! the way back when the new revision does not.

use super::group::{Action, Blame, Decision, GroupView, Member, REFRESH_FAILURES, launches, worth};
use super::memory::{GroupMemory, Reached, RefreshState};
use crate::plan::fleet::{Health, InstanceId, InstanceState, RefreshStatus, count};

/// Whether a refresh is under way.
pub(super) fn is_active(memory: &GroupMemory) -> bool {
    memory.refresh.as_ref().is_some_and(|refresh| refresh.status.is_active())
}

/// Notices progress, success and failure.
pub(super) fn advance(
    group: &GroupView,
    members: &[&Member],
    failed: &[&Member],
    now: u64,
    decision: &mut Decision,
) {
    let memory = &decision.memory;
    let is_right = |vm: &&Member| memory.revision_of(&group.settings, vm.ordinal) == Some(vm.revision);
    let right: Vec<&Member> = members.iter().copied().filter(is_right).collect();
    let Some(refresh) = decision.memory.refresh.as_mut().filter(|refresh| refresh.status.is_active()) else {
        return;
    };
    let target = refresh.target();
    let min_ready = group.settings.min_ready_seconds.millis();
    let new = || right.iter();
    let available = count(new().filter(|vm| vm.is_available(min_ready, now)));
    let old = count(members.iter()) - count(new());
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
        decision.deployed.extend(succeeded.then_some(target));
        return;
    }
    // A VM that was there before says nothing about what the refresh brings, even when it has the same revision.
    let of_refresh = |vm: &&&Member| vm.revision == target && vm.state_since >= refresh.started;
    refresh.failures = refresh.failures.saturating_add(count(failed.iter().filter(of_refresh)));
    let deadline = group.settings.progress_deadline_seconds.millis();
    let late = now >= deadline.after(refresh.moved);
    // While it rolls back there is nothing better to fall back to: only the deadline ends that.
    let hopeless = refresh.status == RefreshStatus::InProgress && refresh.failures >= REFRESH_FAILURES;
    if late || hopeless {
        decision.blame = blame(group, target, late).map(|id| Blame { id, run: None });
        fail(refresh, late, group, now);
        if is_active(&decision.memory) {
            decision.memory.failures = 0;
            decision.memory.not_before = now;
        }
    }
}

fn fail(refresh: &mut RefreshState, late: bool, group: &GroupView, now: u64) {
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
            let why = match refresh.barred {
                Some(number) => format!(
                    "revision {number} is no way back: its machines are another number of replicas, and would refuse the log"
                ),
                None => "no other revision ever served to go back to".to_owned(),
            };
            refresh.reason = Some(format!("{what}, and {why}"));
        }
    }
    refresh.moved = now;
    refresh.best = Reached::NOTHING;
}

/// The VM that shows best why revision `target` fails: of one that is late the least healthy member, of one whose VMs
/// fail the one that did last.
fn blame(group: &GroupView, target: u32, late: bool) -> Option<InstanceId> {
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
pub(super) fn replace(group: &GroupView, members: &[&Member], now: u64, decision: &mut Decision) {
    let Some(refresh) = &decision.memory.refresh else { return };
    let target = refresh.target();
    let bounds = group.settings.bounds(group.replicas);
    let min_ready = group.settings.min_ready_seconds.millis();
    let (new, old): (Vec<&Member>, Vec<&Member>) = members.iter().partition(|vm| vm.revision == target);
    let (have_new, total) = (count(new.iter()), count(members.iter()));

    // Recreate: the first new VM starts when the last old one is gone, not merely leaving.
    let recreate = group.settings.strategy == crate::manifest::api::Strategy::Recreate;
    let gone = group.vms.iter().all(|vm| vm.revision == target || !vm.alive);
    if now >= decision.memory.not_before && (!recreate || gone) {
        let room = bounds.max_total.saturating_sub(total).min(group.replicas.saturating_sub(have_new));
        decision.actions.extend(launches(room, target));
    }

    let available = |vm: &&Member| vm.is_available(min_ready, now);
    let mut spare = count(members.iter().copied().filter(available)).saturating_sub(bounds.min_available);
    let mut drain = |vm: &Member| decision.actions.push(Action::Drain { id: vm.id.clone(), failed: false });
    // Old VMs that serve nothing go at once; those that serve go as new ones take over.
    let (serving, idle): (Vec<&Member>, Vec<&Member>) = old.into_iter().partition(available);
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
