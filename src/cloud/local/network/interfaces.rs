//! Interfaces, addresses and routes of an environment's network, over rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use super::netlink::{self, Batch, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use super::rules::HERE;
use super::wanted::{self, Block, GATEWAY, MACHINES, NODE, SERVICES};

/// rtnetlink's requests.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const RTM_NEWRULE: u16 = 32;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const NUD_PERMANENT: u8 = 0x80;
const RTPROT_STATIC: u8 = 4;
const FR_ACT_TO_TBL: u8 = 1;

/// Tables of routes: that of this network's own addresses, the usual one, and the one of packets that are delivered here
/// whatever their address.
const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;
const TABLE_HERE: u8 = 100;

/// Scopes of addresses and routes.
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;

/// Types of routes.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;

/// The index of the interface `lo`.
const LOOPBACK: u32 = 1;

/// The hardware address of the gateway, on every machine's link.
const GATEWAY_HARDWARE: [u8; 6] = [0xee; 6];

/// The largest packet on its way outside: the kernel puts nothing together and takes nothing apart.
const OUTSIDE_MTU: u32 = 65535;

/// The metric of the route to addresses without a machine: a machine's own route comes before it.
const NOBODY: u32 = 1000;

/// A route.
struct Route {
    to: Block,
    kind: u8,
    table: u8,
    interface: u32,
    source: Option<Ipv4Addr>,
    metric: Option<u32>,
}

/// The requests for a new network: its own addresses, Services, and the interface to outside, of this index.
pub(super) fn network(outside: u32) -> Batch {
    let everything = Block { address: Ipv4Addr::UNSPECIFIED, bits: 0 };
    let mut batch = Batch::default();
    link(&mut batch, LOOPBACK, "lo up", None, None);
    link(&mut batch, outside, "tun0 up", None, Some(OUTSIDE_MTU));
    address(&mut batch, NODE, SCOPE_UNIVERSE);
    address(&mut batch, GATEWAY, SCOPE_LINK);
    let by =
        |to, kind, table, interface| Route { to, kind, table, interface, source: Some(NODE), metric: None };
    // What no rule takes is refused by the kernel.
    route(&mut batch, &by(SERVICES, LOCAL, TABLE_LOCAL, LOOPBACK));
    route(&mut batch, &Route { metric: Some(NOBODY), ..by(MACHINES, UNICAST, TABLE_MAIN, outside) });
    route(&mut batch, &by(everything, UNICAST, TABLE_MAIN, outside));
    route(&mut batch, &Route { source: None, ..by(everything, LOCAL, TABLE_HERE, LOOPBACK) });
    batch
}

/// The request by which packets with the mark [`HERE`] are delivered here.
pub(super) fn delivery() -> Batch {
    let mut batch = Batch::default();
    batch.message((RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK), "rule of marked packets", |body| {
        body.put(&[AF_INET, 0, 0, 0, TABLE_HERE, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        // FRA_FWMARK, FRA_PRIORITY.
        body.ne32(10, HERE).ne32(6, 100);
    });
    batch
}

/// The requests for a machine's interface, of this index: the gateway's end of the link, where the machine is, and the way
/// to it.
pub(super) fn machine(interface: u32, machine: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    link(&mut batch, interface, "machine's interface up", Some(GATEWAY_HARDWARE), None);
    batch.message((RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK), "neighbour", |body| {
        body.put(&[AF_INET, 0, 0, 0]).put(&interface.to_ne_bytes()).put(&[NUD_PERMANENT, 0, 0, 1]);
        // NDA_DST, NDA_LLADDR.
        body.attribute(1, &machine.octets()).attribute(2, &wanted::hardware_address(machine));
    });
    let to = Block { address: machine, bits: 32 };
    let source = Some(NODE);
    route(&mut batch, &Route { to, kind: UNICAST, table: TABLE_MAIN, interface, source, metric: None });
    batch
}

fn link(batch: &mut Batch, index: u32, purpose: &str, hardware: Option<[u8; 6]>, mtu: Option<u32>) {
    batch.message((RTM_NEWLINK, NLM_F_ACK), purpose, |body| {
        body.put(&[0; 4]).put(&index.to_ne_bytes()).put(&IFF_UP.to_ne_bytes()).put(&IFF_UP.to_ne_bytes());
        if let Some(hardware) = hardware {
            body.attribute(IFLA_ADDRESS, &hardware);
        }
        if let Some(mtu) = mtu {
            body.ne32(IFLA_MTU, mtu);
        }
    });
}

/// An address of the interface `lo`.
fn address(batch: &mut Batch, address: Ipv4Addr, scope: u8) {
    let flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
    batch.message((RTM_NEWADDR, flags), format!("address {address}"), |body| {
        body.put(&[AF_INET, 32, 0, scope]).put(&LOOPBACK.to_ne_bytes());
        // IFA_LOCAL, IFA_ADDRESS.
        body.attribute(2, &address.octets()).attribute(1, &address.octets());
    });
}

fn route(batch: &mut Batch, route: &Route) {
    let flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
    batch.message((RTM_NEWROUTE, flags), format!("route to {}", route.to), |body| {
        let scope = if route.kind == LOCAL { SCOPE_HOST } else { SCOPE_LINK };
        body.put(&[AF_INET, route.to.bits, 0, 0, route.table, RTPROT_STATIC, scope, route.kind, 0, 0, 0, 0]);
        if route.to.bits > 0 {
            // RTA_DST.
            body.attribute(1, &route.to.address.octets());
        }
        // RTA_OIF.
        body.ne32(4, route.interface);
        if let Some(source) = route.source {
            // RTA_PREFSRC.
            body.attribute(7, &source.octets());
        }
        if let Some(metric) = route.metric {
            // RTA_PRIORITY.
            body.ne32(6, metric);
        }
    });
}

/// Sends a batch, each message of which asks for an answer.
pub(super) fn request(socket: impl AsFd, batch: &Batch) -> io::Result<()> {
    Ok(netlink::request(socket, batch, batch.len())?)
}

/// The interfaces of the socket's network, by name, with their indices.
pub(super) fn list(socket: impl AsFd) -> io::Result<BTreeMap<String, u32>> {
    let mut batch = Batch::default();
    batch.message((RTM_GETLINK, NLM_F_DUMP), "list of interfaces", |body| {
        body.put(&[0; 16]);
    });
    let mut found = BTreeMap::new();
    netlink::dump(socket, &batch, |kind, body| {
        found.extend((kind == RTM_NEWLINK).then(|| name_and_index(body)).flatten());
    })?;
    Ok(found)
}

/// The name and index in a message about an interface: behind `struct ifinfomsg`.
fn name_and_index(body: &[u8]) -> Option<(String, u32)> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let (_, name) = netlink::attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((String::from_utf8_lossy(name).into_owned(), index))
}
