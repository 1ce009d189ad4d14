//! What no revision needs and no plan knows of: snapshots without an image, uploads that nobody went on with, stacks that
//! never came to be, values of Secrets that were superseded, Jobs whose time is over.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::SnapshotState;

use super::balancer::unused_balancers;
use super::environment::Aws;
use super::stack::Stack;
use super::tags;
use super::wait::now;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::role::{self, InstanceProfile};
use crate::manifest::api::Name;
use crate::plan::fleet::{InstanceGroup, Leftover};

/// An upload that is older was given up.
const GIVEN_UP_SECONDS: u64 = 24 * 3600;

/// A snapshot without an image.
const SNAPSHOT: &str = "snapshot";

/// A stack that never came to be, of a role that no revision has, or of a load balancer that no Service is on.
const STACK: &str = "stack";

/// Values of a Secret that no revision names.
const SECRET: &str = "secret";

/// A Job that was to be removed some time after its end.
const JOB: &str = "job";

/// What is left of a Job that was to be removed some time after its end.
pub(super) fn expired(group: &Name) -> Leftover {
    leftover(JOB, tags::group(group))
}

fn leftover(kind: &str, id: impl Into<String>) -> Leftover {
    Leftover { kind: kind.to_owned(), id: id.into() }
}

impl Aws {
    /// Deletes leftovers; those that are gone are no error.
    pub(super) async fn delete_leftovers(&self, leftovers: &[Leftover]) -> Result<(), CloudError> {
        for leftover in leftovers {
            match leftover.kind.as_str() {
                SNAPSHOT => self.delete_snapshot(&leftover.id).await?,
                STACK => self.delete_stack(&leftover.id).await?,
                SECRET => self.delete_values(&leftover.id).await?,
                JOB => {
                    if let Some((namespace, name)) = leftover.id.split_once('/') {
                        let group = Name { namespace: namespace.into(), name: name.into() };
                        self.delete_expired(&group).await?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Leftovers of the environment, which has these groups.
    pub(super) async fn leftovers(&self, groups: &[InstanceGroup]) -> Result<Vec<Leftover>, CloudError> {
        let images: BTreeSet<String> = self.images().await?.iter().map(ToString::to_string).collect();
        let old = |seconds: Option<i64>| {
            let started = seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
            started + GIVEN_UP_SECONDS < now()
        };
        let snapshots = self.snapshots().await?;
        let unused = snapshots.iter().filter(|snapshot| {
            let image = tags::value(snapshot.tags(), tags::IMAGE).unwrap_or_default();
            let finished = snapshot.state() != Some(&SnapshotState::Pending);
            // A snapshot that is complete has its image a moment later; one under way belongs to somebody for a day.
            let age = old(snapshot.start_time().map(aws_sdk_ec2::primitives::DateTime::secs));
            let deleted = tags::value(snapshot.tags(), tags::DELETED).is_some();
            !images.contains(image)
                && (age || deleted || (finished && snapshot.state() == Some(&SnapshotState::Error)))
        });
        let mut found: Vec<Leftover> =
            unused.filter_map(|snapshot| Some(leftover(SNAPSHOT, snapshot.snapshot_id()?))).collect();
        let stacks = self.stacks().await?;
        let dead = stacks.iter().filter(|stack| stack.is_dead());
        found.extend(dead.map(|stack| leftover(STACK, &stack.name)));
        let environment = &self.settings.environment;
        let revisions = groups.iter().flat_map(|group| group.revisions.iter().map(move |r| (group, r)));
        let profiles = revisions.filter_map(|(group, r)| {
            InstanceProfile::of(&group.name, group.settings.job.is_some(), &r.launch)
        });
        let used: BTreeSet<String> =
            profiles.map(|profile| role::stack_name(environment, &profile)).collect();
        found.extend(unused_roles(&stacks, &used, now()).map(|stack| leftover(STACK, &stack.name)));
        let balancers =
            unused_balancers(environment, &stacks, now()).into_iter().filter(|unused| unused.is_old);
        found.extend(balancers.map(|unused| leftover(STACK, unused.name)));
        found.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
        found.dedup();
        found.extend(self.unused_values(groups).await?.into_iter().map(|id| leftover(SECRET, id)));
        Ok(found)
    }
}

/// Stacks of roles that no revision has. One that is younger than a day may be about to get one.
fn unused_roles<'s>(
    stacks: &'s [Stack],
    used: &BTreeSet<String>,
    now: u64,
) -> impl Iterator<Item = &'s Stack> {
    stacks.iter().filter(move |stack| {
        let is_old = stack.changed.saturating_add(GIVEN_UP_SECONDS) < now;
        stack.part == "role" && stack.is_complete() && is_old && !used.contains(&stack.name)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_role_that_a_deployment_has_just_made_is_spared() {
        let stack = |name: &str, changed| Stack {
            name: name.into(),
            status: "CREATE_COMPLETE".into(),
            part: "role".into(),
            outputs: BTreeMap::new(),
            parameters: BTreeMap::new(),
            changed,
        };
        let now = 10 * GIVEN_UP_SECONDS;
        let stacks = [stack("used", 0), stack("new", now - 60), stack("old", 0)];
        let used = BTreeSet::from(["used".to_owned()]);
        let unused: Vec<&str> = unused_roles(&stacks, &used, now).map(|stack| stack.name.as_str()).collect();
        assert_eq!(unused, ["old"]);
    }
}
