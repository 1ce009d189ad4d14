//! How a replica becomes a member: it founds the group with the others, or takes the place of its slot's last replica. [`first`] decides;
//! [`era`] tells the group of before a recovery from the one after it, and [`fence`] keeps them apart.

pub(crate) mod era;
pub(crate) mod fence;
pub(crate) mod first;

pub(crate) use first::{Seen, Step, decide};
