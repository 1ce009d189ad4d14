//! AWS: machine images from snapshots, of which only changed blocks are sent.
//!
//! What belongs to an environment is found by its tags, never by a record of ours. Groups and balancers are not here yet,
//! which is why no environment file can name this cloud.

mod blocks;
mod client;
mod error;
mod image;
mod snapshot;
mod tags;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use self::client::Clients;
use super::CloudError;
use crate::image::DiskImage;
use crate::plan::image::ImageId;
use crate::report::Events;

/// The first pause while something is waited for; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Asking more often than this brings throttling, not speed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Which account and region, and what for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The environment's name.
    pub environment: String,
    /// The region.
    pub region: String,
    /// The profile of AWS' configuration files, when it is not the default one.
    pub profile: Option<String>,
    /// Where all services answer instead of at AWS: an emulator.
    pub endpoint: Option<String>,
    /// The cache's root.
    pub cache: PathBuf,
}

/// An environment in AWS.
#[derive(Debug, Clone)]
pub struct Aws {
    settings: Settings,
    clients: Clients,
    events: Events,
}

impl Aws {
    /// Connects; nothing is asked yet.
    pub async fn new(settings: Settings, events: Events) -> Result<Self, CloudError> {
        let clients = Clients::new(&settings).await;
        let aws = Self { settings, clients, events };
        std::fs::create_dir_all(aws.folder()).map_err(CloudError::file("make", &aws.folder()))?;
        Ok(aws)
    }

    /// Makes AWS hold `image`. Nothing happens when it holds an image of that id.
    pub async fn put_image(&self, image: &DiskImage) -> Result<(), CloudError> {
        self.put_machine_image(image).await
    }

    /// Deletes images. Those that do not exist are no error.
    pub async fn delete_images(&self, images: &[ImageId]) -> Result<(), CloudError> {
        for image in images {
            self.delete_machine_image(*image).await?;
        }
        Ok(())
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
}

/// Asks until there is an answer, with growing pauses; says what was waited for when it takes longer than `limit`.
async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, CloudError>,
) -> Result<T, CloudError> {
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
