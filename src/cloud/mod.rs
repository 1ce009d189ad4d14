//! Clouds: what holds the running state of an environment, behind one interface.
//!
//! A [`Cloud`] is bound to one environment. Its verbs are small, named after what they leave behind (`put_…`), and
//! idempotent: carried out again after an interruption, they find what exists and change nothing. What must go on when
//! the tool is killed (keeping a group at its size, a refresh with its rollback, balancing) is the cloud's own work;
//! nothing above this interface runs a loop for it. Everything above it cannot tell one cloud from another.

pub mod aws;
pub mod environment;
mod error;
pub mod exec;
pub mod health;
pub mod kinds;
pub mod local;
mod moment;
pub mod provider;
pub mod reconcile;
mod secret;
pub mod sim;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use self::error::CloudError;
use self::exec::{Command, Session};
pub use self::moment::{Moment, PAUSE_MS, Steady};
use crate::image::DiskImage;
use crate::manifest::api::{Name, Secret};
use crate::plan::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceGroup, LaunchSpec};
use crate::plan::happening::Happening;
use crate::plan::image::ImageId;

/// One environment in one cloud.
#[async_trait]
pub trait Cloud: Send + Sync + fmt::Debug {
    /// Everything that the environment holds, as of now.
    async fn observe(&self) -> Result<Fleet, CloudError>;

    /// One group, as of now. Where looking at all costs more than looking at one, the cloud looks at one.
    async fn observe_group(&self, group: &Name) -> Result<Option<InstanceGroup>, CloudError> {
        Ok(self.observe().await?.group(group).cloned())
    }

    /// Makes the cloud hold `image`. Nothing happens when it holds an image of that id.
    async fn put_image(&self, image: &DiskImage) -> Result<(), CloudError>;

    /// Deletes images. Those that do not exist are no error; those that a revision names are.
    async fn delete_images(&self, images: &[ImageId]) -> Result<(), CloudError>;

    /// The versions under which the cloud keeps, or would keep, these values. A version is equal for equal values and
    /// tells nothing of them; a launch spec names it, so that a changed value is another revision. Keeps nothing.
    async fn secret_versions(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        match secrets.first() {
            None => Ok(BTreeMap::new()),
            Some(_) => Err(CloudError::no_secrets()),
        }
    }

    /// Makes the cloud keep a Secret's values under their version, for the VMs of revisions that name it.
    async fn put_secret(&self, _secret: &Secret) -> Result<(), CloudError> {
        Err(CloudError::no_secrets())
    }

    /// Makes the balancer exist and be what `spec` says. Its groups need not exist yet.
    async fn put_balancer(&self, spec: &BalancerSpec) -> Result<(), CloudError>;

    /// Deletes a balancer. One that does not exist is no error.
    async fn delete_balancer(&self, name: &Name) -> Result<(), CloudError>;

    /// Makes the group exist with these settings; a new one has no VMs and no revision.
    async fn put_group(&self, name: &Name, settings: &GroupSettings) -> Result<(), CloudError>;

    /// Adds a revision. When the group has one of that number with an equal launch spec nothing happens; when the
    /// number is taken by another one it is a [`CloudError::Conflict`].
    async fn put_revision(&self, group: &Name, revision: &NewRevision) -> Result<(), CloudError>;

    /// Forgets revisions. Those that do not exist are no error; one that VMs should run is.
    async fn delete_revisions(&self, group: &Name, revisions: &[u32]) -> Result<(), CloudError>;

    /// Sets the size of the group and starts replacing its VMs by those of revision `to`, within the limits of the
    /// group's strategy. The cloud carries it on by itself, and back again when the new revision does not become
    /// healthy in time. An active refresh to the same revision is adopted; any other active one is a conflict.
    async fn start_refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError>;

    /// Stops the refresh under way, if any, leaving the VMs as they are.
    async fn cancel_refresh(&self, group: &Name) -> Result<(), CloudError>;

    /// Sets the size of the group.
    async fn set_replicas(&self, group: &Name, replicas: u32) -> Result<(), CloudError>;

    /// Drains and ends all VMs of the group and forgets it; returns once nothing is left of it. One that does not
    /// exist is no error.
    async fn delete_group(&self, group: &Name) -> Result<(), CloudError>;

    /// How often it may be asked how far it is.
    fn poll(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// Whether it ends a refresh that makes no progress for as long as the group's settings say. One that does not is
    /// told by who waits; unattended, its own deadline holds.
    fn keeps_deadlines(&self) -> bool {
        true
    }

    /// Gives the refresh under way up, for that reason: the old revision comes back. Nothing happens where none is.
    async fn roll_back(&self, _group: &Name, _reason: &str) -> Result<(), CloudError> {
        Ok(())
    }

    /// What the cloud knows of why a group's VMs do not become healthy, beyond what the fleet tells.
    async fn causes(&self, _group: &Name) -> Option<String> {
        None
    }

    /// What the cloud did to a group by itself, beyond what the fleet tells.
    async fn happenings(&self, _group: &Name) -> Result<Vec<Happening>, CloudError> {
        Ok(vec![])
    }

    /// Deletes what interrupted runs left and no plan knows of, or only lists it: a line each.
    async fn collect_leftovers(&self, _delete: bool) -> Result<Vec<String>, CloudError> {
        Ok(vec![])
    }

    /// Output of the pods' containers and of the VMs themselves.
    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError>;

    /// Runs a command in a container of a VM and connects to it.
    async fn exec(&self, instance: &str, command: &Command) -> Result<Session, CloudError> {
        let _ = (instance, command);
        Err(CloudError::Unsupported {
            what: "running commands in containers".into(),
            advice: "deploy to the local cloud to look inside, or let the container's logs tell".into(),
        })
    }

    /// What a VM's serial console said, and goes on to say until the VM ends.
    async fn console(&self, instance: &str) -> Result<ByteStream, CloudError> {
        let _ = instance;
        Err(CloudError::Unsupported {
            what: "following the serial console".into(),
            advice: "the cloud's own console shows it".into(),
        })
    }

    /// Gives up what exists for the environment only as a whole, once it is empty: on the local cloud, the background
    /// process and its files when no environment is left. Nothing happens while the environment holds something.
    async fn release(&self) -> Result<(), CloudError>;
}

/// A revision to be put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewRevision {
    /// Its number.
    pub number: u32,
    /// How its VMs are started.
    pub launch: LaunchSpec,
    /// Why it exists.
    pub cause: String,
}

/// Bytes as they come.
pub type ByteStream = BoxStream<'static, Result<Vec<u8>, CloudError>>;

/// Lines of output as they come; ends when everything was read, or never when following.
pub type LogStream = BoxStream<'static, Result<LogLine, CloudError>>;

/// Which output is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogQuery {
    /// The group.
    pub group: Name,
    /// Only this VM.
    pub instance: Option<String>,
    /// Only this container; without it, all containers and what the VM itself says.
    pub container: Option<String>,
    /// Only that many last lines of each VM.
    pub tail: Option<usize>,
    /// Of each container, the run before the current one.
    #[serde(default)]
    pub previous: bool,
    /// Only lines that are no older than that.
    #[serde(default)]
    pub since_seconds: Option<u64>,
    /// Whether to wait for more, of VMs to come too.
    pub follow: bool,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// The VM.
    pub instance: String,
    /// The container; `None` for the kernel and PID 1.
    pub container: Option<String>,
    /// When it was written, as `2026-01-31T12:00:00.000000000Z`, where the cloud knows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The line without its end.
    pub text: String,
}
