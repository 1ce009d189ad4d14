//! The wanted state of an environment's network, as values: addresses, Services with their backends, and policies. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::manifest::api::Protocol;

/// Addresses of machines, one each.
pub(crate) const MACHINES: Block = Block { address: Ipv4Addr::new(10, 78, 0, 0), bits: 16 };

/// Addresses of Services.
pub(crate) const SERVICES: Block = Block { address: Ipv4Addr::new(10, 77, 0, 0), bits: 16 };

/// The address by which this host talks to machines: the source of probes and of clients on this host.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// The gateway and the name server of every machine.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The port of name servers.
pub(crate) const NAMES: u16 = 53;

/// The first address that a machine gets. Those below are the network's own.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 0);

/// The last address that a machine gets.
const LAST: Ipv4Addr = Ipv4Addr::new(10, 78, 255, 254);

/// The first letter of machines' interfaces.
const TAP: char = 't';

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    /// Its first address.
    pub(crate) address: Ipv4Addr,
    /// The number of bits that all its addresses share.
    pub(crate) bits: u8,
}

impl Block {
    /// The bits that all its addresses share, as a mask.
    pub(crate) fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits.min(32))).unwrap_or(0)
    }

    /// Whether the address is one of them.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & self.mask() == 0
    }
}

/// What is no range of addresses of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoBlock;

impl std::str::FromStr for Block {
    type Err = NoBlock;

    /// Reads `ADDRESS/BITS`; an address alone is one of 32 bits. Bits of the address beyond those are dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| NoBlock)?;
        let bits = bits.parse().ok().filter(|bits| *bits <= 32).ok_or(NoBlock)?;
        let block = Self { address, bits };
        Ok(Self { address: Ipv4Addr::from(u32::from(address) & block.mask()), bits })
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bits {
            32 => write!(f, "{}", self.address),
            bits => write!(f, "{}/{bits}", self.address),
        }
    }
}

/// A range of addresses as numbers: the first and the last one.
pub(crate) type Range = (u32, u32);

impl Block {
    /// Its addresses.
    pub(crate) fn range(self) -> Range {
        let first = u32::from(self.address) & self.mask();
        (first, first | !self.mask())
    }

    /// Its addresses without those of `except`.
    pub(crate) fn without(self, except: &[Self]) -> Vec<Range> {
        let (first, last) = self.range();
        let (mut next, mut left) = (Some(first), Vec::new());
        for (from, to) in Addresses::of(except.iter().map(|block| block.range()).collect()).ranges {
            let Some(start) = next.filter(|start| *start <= last) else { break };
            if start < from {
                left.push((start, last.min(from - 1)));
            }
            next = to.checked_add(1).map(|behind| behind.max(start));
        }
        left.extend(next.filter(|start| *start <= last).map(|start| (start, last)));
        left
    }
}

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Addresses {
    /// In order; between each two is an address that is not in the set.
    ranges: Vec<Range>,
}

impl Addresses {
    /// The addresses of these ranges, which may overlap.
    pub(crate) fn of(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// Its ranges, in order; between each two is an address that is not in the set.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether the address is in it.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        let number = u32::from(address);
        let behind = self.ranges.partition_point(|(first, _)| *first <= number);
        behind.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    /// Whether every address is in it.
    pub(crate) fn is_everything(&self) -> bool {
        self.ranges == [(0, u32::MAX)]
    }
}

/// What the network of one environment is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The machines that are there.
    pub(crate) machines: BTreeSet<Ipv4Addr>,
    /// The ports of Services, in the order of their names.
    pub(crate) services: Vec<WantedService>,
    /// What is kept from machines, and machines from.
    pub(crate) policies: Vec<Policy>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedService {
    /// The Service's address.
    pub(crate) address: Ipv4Addr,
    /// The transport.
    pub(crate) protocol: Protocol,
    /// The port.
    pub(crate) port: u16,
    /// Whether a client's connections go to the same machine as long as that serves.
    pub(crate) has_affinity: bool,
    /// Ports of the machines that serve.
    pub(crate) backends: Vec<SocketAddrV4>,
}

/// What some machines may be reached by, and what they may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The machines.
    pub(crate) machines: Vec<Ipv4Addr>,
    /// What reaches them; everything without a list.
    pub(crate) ingress: Option<Vec<Allow>>,
    /// What they reach; everything without a list.
    pub(crate) egress: Option<Vec<Allow>>,
}

/// What a policy allows: connections with these peers on these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allow {
    /// The other sides.
    pub(crate) peers: Addresses,
    /// The ports; all protocols and ports without a list.
    pub(crate) ports: Option<Vec<Ports>>,
}

impl Allow {
    /// Whether it allows a flow with that peer, to that port.
    fn allows(&self, peer: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        let fits = |ports: &Ports| {
            let (first, last) = ports.range;
            ports.protocol == protocol && (first..=last).contains(&port)
        };
        self.peers.contains(peer) && self.ports.as_ref().is_none_or(|ports| ports.iter().any(fits))
    }
}

/// What policies say of flows between machines, and from machines to outside.
#[derive(Debug, Default)]
pub(crate) struct Judge<'w> {
    ingress: BTreeMap<Ipv4Addr, Vec<&'w [Allow]>>,
    egress: BTreeMap<Ipv4Addr, Vec<&'w [Allow]>>,
}

impl<'w> Judge<'w> {
    /// By these policies.
    pub(crate) fn of(policies: &'w [Policy]) -> Self {
        let mut judge = Self::default();
        for policy in policies {
            for machine in &policy.machines {
                if let Some(ingress) = &policy.ingress {
                    judge.ingress.entry(*machine).or_default().push(ingress);
                }
                if let Some(egress) = &policy.egress {
                    judge.egress.entry(*machine).or_default().push(egress);
                }
            }
        }
        judge
    }

    /// Whether both sides allow a flow of a machine, as the rules of the network see it: what does not pass through the
    /// network (the host's own flows, and those to the network's own addresses) and what a machine sends to itself is
    /// allowed.
    pub(crate) fn allows(&self, from: Ipv4Addr, to: SocketAddrV4, protocol: Protocol) -> bool {
        let is_forwarded = MACHINES.contains(from) && from != NODE && ![NODE, GATEWAY].contains(to.ip());
        if !is_forwarded || from == *to.ip() {
            return true;
        }
        let all = |lists: Option<&Vec<&[Allow]>>, peer: Ipv4Addr| {
            lists
                .into_iter()
                .flatten()
                .all(|list| list.iter().any(|allow| allow.allows(peer, protocol, to.port())))
        };
        all(self.egress.get(&from), *to.ip()) && all(self.ingress.get(to.ip()), from)
    }
}

/// Ports of one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// The transport.
    pub(crate) protocol: Protocol,
    /// The first port, and the last one.
    pub(crate) range: (u16, u16),
}

/// The name of a machine's interface in the environment's network.
pub(crate) fn tap(machine: Ipv4Addr) -> String {
    format!("{TAP}{:08x}", u32::from(machine))
}

/// The beginning of all machines' interfaces, which no other interface has: the first byte of their range is in it.
pub(crate) fn tap_prefix() -> String {
    let [first, ..] = MACHINES.address.octets();
    format!("{TAP}{first:02x}")
}

/// The hardware address of a machine.
pub(crate) fn hardware_address(machine: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = machine.octets();
    [2, 0, a, b, c, d]
}

/// The lowest address that is not in `taken`.
pub(crate) fn free_address(taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    (u32::from(FIRST)..=u32::from(LAST)).map(Ipv4Addr::from).find(|address| {
        // Neither looks like an address of a whole network.
        !matches!(address.octets()[3], 0 | 255) && !taken.contains(address)
    })
}

/// A Service's address in the network, by its address on this host: the same last bytes.
pub(crate) fn service_address(host: Ipv4Addr) -> Ipv4Addr {
    let ([a, b, ..], [.., c, d]) = (SERVICES.address.octets(), host.octets());
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_addresses_and_no_others() {
        assert!(MACHINES.contains(NODE) && MACHINES.contains(LAST) && !MACHINES.contains(GATEWAY));
        let all = Block { address: Ipv4Addr::UNSPECIFIED, bits: 0 };
        let one = Block { address: NODE, bits: 32 };
        assert!(all.contains(GATEWAY) && one.contains(NODE) && !one.contains(FIRST));
        assert_eq!("10.78.9.9/16".parse(), Ok(MACHINES));
        assert_eq!("0.0.0.0/0".parse(), Ok(all));
        assert_eq!("10.78.0.1".parse(), Ok(one));
        for text in ["fd00::/8", "10.0.0.0/x", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", ""] {
            assert_eq!(text.parse::<Block>(), Err(NoBlock), "{text}");
        }
        assert_eq!((all.mask(), one.mask(), MACHINES.mask()), (0, u32::MAX, 0xffff_0000));
        assert_eq!(
            (MACHINES.to_string(), one.to_string()),
            ("10.78.0.0/16".to_owned(), "10.78.0.1".to_owned())
        );
    }

    #[test]
    fn ranges_are_merged_and_what_is_excepted_is_not_in_them() {
        let block = |text: &str| text.parse::<Block>().unwrap();
        let ranges = |texts: &[&str]| Addresses::of(texts.iter().map(|text| block(text).range()).collect());
        assert_eq!(ranges(&["10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.2"]).ranges().len(), 1);
        assert_eq!(ranges(&["10.0.0.0/8", "10.1.0.0/16", "12.0.0.0/8"]).ranges().len(), 2);
        assert!(ranges(&["0.0.0.0/1", "128.0.0.0/1"]).is_everything() && ranges(&[]).ranges().is_empty());
        let without = |whole: &str, except: &[&str]| {
            let except: Vec<Block> = except.iter().map(|text| block(text)).collect();
            block(whole).without(&except)
        };
        let number = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
        assert_eq!(
            without("10.0.0.0/8", &["10.1.0.0/16", "10.0.0.0/16", "11.0.0.0/8"]),
            [(number("10.2.0.0"), number("10.255.255.255"))]
        );
        assert_eq!(
            without("10.0.0.0/30", &["10.0.0.1"]),
            [(number("10.0.0.0"), number("10.0.0.0")), (number("10.0.0.2"), number("10.0.0.3"))]
        );
        assert_eq!(without("10.0.0.0/16", &["10.0.0.0/8"]), []);
        assert_eq!(without("0.0.0.0/0", &["128.0.0.0/1"]), [(0, number("127.255.255.255"))]);
        assert_eq!(without("0.0.0.0/0", &[]), [(0, u32::MAX)]);
    }

    #[test]
    fn a_flow_is_allowed_where_both_sides_allow_it() {
        let machine = |last| Ipv4Addr::new(10, 78, 1, last);
        let (a, b, c) = (machine(1), machine(2), machine(3));
        let of = |address| Addresses::of(vec![Block { address, bits: 32 }.range()]);
        let udp = |first, last| Some(vec![Ports { protocol: Protocol::Udp, range: (first, last) }]);
        let policies = [
            Policy {
                machines: vec![a, c],
                ingress: Some(vec![Allow { peers: of(b), ports: udp(50, 60) }]),
                egress: None,
            },
            Policy {
                machines: vec![b],
                ingress: None,
                egress: Some(vec![Allow { peers: of(a), ports: None }]),
            },
        ];
        let judge = Judge::of(&policies);
        let allows = |from, to, port| judge.allows(from, SocketAddrV4::new(to, port), Protocol::Udp);
        assert!(allows(b, a, 50) && allows(b, a, 60) && !allows(b, a, 61) && !allows(b, a, 49));
        assert!(!judge.allows(b, SocketAddrV4::new(a, 53), Protocol::Tcp));
        // b may send to c as little as c takes it from others; what is not selected is not restricted.
        assert!(!allows(b, c, 53) && !allows(a, c, 53) && allows(a, b, 9) && allows(c, b, 9));
        let outside = Ipv4Addr::new(1, 1, 1, 1);
        assert!(allows(a, outside, 53) && !allows(b, outside, 53));
        // A machine with itself, the host, and the name server.
        assert!(allows(c, c, 9) && allows(NODE, a, 9) && allows(outside, a, 9) && allows(b, GATEWAY, NAMES));
        assert!(Judge::of(&[]).allows(b, SocketAddrV4::new(c, 1), Protocol::Udp));
    }

    #[test]
    fn an_address_is_in_the_range_that_has_it() {
        let block = |text: &str| text.parse::<Block>().unwrap();
        let set = Addresses::of(
            ["10.0.0.0/30", "10.0.1.1", "255.255.255.255"].map(|text| block(text).range()).into(),
        );
        for (address, is_in) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.0.3", true),
            ("10.0.0.4", false),
            ("10.0.1.1", true),
            ("10.0.1.2", false),
            ("255.255.255.255", true),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!Addresses::default().contains(NODE));
    }

    #[test]
    fn the_lowest_free_address_is_given() {
        let mut taken = BTreeSet::new();
        for expected in 1..=300_u32 {
            let address = free_address(&taken).unwrap();
            taken.insert(address);
            if expected <= 254 {
                assert_eq!(u32::from(address), u32::from(FIRST) + expected);
            }
        }
        assert!(
            !taken.contains(&Ipv4Addr::new(10, 78, 1, 255)) && taken.contains(&Ipv4Addr::new(10, 78, 2, 1))
        );
        taken.remove(&Ipv4Addr::new(10, 78, 1, 7));
        assert_eq!(free_address(&taken), Some(Ipv4Addr::new(10, 78, 1, 7)));
        let all = (u32::from(FIRST)..=u32::from(LAST)).map(Ipv4Addr::from).collect();
        assert_eq!(free_address(&all), None);
    }

    #[test]
    fn interfaces_are_named_after_addresses() {
        let machine = Ipv4Addr::new(10, 78, 1, 7);
        assert_eq!(tap(machine), "t0a4e0107");
        assert!(tap(machine).starts_with(&tap_prefix()) && !"tun0".starts_with(&tap_prefix()));
        assert_eq!(hardware_address(machine), [2, 0, 10, 78, 1, 7]);
        assert_eq!(service_address(Ipv4Addr::new(127, 77, 3, 4)), Ipv4Addr::new(10, 77, 3, 4));
    }
}
