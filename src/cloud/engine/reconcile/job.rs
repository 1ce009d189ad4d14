//! Groups whose VMs run to an end: Jobs, and CronJobs, whose schedule starts runs of their Job. A VM that ended well is not
//! replaced; one that failed is, until too many have. Which failures count, and when a run is done, is in
//! [`run`].

use std::collections::BTreeSet;

use i2kit_spec::Millis;

use super::group::{Action, Decision, GroupView, Member, leaving};
use super::run_state::Run;
use super::{run, schedule};
use crate::cloud::engine::moment::Moment;
use crate::manifest::api::{CronRules, JobRules};
use crate::plan::fleet::{InstanceId, InstanceState, RefreshStatus};

/// An ended run is kept for so long at least, whatever its rules say: whoever waits for its end sees it.
const SEEN: Millis = Millis(2_000);

/// So many ended VMs of each run are kept, the newest ones, so that their reason and their output can still be read.
const RUN_ENDED_KEPT: usize = 10;

/// Decides what is done about a job at the time `now`: its runs go on.
pub(super) fn decide(group: &GroupView, job: &JobRules, now: Moment) -> Decision {
    let memory = group.memory.clone();
    let mut decision = Decision { memory, actions: Vec::new(), blame: None, deployed: Vec::new() };
    if group.memory.deleting {
        leaving(group, now.steady, &|_| false, &mut decision.actions);
        let alive = group.vms.iter().filter(|vm| vm.state == InstanceState::Running && vm.alive);
        decision.actions.extend(alive.map(drain));
        return decision;
    }
    let mut runs = std::mem::take(&mut decision.memory.runs);
    if let Some(rules) = &group.settings.schedule {
        start_due(rules, job, &mut decision, &mut runs, now);
    }
    for run in &mut runs {
        run::advance(group, job, run, now.steady, &mut decision);
        if !run.status.is_active() && run.finished.is_none() {
            run.finished = Some(now.steady);
            run.ended = Some(now.wall / 1000);
            // A CronJob's is the revision that its next run is of.
            if run.status == RefreshStatus::Successful && group.settings.schedule.is_none() {
                decision.memory.current = Some(run.revision);
            }
        }
    }
    strays(group, &runs, &mut decision.actions);
    match &group.settings.schedule {
        Some(rules) => forget(group, job, rules, &mut runs, now.steady),
        // As in Kubernetes the job itself goes, and running it again is another one.
        None => {
            decision.memory.deleting = now.steady >= group.memory.kept_until
                && runs.last().is_some_and(|run| is_expired(job, run, now.steady));
        }
    }
    let kept = kept(group, &runs);
    leaving(group, now.steady, &|vm| kept.contains(&vm.id), &mut decision.actions);
    decision.memory.runs = runs;
    decision
}

fn drain(vm: &Member) -> Action {
    Action::Drain { id: vm.id.clone(), failed: false }
}

/// Starts the run that the schedule asks for, at the revision that was deployed last.
fn start_due(rules: &CronRules, job: &JobRules, decision: &mut Decision, runs: &mut Vec<Run>, now: Moment) {
    let memory = &mut decision.memory;
    let Some(revision) = memory.current else { return };
    let number = memory.last_run.saturating_add(1);
    let started = runs.len();
    schedule::advance(rules, &mut memory.schedule, runs, now.wall, |scheduled| {
        let rules = Some(job.clone());
        Some(Run { scheduled: Some(scheduled), rules, ..Run::start(number, revision, now) })
    });
    if runs.len() > started {
        memory.last_run = number;
    }
}

/// VMs that run and are of no active run: they end, and count for none.
fn strays(group: &GroupView, runs: &[Run], actions: &mut Vec<Action>) {
    let active: BTreeSet<u32> =
        runs.iter().filter(|run| run.status.is_active()).map(|run| run.number).collect();
    let ended: BTreeSet<&InstanceId> = actions
        .iter()
        .filter_map(|action| match action {
            Action::End { id } | Action::Drain { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    let is_stray = |vm: &&Member| {
        vm.state == InstanceState::Running
            && vm.run.is_none_or(|run| !active.contains(&run.number))
            && !ended.contains(&vm.id)
    };
    let strays: Vec<Action> = group
        .vms
        .iter()
        .filter(is_stray)
        .map(|vm| if vm.alive { drain(vm) } else { Action::End { id: vm.id.clone() } })
        .collect();
    actions.extend(strays);
}

/// Whether a run that ended is to be removed by its age.
fn is_expired(job: &JobRules, run: &Run, now: u64) -> bool {
    let ttl = run.rules(job).ttl_seconds_after_finished;
    let Some((finished, ttl)) = run.finished.zip(ttl) else { return false };
    now >= ttl.millis().max(SEEN).after(finished)
}

/// Forgets runs of a CronJob: those that are too many, too old, or were replaced.
fn forget(group: &GroupView, job: &JobRules, rules: &CronRules, runs: &mut Vec<Run>, now: u64) {
    let has_vms = |run: &Run| {
        let of_run = |vm: &&Member| vm.run.is_some_and(|member| member.number == run.number);
        group.vms.iter().filter(of_run).any(|vm| vm.state != InstanceState::Ended)
    };
    let (mut successful, mut failed) = (rules.successful_history, rules.failed_history);
    let mut keep: Vec<bool> = Vec::new();
    for run in runs.iter().rev() {
        let room = match run.status {
            RefreshStatus::Successful => Some(&mut successful),
            RefreshStatus::Failed => Some(&mut failed),
            // What was replaced is of no more interest, as in Kubernetes.
            _ => None,
        };
        let is_within = run.status.is_active()
            || room.is_some_and(|room| {
                let is_within = *room > 0;
                *room = room.saturating_sub(1);
                is_within
            });
        let unseen = run.finished.is_none_or(|finished| now < SEEN.after(finished));
        keep.push(unseen || has_vms(run) || (is_within && !is_expired(job, run, now)));
    }
    let mut keep = keep.into_iter().rev();
    runs.retain(|_| keep.next().unwrap_or(true));
}

/// Ended VMs whose records are kept: the newest of each run that is known.
fn kept(group: &GroupView, runs: &[Run]) -> BTreeSet<InstanceId> {
    let mut kept = BTreeSet::new();
    for run in runs {
        let of_run = |vm: &&Member| vm.run.is_some_and(|member| member.number == run.number);
        let ended = group.vms.iter().filter(|vm| vm.state == InstanceState::Ended);
        let mut ended: Vec<&Member> = ended.filter(of_run).collect();
        ended.sort_by_key(|vm| std::cmp::Reverse(vm.state_since));
        kept.extend(ended.into_iter().take(RUN_ENDED_KEPT).map(|vm| vm.id.clone()));
    }
    kept
}
