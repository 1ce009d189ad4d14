//! The reconciler on the fake cloud: limits are kept at every moment, and in the end the group is what it should be.

use i2kit_spec::{Millis, Seconds};
use proptest::prelude::*;

use crate::cloud::engine::environment::{GroupRecord, MachineFacts};
use crate::cloud::engine::health::SILENT_LOST;
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::reconcile;
use crate::cloud::sim::{Behaviour, Sim, World};
use crate::manifest::api::{IntOrPercent, Name, Strategy as Rollout};
use crate::oci::Digest;
use crate::plan::act::NewRevision;
use crate::plan::example;
use crate::plan::fleet::{GroupSettings, Health, InstanceId, InstanceState, RefreshStatus};
use crate::plan::image::ImageId;

fn web() -> Name {
    Name { namespace: "default".into(), name: "web".into() }
}

fn image(number: u32) -> ImageId {
    ImageId(Digest::of(&number.to_le_bytes()))
}

fn settings(max_unavailable: u32, max_surge: u32) -> GroupSettings {
    let strategy = Rollout::RollingUpdate {
        max_unavailable: IntOrPercent::Int(max_unavailable),
        max_surge: IntOrPercent::Int(max_surge),
    };
    GroupSettings {
        min_ready_seconds: Seconds(2),
        progress_deadline_seconds: Seconds(100),
        ..example::settings(strategy)
    }
}

/// A world with one group and one revision for each behaviour; revision 1 is healthy on `replicas` VMs.
fn world(settings: &GroupSettings, replicas: u32, behaviours: &[Behaviour]) -> Sim {
    let sim = Sim::default();
    {
        let mut world = sim.world();
        world.environment.put_group(&web(), settings).unwrap();
        for (number, behaviour) in (1..).zip([Behaviour::Ready(3000)].iter().chain(behaviours)) {
            let image = image(number);
            world.behaviours.insert(image, *behaviour);
            world.environment.images.insert(image);
            let launch = example::launch(image);
            let revision = NewRevision { number, launch, cause: "test".into() };
            world.environment.put_revision(&web(), &revision, Moment::default()).unwrap();
        }
        world.environment.start_refresh(&web(), 1, replicas, Moment::default()).unwrap();
        world.pass(10);
        assert_eq!(status(&world), RefreshStatus::Successful);
    }
    sim
}

fn group(world: &World) -> &GroupRecord {
    &world.environment.groups[&web()]
}

fn status(world: &World) -> RefreshStatus {
    group(world).memory.refresh.as_ref().unwrap().status
}

fn running(world: &World) -> Vec<u32> {
    let vms = group(world).instances.values().filter(|vm| vm.state == InstanceState::Running);
    vms.map(|vm| vm.revision).collect()
}

fn healthy(world: &World) -> usize {
    group(world).instances.values().filter(|vm| vm.serves()).count()
}

#[test]
fn a_refresh_brings_one_new_vm_before_an_old_one_leaves() {
    let sim = world(&settings(0, 1), 3, &[Behaviour::Ready(3000)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 3, now).unwrap();
    for _ in 0..60 {
        world.pass(1);
        assert!(healthy(&world) >= 3, "{:?}", group(&world).instances);
        assert!(running(&world).len() <= 4);
    }
    assert_eq!(status(&world), RefreshStatus::Successful);
    assert_eq!(running(&world), [2, 2, 2]);
    assert!(group(&world).revision(2).unwrap().deployed.is_some());
}

#[test]
fn a_revision_that_is_never_ready_is_rolled_back_with_its_reason() {
    let sim = world(&settings(0, 1), 3, &[Behaviour::NeverReady]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 3, now).unwrap();
    for _ in 0..130 {
        world.pass(1);
        assert!(healthy(&world) >= 3);
    }
    let refresh = group(&world).memory.refresh.clone().unwrap();
    assert_eq!(refresh.status, RefreshStatus::RolledBack);
    assert_eq!(group(&world).memory.current, Some(1));
    assert_eq!(running(&world), [1, 1, 1]);
    let reason = refresh.reason.unwrap();
    assert!(reason.contains("web-2-"), "{reason}");
}

#[test]
fn a_revision_whose_vms_end_fails_before_the_deadline() {
    let sim = world(&settings(0, 1), 2, &[Behaviour::Ends(1000)]);
    let mut world = sim.world();
    let start = world.now;
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 2, now).unwrap();
    while status(&world) == RefreshStatus::InProgress {
        world.pass(1);
    }
    assert!(world.now - start < 30_000, "{}", world.now - start);
    world.pass(5);
    assert_eq!(status(&world), RefreshStatus::RolledBack);
    assert_eq!(running(&world), [1, 1]);
}

#[test]
fn a_killed_vm_is_replaced_at_once_and_a_crash_loop_is_not() {
    let sim = world(&settings(0, 1), 3, &[]);
    let mut world = sim.world();
    world.pass(10);
    let victim = group(&world).instances.keys().next().unwrap().clone();
    world.kill(&victim);
    world.pass(1);
    assert_eq!(running(&world).len(), 3);
    assert_eq!(group(&world).instances[&victim].state, InstanceState::Ended);
    world.pass(4);
    assert_eq!(healthy(&world), 3);

    world.behaviours.insert(image(1), Behaviour::Ends(0));
    world.pass(600);
    // 5, 10, 20, 40, 80, 160, 300 seconds: three VMs each.
    assert!(group(&world).memory.failures < 40, "{}", group(&world).memory.failures);
    assert!(group(&world).instances.len() < 10);

    world.behaviours.insert(image(1), Behaviour::Ready(1000));
    world.pass(400);
    assert_eq!((healthy(&world), group(&world).memory.failures), (3, 0));
}

#[test]
fn recreate_ends_all_old_vms_first() {
    let mut recreate = settings(0, 0);
    recreate.strategy = Rollout::Recreate;
    let sim = world(&recreate, 2, &[Behaviour::Ready(1000)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 2, now).unwrap();
    for _ in 0..30 {
        world.pass(1);
        let running = running(&world);
        assert!(running.iter().all(|n| *n == 1) || running.iter().all(|n| *n == 2), "{running:?}");
    }
    assert_eq!(status(&world), RefreshStatus::Successful);
}

#[test]
fn a_first_start_that_fails_is_failed_and_goes_on_with_pauses() {
    let sim = world(&settings(0, 1), 0, &[Behaviour::NeverReady]);
    let mut world = sim.world();
    world.environment.groups.get_mut(&web()).unwrap().memory = reconcile::GroupMemory::default();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 1, now).unwrap();
    world.pass(150);
    assert_eq!(status(&world), RefreshStatus::Failed);
    world.behaviours.insert(image(2), Behaviour::Ready(1000));
    world.pass(400);
    assert_eq!(healthy(&world), 1);
}

#[test]
fn scaling_down_takes_what_serves_least() {
    let sim = world(&settings(0, 1), 3, &[]);
    let mut world = sim.world();
    let sick = group(&world).instances.keys().nth(1).unwrap().clone();
    let now = world.now;
    let record = world.environment.groups.get_mut(&web()).unwrap().instances.get_mut(&sick).unwrap();
    record.set_health(Health::Unhealthy { reason: "sick".into() }, now);
    world.behaviours.insert(image(1), Behaviour::Silent);
    world.environment.set_replicas(&web(), 2).unwrap();
    world.pass(1);
    assert_ne!(group(&world).instances[&sick].state, InstanceState::Running);
    assert_eq!(running(&world).len(), 2);
}

#[test]
fn vms_that_were_there_before_do_not_fail_a_refresh() {
    let sim = world(&settings(0, 0), 3, &[]);
    let mut world = sim.world();
    for id in group(&world).instances.keys().cloned().collect::<Vec<_>>() {
        world.kill(&id);
    }
    let now = world.moment();
    world.environment.start_refresh(&web(), 1, 3, now).unwrap();
    world.pass(50);
    assert_eq!((status(&world), healthy(&world)), (RefreshStatus::Successful, 3));
}

/// Ids of members, oldest first.
fn ids(world: &World) -> Vec<InstanceId> {
    let members = group(world).instances.values().filter(|vm| vm.state == InstanceState::Running);
    members.map(|vm| vm.id.clone()).collect()
}

#[test]
fn a_pod_that_starts_for_long_deploys() {
    // Init containers of five minutes, then a startup probe that succeeds at the last of 60 questions, 10 s each, then
    // a readiness probe that waits for 300 s.
    let start = 300_000 + 600_000 + 300_000;
    let patient = GroupSettings { progress_deadline_seconds: Seconds(1500), ..settings(0, 1) };
    let sim = world(&patient, 2, &[Behaviour::Starts(start)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 2, now).unwrap();
    let mut launched = std::collections::BTreeSet::new();
    for _ in 0..2 * (start / 1000) + 60 {
        world.pass(1);
        assert!(healthy(&world) >= 2);
        launched
            .extend(group(&world).instances.values().filter(|vm| vm.revision == 2).map(|vm| vm.id.clone()));
    }
    assert_eq!(status(&world), RefreshStatus::Successful);
    assert_eq!((running(&world), launched.len()), (vec![2, 2], 2), "no VM was replaced while it started");
}

#[test]
fn what_starts_for_longer_than_the_deadline_is_rolled_back_and_says_what_it_waited_for() {
    let sim = world(&settings(0, 1), 1, &[Behaviour::Starts(200_000)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 1, now).unwrap();
    world.pass(99);
    assert_eq!(status(&world), RefreshStatus::InProgress);
    world.pass(20);
    assert_eq!(status(&world), RefreshStatus::RolledBack);
    let reason = group(&world).memory.refresh.clone().unwrap().reason.unwrap();
    assert!(reason.starts_with("no progress for 100 s (progressDeadlineSeconds): web-2-"), "{reason}");
}

#[test]
fn every_step_that_kubernetes_calls_progress_puts_the_deadline_off() {
    // Each of three VMs is ready after 60 s, one at a time: 180 s in all, with a deadline of 100 s.
    let sim = world(&settings(0, 1), 3, &[Behaviour::Starts(60_000)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 3, now).unwrap();
    world.pass(250);
    assert_eq!(status(&world), RefreshStatus::Successful);
    // A VM that is ready counts before it was for minReadySeconds.
    let slow = GroupSettings { min_ready_seconds: Seconds(80), ..settings(0, 1) };
    let sim = self::world(&slow, 0, &[Behaviour::Starts(60_000)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 1, now).unwrap();
    world.pass(160);
    assert_eq!(status(&world), RefreshStatus::Successful);
}

#[test]
fn a_dependency_that_is_away_costs_no_vm_its_life() {
    let sim = world(&settings(0, 1), 3, &[]);
    let mut world = sim.world();
    let before = ids(&world);
    world.behaviours.insert(image(1), Behaviour::NeverReady);
    for _ in 0..600 {
        world.pass(1);
        assert_eq!((ids(&world), healthy(&world)), (before.clone(), 0));
    }
    world.behaviours.insert(image(1), Behaviour::Ready(3000));
    world.pass(10);
    assert_eq!((ids(&world), healthy(&world)), (before, 3));
}

#[test]
fn vms_that_die_at_boot_fail_a_refresh_fast() {
    for behaviour in [Behaviour::Ends(0), Behaviour::Ends(5000), Behaviour::Lost] {
        let sim = world(&settings(0, 1), 2, &[behaviour]);
        let mut world = sim.world();
        let (start, now) = (world.now, world.moment());
        world.environment.start_refresh(&web(), 2, 2, now).unwrap();
        while status(&world) == RefreshStatus::InProgress {
            world.pass(1);
        }
        assert!(world.now - start < 60_000, "{behaviour:?}: {}", world.now - start);
        let reason = group(&world).memory.refresh.clone().unwrap().reason.unwrap();
        assert!(reason.starts_with("3 VMs failed: web-2-"), "{reason}");
        world.pass(30);
        assert_eq!((status(&world), healthy(&world)), (RefreshStatus::RolledBack, 2));
    }
}

#[test]
fn guests_that_do_not_answer_for_long_are_replaced_one_at_a_time() {
    let sim = world(&settings(0, 1), 3, &[]);
    let mut world = sim.world();
    let before = ids(&world);
    world.behaviours.insert(image(1), Behaviour::Silent);
    world.pass(SILENT_LOST.0 / 1000 - 1);
    assert_eq!((ids(&world), healthy(&world)), (before.clone(), 0), "they get no traffic, and live");
    world.pass(2);
    let kept = |world: &World| ids(world).iter().filter(|id| before.contains(id)).count();
    assert_eq!(kept(&world), 2);
    // The replacement is as silent: the cause is elsewhere, and the others are left alone until it has shown itself.
    world.pass(60);
    assert_eq!((kept(&world), running(&world).len()), (2, 3));
    world.behaviours.insert(image(1), Behaviour::Ready(3000));
    world.pass(60);
    assert_eq!((kept(&world), healthy(&world)), (2, 3), "what answers again was never lost for good");
}

#[test]
fn a_silence_and_then_an_answer_ends_the_loss() {
    // All were lost, one was replaced; the others answer again before it was their turn.
    let sim = world(&settings(0, 1), 2, &[]);
    let mut world = sim.world();
    let before = ids(&world);
    world.behaviours.insert(image(1), Behaviour::Silent);
    world.pass(SILENT_LOST.0 / 1000 + 2);
    let lost = |world: &World| {
        let members = group(world).instances.values().filter(|vm| vm.state == InstanceState::Running);
        members.filter(|vm| matches!(vm.health, Health::Lost { .. })).count()
    };
    assert_eq!(lost(&world), 1);
    world.behaviours.insert(image(1), Behaviour::Ready(0));
    world.pass(10);
    assert_eq!((lost(&world), healthy(&world)), (0, 2));
    assert_eq!(ids(&world).iter().filter(|id| before.contains(id)).count(), 1);
}

#[test]
fn nothing_is_rolled_back_to_what_never_served() {
    let sim = world(&settings(0, 1), 0, &[Behaviour::Ends(0), Behaviour::Ends(1000)]);
    let mut world = sim.world();
    {
        let group = world.environment.groups.get_mut(&web()).unwrap();
        group.memory = reconcile::GroupMemory::default();
        group.revisions.iter_mut().for_each(|revision| revision.deployed = None);
    }
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 1, now).unwrap();
    while status(&world) == RefreshStatus::InProgress {
        world.pass(1);
    }
    // Broken too: it fails as fast, and says that there is no way back.
    let (start, now) = (world.now, world.moment());
    world.environment.start_refresh(&web(), 3, 1, now).unwrap();
    while group(&world).memory.refresh.as_ref().unwrap().status.is_active() {
        world.pass(1);
    }
    assert!(world.now - start < 60_000, "{}", world.now - start);
    let refresh = group(&world).memory.refresh.clone().unwrap();
    assert_eq!((refresh.status, refresh.from), (RefreshStatus::Failed, None));
    let reason = refresh.reason.unwrap();
    assert!(reason.starts_with("3 VMs failed, and no other revision ever served to go back to"), "{reason}");
    // What was asked for last is what the group goes on to try.
    world.behaviours.insert(image(3), Behaviour::Ready(0));
    world.pass(120);
    assert_eq!((running(&world), group(&world).memory.current), (vec![3], Some(3)));
}

#[test]
fn a_replicated_group_is_not_rolled_back_to_another_number_of_replicas() {
    for (replicas, is_rolled_back) in [([Some(3), Some(3)], true), ([Some(3), Some(5)], false)] {
        let sim = world(&settings(0, 1), 0, &[Behaviour::Ends(0)]);
        let mut world = sim.world();
        {
            let group = world.environment.groups.get_mut(&web()).unwrap();
            for (revision, replicas) in group.revisions.iter_mut().zip(replicas) {
                revision.launch.replicas = replicas;
            }
            group.revisions[0].deployed = Some(1);
            group.memory.current = Some(1);
        }
        let now = world.moment();
        world.environment.start_refresh(&web(), 2, 1, now).unwrap();
        while group(&world).memory.refresh.as_ref().unwrap().status.is_active() {
            world.pass(1);
        }
        let refresh = group(&world).memory.refresh.clone().unwrap();
        let reason = refresh.reason.unwrap();
        if is_rolled_back {
            assert_eq!((refresh.status, refresh.from), (RefreshStatus::RolledBack, Some(1)), "{reason}");
        } else {
            assert_eq!((refresh.status, refresh.from), (RefreshStatus::Failed, None));
            assert!(reason.starts_with("3 VMs failed, and revision 1 is no way back: "), "{reason}");
            assert_eq!(group(&world).memory.current, Some(2), "what was asked for is what it goes on to try");
        }
    }
}

#[test]
fn a_grace_period_without_bound_is_one() {
    let mut view = group(&world(&settings(0, 1), 1, &[]).world()).view(&|_| MachineFacts::default());
    view.vms[0].state = InstanceState::Stopping;
    view.vms[0].alive = true;
    view.vms[0].grace = Millis(u64::MAX);
    let actions = reconcile::decide(&view, Moment { steady: 1_000_000_000, wall: 0 }).actions;
    assert!(!actions.iter().any(|action| matches!(action, reconcile::Action::Kill { .. })), "{actions:?}");
}

/// Stops the refresh under way, wherever it leads.
fn cancel(world: &mut World) {
    if let Some(to) = group(world).memory.refresh.as_ref().map(|refresh| refresh.to) {
        world.environment.cancel_refresh(&web(), to).unwrap();
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Refresh { to: u32, replicas: u32 },
    Cancel,
    Scale(u32),
    Kill(usize),
    Pass(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (1_u32..4, 0_u32..4).prop_map(|(to, replicas)| Deed::Refresh { to, replicas }),
        Just(Deed::Cancel),
        (0_u32..5).prop_map(Deed::Scale),
        (0_usize..6).prop_map(Deed::Kill),
        (1_u64..40).prop_map(Deed::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done to a group, a good refresh afterwards brings it to where it should be.
    #[test]
    fn every_history_ends_well(
        deeds in prop::collection::vec(deed(), 0..12),
        unavailable in 0_u32..3,
        surge in 0_u32..3,
        replicas in 0_u32..4,
    ) {
        let settings = settings(unavailable, surge);
        let sim = world(&settings, 2, &[Behaviour::Ends(500), Behaviour::NeverReady]);
        let mut world = sim.world();
        for deed in deeds {
            let now = world.moment();
            match deed {
                // A conflict with an active refresh is the caller's to solve.
                Deed::Refresh { to, replicas } => drop(world.environment.start_refresh(&web(), to, replicas, now)),
                Deed::Cancel => cancel(&mut world),
                Deed::Scale(replicas) => world.environment.set_replicas(&web(), replicas).unwrap(),
                Deed::Kill(index) => {
                    if let Some(id) = group(&world).instances.keys().nth(index).cloned() {
                        world.kill(&id);
                    }
                }
                Deed::Pass(seconds) => world.pass(seconds),
            }
        }
        cancel(&mut world);
        let now = world.moment();
        world.environment.start_refresh(&web(), 1, replicas, now).unwrap();
        world.pass(200);
        prop_assert_eq!(status(&world), RefreshStatus::Successful);
        prop_assert_eq!(running(&world), vec![1; usize::try_from(replicas).unwrap()]);
        prop_assert_eq!(healthy(&world), usize::try_from(replicas).unwrap());
    }

    /// From a healthy group, no refresh to whatever revision takes more VMs away, or adds more, than the strategy says.
    #[test]
    fn a_refresh_keeps_its_limits(
        unavailable in 0_u32..3,
        surge in 0_u32..3,
        replicas in 1_u32..6,
        behaviour in prop_oneof![
            (0_u64..9000).prop_map(Behaviour::Ready),
            (0_u64..9000).prop_map(Behaviour::Ends),
            Just(Behaviour::NeverReady),
        ],
    ) {
        let settings = settings(unavailable, surge);
        let bounds = settings.bounds(replicas);
        let sim = world(&settings, replicas, &[behaviour]);
        let mut world = sim.world();
        let now = world.moment();
        world.environment.start_refresh(&web(), 2, replicas, now).unwrap();
        for _ in 0..400 {
            world.pass(1);
            prop_assert!(healthy(&world) >= usize::try_from(bounds.min_available).unwrap());
            prop_assert!(running(&world).len() <= usize::try_from(bounds.max_total).unwrap());
        }
        let good = matches!(behaviour, Behaviour::Ready(_));
        let expected = if good { RefreshStatus::Successful } else { RefreshStatus::RolledBack };
        prop_assert_eq!(status(&world), expected);
        let revision = if good { 2 } else { 1 };
        prop_assert_eq!(running(&world), vec![revision; usize::try_from(replicas).unwrap()]);
    }
}

#[test]
fn a_wall_clock_that_jumps_disturbs_no_refresh() {
    let sim = world(&settings(0, 1), 3, &[Behaviour::Ready(3000)]);
    let mut world = sim.world();
    let now = world.moment();
    world.environment.start_refresh(&web(), 2, 3, now).unwrap();
    for second in 0..60 {
        // Two hours ahead while the first new machine starts, then two hours behind, which is before everything.
        world.ahead = match second {
            0..2 => 0,
            2..9 => 7_200_000,
            _ => -7_200_000,
        };
        world.pass(1);
        assert!(healthy(&world) >= 3 && running(&world).len() <= 4, "{:?}", group(&world).instances);
    }
    assert_eq!(status(&world), RefreshStatus::Successful);
    assert_eq!(running(&world), [2, 2, 2]);
}
