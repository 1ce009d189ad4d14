//! Restarts: equal instances in place of those that run, and what deployments and rollbacks make of that.

use std::collections::{BTreeMap, BTreeSet};

use super::tests::{desired, group, image, materials, name, on_runtime};
use super::{RolloutError, RolloutOptions, RunRecord, execute};
use crate::cloud::Cloud as _;
use crate::cloud::sim::{Behaviour, Sim};
use crate::plan::act::PlannedAct;
use crate::plan::difference::differences;
use crate::plan::example;
use crate::plan::fleet::{Fleet, InstanceGroup, InstanceId, RefreshStatus};
use crate::plan::rollout::{Desired, PlanError, RolloutPlan, restart, rollback, rollout, served_before};
use crate::report::Events;

async fn carry_out(plan: &RolloutPlan, sim: &Sim) -> Result<(), RolloutError> {
    let (options, record) = (RolloutOptions::default(), RunRecord::default());
    execute(plan, &materials(), sim, &Events::none(), &options, &record).await.map(drop)
}

async fn fleet(sim: &Sim) -> Fleet {
    sim.observe().await.unwrap()
}

fn web(fleet: &Fleet) -> &InstanceGroup {
    fleet.group(&name("web")).unwrap()
}

fn ids(fleet: &Fleet) -> BTreeSet<InstanceId> {
    web(fleet).members().map(|instance| instance.id.clone()).collect()
}

fn version(version: u32) -> Desired {
    desired(vec![group("web", 3, version)])
}

fn planned(fleet: &Fleet) -> RolloutPlan {
    restart(fleet, &name("web"), "i2kit restart web").unwrap()
}

/// Revisions 1 and 2 were deployed.
async fn with_two_revisions() -> Sim {
    let sim = Sim::default();
    for number in 1..=2 {
        carry_out(&rollout(&version(number), &fleet(&sim).await), &sim).await.unwrap();
    }
    sim
}

#[test]
fn every_instance_is_replaced_by_an_equal_one_and_nothing_rolls_after_it() {
    on_runtime(async {
        let sim = with_two_revisions().await;
        let before = fleet(&sim).await;
        let plan = planned(&before);
        assert_eq!(
            plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "+ revision 3 of web: the same as revision 2",
                "~ refresh web: revision 2 -> 3, 3 VMs",
                ". wait for web: 3 VMs of revision 3 healthy",
            ]
        );
        carry_out(&plan, &sim).await.unwrap();
        let after = fleet(&sim).await;
        assert!(web(&after).is_settled_at(3) && ids(&before).is_disjoint(&ids(&after)), "{after:#?}");
        let of = |number| web(&after).revision(number).unwrap();
        assert_eq!((of(3).launch.clone(), &*of(3).cause), (of(2).launch.clone(), "i2kit restart web"));
        // The same manifests again.
        assert!(rollout(&version(2), &after).is_empty());
        assert_eq!(differences(&version(2), &after, &BTreeMap::new()), []);
        // The way back leads to what was different, and forth again to the newest of what is the same.
        assert_eq!(served_before(web(&after)), Some(1));
        carry_out(&rollback(&after, &name("web"), None).unwrap(), &sim).await.unwrap();
        assert!(web(&fleet(&sim).await).is_settled_at(1));
        carry_out(&rollout(&version(2), &fleet(&sim).await), &sim).await.unwrap();
        assert!(web(&fleet(&sim).await).is_settled_at(3));
    });
}

#[test]
fn a_restart_that_was_killed_is_made_good_by_the_next() {
    on_runtime(async {
        for killed_after in 0..=2 {
            let sim = with_two_revisions().await;
            let before = fleet(&sim).await;
            let plan = planned(&before);
            let mut generation = plan.generation;
            for act in plan.acts().take(killed_after) {
                let act = PlannedAct { act: act.clone(), generation, by: "test".into() };
                generation = sim.apply(&act, &materials()).await.unwrap();
            }
            let found = fleet(&sim).await;
            assert!(rollout(&version(2), &found).is_unchanged(), "a deployment undoes none and begins none");
            carry_out(&planned(&found), &sim).await.unwrap();
            let after = fleet(&sim).await;
            // What was put is taken, and what was begun may have machines of before: those are replaced too.
            let settled = if killed_after < 2 { 3 } else { 4 };
            assert!(web(&after).is_settled_at(settled), "{killed_after}: {after:#?}");
            assert_eq!(web(&after).next_revision, settled + 1);
            assert!(ids(&before).is_disjoint(&ids(&after)) && ids(&found).is_disjoint(&ids(&after)));
        }
    });
}

#[test]
fn a_restart_that_failed_leaves_the_manifests_as_deployed() {
    on_runtime(async {
        let sim = with_two_revisions().await;
        sim.world().behaviours.insert(image(2), Behaviour::NeverReady);
        let failed = carry_out(&planned(&fleet(&sim).await), &sim).await;
        assert!(matches!(failed, Err(RolloutError::Failed { revision: 3, .. })), "{failed:?}");
        sim.world().behaviours.clear();
        carry_out(&rollout(&version(2), &fleet(&sim).await), &sim).await.unwrap();
        // Where the way back succeeded, revision 2 is what the manifests say, though 3 is newer.
        let mut fleet = fleet(&sim).await;
        let web = &mut fleet.groups[0];
        web.current = Some(2);
        web.refresh.as_mut().unwrap().status = RefreshStatus::RolledBack;
        web.instances.iter_mut().for_each(|instance| instance.revision = 2);
        assert!(rollout(&version(2), &fleet).is_empty(), "{:#?}", rollout(&version(2), &fleet));
    });
}

#[test]
fn a_refresh_under_way_is_gone_back_from() {
    on_runtime(async {
        let sim = with_two_revisions().await;
        let mut fleet = fleet(&sim).await;
        let web = &mut fleet.groups[0];
        let refresh = web.refresh.as_mut().unwrap();
        assert_eq!((refresh.from, refresh.to), (Some(1), 2));
        refresh.status = RefreshStatus::RollingBack;
        assert_eq!(served_before(web), Some(1));
        web.refresh.as_mut().unwrap().status = RefreshStatus::InProgress;
        web.current = Some(1);
        assert_eq!(served_before(web), Some(1));
        let plan = rollback(&fleet, &name("web"), None).unwrap();
        assert!(plan.to_string().contains("cancel it") && plan.to_string().contains("revision 1"), "{plan}");
    });
}

#[test]
fn restarts_take_no_revision_away_that_a_rollback_can_reach() {
    on_runtime(async {
        let sim = with_two_revisions().await;
        for _ in 0..4 {
            carry_out(&planned(&fleet(&sim).await), &sim).await.unwrap();
        }
        let fleet = fleet(&sim).await;
        let numbers: Vec<u32> = web(&fleet).revisions.iter().map(|revision| revision.number).collect();
        assert_eq!(numbers, [1, 5, 6], "two beside the one that runs, as revisionHistoryLimit says");
        assert_eq!(served_before(web(&fleet)), Some(1));
    });
}

#[test]
fn what_runs_to_an_end_and_what_never_ran_is_not_restarted() {
    let settings = example::settings(crate::manifest::api::Strategy::Recreate);
    let mut group = InstanceGroup::new(name("web"), settings);
    let mut fleet = Fleet { groups: vec![group.clone()], ..Fleet::default() };
    let refused = |fleet: &Fleet| restart(fleet, &name("web"), "test").unwrap_err();
    assert!(matches!(refused(&fleet), PlanError::NothingRuns { .. }));
    let job = serde_json::json!({"parallelism": 1, "backoffLimit": 6});
    group.settings.job = serde_json::from_value(job).unwrap();
    fleet.groups = vec![group];
    assert!(refused(&fleet).to_string().contains("`i2kit run web`"));
    fleet.groups.clear();
    assert!(matches!(refused(&fleet), PlanError::UnknownGroup { .. }));
}
