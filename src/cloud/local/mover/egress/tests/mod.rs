//! Egress with real packets: an environment's network namespace, a machine's, and one that stands for this host's.

pub(in crate::cloud::local::mover) mod bed;
mod hostile;
mod limits;
mod packets;
mod successor;
mod traffic;
