//! What the mover is told and what it reports, as values: nothing here refers to a record, a lock or a task.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use super::dns::message::Zone;
use crate::manifest::api::{Name, Protocol};

/// Everything that is to be carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    /// The listeners of Services, and where each leads.
    pub(crate) listeners: BTreeMap<ListenerId, Route>,
    /// The name servers, by environment.
    pub(crate) name_servers: BTreeMap<String, NameServer>,
}

/// A listener of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListenerId {
    /// The environment.
    pub(crate) environment: String,
    /// The Service.
    pub(crate) service: Name,
    /// The port in the Service's list. The listener may be bound to another one.
    pub(crate) port: u16,
    /// The transport.
    pub(crate) protocol: Protocol,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        write!(f, "{protocol} port {} of the Service {} of {}", self.port, self.service, self.environment)
    }
}

/// Where a listener listens, and where its connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The address on this host.
    pub(crate) host: Ipv4Addr,
    /// Ports of healthy machines.
    pub(crate) backends: Vec<Backend>,
}

/// A port of a healthy machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    /// The machine that connections are counted for.
    pub(crate) machine: String,
    /// Where its port is reached.
    pub(crate) address: SocketAddr,
}

/// The name server of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameServer {
    /// The address on this host.
    pub(crate) address: Ipv4Addr,
    /// The names that it answers itself.
    pub(crate) zone: Zone,
}

/// What is carried now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The port that each listener is bound to; one that could not be bound is missing.
    pub(crate) bound: BTreeMap<ListenerId, u16>,
    /// The number of connections and UDP sessions of each machine, over all listeners; machines without any may be
    /// missing.
    pub(crate) connections: BTreeMap<String, u32>,
    /// The name servers that answer, by environment.
    pub(crate) name_servers: BTreeMap<String, Ipv4Addr>,
    /// What `status` warns of, by environment.
    pub(crate) warnings: BTreeMap<String, Vec<String>>,
}
