//! The order of commands: [`raft`] and [`handle`] are the consensus library behind two files, [`messages`] is what it says to other replicas in the
//! project's own encoding, [`propose`] is the leader's queue, and [`timing`] has its timers.

pub(crate) mod handle;
pub(crate) mod messages;
pub(crate) mod propose;
pub(crate) mod raft;
pub(crate) mod timing;
