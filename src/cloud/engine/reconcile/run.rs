//! One run of a Job: which VMs it has and lacks, which of their ends count, and when it is over.
//!
//! The words of reasons are those of Kubernetes' Job controller.

use std::collections::BTreeSet;

use super::group::{Action, Blame, Decision, GroupView, LAUNCHES, MAX_MEMBERS, Member, MemberPlace, pause};
use super::run_state::{IndexFailures, Run};
use crate::manifest::api::{FailureAction, FailureMatch, FailureRule, Indexes, JobRules, SuccessRule};
use crate::plan::fleet::{InstanceId, InstanceState, RefreshStatus, RunMember, count as number_of};

/// Decides about one run at the time `now`.
pub(super) fn advance(group: &GroupView, job: &JobRules, run: &mut Run, now: u64, decision: &mut Decision) {
    if !run.status.is_active() {
        return;
    }
    let job = run.rules(job);
    let mut blame = None;
    go_on(group, &job, run, now, &mut blame, decision);
    match run.status {
        RefreshStatus::Failed => {
            let blame = blame.map(|id| Blame { id, run: Some(run.number) });
            decision.blame = blame.or(decision.blame.take());
        }
        // A run of a CronJob deploys nothing: which revision its runs are of was said when that was deployed.
        RefreshStatus::Successful if group.settings.schedule.is_none() => {
            decision.deployed.push(run.revision);
        }
        _ => {}
    }
}

/// The same about a run that is active; `blame` becomes the VM that shows why it fails.
fn go_on(
    group: &GroupView,
    job: &JobRules,
    run: &mut Run,
    now: u64,
    blame: &mut Option<InstanceId>,
    decision: &mut Decision,
) {
    let of_run = |vm: &&Member| vm.run.is_some_and(|member| member.number == run.number);
    let members: Vec<&Member> = group.vms.iter().filter(of_run).collect();
    let running = || members.iter().copied().filter(|vm| vm.state == InstanceState::Running);
    for vm in running().filter(|vm| !vm.alive || vm.is_lost()) {
        count(job, run, vm, now, blame, decision);
    }
    if !run.status.is_active() {
        return;
    }
    let alive: Vec<&Member> = running().filter(|vm| vm.alive && !vm.is_lost()).collect();
    if job.suspend {
        // What it did counts; what is stopped now does not, and its deadline begins anew.
        run.suspended = true;
        decision.actions.extend(alive.into_iter().map(drain));
        return;
    }
    if std::mem::take(&mut run.suspended) {
        run.started = now;
    }
    judge(job, run, &alive, now);
    if !run.status.is_active() {
        // Those whose containers failed are kept with their output.
        if let Some(worst) = alive.iter().filter(|vm| is_failing(job, vm)).max_by_key(|vm| vm.restarts) {
            *blame = Some(worst.id.clone());
        }
        let failing = alive.iter().filter(|vm| is_failing(job, vm));
        decision.actions.extend(failing.map(|vm| Action::Drain { id: vm.id.clone(), failed: true }));
        return;
    }
    let parallelism = usize::try_from(job.parallelism).unwrap_or(usize::MAX);
    decision.actions.extend(alive.iter().skip(parallelism).copied().map(drain));
    let held: Vec<&Member> = if job.replace_failed_only {
        members.iter().copied().filter(|vm| vm.alive && vm.state != InstanceState::Ended).collect()
    } else {
        alive
    };
    launch(group, job, run, &held, now, decision);
}

fn drain(vm: &Member) -> Action {
    Action::Drain { id: vm.id.clone(), failed: false }
}

/// Whether the job counts restarts of containers, and the VM had some.
fn is_failing(job: &JobRules, vm: &Member) -> bool {
    job.restarts_containers && vm.restarts > 0
}

/// Takes note of a VM that ended, or is lost and ends now.
fn count(
    job: &JobRules,
    run: &mut Run,
    vm: &Member,
    now: u64,
    blame: &mut Option<InstanceId>,
    decision: &mut Decision,
) {
    let id = vm.id.clone();
    decision.actions.push(if vm.alive { Action::Drain { id, failed: true } } else { Action::End { id } });
    let index = vm.run.and_then(|member| member.index);
    if vm.succeeded && !vm.alive {
        // Of two VMs with one index, which a restart of this process may have led to, one counts.
        if index.is_none_or(|index| run.completed_indexes.insert(index)) {
            run.completed = run.completed.saturating_add(1);
        }
        return;
    }
    // Of several that ended at once the one that a rule failed the run for shows why.
    if run.status.is_active() {
        *blame = Some(vm.id.clone());
    }
    let found =
        job.failure_rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule, matched(rule, vm)?)));
    match found.as_ref().map(|(_, rule, _)| rule.action) {
        Some(FailureAction::FailJob) => {
            let (at, matched) = found.map(|(at, _, matched)| (at, matched)).unwrap_or_default();
            if run.status.is_active() {
                run.status = RefreshStatus::Failed;
                run.reason = Some(format!("PodFailurePolicy: {matched}, which rule {at} (FailJob) matches"));
            }
            run.failures = run.failures.saturating_add(1);
        }
        Some(FailureAction::Ignore) => run.not_before = run.not_before.max(pause(1).after(now)),
        action => {
            run.failures = run.failures.saturating_add(1);
            match (index, job.backoff_limit_per_index) {
                (Some(index), Some(limit)) => {
                    let failures = run.index_failures.entry(index).or_default();
                    failures.count = failures.count.saturating_add(1);
                    failures.not_before = pause(failures.count).after(now);
                    if failures.count > limit || action == Some(FailureAction::FailIndex) {
                        run.failed_indexes.insert(index);
                        run.index_failures.remove(&index);
                    }
                }
                _ => run.not_before = run.not_before.max(pause(run.failures).after(now)),
            }
        }
    }
}

/// Whether a failure rule matches how a VM ended, and what it matches.
fn matched(rule: &FailureRule, vm: &Member) -> Option<String> {
    match &rule.on {
        FailureMatch::ExitCodes { container, is_in, values } => {
            let matches = |(name, code): &&(String, i32)| {
                *code != 0
                    && container.as_ref().is_none_or(|container| container == name)
                    && values.contains(code) == *is_in
            };
            let (name, code) = vm.exits.iter().find(matches)?;
            Some(format!("container {name} failed with exit code {code}"))
        }
        // Its pod did not end; its machine did.
        FailureMatch::Disruption => {
            vm.exits.is_empty().then(|| "the machine ended before its pod".to_owned())
        }
        FailureMatch::Nothing => None,
    }
}

/// Notices that the run is done, or has failed; `alive` VMs of it run.
fn judge(job: &JobRules, run: &mut Run, alive: &[&Member], now: u64) {
    let deadline = job.active_deadline_seconds.map(|limit| limit.millis().after(run.started));
    let failed_indexes = run.failed_indexes.len();
    let restarts =
        alive.iter().filter(|vm| is_failing(job, vm)).fold(0_u32, |sum, vm| sum.saturating_add(vm.restarts));
    if is_done(job, run, alive.len()) {
        run.status = RefreshStatus::Successful;
        return;
    }
    let failed = if job.max_failed_indexes.is_some_and(|most| failed_indexes > most) {
        format!("MaxFailedIndexesExceeded: indexes {} failed", run.failed_indexes)
    } else if run.failures > job.backoff_limit {
        format!("BackoffLimitExceeded: {} VMs failed", run.failures)
    } else if restarts > 0 && restarts >= job.backoff_limit {
        format!("BackoffLimitExceeded: containers were started again {restarts} times")
    } else if failed_indexes > 0
        && job.completions.is_some_and(|all| run.completed.saturating_add(failed_indexes) >= all)
    {
        format!("FailedIndexes: indexes {} failed", run.failed_indexes)
    } else if deadline.is_some_and(|deadline| now >= deadline) {
        let limit = job.active_deadline_seconds.unwrap_or_default();
        format!("DeadlineExceeded: the job was active for longer than {limit}")
    } else {
        return;
    };
    run.status = RefreshStatus::Failed;
    run.reason = Some(failed);
}

/// Whether the run has succeeded.
fn is_done(job: &JobRules, run: &Run, alive: usize) -> bool {
    if job
        .success_rules
        .iter()
        .any(|rule| is_met(rule, &run.completed_indexes, job.completions.unwrap_or_default()))
    {
        return true;
    }
    match job.completions {
        Some(completions) => run.completed >= completions,
        // The first success says that there is nothing left to begin; the others bring theirs to an end.
        None => run.completed > 0 && alive == 0,
    }
}

fn is_met(rule: &SuccessRule, completed: &Indexes, completions: u32) -> bool {
    let (have, all) = match &rule.indexes {
        Some(indexes) => (indexes.common(completed), indexes.len()),
        None => (completed.len(), completions),
    };
    have >= rule.count.unwrap_or(all) && have > 0
}

/// Starts VMs that the run lacks beside those that are `held`, within what the group may have in all its runs.
fn launch(group: &GroupView, job: &JobRules, run: &Run, held: &[&Member], now: u64, decision: &mut Decision) {
    if now < run.not_before {
        return;
    }
    let held_count = u32::try_from(held.len()).unwrap_or(u32::MAX);
    let present = group.vms.iter().filter(|vm| vm.state != InstanceState::Ended);
    let starting = decision.actions.iter().filter(|action| matches!(action, Action::Launch { .. }));
    let room_of_group = MAX_MEMBERS.saturating_sub(number_of(present)).saturating_sub(number_of(starting));
    let room = job.parallelism.saturating_sub(held_count).min(room_of_group).min(LAUNCHES);
    let number = run.number;
    let mut start = |index: Option<u32>| {
        let place = MemberPlace { run: Some(RunMember { number, index }), ..MemberPlace::default() };
        decision.actions.push(Action::Launch { revision: run.revision, place });
    };
    match job.completions {
        Some(completions) if job.indexed => {
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let taken: BTreeSet<u32> = held.iter().filter_map(|vm| vm.run?.index).collect();
            let waits = |index: u32| {
                run.index_failures
                    .get(&index)
                    .is_some_and(|failures: &IndexFailures| now < failures.not_before)
            };
            let lacks = |index: &u32| {
                !run.completed_indexes.contains(*index)
                    && !run.failed_indexes.contains(*index)
                    && !taken.contains(index)
                    && !waits(*index)
            };
            (0..completions).filter(lacks).take(room).for_each(|index| start(Some(index)));
        }
        Some(completions) => {
            let missing = completions.saturating_sub(run.completed).saturating_sub(held_count);
            (0..missing.min(room)).for_each(|_| start(None));
        }
        None if run.completed == 0 => (0..room).for_each(|_| start(None)),
        None => {}
    }
}
