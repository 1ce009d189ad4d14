//! How a replica becomes a member: it founds the group with the others, or takes the place of its slot's last replica.

pub(crate) mod first;

pub(crate) use first::{Seen, Step, decide};
