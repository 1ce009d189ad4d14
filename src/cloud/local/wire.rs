//! The protocol of the tool and the local cloud's process: JSON over HTTP on a unix socket.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use crate::cloud::exec::Command;
use crate::cloud::{LogQuery, ReplicaOrder, Scope};
use crate::image::DiskImage;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::Generation;

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

impl Hello {
    /// Whether it is older than `other`: then that replaces it.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        let order = |hello: &Self| {
            let numbers: Vec<u64> =
                hello.version.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
            (numbers, hello.built)
        };
        order(self) < order(other)
    }

    /// This program.
    pub(super) fn of_this_program() -> Self {
        // The running file, even when its path has been replaced by a newer one meanwhile.
        let built = fs::metadata("/proc/self/exe").map_or(0, |metadata| {
            let nanoseconds =
                i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            u64::try_from(nanoseconds).unwrap_or(0)
        });
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), built, pid: std::process::id() }
    }
}

/// An inspection of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inspect {
    /// The environment.
    pub(super) environment: String,
    /// What is inspected.
    pub(super) scope: Scope,
}

/// An act on one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Apply {
    /// The environment.
    pub(super) environment: String,
    /// The act.
    pub(super) act: PlannedAct,
    /// The image that it puts. Values of Secrets never go this way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<DiskImage>,
}

impl Apply {
    /// Whether it only changes records. The others copy images, or wait until VMs have ended.
    pub(super) fn is_quick(&self) -> bool {
        !matches!(
            self.act.act,
            Act::PutImage { .. }
                | Act::DeleteImages { .. }
                | Act::DeleteRevisions { .. }
                | Act::DeleteGroup { .. }
                | Act::PutDisk { .. }
                | Act::DeleteDisks { .. }
                | Act::SnapshotDisk { .. }
                | Act::RestoreDisk { .. }
                | Act::DeleteSnapshots { .. }
        )
    }
}

/// The answer to an act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// The generation after it.
    pub(super) generation: Generation,
    /// Whether the process ends, since nothing is left.
    pub(super) ends: bool,
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

/// A question for what a replica says of its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replica {
    /// The environment.
    pub(super) environment: String,
    /// The VM.
    pub(super) instance: String,
}

/// Something that a replica is to do for its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrderReplica {
    /// The environment.
    pub(super) environment: String,
    /// The VM.
    pub(super) instance: String,
    /// What it is to do.
    pub(super) order: ReplicaOrder,
}

/// A question for output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Logs {
    /// The environment.
    pub(super) environment: String,
    /// Which output.
    pub(super) query: LogQuery,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_program_replaces_an_older_process_and_never_the_other_way_round() {
        let hello = |version: &str, built| Hello { version: version.into(), built, pid: 1 };
        let is_older = |one: Hello, other: Hello| one.is_older_than(&other);
        assert!(is_older(hello("0.9.0", 5), hello("0.10.0", 1)));
        assert!(is_older(hello("0.1.0", 1), hello("0.1.0", 2)));
        assert!(!is_older(hello("0.1.0", 2), hello("0.1.0", 2)));
        assert!(!is_older(hello("0.2.0", 1), hello("0.1.0", 9)));
    }
}
