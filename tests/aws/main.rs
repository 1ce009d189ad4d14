//! The program on AWS, as a user calls it: against the test bed of this folder, on loopback and without an account.
//!
//! Needs the feature `aws`, a default one: without it cargo leaves this target out. And the settings of `scripts/test-aws`: without
//! them the tests say that they skipped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(dead_code, unused_imports, reason = "of what tests share, these need a part")]

mod accounts;
mod bounds;
mod crash;
mod faults;
mod frame;
mod harness;
mod jobs;
mod networks;
#[path = "../support/mod.rs"]
mod support;

mod rollout;
mod second;
mod secrets;
mod speed;
mod templates;
mod trial;
mod verbs;
