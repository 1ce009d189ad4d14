//! Instance refreshes: Auto Scaling replaces VMs by itself, and brings the old ones back when told so or after an hour.

use std::time::Duration;

use aws_sdk_autoscaling::types::{
    AutoScalingGroup, DesiredConfiguration, InstanceRefresh, InstanceRefreshStatus,
    LaunchTemplateSpecification, MixedInstancesPolicy, RefreshPreferences,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::error::failed;
use super::group::{size, template_version};
use super::tags::{self, FAILURE, SETTINGS};
use super::{Aws, eventually};
use crate::cloud::CloudError;
use crate::manifest::api::Name;
use crate::plan::aws::name;
use crate::plan::fleet::{GroupSettings, RefreshStatus};

/// How long a cancelled refresh may take to stop: AWS finishes the step that it is at.
const STOPPING: Duration = Duration::from_mins(15);

impl Aws {
    /// Starts the group, or replaces its VMs by those of revision `to`.
    pub(super) async fn refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        let Some(found) = self.scaling_group(group).await? else {
            return self.create_scaling_group(group, to, replicas).await;
        };
        let refreshes = self.refreshes(group).await?;
        let active = refreshes.iter().find(|refresh| status(refresh).is_active());
        if let Some(active) = active
            && (status(active), wanted(active)) != (RefreshStatus::InProgress, Some(to))
        {
            let message = format!(
                "a refresh of {group} to revision {} is {}",
                wanted(active).unwrap_or_default(),
                status(active)
            );
            return Err(CloudError::Conflict { message });
        }
        let scaling = self.settings_of(group).await?.and_then(|settings| settings.scaling);
        let scaled = found.desired_capacity().and_then(|n| u32::try_from(n).ok());
        // What the load made of the size since it was looked at is kept.
        let kept = |now: u32| scaling.as_ref().map_or(now == replicas, |scaling| scaling.within(now) == now);
        if !scaled.is_some_and(kept) {
            self.resize(group, replicas, scaling.as_ref()).await?;
        }
        let everywhere =
            current(&found) == Some(to) && found.instances().iter().all(|i| version_of(i) == Some(to));
        if active.is_some() || everywhere {
            return Ok(());
        }
        // There must be such a revision.
        self.launch_of(group, to).await?;
        self.start_instance_refresh(group, to, replicas).await
    }

    async fn start_instance_refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let template = self.template(group).await?.ok_or_else(|| CloudError::not_found("group", group))?;
        let settings =
            settings(template.tags()).ok_or_else(|| CloudError::not_found("settings of group", group))?;
        let (least, most) = percentages(&settings, replicas);
        let preferences = RefreshPreferences::builder()
            .min_healthy_percentage(least)
            .max_healthy_percentage(most)
            .instance_warmup(size(settings.min_ready_seconds))
            .skip_matching(true)
            .auto_rollback(true);
        let wanted_configuration = match self.mixed_policy(group, to).await? {
            Some(policy) => DesiredConfiguration::builder().mixed_instances_policy(policy),
            None => DesiredConfiguration::builder().launch_template(template_version(&own, to)),
        };
        let started = self
            .clients
            .autoscaling
            .start_instance_refresh()
            .auto_scaling_group_name(&own)
            .desired_configuration(wanted_configuration.build())
            .preferences(preferences.build())
            .send()
            .await;
        match started {
            // The answer to an earlier try was lost, or another run was faster.
            Err(error) if error.code() == Some("InstanceRefreshInProgress") => {
                let refreshes = self.refreshes(group).await?;
                let active = refreshes.iter().find(|refresh| status(refresh).is_active());
                match active.and_then(wanted) {
                    Some(number) if number != to => Err(CloudError::Conflict {
                        message: format!("a refresh of {group} to revision {number} is in progress"),
                    }),
                    _ => Ok(()),
                }
            }
            other => other.map(drop).map_err(failed("StartInstanceRefresh")),
        }
    }

    /// The refreshes of a group, newest first; none when it was never started.
    pub(super) async fn refreshes(&self, group: &Name) -> Result<Vec<InstanceRefresh>, CloudError> {
        let asked = self
            .clients
            .autoscaling
            .describe_instance_refreshes()
            .auto_scaling_group_name(name::group(&self.settings.environment, group))
            .send()
            .await;
        match asked {
            Err(error) if error.code() == Some("ValidationError") => Ok(vec![]),
            // One page is a hundred refreshes: older ones are no one's concern.
            other => {
                Ok(other.map_err(failed("DescribeInstanceRefreshes"))?.instance_refreshes.unwrap_or_default())
            }
        }
    }

    /// Stops the refresh under way where it is.
    pub(super) async fn cancel(&self, group: &Name) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let cancelled =
            self.clients.autoscaling.cancel_instance_refresh().auto_scaling_group_name(own).send().await;
        match cancelled {
            Err(error) if error.code() == Some("ActiveInstanceRefreshNotFound") => return Ok(()),
            other => drop(other.map_err(failed("CancelInstanceRefresh"))?),
        }
        eventually(&format!("the refresh of {group}, which is being cancelled"), STOPPING, || async {
            let active = self.refreshes(group).await?.iter().any(|refresh| status(refresh).is_active());
            Ok((!active).then_some(()))
        })
        .await
    }

    /// Has AWS bring the old revision back, and keeps the reason where every later run finds it.
    pub(super) async fn give_up(&self, group: &Name, reason: &str) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let refreshes = self.refreshes(group).await?;
        let Some(active) = refreshes.iter().find(|refresh| status(refresh) == RefreshStatus::InProgress)
        else {
            return Ok(());
        };
        if let Some(template) = self.template(group).await?
            && let Some(id) = template.launch_template_id()
        {
            let text = format!("{} {reason}", active.instance_refresh_id().unwrap_or_default());
            self.set_tags(id, &tags::long(FAILURE, &text)).await?;
        }
        let back =
            self.clients.autoscaling.rollback_instance_refresh().auto_scaling_group_name(own).send().await;
        match back {
            // It ended, or turns back already.
            Err(error)
                if matches!(
                    error.code(),
                    Some("ActiveInstanceRefreshNotFound" | "IrreversibleInstanceRefresh")
                ) =>
            {
                Ok(())
            }
            other => other.map(drop).map_err(failed("RollbackInstanceRefresh")),
        }
    }

    /// Numbers of the versions that VMs are, or are about to be, started from.
    pub(super) async fn wanted_versions(&self, group: &Name) -> Result<Vec<u32>, CloudError> {
        let Some(found) = self.scaling_group(group).await? else { return Ok(vec![]) };
        let refreshes = self.refreshes(group).await?;
        let active = refreshes.iter().filter(|refresh| status(refresh).is_active()).filter_map(wanted);
        let running = found.instances().iter().filter_map(version_of);
        Ok(active.chain(running).chain(current(&found)).collect())
    }
}

/// Settings in the tags of a launch template.
pub(super) fn settings(tags: &[aws_sdk_ec2::types::Tag]) -> Option<GroupSettings> {
    serde_json::from_str(&tags::read_long(tags, SETTINGS)?).ok()
}

/// The revision that a group runs or returns to.
pub(super) fn current(group: &AutoScalingGroup) -> Option<u32> {
    version(group.launch_template(), group.mixed_instances_policy())
}

/// The revision of a VM.
pub(super) fn version_of(instance: &aws_sdk_autoscaling::types::Instance) -> Option<u32> {
    instance.launch_template()?.version()?.parse().ok()
}

/// The revision that a refresh brings.
pub(super) fn wanted(refresh: &InstanceRefresh) -> Option<u32> {
    let desired = refresh.desired_configuration()?;
    version(desired.launch_template(), desired.mixed_instances_policy())
}

/// The version of a launch template that is named by itself or in a policy for several types.
fn version(
    plain: Option<&LaunchTemplateSpecification>,
    policy: Option<&MixedInstancesPolicy>,
) -> Option<u32> {
    let mixed = policy.and_then(|policy| policy.launch_template()?.launch_template_specification());
    mixed.or(plain)?.version()?.parse().ok()
}

/// How far a refresh is, in our words.
pub(super) fn status(refresh: &InstanceRefresh) -> RefreshStatus {
    match refresh.status() {
        Some(InstanceRefreshStatus::Successful) => RefreshStatus::Successful,
        Some(InstanceRefreshStatus::RollbackInProgress) => RefreshStatus::RollingBack,
        Some(InstanceRefreshStatus::RollbackSuccessful) => RefreshStatus::RolledBack,
        Some(InstanceRefreshStatus::Failed | InstanceRefreshStatus::RollbackFailed) => RefreshStatus::Failed,
        Some(InstanceRefreshStatus::Cancelled) => RefreshStatus::Cancelled,
        // Pending, in progress, baking, cancelling, and what AWS may add: it still works on it.
        _ => RefreshStatus::InProgress,
    }
}

/// Healthy percentages that give AWS exactly the bounds of the strategy: it rounds the least up and the most down.
pub(super) fn percentages(settings: &GroupSettings, replicas: u32) -> (i32, i32) {
    let bounds = settings.bounds(replicas);
    if replicas == 0 {
        return (0, 100);
    }
    let (least, most, all) =
        (u64::from(bounds.min_available), u64::from(bounds.max_total), u64::from(replicas));
    let least = i32::try_from(least * 100 / all).unwrap_or(100).min(100);
    // AWS' own limits: at most double, and at most 100 apart.
    let most = i32::try_from((most * 100).div_ceil(all)).unwrap_or(200).clamp(100, 200).min(least + 100);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::IntOrPercent::{Int, Percent};
    use crate::manifest::api::Strategy;

    #[test]
    fn aws_rounds_the_percentages_to_the_bounds() {
        let quarter = Strategy::RollingUpdate { max_unavailable: Percent(25), max_surge: Percent(25) };
        let settings = |strategy| GroupSettings {
            strategy,
            min_ready_seconds: 0,
            progress_deadline_seconds: 600,
            revision_history_limit: 10,
            labels: std::collections::BTreeMap::new(),
            job: None,
            scaling: None,
            floors: vec![],
            zones: vec![],
            balanced_zones: false,
        };
        for strategy in [quarter, Strategy::RollingUpdate { max_unavailable: Int(1), max_surge: Int(0) }] {
            let settings = settings(strategy);
            for replicas in 1..60 {
                let (least, most) = percentages(&settings, replicas);
                let bounds = settings.bounds(replicas);
                let all = i64::from(replicas);
                assert_eq!(
                    (all * i64::from(least) + 99) / 100,
                    i64::from(bounds.min_available),
                    "{replicas}"
                );
                assert_eq!(all * i64::from(most) / 100, i64::from(bounds.max_total), "{replicas}");
                assert!(most - least <= 100);
            }
        }
        assert_eq!(percentages(&settings(Strategy::Recreate), 3), (0, 100));
        assert_eq!(percentages(&settings(quarter), 0), (0, 100));
    }
}
