//! Plans of the verbs that start from the fleet alone: rollback, scale, destroy, wait, gc.

use thiserror::Error;

use super::deploy::{movement, unused_images};
use super::steps::{Intent, RolloutPlan, Step};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{Fleet, InstanceGroup, RefreshStatus};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The environment has no such group.
    #[error("environment {environment} has no group {group}; it has {}", list(.known))]
    UnknownGroup {
        /// Where it was looked for.
        environment: String,
        /// The name given.
        group: Name,
        /// The groups that exist.
        known: Vec<Name>,
    },
    /// The group has no such revision.
    #[error("{group} has no revision {revision}; it has {}", list(.known))]
    UnknownRevision {
        /// The group.
        group: Name,
        /// The number given.
        revision: u32,
        /// The revisions that exist.
        known: Vec<u32>,
    },
    /// It has not been rolled out.
    #[error("nothing of {group} runs yet; `i2kit deploy` with its manifest starts it")]
    NothingRuns {
        /// The group.
        group: Name,
    },
    /// Its manifest says how many machines run, and how often.
    #[error("{group} is a Job; change `parallelism` and `completions` in its manifest and deploy that")]
    Job {
        /// The group.
        group: Name,
    },
    /// It is not run, but kept running.
    #[error("{group} is no Job and no CronJob: its machines run already")]
    NoJob {
        /// The group.
        group: Name,
    },
    /// There is nothing to go back to.
    #[error(
        "{group} has no earlier revision that ever served; name one with --to-revision (`i2kit history` lists them)"
    )]
    NoEarlierRevision {
        /// The group.
        group: Name,
    },
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Brings `group` back to the revision `to`, or without one to that which served last before the current one.
pub fn rollback(fleet: &Fleet, group: &Name, to: Option<u32>) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    let to = match to {
        Some(number) if found.revision(number).is_some() => number,
        Some(revision) => {
            let known = found.revisions.iter().map(|revision| revision.number).collect();
            return Err(PlanError::UnknownRevision { group: group.clone(), revision, known });
        }
        None => found
            .revisions
            .iter()
            .filter(|revision| Some(revision.number) != found.current && revision.deployed.is_some())
            .max_by_key(|revision| (revision.deployed, revision.number))
            .map(|revision| revision.number)
            .ok_or_else(|| PlanError::NoEarlierRevision { group: group.clone() })?,
    };
    let intent = Intent::Rollback { group: group.clone(), to: Some(to) };
    Ok(moving(fleet, found, (to, found.replicas), intent))
}

/// Gives `group` that number of VMs of the revision that it runs or is being refreshed to.
pub fn scale(fleet: &Fleet, group: &Name, replicas: u32) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    if found.settings.job.is_some() {
        return Err(PlanError::Job { group: group.clone() });
    }
    let heading = found.active_refresh().map(|refresh| match refresh.status {
        RefreshStatus::RollingBack => refresh.from.unwrap_or(refresh.to),
        _ => refresh.to,
    });
    let to = heading.or(found.current).ok_or_else(|| PlanError::NothingRuns { group: group.clone() })?;
    Ok(moving(fleet, found, (to, replicas), Intent::Scale { group: group.clone(), replicas }))
}

/// Starts a run of the Job or the CronJob `group` now, at its current revision, and waits for its end.
pub fn run(fleet: &Fleet, group: &Name) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    if found.settings.job.is_none() {
        return Err(PlanError::NoJob { group: group.clone() });
    }
    let newest = found.runs.last();
    let revision = match newest {
        Some(newest) if found.settings.schedule.is_none() => Some(newest.revision),
        _ => found.current,
    };
    let revision = revision.ok_or_else(|| PlanError::NothingRuns { group: group.clone() })?;
    let steps = vec![
        Act::StartRun { group: group.clone(), revision }.into(),
        Step::AwaitRun { group: group.clone(), after: newest.map_or(0, |newest| newest.number) },
    ];
    Ok(RolloutPlan::new(fleet, Intent::Run(group.clone()), steps))
}

/// Deletes everything that the environment holds: groups first, so that connections drain, then balancers and images.
pub fn destroy(fleet: &Fleet) -> RolloutPlan {
    let groups = fleet.groups.iter().map(|group| Act::DeleteGroup { group: group.name.clone() });
    let balancers =
        fleet.balancers.iter().map(|balancer| Act::DeleteBalancer { balancer: balancer.spec.name.clone() });
    let mut steps: Vec<Step> = groups.chain(balancers).map(Step::from).collect();
    steps.extend(unused_images(&steps, fleet).map(Step::from));
    RolloutPlan::new(fleet, Intent::Destroy, steps)
}

/// Deletes images that no revision names, and what interrupted runs left.
pub fn collect(fleet: &Fleet) -> RolloutPlan {
    let leftovers = fleet.leftovers.clone();
    let leftovers = (!leftovers.is_empty()).then_some(Act::DeleteLeftovers { leftovers });
    let steps = unused_images(&[], fleet).into_iter().chain(leftovers).map(Step::from).collect();
    RolloutPlan::new(fleet, Intent::Collect, steps)
}

/// Waits until the groups of these names, or all, are what they are being made. Nothing is changed.
pub fn wait(fleet: &Fleet, names: &[Name]) -> RolloutPlan {
    let wanted = fleet.groups.iter().filter(|group| names.is_empty() || names.contains(&group.name));
    let steps = wanted.filter_map(|group| {
        // A refresh that failed is an answer, too: waiting for its revision tells how it ended.
        let lost = group.refresh.as_ref().filter(|refresh| refresh.is_lost() || refresh.status.is_active());
        let revision = lost.map(|refresh| refresh.to).or(group.current)?;
        (!group.is_settled_at(revision)).then(|| Step::Await {
            group: group.name.clone(),
            revision,
            replicas: group.replicas,
            deadline_seconds: group.settings.progress_deadline_seconds,
            expires: group.settings.expires(),
        })
    });
    RolloutPlan::new(fleet, Intent::Wait(names.to_vec()), steps.collect())
}

fn find<'f>(fleet: &'f Fleet, group: &Name) -> Result<&'f InstanceGroup, PlanError> {
    fleet.group(group).ok_or_else(|| PlanError::UnknownGroup {
        environment: fleet.environment.clone(),
        group: group.clone(),
        known: fleet.groups.iter().map(|group| group.name.clone()).collect(),
    })
}

/// The plan that gives `group` that many VMs of revision `to`, and waits for them.
fn moving(fleet: &Fleet, group: &InstanceGroup, (to, replicas): (u32, u32), intent: Intent) -> RolloutPlan {
    let mut steps = movement(&group.name, to, replicas, Some(group));
    if !steps.is_empty() || group.replicas != replicas || !group.is_settled_at(to) {
        steps.push(Step::Await {
            group: group.name.clone(),
            revision: to,
            replicas,
            deadline_seconds: group.settings.progress_deadline_seconds,
            expires: group.settings.expires(),
        });
    }
    RolloutPlan::new(fleet, intent, steps)
}
