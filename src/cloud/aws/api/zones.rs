//! The zones that a group's machines run in: those of the environment's subnets, or some of them.

use std::collections::BTreeSet;

use aws_sdk_autoscaling::types::{AvailabilityZoneDistribution, CapacityDistributionStrategy};

use super::environment::Aws;
use super::error::failed;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;
use crate::plan::fleet::GroupSettings;

impl Aws {
    /// The subnets that the settings leave, as Auto Scaling takes them.
    pub(super) async fn subnets_of(
        &self,
        group: &Name,
        settings: Option<&GroupSettings>,
    ) -> Result<String, CloudError> {
        let Some(settings) = settings.filter(|settings| !settings.zones.is_empty()) else {
            return Ok(self.frame().await?.subnets.join(","));
        };
        let found = self.frame_subnets().await?;
        let zones: BTreeSet<&str> = found.iter().filter_map(|subnet| subnet.availability_zone()).collect();
        if let Some(missing) = settings.zones.iter().find(|zone| !zones.contains(zone.as_str())) {
            let known: Vec<&str> = zones.into_iter().collect();
            let message = format!(
                "{group} asks for the zone {missing}, and the environment has subnets in {}",
                known.join(", ")
            );
            return Err(CloudError::Refused { message });
        }
        let wanted = found.iter().filter(|subnet| {
            subnet.availability_zone().is_some_and(|zone| settings.zones.iter().any(|wanted| wanted == zone))
        });
        let ids: Vec<&str> = wanted.filter_map(|subnet| subnet.subnet_id()).collect();
        Ok(ids.join(","))
    }

    /// Moves a group that exists to the zones of its settings; machines elsewhere go as Auto Scaling balances.
    pub(super) async fn put_zones(
        &self,
        group: &Name,
        settings: &GroupSettings,
        was: Option<&GroupSettings>,
    ) -> Result<(), CloudError> {
        let of = |settings: &GroupSettings| (settings.zones.clone(), settings.balanced_zones);
        if was.is_some_and(|was| of(was) == of(settings)) || self.scaling_group(group).await?.is_none() {
            return Ok(());
        }
        let moved = self
            .clients
            .autoscaling
            .update_auto_scaling_group()
            .auto_scaling_group_name(name::group(&self.settings.environment, group))
            .vpc_zone_identifier(self.subnets_of(group, Some(settings)).await?)
            .availability_zone_distribution(distribution(Some(settings)));
        moved.send().await.map(drop).map_err(failed("UpdateAutoScalingGroup"))
    }
}

/// How strictly machines are spread.
pub(super) fn distribution(settings: Option<&GroupSettings>) -> AvailabilityZoneDistribution {
    let strategy = if settings.is_some_and(|settings| settings.balanced_zones) {
        CapacityDistributionStrategy::BalancedOnly
    } else {
        CapacityDistributionStrategy::BalancedBestEffort
    };
    AvailabilityZoneDistribution::builder().capacity_distribution_strategy(strategy).build()
}
