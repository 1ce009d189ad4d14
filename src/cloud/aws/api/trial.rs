//! The trial of an account: what a person with an account wants to see AWS do before anything depends on it. Images, stacks
//! and launches are those of a deployment; only what is left of them is made smaller.

use std::fs;

use async_trait::async_trait;
use aws_sdk_autoscaling::types::AutoScalingGroup;
use aws_sdk_ec2::types::{
    Image, Instance, InstanceNetworkInterfaceSpecification, InstanceStateName, InstanceType, LaunchTemplate,
    LaunchTemplateSpecification, Reservation, Snapshot,
};
use i2kit_spec::Architecture;
use tokio::time::Instant;

use super::blocks::{BLOCK, Disk};
use super::environment::Aws;
use super::error::{self, code, failed};
use super::launch;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::{machine, name};
use crate::cloud::trial::{TriedLaunch, Tryable, seconds};
use crate::image::Segment;
use crate::manifest::api::Name;
use crate::oci::Digest;
use crate::plan::image::ImageId;

/// Types that launches are tried with: the cheapest that a pod fits into, the burstable ones and those of the free plan.
const CANDIDATES: usize = 12;

/// The content of the smallest disk: its first block, which boots nothing.
const CONTENT: &[u8] = b"i2kit trial: this disk shows that snapshots can be made here\n";

/// The answer to a launch that would have been made.
const WOULD_HAVE: &str = "DryRunOperation";

#[async_trait]
impl Tryable for Aws {
    async fn try_image(&self) -> Result<Vec<String>, CloudError> {
        let path = self.folder().join(format!("trial-disk-{}", std::process::id()));
        fs::write(&path, CONTENT).map_err(CloudError::file("write", &path))?;
        let disk = Disk::new(&[Segment { file: Some(path.clone()), length: CONTENT.len() as u64 }]);
        let image = ImageId(Digest::of(CONTENT));
        let started = Instant::now();
        let put = self.put_snapshot(image, disk).await;
        // The snapshot has its content, or there is none.
        let _ = fs::remove_file(&path);
        let snapshot = put?;
        let sent = seconds(started.elapsed());
        let started = Instant::now();
        self.register(image, Architecture::COMPILED, &snapshot).await?;
        let registered = seconds(started.elapsed());
        let started = Instant::now();
        self.delete_machine_image(image).await?;
        Ok(vec![
            format!("a snapshot of one block of {} KiB was completed after {sent}", BLOCK >> 10),
            format!("its image was available {registered} after it was registered"),
            format!("both were deleted within {}", seconds(started.elapsed())),
        ])
    }

    async fn try_frame(&self) -> Result<Vec<String>, CloudError> {
        let started = Instant::now();
        let subnets = self.frame().await?.subnets.len();
        let made = seconds(started.elapsed());
        let started = Instant::now();
        self.delete_stack(&name::environment_stack(&self.settings.environment)).await?;
        Ok(vec![
            format!("the environment's stack, with {subnets} subnets, was complete after {made}"),
            format!("it was deleted within {}", seconds(started.elapsed())),
        ])
    }

    async fn try_launches(&self, group: &Name) -> Result<Vec<TriedLaunch>, CloudError> {
        let versions = self.versions(group).await?;
        let newest = versions.iter().filter_map(launch::revision).max_by_key(|revision| revision.number);
        let newest = newest.ok_or_else(|| CloudError::not_found("revision of", group))?;
        let fits = machine::large_enough(newest.launch.vcpus, newest.launch.memory_mib);
        let may = fits.filter(|fitting| machine::is_allowed(fitting.name, self.settings.free_plan));
        let kinds: Vec<&str> = may.map(|allowed| allowed.name).take(CANDIDATES).collect();
        let found = self.frame_subnets().await?;
        let interface = InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .groups(self.frame().await?.machines)
            .set_associate_public_ip_address(self.gives_public_addresses().await?);
        let mut tried = Vec::new();
        for kind in kinds {
            for subnet in &found {
                let (Some(id), Some(zone)) = (subnet.subnet_id(), subnet.availability_zone()) else {
                    continue;
                };
                let there = interface.clone().subnet_id(id).build();
                let refused = self.refused(group, newest.number, (kind, there)).await?;
                let is_denied =
                    refused.as_ref().is_some_and(|(code, _)| error::is_denied(Some(code.as_str())));
                let refusal = refused.map(|(code, message)| format!("{code}: {message}"));
                tried.push(TriedLaunch { kind: kind.to_owned(), zone: zone.to_owned(), refusal, is_denied });
            }
        }
        Ok(tried)
    }

    async fn console_text(&self, instance: &str) -> Result<String, CloudError> {
        let found = self.console(instance).await;
        // What has ended loses its tags, by which the policy allows to read it.
        let is_denied =
            matches!(&found, Err(CloudError::Api { code, .. }) if error::is_denied(Some(code.as_str())));
        if is_denied && self.has_ended(instance).await? { Ok(String::new()) } else { found }
    }

    async fn has_ended(&self, instance: &str) -> Result<bool, CloudError> {
        let asked = self.clients.ec2.describe_instances().instance_ids(instance).send().await;
        let found = match asked {
            Err(error) if code(&error).starts_with("InvalidInstanceID") => return Ok(true),
            other => other.map_err(failed("DescribeInstances"))?,
        };
        let mut states = found.reservations().iter().flat_map(Reservation::instances);
        Ok(states.all(|machine| {
            machine.state().and_then(|state| state.name()) == Some(&InstanceStateName::Terminated)
        }))
    }

    async fn left(&self) -> Result<Vec<String>, CloudError> {
        let mut left = Vec::new();
        let groups = self.scaling_groups(None).await?;
        // By their names: a thing that somebody took the other tag from costs all the same.
        let names = groups.iter().filter_map(AutoScalingGroup::auto_scaling_group_name);
        left.extend(names.map(|name| format!("Auto Scaling group {name}")));
        left.extend(self.machines(None).await?.into_keys().map(|id| format!("instance {id}")));
        let templates = self.templates(None).await?;
        let names = templates.iter().filter_map(LaunchTemplate::launch_template_name);
        left.extend(names.map(|name| format!("launch template {name}")));
        let images = self.machine_images(None).await?;
        left.extend(images.iter().filter_map(Image::image_id).map(|id| format!("image {id}")));
        let snapshots = self.snapshots().await?;
        left.extend(snapshots.iter().filter_map(Snapshot::snapshot_id).map(|id| format!("snapshot {id}")));
        left.extend(self.stacks().await?.into_iter().map(|stack| format!("stack {}", stack.name)));
        Ok(left)
    }
}

impl Aws {
    /// The code and the text of why a machine of a type would not be started in a subnet, if so. The launch is by the group's
    /// template: the policy allows no other. That has a network interface, in whose place this one with the subnet is: EC2 takes
    /// no subnet beside one.
    async fn refused(
        &self,
        group: &Name,
        revision: u32,
        (kind, interface): (&str, InstanceNetworkInterfaceSpecification),
    ) -> Result<Option<(String, String)>, CloudError> {
        let template = LaunchTemplateSpecification::builder()
            .launch_template_name(name::group(&self.settings.environment, group))
            .version(revision.to_string());
        let asked = self
            .clients
            .ec2
            .run_instances()
            .launch_template(template.build())
            .instance_type(InstanceType::from(kind))
            .network_interfaces(interface)
            .min_count(1)
            .max_count(1)
            .dry_run(true)
            .send()
            .await;
        match asked {
            Err(error) if code(&error) == WOULD_HAVE => Ok(None),
            // It is no answer about launches.
            Err(error) if error::is_of_credentials(code(&error)) => Err(failed("RunInstances")(error)),
            Err(error) => match failed("RunInstances")(error) {
                CloudError::Api { code, message, transient: false, .. } => Ok(Some((code, message))),
                error => Err(error),
            },
            // EC2 starts nothing in a dry run, and says so by an error.
            Ok(started) => {
                let ids: Vec<&str> = started.instances().iter().filter_map(Instance::instance_id).collect();
                let ids = ids.join(" ");
                let message = format!(
                    "EC2 started {ids} although it was asked for a dry run: end it with `aws ec2 terminate-instances \
                     --instance-ids {ids}`"
                );
                Err(CloudError::Refused { message })
            }
        }
    }
}
