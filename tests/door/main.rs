//! The front door's processes: whatever ends, no connection and no byte is lost. No machine is needed: back ends are
//! threads of the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod door;
#[path = "../support/eventually.rs"]
mod eventually;
mod faithful;
mod kills;
mod network;
#[path = "../support/pace.rs"]
mod pace;
mod traffic;
