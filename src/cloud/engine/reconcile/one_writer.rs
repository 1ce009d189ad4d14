//! Members of StatefulSets and machines with disks, under every order of events that chance brings: no two machines ever have
//! one disk, members come and go in order, and in the end the group is what it should be.

use std::collections::BTreeSet;

use i2kit_spec::{Millis, Seconds};
use proptest::prelude::*;

use super::*;
use crate::cloud::engine::moment::Moment;
use crate::manifest::api::Strategy as Rollout;
use crate::plan::example;
use crate::plan::fleet::{GroupSettings, InstanceId, RefreshStatus, StatefulSettings};

/// A group whose machines do what a test says, at times that the test chooses.
struct World {
    group: GroupView,
    now: u64,
    started: usize,
    /// Indexes of machines in the order of their start, with their revisions.
    log: Vec<(Option<u32>, u32)>,
    /// Indexes of machines in the order in which they were let go.
    drained: Vec<Option<u32>>,
    /// Revisions that never become healthy.
    broken: BTreeSet<u32>,
}

fn stateful(parallel: bool, partition: u32) -> StatefulSettings {
    StatefulSettings { parallel, partition, ..example::stateful(vec![]) }
}

fn world(stateful: Option<StatefulSettings>, replicas: u32) -> World {
    // As groups with a claim are made; StatefulSets have rules of their own.
    let strategy = Rollout::Recreate;
    let with_claims = if stateful.is_some() { BTreeSet::new() } else { [1, 2, 3].into() };
    let settings = GroupSettings {
        min_ready_seconds: Seconds(2),
        progress_deadline_seconds: Seconds(200),
        stateful,
        ..example::settings(strategy)
    };
    let memory = GroupMemory::default();
    let group = GroupView { settings, replicas, memory, with_claims, vms: vec![] };
    let (log, drained, broken) = (vec![], vec![], BTreeSet::new());
    World { group, now: 0, started: 0, log, drained, broken }
}

impl World {
    fn refresh(&mut self, to: u32) {
        let memory = &mut self.group.memory;
        let from = memory.current;
        let now = Moment { steady: self.now, wall: self.now };
        memory.refresh = Some(RefreshState::start(from, to, now));
        memory.current.get_or_insert(to);
        memory.failures = 0;
        memory.not_before = self.now;
    }

    /// No two machines have one disk: no index has two, and of a group with a claim none has a neighbour.
    fn check(&self) {
        let alive = self.group.vms.iter().filter(|vm| vm.alive);
        let mut taken = BTreeSet::new();
        for vm in alive {
            let disk = if self.group.settings.stateful.is_some() { vm.ordinal } else { None };
            assert!(taken.insert(disk), "two machines have the disk of {disk:?}: {:#?}", self.group.vms);
        }
    }

    fn decide(&mut self) {
        let decision = decide(&self.group, Moment { steady: self.now, wall: self.now });
        self.group.memory = decision.memory;
        for action in decision.actions {
            if let Action::Launch { revision, place: MemberPlace { ordinal, .. } } = action {
                self.launch(revision, ordinal);
                continue;
            }
            let (Action::Drain { id, .. }
            | Action::PowerOff { id }
            | Action::Kill { id }
            | Action::End { id }
            | Action::Forget { id }) = &action
            else {
                continue;
            };
            let now = self.now;
            let vm = self.group.vms.iter_mut().find(|vm| vm.id == *id).expect("it is known");
            match action {
                Action::Drain { failed, .. } => {
                    vm.failed |= failed;
                    (vm.state, vm.state_since) = (InstanceState::Draining, now);
                    self.drained.push(vm.ordinal);
                }
                Action::PowerOff { .. } => (vm.state, vm.state_since) = (InstanceState::Stopping, now),
                Action::Kill { .. } => vm.alive = false,
                Action::End { .. } => {
                    assert!(!vm.alive, "its process runs");
                    (vm.state, vm.state_since) = (InstanceState::Ended, now);
                }
                _ => {
                    assert!(!vm.alive, "its process runs");
                    let id = id.clone();
                    self.group.vms.retain(|vm| vm.id != id);
                }
            }
        }
        self.check();
    }

    fn launch(&mut self, revision: u32, ordinal: Option<u32>) {
        self.started += 1;
        self.log.push((ordinal, revision));
        self.group.vms.push(Member {
            id: InstanceId(format!("vm-{}", self.started)),
            revision,
            ordinal,
            run: None,
            state: InstanceState::Running,
            state_since: self.now,
            alive: true,
            health: Health::STARTING,
            health_since: self.now,
            connections: 0,
            answered: false,
            grace: Millis(30_000),
            failed: false,
            succeeded: false,
            restarts: 0,
            exits: vec![],
        });
        self.check();
    }

    /// A second in which one machine, chosen by the number, does something; a machine that stops takes its time.
    fn turn(&mut self, choice: u8) {
        self.now += 1000;
        let count = self.group.vms.len().max(1);
        let (now, broken) = (self.now, self.broken.clone());
        if let Some(vm) = self.group.vms.get_mut(usize::from(choice >> 4) % count).filter(|vm| vm.alive) {
            let healthy = vm.state == InstanceState::Running && !broken.contains(&vm.revision);
            match (choice & 0x0f, vm.state) {
                (0..=8, InstanceState::Running) if healthy && vm.health != Health::Healthy => {
                    (vm.health, vm.health_since, vm.answered) = (Health::Healthy, now, true);
                }
                (9, _) | (0..=4, InstanceState::Stopping) => vm.alive = false,
                (10, InstanceState::Running) => {
                    (vm.health, vm.health_since) = (Health::Lost { reason: "silent".into() }, now);
                }
                (11, InstanceState::Running) => {
                    (vm.health, vm.health_since) = (Health::Unhealthy { reason: "not ready".into() }, now);
                }
                _ => {}
            }
        }
        self.decide();
    }

    /// Lets time pass in which nothing goes wrong any more.
    fn calm(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now += 1000;
            let now = self.now;
            for vm in self.group.vms.iter_mut().filter(|vm| vm.alive) {
                match vm.state {
                    InstanceState::Running if self.broken.contains(&vm.revision) => {}
                    InstanceState::Running
                        if now >= vm.state_since + 2000 && vm.health != Health::Healthy =>
                    {
                        (vm.health, vm.health_since, vm.answered) = (Health::Healthy, now, true);
                    }
                    InstanceState::Stopping if now >= vm.state_since + 3000 => vm.alive = false,
                    _ => {}
                }
            }
            self.decide();
        }
    }

    fn members(&self) -> Vec<(Option<u32>, u32)> {
        let mut found: Vec<_> =
            self.group.vms.iter().filter(|vm| vm.is_member()).map(|vm| (vm.ordinal, vm.revision)).collect();
        found.sort_unstable();
        found
    }

    fn status(&self) -> Option<RefreshStatus> {
        self.group.memory.refresh.as_ref().map(|refresh| refresh.status)
    }
}

fn at(revisions: &[u32]) -> Vec<(Option<u32>, u32)> {
    (0..).map(Some).zip(revisions.iter().copied()).collect()
}

#[test]
fn members_start_in_order_and_are_replaced_from_the_last_one() {
    let mut world = world(Some(stateful(false, 0)), 3);
    world.refresh(1);
    world.decide();
    assert_eq!(world.log, at(&[1]), "the next one waits for the first");
    world.calm(30);
    assert_eq!((world.status(), &world.log), (Some(RefreshStatus::Successful), &at(&[1, 1, 1])));
    world.log.clear();
    world.refresh(2);
    world.calm(60);
    assert_eq!(world.log, [(Some(2), 2), (Some(1), 2), (Some(0), 2)]);
    assert_eq!((world.status(), world.members()), (Some(RefreshStatus::Successful), at(&[2, 2, 2])));
    // Away from the last one, each once the one above it is gone.
    world.drained.clear();
    world.group.replicas = 1;
    world.decide();
    assert_eq!(world.drained, [Some(2)]);
    world.calm(30);
    assert_eq!((&world.drained[..], world.members()), (&[Some(2), Some(1)][..], at(&[2])));
}

#[test]
fn a_member_counts_once_it_has_been_ready_for_min_ready_seconds() {
    let mut world = world(Some(stateful(false, 0)), 2);
    world.group.settings.min_ready_seconds = Seconds(60);
    world.refresh(1);
    world.decide();
    // Ready two seconds after its start, and available a minute later.
    world.calm(60);
    assert_eq!(world.log, at(&[1]), "the next one waits until the first is available");
    world.calm(4);
    assert_eq!(world.log, at(&[1, 1]));
    world.calm(70);
    assert_eq!(world.status(), Some(RefreshStatus::Successful));
    // Of an update, too: the first is replaced when the second has been ready as long.
    world.drained.clear();
    world.refresh(2);
    world.calm(60);
    assert_eq!(world.drained, [Some(1)]);
    world.calm(80);
    assert_eq!(world.drained, [Some(1), Some(0)]);
}

#[test]
fn parallel_members_start_at_once_and_are_replaced_one_by_one() {
    let mut world = world(Some(stateful(true, 0)), 3);
    world.refresh(1);
    world.decide();
    assert_eq!(world.log, at(&[1, 1, 1]));
    world.calm(30);
    world.log.clear();
    world.refresh(2);
    world.decide();
    assert_eq!(world.drained, [Some(2)]);
    world.calm(60);
    assert_eq!(world.log, [(Some(2), 2), (Some(1), 2), (Some(0), 2)]);
    world.group.replicas = 0;
    world.drained.clear();
    world.decide();
    assert_eq!(world.drained, [Some(2), Some(1), Some(0)]);
}

#[test]
fn a_partition_holds_members_back_also_when_they_are_replaced() {
    let mut world = world(Some(stateful(false, 2)), 3);
    world.refresh(1);
    world.calm(40);
    world.refresh(2);
    world.calm(40);
    assert_eq!((world.status(), world.members()), (Some(RefreshStatus::Successful), at(&[1, 1, 2])));
    for vm in &mut world.group.vms {
        vm.alive = false;
    }
    world.calm(200);
    assert_eq!(world.members(), at(&[1, 1, 2]));
    // Another one beside it, and then all.
    world.refresh(3);
    world.calm(60);
    assert_eq!(world.members(), at(&[1, 1, 3]));
    world.group.settings.stateful = Some(stateful(false, 0));
    world.refresh(3);
    world.calm(60);
    assert_eq!((world.status(), world.members()), (Some(RefreshStatus::Successful), at(&[3, 3, 3])));
}

#[test]
fn a_broken_revision_stops_at_its_first_member_and_is_rolled_back() {
    let mut world = world(Some(stateful(false, 0)), 3);
    world.refresh(1);
    world.calm(40);
    world.broken.insert(2);
    world.refresh(2);
    world.calm(100);
    assert_eq!(world.members(), at(&[1, 1, 2]), "one member at a time");
    world.calm(400);
    assert_eq!((world.status(), world.members()), (Some(RefreshStatus::RolledBack), at(&[1, 1, 1])));
}

#[test]
fn a_first_revision_that_never_was_ready_is_mended_by_the_next_one() {
    let mut world = world(Some(stateful(false, 0)), 3);
    world.broken.insert(1);
    world.refresh(1);
    world.calm(20);
    assert_eq!(world.members(), at(&[1]));
    world.group.memory.refresh.as_mut().unwrap().status = RefreshStatus::Cancelled;
    world.group.memory.current = None;
    world.refresh(2);
    world.calm(60);
    assert_eq!((world.status(), world.members()), (Some(RefreshStatus::Successful), at(&[2, 2, 2])));
}

#[test]
fn a_claim_s_disk_is_given_up_before_the_next_machine_has_it() {
    let mut world = world(None, 1);
    world.refresh(1);
    world.calm(20);
    assert_eq!(world.members(), [(None, 1)]);
    world.refresh(2);
    world.calm(60);
    assert_eq!(world.members(), [(None, 2)]);
    // However large it is made.
    world.group.replicas = 3;
    world.calm(60);
    assert_eq!(world.members(), [(None, 2)]);
    // A lost one is ended before its successor starts.
    let now = world.now;
    let vm = world.group.vms.iter_mut().find(|vm| vm.alive).unwrap();
    (vm.health, vm.health_since) = (Health::Lost { reason: "silent".into() }, now);
    world.group.replicas = 1;
    world.calm(60);
    assert_eq!(world.members(), [(None, 2)]);
}

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Turns(u8),
    Scale(u32),
    Refresh(u32),
    Partition(u32),
    Delete,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        30 => any::<u8>().prop_map(Happening::Turns),
        2 => (0_u32..5).prop_map(Happening::Scale),
        2 => (1_u32..4).prop_map(Happening::Refresh),
        1 => (0_u32..4).prop_map(Happening::Partition),
        1 => Just(Happening::Delete),
    ];
    prop::collection::vec(one, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_disk_ever_has_two_writers(
        parallel in any::<bool>(),
        with_claim in any::<bool>(),
        broken in prop::collection::btree_set(2_u32..4, 0..2),
        happenings in happenings(),
    ) {
        let mut world = world((!with_claim).then(|| stateful(parallel, 0)), if with_claim { 1 } else { 3 });
        world.broken = broken;
        world.refresh(1);
        let mut deleted = false;
        for happening in happenings {
            match happening {
                Happening::Turns(choice) => world.turn(choice),
                Happening::Scale(replicas) => world.group.replicas = if with_claim { replicas.min(1) } else { replicas },
                // As the environment has it: another one is cancelled first.
                Happening::Refresh(to) => world.refresh(to),
                Happening::Partition(partition) => {
                    if let Some(set) = &mut world.group.settings.stateful {
                        set.partition = partition;
                    }
                }
                Happening::Delete => deleted = true,
            }
            world.check();
        }
        if let Some(set) = &mut world.group.settings.stateful {
            set.partition = 0;
        }
        world.broken.clear();
        // As the next deployment does.
        world.refresh(world.group.memory.current.unwrap());
        world.group.memory.deleting = deleted;
        // Long enough for each pause after failures.
        world.calm(1500);
        let current = world.group.memory.current;
        let expected = match (deleted, with_claim) {
            (true, _) => vec![],
            (false, true) => vec![(None, current.unwrap()); usize::from(world.group.replicas > 0)],
            (false, false) => {
                let count = usize::try_from(world.group.replicas).unwrap();
                at(&vec![current.unwrap(); count])
            }
        };
        // After a refresh that failed on its way back as well, nobody replaces what is left of it.
        let is_mixed = world.status() == Some(RefreshStatus::Failed);
        let shown = |members: Vec<(Option<u32>, u32)>| -> Vec<(Option<u32>, u32)> {
            members.into_iter().map(|(ordinal, revision)| (ordinal, if is_mixed { 0 } else { revision })).collect()
        };
        prop_assert_eq!(shown(world.members()), shown(expected), "{:?}", world.group.memory);
    }
}
