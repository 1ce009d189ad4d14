//! Traffic of Services and Ingresses as it was counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was counted at a port of a balancer since it was bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Connections that were accepted; sessions of UDP.
    pub connections: u64,
    /// Those that are open now.
    pub open: u64,
    /// Bytes that clients have sent.
    pub received_bytes: u64,
    /// Bytes that machines have sent.
    pub sent_bytes: u64,
    /// Connections that no machine took, or that ended by a reset.
    pub errors: u64,
    /// Clients that may not connect: connections of TCP, datagrams of UDP.
    #[serde(default)]
    pub refused: u64,
    /// Microseconds that connecting to machines took, added up.
    pub connect_micros: u64,
    /// How long connecting to machines took.
    pub connect: Vec<Bucket>,
}

/// A number of connections or requests in a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// The longest time that counts here, in microseconds; none: any time.
    pub up_to_micros: Option<u64>,
    /// Those that took no longer, and longer than the bucket before.
    pub count: u64,
}

/// Classes of statuses, as [`HttpTraffic::codes`] and metrics name them.
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What was counted of an Ingress' requests to one Service since the process that serves them started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpTraffic {
    /// The Service; empty for requests that no rule is about.
    pub service: String,
    /// Requests by the class of their answer's status. Those whose client went before they were answered are in `4xx`.
    pub codes: BTreeMap<String, u64>,
    /// Bytes of requests' bodies, and of clients in tunnels.
    pub received_bytes: u64,
    /// Bytes of answers' bodies, and of machines in tunnels.
    pub sent_bytes: u64,
    /// Microseconds from the end of requests' heads to the end of their answers, added up.
    pub duration_micros: u64,
    /// How long they took.
    pub durations: Vec<Bucket>,
}
