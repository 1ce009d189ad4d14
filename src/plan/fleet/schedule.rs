//! Where the schedule of a CronJob is.

use serde::{Deserialize, Serialize};

/// The times of a CronJob, in seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// The last time that a run was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// The next time; none while the schedule rests, and of a schedule that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// What was last noticed about times that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<ScheduleNotice>,
}

/// Something noticed about times that passed, in the words of Kubernetes' events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleNotice {
    /// When it was noticed.
    pub time: u64,
    /// In one word, such as `MissSchedule`.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}
