//! The calls of AWS: an environment as the SDK sees it, behind [`Cloud`]. Which stacks, policies and types of machine there
//! are is decided in `plan`.

mod activity;
mod admission;
mod auto_scaling;
mod balancer;
mod block_maps;
mod blocks;
mod bridge;
mod certificates;
mod client;
mod environment;
mod error;
mod fleet;
mod gc;
mod generation;
mod group;
mod image;
mod job;
mod job_group;
mod job_record;
mod launch;
mod logs;
mod made;
mod network;
mod offers;
mod preflight;
mod refresh;
mod role;
mod room;
mod routes;
mod scaling;
mod secrets;
mod settings;
mod snapshot;
mod spot_mix;
mod stack;
mod tags;
#[cfg(test)]
mod tests;
mod trial;
mod wait;
mod watch;
mod zones;

use std::collections::BTreeMap;

use async_trait::async_trait;

pub use self::environment::Aws;
pub use self::preflight::Wanted;
pub use self::settings::AwsSettings;
use crate::cloud::aws::plan::name;
use crate::cloud::{Cloud, CloudError, LogQuery, LogStream, Materials, Scope, Updates};
use crate::manifest::api::{Name, Secret};
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::fleet::{Fleet, Generation, InstanceGroup};

#[async_trait]
impl Cloud for Aws {
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError> {
        match scope {
            Scope::Environment => self.look(None).await,
            Scope::Group(group) => self.look(Some(group)).await,
            Scope::Detailed => self.look_closely().await,
        }
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        if act.act == Act::Release {
            return self.release().await.map(|()| Generation::default());
        }
        let admitted = Box::pin(self.admit(act)).await?;
        Box::pin(self.perform(&act.act, materials)).await?;
        self.applied(act, &admitted).await
    }

    async fn secret_versions(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        self.versions_of(secrets).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        self.lines(query).await
    }

    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        self.watched(scope)
    }
}

impl Aws {
    /// Does what an act asks.
    async fn perform(&self, act: &Act, materials: &Materials) -> Result<(), CloudError> {
        match act {
            Act::PutImage { image } => self.put_machine_image(materials.image(*image)?).await,
            Act::PutBalancer { spec } => self.put_service(spec, &materials.sizes).await,
            Act::StartRun { group, revision } => self.run_job(group, *revision).await,
            Act::PutGroup { group, settings } if settings.stateful.is_some() => {
                Err(CloudError::Unsupported {
                    what: format!("the StatefulSet {group}"),
                    advice: "run it on the local cloud".into(),
                })
            }
            Act::PutDisk { .. }
            | Act::DeleteDisks { .. }
            | Act::SnapshotDisk { .. }
            | Act::RestoreDisk { .. }
            | Act::DeleteSnapshots { .. } => Err(CloudError::Unsupported {
                what: act.to_string(),
                advice: "disks that outlive machines are on the local cloud; use emptyDir, or a service of the cloud".into(),
            }),
            Act::PutGroup { group, settings } => Box::pin(self.put_settings(group, settings)).await,
            Act::PutRevision { group, revision } => {
                self.put_secrets(revision, &materials.secrets).await?;
                Box::pin(self.put_version(group, revision)).await
            }
            Act::CancelRefresh { group, to } => match self.job_settings(group).await? {
                Some(_) => self.delete_lanes(group).await,
                None => self.cancel(group, *to).await,
            },
            Act::StartRefresh { group, to, replicas } => {
                if let Some(settings) = self.job_settings(group).await? {
                    return self.start_job(group, *to, &settings).await;
                }
                self.make_room_for(group, *replicas).await?;
                self.refresh(group, *to, *replicas).await
            }
            Act::Scale { group, replicas } => {
                // A Job's lanes follow from its settings.
                if self.job_settings(group).await?.is_some() {
                    return Ok(());
                }
                self.make_room_for(group, *replicas).await?;
                let settings = self.settings_of(group).await?;
                let scaling = settings.as_ref().and_then(|found| found.scaling.as_ref());
                self.resize(group, *replicas, scaling).await
            }
            Act::DeleteRevisions { group, revisions } => self.delete_versions(group, revisions).await,
            Act::DeleteGroup { group } => self.delete_all_of(group).await,
            Act::DeleteBalancer { balancer } => self.delete_service(balancer).await,
            Act::DeleteImages { images } => {
                for image in images {
                    self.delete_machine_image(*image).await?;
                }
                Ok(())
            }
            Act::DeleteLeftovers { leftovers } => self.delete_leftovers(leftovers).await,
            Act::Release => self.release().await,
        }
    }

    /// Keeps the values of Secrets that a new revision names.
    async fn put_secrets(&self, revision: &NewRevision, secrets: &[Secret]) -> Result<(), CloudError> {
        let versions = self.versions_of(secrets).await?;
        let named: Vec<&String> = revision.launch.secrets.values().flatten().collect();
        for secret in secrets {
            if versions.get(&secret.name).is_some_and(|version| named.contains(&version)) {
                self.put_values(secret).await?;
            }
        }
        Ok(())
    }

    /// Removes what the environment has as a whole, if it holds nothing.
    async fn release(&self) -> Result<(), CloudError> {
        let (fleet, expired) = self.look_at_all().await?;
        if fleet.is_empty() {
            for group in &expired {
                self.delete_all_of(&group.name).await?;
            }
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

    /// The whole environment, with what takes calls of its own.
    async fn look_closely(&self) -> Result<Fleet, CloudError> {
        let (mut fleet, expired) = self.look_at_all().await?;
        for group in &mut fleet.groups {
            group.events = self.activity_events(&group.name).await?;
            let is_over =
                group.settings.job.is_some() && group.runs.last().is_none_or(|run| !run.status.is_active());
            if group.healthy() < group.replicas && !is_over {
                group.causes = self.causes(&group.name).await.into_iter().collect();
            }
        }
        let all: Vec<InstanceGroup> = fleet.groups.iter().chain(&expired).cloned().collect();
        fleet.leftovers = self.leftovers(&all).await?;
        fleet.leftovers.extend(expired.iter().map(|group| gc::expired(&group.name)));
        Ok(fleet)
    }
}
