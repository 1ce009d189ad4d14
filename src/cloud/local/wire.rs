//! What the tool and the local cloud's process say to each other: JSON over HTTP on a unix socket.

use serde::{Deserialize, Serialize};

use crate::cloud::exec::Command;
use crate::cloud::{LogQuery, NewRevision};
use crate::image::DiskImage;
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, GroupSettings};
use crate::plan::image::ImageId;

/// Who the process is. The oldest fields stay as they are for ever: a newer tool must understand an older process well
/// enough to end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The program's version.
    pub(super) version: String,
    /// When the program file was written, in nanoseconds since the Unix epoch: tells two builds of a version apart.
    pub(super) built: u64,
    /// The process.
    pub(super) pid: u32,
}

/// A verb for one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    /// The environment.
    pub(super) environment: String,
    /// The verb.
    pub(super) verb: Verb,
}

/// The verbs of [`crate::cloud::Cloud`], as values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(super) enum Verb {
    Observe,
    PutImage { image: DiskImage },
    DeleteImages { images: Vec<ImageId> },
    PutBalancer { spec: BalancerSpec },
    DeleteBalancer { name: Name },
    PutGroup { name: Name, settings: GroupSettings },
    PutRevision { group: Name, revision: NewRevision },
    DeleteRevisions { group: Name, revisions: Vec<u32> },
    StartRefresh { group: Name, to: u32, replicas: u32 },
    CancelRefresh { group: Name },
    SetReplicas { group: Name, replicas: u32 },
    DeleteGroup { group: Name },
    Release,
}

impl Verb {
    /// Whether it only looks or changes records. The others copy images, or wait until VMs have ended.
    pub(super) fn is_quick(&self) -> bool {
        !matches!(
            self,
            Self::PutImage { .. }
                | Self::DeleteImages { .. }
                | Self::DeleteRevisions { .. }
                | Self::DeleteGroup { .. }
        )
    }
}

/// What a connection becomes on which a command's frames go, see the page on the control channel.
pub(super) const EXEC_PROTOCOL: &str = "i2kit-control";

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exec {
    /// The environment.
    pub(super) environment: String,
    /// The VM.
    pub(super) instance: String,
    /// The command.
    pub(super) command: Command,
}

/// A question for a serial console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Console {
    /// The environment.
    pub(super) environment: String,
    /// The VM.
    pub(super) instance: String,
}

/// A question for output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Logs {
    /// The environment.
    pub(super) environment: String,
    /// Which output.
    pub(super) query: LogQuery,
}
