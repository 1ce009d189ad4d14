//! The wanted state of an environment's network, as values: addresses, Services with their backends, and policies. Pure.

use std::collections::BTreeSet;
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

impl std::str::FromStr for Block {
    type Err = std::net::AddrParseError;

    /// Reads `ADDRESS/BITS`; an address alone is one of 32 bits. Bits of the address beyond those are dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse()?;
        // More bits than there are is no range of this family.
        let bits = bits.parse().unwrap_or(32).min(32);
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

/// What the network of one environment is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The machines that are there.
    pub(crate) machines: BTreeSet<Ipv4Addr>,
    /// The ports of Services, in the order of their names.
    pub(crate) services: Vec<Service>,
    /// What is kept from machines, and machines from.
    pub(crate) policies: Vec<Policy>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// The Service's address.
    pub(crate) address: Ipv4Addr,
    /// The transport.
    pub(crate) protocol: Protocol,
    /// The port.
    pub(crate) port: u16,
    /// Whether a client's connections go to the same machine as long as the backends stay.
    pub(crate) has_affinity: bool,
    /// Ports of the machines that serve.
    pub(crate) backends: Vec<SocketAddrV4>,
}

/// What a machine may be reached by, and what it may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The machine.
    pub(crate) machine: Ipv4Addr,
    /// What reaches it; everything without a list.
    pub(crate) ingress: Option<Vec<Allow>>,
    /// What it reaches; everything without a list.
    pub(crate) egress: Option<Vec<Allow>>,
}

/// What a policy allows: connections with these peers on these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allow {
    /// The other side.
    pub(crate) peer: Block,
    /// Addresses in `peer` that are not allowed.
    pub(crate) except: Vec<Block>,
    /// The ports; all protocols and ports without them.
    pub(crate) ports: Option<Ports>,
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
        assert!("fd00::/8".parse::<Block>().is_err());
        assert_eq!((all.mask(), one.mask(), MACHINES.mask()), (0, u32::MAX, 0xffff_0000));
        assert_eq!(
            (MACHINES.to_string(), one.to_string()),
            ("10.78.0.0/16".to_owned(), "10.78.0.1".to_owned())
        );
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
