//! Groups whose VMs run to an end: Jobs. A VM that ended well is not replaced; one that failed is, until too many have.

use super::{Act, BACKOFF_FIRST_MS, BACKOFF_MAX_MS, Decision, Group, Vm, leaving};
use crate::plan::fleet::{InstanceState, JobSettings, RefreshStatus};

/// Decides what is done about a job at the time `now`. Its refresh is the run of the job.
pub(super) fn decide(group: &Group, job: &JobSettings, now: u64) -> Decision {
    let memory = group.memory.clone();
    let mut decision = Decision { memory, acts: Vec::new(), blame: None, deployed: None };
    leaving(group, now, &mut decision.acts);
    let members = || group.vms.iter().filter(|vm| vm.state == InstanceState::Running);
    let drain = |vm: &Vm| Act::Drain { id: vm.id.clone(), failed: false };
    if group.memory.deleting {
        decision.acts.extend(members().filter(|vm| vm.alive).map(drain));
        return decision;
    }
    let Some(target) = group.memory.refresh.as_ref().map(|refresh| refresh.to) else { return decision };
    for vm in members().filter(|vm| !vm.alive || vm.is_lost()) {
        count(group, target, vm, now, &mut decision);
    }
    judge(job, target, now, &mut decision);
    let active = decision.memory.refresh.as_ref().is_some_and(|refresh| refresh.status.is_active());
    let (running, other): (Vec<&Vm>, Vec<&Vm>) =
        members().filter(|vm| vm.alive && !vm.is_lost()).partition(|vm| active && vm.revision == target);
    decision.acts.extend(other.into_iter().map(drain));
    if active && now >= decision.memory.not_before {
        let missing = job.completions.saturating_sub(decision.memory.completed).min(job.parallelism);
        let running = u32::try_from(running.len()).unwrap_or(u32::MAX);
        decision.acts.extend((running..missing).map(|_| Act::Launch { revision: target }));
    }
    decision
}

/// Takes note of a VM that ended, or is lost and ends now.
fn count(group: &Group, target: u32, vm: &Vm, now: u64, decision: &mut Decision) {
    let id = vm.id.clone();
    decision.acts.push(if vm.alive { Act::Drain { id, failed: true } } else { Act::End { id } });
    let memory = &mut decision.memory;
    if vm.revision != target {
        return;
    }
    if vm.succeeded && !vm.alive {
        memory.completed = memory.completed.saturating_add(1);
        return;
    }
    memory.failures = memory.failures.saturating_add(1);
    let pause = BACKOFF_FIRST_MS.saturating_mul(1 << memory.failures.saturating_sub(1).min(16));
    memory.not_before = group.memory.not_before.max(now.saturating_add(pause.min(BACKOFF_MAX_MS)));
    decision.blame = Some(vm.id.clone());
}

/// Notices that the job is done, or has failed.
fn judge(job: &JobSettings, target: u32, now: u64, decision: &mut Decision) {
    let (completed, failures) = (decision.memory.completed, decision.memory.failures);
    let Some(refresh) = decision.memory.refresh.as_mut().filter(|refresh| refresh.status.is_active()) else {
        return;
    };
    let deadline =
        job.active_deadline_seconds.map(|deadline| refresh.started.saturating_add(deadline.millis().0));
    if completed >= job.completions {
        refresh.status = RefreshStatus::Successful;
        decision.memory.current = Some(target);
        decision.deployed = Some(target);
    } else if failures > job.backoff_limit {
        refresh.status = RefreshStatus::Failed;
        refresh.reason = Some(format!("BackoffLimitExceeded: {failures} VMs failed"));
    } else if deadline.is_some_and(|deadline| now >= deadline) {
        refresh.status = RefreshStatus::Failed;
        let limit = job.active_deadline_seconds.unwrap_or_default();
        refresh.reason = Some(format!("DeadlineExceeded: the job was active for longer than {limit}"));
    }
}
