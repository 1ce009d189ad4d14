//! What may be reached: machines reach what this host reaches by its routes, but not what is meant for this host alone
//! (loopback, link-local addresses, metadata services of clouds), nor groups of hosts, nor other machines past the rules
//! of their network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cloud::local::network::wanted::machine_of;

/// Metadata services of clouds that are at no link-local address: over IPv6, and those of two clouds over IPv4. They give
/// the host's credentials to whoever asks.
const METADATA: [IpAddr; 6] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// One of its addresses.
    pub(crate) address: IpAddr,
    /// Number of leading bits that they have in common.
    pub(crate) bits: u8,
}

impl Prefix {
    /// The addresses that start as `address` does, for as many bits.
    pub(crate) const fn new(address: IpAddr, bits: u8) -> Self {
        Self { address, bits }
    }

    /// Whether `address` is one of them.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        let (own, other, width) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let free = width - u32::from(self.bits).min(width);
        (own ^ other).checked_shr(free).unwrap_or(0) == 0
    }
}

/// The addresses of an environment's network.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    /// Sources that are served: the machines.
    pub(crate) machines: Vec<Prefix>,
    /// What is never reached from here: machines and Services of every environment.
    pub(crate) private: Vec<Prefix>,
    /// The network's own address, which ICMP errors come from.
    pub(crate) node: Ipv4Addr,
    /// The same of IPv6.
    pub(crate) node6: Option<Ipv6Addr>,
}

impl Ranges {
    /// Whether packets of `source` are carried.
    pub(crate) fn serves(&self, source: IpAddr) -> bool {
        self.machines.iter().any(|range| range.contains(source))
    }

    /// Whether a machine may reach `destination`.
    pub(crate) fn allows(&self, destination: IpAddr) -> bool {
        let public = match destination {
            IpAddr::V4(address) => public_v4(address),
            IpAddr::V6(address) => {
                public_v6(address) && embedded(address).is_none_or(|address| self.allows(address))
            }
        };
        public
            && !METADATA.contains(&destination)
            && !self.private.iter().any(|range| range.contains(destination))
    }

    /// The address that speaks to `machine` for the network.
    pub(crate) fn node(&self, machine: IpAddr) -> Option<IpAddr> {
        match machine {
            IpAddr::V4(_) => Some(IpAddr::V4(self.node)),
            IpAddr::V6(_) => self.node6.map(IpAddr::V6),
        }
    }
}

/// What a machine's share is counted by: both of its addresses are one.
pub(super) fn share_of(address: IpAddr) -> IpAddr {
    machine_of(address).map_or(address, IpAddr::V4)
}

/// Whether it is the address of a host that is not this one alone: not "this network" (which Linux takes for itself),
/// loopback, link-local, multicast, reserved or broadcast.
fn public_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !(first == 0 || address.is_loopback() || address.is_link_local() || first >= 224)
}

/// The same of IPv6: not unspecified, loopback, link-local, site-local, multicast, nor an IPv4 address in its clothes,
/// which never stands in a packet.
fn public_v6(address: Ipv6Addr) -> bool {
    let start = address.segments()[0];
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || start & 0xff80 == 0xfe80
        || address.to_ipv4().is_some())
}

/// The IPv4 address that a translator or tunnel on the way would take from it: NAT64 (RFC 6052, RFC 8215) or 6to4.
fn embedded(address: Ipv6Addr) -> Option<IpAddr> {
    let v4 =
        |high: u16, low: u16| Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        let range = |text: &str, bits| Prefix::new(text.parse().unwrap(), bits);
        Ranges {
            machines: vec![range("10.78.0.0", 16), range("fd76::", 64)],
            private: vec![
                range("10.78.0.0", 16),
                range("10.77.0.0", 16),
                range("10.80.0.0", 15),
                range("fd76::", 16),
            ],
            node: Ipv4Addr::new(10, 78, 0, 1),
            node6: None,
        }
    }

    #[test]
    fn what_is_meant_for_this_host_alone_is_not_reached() {
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.77.3.4",
            "169.254.169.254",
            "169.254.1.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "10.78.1.0",
            "10.77.3.4",
            "10.81.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
            "::127.0.0.1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd76:1::2",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::1",
            "2002:a4d:1::",
            "64:ff9b::a9fe:1",
        ];
        for address in never {
            assert!(!ranges().allows(address.parse().unwrap()), "{address}");
        }
        let reached = [
            "1.1.1.1",
            "10.79.0.1",
            "10.82.0.1",
            "192.168.1.1",
            "223.255.255.255",
            "2001:db8::1",
            "64:ff9b::808:808",
            "fd77::1",
        ];
        for address in reached {
            assert!(ranges().allows(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn sources_are_the_machines_alone() {
        let ranges = ranges();
        assert!(ranges.serves("10.78.255.1".parse().unwrap()) && ranges.serves("fd76::9".parse().unwrap()));
        assert!(
            !ranges.serves("10.79.0.1".parse().unwrap()) && !ranges.serves("fd76:0:0:1::9".parse().unwrap())
        );
        let all = Prefix::new("0.0.0.0".parse().unwrap(), 0);
        assert!(all.contains("255.1.2.3".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!(Prefix::new("10.0.0.1".parse().unwrap(), 32).contains("10.0.0.1".parse().unwrap()));
    }
}
