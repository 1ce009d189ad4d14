//! What Auto Scaling did by itself, and why it could not: launches that a quota or a lack of capacity refused are told
//! nowhere else.

use std::collections::BTreeMap;

use aws_sdk_autoscaling::types::{Activity, ScalingActivityStatusCode};

use super::environment::Aws;
use super::error::{failed, is_not_found};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;
use crate::plan::cloud_event;
use crate::plan::fleet::{CloudEvent, EventKind, Health};

/// What to do where an account starts few types of instance.
const FREE_PLAN: &str = "an account of the free plan starts few types of instance: set `provider.freePlan: true` in the environment file";

/// How the description of an activity begins that launched the VM whose id follows.
const LAUNCHED: &str = "Launching a new EC2 instance: ";

/// How many consoles are looked at for the reason of a failure.
const CONSOLES: usize = 3;

impl Aws {
    /// The newest hundred activities of a group, newest first; none when it was never started.
    async fn activities(&self, group: &Name) -> Result<Vec<Activity>, CloudError> {
        let asked = self
            .clients
            .autoscaling
            .describe_scaling_activities()
            .auto_scaling_group_name(name::group(&self.settings.environment, group))
            .send()
            .await;
        match asked {
            Err(error) if is_not_found(&error) => Ok(vec![]),
            other => Ok(other.map_err(failed("DescribeScalingActivities"))?.activities.unwrap_or_default()),
        }
    }

    /// The activities of a group as events.
    pub(super) async fn activity_events(&self, group: &Name) -> Result<Vec<CloudEvent>, CloudError> {
        let event = |activity: &Activity| {
            let bad = is_failed(activity);
            let words = [activity.description(), activity.status_message()];
            let words: Vec<&str> = words.into_iter().flatten().collect();
            CloudEvent {
                time: activity
                    .start_time()
                    .and_then(|time| u64::try_from(time.secs()).ok())
                    .unwrap_or_default(),
                kind: if bad { EventKind::Warning } else { EventKind::Normal },
                reason: if bad { "ScalingFailed" } else { "Scaled" }.into(),
                object: cloud_event::object(cloud_event::GROUP, group),
                message: words.join(": "),
            }
        };
        Ok(self.activities(group).await?.iter().map(event).collect())
    }

    /// Why the group's VMs do not become healthy, as far as AWS tells: the launch that failed last, unless one went well
    /// since, and the end of the console of a VM that is not healthy, or was not and is gone.
    pub(super) async fn causes(&self, group: &Name) -> Option<String> {
        // Whoever asks has an error to tell already: what cannot be found out is left out.
        let activities = self.activities(group).await.unwrap_or_default();
        let mut launches = activities.iter().filter(|activity| {
            activity.description().is_some_and(|text| text.starts_with("Launching"))
                && (is_failed(activity)
                    || activity.status_code() == Some(&ScalingActivityStatusCode::Successful))
        });
        let refused = launches.next().filter(|newest| is_failed(newest)).and_then(Activity::status_message);
        let found = self.look(Some(group)).await.ok().and_then(|fleet| fleet.groups.into_iter().next());
        let said = match found {
            Some(found) => {
                let members = found.members().map(|vm| (&*vm.id, vm.health == Health::Healthy));
                self.last_words(&failing(&members.collect(), &activities)).await
            }
            None => String::new(),
        };
        let advice = refused.filter(|text| text.contains("Free Tier")).map(|_| FREE_PLAN);
        let causes: Vec<&str> =
            refused.into_iter().chain(advice).chain((!said.is_empty()).then_some(said.as_str())).collect();
        (!causes.is_empty()).then(|| causes.join("\n"))
    }
}

/// VMs whose consoles may say what is wrong: of these `members` those that are not healthy, and the newest of those that are
/// gone, whose consoles AWS shows for an hour.
fn failing<'a>(members: &BTreeMap<&'a str, bool>, activities: &'a [Activity]) -> Vec<&'a str> {
    let is_failing = |id: &&str| members.get(id) != Some(&true);
    let launched = activities.iter().filter_map(|activity| activity.description()?.strip_prefix(LAUNCHED));
    let mut asked = Vec::new();
    for id in launched.chain(members.keys().copied()).filter(is_failing) {
        if asked.len() < CONSOLES && !asked.contains(&id) {
            asked.push(id);
        }
    }
    asked
}

fn is_failed(activity: &Activity) -> bool {
    activity.status_code() == Some(&ScalingActivityStatusCode::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_are_gone_are_asked_why_and_healthy_ones_are_not() {
        let launched = |id: &str| Activity::builder().description(format!("{LAUNCHED}{id}")).build();
        let refused = Activity::builder().description("Launching a new EC2 instance").build();
        let activities =
            [refused, launched("i-new"), launched("i-gone"), launched("i-old"), launched("i-first")];
        let members = BTreeMap::from([("i-old", true), ("i-new", false), ("i-sick", false)]);
        assert_eq!(failing(&members, &activities), ["i-new", "i-gone", "i-first"]);
        assert_eq!(failing(&members, &[]), ["i-new", "i-sick"]);
    }
}
