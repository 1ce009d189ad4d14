//! Groups whose VMs run to an end: Jobs. A VM that ended well is not replaced; one that failed is, until too many have.

use super::group::{
    Action, BACKOFF_FIRST_MS, BACKOFF_MAX_MS, Decision, GroupView, MAX_MEMBERS, Member, launches, leaving,
};
use super::memory::Run;
use crate::plan::fleet::{InstanceState, JobSettings, RefreshStatus};

/// Decides what is done about a job at the time `now`: its newest run goes on.
pub(super) fn decide(group: &GroupView, job: &JobSettings, now: u64) -> Decision {
    let memory = group.memory.clone();
    let mut decision = Decision { memory, actions: Vec::new(), blame: None, deployed: None };
    leaving(group, now, &mut decision.actions);
    let members = || group.vms.iter().filter(|vm| vm.state == InstanceState::Running);
    let drain = |vm: &Member| Action::Drain { id: vm.id.clone(), failed: false };
    if group.memory.deleting {
        decision.actions.extend(members().filter(|vm| vm.alive).map(drain));
        return decision;
    }
    let Some(mut run) = decision.memory.runs.pop() else { return decision };
    for vm in members().filter(|vm| !vm.alive || vm.is_lost()) {
        count(&mut run, vm, now, &mut decision);
    }
    judge(job, &mut run, now, &mut decision);
    let active = run.status.is_active();
    let (running, other): (Vec<&Member>, Vec<&Member>) = members()
        .filter(|vm| vm.alive && !vm.is_lost())
        .partition(|vm| active && vm.revision == run.revision);
    decision.actions.extend(other.into_iter().map(drain));
    if active && now >= run.not_before {
        let missing = job.completions.saturating_sub(run.completed).min(job.parallelism).min(MAX_MEMBERS);
        let running = u32::try_from(running.len()).unwrap_or(u32::MAX);
        decision.actions.extend(launches(missing.saturating_sub(running), run.revision));
    }
    decision.memory.runs.push(run);
    decision
}

/// Takes note of a VM that ended, or is lost and ends now.
fn count(run: &mut Run, vm: &Member, now: u64, decision: &mut Decision) {
    let id = vm.id.clone();
    decision.actions.push(if vm.alive { Action::Drain { id, failed: true } } else { Action::End { id } });
    if vm.revision != run.revision {
        return;
    }
    if vm.succeeded && !vm.alive {
        run.completed = run.completed.saturating_add(1);
        return;
    }
    run.failures = run.failures.saturating_add(1);
    let pause = BACKOFF_FIRST_MS.saturating_mul(1 << run.failures.saturating_sub(1).min(16));
    run.not_before = run.not_before.max(now.saturating_add(pause.min(BACKOFF_MAX_MS)));
    decision.blame = Some(vm.id.clone());
}

/// Notices that the run is done, or has failed.
fn judge(job: &JobSettings, run: &mut Run, now: u64, decision: &mut Decision) {
    if !run.status.is_active() {
        return;
    }
    let deadline = job.active_deadline_seconds.map(|limit| run.started.saturating_add(limit.millis().0));
    if run.completed >= job.completions {
        run.status = RefreshStatus::Successful;
        decision.memory.current = Some(run.revision);
        decision.deployed = Some(run.revision);
    } else if run.failures > job.backoff_limit {
        run.status = RefreshStatus::Failed;
        run.reason = Some(format!("BackoffLimitExceeded: {} VMs failed", run.failures));
    } else if deadline.is_some_and(|deadline| now >= deadline) {
        run.status = RefreshStatus::Failed;
        let limit = job.active_deadline_seconds.unwrap_or_default();
        run.reason = Some(format!("DeadlineExceeded: the job was active for longer than {limit}"));
    }
}
