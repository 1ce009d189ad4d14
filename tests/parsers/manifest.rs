//! Any bytes as a set of manifests.

#[path = "../support/holds.rs"]
mod holds;

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    holds::check(data);
}
