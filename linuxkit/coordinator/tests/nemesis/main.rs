//! A group of three coordinators under load, with the faults that a network, a disk, a clock, an operator and an application have:
//! nothing that was acknowledged is lost, nothing is done twice, and every history is linearizable.
//!
//! The group is that of the tests beside this one, `replicas`. `I2KIT_SOAK=1` repeats each fault a hundred times.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../replicas/application.rs"]
mod application;
#[path = "../replicas/checks.rs"]
mod checks;
#[path = "../replicas/client.rs"]
mod client;
#[expect(dead_code, reason = "other tests use more")]
#[path = "../replicas/cluster.rs"]
mod cluster;
mod disk;
#[path = "../../../../tests/support/eventually.rs"]
mod eventually;
mod faults;
#[path = "../replicas/history.rs"]
mod history;
mod net;
mod operator;
mod protocols;
mod resp;
