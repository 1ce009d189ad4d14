//! A revision as a version of a launch template, and back: the template holds all that a VM is started with, and in its
//! user data what i2kit must know of the revision later.

use aws_sdk_ec2::types::{
    InstanceType, LaunchTemplateHttpTokensState, LaunchTemplateIamInstanceProfileSpecificationRequest,
    LaunchTemplateInstanceMarketOptionsRequest, LaunchTemplateInstanceMetadataEndpointState,
    LaunchTemplateInstanceMetadataOptionsRequest, LaunchTemplateInstanceMetadataTagsState,
    LaunchTemplateInstanceNetworkInterfaceSpecificationRequest, LaunchTemplateTagSpecificationRequest,
    LaunchTemplateVersion, MarketType, RequestLaunchTemplateData, ResourceType, ShutdownBehavior,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use i2kit_spec::user_data;
use serde::{Deserialize, Serialize};

use super::environment::Aws;
use super::tags::{self, ENVIRONMENT, GROUP, tag};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::cloud::aws::plan::stack_templates::Frame;
use crate::manifest::api::Name;
use crate::plan::act::NewRevision;
use crate::plan::fleet::{LaunchSpec, Revision};

/// What the tool writes for itself into the user data.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    launch: LaunchSpec,
    cause: String,
}

impl Aws {
    /// The launch template's data of a revision of `group`, whose machines have public addresses where `is_public` says so; where that
    /// is not known, the setting of their subnet says it.
    pub(super) fn launch_data(
        &self,
        (group, is_job): (&Name, bool),
        revision: &NewRevision,
        (frame, image, profile, kind): (&Frame, &str, &str, &str),
        is_public: Option<bool>,
    ) -> Result<RequestLaunchTemplateData, CloudError> {
        let launch = &revision.launch;
        let spot = LaunchTemplateInstanceMarketOptionsRequest::builder().market_type(MarketType::Spot);
        let named = |resource: ResourceType| {
            LaunchTemplateTagSpecificationRequest::builder()
                .resource_type(resource)
                .tags(tag(ENVIRONMENT, &self.settings.environment))
                .tags(tag(GROUP, &tags::group(group)))
                .tags(tag("Name", &name::group(&self.settings.environment, group)))
                .build()
        };
        let metadata = LaunchTemplateInstanceMetadataOptionsRequest::builder()
            .http_tokens(LaunchTemplateHttpTokensState::Required)
            .http_endpoint(LaunchTemplateInstanceMetadataEndpointState::Enabled)
            .http_put_response_hop_limit(1)
            // A Job's machine reads in its tags which one of its Job's it is.
            .set_instance_metadata_tags(is_job.then_some(LaunchTemplateInstanceMetadataTagsState::Enabled));
        let profile = LaunchTemplateIamInstanceProfileSpecificationRequest::builder().name(profile).build();
        // Auto Scaling adds the subnet. The interface goes with its machine.
        let interface = LaunchTemplateInstanceNetworkInterfaceSpecificationRequest::builder()
            .device_index(0)
            .groups(&frame.machines)
            .delete_on_termination(true)
            .set_associate_public_ip_address(is_public);
        Ok(RequestLaunchTemplateData::builder()
            .image_id(image)
            .instance_type(InstanceType::from(kind))
            // The terms of a group of several types are in its own policy.
            .set_instance_market_options(launch.spot.then(|| spot.build()))
            .iam_instance_profile(profile)
            .network_interfaces(interface.build())
            .metadata_options(metadata.build())
            // A guest that gives up powers off. A machine that is stopped would cost its volume until somebody replaces it.
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .tag_specifications(named(ResourceType::Instance))
            .tag_specifications(named(ResourceType::Volume))
            .user_data(STANDARD.encode(self.user_data((group, is_job), revision)?))
            .build())
    }

    /// Where the machines find the values of their Secrets.
    fn references(&self, group: &Name, launch: &LaunchSpec) -> Vec<user_data::SecretReference> {
        let one = |(name, id): (String, String)| user_data::SecretReference {
            name,
            source: user_data::SecretSource::SecretsManager { secret_id: id },
        };
        self.values_of(group, launch).into_iter().map(one).collect()
    }

    fn user_data(
        &self,
        (group, is_job): (&Name, bool),
        revision: &NewRevision,
    ) -> Result<Vec<u8>, CloudError> {
        let own = Own { launch: revision.launch.clone(), cause: revision.cause.clone() };
        let spec = user_data::UserData {
            version: user_data::USER_DATA_VERSION,
            environment: self.settings.environment.clone(),
            namespace: group.namespace.clone(),
            group: group.name.clone(),
            revision: u64::from(revision.number),
            region: Some(self.settings.region.clone()),
            logs: Some(user_data::LogTarget { group: name::log_group(&self.settings.environment) }),
            secrets: self.references(group, &revision.launch),
            endpoint: self.settings.guest_endpoint.clone(),
            job: is_job
                .then(|| user_data::JobTarget { group: name::group(&self.settings.environment, group) }),
            host: Some(serde_json::to_string(&own).expect("a launch spec has only string keys")),
        };
        let bytes = serde_json::to_vec(&spec).expect("user data has only string keys");
        if bytes.len() > user_data::MAX_USER_DATA {
            let message = format!(
                "{group} needs {} bytes of user data, and EC2 takes {}",
                bytes.len(),
                user_data::MAX_USER_DATA
            );
            return Err(CloudError::Refused { message });
        }
        Ok(bytes)
    }
}

/// The revision that a version holds; `None` when it was not written by i2kit.
pub(super) fn revision(version: &LaunchTemplateVersion) -> Option<Revision> {
    let data = STANDARD.decode(version.launch_template_data()?.user_data()?).ok()?;
    let spec: user_data::UserData = serde_json::from_slice(&data).ok()?;
    let own: Own = serde_json::from_str(&spec.host?).ok()?;
    Some(Revision {
        number: u32::try_from(version.version_number()?).ok()?,
        launch: own.launch,
        created: version.create_time().and_then(|time| u64::try_from(time.secs()).ok()).unwrap_or_default(),
        cause: own.cause,
        deployed: None,
    })
}
