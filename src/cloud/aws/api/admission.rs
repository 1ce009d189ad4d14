//! Admission of acts: the definitions are read off AWS right before each one, and an act that was planned on others is
//! refused.

use std::collections::BTreeMap;

use aws_sdk_autoscaling::types::AutoScalingGroup;
use aws_sdk_ec2::types::LaunchTemplate;
use futures::future::{try_join, try_join3};

use super::auto_scaling::group_name;
use super::balancer::Service;
use super::environment::Aws;
use super::generation::{Definitions, IMAGES};
use super::stack::Stack;
use super::tags::{self, SETTINGS};
use crate::cloud::CloudError;
use crate::oci::Digest;
use crate::plan::act::PlannedAct;
use crate::plan::fleet::Generation;
use crate::plan::image::ImageId;

/// The definitions in what was read off AWS.
pub(super) fn definitions(
    (templates, groups): (&[LaunchTemplate], &[AutoScalingGroup]),
    stacks: &[Stack],
    images: &[ImageId],
) -> Definitions {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for template in templates {
        let Some(name) = tags::named(template.tags()) else { continue };
        let settings = tags::read_long(template.tags(), SETTINGS);
        let text = format!("{:?} {settings:?}", template.latest_version_number());
        *texts.entry(format!("group {name}")).or_default() += &text;
    }
    for group in groups {
        let Some(name) = group_name(group) else { continue };
        let scales = group.min_size() != group.max_size();
        // A size between two bounds follows the load, and is the cloud's own work.
        let size = (!scales).then(|| group.desired_capacity());
        let text = format!(" {:?} {:?} {size:?}", group.min_size(), group.max_size());
        *texts.entry(format!("group {name}")).or_default() += &text;
    }
    for service in stacks.iter().filter_map(Service::of) {
        let text = serde_json::to_string(&service.spec).unwrap_or_default();
        texts.insert(format!("balancer {}", service.spec.name), text);
    }
    let mut images: Vec<String> = images.iter().map(ToString::to_string).collect();
    images.sort_unstable();
    if !images.is_empty() {
        texts.insert(IMAGES.to_owned(), images.join(" "));
    }
    texts.into_iter().map(|(object, text)| (object, Digest::of(text.as_bytes()))).collect()
}

impl Aws {
    /// The generation of definitions that were read for a plan.
    pub(super) fn observed(&self, definitions: Definitions) -> Generation {
        self.planned().observe(definitions)
    }

    /// Reads the definitions, and refuses an act that was planned on others.
    pub(super) async fn admit(&self, act: &PlannedAct) -> Result<Definitions, CloudError> {
        let groups = try_join(self.templates(None), self.scaling_groups(None));
        let ((templates, groups), stacks, images) = try_join3(groups, self.stacks(), self.images()).await?;
        let now = definitions((&templates, &groups), &stacks, &images);
        self.planned().admit(act, &now)?;
        Ok(now)
    }

    /// The generation after an act that was admitted at these definitions.
    pub(super) fn applied(&self, act: &PlannedAct, definitions: Definitions) -> Generation {
        self.planned().applied(act, definitions)
    }
}
