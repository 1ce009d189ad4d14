//! A machine's place on the network: where its ports are reached, and which were requested.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use tokio::net::TcpStream;

use super::own::Network;
use crate::manifest::api::Protocol;
use crate::plan::fleet::Endpoint;

/// A port of a guest.
pub(crate) type GuestPort = (u16, Protocol);

/// A port of a guest and the address at which this host reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The port in the guest.
    pub(crate) port: u16,
    /// Its transport.
    pub(crate) protocol: Protocol,
    /// Where it is reached.
    pub(crate) address: SocketAddr,
}

/// Where a port of a machine is reached.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// From this host.
    Host(SocketAddr),
    /// In the environment's network.
    Inside(Arc<Network>, SocketAddrV4),
}

impl Reach {
    /// The address, here or in the network.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Host(address) => *address,
            Self::Inside(_, address) => (*address).into(),
        }
    }

    /// Connects to it: a TCP port.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        match self {
            Self::Host(address) => TcpStream::connect(address).await,
            Self::Inside(network, address) => network.connect(*address).await,
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(address) => write!(f, "{address}"),
            Self::Inside(_, address) => write!(f, "{address}"),
        }
    }
}

/// A machine's place in the environment's network.
#[derive(Debug)]
struct Place {
    network: Arc<Network>,
    address: Ipv4Addr,
    /// The ports that are shown.
    ports: Vec<GuestPort>,
}

/// A machine on the network. Nothing is known of one that was just started or adopted, until [`discover`] reports.
///
/// [`discover`]: super::discover
#[derive(Debug, Default)]
pub(crate) struct Attachment {
    /// Its place in the environment's network. It has no forwards then.
    inside: Option<Place>,
    forwards: Vec<Forward>,
    requested: BTreeSet<GuestPort>,
}

impl Attachment {
    /// A machine that has this address in the environment's network.
    pub(crate) fn inside(network: Arc<Network>, address: Ipv4Addr, ports: Vec<GuestPort>) -> Self {
        Self { inside: Some(Place { network, address, ports }), ..Self::default() }
    }

    /// Whether it has an address in the environment's network.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside.is_some()
    }

    /// Where a port is reached.
    pub(crate) fn reach(&self, port: u16, protocol: Protocol) -> Option<Reach> {
        if let Some(Place { network, address, .. }) = &self.inside {
            return Some(Reach::Inside(Arc::clone(network), SocketAddrV4::new(*address, port)));
        }
        self.address(port, protocol).map(Reach::Host)
    }

    /// Where a port is reached from this host, without the environment's network.
    pub(crate) fn address(&self, port: u16, protocol: Protocol) -> Option<SocketAddr> {
        let found = self.forwards.iter().find(|forward| (forward.port, forward.protocol) == (port, protocol));
        found.map(|forward| forward.address)
    }

    /// Where all ports are reached, as the fleet shows it.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        if let Some(Place { address, ports, .. }) = &self.inside {
            let endpoint = |(port, protocol): &GuestPort| Endpoint {
                port: *port,
                protocol: *protocol,
                address: SocketAddrV4::new(*address, *port).to_string(),
            };
            return ports.iter().map(endpoint).collect();
        }
        let endpoint = |forward: &Forward| Endpoint {
            port: forward.port,
            protocol: forward.protocol,
            address: forward.address.to_string(),
        };
        self.forwards.iter().map(endpoint).collect()
    }

    /// Ports out of `wanted` that are not reached and were not requested: those of a balancer that is younger than the
    /// machine. None as long as nothing is known.
    pub(crate) fn missing(&self, wanted: Vec<GuestPort>) -> Vec<GuestPort> {
        if self.forwards.is_empty() {
            return Vec::new();
        }
        let is_missing =
            |port: &GuestPort| self.address(port.0, port.1).is_none() && !self.requested.contains(port);
        wanted.into_iter().filter(is_missing).collect()
    }

    /// Records a request for a port. False when there was one already.
    pub(crate) fn request(&mut self, port: GuestPort) -> bool {
        self.requested.insert(port)
    }

    /// The answer to a request. A port that is not reached after all can be requested again.
    pub(crate) fn answered(&mut self, port: GuestPort, forwards: Vec<Forward>) {
        self.requested.remove(&port);
        self.forwards = forwards;
    }

    /// Replaces what is known.
    pub(crate) fn set(&mut self, forwards: Vec<Forward>) {
        self.forwards = forwards;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_requested_once_and_again_when_it_did_not_come() {
        let forward = |port| Forward {
            port,
            protocol: Protocol::Tcp,
            address: SocketAddr::from(([127, 0, 0, 1], 40_000 + port)),
        };
        let wanted = || vec![(80, Protocol::Tcp), (81, Protocol::Tcp)];
        let mut attachment = Attachment::default();
        assert_eq!(attachment.missing(wanted()), [], "nothing is known yet");
        attachment.set(vec![forward(80)]);
        assert_eq!(attachment.missing(wanted()), [(81, Protocol::Tcp)]);
        assert!(attachment.request((81, Protocol::Tcp)) && !attachment.request((81, Protocol::Tcp)));
        assert_eq!(attachment.missing(wanted()), []);
        attachment.answered((81, Protocol::Tcp), vec![forward(80)]);
        assert_eq!(attachment.missing(wanted()), [(81, Protocol::Tcp)]);
        attachment.answered((81, Protocol::Tcp), vec![forward(80), forward(81)]);
        assert_eq!(attachment.missing(wanted()), []);
        assert_eq!(attachment.address(81, Protocol::Tcp), Some(forward(81).address));
    }
}
