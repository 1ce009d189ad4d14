//! Why a verb has no plan.

use thiserror::Error;

use crate::manifest::api::Name;

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The environment has no such group.
    #[error("environment {environment} has no group {group}; it has {}", list(.known))]
    UnknownGroup {
        /// Where it was looked for.
        environment: String,
        /// The name given.
        group: Name,
        /// The groups that exist.
        known: Vec<Name>,
    },
    /// The group has no such revision.
    #[error("{group} has no revision {revision}; it has {}", list(.known))]
    UnknownRevision {
        /// The group.
        group: Name,
        /// The number given.
        revision: u32,
        /// The revisions that exist.
        known: Vec<u32>,
    },
    /// It has not been rolled out.
    #[error("nothing of {group} runs yet; `i2kit deploy` with its manifest starts it")]
    NothingRuns {
        /// The group.
        group: Name,
    },
    /// Its manifest says how many machines run, and how often.
    #[error("{group} is a Job; change `parallelism` and `completions` in its manifest and deploy that")]
    Job {
        /// The group.
        group: Name,
    },
    /// Its machines run to an end.
    #[error("{group} is a Job, whose machines run to an end; `i2kit run {group}` starts another run")]
    JobEnds {
        /// The group.
        group: Name,
    },
    /// A number belongs to something that does not run.
    #[error("{group} has another revision {revision} than one like that which it runs")]
    AnotherRevision {
        /// The group.
        group: Name,
        /// The number.
        revision: u32,
    },
    /// Its disk is attached to one machine.
    #[error(
        "{group} has the disk of claim {claim}, which one instance at a time can have, so that it has one instance"
    )]
    OneDisk {
        /// The group.
        group: Name,
        /// The claim.
        claim: String,
    },
    /// A revision that may be gone back to needs it.
    #[error(
        "{group} had a volumeClaimTemplate {template}, which its earlier revisions use, so that it cannot be removed; leave it in the \
         manifest, or `i2kit destroy {group}` first, which keeps disks"
    )]
    Template {
        /// The group.
        group: Name,
        /// The template.
        template: String,
    },
    /// Its machines are replicas of each other, and know how many there are.
    #[error("{group}: {why}")]
    Replicas {
        /// The group.
        group: Name,
        /// Why it cannot become what was asked for, and what to do.
        why: String,
    },
    /// A disk cannot be what was asked for.
    #[error("disk {disk}: {why}")]
    Disk {
        /// The disk.
        disk: Name,
        /// Why, and what to do.
        why: String,
    },
    /// An instance has the disk.
    #[error("disk {disk}: {why}")]
    DiskInUse {
        /// The disk.
        disk: Name,
        /// Who has it, and what to do.
        why: String,
    },
    /// The environment has no such disk.
    #[error("environment {environment} has no disk {disk}; it has {}", list(.known))]
    UnknownDisk {
        /// Where it was looked for.
        environment: String,
        /// The name given.
        disk: Name,
        /// The disks that exist.
        known: Vec<Name>,
    },
    /// The disk has no such snapshot.
    #[error("disk {disk} has no snapshot {snapshot}; it has {}", list(.known))]
    UnknownSnapshot {
        /// The disk.
        disk: Name,
        /// The name given.
        snapshot: String,
        /// The snapshots that exist.
        known: Vec<String>,
    },
    /// It is not run, but kept running.
    #[error("{group} is no Job and no CronJob: its machines run already")]
    NoJob {
        /// The group.
        group: Name,
    },
    /// There is nothing to go back to.
    #[error(
        "{group} has no earlier revision that ever served; name one with --to-revision (`i2kit history` lists them)"
    )]
    NoEarlierRevision {
        /// The group.
        group: Name,
    },
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
