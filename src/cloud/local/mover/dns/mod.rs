//! Name servers: one for each environment, on a loopback address that its machines reach.
//!
//! A server answers for `cluster.local`, and for reverse names of an environment's network, as a cluster's DNS does, and
//! relays every other question to the name servers of this host. It is asked over UDP and over TCP, as [RFC 7766] wants it of every
//! server.
//!
//! [RFC 7766]: https://www.rfc-editor.org/rfc/rfc7766

mod alias;
mod format;
mod framing;
pub mod message;
mod relay;
mod servers;
pub(crate) mod zone;

pub(super) use self::servers::Dns;
use self::zone::DOMAIN;
use crate::manifest::api::Name;

/// The port of name servers.
const PORT: u16 = 53;

/// The full name of a Service.
pub(crate) fn service_name(service: &Name) -> String {
    format!("{}.{}.svc.{}", service.name, service.namespace, DOMAIN)
}
