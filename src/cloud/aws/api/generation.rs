//! The generation of an environment in AWS. There is no counter in AWS that acts could move with what they do, so it is
//! made of the definitions themselves: what each launch template, Auto Scaling group, stack and image was made to be.
//! They are read again right before each act, and an object that differs from what the plan was made on makes the plan out of date.
//!
//! What is left open: somebody else's act between that look and the calls of our own act, a second or so. AWS' own locks
//! hold there: the number of a launch template's version, a stack that is being changed, a refresh under way. What slips
//! through is seen before the next act.

use std::collections::BTreeMap;

use crate::cloud::CloudError;
use crate::oci::Digest;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::Generation;

/// What clients defined in an environment: a digest each object, by its name.
pub(super) type Definitions = BTreeMap<String, Digest>;

/// The name of all images together.
pub(super) const IMAGES: &str = "images";

/// Of which definitions the next act of this run is planned.
#[derive(Debug, Default)]
pub(super) struct Planned {
    generation: Generation,
    definitions: Definitions,
    /// The object that the newest act of this run changed: it is taken as it is found next.
    changed: Option<String>,
}

/// The object that an act changes.
fn object(act: &Act) -> Option<String> {
    match act {
        Act::PutImage { .. } | Act::DeleteImages { .. } => Some(IMAGES.to_owned()),
        Act::PutBalancer { spec } => Some(format!("balancer {}", spec.name)),
        Act::DeleteBalancer { balancer } => Some(format!("balancer {balancer}")),
        other => other.group().map(|group| format!("group {group}")),
    }
}

/// A number for a text: two of one environment are never the same by chance.
fn number(text: &str) -> Generation {
    let digest = Digest::of(text.as_bytes());
    let bytes = digest.as_bytes().first_chunk().copied().unwrap_or_default();
    Generation(u64::from_le_bytes(bytes))
}

impl Planned {
    /// Takes the definitions over that a plan is about to be made on.
    pub(super) fn observe(&mut self, definitions: Definitions) -> Generation {
        let generation =
            if definitions.is_empty() { Generation::default() } else { number(&format!("{definitions:?}")) };
        *self = Self { generation, definitions, changed: None };
        generation
    }

    /// Whether `planned` may be applied where `now` is found.
    pub(super) fn admit(&self, planned: &PlannedAct, now: &Definitions) -> Result<(), CloudError> {
        let conflict = |what: &str| {
            let message =
                format!("the environment was changed by somebody else since this was planned: {what}");
            Err(CloudError::Outdated { message })
        };
        if planned.generation != self.generation {
            return conflict("the plan is of another look at it");
        }
        let objects = self.definitions.keys().chain(now.keys());
        let mut others = objects.filter(|object| self.changed.as_ref() != Some(object));
        match others.find(|object| self.definitions.get(*object) != now.get(*object)) {
            Some(object) => conflict(object),
            None => Ok(()),
        }
    }

    /// Takes note of an act that was applied where `now` had been found.
    pub(super) fn applied(&mut self, planned: &PlannedAct, now: Definitions) -> Generation {
        let generation = number(&format!("{:?} {}", self.generation, planned.act));
        *self = Self { generation, definitions: now, changed: object(&planned.act) };
        generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(generation: Generation, group: &str) -> PlannedAct {
        let group = crate::manifest::api::Name { namespace: "default".into(), name: group.into() };
        PlannedAct { act: Act::Scale { group, replicas: 1 }, generation, by: "test".into() }
    }

    fn found(groups: &[(&str, &str)]) -> Definitions {
        let one = |(group, text): &(&str, &str)| (format!("group {group}"), Digest::of(text.as_bytes()));
        groups.iter().map(one).collect()
    }

    #[test]
    fn what_somebody_else_changed_makes_a_plan_outdated_and_what_this_run_changed_is_none() {
        let mut planned = Planned::default();
        let first = found(&[("web", "1"), ("db", "1")]);
        let generation = planned.observe(first.clone());
        assert_ne!(generation, Generation::default());
        planned.admit(&act(generation, "web"), &first).unwrap();
        let next = planned.applied(&act(generation, "web"), first.clone());
        // Planned before that act, or on another look.
        assert!(planned.admit(&act(generation, "web"), &first).is_err());
        let ours = found(&[("web", "2"), ("db", "1")]);
        planned.admit(&act(next, "db"), &ours).unwrap();
        let theirs = found(&[("web", "2"), ("db", "2")]);
        let error = planned.admit(&act(next, "db"), &theirs).unwrap_err().to_string();
        assert!(error.contains("group db"), "{error}");
        let new = found(&[("web", "2"), ("db", "1"), ("mail", "1")]);
        assert!(planned.admit(&act(next, "db"), &new).is_err());
        assert_eq!(planned.observe(Definitions::new()), Generation::default());
    }
}
