//! The HTTP proxy: what an Ingress becomes on this host.
//!
//! It is two processes beside the local cloud's own ([`process`]). The *carrier* serves requests ([`server`]); the
//! *guardian* holds a copy of each of its sockets and of what it serves, and starts another carrier when it ends. Neither
//! needs the local cloud to go on. The local cloud gives the carrier a value, [`Wanted`], over a socket in its folder
//! ([`control`]), and gets a [`wanted::Report`].
//!
//! HTTP is parsed by hyper, TLS is rustls'. [`routing`] is pure.

mod backend;
mod connection;
pub(crate) mod control;
mod forward;
pub(crate) mod handle;
mod link;
pub(crate) mod process;
pub mod routing;
mod server;
mod tls;
mod wanted;

#[cfg(test)]
mod tests;

pub(crate) use self::handle::Proxy;
pub(crate) use self::tls::{Flaw, examine};
pub(crate) use self::wanted::{Certificate, Front, Pool, PrivateKey, ServerAddress, Wanted};
