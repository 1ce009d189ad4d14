//! The plan of a restart: a new revision with the launch spec of the one that runs, to which the cloud refreshes the group as
//! to any other.

use super::deploy::{trim, unused_images};
use super::error::PlanError;
use super::steps::{Before, Intent, RolloutPlan, Step};
use super::verbs::{find, moving};
use crate::manifest::api::Name;
use crate::plan::act::{Act, NewRevision};
use crate::plan::fleet::{Fleet, InstanceGroup, LaunchSpec};

/// Replaces all VMs of `group`, under its strategy, by equal ones. The reason `cause` is in the history.
pub fn restart(fleet: &Fleet, group: &Name, cause: &str) -> Result<RolloutPlan, PlanError> {
    planned(fleet, group, None, cause)
}

/// The same as [`restart`], once the number of the new revision is known: whoever has put it is followed.
pub(super) fn planned(
    fleet: &Fleet,
    group: &Name,
    number: Option<u32>,
    cause: &str,
) -> Result<RolloutPlan, PlanError> {
    let found = find(fleet, group)?;
    if found.settings.job.is_some() {
        return Err(PlanError::JobEnds { group: group.clone() });
    }
    let nothing = || PlanError::NothingRuns { group: group.clone() };
    let heading = found.heading().ok_or_else(nothing)?;
    let launch = &found.revision(heading).ok_or_else(nothing)?.launch;
    let number = number.or_else(|| spare(found, heading, launch)).unwrap_or(found.next_revision);
    let intent = Intent::Restart { group: group.clone(), revision: number, cause: cause.to_owned() };
    let mut plan = moving(fleet, found, (number, found.replicas), intent);
    match found.revision(number) {
        Some(revision) if revision.launch != *launch => {
            return Err(PlanError::AnotherRevision { group: group.clone(), revision: number });
        }
        Some(_) => {}
        None => {
            let revision = NewRevision { number, launch: launch.clone(), cause: cause.to_owned() };
            let before =
                Before { launch: Some(launch.clone()), revision: Some(heading), ..Before::default() };
            plan.steps.insert(0, Step::apply(Act::PutRevision { group: group.clone(), revision }, before));
        }
    }
    if let Some(trim) = trim(found, (number, launch), found.settings.revision_history_limit) {
        plan.steps.push(trim);
        plan.steps.extend(unused_images(&plan.steps, fleet).map(Step::from));
    }
    Ok(plan)
}

/// The revision that an interrupted restart has put and not started.
fn spare(group: &InstanceGroup, heading: u32, launch: &LaunchSpec) -> Option<u32> {
    let newest = group.revisions.iter().max_by_key(|revision| revision.number)?;
    let is_target = group.active_refresh().is_some_and(|refresh| refresh.to == newest.number);
    let runs = group.instances.iter().any(|instance| instance.revision == newest.number);
    let is_spare = newest.number != heading && newest.deployed.is_none() && newest.launch == *launch;
    (is_spare && !is_target && !runs && group.held != Some(newest.number)).then_some(newest.number)
}
