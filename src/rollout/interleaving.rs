//! Two runs of the tool at the same time, act by act, in every order: the result is that of one of the two orders in which
//! one run is over before the other begins, or one of them is refused and changes nothing when it is run again.
//!
//! Both plans are made on the same fleet before the first act, as two users do who press Return at the same time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;

use super::tests::{desired, group, image, materials, name, on_runtime};
use super::{RolloutError, RolloutOptions, RunRecord, execute};
use crate::cloud::sim::Sim;
use crate::cloud::{Cloud, CloudError, LogQuery, LogStream, Materials, Scope, Updates};
use crate::manifest::api::Name;
use crate::plan::act::PlannedAct;
use crate::plan::fleet::{Fleet, Generation};
use crate::plan::image::ImageId;
use crate::plan::rollout::{Desired, RolloutPlan, collect, destroy, restart, rollout, scale};
use crate::report::Events;

/// What a user runs.
#[derive(Debug, Clone)]
enum Command {
    Deploy(Desired),
    Destroy,
    Scale(&'static str, u32),
    Restart(&'static str),
    Collect,
}

impl Command {
    fn plan(&self, fleet: &Fleet) -> RolloutPlan {
        match self {
            Self::Deploy(desired) => rollout(desired, fleet),
            Self::Destroy => destroy(fleet, false),
            Self::Scale(group, replicas) => scale(fleet, &name(group), *replicas).unwrap_or_default(),
            Self::Restart(group) => restart(fleet, &name(group), "test").unwrap_or_default(),
            Self::Collect => collect(fleet),
        }
    }
}

/// Whose act is next, run by run.
#[derive(Debug, Default)]
struct Turns {
    order: VecDeque<usize>,
    ended: [bool; 2],
}

/// The cloud as one of two runs sees it: an act waits for its turn.
#[derive(Debug)]
struct Seat {
    sim: Arc<Sim>,
    turns: Arc<Mutex<Turns>>,
    number: usize,
}

impl Seat {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap()
    }

    /// Takes the turn, if it is this run's or nobody else wants it.
    fn takes_turn(&self) -> bool {
        let mut turns = self.turns();
        if turns.ended[1 - self.number] || turns.order.is_empty() {
            return true;
        }
        let is_ours = turns.order.front() == Some(&self.number);
        if is_ours {
            turns.order.pop_front();
        }
        is_ours
    }
}

#[async_trait]
impl Cloud for Seat {
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError> {
        self.sim.inspect(scope).await
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        while !self.takes_turn() {
            tokio::task::yield_now().await;
        }
        let applied = self.sim.apply(act, materials).await;
        assert_whole(&self.sim);
        applied
    }

    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        self.sim.watch(scope)
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        self.sim.logs(query).await
    }
}

/// What is true after every act: no revision names an image that is gone.
fn assert_whole(sim: &Sim) {
    let world = sim.world();
    let environment = &world.environment;
    let revisions = environment.groups.values().flat_map(|group| &group.revisions);
    for revision in revisions {
        assert!(environment.images.contains(&revision.launch.image), "{environment:#?}");
    }
}

/// What is compared at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    groups: BTreeMap<Name, (u32, ImageId)>,
    balancers: BTreeSet<Name>,
    images: BTreeSet<ImageId>,
}

async fn shape(sim: &Sim) -> Shape {
    let fleet = sim.observe().await.unwrap();
    let group = |group: &crate::plan::fleet::InstanceGroup| {
        let current = group.current.expect("a group that was deployed was started");
        assert!(group.is_settled_at(current), "{group:#?}");
        (group.name.clone(), (group.replicas, group.revision(current).unwrap().launch.image))
    };
    Shape {
        groups: fleet.groups.iter().map(group).collect(),
        balancers: fleet.balancers.iter().map(|balancer| balancer.spec.name.clone()).collect(),
        images: fleet.images.iter().copied().collect(),
    }
}

async fn run(plan: &RolloutPlan, cloud: &dyn Cloud) -> Result<(), RolloutError> {
    let (options, record) = (RolloutOptions::default(), RunRecord::default());
    execute(plan, &materials(), cloud, &Events::none(), &options, &record).await.map(drop)
}

async fn run_now(command: &Command, sim: &Sim) {
    let plan = command.plan(&sim.observe().await.unwrap());
    run(&plan, sim).await.unwrap();
}

/// Runs both commands in that order of acts, and those that were refused once more. Returns what there is then, and how
/// many were refused.
async fn interleaved(before: &[Command], pair: &[Command; 2], order: &[usize]) -> (Shape, usize) {
    let sim = Arc::new(Sim::default());
    for command in before {
        run_now(command, &sim).await;
    }
    let fleet = sim.observe().await.unwrap();
    let turns = Arc::new(Mutex::new(Turns { order: order.iter().copied().collect(), ended: [false; 2] }));
    let seat = |number| Seat { sim: Arc::clone(&sim), turns: Arc::clone(&turns), number };
    let one = async |number: usize| {
        let seat = seat(number);
        let ended = run(&pair[number].plan(&fleet), &seat).await;
        seat.turns().ended[number] = true;
        ended
    };
    let ended: [Result<(), RolloutError>; 2] = tokio::join!(one(0), one(1)).into();
    let mut refused = 0;
    for (command, ended) in pair.iter().zip(ended) {
        let Err(error) = ended else { continue };
        let is_clean = match &error {
            error if error.is_overtaken() => true,
            RolloutError::Cloud { source, .. } => {
                matches!(source, CloudError::Conflict { .. } | CloudError::NotFound { .. })
            }
            _ => false,
        };
        assert!(is_clean, "{order:?}: {error:?}");
        refused += 1;
        run_now(command, &sim).await;
    }
    (shape(&sim).await, refused)
}

/// All orders of so many acts of the first run and so many of the second.
fn orders(first: usize, second: usize) -> Vec<Vec<usize>> {
    if first == 0 || second == 0 {
        return vec![[vec![0; first], vec![1; second]].concat()];
    }
    let with = |number: usize, rest: Vec<Vec<usize>>| {
        rest.into_iter().map(move |rest| [vec![number], rest].concat())
    };
    with(0, orders(first - 1, second)).chain(with(1, orders(first, second - 1))).collect()
}

/// Tries every order. Returns how often a run was refused.
fn every_order(before: &[Command], pair: &[Command; 2]) -> usize {
    on_runtime(async {
        let sim = Sim::default();
        for command in before {
            run_now(command, &sim).await;
        }
        let fleet = sim.observe().await.unwrap();
        let [first, second] = [0, 1].map(|number: usize| pair[number].plan(&fleet).acts().count());
        let all = orders(first, second);
        assert!(all.len() > 1, "nothing to interleave");
        let (a, _) = interleaved(before, pair, all.first().unwrap()).await;
        let (b, _) = interleaved(before, pair, all.last().unwrap()).await;
        let mut refusals = 0;
        for order in &all {
            let (found, refused) = interleaved(before, pair, order).await;
            assert!(found == a || found == b, "{order:?}: {found:#?} is neither {a:#?} nor {b:#?}");
            refusals += refused;
        }
        refusals
    })
}

fn deploy(groups: &[(&str, u32, u32)], prune: bool) -> Command {
    let groups = groups.iter().map(|(name, replicas, version)| group(name, *replicas, *version)).collect();
    Command::Deploy(Desired { prune, ..desired(groups) })
}

#[test]
fn deployments_of_two_groups_do_not_get_in_each_others_way() {
    let pair = [deploy(&[("web", 2, 1)], false), deploy(&[("db", 1, 2)], false)];
    assert_eq!(every_order(&[], &pair), 0, "both plans hold whatever the other run does");
}

#[test]
fn of_two_updates_of_a_group_one_is_refused() {
    let before = [deploy(&[("web", 2, 1)], false)];
    let pair = [deploy(&[("web", 2, 2)], false), deploy(&[("web", 2, 3)], false)];
    assert!(every_order(&before, &pair) > 0);
}

#[test]
fn the_same_deployment_twice_is_one() {
    let pair = [deploy(&[("web", 2, 1)], false), deploy(&[("web", 2, 1)], false)];
    assert_eq!(every_order(&[], &pair), 0);
}

#[test]
fn a_deployment_that_prunes_deletes_nothing_that_it_did_not_show() {
    let before = [deploy(&[("old", 1, 8)], false)];
    let pair = [deploy(&[("web", 1, 1)], true), deploy(&[("db", 1, 2)], false)];
    assert_eq!(every_order(&before, &pair), 0);
}

#[test]
fn a_destruction_beside_a_deployment_leaves_nothing_half() {
    let before = [deploy(&[("web", 1, 1)], false)];
    every_order(&before, &[Command::Destroy, deploy(&[("web", 1, 2)], false)]);
    every_order(&before, &[Command::Destroy, deploy(&[("db", 1, 2)], false)]);
}

#[test]
fn a_restart_beside_an_update_or_a_scaling() {
    let before = [deploy(&[("web", 2, 1)], false)];
    assert!(every_order(&before, &[Command::Restart("web"), deploy(&[("web", 2, 2)], false)]) > 0);
    every_order(&before, &[Command::Restart("web"), Command::Scale("web", 3)]);
    every_order(&before, &[Command::Restart("web"), Command::Restart("web")]);
    assert_eq!(every_order(&before, &[Command::Restart("web"), deploy(&[("db", 1, 2)], false)]), 0);
}

#[test]
fn a_scaling_and_a_collection_beside_a_deployment() {
    let before = [deploy(&[("web", 1, 1)], false)];
    every_order(&before, &[Command::Scale("web", 3), deploy(&[("web", 1, 2)], false)]);
    on_runtime(async {
        // An image that no revision names: of a run that was killed.
        let before = [deploy(&[("web", 1, 1)], false)];
        let sim = Sim::default();
        run_now(&before[0], &sim).await;
        sim.world().environment.images.insert(image(9));
        let fleet = sim.observe().await.unwrap();
        let plans = [Command::Collect, deploy(&[("db", 1, 9)], false)].map(|command| command.plan(&fleet));
        // The deployment takes the image over, before the collection comes to it.
        run(&plans[1], &sim).await.unwrap();
        run(&plans[0], &sim).await.unwrap();
        assert!(shape(&sim).await.images.contains(&image(9)));
    });
}
