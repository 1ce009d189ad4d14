//! Machine images: a registered name for a snapshot.

use aws_sdk_ec2::types::{
    ArchitectureValues, BlockDeviceMapping, BootModeValues, EbsBlockDevice, Image, ImdsSupportValues,
    ResourceType, Snapshot, TpmSupportValues, VolumeType,
};
use i2kit_spec::Architecture;

use super::blocks::Disk;
use super::environment::Aws;
use super::error::{code, failed};
use super::tags::{self, ENVIRONMENT, IMAGE};
use crate::cloud::CloudError;
use crate::image::{DiskImage, bootable};
use crate::plan::image::ImageId;

/// The device that EC2 calls the root; the guest finds its partitions by name instead.
const ROOT: &str = "/dev/xvda";

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
        self.register(image, &snapshot).await
    }

    async fn register(&self, disk_image: &DiskImage, snapshot: &str) -> Result<(), CloudError> {
        let environment = &self.settings.environment;
        let image = disk_image.id;
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
            .name(format!("i2kit-{environment}-{}", image.0.hex()))
            .description(format!("i2kit {environment} {image}"))
            .architecture(architecture(disk_image.architecture))
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
        match registered {
            // An earlier answer was lost, or another run was faster: it is the same image.
            Err(error) if code(&error) == "InvalidAMIName.Duplicate" => Ok(()),
            other => other.map(drop).map_err(failed("RegisterImage")),
        }
    }

    /// The registered image of that id.
    pub(super) async fn machine_image(&self, image: ImageId) -> Result<Option<Image>, CloudError> {
        Ok(self.machine_images(Some(image)).await?.into_iter().next())
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
        for found in self.machine_images(Some(image)).await? {
            let Some(id) = found.image_id() else { continue };
            // A snapshot goes behind its image only: killed in between, the next run finds it by this.
            for snapshot in &held {
                self.set_tags(snapshot, &[(tags::DELETED.to_owned(), "true".to_owned())]).await?;
            }
            let gone = self.clients.ec2.deregister_image().image_id(id).send().await;
            match gone {
                Err(error) if code(&error).starts_with("InvalidAMIID") => {}
                other => drop(other.map_err(failed("DeregisterImage"))?),
            }
        }
        for snapshot in held {
            self.delete_snapshot(snapshot).await?;
        }
        Ok(())
    }
}
