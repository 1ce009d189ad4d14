//! Forms of results that several verbs print: JSON, sizes, times, an instance's health.

use serde::Serialize;

use crate::plan::fleet::{Health, Instance};
use crate::report;

/// Prints `value` as indented JSON.
pub(super) fn json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("results have only string keys");
    report::document(&(text + "\n"));
}

/// An instance's health in one word, with the reason when it is bad.
pub(super) fn health(instance: &Instance) -> String {
    use crate::plan::fleet::InstanceState::{Draining, Ended, Running, Stopping};
    match (instance.state, &instance.health) {
        (Running, health) => health.to_string(),
        (Draining, _) => "draining".into(),
        (Stopping, _) => "stopping".into(),
        (Ended, Health::Unhealthy { reason } | Health::Lost { reason }) => format!("ended: {reason}"),
        (Ended, _) => "ended".into(),
    }
}

/// A size for people, in the unit that leaves one to three digits before the point.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Seconds since the Unix epoch as `2026-01-31T12:00:00Z`.
pub(super) fn utc(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0))
        .map_or_else(|| format!("@{seconds}"), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
