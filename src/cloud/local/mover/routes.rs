//! What the front door is told and what it reports, as values: nothing here refers to a record, a socket or a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use super::dns::message::Zone;
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{Listener, Traffic};

/// Everything that is to be carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Routes {
    /// The listeners of Services, and where each leads.
    #[serde(with = "pairs")]
    pub(crate) listeners: BTreeMap<ListenerId, Route>,
    /// The name servers, by environment.
    pub(crate) name_servers: BTreeMap<String, NameServer>,
}

impl Routes {
    /// Whether there is nothing to carry.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.name_servers.is_empty()
    }
}

/// A listener of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

impl ListenerId {
    /// The listener of a Service of an environment.
    pub(crate) fn of(environment: &str, service: &Name, listener: &Listener) -> Self {
        Self {
            environment: environment.to_owned(),
            service: service.clone(),
            port: listener.port,
            protocol: listener.protocol,
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// The address on this host.
    pub(crate) host: Ipv4Addr,
    /// Ports of healthy machines.
    pub(crate) backends: Vec<Backend>,
    /// Where its connections go in the environment's own network, which chooses the machine itself where there are no
    /// backends here.
    #[serde(default)]
    pub(crate) inside: Option<SocketAddr>,
    /// Ranges of clients; everybody when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) source_ranges: Vec<String>,
    /// How long a client that does not come again stays with its machine; `None`: clients do not stay. With it the machine is
    /// chosen here also where there is an address inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) affinity_seconds: Option<Seconds>,
}

impl Route {
    /// A route without backends, for everybody.
    pub(crate) fn new(host: Ipv4Addr) -> Self {
        Self { host, backends: Vec::new(), inside: None, source_ranges: Vec::new(), affinity_seconds: None }
    }
}

/// A port of a healthy machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backend {
    /// The machine that connections are counted for.
    pub(crate) machine: String,
    /// Where its port is reached.
    pub(crate) address: SocketAddr,
}

/// The name server of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameServer {
    /// The address on this host.
    pub(crate) address: Ipv4Addr,
    /// The names that it answers itself.
    pub(crate) zone: Zone,
    /// Whether it answers in the environment's own network instead of at the address.
    #[serde(default)]
    pub(crate) inside: bool,
}

/// What is carried now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The port that each listener is bound to; one that could not be bound is missing.
    #[serde(with = "pairs")]
    pub(crate) bound: BTreeMap<ListenerId, u16>,
    /// The number of connections and UDP sessions of each machine, over all listeners; machines without any may be
    /// missing.
    pub(crate) connections: BTreeMap<String, u32>,
    /// The name servers that answer, by environment.
    pub(crate) name_servers: BTreeMap<String, Ipv4Addr>,
    /// Environments whose own network is known, and in which a process carries.
    #[serde(default)]
    pub(crate) networks: BTreeSet<String>,
    /// What `status` warns of, by environment.
    pub(crate) warnings: BTreeMap<String, Vec<String>>,
}

/// What was counted at each listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted(#[serde(with = "pairs")] pub(crate) BTreeMap<ListenerId, Traffic>);

/// Maps whose keys are no texts, in JSON: lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_and_reports_are_the_same_after_a_way_through_json() {
        let service = Name { namespace: "default".into(), name: "web".into() };
        let id = ListenerId { environment: "local".into(), service, port: 80, protocol: Protocol::Udp };
        let backend = Backend { machine: "web-1".into(), address: "127.0.0.1:4000".parse().unwrap() };
        let host = Ipv4Addr::new(127, 77, 1, 2);
        let server = NameServer { address: host, zone: Zone::from([("web".into(), host)]), inside: true };
        let routes = Routes {
            listeners: BTreeMap::from([(
                id.clone(),
                Route {
                    source_ranges: vec!["10.0.0.0/8".into()],
                    affinity_seconds: Some(Seconds(9)),
                    backends: vec![backend],
                    ..Route::new(host)
                },
            )]),
            name_servers: BTreeMap::from([("local".into(), server)]),
        };
        let text = serde_json::to_string(&routes).unwrap();
        assert_eq!(serde_json::from_str::<Routes>(&text).unwrap(), routes);
        let report = Report { bound: BTreeMap::from([(id, 8080)]), ..Report::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
