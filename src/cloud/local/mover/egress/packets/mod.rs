//! IP packets as bytes: [`parse`] reads one, [`build`] makes answers, [`checksum`] is the sum of both, and
//! [`fragments`] puts the parts of a datagram together. Pure: no socket, no clock.

pub mod build;
pub mod checksum;
pub mod fragments;
pub mod parse;
