//! The program from the outside, as a user calls it. Tests that deploy boot real virtual machines; `scripts/test`
//! runs them, and a plain `cargo test` says that it skipped them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod acme;
mod apps;
mod crash;
mod demo;
mod disks;
mod environments;
mod examples;
mod faults;
mod files;
mod full;
mod images;
mod ingress;
mod inside;
mod jobs;
mod network;
mod preview;
mod reboot;
mod replicated;
mod replicated_data;
mod rollout;
mod scaling;
mod secrets;
mod snapshots;
mod software;
mod terminal;
mod verbs;
