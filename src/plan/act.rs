//! Acts: the one list of what a client does to an environment. A plan's steps, the socket of the local cloud, its engine
//! and every other cloud use these values. Waiting is no act: it changes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fleet::{BalancerSpec, DiskSpec, Generation, GroupSettings, LaunchSpec, Leftover};
use super::image::ImageId;
use crate::manifest::api::Name;

/// One act. Applied again at the same generation it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Act {
    /// Make the cloud hold a machine image, whose bytes come beside the act.
    PutImage {
        /// The image.
        image: ImageId,
    },
    /// Make a balancer exist and be what the spec says. Its groups need not exist yet.
    PutBalancer {
        /// All of it.
        spec: BalancerSpec,
    },
    /// Make a disk exist that is at least as large as the spec says; one that is there keeps what is on it.
    PutDisk {
        /// All of it.
        disk: DiskSpec,
    },
    /// Make a group exist with these settings. A new one has no VMs and no revision.
    PutGroup {
        /// The group.
        group: Name,
        /// All settings.
        settings: GroupSettings,
    },
    /// Add a revision to a group. A conflict when the number belongs to another launch spec.
    PutRevision {
        /// The group.
        group: Name,
        /// The revision.
        revision: NewRevision,
    },
    /// Stop a refresh under way, leaving the VMs as they are. Nothing when it has ended.
    CancelRefresh {
        /// The group.
        group: Name,
        /// The revision that the refresh brings.
        to: u32,
    },
    /// Set the size of a group and start replacing its VMs by those of a revision. The cloud carries it on by itself, and
    /// back again when the new revision does not become healthy in time. An active refresh to the same revision is
    /// adopted; another active one is a conflict.
    StartRefresh {
        /// The group.
        group: Name,
        /// The revision.
        to: u32,
        /// The number of VMs.
        replicas: u32,
    },
    /// Start a run of a Job, or of a CronJob's Job, now. A conflict while a run of a Job is active; those of a CronJob may
    /// go on side by side.
    StartRun {
        /// The group.
        group: Name,
        /// The revision whose VMs run.
        revision: u32,
    },
    /// Set the number of VMs.
    Scale {
        /// The group.
        group: Name,
        /// The number.
        replicas: u32,
    },
    /// Forget revisions. Those that do not exist are no error; one that VMs should run is.
    DeleteRevisions {
        /// The group.
        group: Name,
        /// Their numbers.
        revisions: Vec<u32>,
    },
    /// Drain and end all VMs of a group, and forget it. Applied once nothing is left of it.
    DeleteGroup {
        /// The group.
        group: Name,
    },
    /// Stop listening, and forget a balancer.
    DeleteBalancer {
        /// The balancer.
        balancer: Name,
    },
    /// Delete images. Those that do not exist are no error; those that a revision names are.
    DeleteImages {
        /// The images.
        images: Vec<ImageId>,
    },
    /// Delete disks with all that is on them, and their snapshots. Those that do not exist are no error; those that an
    /// instance has are.
    DeleteDisks {
        /// The disks.
        disks: Vec<Name>,
    },
    /// Copy what is on a disk now.
    SnapshotDisk {
        /// The disk.
        disk: Name,
        /// The copy's name, which no other one of the disk has.
        snapshot: String,
    },
    /// Make a disk's content that of a snapshot. No instance may have the disk.
    RestoreDisk {
        /// The disk.
        disk: Name,
        /// The snapshot, which is kept.
        snapshot: String,
    },
    /// Delete snapshots of a disk. Those that do not exist are no error.
    DeleteSnapshots {
        /// The disk.
        disk: Name,
        /// Their names.
        snapshots: Vec<String>,
    },
    /// Delete what interrupted runs left and no plan names.
    DeleteLeftovers {
        /// The leftovers.
        leftovers: Vec<Leftover>,
    },
    /// Remove what the environment has only as a whole, such as the local cloud's background process. Nothing while the
    /// environment holds something.
    Release,
}

/// A revision to be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewRevision {
    /// Its number: the one after the newest.
    pub number: u32,
    /// How its VMs are started.
    pub launch: LaunchSpec,
    /// Why it exists, such as `i2kit deploy nginx.yaml`.
    pub cause: String,
}

/// An act, as it is handed to a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedAct {
    /// What is done.
    #[serde(flatten)]
    pub act: Act,
    /// The generation that it was planned on. The cloud refuses it at another one.
    pub generation: Generation,
    /// Who does it, for those whom it gets in the way of.
    pub by: String,
}

impl Act {
    /// Whether it deletes, and changes nothing else.
    pub fn is_deletion(&self) -> bool {
        matches!(
            self,
            Self::DeleteRevisions { .. }
                | Self::DeleteGroup { .. }
                | Self::DeleteBalancer { .. }
                | Self::DeleteImages { .. }
                | Self::DeleteDisks { .. }
                | Self::DeleteSnapshots { .. }
                | Self::DeleteLeftovers { .. }
                | Self::Release
        )
    }

    /// The group that it concerns, when it concerns one.
    pub fn group(&self) -> Option<&Name> {
        match self {
            Self::PutGroup { group, .. }
            | Self::PutRevision { group, .. }
            | Self::CancelRefresh { group, .. }
            | Self::StartRefresh { group, .. }
            | Self::StartRun { group, .. }
            | Self::Scale { group, .. }
            | Self::DeleteRevisions { group, .. }
            | Self::DeleteGroup { group } => Some(group),
            _ => None,
        }
    }
}

/// In a few words, for messages; a plan's step shows all of it.
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutImage { image } => write!(f, "put image {}", image.0.short()),
            Self::PutBalancer { spec } => write!(f, "put balancer {}", spec.name),
            Self::PutDisk { disk } => write!(f, "put disk {}", disk.name),
            Self::PutGroup { group, .. } => write!(f, "put group {group}"),
            Self::PutRevision { group, revision } => write!(f, "put revision {} of {group}", revision.number),
            Self::CancelRefresh { group, to } => write!(f, "cancel the refresh of {group} to revision {to}"),
            Self::StartRefresh { group, to, .. } => write!(f, "start {group} at revision {to}"),
            Self::StartRun { group, revision } => write!(f, "run {group} at revision {revision}"),
            Self::Scale { group, replicas } => write!(f, "scale {group} to {replicas}"),
            Self::DeleteRevisions { group, .. } => write!(f, "delete old revisions of {group}"),
            Self::DeleteGroup { group } => write!(f, "delete group {group}"),
            Self::DeleteBalancer { balancer } => write!(f, "delete balancer {balancer}"),
            Self::DeleteImages { .. } => f.write_str("delete unused images"),
            Self::DeleteDisks { disks } => {
                write!(
                    f,
                    "delete disks {}",
                    disks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                )
            }
            Self::SnapshotDisk { disk, snapshot } => write!(f, "snapshot {snapshot} of disk {disk}"),
            Self::RestoreDisk { disk, snapshot } => write!(f, "restore disk {disk} from snapshot {snapshot}"),
            Self::DeleteSnapshots { disk, .. } => write!(f, "delete snapshots of disk {disk}"),
            Self::DeleteLeftovers { .. } => f.write_str("delete leftovers"),
            Self::Release => f.write_str("release the environment"),
        }
    }
}
