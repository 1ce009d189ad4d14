//! What machines of a group may be reached by, and what they may reach.

use serde::{Deserialize, Serialize};

use crate::manifest::api::{Name, Protocol};

/// The network policies of a group, as one. What is not restricted is `None`; an empty list allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPolicy {
    /// What reaches its machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Reachable>>,
    /// What its machines reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Reachable>>,
}

/// Connections that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reachable {
    /// The other sides; nobody when empty.
    pub peers: Vec<Peer>,
    /// The ports; all when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PolicyPorts>>,
}

/// The other side of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Whoever it is.
    Everybody,
    /// The machines of a group.
    Group(Name),
    /// A range of addresses.
    Block {
        /// The range.
        cidr: String,
        /// Ranges in it that are not meant.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
}

/// Ports of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPorts {
    /// The transport.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}
