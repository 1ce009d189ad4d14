//! Groups: a launch template whose versions are the revisions, and an Auto Scaling group from the first start on.
//!
//! A launch template has at least one version, so that a group exists from its first revision on; the settings that were
//! put before are remembered by the run until then.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_autoscaling::types::{AutoScalingGroup, Filter as GroupFilter, Tag as GroupTag};
use aws_sdk_ec2::types::{LaunchTemplate, LaunchTemplateVersion, ResourceType};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::auto_scaling::{HEALTH_GRACE_SECONDS, capacity, group_name, settings_in, size, template_version};
use super::environment::Aws;
use super::error::{failed, is_denied, is_not_found};
use super::fleet::is_expired;
use super::job::lane_of;
use super::launch;
use super::tags::{self, ENVIRONMENT, GROUP, SETTINGS, tag};
use super::wait::{eventually, until_known};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;
use crate::plan::act::NewRevision;
use crate::plan::fleet::{GroupSettings, LaunchSpec, Scaling};

/// How long machines may take to end: they get their pods' grace period, and then some.
const ENDING: Duration = Duration::from_mins(15);

impl Aws {
    /// Makes the group exist with these settings, or remembers them until its first revision is put.
    pub(super) async fn put_settings(
        &self,
        group: &Name,
        settings: &GroupSettings,
    ) -> Result<(), CloudError> {
        // What is left of a Job that was to be removed is in nobody's way.
        self.delete_expired(group).await?;
        let Some(template) = self.template(group).await? else {
            self.pending().insert(group.clone(), settings.clone());
            return Ok(());
        };
        let Some(id) = template.launch_template_id() else { return Ok(()) };
        // The tags come last: while they hold the old settings, an interrupted run is repeated.
        let was = settings_in(template.tags())?;
        if settings.job.is_some() {
            self.change_job(group, settings, was.as_ref()).await?;
            return self.set_tags(id, &tags::long(SETTINGS, &text(settings))).await;
        }
        let bounds = |of: &GroupSettings| (of.scaling.clone(), of.strategy, of.floors.clone());
        if was.as_ref().map(bounds) != Some(bounds(settings))
            && let Some(found) = self.scaling_group(group).await?
        {
            self.make_room(group, settings.most_machines(capacity(&found))).await?;
        }
        self.put_zones(group, settings, was.as_ref()).await?;
        self.put_scaling(group, settings, was.as_ref()).await?;
        self.set_tags(id, &tags::long(SETTINGS, &text(settings))).await
    }

    /// Sets tags of something of EC2.
    pub(super) async fn set_tags(&self, id: &str, pairs: &[(String, String)]) -> Result<(), CloudError> {
        let pairs = pairs.iter().map(|(key, value)| tag(key, value)).collect();
        let set = self.clients.ec2.create_tags().resources(id).set_tags(Some(pairs)).send().await;
        set.map(drop).map_err(failed("CreateTags"))
    }

    /// Adds a revision; the first one makes the launch template.
    pub(super) async fn put_version(&self, group: &Name, revision: &NewRevision) -> Result<(), CloudError> {
        let frame = self.frame().await?;
        let image = self.machine_image(revision.launch.image).await?;
        let image = image
            .and_then(|image| image.image_id)
            .ok_or_else(|| CloudError::not_found("image", &revision.launch.image))?;
        let settings = self.pending().get(group).cloned();
        let found = self.template(group).await?;
        let known = found.as_ref().map(|found| settings_in(found.tags())).transpose()?.flatten();
        let is_job = known.as_ref().or(settings.as_ref()).is_some_and(|settings| settings.job.is_some());
        let profile = self.profile((group, is_job), &revision.launch, &frame).await?;
        let kind = self.machine_type(&revision.launch).await?;
        let is_public = self.gives_public_addresses().await?;
        let data =
            self.launch_data((group, is_job), revision, (&frame, &image, &profile, &kind), is_public)?;
        let template = name::group(&self.settings.environment, group);
        match (found, settings) {
            (None, Some(settings)) if revision.number == 1 => {
                let mut named = vec![
                    (ENVIRONMENT.to_owned(), self.settings.environment.clone()),
                    (GROUP.to_owned(), tags::group(group)),
                ];
                named.extend(tags::long(SETTINGS, &text(&settings)));
                let named: Vec<(&str, String)> =
                    named.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
                let made = self
                    .clients
                    .ec2
                    .create_launch_template()
                    .launch_template_name(&template)
                    .client_token(self.token(&format!("{template} {}", revision.number)))
                    .launch_template_data(data)
                    .tag_specifications(tags::specification(ResourceType::LaunchTemplate, &named))
                    .send()
                    .await;
                self.pending().remove(group);
                self.made().templates.insert(group.clone());
                match made {
                    Err(error)
                        if error.code() == Some("InvalidLaunchTemplateName.AlreadyExistsException") =>
                    {
                        self.same_version(group, revision).await
                    }
                    other => other.map(drop).map_err(failed("CreateLaunchTemplate")),
                }
            }
            (None, _) => Err(CloudError::not_found("group", group)),
            (Some(found), _) => {
                let latest = found.latest_version_number().unwrap_or_default();
                if i64::from(revision.number) <= latest {
                    return self.same_version(group, revision).await;
                }
                if i64::from(revision.number) != latest + 1 {
                    let message =
                        format!("the next revision of {group} is {}, not {}", latest + 1, revision.number);
                    return Err(CloudError::Conflict { message });
                }
                let made = self
                    .clients
                    .ec2
                    .create_launch_template_version()
                    .launch_template_name(&template)
                    .client_token(self.token(&format!("{template} {}", revision.number)))
                    .launch_template_data(data)
                    .send()
                    .await
                    .map_err(failed("CreateLaunchTemplateVersion"))?;
                let number = made.launch_template_version().and_then(LaunchTemplateVersion::version_number);
                if number == Some(i64::from(revision.number)) {
                    Ok(())
                } else {
                    Err(taken(group, revision.number, None))
                }
            }
        }
    }

    /// Nothing when the group has that very revision, a conflict when the number is another one's.
    async fn same_version(&self, group: &Name, revision: &NewRevision) -> Result<(), CloudError> {
        let versions = self.versions(group).await?;
        let found =
            versions.iter().filter_map(launch::revision).find(|found| found.number == revision.number);
        match found {
            Some(found) if found.launch == revision.launch => Ok(()),
            other => Err(taken(group, revision.number, other.as_ref().map(|found| found.cause.as_str()))),
        }
    }

    /// The group's launch template, by its name: tags are shown late.
    pub(super) async fn template(&self, group: &Name) -> Result<Option<LaunchTemplate>, CloudError> {
        let own = name::group(&self.settings.environment, group);
        let asked = self.clients.ec2.describe_launch_templates().launch_template_names(own).send().await;
        let found = match asked {
            Err(error) if is_no_template(error.code()) => return Ok(None),
            other => other.map_err(failed("DescribeLaunchTemplates"))?.launch_templates,
        };
        let ours = |found: &LaunchTemplate| {
            tags::value(found.tags(), ENVIRONMENT) == Some(&self.settings.environment)
                && tags::named(found.tags()).as_ref() == Some(group)
        };
        Ok(found.into_iter().flatten().find(ours))
    }

    /// Launch templates of the environment, or of one group.
    pub(super) async fn templates(&self, group: Option<&Name>) -> Result<Vec<LaunchTemplate>, CloudError> {
        if let Some(group) = group {
            return Ok(self.template(group).await?.into_iter().collect());
        }
        let mut found: Vec<LaunchTemplate> = self
            .clients
            .ec2
            .describe_launch_templates()
            .set_filters(Some(tags::of_group(&self.settings.environment, None)))
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(failed("DescribeLaunchTemplates"))?;
        let shown: BTreeSet<Name> = found.iter().filter_map(|one| tags::named(one.tags())).collect();
        let late: Vec<Name> = self.made().templates.difference(&shown).cloned().collect();
        for group in late {
            found.extend(self.template(&group).await?);
        }
        Ok(found)
    }

    /// All versions of a group's launch template.
    pub(super) async fn versions(&self, group: &Name) -> Result<Vec<LaunchTemplateVersion>, CloudError> {
        self.clients
            .ec2
            .describe_launch_template_versions()
            .launch_template_name(name::group(&self.settings.environment, group))
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(failed("DescribeLaunchTemplateVersions"))
    }

    /// Auto Scaling groups of the environment, or of one group.
    pub(super) async fn scaling_groups(
        &self,
        group: Option<&Name>,
    ) -> Result<Vec<AutoScalingGroup>, CloudError> {
        if let Some(group) = group {
            return Ok(self.scaling_group(group).await?.into_iter().collect());
        }
        let filter = GroupFilter::builder().name(format!("tag:{ENVIRONMENT}"));
        let filter = filter.values(&self.settings.environment).build();
        let asked = self.clients.autoscaling.describe_auto_scaling_groups().filters(filter);
        let found = asked.into_paginator().items().send().try_collect().await;
        let mut found: Vec<AutoScalingGroup> = found.map_err(failed("DescribeAutoScalingGroups"))?;
        // Of a Job the first lane stands for all.
        found.retain(|group| lane_of(group).is_none_or(|lane| lane == 0));
        let shown: BTreeSet<Name> = found.iter().filter_map(group_name).collect();
        let late: Vec<Name> = self.made().groups.difference(&shown).cloned().collect();
        for group in late {
            found.extend(self.scaling_group(&group).await?);
        }
        Ok(found)
    }

    /// The Auto Scaling group of a group, by its name.
    pub(super) async fn scaling_group(&self, group: &Name) -> Result<Option<AutoScalingGroup>, CloudError> {
        self.scaling_group_named(group, &name::group(&self.settings.environment, group)).await
    }

    async fn scaling_group_named(
        &self,
        group: &Name,
        own: &str,
    ) -> Result<Option<AutoScalingGroup>, CloudError> {
        let asked = self.clients.autoscaling.describe_auto_scaling_groups().auto_scaling_group_names(own);
        let found = asked.send().await.map_err(failed("DescribeAutoScalingGroups"))?.auto_scaling_groups;
        Ok(found.into_iter().flatten().find(|found| group_name(found).as_ref() == Some(group)))
    }

    /// The same, once nobody is deleting it any more: its name is free only then.
    pub(super) async fn lasting_group(&self, group: &Name) -> Result<Option<AutoScalingGroup>, CloudError> {
        eventually(&format!("the machines of {group}, which are being ended"), ENDING, || async {
            let found = self.scaling_group(group).await?;
            Ok((found.as_ref().is_none_or(|found| found.status().is_none())).then_some(found))
        })
        .await
    }

    /// The Auto Scaling groups of the environment that nobody is deleting: AWS changes no other.
    pub(super) async fn lasting_groups(&self) -> Result<Vec<AutoScalingGroup>, CloudError> {
        let mut found = self.scaling_groups(None).await?;
        found.retain(|group| group.status().is_none());
        Ok(found)
    }

    /// Makes the Auto Scaling group, whose VMs start at once.
    pub(super) async fn create_scaling_group(
        &self,
        group: &Name,
        to: u32,
        replicas: u32,
    ) -> Result<(), CloudError> {
        let settings = self.settings_of(group).await?;
        let subnets = self.subnets_of(group, settings.as_ref()).await?;
        // There must be such a revision.
        let launch = self.launch_of(group, to).await?;
        let spot = launch.spot || launch.mix.as_ref().is_some_and(|mix| mix.on_demand_percent < 100);
        let target_groups: Vec<String> = self.target_groups_of(group).await?.into_iter().collect();
        let policy = self.mixed_policy(group, to).await?;
        let own = name::group(&self.settings.environment, group);
        let tag = |key: &str, value: String| {
            let tag = GroupTag::builder().resource_id(&own).resource_type("auto-scaling-group");
            tag.key(key).value(value).propagate_at_launch(true).build()
        };
        let create = self
            .clients
            .autoscaling
            .create_auto_scaling_group()
            .auto_scaling_group_name(&own)
            .set_launch_template(policy.is_none().then(|| template_version(&own, to)))
            .set_mixed_instances_policy(policy)
            .min_size(size(replicas))
            .max_size(size(replicas))
            .desired_capacity(size(replicas))
            .vpc_zone_identifier(subnets)
            .availability_zone_distribution(super::zones::distribution(settings.as_ref()))
            // What is about to be taken away is replaced before, where AWS says so in time.
            .capacity_rebalance(spot)
            .health_check_type("ELB")
            .health_check_grace_period(size(HEALTH_GRACE_SECONDS))
            .set_target_group_arns(Some(target_groups))
            .tags(tag(ENVIRONMENT, self.settings.environment.clone()))
            .tags(tag(GROUP, tags::group(group)))
            .tags(tag("Name", own.clone()));
        let made = until_known(|| create.clone().send()).await;
        self.made().groups.insert(group.clone());
        match made {
            Err(error) if error.code() == Some("AlreadyExists") => {}
            other => drop(other.map_err(failed("CreateAutoScalingGroup"))?),
        }
        match settings {
            Some(settings) => self.put_scaling(group, &settings, None).await,
            None => Ok(()),
        }
    }

    /// The settings of a group that exists.
    pub(super) async fn settings_of(&self, group: &Name) -> Result<Option<GroupSettings>, CloudError> {
        match self.template(group).await? {
            Some(template) => settings_in(template.tags()),
            None => Ok(None),
        }
    }

    /// How VMs of that revision are started; an error when there is no such revision.
    pub(super) async fn launch_of(&self, group: &Name, revision: u32) -> Result<LaunchSpec, CloudError> {
        let versions = self.versions(group).await?;
        let found = versions.iter().filter_map(launch::revision).find(|found| found.number == revision);
        let found = found.ok_or_else(|| CloudError::not_found(format!("revision {revision} of"), group))?;
        Ok(found.launch)
    }

    /// Sets the number of VMs, which may change by load within the bounds of `scaling`.
    pub(super) async fn resize(
        &self,
        group: &Name,
        replicas: u32,
        scaling: Option<&Scaling>,
    ) -> Result<(), CloudError> {
        let (least, most) = scaling.map_or((replicas, replicas), |scaling| (scaling.min, scaling.max));
        let sized = self
            .clients
            .autoscaling
            .update_auto_scaling_group()
            .auto_scaling_group_name(name::group(&self.settings.environment, group))
            .min_size(size(least.min(replicas)))
            .max_size(size(most.max(replicas)))
            .desired_capacity(size(replicas))
            .send()
            .await;
        sized.map(drop).map_err(failed("UpdateAutoScalingGroup"))
    }

    /// Forgets versions that nothing runs.
    pub(super) async fn delete_versions(&self, group: &Name, numbers: &[u32]) -> Result<(), CloudError> {
        let Some(template) = self.template(group).await? else {
            return Err(CloudError::not_found("group", group));
        };
        let wanted = self.wanted_versions(group).await?;
        if let Some(number) = numbers.iter().find(|number| wanted.contains(number)) {
            return Err(CloudError::InUse {
                what: format!("revision {number}"),
                user: format!("group {group}"),
            });
        }
        let existing: BTreeSet<i64> =
            self.versions(group).await?.iter().filter_map(LaunchTemplateVersion::version_number).collect();
        let gone: Vec<i64> = numbers.iter().map(|n| i64::from(*n)).filter(|n| existing.contains(n)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let own = name::group(&self.settings.environment, group);
        // The default version cannot be deleted; it means nothing to us, every launch names its version.
        if let Some(kept) = existing.iter().rev().find(|number| !gone.contains(number))
            && template.default_version_number().is_some_and(|default| gone.contains(&default))
        {
            let moved = self.clients.ec2.modify_launch_template().launch_template_name(&own);
            let moved = moved.default_version(kept.to_string()).send().await;
            moved.map_err(failed("ModifyLaunchTemplate"))?;
        }
        let versions = gone.iter().map(i64::to_string).collect();
        let deleted = self.clients.ec2.delete_launch_template_versions().launch_template_name(&own);
        let deleted = deleted.set_versions(Some(versions)).send().await;
        deleted.map(drop).map_err(failed("DeleteLaunchTemplateVersions"))
    }

    /// Ends all VMs of the group and deletes it; returns once nothing is left.
    pub(super) async fn delete_all_of(&self, group: &Name) -> Result<(), CloudError> {
        self.pending().remove(group);
        self.made().forget(group);
        let own = name::group(&self.settings.environment, group);
        self.delete_scaling_group(group, &own).await?;
        // A Job has further ones, and records. Where nobody knows whether it is one, it may be.
        if !matches!(self.job_settings(group).await, Ok(None)) || self.has_job_lanes(group).await? {
            self.delete_lanes(group).await?;
        }
        eventually(&format!("the machines of {group}, which are being ended"), ENDING, || async {
            let left = self.has_lanes(group).await? || !self.machines(Some(group)).await?.is_empty();
            Ok((!left).then_some(()))
        })
        .await?;
        if self.template(group).await?.is_some() {
            // While the template is there an interrupted run finds out again which values these were.
            self.delete_values_of(group).await?;
            let gone = self.clients.ec2.delete_launch_template().launch_template_name(&own).send().await;
            match gone {
                Err(error) if is_no_template(error.code()) => {}
                Err(error) if is_denied(error.code()) => {
                    if self.template(group).await?.is_some() {
                        return Err(failed("DeleteLaunchTemplate")(error));
                    }
                }
                other => drop(other.map_err(failed("DeleteLaunchTemplate"))?),
            }
        }
        Ok(())
    }

    /// Has Auto Scaling begin to delete the group's Auto Scaling group of that name with all its VMs; nothing where there is
    /// none or it has begun.
    pub(super) async fn delete_scaling_group(&self, group: &Name, own: &str) -> Result<(), CloudError> {
        let what = format!("scaling activities of {group}, which keep it from being deleted, to end");
        eventually(&what, ENDING, || async {
            if !self.is_lasting(group, own).await? {
                return Ok(Some(()));
            }
            let gone = self.clients.autoscaling.delete_auto_scaling_group();
            match gone.auto_scaling_group_name(own).force_delete(true).send().await {
                Ok(_) => Ok(Some(())),
                // Gone between the two calls, or when the answer was lost.
                Err(error) if is_not_found(&error) => Ok(Some(())),
                Err(error) if error.code() == Some("ScalingActivityInProgress") => Ok(None),
                Err(error) => {
                    let denied = is_denied(error.code());
                    let refused = failed("DeleteAutoScalingGroup")(error);
                    // Who deletes what is gone is denied it.
                    if denied && !self.is_lasting(group, own).await? { Ok(Some(())) } else { Err(refused) }
                }
            }
        })
        .await
    }

    /// Whether there is the Auto Scaling group, and nobody is deleting it.
    async fn is_lasting(&self, group: &Name, own: &str) -> Result<bool, CloudError> {
        let found = self.scaling_group_named(group, own).await?;
        Ok(found.is_some_and(|found| found.status().is_none()))
    }

    /// Deletes what is left of a Job that was to be removed some time after its end.
    pub(super) async fn delete_expired(&self, group: &Name) -> Result<(), CloudError> {
        if self.job_settings(group).await?.is_none_or(|settings| !settings.expires()) {
            return Ok(());
        }
        let found = self.look_whole(Some(group)).await?;
        match found.groups.iter().find(|found| found.name == *group) {
            Some(found) if is_expired(found) => Box::pin(self.delete_all_of(group)).await,
            _ => Ok(()),
        }
    }
}

/// Whether there is no launch template of a name.
fn is_no_template(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("InvalidLaunchTemplateName.NotFound"))
}

fn taken(group: &Name, number: u32, cause: Option<&str>) -> CloudError {
    let by = cause.map(|cause| format!(", made by `{cause}`")).unwrap_or_default();
    CloudError::Conflict { message: format!("{group} has another revision {number} already{by}") }
}

fn text(settings: &GroupSettings) -> String {
    serde_json::to_string(settings).expect("group settings have only string keys")
}
