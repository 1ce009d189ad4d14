//! The calls of AWS: an environment as the SDK sees it, behind [`Cloud`]. Which stacks, policies and types of machine there
//! are is decided in `plan`.

mod activity;
mod auto_scaling;
mod balancer;
mod blocks;
mod certificates;
mod client;
mod environment;
mod error;
mod fleet;
mod gc;
mod group;
mod image;
mod launch;
mod logs;
mod preflight;
mod refresh;
mod role;
mod scaling;
mod secrets;
mod settings;
mod snapshot;
mod spot_mix;
mod stack;
mod tags;
#[cfg(test)]
mod tests;
mod wait;
mod zones;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

pub use self::environment::Aws;
pub use self::preflight::Wanted;
pub use self::settings::Settings;
use self::wait::FIRST_PAUSE;
use crate::cloud::aws::plan::name;
use crate::cloud::{Cloud, CloudError, LogQuery, LogStream, NewRevision};
use crate::image::DiskImage;
use crate::manifest::api::{Name, Secret};
use crate::plan::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceGroup};
use crate::plan::happening::Happening;
use crate::plan::image::ImageId;

/// How often a group that is waited for is looked at. That takes five calls; AWS' balancers check every five seconds.
const POLL: Duration = Duration::from_secs(2);

#[async_trait]
impl Cloud for Aws {
    async fn observe(&self) -> Result<Fleet, CloudError> {
        self.look(None).await
    }

    async fn observe_group(&self, group: &Name) -> Result<Option<InstanceGroup>, CloudError> {
        Ok(self.look(Some(group)).await?.groups.into_iter().next())
    }

    async fn put_image(&self, image: &DiskImage) -> Result<(), CloudError> {
        self.put_machine_image(image).await
    }

    async fn delete_images(&self, images: &[ImageId]) -> Result<(), CloudError> {
        for image in images {
            self.delete_machine_image(*image).await?;
        }
        Ok(())
    }

    async fn secret_versions(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        self.versions_of(secrets).await
    }

    async fn put_secret(&self, secret: &Secret) -> Result<(), CloudError> {
        self.put_values(secret).await
    }

    async fn put_balancer(&self, spec: &BalancerSpec) -> Result<(), CloudError> {
        self.put_service(spec).await
    }

    async fn delete_balancer(&self, name: &Name) -> Result<(), CloudError> {
        self.delete_service(name).await
    }

    async fn put_group(&self, name: &Name, settings: &GroupSettings) -> Result<(), CloudError> {
        if settings.job.is_some() {
            return Err(CloudError::Unsupported {
                what: format!("the Job {name}"),
                advice: "run it on the local cloud".into(),
            });
        }
        self.put_settings(name, settings).await
    }

    async fn put_revision(&self, group: &Name, revision: &NewRevision) -> Result<(), CloudError> {
        self.put_version(group, revision).await
    }

    async fn delete_revisions(&self, group: &Name, revisions: &[u32]) -> Result<(), CloudError> {
        self.delete_versions(group, revisions).await
    }

    async fn start_refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        self.refresh(group, to, replicas).await
    }

    async fn cancel_refresh(&self, group: &Name) -> Result<(), CloudError> {
        self.cancel(group).await
    }

    async fn set_replicas(&self, group: &Name, replicas: u32) -> Result<(), CloudError> {
        let settings = self.settings_of(group).await?;
        self.resize(group, replicas, settings.as_ref().and_then(|found| found.scaling.as_ref())).await
    }

    async fn delete_group(&self, group: &Name) -> Result<(), CloudError> {
        self.delete_all_of(group).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        self.lines(query).await
    }

    async fn release(&self) -> Result<(), CloudError> {
        if self.observe().await?.is_empty() {
            // Uploads that were interrupted, and what their deletion was.
            for snapshot in self.snapshots().await? {
                if let Some(id) = snapshot.snapshot_id() {
                    self.delete_snapshot(id).await?;
                }
            }
            self.delete_all_values().await?;
            for stack in self.stacks().await?.iter().rev().filter(|stack| stack.part != "environment") {
                self.delete_stack(&stack.name).await?;
            }
            self.delete_stack(&name::environment_stack(&self.settings.environment)).await?;
        }
        Ok(())
    }

    async fn collect_leftovers(&self, delete: bool) -> Result<Vec<String>, CloudError> {
        self.collect(delete).await
    }

    fn poll(&self) -> Duration {
        if self.settings.endpoint.is_some() { FIRST_PAUSE } else { POLL }
    }

    fn keeps_deadlines(&self) -> bool {
        // AWS gives up after an hour, whatever the deadline of the group.
        false
    }

    async fn roll_back(&self, group: &Name, reason: &str) -> Result<(), CloudError> {
        let causes = Aws::causes(self, group).await;
        let reason = causes.map_or_else(|| reason.to_owned(), |causes| format!("{reason}\n{causes}"));
        self.give_up(group, &reason).await
    }

    async fn causes(&self, group: &Name) -> Option<String> {
        Aws::causes(self, group).await
    }

    async fn happenings(&self, group: &Name) -> Result<Vec<Happening>, CloudError> {
        self.activity_events(group).await
    }
}
