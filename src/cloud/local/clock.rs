//! The local cloud's clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub(super) fn now() -> u64 {
    nanoseconds() / 1_000_000
}

/// Nanoseconds since the Unix epoch, for the clocks of VMs.
#[expect(clippy::disallowed_methods, reason = "this is the local cloud's one clock")]
pub(super) fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A time in the form that guests give their lines.
pub(super) fn rfc3339(milliseconds: u64) -> String {
    let time = i64::try_from(milliseconds).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}
