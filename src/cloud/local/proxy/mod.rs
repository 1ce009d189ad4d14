//! The HTTP proxy: what an Ingress becomes on this host, and a port of a Service that ends TLS.
//!
//! It is two processes beside the local cloud's own ([`process`]). The *carrier* ([`carrier`]) serves requests ([`server`]);
//! the *guardian* ([`guardian`]) holds a copy of each of its sockets and of what it serves, and starts another carrier when
//! it ends. Neither needs the local cloud to go on. The local cloud gives the carrier a value, [`Wanted`], over a socket in its folder
//! ([`control`]), and gets a [`wanted::Report`].
//!
//! HTTP is parsed by hyper, TLS is rustls'. [`routing`] is pure. Connections of a port of a Service are passed on by [`termination`].

mod backend;
pub(crate) mod carrier;
mod connection;
pub(crate) mod control;
mod forward;
pub(crate) mod guardian;
pub(crate) mod handle;
mod link;
mod outgoing;
mod port_tally;
mod ports;
mod process;
pub mod routing;
mod server;
mod streams;
mod tally;
mod termination;
mod tls;
mod wanted;

#[cfg(test)]
mod tests;

pub(crate) use self::handle::Proxy;
pub(crate) use self::tls::{Flaw, examine, lifetime};
pub(crate) use self::wanted::{
    Bound, Certificate, Challenge, Front, Pool, PrivateKey, Proof, ServerAddress, TlsPort, Wanted,
};
