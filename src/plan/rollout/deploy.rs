//! The plan of a deployment: what differs between the environment as it should be and as it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::disks;
use super::steps::{Before, Desired, GroupKind, GroupSpec, Intent, RolloutPlan, Step};
use crate::manifest::api::Name;
use crate::plan::act::{Act, NewRevision};
use crate::plan::fleet::{Fleet, GroupSettings, InstanceGroup, LaunchSpec, RefreshStatus, Revision};
use crate::plan::image::ImageId;

/// Compares `desired` with `fleet`.
pub fn rollout(desired: &Desired, fleet: &Fleet) -> RolloutPlan {
    let mut plan = RolloutPlan::new(fleet, Intent::Deploy(Box::new(desired.clone())), vec![]);
    let desired = &disks::with_classes(desired, fleet);
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
    let (disks, notes) = disks::of_deployment(desired, fleet);
    plan.steps.extend(disks);
    plan.notes.extend(notes);
    for group in &groups {
        plan.steps.extend(group.act.iter().cloned());
        plan.notes.extend(group.notes.iter().cloned());
    }
    // A Job that is removed some time after its end is waited for first: others may take longer than that.
    let mut waits: Vec<Step> = groups.iter().filter_map(|group| group.wait.clone()).collect();
    waits.sort_by_key(|wait| !matches!(wait, Step::Await { expires: true, .. }));
    plan.steps.extend(waits);
    plan.steps.extend(groups.iter().filter_map(|group| group.trim.clone()));
    if desired.prune {
        let groups = surplus.groups.iter().map(|name| Act::DeleteGroup { group: name.clone() });
        let balancers = surplus.balancers.iter().map(|name| Act::DeleteBalancer { balancer: name.clone() });
        plan.steps.extend(groups.chain(balancers).map(Step::from));
        let gone = fleet.groups.iter().filter(|group| surplus.groups.contains(&group.name));
        plan.steps.extend(with_groups(gone, fleet).map(Step::from));
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
    let known = found.and_then(|group| {
        let is_it = |revision: &&Revision| revision.launch == spec.launch;
        // Of several that are the same, such as a restart that failed has left, it is at the right one already.
        let runs = group.heading().and_then(|heading| group.revision(heading)).filter(is_it);
        runs.or_else(|| group.revisions.iter().rev().find(is_it))
    });
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
    let replicas = spec.size(found);
    let kind = GroupKind::of(&spec.settings);
    // Which members may run an older revision is what the manifest says now.
    let renewed = found.map(|group| InstanceGroup {
        settings: GroupSettings { stateful: spec.settings.stateful.clone(), ..group.settings.clone() },
        ..group.clone()
    });
    let found = renewed.as_ref();
    match found.filter(|group| group.settings.schedule.is_some() && spec.settings.schedule.is_none()) {
        // Runs of the CronJob that it was end with the change, and say nothing about what it is from now on.
        Some(group) => act.push(start(&spec.name, number, replicas, (Some(group), kind))),
        None => act.extend(movement(&spec.name, number, replicas, (found, kind))),
    }
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
        expires: spec.settings.expires(),
        kind,
    });
    let trim =
        found.and_then(|group| trim(group, (number, &spec.launch), spec.settings.revision_history_limit));
    GroupSteps { act, wait, trim, notes }
}

/// The steps that make `replicas` VMs of revision `to` out of what the group has, given that the revision exists.
pub(super) fn movement(
    name: &Name,
    to: u32,
    replicas: u32,
    (found, kind): (Option<&InstanceGroup>, GroupKind),
) -> Vec<Step> {
    let start = || start(name, to, replicas, (found, kind));
    let Some(group) = found else { return vec![start()] };
    let scale = (group.replicas != replicas).then(|| resize(group, replicas));
    match group.active_refresh() {
        // Whatever started it, it leads where we want to go: it is adopted.
        Some(refresh) if refresh.status == RefreshStatus::InProgress && refresh.to == to => {
            scale.into_iter().collect()
        }
        Some(refresh) if refresh.status == RefreshStatus::RollingBack && refresh.from == Some(to) => {
            scale.into_iter().collect()
        }
        Some(refresh) => vec![Act::CancelRefresh { group: name.clone(), to: refresh.to }.into(), start()],
        None if runs(group, to) => scale.into_iter().collect(),
        None => vec![start()],
    }
}

/// The step that gives the group another size, and changes nothing else.
pub(super) fn resize(group: &InstanceGroup, replicas: u32) -> Step {
    let act = Act::Scale { group: group.name.clone(), replicas };
    Step::apply(act, Before { replicas: Some(group.replicas), ..Before::default() })
}

/// The step that starts `replicas` VMs of revision `to`, in a group that is of that kind from now on.
fn start(name: &Name, to: u32, replicas: u32, (found, kind): (Option<&InstanceGroup>, GroupKind)) -> Step {
    let act = Act::StartRefresh { group: name.clone(), to, replicas };
    let revision = found.and_then(|group| group.current);
    let before = found.map_or(0, |group| group.replicas);
    Step::apply(act, Before { revision, replicas: Some(before), kind, ..Before::default() })
}

/// Whether the group is made of revision `number` and no refresh to it failed: a failed first start is tried again, or
/// its reason would never change. Of a Job the newest run is what counts: one that neither succeeded nor goes on is
/// followed by another. The runs of a CronJob go on with their own revision.
fn runs(group: &InstanceGroup, number: u32) -> bool {
    if group.settings.schedule.is_some() {
        return group.current == Some(number);
    }
    if group.settings.job.is_some() {
        let is_well = |status: RefreshStatus| status.is_active() || status == RefreshStatus::Successful;
        return group.runs.last().is_some_and(|run| run.revision == number && is_well(run.status));
    }
    let failed = group
        .refresh
        .as_ref()
        .is_some_and(|refresh| refresh.to == number && refresh.status == RefreshStatus::Failed);
    group.current == Some(number)
        && group.members().all(|instance| group.may_run(instance, number))
        && (!failed || group.is_settled_at(number))
}

/// Revisions beyond the history limit: the newest `limit` ones are kept beside `number`, which the group will run. Those that
/// a newer one repeats are the first to go, so that restarts take no revision away that a rollback can reach.
pub(super) fn trim(group: &InstanceGroup, (number, launch): (u32, &LaunchSpec), limit: u32) -> Option<Step> {
    let is_run = |number: u32| group.runs.iter().any(|run| run.revision == number && run.status.is_active());
    // Members below a partition run an old one.
    let is_held = |number: u32| {
        let stateful = group.settings.stateful.is_some();
        let runs = || group.instances.iter().any(|instance| instance.revision == number);
        stateful && (group.held == Some(number) || runs())
    };
    let is_repeated = |old: &Revision| {
        old.launch == *launch
            || group.revisions.iter().any(|newer| newer.number > old.number && newer.launch == old.launch)
    };
    let is_old = |revision: &&Revision| {
        revision.number != number && !is_run(revision.number) && !is_held(revision.number)
    };
    let mut old: Vec<&Revision> = group.revisions.iter().filter(is_old).collect();
    old.sort_by_key(|revision| (is_repeated(revision), Reverse(revision.number)));
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut revisions: Vec<u32> = old.into_iter().skip(kept).map(|revision| revision.number).collect();
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

/// The act that deletes the disks of members that go with their groups, where the groups say so.
pub(super) fn with_groups<'g>(groups: impl Iterator<Item = &'g InstanceGroup>, fleet: &Fleet) -> Option<Act> {
    let goes = |group: &&InstanceGroup| {
        group.settings.stateful.as_ref().is_some_and(|stateful| stateful.delete_with_group)
    };
    let doomed: Vec<&Name> = groups.filter(goes).map(|group| &group.name).collect();
    let of_doomed = fleet.disks.iter().filter(|disk| {
        disk.spec.owner.as_ref().is_some_and(|owner| doomed.contains(&&owner.group)) && !disk.spec.retain
    });
    let disks: Vec<Name> = of_doomed.map(|disk| disk.spec.name.clone()).collect();
    (!disks.is_empty()).then_some(Act::DeleteDisks { disks })
}

/// The act that deletes the images which no revision names once `steps` are done.
pub(super) fn unused_images(steps: &[Step], fleet: &Fleet) -> Option<Act> {
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
