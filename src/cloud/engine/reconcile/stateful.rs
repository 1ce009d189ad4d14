//! Groups whose members have an index: StatefulSets. Each index has one VM at most at any time, since its disks have one
//! writer: a member ends before its successor starts, whatever it is replaced for.

use std::cmp::Reverse;

use super::group::{Action, Decision, GroupView, LAUNCHES, Member, MemberPlace};
use super::memory::GroupMemory;
use super::refresh;
use crate::plan::fleet::{InstanceState, StatefulSettings, count};

/// Notes the revision of the members below the partition for as long as there is one.
pub(super) fn hold(set: &StatefulSettings, memory: &mut GroupMemory) {
    if set.partition <= set.first {
        // Nothing goes back to it: the members that had it are replaced, or about to be.
        memory.held = None;
        return;
    }
    let refresh = memory.refresh.as_ref().filter(|refresh| refresh.status.is_active());
    if memory.held.is_none() {
        memory.held = refresh.and_then(|refresh| refresh.from);
    }
}

/// Starts members that are missing, lets go of those beyond the group's size, and during a refresh replaces those of other
/// revisions.
pub(super) fn place(
    group: &GroupView,
    set: &StatefulSettings,
    members: &[&Member],
    now: u64,
    decision: &mut Decision,
) {
    let set = Set { group, rules: set, members, now, memory: decision.memory.clone() };
    if now >= decision.memory.not_before {
        set.start(&mut decision.actions);
    }
    set.shrink(&mut decision.actions);
    if refresh::is_active(&decision.memory) {
        set.replace(&mut decision.actions);
    }
}

/// A StatefulSet as it is now.
struct Set<'g> {
    group: &'g GroupView,
    rules: &'g StatefulSettings,
    /// VMs that are neither leaving nor gone nor about to go.
    members: &'g [&'g Member],
    now: u64,
    memory: GroupMemory,
}

impl Set<'_> {
    fn ordinals(&self) -> std::ops::Range<u32> {
        self.rules.ordinals(self.group.replicas)
    }

    /// The VM that has the index and its disks: one whose process runs, whatever else is said of it.
    fn holder(&self, ordinal: u32) -> Option<&Member> {
        self.group.vms.iter().find(|vm| vm.ordinal == Some(ordinal) && vm.alive)
    }

    fn is_available(&self, vm: &Member) -> bool {
        let min_ready = self.group.settings.min_ready_seconds.millis();
        vm.is_available(min_ready, self.now) && self.members.iter().any(|member| member.id == vm.id)
    }

    /// In order, each once all before it are available; or all at once.
    fn start(&self, actions: &mut Vec<Action>) {
        let mut launched = 0;
        for ordinal in self.ordinals() {
            if launched >= LAUNCHES {
                return;
            }
            match self.holder(ordinal) {
                None => {
                    let revision = self.memory.revision_of(&self.group.settings, Some(ordinal));
                    let Some(revision) = revision else { return };
                    let place = MemberPlace { ordinal: Some(ordinal), ..MemberPlace::default() };
                    actions.push(Action::Launch { revision, place });
                    launched += 1;
                    if !self.rules.parallel {
                        return;
                    }
                }
                Some(vm) if !self.rules.parallel && !self.is_available(vm) => return,
                Some(_) => {}
            }
        }
    }

    /// From the highest index, each once the one above it is gone; or all at once. VMs without an index are of when the
    /// group was no StatefulSet.
    fn shrink(&self, actions: &mut Vec<Action>) {
        let is_surplus = |vm: &Member| vm.ordinal.is_none_or(|ordinal| !self.ordinals().contains(&ordinal));
        let leaves = self.group.vms.iter().any(|vm| {
            vm.ordinal.is_some() && vm.alive && is_surplus(vm) && vm.state != InstanceState::Running
        });
        let mut surplus: Vec<&&Member> = self.members.iter().filter(|vm| is_surplus(vm)).collect();
        surplus.sort_by_key(|vm| Reverse(vm.ordinal));
        let mut ordered = if self.rules.parallel { usize::MAX } else { usize::from(!leaves) };
        for vm in surplus {
            if vm.ordinal.is_some() {
                if ordered == 0 {
                    continue;
                }
                ordered -= 1;
            }
            actions.push(Action::Drain { id: vm.id.clone(), failed: false });
        }
    }

    /// From the highest index, as many at a time as may be missing. What serves nothing goes first: it may be what the
    /// refresh mends.
    fn replace(&self, actions: &mut Vec<Action>) {
        let at = |ordinal: u32| self.members.iter().find(|vm| vm.ordinal == Some(ordinal));
        let leaves = |ordinal: &u32| at(*ordinal).is_none() && self.holder(*ordinal).is_some();
        let leaving = count(self.ordinals().filter(leaves));
        let mut unavailable =
            count(self.ordinals().filter(|ordinal| at(*ordinal).is_none_or(|vm| !self.is_available(vm))));
        let limit = self.rules.max_unavailable.of_rounded_up(self.group.replicas).max(1);
        let mut wrong: Vec<&Member> = self
            .ordinals()
            .filter_map(at)
            .copied()
            .filter(|vm| self.memory.revision_of(&self.group.settings, vm.ordinal) != Some(vm.revision))
            .collect();
        wrong.sort_by_key(|vm| (self.is_available(vm), Reverse(vm.ordinal)));
        for (leaving, vm) in (leaving..).zip(wrong) {
            let available = self.is_available(vm);
            if leaving >= limit || (available && unavailable >= limit) {
                return;
            }
            unavailable += u32::from(available);
            actions.push(Action::Drain { id: vm.id.clone(), failed: false });
        }
    }
}
