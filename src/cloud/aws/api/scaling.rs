//! Scaling by load: a target-tracking policy and the bounds of the Auto Scaling group, which follow from its settings.

use aws_sdk_autoscaling::types::{
    AutoScalingGroup, MetricType, PredefinedMetricSpecification, TargetTrackingConfiguration,
};

use super::auto_scaling::{capacity, current, seconds, size, wanted};
use super::environment::Aws;
use super::error::{failed, is_not_found};
use super::launch;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::{name, scaling};
use crate::manifest::api::Name;
use crate::plan::fleet::{GroupSettings, Scaling};

/// The one policy that i2kit puts.
const POLICY: &str = "i2kit-cpu";

impl Aws {
    /// Applies bounds and policy of `settings` to a group that exists; `was` are the settings before.
    pub(super) async fn put_scaling(
        &self,
        group: &Name,
        settings: &GroupSettings,
        was: Option<&GroupSettings>,
    ) -> Result<(), CloudError> {
        if settings.scaling.is_none() && was.is_none_or(|was| was.scaling.is_none()) {
            return Ok(());
        }
        let Some(found) = self.scaling_group(group).await? else { return Ok(()) };
        self.put_policy(group, settings.scaling.as_ref(), &found).await?;
        self.resize(group, capacity(&found), settings.scaling.as_ref()).await
    }

    async fn put_policy(
        &self,
        group: &Name,
        wanted: Option<&Scaling>,
        found: &AutoScalingGroup,
    ) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let target = match wanted {
            Some(scaling) if scaling.pod_cpu().is_some() => self.cpu_target(group, scaling, found).await?,
            _ => None,
        };
        let Some(target) = target else { return self.delete_policy(group).await };
        let metric = PredefinedMetricSpecification::builder()
            .predefined_metric_type(MetricType::AsgAverageCpuUtilization)
            .build();
        let tracking = TargetTrackingConfiguration::builder()
            .predefined_metric_specification(metric)
            .target_value(f64::from(target))
            .build();
        let warmup = wanted.and_then(|scaling| scaling.up.stabilization_window_seconds).map(seconds);
        let put = self
            .clients
            .autoscaling
            .put_scaling_policy()
            .auto_scaling_group_name(own)
            .policy_name(POLICY)
            .policy_type("TargetTrackingScaling")
            .target_tracking_configuration(tracking)
            .set_estimated_instance_warmup(warmup);
        put.send().await.map(drop).map_err(failed("PutScalingPolicy"))
    }

    /// Takes the policy away where there is one.
    async fn delete_policy(&self, group: &Name) -> Result<(), CloudError> {
        if !self.has_policy(group).await? {
            return Ok(());
        }
        let own = name::group(&self.settings.environment, group);
        let gone = self.clients.autoscaling.delete_policy().auto_scaling_group_name(own);
        match gone.policy_name(POLICY).send().await {
            // Gone between the two calls, or when the answer was lost.
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(drop).map_err(failed("DeletePolicy")),
        }
    }

    async fn has_policy(&self, group: &Name) -> Result<bool, CloudError> {
        let own = name::group(&self.settings.environment, group);
        let policies = self.clients.autoscaling.describe_policies().auto_scaling_group_name(own);
        match policies.policy_names(POLICY).send().await {
            // The group is gone, and its policies with it.
            Err(error) if is_not_found(&error) => Ok(false),
            found => Ok(!found.map_err(failed("DescribePolicies"))?.scaling_policies().is_empty()),
        }
    }

    /// The target in percent of the machines that the group runs, or is about to run.
    async fn cpu_target(
        &self,
        group: &Name,
        scaling: &Scaling,
        found: &AutoScalingGroup,
    ) -> Result<Option<u32>, CloudError> {
        let refreshes = self.refreshes(group).await?;
        let number = refreshes.first().and_then(wanted).or(current(found));
        let versions = self.versions(group).await?;
        let revision =
            versions.iter().filter_map(launch::revision).find(|revision| Some(revision.number) == number);
        Ok(revision.and_then(|revision| scaling::cpu_target(scaling, &revision.launch)))
    }

    /// Whether the group has the bounds and the policy that `scaling` asks for. An interrupted run leaves it without.
    pub(super) async fn has_scaling(
        &self,
        group: &Name,
        scaling: &Scaling,
        found: &AutoScalingGroup,
    ) -> Result<bool, CloudError> {
        let bounds = (found.min_size(), found.max_size());
        if bounds != (Some(size(scaling.min)), Some(size(scaling.max))) {
            return Ok(false);
        }
        if scaling.pod_cpu().is_none() {
            return Ok(true);
        }
        self.has_policy(group).await
    }
}
