//! Admission of acts: the definitions are read off AWS right before each one, and an act that was planned on others is
//! refused.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_autoscaling::types::{AutoScalingGroup, InstanceRefresh, InstanceRefreshStatus};
use aws_sdk_ec2::types::LaunchTemplate;
use futures::future::{try_join, try_join_all, try_join3};

use super::auto_scaling::{group_name, wanted};
use super::balancer::Service;
use super::environment::Aws;
use super::generation::{
    Aspect, Definitions, IMAGES, after, balancer, balancer_digest, expected, revisions_digest,
};
use super::job::{lane_of, started};
use super::stack::Stack;
use super::tags::{self, SETTINGS};
use super::wait::FIRST_PAUSE;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;
use crate::oci::Digest;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::Generation;
use crate::plan::image::ImageId;

/// How often AWS is asked whether it shows an act that it has answered: some answers are seconds late.
const LATE: u32 = 10;

/// Refreshes of groups, newest first.
pub(super) type Refreshes = BTreeMap<Name, Vec<InstanceRefresh>>;

/// The definitions in what was read off AWS.
pub(super) fn definitions(
    (templates, groups, refreshes): (&[LaunchTemplate], &[AutoScalingGroup], &Refreshes),
    stacks: &[Stack],
    images: &[ImageId],
) -> Definitions {
    let mut found = Definitions::new();
    for template in templates {
        let Some(name) = tags::named(template.tags()) else { continue };
        let settings = tags::read_long(template.tags(), SETTINGS).unwrap_or_default();
        found.insert(Aspect::Settings.of(&name), Digest::of(settings.as_bytes()));
        let newest = template.latest_version_number().unwrap_or_default();
        found.insert(Aspect::Revisions.of(&name), revisions_digest(newest));
    }
    for group in groups {
        let Some(name) = group_name(group) else { continue };
        // The size of a Job's lane is its machine's affair; what it was started with is a client's.
        if lane_of(group).is_some() {
            let text = started(group).map(|started| started.to_string()).unwrap_or_default();
            found.insert(Aspect::Size.of(&name), Digest::of(text.as_bytes()));
            continue;
        }
        let scales = group.min_size() != group.max_size();
        // A size between two bounds follows the load, and is the cloud's own work.
        let size = (!scales).then(|| group.desired_capacity());
        let text = format!("{:?} {:?} {size:?}", group.min_size(), group.max_size());
        found.insert(Aspect::Size.of(&name), Digest::of(text.as_bytes()));
    }
    for (name, refreshes) in refreshes {
        let newest = refreshes.first().map(refresh_digest);
        found.extend(newest.map(|digest| (Aspect::Refresh.of(name), digest)));
    }
    for service in stacks.iter().filter_map(Service::of) {
        found.insert(balancer(&service.spec.name), balancer_digest(&service.spec));
    }
    let mut images: Vec<String> = images.iter().map(ToString::to_string).collect();
    images.sort_unstable();
    if !images.is_empty() {
        found.insert(IMAGES.to_owned(), Digest::of(images.join(" ").as_bytes()));
    }
    found
}

/// What clients say of a refresh: which one it is, where it leads, and whether they stopped it. How it goes on and ends is
/// the cloud's own work.
fn refresh_digest(refresh: &InstanceRefresh) -> Digest {
    let is_stopped = matches!(
        refresh.status(),
        Some(InstanceRefreshStatus::Cancelling | InstanceRefreshStatus::Cancelled)
    );
    let text = format!("{:?} {:?} {is_stopped}", refresh.instance_refresh_id(), wanted(refresh));
    Digest::of(text.as_bytes())
}

impl Aws {
    /// The generation of definitions that were read for a plan.
    pub(super) fn observed(&self, definitions: Definitions) -> Generation {
        self.planned().observe(definitions)
    }

    /// The refreshes of these groups.
    pub(super) async fn refreshes_of(&self, groups: &[AutoScalingGroup]) -> Result<Refreshes, CloudError> {
        let one = |name: Name| async move {
            let found = self.refreshes(&name).await?;
            Ok::<_, CloudError>((name, found))
        };
        try_join_all(groups.iter().filter_map(group_name).map(one)).await.map(Refreshes::from_iter)
    }

    /// Reads the definitions, and refuses an act that was planned on others.
    pub(super) async fn admit(&self, act: &PlannedAct) -> Result<Definitions, CloudError> {
        let groups = try_join(self.templates(None), self.scaling_groups(None));
        let ((templates, groups), stacks, images) =
            Box::pin(try_join3(groups, self.stacks(), self.images())).await?;
        let refreshes = self.refreshes_of(&groups).await?;
        let now = definitions((&templates, &groups, &refreshes), &stacks, &images);
        self.planned().admit(act, &now)?;
        Ok(now)
    }

    /// The generation after an act that was admitted at the definitions `before`. Returns once AWS shows the act.
    pub(super) async fn applied(
        &self,
        act: &PlannedAct,
        before: &Definitions,
    ) -> Result<Generation, CloudError> {
        let known = expected(&act.act, before);
        let mut pause: Duration = FIRST_PAUSE;
        let mut found = self.defined_by(&act.act).await?;
        for _ in 1..LATE {
            // One that never shows was changed by somebody else since: the next act finds that out.
            if known.iter().all(|(name, digest)| found.get(name) == digest.as_ref()) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            found = self.defined_by(&act.act).await?;
        }
        Ok(self.planned().applied(act, after(&act.act, before, &found)))
    }

    /// The definitions of what an act changes, as they are now.
    async fn defined_by(&self, act: &Act) -> Result<Definitions, CloudError> {
        let none = Refreshes::new();
        let service = match act {
            Act::PutImage { .. } | Act::DeleteImages { .. } => {
                return Ok(definitions((&[], &[], &none), &[], &self.images().await?));
            }
            Act::PutBalancer { spec } => Some(&spec.name),
            Act::DeleteBalancer { balancer } => Some(balancer),
            _ => None,
        };
        if let Some(service) = service {
            let stack = self.stack(&name::service_stack(&self.settings.environment, service)).await?;
            let stack = stack.filter(|stack| stack.status != "DELETE_COMPLETE");
            return Ok(definitions((&[], &[], &none), stack.as_slice(), &[]));
        }
        let Some(group) = act.group() else { return Ok(Definitions::new()) };
        let (templates, groups) =
            try_join(self.templates(Some(group)), self.scaling_groups(Some(group))).await?;
        let refreshes = self.refreshes_of(&groups).await?;
        Ok(definitions((&templates, &groups, &refreshes), &[], &[]))
    }
}
