//! The wanted state of an environment's network, as values: addresses, Services with their backends, and policies. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::manifest::api::{IpFamily, Protocol};

/// Addresses of machines, one each.
pub(crate) const MACHINES: Block = Block { address: IpAddr::V4(Ipv4Addr::new(10, 78, 0, 0)), bits: 16 };

/// Addresses of Services.
pub(crate) const SERVICES: Block = Block { address: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 0)), bits: 16 };

/// All addresses of IPv6 of environments' networks, a unique local prefix (RFC 4193): its 40 bits are the letters `i2kit`. They
/// are not chosen at random, since these networks are never joined to others: each environment has the same ones.
pub(crate) const UNIQUE_LOCAL: Block =
    Block { address: IpAddr::V6(Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0, 0, 0, 0, 0)), bits: 48 };

/// Addresses of machines over IPv6, one each.
pub(crate) const MACHINES6: Block =
    Block { address: IpAddr::V6(Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0x78, 0, 0, 0, 0)), bits: 64 };

/// Addresses of Services over IPv6.
pub(crate) const SERVICES6: Block =
    Block { address: IpAddr::V6(Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0x77, 0, 0, 0, 0)), bits: 64 };

/// The address by which this host talks to machines: the source of probes and of clients on this host.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// The same over IPv6.
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0x78, 0, 0, 0, 1);

/// The gateway and the name server of every machine.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The gateway over IPv6. No interface has it: machines know its hardware address, so that nobody asks for neighbours.
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The hardware address of the gateway, on every machine's link.
pub(crate) const GATEWAY_HARDWARE: [u8; 6] = [0xee; 6];

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
    pub(crate) address: IpAddr,
    /// The number of bits that all its addresses share.
    pub(crate) bits: u8,
}

/// The number of bits of addresses.
fn width(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 32,
        IpFamily::V6 => 128,
    }
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of that number; for one that is too large the last one.
fn address_of(family: IpFamily, number: u128) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address behind another one; none behind the last one.
pub(crate) fn behind(address: IpAddr) -> Option<IpAddr> {
    let family = IpFamily::of(address);
    let is_last = number(address) == number(everything(family).1);
    (!is_last).then(|| address_of(family, number(address) + 1))
}

/// All addresses.
pub(crate) fn everything(family: IpFamily) -> Range {
    (address_of(family, 0), address_of(family, u128::MAX))
}

impl Block {
    /// All addresses.
    pub(crate) fn everything(family: IpFamily) -> Self {
        Self { address: everything(family).0, bits: 0 }
    }

    /// One address.
    pub(crate) fn one(address: IpAddr) -> Self {
        Self { address, bits: width(IpFamily::of(address)) }
    }

    /// The family of its addresses.
    pub(crate) fn family(self) -> IpFamily {
        IpFamily::of(self.address)
    }

    /// The bits that its addresses do not share.
    fn free(self) -> u128 {
        let width = width(self.family());
        let free = u32::from(width.saturating_sub(self.bits));
        1_u128.checked_shl(free).map_or(u128::MAX, |behind| behind - 1)
    }

    /// The bits that all its addresses share, as a mask.
    pub(crate) fn mask(self) -> IpAddr {
        let all = number(everything(self.family()).1);
        address_of(self.family(), all & !self.free())
    }

    /// Whether the address is one of them.
    pub(crate) fn contains(self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        let (first, last) = self.range();
        IpFamily::of(address) == self.family() && first <= address && address <= last
    }
}

/// What is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoBlock;

impl std::str::FromStr for Block {
    type Err = NoBlock;

    /// Reads `ADDRESS/BITS`; an address alone is a range of one. Bits of the address beyond those are dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| NoBlock)?;
        let width = width(IpFamily::of(address));
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= width).ok_or(NoBlock)?,
            None => width,
        };
        Ok(Self { address: Self { address, bits }.range().0, bits })
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.bits == width(self.family()) {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A range of addresses of one family: the first and the last one.
pub(crate) type Range = (IpAddr, IpAddr);

impl Block {
    /// Its addresses.
    pub(crate) fn range(self) -> Range {
        let first = number(self.address) & !self.free();
        (address_of(self.family(), first), address_of(self.family(), first | self.free()))
    }

    /// Its addresses without those of `except`.
    pub(crate) fn without(self, except: &[Self]) -> Vec<Range> {
        let family = self.family();
        let (first, last) = self.range();
        let (mut next, mut left) = (Some(first), Vec::new());
        let except = Addresses::of(except.iter().map(|block| block.range()).collect());
        for (from, to) in except.ranges(family) {
            let Some(start) = next.filter(|start| *start <= last) else { break };
            if start < from {
                left.push((start, last.min(address_of(family, number(from) - 1))));
            }
            next = behind(to).map(|behind| behind.max(start));
        }
        left.extend(next.filter(|start| *start <= last).map(|start| (start, last)));
        left
    }
}

/// A set of addresses, of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Addresses {
    /// In order, those of IPv4 first; between each two is an address that is not in the set.
    ranges: Vec<Range>,
}

impl Addresses {
    /// The addresses of these ranges, which may overlap.
    pub(crate) fn of(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= *end || behind(*end) == Some(first) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// Its ranges of a family, in order; between each two is an address that is not in the set.
    pub(crate) fn ranges(&self, family: IpFamily) -> impl Iterator<Item = Range> {
        self.ranges.iter().copied().filter(move |(first, _)| IpFamily::of(*first) == family)
    }

    /// Whether the address is in it.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        // Those of IPv4 are in order before those of IPv6.
        let behind = self.ranges.partition_point(|(first, _)| *first <= address);
        behind.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| address <= *last)
    }

    /// Whether an address of the family is in it.
    pub(crate) fn has_any(&self, family: IpFamily) -> bool {
        self.ranges(family).next().is_some()
    }

    /// Whether every address of the family is in it.
    pub(crate) fn is_everything(&self, family: IpFamily) -> bool {
        self.ranges(family).eq([everything(family)])
    }
}

/// What the network of one environment is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The machines that are there, with their addresses of IPv6 where they have one.
    pub(crate) machines: BTreeMap<Ipv4Addr, Option<Ipv6Addr>>,
    /// The ports of Services, in the order of their names.
    pub(crate) services: Vec<WantedService>,
    /// What is kept from machines, and machines from.
    pub(crate) policies: Vec<Policy>,
}

/// A port of a Service at one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedService {
    /// The Service's address.
    pub(crate) address: IpAddr,
    /// The transport.
    pub(crate) protocol: Protocol,
    /// The port.
    pub(crate) port: u16,
    /// Whether a client's connections go to the same machine as long as that serves.
    pub(crate) has_affinity: bool,
    /// Ports of the machines that serve, of the same family.
    pub(crate) backends: Vec<SocketAddr>,
}

/// What some machines may be reached by, and what they may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// All addresses of the machines.
    pub(crate) machines: Vec<IpAddr>,
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
    fn allows(&self, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
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
    ingress: BTreeMap<IpAddr, Vec<&'w [Allow]>>,
    egress: BTreeMap<IpAddr, Vec<&'w [Allow]>>,
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
    pub(crate) fn allows(&self, from: IpAddr, to: SocketAddr, protocol: Protocol) -> bool {
        let own = [IpAddr::V4(NODE), IpAddr::V6(NODE6), IpAddr::V4(GATEWAY)];
        let is_machine = MACHINES.contains(from) || MACHINES6.contains(from);
        let is_forwarded = is_machine && !own.contains(&from) && !own.contains(&to.ip());
        if !is_forwarded || from == to.ip() {
            return true;
        }
        let all = |lists: Option<&Vec<&[Allow]>>, peer: IpAddr| {
            lists
                .into_iter()
                .flatten()
                .all(|list| list.iter().any(|allow| allow.allows(peer, protocol, to.port())))
        };
        all(self.egress.get(&from), to.ip()) && all(self.ingress.get(&to.ip()), from)
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
    let [first, ..] = NODE.octets();
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
pub(crate) fn service_address(host: Ipv4Addr, family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => {
            let [.., c, d] = host.octets();
            let [a, b, ..] = octets(SERVICES.address)[..] else { return SERVICES.address };
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        IpFamily::V6 => IpAddr::V6(in_block6(SERVICES6, host)),
    }
}

/// The address of IPv6 of the machine that has this one: the same last bytes.
pub(crate) fn machine_address6(machine: Ipv4Addr) -> Ipv6Addr {
    in_block6(MACHINES6, machine)
}

/// The machine that has one of these addresses.
pub(crate) fn machine_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(machine) => MACHINES.contains(machine).then_some(machine),
        IpAddr::V6(address) => {
            let [.., c, d] = address.octets();
            let [a, b, ..] = NODE.octets();
            let machine = Ipv4Addr::new(a, b, c, d);
            (machine_address6(machine) == address).then_some(machine)
        }
    }
}

/// The address of the block that ends with the last two bytes of `address`.
fn in_block6(block: Block, address: Ipv4Addr) -> Ipv6Addr {
    let [.., c, d] = address.octets();
    Ipv6Addr::from_bits(number(block.address) | u128::from(u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_addresses_and_no_others() {
        assert!(MACHINES.contains(NODE) && MACHINES.contains(LAST) && !MACHINES.contains(GATEWAY));
        let all = Block::everything(IpFamily::V4);
        let one = Block::one(NODE.into());
        assert!(all.contains(GATEWAY) && one.contains(NODE) && !one.contains(FIRST));
        assert!(!all.contains(NODE6) && MACHINES6.contains(NODE6) && !SERVICES6.contains(NODE6));
        assert!(UNIQUE_LOCAL.contains(NODE6) && UNIQUE_LOCAL.contains(SERVICES6.address));
        assert_eq!("fd69:326b:6974:78:1::/64".parse(), Ok(MACHINES6));
        assert_eq!("::/0".parse(), Ok(Block::everything(IpFamily::V6)));
        assert_eq!("10.78.9.9/16".parse(), Ok(MACHINES));
        assert_eq!("0.0.0.0/0".parse(), Ok(all));
        assert_eq!("10.78.0.1".parse(), Ok(one));
        for text in ["fd00::/129", "fd00/8", "10.0.0.0/x", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", ""] {
            assert_eq!(text.parse::<Block>(), Err(NoBlock), "{text}");
        }
        let masks = [all.mask(), one.mask(), MACHINES.mask(), MACHINES6.mask()].map(|mask| mask.to_string());
        assert_eq!(masks, ["0.0.0.0", "255.255.255.255", "255.255.0.0", "ffff:ffff:ffff:ffff::"]);
        assert_eq!(
            (MACHINES.to_string(), one.to_string()),
            ("10.78.0.0/16".to_owned(), "10.78.0.1".to_owned())
        );
    }

    #[test]
    fn ranges_are_merged_and_what_is_excepted_is_not_in_them() {
        let block = |text: &str| text.parse::<Block>().unwrap();
        let ranges = |texts: &[&str]| Addresses::of(texts.iter().map(|text| block(text).range()).collect());
        let count =
            |texts: &[&str]| [IpFamily::V4, IpFamily::V6].map(|family| ranges(texts).ranges(family).count());
        assert_eq!(count(&["10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.2"]), [1, 0]);
        assert_eq!(count(&["10.0.0.0/8", "10.1.0.0/16", "12.0.0.0/8", "fd00::1", "fd00::2"]), [2, 1]);
        // The last address of one family is not before the first one of the other.
        assert_eq!(count(&["255.255.255.255", "::"]), [1, 1]);
        let halves = ranges(&["0.0.0.0/1", "128.0.0.0/1", "8000::/1"]);
        assert!(halves.is_everything(IpFamily::V4) && !halves.is_everything(IpFamily::V6));
        assert!(halves.has_any(IpFamily::V6) && !ranges(&[]).has_any(IpFamily::V4));
        let without = |whole: &str, except: &[&str]| {
            let except: Vec<Block> = except.iter().map(|text| block(text)).collect();
            block(whole).without(&except)
        };
        let number = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            without("10.0.0.0/8", &["10.1.0.0/16", "10.0.0.0/16", "11.0.0.0/8"]),
            [(number("10.2.0.0"), number("10.255.255.255"))]
        );
        assert_eq!(
            without("10.0.0.0/30", &["10.0.0.1"]),
            [(number("10.0.0.0"), number("10.0.0.0")), (number("10.0.0.2"), number("10.0.0.3"))]
        );
        assert_eq!(without("10.0.0.0/16", &["10.0.0.0/8"]), []);
        assert_eq!(without("0.0.0.0/0", &["128.0.0.0/1"]), [(number("0.0.0.0"), number("127.255.255.255"))]);
        assert_eq!(without("0.0.0.0/0", &[]), [everything(IpFamily::V4)]);
        assert_eq!(without("::/0", &["0.0.0.0/0"]), [everything(IpFamily::V6)]);
        assert_eq!(
            without("fd00::/8", &["fd00::/16", "fdff::/16"]),
            [(number("fd01::"), number("fdfe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))]
        );
        assert_eq!(without("::/0", &["::/0"]), []);
    }

    #[test]
    fn a_flow_is_allowed_where_both_sides_allow_it() {
        for family in [IpFamily::V4, IpFamily::V6] {
            flows_are_allowed(family);
        }
    }

    /// The same with addresses of this family.
    fn flows_are_allowed(family: IpFamily) {
        let of_family = |address| match family {
            IpFamily::V4 => IpAddr::V4(address),
            IpFamily::V6 => IpAddr::V6(machine_address6(address)),
        };
        let machine = |last| of_family(Ipv4Addr::new(10, 78, 1, last));
        let (a, b, c, node) = (machine(1), machine(2), machine(3), of_family(NODE));
        let of = |address| Addresses::of(vec![Block::one(address).range()]);
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
        let allows = |from, to, port| judge.allows(from, SocketAddr::new(to, port), Protocol::Udp);
        assert!(allows(b, a, 50) && allows(b, a, 60) && !allows(b, a, 61) && !allows(b, a, 49));
        assert!(!judge.allows(b, SocketAddr::new(a, 53), Protocol::Tcp));
        // b may send to c as little as c takes it from others; what is not selected is not restricted.
        assert!(!allows(b, c, 53) && !allows(a, c, 53) && allows(a, b, 9) && allows(c, b, 9));
        let outside = match family {
            IpFamily::V4 => IpAddr::from([1, 1, 1, 1]),
            IpFamily::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        };
        assert!(allows(a, outside, 53) && !allows(b, outside, 53));
        // A machine with itself, the host, and the name server.
        assert!(
            allows(c, c, 9)
                && allows(node, a, 9)
                && allows(outside, a, 9)
                && allows(b, GATEWAY.into(), NAMES)
        );
        assert!(Judge::of(&[]).allows(b, SocketAddr::new(c, 1), Protocol::Udp));
    }

    #[test]
    fn an_address_is_in_the_range_that_has_it() {
        let block = |text: &str| text.parse::<Block>().unwrap();
        let set = Addresses::of(
            ["10.0.0.0/30", "10.0.1.1", "255.255.255.255", "fd00::/64"]
                .map(|text| block(text).range())
                .into(),
        );
        for (address, is_in) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.0.3", true),
            ("10.0.0.4", false),
            ("10.0.1.1", true),
            ("10.0.1.2", false),
            ("255.255.255.255", true),
            ("::", false),
            ("fd00::1", true),
            ("fd00:0:0:1::", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!Addresses::default().contains(NODE.into()));
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
        let service = |family| service_address(Ipv4Addr::new(127, 77, 3, 4), family).to_string();
        assert_eq!([service(IpFamily::V4), service(IpFamily::V6)], ["10.77.3.4", "fd69:326b:6974:77::304"]);
        let address6 = machine_address6(machine);
        assert_eq!(
            (address6.to_string(), machine_address6(NODE)),
            ("fd69:326b:6974:78::107".to_owned(), NODE6)
        );
        assert_eq!((machine_of(machine.into()), machine_of(address6.into())), (Some(machine), Some(machine)));
        for other in ["fd69:326b:6974:77::107", "fd69:326b:6974:78::1:107", "10.77.1.7", "::107"] {
            assert_eq!(machine_of(other.parse().unwrap()), None, "{other}");
        }
    }
}
