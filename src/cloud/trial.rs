//! What the trial of an account asks of its cloud, beside what every deployment does.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::CloudError;
use crate::manifest::api::Name;

/// An environment in an account that is tried. Each question leaves the environment as it was, and is asked on a connection of
/// its own: one remembers what it made.
#[async_trait]
pub trait Tryable: fmt::Debug + Send + Sync {
    /// Makes the smallest machine image that the cloud takes, and deletes it again. Returns what was done, a line each.
    async fn try_image(&self) -> Result<Vec<String>, CloudError>;

    /// Makes what an environment has once, and deletes it again. Returns what was done, a line each.
    async fn try_frame(&self) -> Result<Vec<String>, CloudError>;

    /// Asks for a machine of each type that fits the newest revision of `group`, in each zone of the environment. None is
    /// started.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] when the group has no revision; what keeps the question from being answered at all.
    async fn try_launches(&self, group: &Name) -> Result<Vec<TriedLaunch>, CloudError>;

    /// The text of a machine's serial console, as far as the cloud shows it; also of one that has ended.
    async fn console_text(&self, instance: &str) -> Result<String, CloudError>;

    /// Whether a machine has ended: it costs nothing any more.
    async fn has_ended(&self, instance: &str) -> Result<bool, CloudError>;

    /// Everything in the account that belongs to the environment, a line each.
    async fn left(&self) -> Result<Vec<String>, CloudError>;
}

/// What became of a launch that was asked for and not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriedLaunch {
    /// The type of machine.
    pub kind: String,
    /// The zone.
    pub zone: String,
    /// Why there would be none; `None` where there would be one.
    pub refusal: Option<String>,
    /// Whether it was refused because of who asked.
    pub is_denied: bool,
}

/// What stands in a report for what strangers are not to read.
pub const HIDDEN: &str = "***";

/// A time for people.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
