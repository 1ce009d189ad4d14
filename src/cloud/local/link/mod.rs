//! The link to a guest: its control channel, its containers' journals, its console and its status.
//!
//! Whatever a guest sends is bounded here. What follows from it is decided elsewhere.

pub(crate) mod channel;
pub(crate) mod console;
pub(crate) mod guest;
pub(crate) mod identity;
pub(crate) mod journal;
mod log_cursor;
pub(crate) mod log_reader;
mod log_writer;
pub(crate) mod status_check;
