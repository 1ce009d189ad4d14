//! A plan made again, on a fleet that somebody changed meanwhile: what the user was shown is done, and nothing else is.

use std::collections::BTreeSet;

use thiserror::Error;

use super::deploy::{rollout, unused_images};
use super::steps::{Intent, RolloutPlan, Step};
use super::verbs::{PlanError, collect, destroy, rollback, scale, wait};
use crate::plan::act::Act;
use crate::plan::fleet::Fleet;
use crate::plan::image::ImageId;

/// Why a plan is not carried on: it would now do something that it did not show.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it would now {0}, which the plan did not show; run the command again to plan from what is there")]
pub struct NotShown(pub String);

impl RolloutPlan {
    /// The plan made again on `fleet`: of what is left to do, the part that this plan showed. Deletions that it did not
    /// show are left out.
    ///
    /// # Errors
    /// When it would do anything else that this plan did not show, or cannot be made any more.
    pub fn again(&self, fleet: &Fleet) -> Result<Self, NotShown> {
        let cannot = |error: PlanError| NotShown(format!("not be possible ({error})"));
        let mut plan = match &self.intent {
            Intent::None => return Err(NotShown("have to be made anew".into())),
            Intent::Deploy(desired) => rollout(desired, fleet),
            Intent::Rollback { group, to } => rollback(fleet, group, *to).map_err(cannot)?,
            Intent::Scale { group, replicas } => scale(fleet, group, *replicas).map_err(cannot)?,
            Intent::Destroy => destroy(fleet),
            Intent::Collect => collect(fleet),
            Intent::Wait(names) => wait(fleet, names),
        };
        let mut steps = Vec::new();
        for step in std::mem::take(&mut plan.steps) {
            steps.extend(self.shown(step)?);
        }
        // What is unused follows from the steps that are left.
        let shown: BTreeSet<_> = self.acts().flat_map(images_deleted).copied().collect();
        if let Some(Act::DeleteImages { mut images }) = unused_images(&steps, fleet) {
            images.retain(|image| shown.contains(image));
            steps.extend((!images.is_empty()).then_some(Act::DeleteImages { images }).map(Step::from));
        }
        if let Intent::Collect = self.intent {
            let leftovers = self.acts().filter(|act| matches!(act, Act::DeleteLeftovers { .. }));
            steps.extend(leftovers.cloned().map(Step::from));
        }
        Ok(Self { steps, ..plan })
    }

    /// The part of a step that this plan showed too. Deletions of images and leftovers are looked at when all else is
    /// known.
    fn shown(&self, step: Step) -> Result<Option<Step>, NotShown> {
        let Some(act) = step.act() else {
            let is_shown = |shown: &Step| {
                matches!((shown, &step),
                (Step::Await { group: a, .. }, Step::Await { group: b, .. }) if a == b)
            };
            return Ok(self.steps.iter().any(is_shown).then_some(step));
        };
        match act {
            Act::DeleteImages { .. } | Act::DeleteLeftovers { .. } => Ok(None),
            Act::DeleteRevisions { group, revisions } => {
                let shown = |number: &u32| {
                    self.acts().any(|act| {
                        matches!(act, Act::DeleteRevisions { group: of, revisions } if of == group && revisions.contains(number))
                    })
                };
                let revisions: Vec<u32> = revisions.iter().copied().filter(shown).collect();
                let act = Act::DeleteRevisions { group: group.clone(), revisions: revisions.clone() };
                Ok((!revisions.is_empty()).then(|| act.into()))
            }
            act if self.acts().any(|shown| shown == act) => Ok(Some(step)),
            act if act.is_deletion() => Ok(None),
            act => Err(NotShown(act.to_string())),
        }
    }
}

/// The images that an act deletes.
fn images_deleted(act: &Act) -> &[ImageId] {
    if let Act::DeleteImages { images } = act { images } else { &[] }
}
