//! What can go wrong while a plan is carried out.

use thiserror::Error;

use crate::cloud::CloudError;
use crate::manifest::api::Name;
use crate::plan::image::ImageId;
use crate::plan::rollout::Overtaken;

/// Why a plan was not carried out to its end.
#[derive(Debug, Error)]
pub enum RolloutError {
    /// The cloud refused or failed.
    #[error("cannot carry out \"{step}\"")]
    Cloud {
        /// The step, as the plan prints it.
        step: String,
        /// What the cloud said.
        source: CloudError,
    },
    /// Somebody else's acts make the rest of the plan another one, or undo what this run did.
    #[error("{what}: {why}")]
    Overtaken {
        /// What was done meanwhile, and by whom.
        what: String,
        /// What the plan would do now.
        why: Overtaken,
    },
    /// An image that the plan needs was not handed over.
    #[error("image {0} was not built; build it before the rollout")]
    ImageMissing(ImageId),
    /// The new revision did not become healthy; the cloud brought the old one back.
    #[error("{group}: revision {revision} failed and was rolled back{}: {reason}", to(*.back))]
    RolledBack {
        /// The group.
        group: Name,
        /// The revision that failed.
        revision: u32,
        /// The revision that serves again.
        back: Option<u32>,
        /// Which VM failed and why.
        reason: String,
    },
    /// The new revision did not become healthy, and there was nothing to go back to.
    #[error("{group}: revision {revision} failed: {reason}")]
    Failed {
        /// The group.
        group: Name,
        /// The revision.
        revision: u32,
        /// Which VM failed and why.
        reason: String,
    },
    /// More than one group failed; each says why.
    #[error("{} groups failed:\n{}", .0.len(), lines(.0))]
    Several(Vec<RolloutError>),
    /// Somebody else stopped the refresh or started another one.
    #[error("{group}: the refresh to revision {revision} was {what} by somebody else; run the command again")]
    Superseded {
        /// The group.
        group: Name,
        /// The revision.
        revision: u32,
        /// `cancelled` or `replaced`.
        what: String,
    },
    /// The group was deleted while it was waited for.
    #[error(
        "{group} was deleted by somebody else while it was waited for; run the command again to make it anew"
    )]
    Deleted {
        /// The group.
        group: Name,
    },
    /// The record of the run that was waited for was removed: a CronJob keeps few of them.
    #[error(
        "the record of the run of {group} was removed before its end was seen; `i2kit events` has what is known of it, and \
         a larger successfulJobsHistoryLimit or failedJobsHistoryLimit keeps it for longer"
    )]
    RunRemoved {
        /// The group.
        group: Name,
    },
    /// Nothing moved for too long.
    #[error("{group}: {healthy} of {replicas} VMs healthy, and no progress for {seconds} s: {reason}")]
    TimedOut {
        /// The group.
        group: Name,
        /// Healthy VMs.
        healthy: u32,
        /// Wanted VMs.
        replicas: u32,
        /// The deadline.
        seconds: u32,
        /// What the VMs that are not healthy say.
        reason: String,
    },
}

impl RolloutError {
    /// Whether somebody else's act ended the run: run again, it plans from what is there then.
    pub fn is_overtaken(&self) -> bool {
        match self {
            Self::Overtaken { .. } | Self::Superseded { .. } | Self::Deleted { .. } => true,
            Self::Cloud { source, .. } => matches!(source, CloudError::Outdated { .. }),
            Self::Several(all) => all.iter().any(Self::is_overtaken),
            Self::ImageMissing(_)
            | Self::RolledBack { .. }
            | Self::Failed { .. }
            | Self::RunRemoved { .. }
            | Self::TimedOut { .. } => false,
        }
    }
}

fn lines(errors: &[RolloutError]) -> String {
    errors.iter().map(|error| format!("- {error}")).collect::<Vec<_>>().join("\n")
}

fn to(back: Option<u32>) -> String {
    back.map(|number| format!(" to revision {number}")).unwrap_or_default()
}
