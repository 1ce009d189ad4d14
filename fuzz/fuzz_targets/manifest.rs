//! Any bytes as a set of manifests.
#![no_main]

#[path = "../../tests/support/holds.rs"]
mod holds;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holds::check(bytes));
