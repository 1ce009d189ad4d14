//! The decisions of a cloud that keeps groups itself: given a group as it is now and the time, which VMs are started,
//! drained, stopped, and how its refresh goes on.
//!
//! Pure: no clock, no process, no database. The local cloud carries the decisions out on qemu, the fake cloud on
//! values. Times are milliseconds of a clock that does not jump; see [`Steady`](super::Steady).

mod job;
mod refresh;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::refresh::{Reached, RefreshState};
use crate::plan::fleet::{GroupSettings, Health, InstanceState, count};

/// How long connections that are under way may go on after their VM left the balancer.
pub const DRAIN_MS: u64 = 10_000;

/// How long a VM may take to power off beyond its pod's grace period, before it is killed.
pub const POWER_OFF_MS: u64 = 15_000;

/// The first pause after a failed VM; doubled with each further failure, as Kubernetes does for containers.
pub const BACKOFF_FIRST_MS: u64 = 5_000;

/// The longest pause between two starts of VMs that fail.
pub const BACKOFF_MAX_MS: u64 = 300_000;

/// A group whose VMs were all healthy for this long has its failures forgiven.
pub const BACKOFF_FORGIVEN_MS: u64 = 60_000;

/// So many VMs of a new revision that ended, or were lost, end its refresh before the deadline: with the back-off between
/// them, a fourth one would not fare better.
pub const REFRESH_FAILURES: u32 = 3;

/// How many ended VMs a group keeps, so that their reason and their output can still be read.
pub const ENDED_KEPT: usize = 2;

/// How long an ended VM is kept at most.
pub const ENDED_KEPT_MS: u64 = 3_600_000;

/// A group as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Strategy, deadlines.
    pub settings: GroupSettings,
    /// The number of VMs wanted.
    pub replicas: u32,
    /// What the group decides for itself and remembers.
    pub memory: Memory,
    /// Its VMs, oldest first.
    pub vms: Vec<Vm>,
}

/// What a group remembers from one decision to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The revision that it runs, or returns to.
    pub current: Option<u32>,
    /// The newest refresh.
    pub refresh: Option<RefreshState>,
    /// VMs that failed since the group was last well, or since the job started.
    pub failures: u32,
    /// Of a job: VMs that ended well.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub completed: u32,
    /// No VM is started before this time.
    pub not_before: u64,
    /// Since when all VMs are healthy.
    pub well_since: Option<u64>,
    /// All VMs are to go, and then the group.
    pub deleting: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One VM as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a VM")]
pub struct Vm {
    /// Its name.
    pub id: String,
    /// Its revision.
    pub revision: u32,
    /// Where it is in its life.
    pub state: InstanceState,
    /// When it came into that state.
    pub state_since: u64,
    /// Whether its process runs.
    pub alive: bool,
    /// What its health check says.
    pub health: Health,
    /// Since when its health is what it is (starting, healthy or unhealthy).
    pub health_since: u64,
    /// Connections that the balancer still carries to it.
    pub connections: u32,
    /// Whether its guest ever answered.
    pub answered: bool,
    /// Its pod's grace period.
    pub grace_ms: u64,
    /// Whether it failed, so that its reason is worth keeping.
    pub failed: bool,
    /// Whether it runs no more because its pod ended well.
    pub succeeded: bool,
}

impl Vm {
    fn is_member(&self) -> bool {
        self.state == InstanceState::Running && self.alive
    }

    fn is_available(&self, min_ready_ms: u64, now: u64) -> bool {
        self.is_member()
            && self.health == Health::Healthy
            && now >= self.health_since.saturating_add(min_ready_ms)
    }

    /// Whether it runs and is of no more use.
    fn is_lost(&self) -> bool {
        self.alive && matches!(self.health, Health::Lost { .. })
    }
}

/// Something to be done to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Start a VM of this revision.
    Launch {
        /// The revision.
        revision: u32,
    },
    /// Take it out of the balancer.
    Drain {
        /// The VM.
        id: String,
        /// Whether it goes because it failed.
        failed: bool,
    },
    /// Press its power button.
    PowerOff {
        /// The VM.
        id: String,
    },
    /// End its process.
    Kill {
        /// The VM.
        id: String,
    },
    /// It ended: keep its record with the reason.
    End {
        /// The VM.
        id: String,
    },
    /// Forget its record and its files.
    Forget {
        /// The VM.
        id: String,
    },
}

/// What is done, and what the group remembers from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// To be stored before the acts are carried out.
    pub memory: Memory,
    /// To be carried out.
    pub acts: Vec<Act>,
    /// The refresh failed just now, and this VM shows why.
    pub blame: Option<String>,
    /// The refresh to this revision succeeded just now.
    pub deployed: Option<u32>,
}

/// Decides what is done about `group` at the time `now`.
pub fn decide(group: &Group, now: u64) -> Decision {
    if let Some(job) = &group.settings.job {
        return job::decide(group, job, now);
    }
    let mut decision =
        Decision { memory: group.memory.clone(), acts: Vec::new(), blame: None, deployed: None };
    leaving(group, now, &mut decision.acts);
    if group.memory.deleting {
        let members = group.vms.iter().filter(|vm| vm.is_member());
        decision.acts.extend(members.map(|vm| Act::Drain { id: vm.id.clone(), failed: false }));
        return decision;
    }
    let failed = failing(group);
    for vm in &failed {
        let id = vm.id.clone();
        decision.acts.push(if vm.alive { Act::Drain { id, failed: true } } else { Act::End { id } });
    }
    let members: Vec<&Vm> =
        group.vms.iter().filter(|vm| vm.is_member() && failed.iter().all(|f| f.id != vm.id)).collect();
    back_off(group, &members, &failed, now, &mut decision.memory);
    refresh::advance(group, &members, &failed, now, &mut decision);
    if refresh::is_active(&decision.memory) {
        refresh::replace(group, &members, now, &mut decision);
    } else {
        keep_size(group, &members, now, &mut decision);
    }
    decision
}

/// VMs on their way out: drained, powered off, killed when late, forgotten. Also members of a group that is being
/// deleted and died by themselves.
fn leaving(group: &Group, now: u64, acts: &mut Vec<Act>) {
    let mut ended: Vec<&Vm> = group.vms.iter().filter(|vm| vm.state == InstanceState::Ended).collect();
    ended.sort_by_key(|vm| std::cmp::Reverse(vm.state_since));
    let keep = if group.memory.deleting { 0 } else { ENDED_KEPT };
    for (index, vm) in ended.into_iter().enumerate() {
        if index >= keep || now >= vm.state_since.saturating_add(ENDED_KEPT_MS) {
            acts.push(Act::Forget { id: vm.id.clone() });
        }
    }
    for vm in &group.vms {
        let id = vm.id.clone();
        let age = now.saturating_sub(vm.state_since);
        match vm.state {
            InstanceState::Running if !vm.alive && group.memory.deleting => acts.push(Act::Forget { id }),
            InstanceState::Draining | InstanceState::Stopping if !vm.alive => {
                acts.push(if vm.failed { Act::End { id } } else { Act::Forget { id } });
            }
            InstanceState::Draining if vm.connections == 0 || age >= DRAIN_MS => {
                acts.push(Act::PowerOff { id });
            }
            InstanceState::Stopping if age >= vm.grace_ms.saturating_add(POWER_OFF_MS) => {
                acts.push(Act::Kill { id });
            }
            _ => {}
        }
    }
}

/// Members that are not alive: those that ended by themselves, and of those that are lost the one that is for longest.
/// A VM that is alive and not ready is none, however long that takes: its balancer leaves it out, and its guest starts
/// what ended in it again, as kubelet does.
///
/// Only one lost VM goes at a time, and not before the one that takes its place has shown that it boots: when all are
/// silent the cause is likely outside, and replacing all at once would end what still works.
fn failing(group: &Group) -> Vec<&Vm> {
    let running = || group.vms.iter().filter(|vm| vm.state == InstanceState::Running);
    let mut failed: Vec<&Vm> = running().filter(|vm| !vm.alive).collect();
    let boots = running().any(|vm| vm.alive && !vm.answered && !vm.is_lost());
    let missing = count(running().filter(|vm| vm.alive)) < group.replicas;
    if !boots && !missing {
        failed.extend(running().filter(|vm| vm.is_lost()).min_by_key(|vm| vm.health_since));
    }
    failed
}

fn back_off(group: &Group, members: &[&Vm], failed: &[&Vm], now: u64, memory: &mut Memory) {
    let well = failed.is_empty()
        && count(members.iter()) >= group.replicas
        && members.iter().all(|vm| vm.health == Health::Healthy);
    memory.well_since = well.then(|| memory.well_since.unwrap_or(now));
    if memory.failures > 0
        && memory.well_since.is_some_and(|since| now >= since.saturating_add(BACKOFF_FORGIVEN_MS))
    {
        memory.failures = 0;
    }
    for vm in failed {
        // A VM that was healthy for long enough is replaced at once: its end says nothing about the next one.
        let proven = vm.health == Health::Healthy && now >= vm.health_since.saturating_add(BACKOFF_FIRST_MS);
        if proven && memory.failures == 0 {
            continue;
        }
        memory.failures = memory.failures.saturating_add(1);
        let pause = BACKOFF_FIRST_MS.saturating_mul(1 << memory.failures.saturating_sub(1).min(16));
        memory.not_before = memory.not_before.max(now.saturating_add(pause.min(BACKOFF_MAX_MS)));
    }
}

/// Starts what is missing and lets go of what is too much, outside of a refresh.
fn keep_size(group: &Group, members: &[&Vm], now: u64, decision: &mut Decision) {
    let Some(revision) = decision.memory.current else { return };
    let have = count(members.iter());
    if have < group.replicas && now >= decision.memory.not_before {
        decision.acts.extend((have..group.replicas).map(|_| Act::Launch { revision }));
    }
    let surplus = have.saturating_sub(group.replicas);
    let mut candidates = members.to_vec();
    // Other revisions first, then what serves least: lost, unhealthy, starting, healthy; the newest of equals.
    candidates.reverse();
    candidates.sort_by_key(|vm| (vm.revision == revision, worth(vm)));
    let surplus = usize::try_from(surplus).unwrap_or(usize::MAX);
    decision
        .acts
        .extend(candidates.iter().take(surplus).map(|vm| Act::Drain { id: vm.id.clone(), failed: false }));
}

fn worth(vm: &Vm) -> u8 {
    match vm.health {
        Health::Lost { .. } => 0,
        Health::Unhealthy { .. } => 1,
        Health::Starting { .. } => 2,
        Health::Healthy => 3,
    }
}
