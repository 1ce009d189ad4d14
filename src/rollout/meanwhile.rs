//! What others do, and what the cloud does, while a plan is carried out: an act between two acts of a run, made by somebody
//! who knows what the run did until then; looks that fail; a group that goes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use i2kit_spec::Bytes;

use super::tests::{desired, group, image, materials, name, on_runtime, scaled};
use super::watch::{Goal, until_settled};
use super::{RolloutError, RolloutOptions, RunRecord, execute};
use crate::cloud::sim::Sim;
use crate::cloud::{Cloud, CloudError, LogQuery, LogStream, Materials, Scope, Updates};
use crate::manifest::api::Name;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::example;
use crate::plan::fleet::{Fleet, Generation, Leftover};
use crate::plan::rollout::{
    Desired, Intent, Overtaken, RolloutPlan, Step, collect, restart, rollback, rollout, scale,
};
use crate::report::Events;

type Plan = fn(&Fleet) -> RolloutPlan;

/// A plan that somebody else carries out before the first act that the function accepts.
type Intrusion = (fn(&Act) -> bool, Plan);

/// The cloud of a run that somebody else gets in between of.
#[derive(Debug, Default)]
struct Shared {
    sim: Sim,
    /// Before which act of the run somebody else's plan is made and carried out.
    intrusion: Mutex<Option<Intrusion>>,
    /// Leftovers, and those that are left once somebody else's plan was carried out.
    leftovers: Mutex<(Vec<Leftover>, Vec<Leftover>)>,
}

impl Shared {
    /// Has `plan` carried out right before the first act that `before` picks.
    fn intrude(&self, before: fn(&Act) -> bool, plan: Plan) {
        *self.intrusion.lock().unwrap() = Some((before, plan));
    }

    fn intrusion(&self, act: &Act) -> Option<Plan> {
        let mut intrusion = self.intrusion.lock().unwrap();
        let is_now = intrusion.is_some_and(|(before, _)| before(act));
        if is_now { intrusion.take().map(|(_, plan)| plan) } else { None }
    }
}

#[async_trait]
impl Cloud for Shared {
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError> {
        let mut fleet = self.sim.inspect(scope).await?;
        if *scope == Scope::Detailed {
            fleet.leftovers.clone_from(&self.leftovers.lock().unwrap().0);
        }
        Ok(fleet)
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        if let Some(plan) = self.intrusion(&act.act) {
            let plan = plan(&self.sim.observe().await.unwrap());
            assert!(!plan.is_empty(), "nobody gets in between");
            carry_out(&plan, &self.sim).await.unwrap();
            let mut leftovers = self.leftovers.lock().unwrap();
            leftovers.0 = std::mem::take(&mut leftovers.1);
        }
        self.sim.apply(act, materials).await
    }

    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        self.sim.watch(scope)
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        self.sim.logs(query).await
    }
}

async fn carry_out(plan: &RolloutPlan, cloud: &dyn Cloud) -> Result<(), RolloutError> {
    recorded(plan, cloud).await.1
}

/// Carries a plan out. Returns what was applied, too.
async fn recorded(plan: &RolloutPlan, cloud: &dyn Cloud) -> (Vec<Act>, Result<(), RolloutError>) {
    let record = RunRecord::default();
    let ended = execute(plan, &materials(), cloud, &Events::none(), &RolloutOptions::default(), &record)
        .await
        .map(drop);
    (record.applied(), ended)
}

async fn deploy(desired: &Desired, cloud: &dyn Cloud) -> Result<(), RolloutError> {
    carry_out(&rollout(desired, &cloud.observe().await.unwrap()), cloud).await
}

fn assert_overtaken(ended: Result<(), RolloutError>) {
    let error = ended.unwrap_err();
    assert!(matches!(error, RolloutError::Overtaken { .. }) && error.is_overtaken(), "{error}");
}

fn not_pruning(groups: Vec<crate::plan::rollout::GroupSpec>) -> Desired {
    Desired { prune: false, ..desired(groups) }
}

#[test]
fn a_rollback_of_what_a_run_has_started_stands() {
    on_runtime(async {
        let cloud = Shared::default();
        for version in 1..=3 {
            deploy(&desired(vec![group("web", 2, version)]), &cloud).await.unwrap();
        }
        cloud.intrude(
            |act| matches!(act, Act::DeleteRevisions { .. }),
            |fleet| rollback(fleet, &name("web"), Some(3)).unwrap(),
        );
        assert_overtaken(deploy(&desired(vec![group("web", 2, 4), group("db", 1, 5)]), &cloud).await);
        let fleet = cloud.observe().await.unwrap();
        let web = fleet.group(&name("web")).unwrap();
        assert!(web.is_settled_at(3) && web.revision(1).is_some(), "{web:#?}");
    });
}

#[test]
fn a_restart_goes_on_where_others_changed_something_else() {
    on_runtime(async {
        let cloud = Shared::default();
        for version in 1..=2 {
            deploy(&desired(vec![group("web", 2, version)]), &cloud).await.unwrap();
        }
        let plan = |fleet: &Fleet| restart(fleet, &name("web"), "test").unwrap();
        // Between its new revision and its start.
        let start = |act: &Act| matches!(act, Act::StartRefresh { .. });
        cloud.intrude(start, |fleet| rollout(&not_pruning(vec![group("db", 1, 5)]), fleet));
        carry_out(&plan(&cloud.observe().await.unwrap()), &cloud).await.unwrap();
        let fleet = cloud.observe().await.unwrap();
        let web = fleet.group(&name("web")).unwrap();
        assert!(web.is_settled_at(3) && web.next_revision == 4, "{web:#?}");
        // What it would restart runs no more.
        cloud.intrude(start, |fleet| rollback(fleet, &name("web"), Some(1)).unwrap());
        assert_overtaken(carry_out(&plan(&cloud.observe().await.unwrap()), &cloud).await);
        let fleet = cloud.observe().await.unwrap();
        assert!(fleet.group(&name("web")).unwrap().is_settled_at(1));
    });
}

#[test]
fn a_size_that_somebody_else_has_set_since_stands() {
    on_runtime(async {
        let cloud = Shared::default();
        deploy(&desired(vec![group("web", 2, 1), group("old", 1, 8)]), &cloud).await.unwrap();
        cloud.intrude(
            |act| matches!(act, Act::DeleteGroup { .. }),
            |fleet| scale(fleet, &name("web"), 5).unwrap(),
        );
        assert_overtaken(deploy(&desired(vec![group("web", 3, 1)]), &cloud).await);
        let fleet = cloud.observe().await.unwrap();
        assert_eq!(fleet.group(&name("web")).unwrap().replicas, 5);
        assert!(fleet.group(&name("old")).is_some());
    });
}

#[test]
fn a_size_that_a_scaler_has_set_since_is_in_nobodys_way() {
    on_runtime(async {
        let members = |version| {
            let mut spec = scaled(group("db", 2, version), 1, 9);
            spec.settings.stateful = Some(example::stateful(vec![example::disk()]));
            spec
        };
        let cloud = Sim::default();
        let wanted = |version| not_pruning(vec![scaled(group("web", 2, version), 1, 9), members(version)]);
        deploy(&wanted(1), &cloud).await.unwrap();
        let mut larger = wanted(2);
        for disk in larger.groups.iter_mut().filter_map(|spec| spec.settings.stateful.as_mut()) {
            disk.disks[0].size = Bytes(2 << 30);
        }
        let plan = rollout(&larger, &cloud.observe().await.unwrap());
        // Somebody else's act comes first, and scalers look meanwhile, which is no act.
        for record in cloud.world().environment.groups.values_mut() {
            record.replicas = 5;
        }
        let mut fleet = cloud.observe().await.unwrap();
        let again = plan.again(&fleet, &[]).unwrap();
        let starts: Vec<&Act> = again.acts().filter(|act| matches!(act, Act::StartRefresh { .. })).collect();
        let start = |group| Act::StartRefresh { group: name(group), to: 2, replicas: 5 };
        assert_eq!(starts, [&start("web"), &start("db")]);
        assert_eq!(again.acts().filter(|act| matches!(act, Act::PutDisk { .. })).count(), 5);
        assert!(matches!(plan.again(&fleet, &[start("web")]), Err(Overtaken::DoneBefore(_))));
        // Without a scaler it was somebody.
        for group in &mut fleet.groups {
            group.settings.scaling = None;
        }
        let mut unscaled = larger;
        for spec in &mut unscaled.groups {
            (spec.settings.scaling, spec.replicas) = (None, 2);
        }
        let plan = rollout(&unscaled, &fleet);
        unscaled.groups[0].replicas = 3;
        let other = RolloutPlan { intent: Intent::Deploy(Box::new(unscaled)), ..plan };
        assert!(matches!(other.again(&fleet, &[]), Err(Overtaken::NotShown(_))));
    });
}

#[test]
fn a_balancer_that_somebody_else_has_put_since_stands() {
    on_runtime(async {
        let cloud = Shared::default();
        deploy(&desired(vec![group("web", 2, 1)]), &cloud).await.unwrap();
        cloud.intrude(
            |act| matches!(act, Act::StartRefresh { .. }),
            |fleet| rollout(&desired(vec![group("web", 2, 1)]), fleet),
        );
        let mut other = desired(vec![group("web", 2, 2)]);
        other.balancers[0].listeners[0].port = 81;
        assert_overtaken(deploy(&other, &cloud).await);
        let fleet = cloud.observe().await.unwrap();
        assert_eq!(fleet.balancers[0].spec.listeners[0].port, 80);
        assert!(fleet.group(&name("web")).unwrap().is_settled_at(1));
    });
}

#[test]
fn what_somebody_else_has_deployed_anew_is_not_deleted_again() {
    on_runtime(async {
        let cloud = Shared::default();
        let old = || not_pruning(vec![group("old", 1, 8)]);
        deploy(&old(), &cloud).await.unwrap();
        cloud.intrude(
            |act| matches!(act, Act::DeleteBalancer { .. }),
            |fleet| rollout(&not_pruning(vec![group("old", 1, 8)]), fleet),
        );
        assert_overtaken(deploy(&desired(vec![group("web", 1, 1)]), &cloud).await);
        let fleet = cloud.observe().await.unwrap();
        assert!(fleet.group(&name("old")).unwrap().is_settled_at(1));
        assert!(fleet.balancer(&name("old")).is_some(), "and it is reached as it was deployed");
        assert!(rollout(&old(), &fleet).is_empty());
    });
}

#[test]
fn an_image_that_was_collected_before_a_revision_named_it_is_put_again() {
    on_runtime(async {
        let cloud = Shared::default();
        cloud.intrude(|act| matches!(act, Act::PutGroup { .. }), collect);
        deploy(&desired(vec![group("web", 1, 1)]), &cloud).await.unwrap();
        assert!(cloud.observe().await.unwrap().group(&name("web")).unwrap().is_settled_at(1));
    });
}

#[test]
fn a_refresh_that_was_refused_is_not_this_runs() {
    on_runtime(async {
        let cloud = Shared::default();
        // Somebody else starts the group and stops its refresh again; its machines go on to become healthy.
        cloud.intrude(
            |act| matches!(act, Act::StartRefresh { .. }),
            |fleet| {
                let start = Act::StartRefresh { group: name("web"), to: 1, replicas: 1 };
                let cancel = Act::CancelRefresh { group: name("web"), to: 1 };
                RolloutPlan {
                    generation: fleet.generation,
                    steps: vec![Step::from(start), Step::from(cancel)],
                    ..RolloutPlan::default()
                }
            },
        );
        deploy(&desired(vec![group("web", 1, 1)]), &cloud).await.unwrap();
    });
}

#[test]
fn a_collection_deletes_what_is_a_leftover_still_and_reports_that() {
    on_runtime(async {
        let leftover = |id: &str| Leftover { kind: "stack".into(), id: id.into() };
        let cloud = Shared::default();
        *cloud.leftovers.lock().unwrap() =
            (vec![leftover("a"), leftover("b")], vec![leftover("b"), leftover("c")]);
        cloud.sim.world().environment.images.insert(image(9));
        let plan = collect(&cloud.inspect(&Scope::Detailed).await.unwrap());
        assert_eq!(plan.acts().count(), 2);
        // The deployment takes the image over, and one of the leftovers.
        cloud.intrude(
            |act| matches!(act, Act::DeleteImages { .. }),
            |fleet| rollout(&desired(vec![group("db", 1, 9)]), fleet),
        );
        let (applied, ended) = recorded(&plan, &cloud).await;
        ended.unwrap();
        assert_eq!(applied, [Act::DeleteLeftovers { leftovers: vec![leftover("b")] }]);
    });
}

/// The cloud of a run whose looks fail.
#[derive(Debug)]
struct Flaky {
    sim: Sim,
    looks: AtomicUsize,
    /// The looks that fail, with this error.
    fails: std::ops::Range<usize>,
    error: CloudError,
    /// Whether a watch ends with an error.
    ends: bool,
    /// What somebody else deletes right before the first look.
    doomed: Option<Name>,
}

impl Flaky {
    fn new(fails: std::ops::Range<usize>, error: CloudError) -> Self {
        Self { sim: Sim::default(), looks: AtomicUsize::new(0), fails, error, ends: false, doomed: None }
    }
}

fn no_answer() -> CloudError {
    CloudError::Unreachable { message: "no answer".into() }
}

#[async_trait]
impl Cloud for Flaky {
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError> {
        self.sim.inspect(scope).await
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        self.sim.apply(act, materials).await
    }

    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        if let Some(name) = &self.doomed {
            self.sim.world().environment.groups.remove(name);
        }
        let start = (self.sim.watch(scope), false);
        stream::unfold(start, move |(mut updates, failed)| async move {
            if failed && self.ends {
                return None;
            }
            let update = updates.next().await?;
            let fails = self.fails.contains(&self.looks.fetch_add(1, Ordering::Relaxed));
            Some((if fails { Err(self.error.clone()) } else { update }, (updates, fails)))
        })
        .boxed()
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        self.sim.logs(query).await
    }
}

#[test]
fn a_look_that_fails_ends_no_wait() {
    on_runtime(async {
        for ends in [false, true] {
            let cloud = Flaky { ends, ..Flaky::new(1..3, no_answer()) };
            deploy(&desired(vec![group("web", 1, 1), group("db", 1, 2)]), &cloud).await.unwrap();
            assert!(cloud.looks.load(Ordering::Relaxed) > 3);
        }
    });
}

#[test]
fn what_does_not_pass_by_itself_ends_a_wait_at_once_and_what_lasts_does_so_in_the_end() {
    on_runtime(async {
        let denied = CloudError::Api {
            operation: "Describe".into(),
            code: "AccessDenied".into(),
            message: String::new(),
            advice: "ask".into(),
            transient: false,
        };
        let cloud = Flaky::new(1..usize::MAX, denied.clone());
        let ended = deploy(&desired(vec![group("web", 1, 1)]), &cloud).await;
        assert!(matches!(ended, Err(RolloutError::Cloud { source, .. }) if source == denied));
        assert_eq!(cloud.looks.load(Ordering::Relaxed), 2);

        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let events = Events::new(move |event| sink.lock().unwrap().push(event));
        let cloud = Flaky::new(0..usize::MAX, no_answer());
        let (second, web) = (Duration::from_secs(1), name("web"));
        let goal = Goal {
            group: &web,
            revision: 1,
            replicas: 1,
            deadline: second,
            patience: second,
            started_here: false,
            expires: false,
        };
        let ended = until_settled(&goal, &cloud, &events).await;
        assert!(matches!(ended, Err(RolloutError::Cloud { source, .. }) if source == no_answer()));
        assert!(cloud.looks.load(Ordering::Relaxed) > 1);
        assert_eq!(told.lock().unwrap().len(), 1, "one warning, however often it fails");
    });
}

#[test]
fn a_group_that_is_deleted_while_it_is_waited_for_hides_no_other() {
    on_runtime(async {
        let cloud = Flaky { doomed: Some(name("a")), ..Flaky::new(0..0, no_answer()) };
        let set = desired(vec![group("a", 1, 1), group("b", 1, 2)]);
        let ended = deploy(&set, &cloud).await;
        assert!(matches!(&ended, Err(RolloutError::Deleted { group }) if *group == name("a")), "{ended:?}");
        assert!(cloud.observe().await.unwrap().group(&name("b")).unwrap().is_settled_at(1));
    });
}
