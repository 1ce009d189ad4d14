//! The replicated log on disk: segments with group commit. [`store`] is its face; [`writer`] is the one thread that writes; [`group`]
//! is the format of what is written at once; [`places`] finds entries again; [`record`] is the format of what is said.

mod group;
mod places;
pub(crate) mod record;
mod segment;
pub(crate) mod store;
mod writer;

pub(crate) use group::Damage;
pub(crate) use record::{Entry, EntryId, Members, Payload, Vote};
pub(crate) use store::{Log, Options};
