//! A plan made again, on a fleet that somebody changed meanwhile: what the user was shown is done, once, and nothing else
//! is. What this run did already and would do again was undone by somebody who knew of it.

use thiserror::Error;

use super::deploy::{rollout, unused_images};
use super::error::PlanError;
use super::restart;
use super::steps::{Intent, RolloutPlan, Step};
use super::verbs::{collect, destroy, rollback, run, scale, wait};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{DiskSpec, Fleet, Leftover};
use crate::plan::image::ImageId;

/// Why a plan is not carried on. Each has what it would do, in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Overtaken {
    /// It would do something that it did not show.
    #[error(
        "it would now {0}, which the plan did not show; run the command again to plan from what is there"
    )]
    NotShown(String),
    /// It would do something for the second time, which somebody else's act undid or replaced.
    #[error(
        "it would now {0} again, which it has done and somebody else has changed since; run the command again to plan from \
         what is there"
    )]
    DoneBefore(String),
    /// It cannot be made any more.
    #[error("it cannot be planned any more ({0}); run the command again to plan from what is there")]
    Impossible(String),
}

impl RolloutPlan {
    /// The plan made again on `fleet`, after this run applied the acts `applied`: of what is left to do, the part that this
    /// plan showed. Deletions that it did not show are left out, and so are revisions, images and leftovers that it deleted
    /// already.
    ///
    /// # Errors
    /// When it would do anything else that this plan did not show, or that was applied already, or cannot be made any more.
    pub fn again(&self, fleet: &Fleet, applied: &[Act]) -> Result<Self, Overtaken> {
        let cannot = |error: PlanError| Overtaken::Impossible(error.to_string());
        let mut plan = match &self.intent {
            Intent::None => return Err(Overtaken::Impossible("it was put together by hand".into())),
            Intent::Deploy(desired) => rollout(desired, fleet),
            Intent::Rollback { group, to } => rollback(fleet, group, *to).map_err(cannot)?,
            Intent::Restart { group, revision, cause } => {
                restart::planned(fleet, group, Some(*revision), cause).map_err(cannot)?
            }
            Intent::Scale { group, replicas } => scale(fleet, group, *replicas).map_err(cannot)?,
            Intent::Run(group) => run(fleet, group).map_err(cannot)?,
            Intent::Destroy { volumes } => destroy(fleet, *volumes),
            // What it does depends on one disk alone, and the cloud looks at that again.
            Intent::Disk => return Ok(Self { generation: fleet.generation, ..self.clone() }),
            Intent::Collect => collect(fleet),
            Intent::Wait(names) => wait(fleet, names),
        };
        let mut steps = Vec::new();
        for step in std::mem::take(&mut plan.steps) {
            steps.extend(self.shown(step, applied, fleet)?);
        }
        // What is unused follows from the steps that are left.
        if let Some(Act::DeleteImages { images }) = unused_images(&steps, fleet) {
            let deletes = |act: &Act, image: &ImageId| matches!(act, Act::DeleteImages { images } if images.contains(image));
            let images = self.open(&images, applied, deletes);
            steps.extend((!images.is_empty()).then_some(Act::DeleteImages { images }).map(Step::from));
        }
        Ok(Self { steps, ..plan })
    }

    /// The part of a step that this plan showed too and that is not done. Deletions of images are looked at when all else
    /// is known.
    fn shown(&self, step: Step, applied: &[Act], fleet: &Fleet) -> Result<Option<Step>, Overtaken> {
        let Some(act) = step.act() else {
            let is_shown = |shown: &Step| {
                matches!((shown, &step),
                (Step::Await { group: a, .. }, Step::Await { group: b, .. })
                | (Step::AwaitRun { group: a, .. }, Step::AwaitRun { group: b, .. }) if a == b)
            };
            return Ok(self.steps.iter().any(is_shown).then_some(step));
        };
        match act {
            Act::DeleteImages { .. } => Ok(None),
            Act::DeleteLeftovers { leftovers } => {
                let deletes = |act: &Act, one: &Leftover| matches!(act, Act::DeleteLeftovers { leftovers } if leftovers.contains(one));
                let leftovers = self.open(leftovers, applied, deletes);
                Ok((!leftovers.is_empty()).then(|| Act::DeleteLeftovers { leftovers }.into()))
            }
            Act::DeleteRevisions { group, revisions } => {
                let deletes = |act: &Act, number: &u32| matches!(act, Act::DeleteRevisions { group: of, revisions } if of == group && revisions.contains(number));
                let revisions = self.open(revisions, applied, deletes);
                let act = Act::DeleteRevisions { group: group.clone(), revisions: revisions.clone() };
                Ok((!revisions.is_empty()).then(|| act.into()))
            }
            Act::DeleteDisks { disks } => {
                let deletes = |act: &Act, name: &Name| matches!(act, Act::DeleteDisks { disks } if disks.contains(name));
                let disks = self.open(disks, applied, deletes);
                Ok((!disks.is_empty()).then(|| Act::DeleteDisks { disks }.into()))
            }
            // An image is put again where a collection of unused ones took it before a revision named it: that undoes nothing.
            Act::PutImage { .. } if self.acts().any(|shown| shown == act) => Ok(Some(step)),
            act if applied.iter().any(|done| is_same(done, act, fleet)) => {
                Err(Overtaken::DoneBefore(act.to_string()))
            }
            act if self
                .acts()
                .any(|shown| is_same(shown, act, fleet) || is_of_neighbour(shown, act, fleet)) =>
            {
                Ok(Some(step))
            }
            act if act.is_deletion() => Ok(None),
            act => Err(Overtaken::NotShown(act.to_string())),
        }
    }

    /// Of what an act deletes, what this plan showed and no act that was applied deleted.
    fn open<T: Clone>(&self, items: &[T], applied: &[Act], deletes: impl Fn(&Act, &T) -> bool) -> Vec<T> {
        let is_open = |item: &&T| {
            self.acts().any(|act| deletes(act, item)) && !applied.iter().any(|act| deletes(act, item))
        };
        items.iter().filter(is_open).cloned().collect()
    }
}

/// Whether an act is the one that was shown or done. The size of a group that has a scaler is the scaler's, which changes it
/// without an act; none at all turns it off, and is somebody's.
fn is_same(known: &Act, act: &Act, fleet: &Fleet) -> bool {
    match (known, act) {
        (
            Act::StartRefresh { group: a, to: from, replicas: before },
            Act::StartRefresh { group: b, to, replicas: now },
        ) if (a, from) == (b, to) => before == now || (is_scaled(b, fleet) && *before > 0 && *now > 0),
        _ => known == act,
    }
}

/// Whether an act does to the disk of a member what was shown of another one's, in a group whose members a scaler adds.
fn is_of_neighbour(shown: &Act, act: &Act, fleet: &Fleet) -> bool {
    let (Act::PutDisk { disk: shown }, Act::PutDisk { disk }) = (shown, act) else { return false };
    let (Some(known), Some(owner)) = (&shown.owner, &disk.owner) else { return false };
    let template = |name: &Name, ordinal: u32| {
        let end = format!("-{ordinal}");
        name.name.strip_suffix(&end).map(|head| (name.namespace.clone(), head.to_owned()))
    };
    let same = DiskSpec { name: disk.name.clone(), owner: disk.owner.clone(), ..shown.clone() } == *disk;
    let is_alike = template(&shown.name, known.ordinal) == template(&disk.name, owner.ordinal);
    same && is_alike && known.group == owner.group && is_scaled(&owner.group, fleet)
}

fn is_scaled(group: &Name, fleet: &Fleet) -> bool {
    fleet.group(group).is_some_and(|group| group.settings.scaling.is_some())
}
