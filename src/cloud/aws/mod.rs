//! AWS: machine images from snapshots, groups as launch templates and Auto Scaling groups, and around them what changes
//! slowly, as CloudFormation stacks.
//!
//! `plan` decides, in pure code, and `support` is data; both are compiled always. `api` makes the calls, with AWS' SDK,
//! which takes the cargo feature `aws`, a default one. What belongs to an environment is found by its tags, never by a record of ours.

#[cfg(feature = "aws")]
mod api;
pub mod plan;
mod provider;
mod support;
#[cfg(test)]
mod tests;

#[cfg(feature = "aws")]
pub use self::api::{Aws, AwsSettings, Wanted};
pub use self::provider::KIND;
pub use self::support::SUPPORT;
