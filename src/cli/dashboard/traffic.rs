//! The traffic of a Service as the page shows it: the counters of its ports, and how long connecting takes. The page makes
//! rates of two looks.

use serde::Serialize;

use crate::plan::fleet::{Listener, LoadBalancer, Traffic};

/// What was counted at a port of a Service since it was bound.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortTraffic {
    port: String,
    connections: u64,
    open: u64,
    received_bytes: u64,
    sent_bytes: u64,
    errors: u64,
    /// The time that 99 of 100 connections to machines took at most, in microseconds.
    p99_micros: Option<u64>,
}

/// The traffic of a balancer's ports, where it is counted.
pub(super) fn of(balancer: &LoadBalancer) -> Vec<PortTraffic> {
    let counted = balancer.spec.listeners.iter().zip(&balancer.traffic);
    counted.filter_map(|(listener, traffic)| Some(port(listener, traffic.as_ref()?))).collect()
}

fn port(listener: &Listener, traffic: &Traffic) -> PortTraffic {
    PortTraffic {
        port: format!("{}/{}", listener.port, listener.protocol.word()),
        connections: traffic.connections,
        open: traffic.open,
        received_bytes: traffic.received_bytes,
        sent_bytes: traffic.sent_bytes,
        errors: traffic.errors,
        p99_micros: within(traffic, 99),
    }
}

/// The bound of the bucket that the slowest of so many hundredths of all connections is in. Nothing without connections,
/// and where that bucket has no bound.
fn within(traffic: &Traffic, hundredths: u64) -> Option<u64> {
    let all: u64 = traffic.connect.iter().map(|bucket| bucket.count).sum();
    let wanted = (u128::from(all) * u128::from(hundredths)).div_ceil(100);
    let mut below = 0;
    let found = traffic.connect.iter().find(|bucket| {
        below += u128::from(bucket.count);
        wanted > 0 && below >= wanted
    });
    found.and_then(|bucket| bucket.up_to_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::Bucket;

    #[test]
    fn shares_of_a_histogram_are_bounds_of_its_buckets() {
        let of = |counts: [u64; 3]| {
            let bounds = [Some(50), Some(1000), None];
            let connect = bounds.into_iter().zip(counts);
            let connect = connect.map(|(up_to_micros, count)| Bucket { up_to_micros, count });
            let traffic = Traffic { connect: connect.collect(), ..Traffic::default() };
            (within(&traffic, 50), within(&traffic, 99))
        };
        assert_eq!(of([0, 0, 0]), (None, None));
        assert_eq!(of([99, 1, 0]), (Some(50), Some(50)));
        assert_eq!(of([98, 2, 0]), (Some(50), Some(1000)));
        assert_eq!(of([1, 0, 1]), (Some(50), None));
        assert_eq!(of([0, 1, 0]), (Some(1000), Some(1000)));
    }
}
