//! Rollouts on the fake cloud.

use std::sync::{Arc, Mutex};

use i2kit_spec::Seconds;
use proptest::prelude::*;

use super::{RolloutError, RolloutOptions, RunRecord, execute};
use crate::cloud::sim::{Behaviour, Fault, Sim};
use crate::cloud::{Cloud as _, Materials};
use crate::image::DiskImage;
use crate::manifest::api::{IntOrPercent, Name, Protocol, ScalingRules, ServiceType, Strategy as Rollout};
use crate::oci::Digest;
use crate::plan::act::Act;
use crate::plan::example;
use crate::plan::fleet::{
    BalancerSpec, Fleet, GroupSettings, LaunchDisk, LaunchPort, LaunchSpec, Listener, RefreshStatus, Scaling,
    TargetGroup,
};
use crate::plan::image::ImageId;
use crate::plan::rollout::{
    Desired, GroupSpec, PlanError, RolloutPlan, Step, destroy, rollback, rollout, scale,
};
use crate::report::{Event, Events};

pub(super) fn name(name: &str) -> Name {
    Name { namespace: "default".into(), name: name.into() }
}

pub(super) fn image(number: u32) -> ImageId {
    ImageId(Digest::of(&number.to_le_bytes()))
}

pub(super) fn group(group: &str, replicas: u32, version: u32) -> GroupSpec {
    GroupSpec {
        name: name(group),
        replicas,
        launch: LaunchSpec {
            ports: vec![LaunchPort { port: 80, protocol: Protocol::Tcp }],
            ..example::launch(image(version))
        },
        settings: GroupSettings {
            progress_deadline_seconds: Seconds(60),
            revision_history_limit: 2,
            ..example::settings(Rollout::RollingUpdate {
                max_unavailable: IntOrPercent::Percent(25),
                max_surge: IntOrPercent::Percent(25),
            })
        },
    }
}

pub(super) fn desired(groups: Vec<GroupSpec>) -> Desired {
    let balancers = groups
        .iter()
        .map(|spec| {
            let targets = vec![TargetGroup { group: spec.name.clone(), port: 80 }];
            let listeners = vec![Listener::new(80, Protocol::Tcp, targets)];
            BalancerSpec::new(spec.name.clone(), ServiceType::ClusterIP, listeners)
        })
        .collect();
    Desired {
        environment: "sim".into(),
        groups,
        balancers,
        disks: vec![],
        classes: vec![],
        cause: "test".into(),
        prune: true,
    }
}

/// Every image that a test may want, since building is not what is tested.
pub(super) fn materials() -> Materials {
    let image = |id| DiskImage {
        id,
        architecture: i2kit_spec::Architecture::Amd64,
        kernel: "/k".into(),
        initrd: "/i".into(),
        cloud: None,
        stub: None,
        cmdline: String::new(),
        segments: Vec::new(),
    };
    let images = (0..10).map(|number| (self::image(number), image(self::image(number)))).collect();
    Materials { images, ..Materials::default() }
}

async fn carry_out(plan: &RolloutPlan, sim: &Sim, events: &Events) -> Result<(), RolloutError> {
    let options = RolloutOptions::default();
    let record = RunRecord::default();
    execute(plan, &materials(), sim, events, &options, &record).await.map(|left| assert_eq!(left, []))
}

async fn deploy(desired: &Desired, sim: &Sim) -> Result<RolloutPlan, RolloutError> {
    let plan = rollout(desired, &sim.observe().await.unwrap());
    carry_out(&plan, sim, &Events::none()).await.map(|()| plan)
}

pub(super) fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
fn a_set_is_deployed_changed_and_destroyed() {
    on_runtime(async {
        let sim = Sim::default();
        let first = desired(vec![group("web", 3, 1), group("db", 1, 2)]);
        insta::assert_snapshot!("first", deploy(&first, &sim).await.unwrap().to_string());
        assert!(deploy(&first, &sim).await.unwrap().is_empty());

        let mut second = desired(vec![group("web", 5, 3)]);
        second.prune = false;
        insta::assert_snapshot!("changed", deploy(&second, &sim).await.unwrap().to_string());
        second.prune = true;
        insta::assert_snapshot!("pruned", deploy(&second, &sim).await.unwrap().to_string());

        let fleet = sim.observe().await.unwrap();
        assert!(fleet.group(&name("web")).unwrap().is_settled_at(2));
        let end = destroy(&fleet, false);
        insta::assert_snapshot!("destroyed", end.to_string());
        carry_out(&end, &sim, &Events::none()).await.unwrap();
        assert!(sim.observe().await.unwrap().is_empty());
    });
}

#[test]
fn a_failing_revision_is_an_error_with_its_reason() {
    on_runtime(async {
        let sim = Sim::default();
        deploy(&desired(vec![group("web", 3, 1)]), &sim).await.unwrap();
        sim.world().behaviours.insert(image(2), Behaviour::NeverReady);
        let error = deploy(&desired(vec![group("web", 3, 2)]), &sim).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("web: revision 2 failed and was rolled back to revision 1: no progress"),
            "{text}"
        );
        let fleet = sim.observe().await.unwrap();
        assert!(fleet.group(&name("web")).unwrap().is_settled_at(1));
        let again = rollout(&desired(vec![group("web", 3, 2)]), &fleet);
        insta::assert_snapshot!("tried_again", again.to_string());
    });
}

#[test]
fn a_first_start_that_failed_can_be_tried_again() {
    on_runtime(async {
        let sim = Sim::default();
        sim.world().behaviours.insert(image(1), Behaviour::NeverReady);
        let set = desired(vec![group("web", 2, 1)]);
        assert!(matches!(deploy(&set, &sim).await, Err(RolloutError::Failed { revision: 1, .. })));
        sim.world().behaviours.clear();
        deploy(&set, &sim).await.unwrap();
        assert!(sim.observe().await.unwrap().group(&name("web")).unwrap().is_settled_at(1));
    });
}

#[test]
fn rollback_returns_to_what_served_before_and_scale_keeps_it() {
    on_runtime(async {
        let sim = Sim::default();
        for version in 1..=2 {
            deploy(&desired(vec![group("web", 2, version)]), &sim).await.unwrap();
        }
        sim.world().behaviours.insert(image(3), Behaviour::Ends(0));
        deploy(&desired(vec![group("web", 2, 3)]), &sim).await.unwrap_err();
        for back_to in [1, 2] {
            let plan = rollback(&sim.observe().await.unwrap(), &name("web"), None).unwrap();
            carry_out(&plan, &sim, &Events::none()).await.unwrap();
            assert!(sim.observe().await.unwrap().group(&name("web")).unwrap().is_settled_at(back_to));
        }
        let plan = scale(&sim.observe().await.unwrap(), &name("web"), 4).unwrap();
        carry_out(&plan, &sim, &Events::none()).await.unwrap();
        let fleet = sim.observe().await.unwrap();
        assert!(fleet.group(&name("web")).unwrap().is_settled_at(2));
        assert_eq!(fleet.group(&name("web")).unwrap().replicas, 4);
        assert!(rollback(&fleet, &name("db"), None).is_err());
        assert!(rollback(&fleet, &name("web"), Some(9)).is_err());
    });
}

#[test]
fn a_named_revision_that_never_served_is_gone_to_and_the_plan_says_so() {
    on_runtime(async {
        let sim = Sim::default();
        deploy(&desired(vec![group("web", 2, 1)]), &sim).await.unwrap();
        sim.world().behaviours.insert(image(2), Behaviour::NeverReady);
        deploy(&desired(vec![group("web", 2, 2)]), &sim).await.unwrap_err();
        sim.world().behaviours.clear();
        let fleet = sim.observe().await.unwrap();
        let to = |fleet: &Fleet, number| rollback(fleet, &name("web"), Some(number)).unwrap();
        assert!(to(&fleet, 1).is_unchanged() && to(&fleet, 1).notes.is_empty(), "it runs already");
        let plan = to(&fleet, 2);
        assert!(plan.to_string().contains("  note: revision 2 of web never served"), "{plan}");
        carry_out(&plan, &sim, &Events::none()).await.unwrap();
        let fleet = sim.observe().await.unwrap();
        assert!(fleet.group(&name("web")).unwrap().is_settled_at(2));
        let back = to(&fleet, 1);
        assert!(!back.is_unchanged() && back.notes.is_empty(), "revision 1 has served: {back}");
    });
}

/// The group with the disk of a claim.
fn with_claim(spec: GroupSpec) -> GroupSpec {
    let disks = vec![LaunchDisk::Claim("data".into())];
    GroupSpec { launch: LaunchSpec { disks, ..spec.launch }, ..spec }
}

/// The group with a scaler.
pub(super) fn scaled(spec: GroupSpec, min: u32, max: u32) -> GroupSpec {
    let rules = ScalingRules::default();
    let scaling = Scaling { min, max, metrics: vec![], up: rules.clone(), down: rules };
    GroupSpec { settings: GroupSettings { scaling: Some(scaling), ..spec.settings }, ..spec }
}

#[test]
fn the_way_back_to_a_revision_with_a_claim_is_of_one_instance() {
    on_runtime(async {
        let sim = Sim::default();
        deploy(&desired(vec![with_claim(group("web", 1, 1))]), &sim).await.unwrap();
        sim.world().behaviours.insert(image(2), Behaviour::NeverReady);
        deploy(&desired(vec![group("web", 3, 2)]), &sim).await.unwrap_err();
        let fleet = sim.observe().await.unwrap();
        let web = fleet.group(&name("web")).unwrap();
        assert_eq!(web.refresh.as_ref().map(|refresh| refresh.status), Some(RefreshStatus::RolledBack));
        assert!(web.is_settled_at(1) && web.replicas == 1, "{web:#?}");
    });
}

#[test]
fn a_claim_of_an_earlier_revision_does_not_bound_the_size() {
    on_runtime(async {
        let sim = Sim::default();
        deploy(&desired(vec![with_claim(group("web", 1, 1))]), &sim).await.unwrap();
        let refused = |fleet: &Fleet, to| scale(fleet, &name("web"), to).unwrap_err();
        let error = refused(&sim.observe().await.unwrap(), 2);
        assert!(matches!(error, PlanError::OneDisk { .. }), "{error}");
        deploy(&desired(vec![group("web", 3, 2)]), &sim).await.unwrap();
        let fleet = sim.observe().await.unwrap();
        carry_out(&scale(&fleet, &name("web"), 2).unwrap(), &sim, &Events::none()).await.unwrap();
        let fleet = sim.observe().await.unwrap();
        assert_eq!(fleet.group(&name("web")).unwrap().replicas, 2);
        assert!(matches!(rollback(&fleet, &name("web"), Some(1)), Err(PlanError::OneDisk { .. })));
    });
}

#[test]
fn a_size_that_somebody_sets_is_had_whatever_became_of_the_last_refresh() {
    on_runtime(async {
        let sim = Sim::default();
        sim.world().behaviours.insert(image(1), Behaviour::NeverReady);
        deploy(&desired(vec![scaled(group("web", 2, 1), 1, 9)]), &sim).await.unwrap_err();
        sim.world().behaviours.remove(&image(1));
        let plan = scale(&sim.observe().await.unwrap(), &name("web"), 6).unwrap();
        carry_out(&plan, &sim, &Events::none()).await.unwrap();
        let fleet = sim.observe().await.unwrap();
        let web = fleet.group(&name("web")).unwrap();
        assert!(web.replicas == 6 && web.is_settled_at(1), "{plan}");
    });
}

#[test]
fn without_a_wait_everything_is_done_that_needs_none() {
    on_runtime(async {
        let sim = Sim::default();
        for version in 1..=3 {
            deploy(&desired(vec![group("web", 1, version), group("old", 1, 8)]), &sim).await.unwrap();
        }
        // The third revision before the new one is beyond the limit, but the new one may have to go back.
        let plan = rollout(&desired(vec![group("web", 1, 4)]), &sim.observe().await.unwrap());
        let options = RolloutOptions { wait: false, ..RolloutOptions::default() };
        let record = RunRecord::default();
        let left = execute(&plan, &materials(), &sim, &Events::none(), &options, &record).await.unwrap();
        assert_eq!(record.done().len(), plan.steps.len() - left.len());
        let said: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert!(
            matches!(
                left.iter().map(Step::act).collect::<Vec<_>>()[..],
                [None, Some(Act::DeleteRevisions { .. }), Some(Act::DeleteImages { .. })]
            ),
            "{said:?}"
        );
        let fleet = sim.observe().await.unwrap();
        assert!(fleet.group(&name("old")).is_none() && fleet.balancer(&name("old")).is_none());
        assert!(fleet.group(&name("web")).unwrap().revision(1).is_some());
        assert_eq!(plan.steps.len() - left.len(), 5, "{plan}");
        // Nothing to wait for: nothing is left.
        deploy(&desired(vec![group("web", 1, 4)]), &sim).await.unwrap();
        let plan = rollout(&desired(vec![]), &sim.observe().await.unwrap());
        let record = RunRecord::default();
        assert_eq!(execute(&plan, &materials(), &sim, &Events::none(), &options, &record).await.unwrap(), []);
        assert_eq!(record.done(), plan.steps);
        assert!(sim.observe().await.unwrap().is_empty());
    });
}

#[test]
fn a_group_that_fails_hides_no_other() {
    on_runtime(async {
        let sim = Sim::default();
        deploy(&desired(vec![group("old", 1, 8)]), &sim).await.unwrap();
        for version in [1, 2] {
            sim.world().behaviours.insert(image(version), Behaviour::NeverReady);
        }
        let set = desired(vec![group("a", 1, 1), group("b", 1, 2), group("c", 1, 3)]);
        let Err(RolloutError::Several(failed)) = deploy(&set, &sim).await else { panic!("two groups fail") };
        assert!(
            matches!(&failed[..], [RolloutError::Failed { group: a, .. }, RolloutError::Failed { group: b, .. }]
            if *a == name("a") && *b == name("b")),
            "{failed:?}"
        );
        let fleet = sim.observe().await.unwrap();
        assert!(fleet.group(&name("c")).unwrap().is_settled_at(1), "it was waited for");
        assert!(fleet.group(&name("old")).is_some(), "nothing is pruned when something failed");
        sim.world().behaviours.remove(&image(1));
        assert!(
            matches!(deploy(&set, &sim).await, Err(RolloutError::Failed { group, .. }) if group == name("b"))
        );
    });
}

#[test]
fn old_revisions_and_their_images_go() {
    on_runtime(async {
        let sim = Sim::default();
        for version in 1..=5 {
            deploy(&desired(vec![group("web", 1, version)]), &sim).await.unwrap();
        }
        let fleet = sim.observe().await.unwrap();
        let numbers: Vec<u32> = fleet.groups[0].revisions.iter().map(|revision| revision.number).collect();
        assert_eq!(numbers, [3, 4, 5]);
        assert_eq!(fleet.images.len(), 3);
    });
}

#[test]
fn progress_is_told() {
    on_runtime(async {
        let sim = Sim::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let events = Events::new(move |event| sink.lock().unwrap().push(event));
        let plan = rollout(&desired(vec![group("web", 1, 1)]), &sim.observe().await.unwrap());
        carry_out(&plan, &sim, &events).await.unwrap();
        let told = told.lock().unwrap();
        let healthy =
            |event: &Event| matches!(event, Event::InstanceChanged { state, .. } if state == "healthy");
        let done =
            |event: &Event| matches!(event, Event::RefreshProgress { status, .. } if status == "successful");
        assert!(told.iter().any(healthy) && told.iter().any(done), "{told:?}");
    });
}

fn set() -> impl Strategy<Value = Vec<(usize, u32, u32)>> {
    prop::collection::vec((0_usize..2, 0_u32..4, 1_u32..4), 1..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A deploy that is interrupted at any call, whether the call was carried out or not, and run again ends where an
    /// uninterrupted one would.
    #[test]
    fn any_crash_then_a_second_run_converges(
        history in prop::collection::vec(set(), 1..4),
        fault_at in prop::collection::btree_map(
            0_usize..30,
            prop_oneof![Just(Fault::Refused), Just(Fault::ReplyLost)],
            0..4,
        ),
        pause in 0_u64..30,
    ) {
        let sim = Sim::default();
        sim.world().faults = fault_at;
        let last = history.last().unwrap().clone();
        on_runtime(async {
            for wanted in history {
                let groups = ["web", "db"].iter().enumerate().filter_map(|(index, group_name)| {
                    let (_, replicas, version) = wanted.iter().find(|(which, ..)| *which == index)?;
                    Some(group(group_name, *replicas, *version))
                });
                // A crash may leave anything behind; the next set or the next run finds it.
                drop(deploy(&desired(groups.collect()), &sim).await);
                sim.world().pass(pause);
            }
            let wanted = desired(
                ["web", "db"].iter().enumerate().filter_map(|(index, group_name)| {
                    let (_, replicas, version) = last.iter().find(|(which, ..)| *which == index)?;
                    Some(group(group_name, *replicas, *version))
                }).collect(),
            );
            sim.world().faults.clear();
            deploy(&wanted, &sim).await.unwrap();
            let fleet = sim.observe().await.unwrap();
            prop_assert!(rollout(&wanted, &fleet).is_empty(), "{}", rollout(&wanted, &fleet));
            prop_assert_eq!(fleet.groups.len(), wanted.groups.len());
            for spec in &wanted.groups {
                let found = fleet.group(&spec.name).unwrap();
                prop_assert_eq!(found.replicas, spec.replicas);
                prop_assert!(found.current.is_some_and(|number| found.is_settled_at(number)));
                prop_assert_eq!(&found.revision(found.current.unwrap()).unwrap().launch, &spec.launch);
            }
            Ok(())
        })?;
    }
}
