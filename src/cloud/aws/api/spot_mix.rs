//! Groups of several types of instance, or of which a part may be Spot instances.

use aws_sdk_autoscaling::types::{
    InstancesDistribution, LaunchTemplate, LaunchTemplateOverrides, MixedInstancesPolicy,
};
use aws_sdk_ec2::types::{InstanceType, LaunchTemplateVersion, ResponseLaunchTemplateData};

use super::auto_scaling::{size, template_version};
use super::environment::Aws;
use super::launch;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;
use crate::plan::fleet::MachineMix;

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
        let versions = self.versions(group).await?;
        let of_number = |version: &&LaunchTemplateVersion| version.version_number() == Some(i64::from(to));
        let version = versions.iter().find(of_number);
        let found = version.and_then(|version| Some((version, launch::revision(version)?)));
        let (version, revision) =
            found.ok_or_else(|| CloudError::not_found(format!("revision {to} of"), group))?;
        let Some(mix) = &revision.launch.mix else { return Ok(None) };
        let types = types(mix, version).into_iter();
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

/// The types of a mix: those that its manifest names, or else the one of the launch template's version. That one was chosen
/// when the version was made, among the types that the environment's zones offer.
fn types(mix: &MachineMix, version: &LaunchTemplateVersion) -> Vec<String> {
    if !mix.types.is_empty() {
        return mix.types.clone();
    }
    let own = version.launch_template_data().and_then(ResponseLaunchTemplateData::instance_type);
    own.map(InstanceType::as_str).map(str::to_owned).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_that_names_no_types_has_the_one_of_the_launch_template() {
        let data = ResponseLaunchTemplateData::builder().instance_type(InstanceType::from("t3.nano")).build();
        let version = LaunchTemplateVersion::builder().launch_template_data(data).build();
        let mix = MachineMix { types: vec![], on_demand_base: 1, on_demand_percent: 50 };
        assert_eq!(types(&mix, &version), ["t3.nano"]);
        let named = MachineMix { types: vec!["m6a.large".into(), "m6i.large".into()], ..mix };
        assert_eq!(types(&named, &version), ["m6a.large", "m6i.large"]);
    }
}
