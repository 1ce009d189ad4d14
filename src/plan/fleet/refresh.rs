//! The replacement of a group's VMs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The replacement of a group's VMs by those of another revision, done by the cloud itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// How far it is.
    pub status: RefreshStatus,
    /// The revision that it left and returns to when it fails; `None` for the first start of a group.
    pub from: Option<u32>,
    /// The revision that it brings.
    pub to: u32,
    /// VMs of the revision `to`.
    pub updated: u32,
    /// Those of them that are healthy for long enough to count.
    pub available: u32,
    /// VMs that there should be in the end.
    pub total: u32,
    /// When it started.
    pub started: u64,
    /// Why it failed, with the VM that failed and the end of its console.
    pub reason: Option<String>,
}

impl Refresh {
    /// Whether it ended without bringing its revision.
    pub fn is_lost(&self) -> bool {
        matches!(self.status, RefreshStatus::RolledBack | RefreshStatus::Failed)
    }
}

/// How far a refresh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefreshStatus {
    /// Replacing VMs.
    InProgress,
    /// Failed, and bringing the old revision back.
    RollingBack,
    /// Every VM is of the new revision and healthy.
    Successful,
    /// Failed; every VM is of the old revision again.
    RolledBack,
    /// Failed, and there was no old revision to return to, or it did not become healthy either.
    Failed,
    /// Stopped on request; VMs of both revisions may be left.
    Cancelled,
}

impl RefreshStatus {
    /// Whether the cloud still works on it.
    pub fn is_active(self) -> bool {
        matches!(self, Self::InProgress | Self::RollingBack)
    }

    /// The revision that a refresh works towards or has reached: the old one once it turned back.
    pub fn target(self, from: Option<u32>, to: u32) -> u32 {
        match self {
            Self::RollingBack | Self::RolledBack => from.unwrap_or(to),
            _ => to,
        }
    }
}

impl fmt::Display for RefreshStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProgress => "in progress",
            Self::RollingBack => "rolling back",
            Self::Successful => "successful",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}
