//! Traffic of Services as it was counted.

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
    /// Microseconds that connecting to machines took, added up.
    pub connect_micros: u64,
    /// How long connecting to machines took.
    pub connect: Vec<Bucket>,
}

/// A number of connections in a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// The longest time that counts here, in microseconds; none: any time.
    pub up_to_micros: Option<u64>,
    /// Those that took no longer, and longer than the bucket before.
    pub connections: u64,
}
