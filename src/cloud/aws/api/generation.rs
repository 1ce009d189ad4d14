//! The generation of an environment in AWS. There is no counter in AWS that acts could move with what they do, so it is
//! made of the definitions themselves: what each launch template, Auto Scaling group, refresh, stack and image was made to
//! be. They are read again right before each act, and one that differs from what the plan was made on makes the plan out of
//! date. What an act of this run defines is read, or known, right after it, so that it is compared from then on.
//!
//! What is left open: somebody else's act between that look and the calls of our own act, a second or so. AWS' own locks
//! hold there: the number of a launch template's version, a stack that is being changed, a refresh under way. What slips
//! through is seen before the next act; of a size or a refresh that both set within that second, the later one stands.

use std::collections::BTreeMap;

use crate::cloud::CloudError;
use crate::manifest::api::Name;
use crate::oci::Digest;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::{BalancerSpec, Generation, GroupSettings};

/// What clients defined in an environment: a digest each definition, by what it is in words.
pub(super) type Definitions = BTreeMap<String, Digest>;

/// The definition of all images together.
pub(super) const IMAGES: &str = "images";

/// A definition of a group.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aspect {
    Settings,
    Revisions,
    Size,
    Refresh,
}

impl Aspect {
    /// The name among the definitions.
    pub(super) fn of(self, group: &Name) -> String {
        let aspect = match self {
            Self::Settings => "settings",
            Self::Revisions => "revisions",
            Self::Size => "size",
            Self::Refresh => "refresh",
        };
        format!("{aspect} of group {group}")
    }
}

/// The name of a balancer's definition.
pub(super) fn balancer(name: &Name) -> String {
    format!("balancer {name}")
}

/// The definition of a group's settings.
pub(super) fn settings_digest(settings: &GroupSettings) -> Digest {
    Digest::of(serde_json::to_string(settings).unwrap_or_default().as_bytes())
}

/// The definition of a group's revisions: the number of the newest.
pub(super) fn revisions_digest(newest: i64) -> Digest {
    Digest::of(newest.to_string().as_bytes())
}

/// The definition of a balancer.
pub(super) fn balancer_digest(spec: &BalancerSpec) -> Digest {
    Digest::of(serde_json::to_string(spec).unwrap_or_default().as_bytes())
}

/// Of which definitions the next act of this run is planned.
#[derive(Debug, Default)]
pub(super) struct Planned {
    generation: Generation,
    definitions: Definitions,
    /// How many plans were made so far.
    plans: u64,
}

/// The names of the definitions that an act changes where `before` was found.
fn changed(act: &Act, before: &Definitions) -> Vec<String> {
    use Aspect::{Refresh, Revisions, Settings, Size};
    let of = |group: &Name, aspects: &[Aspect]| aspects.iter().map(|aspect| aspect.of(group)).collect();
    match act {
        Act::PutImage { .. } | Act::DeleteImages { .. } => vec![IMAGES.to_owned()],
        Act::PutBalancer { spec } => vec![balancer(&spec.name)],
        Act::DeleteBalancer { balancer: name } => vec![balancer(name)],
        Act::PutGroup { group, .. } => of(group, &[Settings, Size]),
        // The first one makes the launch template, which has the settings.
        Act::PutRevision { group, .. } if !before.contains_key(&Settings.of(group)) => {
            of(group, &[Settings, Revisions])
        }
        Act::PutRevision { group, .. } | Act::DeleteRevisions { group, .. } => of(group, &[Revisions]),
        Act::CancelRefresh { group, .. } => of(group, &[Refresh]),
        Act::StartRefresh { group, .. } => of(group, &[Refresh, Size]),
        Act::Scale { group, .. } => of(group, &[Size]),
        other => {
            other.group().map(|group| of(group, &[Settings, Revisions, Size, Refresh])).unwrap_or_default()
        }
    }
}

/// The definitions that are known once an act was applied where `before` was found, by their names; none where it is gone.
pub(super) fn expected(act: &Act, before: &Definitions) -> BTreeMap<String, Option<Digest>> {
    match act {
        Act::PutBalancer { spec } => [(balancer(&spec.name), Some(balancer_digest(spec)))].into(),
        Act::PutGroup { group, settings } => {
            let known = Some(Aspect::Settings.of(group)).filter(|name| before.contains_key(name));
            known.map(|name| (name, Some(settings_digest(settings)))).into_iter().collect()
        }
        Act::PutRevision { group, revision } => {
            [(Aspect::Revisions.of(group), Some(revisions_digest(revision.number.into())))].into()
        }
        Act::DeleteGroup { .. } | Act::DeleteBalancer { .. } => {
            changed(act, before).into_iter().map(|name| (name, None)).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// The definitions after an act that was applied where `before` was found: what it changed is as it was `found` right
/// after it, or as it asked for where that is known.
pub(super) fn after(act: &Act, before: &Definitions, found: &Definitions) -> Definitions {
    let known = expected(act, before);
    let mut after = before.clone();
    for name in changed(act, before) {
        match known.get(&name).copied().unwrap_or_else(|| found.get(&name).copied()) {
            Some(digest) => drop(after.insert(name, digest)),
            None => drop(after.remove(&name)),
        }
    }
    after
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
        *self = Self { generation, definitions, plans: self.plans + 1 };
        generation
    }

    /// Tells the plan that is being carried out from those that this run made before.
    pub(super) fn plan(&self) -> u64 {
        self.plans
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
        let mut names = self.definitions.keys().chain(now.keys());
        match names.find(|name| self.definitions.get(*name) != now.get(*name)) {
            Some(name) => conflict(name),
            None => Ok(()),
        }
    }

    /// Takes note of an act that was applied, and of the definitions [`after`] it.
    pub(super) fn applied(&mut self, planned: &PlannedAct, after: Definitions) -> Generation {
        self.generation = number(&format!("{:?} {}", self.generation, planned.act));
        self.definitions = after;
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Strategy;
    use crate::plan::act::NewRevision;
    use crate::plan::example;
    use crate::plan::image::ImageId;

    fn name(name: &str) -> Name {
        Name { namespace: "default".into(), name: name.into() }
    }

    fn planned(act: Act, generation: Generation) -> PlannedAct {
        PlannedAct { act, generation, by: "test".into() }
    }

    fn size(group: &str) -> Act {
        Act::Scale { group: name(group), replicas: 1 }
    }

    fn put_group(seconds: u64) -> Act {
        let settings = GroupSettings {
            min_ready_seconds: i2kit_spec::Seconds(seconds),
            ..example::settings(Strategy::Recreate)
        };
        Act::PutGroup { group: name("web"), settings }
    }

    fn put_revision(number: u32) -> Act {
        let launch = example::launch(ImageId(Digest::of(b"1")));
        Act::PutRevision {
            group: name("web"),
            revision: NewRevision { number, launch, cause: "test".into() },
        }
    }

    /// The definition of that aspect of `web`, and of `db`, with these texts.
    fn found(aspect: Aspect, web: &str, db: &str) -> Definitions {
        let one = |(group, text): (&str, &str)| (aspect.of(&name(group)), Digest::of(text.as_bytes()));
        [("web", web), ("db", db)].into_iter().map(one).collect()
    }

    /// A run that planned where `before` was, applied `act`, and found `found` right after it; and its generation.
    fn run(before: &Definitions, act: Act, found: &Definitions) -> (Planned, Generation) {
        let mut run = Planned::default();
        let generation = run.observe(before.clone());
        let act = planned(act, generation);
        run.admit(&act, before).unwrap();
        let next = run.applied(&act, after(&act.act, before, found));
        (run, next)
    }

    #[test]
    fn what_somebody_else_changed_makes_a_plan_outdated_and_what_this_run_changed_does_not() {
        let before = found(Aspect::Size, "1", "1");
        let ours = found(Aspect::Size, "2", "1");
        let (run, next) = run(&before, size("web"), &ours);
        run.admit(&planned(size("db"), next), &ours).unwrap();
        // Planned before that act, or on another look.
        let mut fresh = Planned::default();
        let first = fresh.observe(before.clone());
        assert_ne!(first, Generation::default());
        assert!(run.admit(&planned(size("db"), first), &ours).is_err());
        let theirs = found(Aspect::Size, "2", "2");
        let error = run.admit(&planned(size("db"), next), &theirs).unwrap_err().to_string();
        assert!(error.contains("size of group db"), "{error}");
        let mut more = ours.clone();
        more.insert(Aspect::Size.of(&name("mail")), Digest::of(b"1"));
        assert!(run.admit(&planned(size("db"), next), &more).is_err());
        assert_eq!(fresh.observe(Definitions::new()), Generation::default());
    }

    #[test]
    fn what_this_run_changed_last_is_compared_too() {
        // Its own settings, then somebody else's, while it went on or waited.
        let before: Definitions = [(Aspect::Settings.of(&name("web")), Digest::of(b"old"))].into();
        let mut theirs = before.clone();
        theirs.insert(Aspect::Settings.of(&name("web")), Digest::of(b"theirs"));
        let (settings, next) = run(&before, put_group(1), &theirs);
        let error = settings.admit(&planned(put_revision(2), next), &theirs).unwrap_err().to_string();
        assert!(error.contains("settings of group web"), "{error}");
        let Act::PutGroup { settings: own, .. } = put_group(1) else { panic!("it puts a group") };
        let ours: Definitions = [(Aspect::Settings.of(&name("web")), settings_digest(&own))].into();
        settings.admit(&planned(put_revision(2), next), &ours).unwrap();

        // Settings that somebody else put while a revision was being put, which takes minutes where it makes a role.
        let (revision, next) = run(&before, put_revision(2), &theirs);
        theirs.insert(Aspect::Revisions.of(&name("web")), revisions_digest(2));
        assert!(revision.admit(&planned(size("web"), next), &theirs).is_err());
        // A size.
        let (sized, next) = run(&found(Aspect::Size, "1", "1"), size("web"), &found(Aspect::Size, "2", "1"));
        assert!(sized.admit(&planned(size("web"), next), &found(Aspect::Size, "5", "1")).is_err());
    }

    #[test]
    fn a_first_revision_brings_the_settings_and_a_deletion_leaves_nothing() {
        let settings = Aspect::Settings.of(&name("web"));
        let found: Definitions = [(settings, Digest::of(b"own"))].into();
        let first = after(&put_revision(1), &Definitions::new(), &found);
        assert_eq!(first.len(), 2, "{first:?}");
        assert!(
            expected(&put_group(1), &Definitions::new()).is_empty(),
            "nothing shows it before a revision"
        );
        assert_eq!(after(&Act::DeleteGroup { group: name("web") }, &first, &first), Definitions::new());
    }

    #[test]
    fn refreshes_of_others_make_a_plan_outdated() {
        let before = found(Aspect::Refresh, "a 2", "b 1");
        let cancel = Act::CancelRefresh { group: name("web"), to: 2 };
        let mut run = Planned::default();
        let generation = run.observe(before.clone());
        // A rollback to a revision that exists, at the same size, changes nothing else.
        let error =
            run.admit(&planned(cancel, generation), &found(Aspect::Refresh, "c 1", "b 1")).unwrap_err();
        assert!(error.to_string().contains("refresh of group web"), "{error}");
    }
}
