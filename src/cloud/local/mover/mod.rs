//! The front door: what carries traffic. It listens for Services and answers the machines' questions for names, in
//! processes of its own that go on whatever ends beside them.
//!
//! ```text
//! local cloud: Mover --control socket--> host: carries, answers names <--waits for--> guardian
//!                                          \______ one table of descriptors, one memfd ______/
//! ```
//!
//! Its interface is two values: it is given [`Routes`] as often as they change, and gives a [`Report`]. It knows no
//! group, no health and no record. [`client`] runs in the local cloud's process, [`family`] is the beginning of the
//! others, [`host`] and [`guardian`] are what they become.

mod admission;
mod balance;
mod bind;
mod carrier;
mod carry;
pub(crate) mod client;
pub(crate) mod confine;
mod control;
pub(crate) mod dns;
pub(crate) mod egress;
mod family;
mod guardian;
mod host;
mod inside;
mod listeners;
mod log;
mod member;
mod outside;
mod places;
mod poll;
pub(crate) mod processes;
mod protocol;
mod routes;
mod services;
mod suspects;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub(crate) use self::client::{Given, GivenOutside, Mover};
pub use self::family::run;
pub(crate) use self::routes::{Backend, Counted, ListenerId, NameServer, Report, Route, Routes};
pub(crate) use self::table::CONNECT_BOUNDS;
