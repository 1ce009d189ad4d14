//! The decisions of a cloud that keeps groups itself: given a group as it is now and the time, which VMs are started,
//! drained, stopped, and how its refresh goes on.
//!
//! Pure: no clock, no process, no database. The local cloud carries the decisions out on qemu, the fake cloud on
//! values. Times are milliseconds of a clock that does not jump; see [`Steady`](super::moment::Steady).

mod group;
mod job;
mod memory;
mod refresh;
mod run;
mod run_state;
mod schedule;
mod stateful;

#[cfg(test)]
mod job_tests;
#[cfg(test)]
mod one_writer;
#[cfg(test)]
mod tests;

pub use self::group::{Action, Blame, Decision, GroupView, MAX_MEMBERS, Member, MemberPlace, POWER_OFF};
use self::group::{BACKOFF_FIRST, BACKOFF_FORGIVEN, launches, leaving, newest_ended, pause, worth};
pub use self::memory::{GroupMemory, RUNS_KEPT, RefreshState, Rescale};
pub use self::run_state::Run;
pub use self::schedule::Scheduled;
use super::moment::Moment;
use crate::plan::fleet::{Health, InstanceState, count};

/// Decides what is done about `group` at the time `now`.
pub fn decide(group: &GroupView, now: Moment) -> Decision {
    let mut decision = decide_freely(group, now);
    hold_disks(group, &mut decision.actions);
    decision
}

/// A disk has one writer: no VM is started with a claim's disk while another VM of the group has it, which is so for as
/// long as its process runs, nor are two at once.
fn hold_disks(group: &GroupView, actions: &mut Vec<Action>) {
    let has_claims = |revision: &u32| group.with_claims.contains(revision);
    let mut taken = group.vms.iter().any(|vm| vm.alive && has_claims(&vm.revision));
    actions.retain(|action| match action {
        Action::Launch { revision, .. } if has_claims(revision) => !std::mem::replace(&mut taken, true),
        _ => true,
    });
}

fn decide_freely(group: &GroupView, now: Moment) -> Decision {
    if let Some(job) = &group.settings.job {
        return job::decide(group, job, now);
    }
    let now = now.steady;
    let mut decision =
        Decision { memory: group.memory.clone(), actions: Vec::new(), blame: None, deployed: Vec::new() };
    let kept = newest_ended(group, now);
    leaving(group, now, &|vm| kept.contains(&&vm.id), &mut decision.actions);
    if group.memory.deleting {
        let members = group.vms.iter().filter(|vm| vm.is_member());
        decision.actions.extend(members.map(|vm| Action::Drain { id: vm.id.clone(), failed: false }));
        return decision;
    }
    let failed = failing(group);
    for vm in &failed {
        let id = vm.id.clone();
        decision.actions.push(if vm.alive { Action::Drain { id, failed: true } } else { Action::End { id } });
    }
    let members: Vec<&Member> =
        group.vms.iter().filter(|vm| vm.is_member() && failed.iter().all(|f| f.id != vm.id)).collect();
    back_off(group, &members, &failed, now, &mut decision.memory);
    if let Some(set) = &group.settings.stateful {
        stateful::hold(set, &mut decision.memory);
    }
    refresh::advance(group, &members, &failed, now, &mut decision);
    if let Some(set) = &group.settings.stateful {
        stateful::place(group, set, &members, now, &mut decision);
    } else if refresh::is_active(&decision.memory) {
        refresh::replace(group, &members, now, &mut decision);
    } else {
        keep_size(group, &members, now, &mut decision);
    }
    decision
}

/// Members that are not alive: those that ended by themselves, and of those that are lost the one that is for longest.
/// A VM that is alive and not ready is none, however long that takes: its balancer leaves it out, and its guest starts
/// what ended in it again, as kubelet does.
///
/// Only one lost VM goes at a time, and not before the one that takes its place has shown that it boots: when all are
/// silent the cause is likely outside, and replacing all at once would end what still works.
fn failing(group: &GroupView) -> Vec<&Member> {
    let running = || group.vms.iter().filter(|vm| vm.state == InstanceState::Running);
    let mut failed: Vec<&Member> = running().filter(|vm| !vm.alive).collect();
    let boots = running().any(|vm| vm.alive && !vm.answered && !vm.is_lost());
    // Those that are missing of a StatefulSet may wait for this one.
    let missing =
        group.settings.stateful.is_none() && count(running().filter(|vm| vm.alive)) < group.replicas;
    if !boots && !missing {
        failed.extend(running().filter(|vm| vm.is_lost()).min_by_key(|vm| vm.health_since));
    }
    failed
}

fn back_off(group: &GroupView, members: &[&Member], failed: &[&Member], now: u64, memory: &mut GroupMemory) {
    let well = failed.is_empty()
        && count(members.iter()) >= group.replicas
        && members.iter().all(|vm| vm.health == Health::Healthy);
    memory.well_since = well.then(|| memory.well_since.unwrap_or(now));
    if memory.failures > 0 && memory.well_since.is_some_and(|since| now >= BACKOFF_FORGIVEN.after(since)) {
        memory.failures = 0;
    }
    for vm in failed {
        // A VM that was healthy for long enough is replaced at once: its end says nothing about the next one.
        let proven = vm.health == Health::Healthy && now >= BACKOFF_FIRST.after(vm.health_since);
        if proven && memory.failures == 0 {
            continue;
        }
        memory.failures = memory.failures.saturating_add(1);
        memory.not_before = memory.not_before.max(pause(memory.failures).after(now));
    }
}

/// Starts what is missing and lets go of what is too much, outside of a refresh.
fn keep_size(group: &GroupView, members: &[&Member], now: u64, decision: &mut Decision) {
    let Some(revision) = decision.memory.current else { return };
    let have = count(members.iter());
    if have < group.replicas && now >= decision.memory.not_before {
        decision.actions.extend(launches(group.replicas - have, revision));
    }
    let surplus = have.saturating_sub(group.replicas);
    let mut candidates = members.to_vec();
    // Other revisions first, then what serves least: lost, unhealthy, starting, healthy; the newest of equals.
    candidates.reverse();
    candidates.sort_by_key(|vm| (vm.revision == revision, worth(vm)));
    let surplus = usize::try_from(surplus).unwrap_or(usize::MAX);
    decision
        .actions
        .extend(candidates.iter().take(surplus).map(|vm| Action::Drain { id: vm.id.clone(), failed: false }));
}
