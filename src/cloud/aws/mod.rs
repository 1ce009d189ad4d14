//! AWS: machine images from snapshots, of which only changed blocks are sent; groups as launch templates and Auto Scaling
//! groups; the slow frame around them as CloudFormation stacks.
//!
//! What belongs to an environment is found by its tags, never by a record of ours.

mod activity;
mod balancer;
mod blocks;
mod certificates;
mod client;
mod error;
mod fleet;
mod gc;
mod group;
mod image;
mod launch;
mod logs;
mod mix;
mod preflight;
mod refresh;
mod role;
mod scaling;
mod secrets;
mod snapshot;
mod stack;
mod tags;
#[cfg(test)]
mod tests;
mod zones;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ec2::config::Credentials;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use self::client::Clients;
pub use self::preflight::{Check, Wanted};
use super::secret::Key;
use super::{Cloud, CloudError, LogQuery, LogStream, NewRevision};
use crate::image::DiskImage;
use crate::manifest::api::{Name, Secret};
use crate::plan::aws::frame::{self, Frame, Network};
use crate::plan::aws::name::hash;
use crate::plan::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceGroup};
use crate::plan::happening::Happening;
use crate::plan::image::ImageId;
use crate::report::Events;

/// The first pause while something is waited for; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Asking more often than this brings throttling, not speed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a group that is waited for is looked at. That takes five calls; AWS' balancers check every five seconds.
const POLL: Duration = Duration::from_secs(2);

/// Which account and region, and what for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The environment's name.
    pub environment: String,
    /// The region.
    pub region: String,
    /// The profile of AWS' configuration files, when it is not the default one.
    pub profile: Option<String>,
    /// A network that exists; the environment makes one of its own otherwise.
    pub network: Option<Network>,
    /// Where all services answer instead of at AWS: an emulator.
    pub endpoint: Option<String>,
    /// The same as the machines see it.
    pub guest_endpoint: Option<String>,
    /// The cache's root.
    pub cache: PathBuf,
    /// Who this is, in letters, digits and hyphens, for those who wait for what this run does.
    pub holder: String,
}

/// An environment in AWS.
#[derive(Debug, Clone)]
pub struct Aws {
    settings: Settings,
    clients: Clients,
    events: Events,
    /// Settings of groups that have no revision yet.
    pending: Arc<Mutex<BTreeMap<Name, GroupSettings>>>,
    /// Tells this run's acts from those of every other run.
    run: String,
    /// What the environment's stack made, once this run has put it.
    frame: Arc<OnceCell<Frame>>,
    /// The key of Secrets' versions, once this run has looked for it.
    key: Arc<OnceCell<Key>>,
}

impl Aws {
    /// Connects; nothing is asked yet.
    pub async fn new(settings: Settings, events: Events) -> Result<Self, CloudError> {
        Self::with(settings, events, None).await
    }

    async fn with(
        settings: Settings,
        events: Events,
        credentials: Option<Credentials>,
    ) -> Result<Self, CloudError> {
        let clients = Clients::new(&settings, credentials).await;
        let run = format!("{} {}", std::process::id(), clock().as_nanos());
        let (pending, frame, key) = (Arc::default(), Arc::default(), Arc::default());
        let aws = Self { settings, clients, events, pending, run, frame, key };
        std::fs::create_dir_all(aws.folder()).map_err(CloudError::file("make", &aws.folder()))?;
        Ok(aws)
    }

    /// The images that AWS holds for the environment.
    pub async fn images(&self) -> Result<Vec<ImageId>, CloudError> {
        let found = self.machine_images(None).await?;
        let ids = found
            .iter()
            .filter_map(|image| tags::value(image.tags(), tags::IMAGE)?.parse().ok().map(ImageId));
        Ok(ids.collect())
    }

    /// Where this machine keeps what it knows of snapshots, by the version of its format; losing it costs time only.
    fn folder(&self) -> PathBuf {
        self.settings.cache.join("aws/1")
    }

    /// Stands for one act of this run, so that AWS does it once however often a lost answer makes us ask. Another run has
    /// other tokens: AWS remembers a token longer than what was made with it may exist, and answers with what is gone.
    fn token(&self, what: &str) -> String {
        hash(&format!("{} {what}", self.run))
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<Name, GroupSettings>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the environment has once, put by the first that needs it.
    async fn frame(&self) -> Result<Frame, CloudError> {
        let put = self.frame.get_or_try_init(async || {
            let place = frame::Place {
                environment: self.settings.environment.clone(),
                network: self.settings.network.clone(),
            };
            let stack = self.put_stack(&frame::environment(&place)).await?;
            let subnets = stack.output("Subnets")?;
            Ok(Frame {
                vpc: stack.output("Vpc")?,
                subnets: subnets.split(',').map(str::to_owned).collect(),
                machines: stack.output("Machines")?,
                zone: stack.output("Zone")?,
                profile: stack.output("MachineProfile")?,
            })
        });
        put.await.cloned()
    }
}

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
            self.delete_stack(&crate::plan::aws::name::environment_stack(&self.settings.environment)).await?;
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
        // AWS gives up after an hour, whatever the group says.
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

/// Seconds since the Unix epoch.
fn now() -> u64 {
    clock().as_secs()
}

/// Time since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the one clock of what is compared with times of AWS")]
fn clock() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Asks until there is an answer, with growing pauses; says what was waited for when it takes longer than `limit`.
async fn eventually<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> Result<T, CloudError>
where
    F: Future<Output = Result<Option<T>, CloudError>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if started.elapsed() > limit {
            let message = format!("waited {} s for {what}", limit.as_secs());
            return Err(CloudError::Conflict { message });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
