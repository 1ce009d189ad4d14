//! Clouds: what holds the running state of an environment, behind one interface.
//!
//! A [`Cloud`] is bound to one environment. It reports what the environment holds ([`Cloud::inspect`], [`Cloud::watch`])
//! and applies acts ([`Act`](crate::plan::act::Act)). What must go on when the tool is killed (keeping a group at its
//! size, a refresh with its rollback, balancing) is the cloud's own work; nothing above this interface runs a loop for it.
//! Everything above it cannot tell one cloud from another.

pub mod aws;
pub mod engine;
mod error;
pub mod exec;
pub mod identity;
pub mod kinds;
pub mod local;
mod polling;
pub mod provider;
mod random;
mod replica;
mod secret;
pub mod sim;
pub mod trial;
mod watch;

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use i2kit_spec::replica::ReplicaStatus;
use serde::{Deserialize, Serialize};

pub use self::error::CloudError;
use self::exec::{Command, Session};
pub use self::random::random;
pub use self::replica::{ReplicaAnswer, ReplicaOrder};
pub use self::watch::{Update, Updates};
use crate::image::DiskImage;
use crate::manifest::api::{Name, Secret};
use crate::plan::act::PlannedAct;
use crate::plan::fleet::{Fleet, Generation};
use crate::plan::image::ImageId;

/// One environment in one cloud.
#[async_trait]
pub trait Cloud: Send + Sync + fmt::Debug {
    /// What the environment holds now, as far as `scope` asks.
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError>;

    /// Everything that the environment holds now.
    async fn observe(&self) -> Result<Fleet, CloudError> {
        self.inspect(&Scope::Environment).await
    }

    /// Applies an act that was planned on `act.generation`, and returns the generation after it. `materials` has what the
    /// act names and does not contain.
    ///
    /// # Errors
    /// [`CloudError::Outdated`], which names who is in the way, when somebody else's act came in between. An act that was
    /// applied already at that generation (its answer was lost) succeeds.
    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError>;

    /// The versions under which the cloud keeps, or would keep, these values; keeps nothing. A version is a keyed hash:
    /// equal values have equal versions. A launch spec names it, so that it is needed before there is a plan.
    async fn secret_versions(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        match secrets.first() {
            None => Ok(BTreeMap::new()),
            Some(_) => Err(CloudError::no_secrets()),
        }
    }

    /// An update whenever something in `scope` changed, the first one at once. A cloud that cannot keep a group's deadline
    /// by itself keeps it for as long as the group is watched: it rolls a refresh back that stands still for too long.
    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c>;

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

    /// What the replica in a VM of a replicated group says of its group.
    async fn replica(&self, instance: &str) -> Result<ReplicaStatus, CloudError> {
        let _ = instance;
        Err(CloudError::Unsupported {
            what: "asking replicas".into(),
            advice: "deploy replicated pods to the local cloud".into(),
        })
    }

    /// Has the replica in a VM of a replicated group do something for its group.
    ///
    /// # Errors
    /// [`CloudError::Guest`] with the replica's own words when it refuses, or when it does not answer.
    async fn order_replica(&self, instance: &str, order: &ReplicaOrder) -> Result<ReplicaAnswer, CloudError> {
        let _ = (instance, order);
        Err(CloudError::Unsupported {
            what: "leading replicas".into(),
            advice: "deploy replicated pods to the local cloud".into(),
        })
    }

    /// The output of a VM's serial console since its start, until the VM ends.
    async fn console(&self, instance: &str) -> Result<ByteStream, CloudError> {
        let _ = instance;
        Err(CloudError::Unsupported {
            what: "following the serial console".into(),
            advice: "the cloud's own console shows it".into(),
        })
    }
}

/// How much of an environment is inspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// All groups, balancers and images, with the generation.
    Environment,
    /// One group, without the generation. Where that costs less than the whole, the cloud looks at nothing else.
    Group(Name),
    /// All, with what takes further calls: what the cloud did by itself, causes of failures, leftovers.
    Detailed,
}

/// What acts name and do not contain, since it is too large, or too secret to be part of a value that is shown, stored and
/// sent.
#[derive(Debug, Clone, Default)]
pub struct Materials {
    /// Images that were built.
    pub images: BTreeMap<ImageId, DiskImage>,
    /// Values of Secrets that new revisions name by their versions.
    pub secrets: Vec<Secret>,
    /// The most VMs that there may be at once of each group that is deployed: a cloud may place balancers by it.
    pub sizes: BTreeMap<Name, u32>,
}

impl Materials {
    /// The built image that an act puts.
    pub(crate) fn image(&self, id: ImageId) -> Result<&DiskImage, CloudError> {
        self.images.get(&id).ok_or_else(|| CloudError::not_found("built image", &id))
    }
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
