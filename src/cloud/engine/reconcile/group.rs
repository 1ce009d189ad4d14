//! A group as it is decided about, what may be done to its VMs, and what holds for groups of every kind.

use std::collections::BTreeSet;

use i2kit_spec::Millis;

use super::memory::GroupMemory;
use crate::plan::fleet::{GroupSettings, Health, InstanceId, InstanceState, RunMember};

/// VMs of a group: each is a record, a folder and a process of a host.
pub const MAX_MEMBERS: u32 = 1000;

/// VMs that one decision starts. The next one comes as soon as these were started.
pub(super) const LAUNCHES: u32 = 32;

/// How long connections that are under way may go on after their VM left the balancer.
pub(super) const DRAIN: Millis = Millis(10_000);

/// How long a VM may take to power off beyond its pod's grace period, before it is killed.
pub const POWER_OFF: Millis = Millis(15_000);

/// The first pause after a failed VM; doubled with each further failure, as Kubernetes does for containers.
pub(super) const BACKOFF_FIRST: Millis = Millis(5_000);

/// The longest pause between two starts of VMs that fail.
pub(super) const BACKOFF_MAX: Millis = Millis(300_000);

/// A group whose VMs were all healthy for this long has its failures forgiven.
pub(super) const BACKOFF_FORGIVEN: Millis = Millis(60_000);

/// How many ended VMs a group keeps, so that their reason and their output can still be read.
pub(super) const ENDED_KEPT: usize = 2;

/// How long an ended VM is kept at most.
pub(super) const ENDED_AGE: Millis = Millis(3_600_000);

/// So many VMs of a new revision that ended, or were lost, end its refresh before the deadline: with the back-off between
/// them, a fourth one would not fare better.
pub(super) const REFRESH_FAILURES: u32 = 3;

/// A group as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Strategy, deadlines.
    pub settings: GroupSettings,
    /// The number of VMs wanted.
    pub replicas: u32,
    /// What the group decides for itself and remembers.
    pub memory: GroupMemory,
    /// Revisions whose VMs have the disk of a claim.
    pub with_claims: BTreeSet<u32>,
    /// Its VMs, oldest first.
    pub vms: Vec<Member>,
}

/// One VM as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a VM")]
pub struct Member {
    /// Its name.
    pub id: InstanceId,
    /// Its revision.
    pub revision: u32,
    /// Its index in a StatefulSet.
    pub ordinal: Option<u32>,
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
    pub grace: Millis,
    /// Whether it failed, so that its reason is worth keeping.
    pub failed: bool,
    /// Of a Job: the run that it belongs to.
    pub run: Option<RunMember>,
    /// Whether it runs no more because its pod ended well.
    pub succeeded: bool,
    /// How often its containers were started again, all together.
    pub restarts: u32,
    /// How its containers ended, by name, when its pod did; empty when the machine ended before its pod. Told of Jobs.
    pub exits: Vec<(String, i32)>,
}

impl Member {
    pub(super) fn is_member(&self) -> bool {
        self.state == InstanceState::Running && self.alive
    }

    pub(super) fn is_available(&self, min_ready: Millis, now: u64) -> bool {
        self.is_member() && self.health == Health::Healthy && now >= min_ready.after(self.health_since)
    }

    /// Whether it runs and is of no more use.
    pub(super) fn is_lost(&self) -> bool {
        self.alive && matches!(self.health, Health::Lost { .. })
    }
}

/// Which of a group's VMs one is, where they are not all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberPlace {
    /// Its index, of a member of a StatefulSet.
    pub ordinal: Option<u32>,
    /// Of a Job: the run that it is for.
    pub run: Option<RunMember>,
}

/// Something to be done to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a VM of this revision.
    Launch {
        /// The revision.
        revision: u32,
        /// Which of the group's it is, where they are not all alike.
        place: MemberPlace,
    },
    /// Take it out of the balancer.
    Drain {
        /// The VM.
        id: InstanceId,
        /// Whether it goes because it failed.
        failed: bool,
    },
    /// Press its power button.
    PowerOff {
        /// The VM.
        id: InstanceId,
    },
    /// End its process.
    Kill {
        /// The VM.
        id: InstanceId,
    },
    /// It ended: keep its record with the reason.
    End {
        /// The VM.
        id: InstanceId,
    },
    /// Forget its record and its files.
    Forget {
        /// The VM.
        id: InstanceId,
    },
}

/// What is done, and what the group remembers from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// To be stored before the actions are carried out.
    pub memory: GroupMemory,
    /// To be carried out.
    pub actions: Vec<Action>,
    /// A refresh or a run failed just now, and this VM shows why.
    pub blame: Option<Blame>,
    /// The refresh to these revisions, or a run of them, succeeded just now.
    pub deployed: Vec<u32>,
}

/// The VM that shows why a refresh or a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// The VM.
    pub id: InstanceId,
    /// The run, when it is one.
    pub run: Option<u32>,
}

/// VMs on their way out: drained, powered off, killed when late, forgotten. Also members of a group that is being
/// deleted and died by themselves. Of those that ended the ones that are `kept` stay.
pub(super) fn leaving(
    group: &GroupView,
    now: u64,
    kept: &dyn Fn(&Member) -> bool,
    actions: &mut Vec<Action>,
) {
    let ended = group.vms.iter().filter(|vm| vm.state == InstanceState::Ended);
    actions.extend(ended.filter(|vm| !kept(vm)).map(|vm| Action::Forget { id: vm.id.clone() }));
    for vm in &group.vms {
        let id = vm.id.clone();
        let age = Millis(now.saturating_sub(vm.state_since));
        match vm.state {
            InstanceState::Running if !vm.alive && group.memory.deleting => {
                actions.push(Action::Forget { id });
            }
            InstanceState::Draining | InstanceState::Stopping if !vm.alive => {
                actions.push(if vm.failed { Action::End { id } } else { Action::Forget { id } });
            }
            InstanceState::Draining if vm.connections == 0 || age >= DRAIN => {
                actions.push(Action::PowerOff { id });
            }
            InstanceState::Stopping if age >= vm.grace.saturating_add(POWER_OFF) => {
                actions.push(Action::Kill { id });
            }
            _ => {}
        }
    }
}

/// The names of ended VMs whose records a group keeps: the newest ones, for a while.
pub(super) fn newest_ended(group: &GroupView, now: u64) -> Vec<&InstanceId> {
    let mut ended: Vec<&Member> = group.vms.iter().filter(|vm| vm.state == InstanceState::Ended).collect();
    ended.sort_by_key(|vm| std::cmp::Reverse(vm.state_since));
    ended.truncate(if group.memory.deleting { 0 } else { ENDED_KEPT });
    ended.retain(|vm| now < ENDED_AGE.after(vm.state_since));
    ended.into_iter().map(|vm| &vm.id).collect()
}

/// The pause after so many failures.
pub(super) fn pause(failures: u32) -> Millis {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// How much a VM serves: lost, unhealthy, starting, healthy.
pub(super) fn worth(vm: &Member) -> u8 {
    match vm.health {
        Health::Lost { .. } => 0,
        Health::Unhealthy { .. } => 1,
        Health::Starting { .. } => 2,
        Health::Healthy => 3,
    }
}

/// Starts of VMs, for as many as are missing and may be started by one decision.
pub(super) fn launches(missing: u32, revision: u32) -> impl Iterator<Item = Action> {
    (0..missing.min(LAUNCHES)).map(move |_| Action::Launch { revision, place: MemberPlace::default() })
}
