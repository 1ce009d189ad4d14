//! Addresses that may connect to a balancer: `loadBalancerSourceRanges` of a Service, and the annotation of an Ingress.

use std::net::IpAddr;

use super::network::wanted::{Addresses, Block};

/// The clients that a balancer takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources(Option<Addresses>);

impl Sources {
    /// Those of these ranges; everybody without any. Balancers of this cloud listen on addresses of IPv4, so that a range of
    /// IPv6 has no client.
    pub(crate) fn of(ranges: &[String]) -> Self {
        let range = |text: &String| text.trim().parse::<Block>().ok().map(Block::range);
        Self((!ranges.is_empty()).then(|| Addresses::of(ranges.iter().filter_map(range).collect())))
    }

    /// Whether some clients are refused.
    pub(crate) fn are_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a client with this address may connect.
    pub(crate) fn admit(&self, client: IpAddr) -> bool {
        let Some(addresses) = &self.0 else { return true };
        addresses.contains(client.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_the_ranges_are_admitted_and_no_others() {
        let admits = |ranges: &[&str], client: &str| {
            let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
            Sources::of(&ranges).admit(client.parse().unwrap())
        };
        assert!(admits(&[], "127.0.0.1") && admits(&[], "fd00::1"));
        let two = ["192.0.2.0/24", "127.0.0.1/32"];
        for (client, expected) in [
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("192.0.1.255", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::ffff:192.0.2.7", true),
            ("fd00::1", false),
        ] {
            assert_eq!(admits(&two, client), expected, "{client}");
        }
        assert!(admits(&["0.0.0.0/0"], "255.255.255.255") && admits(&["0.0.0.0/0"], "0.0.0.0"));
        // Whatever cannot be read, or has no clients here, opens nothing.
        assert!(!admits(&["fd00::/8"], "127.0.0.1") && !admits(&["x"], "127.0.0.1"));
    }
}
