//! Machine images: a registered name for a snapshot.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_ec2::types::{
    ArchitectureValues, BlockDeviceMapping, BootModeValues, EbsBlockDevice, Image, ImageState,
    ImdsSupportValues, ResourceType, Snapshot, TpmSupportValues, VolumeType,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use i2kit_spec::Architecture;

use super::blocks::Disk;
use super::environment::Aws;
use super::error::{code, failed, is_denied};
use super::tags::{self, ENVIRONMENT, IMAGE};
use super::wait::eventually;
use crate::cloud::CloudError;
use crate::image::{DiskImage, bootable};
use crate::plan::image::ImageId;

/// The device that EC2 calls the root; the guest finds its partitions by name instead.
const ROOT: &str = "/dev/xvda";

/// How long EC2 may take to make a registered image available; it takes seconds.
const AVAILABLE: Duration = Duration::from_mins(10);

/// Digits of an image's id in its name, which EC2 bounds to 128 characters.
const NAME_DIGITS: usize = 32;

/// An architecture in EC2's words.
fn architecture(architecture: Architecture) -> ArchitectureValues {
    match architecture {
        Architecture::Amd64 => ArchitectureValues::X8664,
        Architecture::Arm64 => ArchitectureValues::Arm64,
    }
}

impl Aws {
    /// Makes AWS hold the image.
    pub(super) async fn put_machine_image(&self, image: &DiskImage) -> Result<(), CloudError> {
        if self.machine_image(image.id).await?.is_some() {
            return Ok(());
        }
        let (parts, cache) = (image.clone(), self.settings.cache.clone());
        let segments = tokio::task::spawn_blocking(move || bootable(&parts, &cache)).await;
        let segments = match segments {
            Ok(Ok(segments)) => segments,
            Ok(Err(error)) => return Err(CloudError::Conflict { message: error.to_string() }),
            Err(_) => {
                return Err(CloudError::Conflict {
                    message: "internal error: a builder thread panicked".into(),
                });
            }
        };
        let snapshot = self.put_snapshot(image.id, Disk::new(&segments)).await?;
        self.register(image.id, image.architecture, &snapshot).await
    }

    /// Registers a completed snapshot as a machine image, and waits until it is available.
    pub(super) async fn register(
        &self,
        image: ImageId,
        processors: Architecture,
        snapshot: &str,
    ) -> Result<(), CloudError> {
        let environment = &self.settings.environment;
        let disk = EbsBlockDevice::builder()
            .snapshot_id(snapshot)
            .volume_type(VolumeType::Gp3)
            .delete_on_termination(true);
        let named = [
            (ENVIRONMENT, environment.clone()),
            (IMAGE, image.to_string()),
            ("Name", format!("i2kit-{environment}-{}", image.0.short())),
        ];
        let registered = self
            .clients
            .ec2
            .register_image()
            // The name is unique in an account and region, which makes registering twice impossible.
            // Half of the digits are enough for that, and leave room for the environment's name.
            .name(format!("i2kit-{environment}-{}", image.0.hex().get(..NAME_DIGITS).unwrap_or_default()))
            .description(format!("i2kit {environment} {image}"))
            .architecture(architecture(processors))
            .virtualization_type("hvm")
            .boot_mode(BootModeValues::Uefi)
            .ena_support(true)
            .imds_support(ImdsSupportValues::V20)
            .tpm_support(TpmSupportValues::V20)
            .root_device_name(ROOT)
            .block_device_mappings(BlockDeviceMapping::builder().device_name(ROOT).ebs(disk.build()).build())
            .tag_specifications(tags::specification(ResourceType::Image, &named))
            .send()
            .await;
        let id = match registered {
            // An earlier answer was lost, or another run was faster: it is the same image.
            Err(error) if code(&error) == "InvalidAMIName.Duplicate" => {
                error.message().and_then(named_image).map(str::to_owned)
            }
            other => other.map_err(failed("RegisterImage"))?.image_id,
        };
        let Some(id) = id else { return Ok(()) };
        self.made().registered(image, id.clone());
        eventually(&format!("image {id} to be available"), AVAILABLE, || async {
            match self.image_by_id(&id).await?.as_ref().and_then(Image::state) {
                Some(ImageState::Available) => Ok(Some(())),
                Some(ImageState::Failed | ImageState::Error | ImageState::Invalid) => {
                    Err(CloudError::Conflict { message: format!("EC2 gave image {id} up") })
                }
                _ => Ok(None),
            }
        })
        .await
    }

    /// The registered image of that id. What this run registered is asked for by EC2's own id: tags are shown late.
    pub(super) async fn machine_image(&self, image: ImageId) -> Result<Option<Image>, CloudError> {
        let known = self.made().image(image);
        if let Some(id) = known
            && let Some(found) = self.image_by_id(&id).await?
        {
            return Ok(Some(found));
        }
        Ok(self.machine_images(Some(image)).await?.into_iter().next())
    }

    async fn image_by_id(&self, id: &str) -> Result<Option<Image>, CloudError> {
        let described = self.clients.ec2.describe_images().image_ids(id).send().await;
        match described {
            Err(error) if code(&error).starts_with("InvalidAMIID") => Ok(None),
            other => {
                Ok(other.map_err(failed("DescribeImages"))?.images.unwrap_or_default().into_iter().next())
            }
        }
    }

    /// The environment's registered images.
    pub(super) async fn machine_images(&self, image: Option<ImageId>) -> Result<Vec<Image>, CloudError> {
        let described = self
            .clients
            .ec2
            .describe_images()
            .owners("self")
            .set_filters(Some(tags::of_image(&self.settings.environment, image)))
            .send()
            .await
            .map_err(failed("DescribeImages"))?;
        Ok(described.images.unwrap_or_default())
    }

    /// Deregisters an image, and deletes every snapshot of it that is not the parent of one under way.
    pub(super) async fn delete_machine_image(&self, image: ImageId) -> Result<(), CloudError> {
        let held: Vec<Snapshot> = self.snapshots().await?;
        let held = held.iter().filter(|held| tags::value(held.tags(), IMAGE) == Some(&*image.to_string()));
        let held: Vec<&str> = held.filter_map(Snapshot::snapshot_id).collect();
        let found = self.machine_images(Some(image)).await?;
        let mut ids: BTreeSet<String> = found.into_iter().filter_map(|image| image.image_id).collect();
        ids.extend(self.made().image(image));
        for id in &ids {
            // A snapshot goes behind its image only: killed in between, the next run finds it by this.
            for snapshot in &held {
                self.set_tags(snapshot, &[(tags::DELETED.to_owned(), "true".to_owned())]).await?;
            }
            let gone = self.clients.ec2.deregister_image().image_id(id).send().await;
            match gone {
                Err(error) if code(&error).starts_with("InvalidAMIID") => {}
                Err(error) if is_denied(error.code()) => {
                    if self.image_by_id(id).await?.is_some() {
                        return Err(failed("DeregisterImage")(error));
                    }
                }
                other => drop(other.map_err(failed("DeregisterImage"))?),
            }
        }
        self.made().deregistered(image);
        for snapshot in held {
            self.delete_snapshot(snapshot).await?;
        }
        Ok(())
    }
}

/// The image in the message that a name is taken by it.
fn named_image(message: &str) -> Option<&str> {
    message.split(|c: char| c.is_whitespace() || c == '.').find(|word| word.starts_with("ami-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_has_a_name_already_is_named() {
        let message = "AMI name i2kit-test-00ff is already in use by AMI ami-0123456789abcdef0.";
        assert_eq!(named_image(message), Some("ami-0123456789abcdef0"));
        assert_eq!(named_image("AMI name i2kit-ami is already in use"), None);
    }
}
