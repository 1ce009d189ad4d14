//! Groups of several types of instance, or of which a part may be Spot instances.

use aws_sdk_autoscaling::types::{
    InstancesDistribution, LaunchTemplate, LaunchTemplateOverrides, MixedInstancesPolicy,
};

use super::auto_scaling::{size, template_version};
use super::environment::Aws;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::{machine, name};
use crate::manifest::api::Name;

/// Spot instances come from the pools that are least likely to run out, the cheapest of them first.
const SPOT: &str = "price-capacity-optimized";

/// Instances on demand are of the first type that there is capacity for.
const ON_DEMAND: &str = "prioritized";

impl Aws {
    /// The policy by which machines of revision `to` are launched; `None` where all are of one kind.
    pub(super) async fn mixed_policy(
        &self,
        group: &Name,
        to: u32,
    ) -> Result<Option<MixedInstancesPolicy>, CloudError> {
        let launch = self.launch_of(group, to).await?;
        let Some(mix) = &launch.mix else { return Ok(None) };
        let types = machine::types_of(&launch).into_iter();
        let overrides = types.map(|kind| LaunchTemplateOverrides::builder().instance_type(kind).build());
        let own = name::group(&self.settings.environment, group);
        let template = LaunchTemplate::builder()
            .launch_template_specification(template_version(&own, to))
            .set_overrides(Some(overrides.collect()));
        let distribution = InstancesDistribution::builder()
            .on_demand_allocation_strategy(ON_DEMAND)
            .on_demand_base_capacity(size(mix.on_demand_base))
            .on_demand_percentage_above_base_capacity(i32::from(mix.on_demand_percent))
            .spot_allocation_strategy(SPOT);
        let policy = MixedInstancesPolicy::builder().launch_template(template.build());
        Ok(Some(policy.instances_distribution(distribution.build()).build()))
    }
}
