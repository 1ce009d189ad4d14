//! The replicated state machine: what a committed entry does to this replica, whatever orders the entries. [`executor`] is the one task
//! that talks to the application in order; [`tables`] knows what was done before; [`digests`] compares with other replicas;
//! [`waiting`] has the clients of this replica; [`snapshot`] is the format of a state that was captured,
//! [`incoming`] one that comes from another replica; [`stall`] tells when the application stands.

mod connection;
pub(crate) mod digests;
pub(crate) mod executor;
pub(crate) mod incoming;
mod listeners;
pub(crate) mod snapshot;
pub(crate) mod stall;
pub(crate) mod tables;
pub(crate) mod waiting;
