//! From a fleet as it is to a fleet as it should be: [`rollout`] compares the two and answers with every step by name,
//! so that carrying a plan out decides nothing.
//!
//! Steps are in the order of their execution. Refreshes of all groups are started before the first one is waited for:
//! the pods of one group may need those of another to become ready. It does not know clocks, clouds or image files.

mod again;
mod render;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

pub use self::again::NotShown;
pub use self::verbs::{PlanError, collect, destroy, rollback, scale, wait};
use super::act::{Act, NewRevision};
use super::fleet::{
    BalancerSpec, Fleet, Generation, GroupSettings, InstanceGroup, LaunchSpec, RefreshStatus,
};
use super::image::ImageId;
use crate::manifest::api::Name;

/// What an environment should hold, as far as the given manifests say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The environment's name.
    pub environment: String,
    /// One a workload.
    pub groups: Vec<GroupSpec>,
    /// One a Service.
    pub balancers: Vec<BalancerSpec>,
    /// What is said of new revisions in the history, such as `i2kit deploy -f nginx.yaml`.
    pub cause: String,
    /// Whether groups and balancers of the environment that are not in the manifests are deleted.
    pub prune: bool,
}

/// A group as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The workload's name.
    pub name: Name,
    /// Number of VMs.
    pub replicas: u32,
    /// How a VM is started.
    pub launch: LaunchSpec,
    /// Strategy and so on.
    pub settings: GroupSettings,
}

/// Every step from what is to what should be, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RolloutPlan {
    /// The environment's name.
    pub environment: String,
    /// The generation of the fleet that it was made on.
    #[serde(default)]
    pub generation: Generation,
    /// What is done.
    pub steps: Vec<Step>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
    /// What it was made for, so that it can be made again on a newer fleet.
    #[serde(skip)]
    pub intent: Intent,
}

impl RolloutPlan {
    /// A plan of these steps on `fleet`.
    fn new(fleet: &Fleet, intent: Intent, steps: Vec<Step>) -> Self {
        Self {
            environment: fleet.environment.clone(),
            generation: fleet.generation,
            steps,
            notes: vec![],
            intent,
        }
    }

    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether nothing is changed; something that an earlier run began may still have to be waited for.
    pub fn is_unchanged(&self) -> bool {
        self.acts().next().is_none()
    }

    /// The acts among its steps.
    pub fn acts(&self) -> impl Iterator<Item = &Act> {
        self.steps.iter().filter_map(Step::act)
    }

    /// Images that must be built before the plan can be carried out.
    pub fn images(&self) -> impl Iterator<Item = ImageId> {
        self.acts().filter_map(|act| match act {
            Act::PutImage { image } => Some(*image),
            _ => None,
        })
    }
}

/// What a plan was made for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Intent {
    /// Steps that were put together by hand: the plan cannot be made again.
    #[default]
    None,
    /// [`rollout`].
    Deploy(Box<Desired>),
    /// [`rollback`].
    Rollback {
        /// The group.
        group: Name,
        /// The revision that it goes back to.
        to: Option<u32>,
    },
    /// [`scale`].
    Scale {
        /// The group.
        group: Name,
        /// The number of VMs.
        replicas: u32,
    },
    /// [`destroy`].
    Destroy,
    /// [`collect`].
    Collect,
    /// [`wait`]: the groups waited for.
    Wait(Vec<Name>),
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Step {
    /// Apply an act to the cloud. One that was applied before changes nothing.
    Apply(Box<Change>),
    /// Wait until the group consists of healthy VMs of that revision.
    Await {
        /// The group.
        group: Name,
        /// The revision.
        revision: u32,
        /// The number of VMs.
        replicas: u32,
        /// Seconds without progress after which waiting fails, unless the cloud ends its refresh earlier.
        deadline_seconds: Seconds,
    },
}

impl Step {
    /// The step that applies `act` where the fleet was `before`.
    fn apply(act: Act, before: Before) -> Self {
        Self::Apply(Box::new(Change { act, before }))
    }

    /// The act that it applies; none when it waits.
    pub fn act(&self) -> Option<&Act> {
        match self {
            Self::Apply(change) => Some(&change.act),
            Self::Await { .. } => None,
        }
    }
}

/// An act that does what it does to something new, or whose text needs nothing of what was there before.
impl From<Act> for Step {
    fn from(act: Act) -> Self {
        Self::apply(act, Before::default())
    }
}

/// An act, and what it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is done.
    #[serde(flatten)]
    pub act: Act,
    /// What was there when the plan was made.
    #[serde(default, skip_serializing_if = "Before::is_nothing")]
    pub before: Before,
}

/// What an act changes, as far as the text of a plan shows it. A cloud does not get it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Before {
    /// The balancer's spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<BalancerSpec>,
    /// The group's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<GroupSettings>,
    /// The launch spec of the group's current revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchSpec>,
    /// The group's current revision; none before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// The number of VMs that the group should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

impl Before {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares `desired` with `fleet`.
pub fn rollout(desired: &Desired, fleet: &Fleet) -> RolloutPlan {
    let mut plan = RolloutPlan::new(fleet, Intent::Deploy(Box::new(desired.clone())), vec![]);
    plan.environment.clone_from(&desired.environment);
    let groups: Vec<GroupSteps> = desired
        .groups
        .iter()
        .map(|spec| group_steps(spec, fleet.group(&spec.name), &desired.cause))
        .collect();
    let surplus = surplus(desired, fleet);

    let needed: BTreeSet<ImageId> = desired.groups.iter().map(|spec| spec.launch.image).collect();
    plan.steps.extend(
        needed
            .into_iter()
            .filter(|id| !fleet.images.contains(id))
            .map(|image| Act::PutImage { image }.into()),
    );
    plan.steps.extend(desired.balancers.iter().filter_map(|spec| {
        let balancer = fleet.balancer(&spec.name).map(|balancer| balancer.spec.clone());
        (balancer.as_ref() != Some(spec)).then(|| {
            let act = Act::PutBalancer { spec: spec.clone() };
            Step::apply(act, Before { balancer, ..Before::default() })
        })
    }));
    for group in &groups {
        plan.steps.extend(group.act.iter().cloned());
        plan.notes.extend(group.notes.iter().cloned());
    }
    plan.steps.extend(groups.iter().filter_map(|group| group.wait.clone()));
    plan.steps.extend(groups.iter().filter_map(|group| group.trim.clone()));
    if desired.prune {
        let groups = surplus.groups.iter().map(|name| Act::DeleteGroup { group: name.clone() });
        let balancers = surplus.balancers.iter().map(|name| Act::DeleteBalancer { balancer: name.clone() });
        plan.steps.extend(groups.chain(balancers).map(Step::from));
    } else {
        plan.notes.extend(surplus.notes());
    }
    plan.steps.extend(unused_images(&plan.steps, fleet).map(Step::from));
    plan
}

/// The part of a plan that concerns one group.
struct GroupSteps {
    act: Vec<Step>,
    wait: Option<Step>,
    trim: Option<Step>,
    notes: Vec<String>,
}

fn group_steps(spec: &GroupSpec, found: Option<&InstanceGroup>, cause: &str) -> GroupSteps {
    let mut act = Vec::new();
    let mut notes = Vec::new();
    if found.is_none_or(|group| group.settings != spec.settings) {
        let before = Before { settings: found.map(|group| group.settings.clone()), ..Before::default() };
        let put = Act::PutGroup { group: spec.name.clone(), settings: spec.settings.clone() };
        act.push(Step::apply(put, before));
    }
    let known =
        found.and_then(|group| group.revisions.iter().rev().find(|revision| revision.launch == spec.launch));
    let number = match (known, found) {
        (Some(revision), _) => revision.number,
        (None, Some(group)) => group.next_revision,
        (None, None) => 1,
    };
    if known.is_none() {
        let launch = found.and_then(|group| Some(group.revision(group.current?)?.launch.clone()));
        let revision = NewRevision { number, launch: spec.launch.clone(), cause: cause.to_owned() };
        let put = Act::PutRevision { group: spec.name.clone(), revision };
        act.push(Step::apply(put, Before { launch, ..Before::default() }));
    }
    let replicas = size(spec, found);
    act.extend(movement(&spec.name, number, replicas, found));
    if let Some(refresh) = found.and_then(|group| group.refresh.as_ref())
        && refresh.to == number
        && matches!(refresh.status, RefreshStatus::RolledBack | RefreshStatus::Failed)
    {
        let reason = refresh.reason.as_deref().and_then(|reason| reason.lines().next()).unwrap_or("unknown");
        notes.push(format!("{}: revision {number} failed before and is tried again ({reason})", spec.name));
    }
    let settled = found.is_some_and(|group| group.is_settled_at(number));
    let wait = (!settled || !act.is_empty()).then(|| Step::Await {
        group: spec.name.clone(),
        revision: number,
        replicas,
        deadline_seconds: spec.settings.progress_deadline_seconds,
    });
    let trim = found.and_then(|group| trim(group, number, spec.settings.revision_history_limit));
    GroupSteps { act, wait, trim, notes }
}

/// How many VMs there should be: what the manifest says, or what the scaler made of it since, within its bounds. None at
/// all turn the scaler off.
fn size(spec: &GroupSpec, found: Option<&InstanceGroup>) -> u32 {
    match &spec.settings.scaling {
        Some(scaling) if spec.replicas > 0 => {
            let running = found.filter(|group| group.current.is_some());
            scaling.within(running.map_or(spec.replicas, |group| group.replicas))
        }
        _ => spec.replicas,
    }
}

/// The steps that make `replicas` VMs of revision `to` out of what the group has, given that the revision exists.
fn movement(name: &Name, to: u32, replicas: u32, found: Option<&InstanceGroup>) -> Vec<Step> {
    let start = |revision, before| {
        let act = Act::StartRefresh { group: name.clone(), to, replicas };
        Step::apply(act, Before { revision, replicas: Some(before), ..Before::default() })
    };
    let Some(group) = found else { return vec![start(None, 0)] };
    let scale = (group.replicas != replicas).then(|| {
        let act = Act::Scale { group: name.clone(), replicas };
        Step::apply(act, Before { replicas: Some(group.replicas), ..Before::default() })
    });
    match group.active_refresh() {
        // Whatever started it, it leads where we want to go: it is adopted.
        Some(refresh) if refresh.status == RefreshStatus::InProgress && refresh.to == to => {
            scale.into_iter().collect()
        }
        Some(refresh) if refresh.status == RefreshStatus::RollingBack && refresh.from == Some(to) => {
            scale.into_iter().collect()
        }
        Some(refresh) => vec![
            Act::CancelRefresh { group: name.clone(), to: refresh.to }.into(),
            start(group.current, group.replicas),
        ],
        None if runs(group, to) => scale.into_iter().collect(),
        None => vec![start(group.current, group.replicas)],
    }
}

/// Whether the group is made of revision `number` and no refresh to it failed: a failed first start is tried again, or
/// its reason would never change.
fn runs(group: &InstanceGroup, number: u32) -> bool {
    let failed = group
        .refresh
        .as_ref()
        .is_some_and(|refresh| refresh.to == number && refresh.status == RefreshStatus::Failed);
    group.current == Some(number)
        && group.members().all(|instance| instance.revision == number)
        && (!failed || group.is_settled_at(number))
}

/// Revisions beyond the history limit: the newest `limit` ones are kept beside `number`, which the group will run.
fn trim(group: &InstanceGroup, number: u32, limit: u32) -> Option<Step> {
    let mut old: Vec<u32> =
        group.revisions.iter().map(|revision| revision.number).filter(|n| *n != number).collect();
    old.sort_unstable_by(|a, b| b.cmp(a));
    let mut revisions: Vec<u32> =
        old.into_iter().skip(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    revisions.sort_unstable();
    (!revisions.is_empty()).then(|| Act::DeleteRevisions { group: group.name.clone(), revisions }.into())
}

/// What the environment holds and the manifests do not mention.
struct Surplus {
    groups: Vec<Name>,
    balancers: Vec<Name>,
}

impl Surplus {
    fn notes(&self) -> impl Iterator<Item = String> {
        let groups = self.groups.iter().map(|name| ("group", name));
        let balancers = self.balancers.iter().map(|name| ("balancer", name));
        groups.chain(balancers).map(|(kind, name)| {
            format!(
                "{kind} {name} is in the environment and in none of these manifests: it is left alone \
                 (`deploy --prune` deletes it)"
            )
        })
    }
}

fn surplus(desired: &Desired, fleet: &Fleet) -> Surplus {
    Surplus {
        groups: fleet
            .groups
            .iter()
            .map(|group| group.name.clone())
            .filter(|name| desired.groups.iter().all(|spec| spec.name != *name))
            .collect(),
        balancers: fleet
            .balancers
            .iter()
            .map(|balancer| balancer.spec.name.clone())
            .filter(|name| desired.balancers.iter().all(|spec| spec.name != *name))
            .collect(),
    }
}

/// The act that deletes the images which no revision names once `steps` are done.
fn unused_images(steps: &[Step], fleet: &Fleet) -> Option<Act> {
    let mut kept: BTreeMap<(&Name, u32), ImageId> = fleet
        .groups
        .iter()
        .flat_map(|group| {
            group.revisions.iter().map(|revision| ((&group.name, revision.number), revision.launch.image))
        })
        .collect();
    let mut put: BTreeSet<ImageId> = BTreeSet::new();
    for act in steps.iter().filter_map(Step::act) {
        match act {
            Act::PutImage { image } => {
                put.insert(*image);
            }
            Act::PutRevision { group, revision } => {
                kept.insert((group, revision.number), revision.launch.image);
            }
            Act::DeleteRevisions { group, revisions } => {
                kept.retain(|(name, number), _| *name != group || !revisions.contains(number));
            }
            Act::DeleteGroup { group } => kept.retain(|(name, _), _| *name != group),
            _ => {}
        }
    }
    let used: BTreeSet<ImageId> = kept.into_values().chain(put).collect();
    let held = fleet.images.iter().chain(&fleet.half_deleted).copied();
    let images: Vec<ImageId> = held.filter(|id| !used.contains(id)).collect();
    (!images.is_empty()).then_some(Act::DeleteImages { images })
}
