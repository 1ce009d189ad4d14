//! From a fleet as it is to a fleet as it should be: [`rollout`] compares the two and answers with every step by name,
//! so that carrying a plan out decides nothing.
//!
//! Steps are in the order of their execution. Refreshes of all groups are started before the first one is waited for:
//! the pods of one group may need those of another to become ready. It does not know clocks, clouds or image files.

mod render;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

pub use self::verbs::{PlanError, destroy, rollback, scale, wait};
use super::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceGroup, LaunchSpec, RefreshStatus};
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
    /// What is done.
    pub steps: Vec<Step>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

impl RolloutPlan {
    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether nothing is changed; something that an earlier run began may still have to be waited for.
    pub fn is_unchanged(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Await { .. }))
    }

    /// Images that must be built before the plan can be carried out.
    pub fn images(&self) -> impl Iterator<Item = ImageId> {
        self.steps.iter().filter_map(|step| match step {
            Step::PutImage { image } => Some(*image),
            _ => None,
        })
    }
}

/// One act. Carrying out a step that was carried out before changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Step {
    /// Give the cloud a machine image.
    PutImage {
        /// Which.
        image: ImageId,
    },
    /// Make a balancer what it should be.
    PutBalancer {
        /// All of it.
        spec: BalancerSpec,
        /// What it is now, when it exists.
        previous: Option<BalancerSpec>,
    },
    /// Make a group (of no VMs yet), or change its settings.
    PutGroup {
        /// The group.
        group: Name,
        /// All settings.
        settings: GroupSettings,
        /// Those that it has now, when it exists.
        previous: Option<GroupSettings>,
    },
    /// Add a revision to a group.
    PutRevision {
        /// The group.
        group: Name,
        /// The number that it gets.
        number: u32,
        /// How its VMs are started.
        launch: LaunchSpec,
        /// Why.
        cause: String,
        /// The launch spec of the group's current revision.
        previous: Option<LaunchSpec>,
    },
    /// Stop the refresh that is under way, since another one is wanted.
    CancelRefresh {
        /// The group.
        group: Name,
        /// Where the refresh leads.
        to: u32,
    },
    /// Replace the group's VMs by those of another revision. Only starts it: an [`Step::Await`] follows.
    StartRefresh {
        /// The group.
        group: Name,
        /// The current revision; `None` when the group is started for the first time.
        from: Option<u32>,
        /// The wanted revision.
        to: u32,
        /// The number of VMs.
        replicas: u32,
        /// The number of VMs that the group should have now.
        previous_replicas: u32,
    },
    /// Change the number of VMs. An [`Step::Await`] follows.
    Scale {
        /// The group.
        group: Name,
        /// The number now.
        from: u32,
        /// The number wanted.
        to: u32,
    },
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
    /// Forget old revisions, as the history limit says.
    DeleteRevisions {
        /// The group.
        group: Name,
        /// Their numbers.
        revisions: Vec<u32>,
    },
    /// Drain and end all VMs of a group, and forget it.
    DeleteGroup {
        /// The group.
        group: Name,
    },
    /// Stop listening, and forget the balancer.
    DeleteBalancer {
        /// The balancer.
        balancer: Name,
    },
    /// Delete images that no revision names any more.
    DeleteImages {
        /// Which.
        images: Vec<ImageId>,
    },
}

/// Compares `desired` with `fleet`.
pub fn rollout(desired: &Desired, fleet: &Fleet) -> RolloutPlan {
    let mut plan = RolloutPlan { environment: desired.environment.clone(), ..RolloutPlan::default() };
    let groups: Vec<GroupSteps> = desired
        .groups
        .iter()
        .map(|spec| group_steps(spec, fleet.group(&spec.name), &desired.cause))
        .collect();
    let surplus = surplus(desired, fleet);

    let needed: BTreeSet<ImageId> = desired.groups.iter().map(|spec| spec.launch.image).collect();
    plan.steps.extend(
        needed.into_iter().filter(|id| !fleet.images.contains(id)).map(|image| Step::PutImage { image }),
    );
    plan.steps.extend(desired.balancers.iter().filter_map(|spec| {
        let previous = fleet.balancer(&spec.name).map(|balancer| balancer.spec.clone());
        (previous.as_ref() != Some(spec)).then(|| Step::PutBalancer { spec: spec.clone(), previous })
    }));
    for group in &groups {
        plan.steps.extend(group.act.iter().cloned());
        plan.notes.extend(group.notes.iter().cloned());
    }
    plan.steps.extend(groups.iter().filter_map(|group| group.wait.clone()));
    plan.steps.extend(groups.iter().filter_map(|group| group.trim.clone()));
    if desired.prune {
        plan.steps.extend(surplus.groups.iter().map(|name| Step::DeleteGroup { group: name.clone() }));
        plan.steps
            .extend(surplus.balancers.iter().map(|name| Step::DeleteBalancer { balancer: name.clone() }));
    } else {
        plan.notes.extend(surplus.notes());
    }
    plan.steps.extend(unused_images(&plan.steps, fleet));
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
        let previous = found.map(|group| group.settings.clone());
        act.push(Step::PutGroup { group: spec.name.clone(), settings: spec.settings.clone(), previous });
    }
    let known =
        found.and_then(|group| group.revisions.iter().rev().find(|revision| revision.launch == spec.launch));
    let number = match (known, found) {
        (Some(revision), _) => revision.number,
        (None, Some(group)) => group.next_revision,
        (None, None) => 1,
    };
    if known.is_none() {
        let previous = found.and_then(|group| Some(group.revision(group.current?)?.launch.clone()));
        act.push(Step::PutRevision {
            group: spec.name.clone(),
            number,
            launch: spec.launch.clone(),
            cause: cause.to_owned(),
            previous,
        });
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
    let start = |from, previous_replicas| Step::StartRefresh {
        group: name.clone(),
        from,
        to,
        replicas,
        previous_replicas,
    };
    let Some(group) = found else { return vec![start(None, 0)] };
    let scale = (group.replicas != replicas).then(|| Step::Scale {
        group: name.clone(),
        from: group.replicas,
        to: replicas,
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
            Step::CancelRefresh { group: name.clone(), to: refresh.to },
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
    (!revisions.is_empty()).then(|| Step::DeleteRevisions { group: group.name.clone(), revisions })
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

/// The step that deletes the images which no revision names once `steps` are done.
fn unused_images(steps: &[Step], fleet: &Fleet) -> Option<Step> {
    let mut kept: BTreeMap<(&Name, u32), ImageId> = fleet
        .groups
        .iter()
        .flat_map(|group| {
            group.revisions.iter().map(|revision| ((&group.name, revision.number), revision.launch.image))
        })
        .collect();
    let mut put: BTreeSet<ImageId> = BTreeSet::new();
    for step in steps {
        match step {
            Step::PutImage { image } => {
                put.insert(*image);
            }
            Step::PutRevision { group, number, launch, .. } => {
                kept.insert((group, *number), launch.image);
            }
            Step::DeleteRevisions { group, revisions } => {
                kept.retain(|(name, number), _| *name != group || !revisions.contains(number));
            }
            Step::DeleteGroup { group } => kept.retain(|(name, _), _| *name != group),
            _ => {}
        }
    }
    let used: BTreeSet<ImageId> = kept.into_values().chain(put).collect();
    let held = fleet.images.iter().chain(&fleet.half_deleted).copied();
    let images: Vec<ImageId> = held.filter(|id| !used.contains(id)).collect();
    (!images.is_empty()).then_some(Step::DeleteImages { images })
}
