//! Carries a rollout plan out, step by step, on any cloud. Every step finds what exists first, so that a run that was
//! killed at any moment is made good by the next one.

mod error;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::error::RolloutError;
use crate::cloud::{Cloud, CloudError, NewRevision};
use crate::image::DiskImage;
use crate::manifest::api::Name;
use crate::plan::image::ImageId;
use crate::plan::rollout::{RolloutPlan, Step};
use crate::report::{Event, Events};

/// How a plan is carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often the cloud is asked how far it is.
    pub poll: Duration,
    /// Whether to wait until the groups are healthy. Otherwise what follows a successful refresh (its old revisions, and
    /// the images that they name) is left to a later run.
    pub wait: bool,
}

impl Default for Options {
    /// Waits, and asks four times a second: the answer comes from this machine or costs one API call.
    fn default() -> Self {
        Self { poll: Duration::from_millis(250), wait: true }
    }
}

/// Carries `plan` out on `cloud`, and returns the steps that are left because they need a wait that `options` do not ask
/// for. `images` must hold every image that [`RolloutPlan::images`] names.
///
/// # Errors
/// What the first step that is refused said. A group that does not become healthy is told when all the others have been
/// waited for; nothing is deleted then.
pub async fn execute(
    plan: &RolloutPlan,
    images: &BTreeMap<ImageId, DiskImage>,
    cloud: &dyn Cloud,
    events: &Events,
    options: &Options,
) -> Result<Vec<Step>, RolloutError> {
    let mut started = BTreeSet::new();
    let mut left: Vec<Step> = Vec::new();
    let mut failed: Vec<RolloutError> = Vec::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let waits = matches!(step, Step::Await { .. });
        if !options.wait && needs_wait(step, &left) {
            left.push(step.clone());
            continue;
        }
        if !failed.is_empty() && !waits {
            break;
        }
        let id = format!("step-{index}");
        events.emit(Event::TaskStarted { id: id.clone(), title: step.to_string(), total: None });
        if let Step::Await { group, revision, replicas, deadline_seconds } = step {
            let goal = watch::Goal {
                group,
                revision: *revision,
                replicas: *replicas,
                deadline: Duration::from(*deadline_seconds),
                started_here: started.contains(group),
            };
            match watch::until_settled(&goal, cloud, events, options.poll).await {
                Ok(()) => {}
                // The cloud itself does not answer: the other groups cannot be asked for either.
                Err(error @ RolloutError::Cloud { .. }) => {
                    failed.push(error);
                    break;
                }
                Err(error) => {
                    failed.push(error);
                    continue;
                }
            }
        } else {
            act(step, images, cloud, &mut started).await?;
        }
        events.emit(Event::TaskFinished { id, outcome: "done".to_owned() });
    }
    match failed.len() {
        0 => Ok(left),
        1 => Err(failed.remove(0)),
        _ => Err(RolloutError::Several(failed)),
    }
}

/// Whether a step waits, or is right only after one of the steps that are `left`.
fn needs_wait(step: &Step, left: &[Step]) -> bool {
    match step {
        Step::Await { .. } => true,
        // A refresh that fails goes back to a revision that may be one of these.
        Step::DeleteRevisions { group, .. } => {
            left.iter().any(|step| matches!(step, Step::Await { group: waited, .. } if waited == group))
        }
        // Part of them may be images of revisions that are left.
        Step::DeleteImages { .. } => left.iter().any(|step| matches!(step, Step::DeleteRevisions { .. })),
        _ => false,
    }
}

/// One step that does not wait. Groups whose refresh was started are added to `started`.
async fn act(
    step: &Step,
    images: &BTreeMap<ImageId, DiskImage>,
    cloud: &dyn Cloud,
    started: &mut BTreeSet<Name>,
) -> Result<(), RolloutError> {
    let done: Result<(), CloudError> = match step {
        Step::PutImage { image } => {
            let image = images.get(image).ok_or(RolloutError::ImageMissing(*image))?;
            cloud.put_image(image).await
        }
        Step::PutBalancer { spec, .. } => cloud.put_balancer(spec).await,
        Step::PutGroup { group, settings, .. } => cloud.put_group(group, settings).await,
        Step::PutRevision { group, number, launch, cause, .. } => {
            let revision = NewRevision { number: *number, launch: launch.clone(), cause: cause.clone() };
            cloud.put_revision(group, &revision).await
        }
        Step::CancelRefresh { group, .. } => cloud.cancel_refresh(group).await,
        Step::StartRefresh { group, to, replicas, .. } => {
            started.insert(group.clone());
            cloud.start_refresh(group, *to, *replicas).await
        }
        Step::Scale { group, to, .. } => cloud.set_replicas(group, *to).await,
        Step::Await { .. } => Ok(()),
        Step::DeleteRevisions { group, revisions } => cloud.delete_revisions(group, revisions).await,
        Step::DeleteGroup { group } => cloud.delete_group(group).await,
        Step::DeleteBalancer { balancer } => cloud.delete_balancer(balancer).await,
        Step::DeleteImages { images } => cloud.delete_images(images).await,
    };
    done.map_err(|source| RolloutError::Cloud { step: step.to_string(), source })
}
