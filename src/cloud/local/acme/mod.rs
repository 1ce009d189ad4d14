//! Certificates from a CA by ACME (RFC 8555), for public hosts of Ingresses.
//!
//! The keeper says which hosts have which CA; [`handle`] drives one order at a time, [`order`] carries one out, [`shown`] says what
//! became of it, and [`record`] decides, as pure code, when that is tried. What is known of a host is a file ([`files`]) that is written whole before
//! each step, so that a process that is killed anywhere is gone on with: no order is placed twice, and no failure is
//! forgotten.
//!
//! Requests to the CA are [`http`]'s; nothing of them is done under the keeper's lock. The CA sees the hosts by what the
//! proxy answers for them.

mod files;
mod handle;
mod http;
mod order;
mod record;
mod shown;
#[cfg(test)]
mod tests;

pub(super) use self::handle::{Acme, Parts};
pub(super) use self::http::refusal;
pub(super) use self::record::Want;
pub(super) use self::shown::{Found, too_many};
