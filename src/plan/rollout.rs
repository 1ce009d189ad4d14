//! From a fleet as it is to a fleet as it should be: [`rollout`] compares the two and answers with every step by name,
//! so that carrying a plan out decides nothing.
//!
//! Steps are in the order of their execution. Refreshes of all groups are started before the first one is waited for:
//! the pods of one group may need those of another to become ready. It does not know clocks, clouds or image files.

mod again;
mod deploy;
mod disks;
mod error;
mod render;
mod replicas;
mod restart;
mod steps;
mod verbs;

pub use self::again::Overtaken;
pub use self::deploy::rollout;
pub use self::disks::{
    check_disks, refusal, remove_disks, remove_snapshot, restore_disk, snapshot_disk, with_classes,
};
pub use self::error::PlanError;
pub use self::replicas::check_replicas;
pub use self::restart::restart;
pub use self::steps::{Before, Change, Desired, GroupKind, GroupSpec, Intent, RolloutPlan, Step};
pub use self::verbs::{collect, destroy, rollback, run, scale, served_before, wait};
