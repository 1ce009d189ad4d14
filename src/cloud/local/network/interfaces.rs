//! Interfaces, addresses and routes of an environment's network, over rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use super::netlink::{self, Batch, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use super::rules::HERE;
use super::wanted::{
    self, Block, GATEWAY, GATEWAY_HARDWARE, MACHINES, MACHINES6, NODE, NODE6, SERVICES, SERVICES6, octets,
};
use crate::manifest::api::IpFamily;

/// rtnetlink's requests.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const RTM_NEWRULE: u16 = 32;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
/// `IFA_F_NODAD`: nobody is asked whether the address is somebody else's.
const NO_DETECTION: u8 = 2;
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
    source: Option<IpAddr>,
    metric: Option<u32>,
}

/// The requests for a new network: its own addresses, Services, and the interface to outside, of this index.
pub(super) fn network(outside: u32) -> Batch {
    let mut batch = Batch::default();
    link(&mut batch, LOOPBACK, "lo up", None, None);
    link(&mut batch, outside, "tun0 up", None, Some(OUTSIDE_MTU));
    address(&mut batch, NODE.into(), SCOPE_UNIVERSE);
    address(&mut batch, GATEWAY.into(), SCOPE_LINK);
    routes(&mut batch, outside, (NODE.into(), SERVICES, MACHINES));
    batch
}

/// The requests for a network's addresses and routes of IPv6.
pub(super) fn network6(outside: u32) -> Batch {
    let mut batch = Batch::default();
    address(&mut batch, NODE6.into(), SCOPE_UNIVERSE);
    routes(&mut batch, outside, (NODE6.into(), SERVICES6, MACHINES6));
    batch
}

/// The routes of one family.
fn routes(batch: &mut Batch, outside: u32, (node, services, machines): (IpAddr, Block, Block)) {
    let everything = Block::everything(services.family());
    let by =
        |to, kind, table, interface| Route { to, kind, table, interface, source: Some(node), metric: None };
    // What no rule takes is refused by the kernel.
    route(batch, &by(services, LOCAL, TABLE_LOCAL, LOOPBACK));
    route(batch, &Route { metric: Some(NOBODY), ..by(machines, UNICAST, TABLE_MAIN, outside) });
    route(batch, &by(everything, UNICAST, TABLE_MAIN, outside));
    route(batch, &Route { source: None, ..by(everything, LOCAL, TABLE_HERE, LOOPBACK) });
}

/// The request by which packets of a family with the mark [`HERE`] are delivered here.
pub(super) fn delivery(family: IpFamily) -> Batch {
    let mut batch = Batch::default();
    batch.message((RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK), "rule of marked packets", |body| {
        body.put(&[number(family), 0, 0, 0, TABLE_HERE, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        // FRA_FWMARK, FRA_PRIORITY.
        body.ne32(10, HERE).ne32(6, 100);
    });
    batch
}

/// The requests for a machine's interface, of this index: the gateway's end of the link, where the machine is, and the way
/// to it, by each of its addresses. Nobody is ever asked for a neighbour: a machine is where it was put.
pub(super) fn machine(interface: u32, machine: Ipv4Addr, address6: Option<Ipv6Addr>) -> Batch {
    let mut batch = Batch::default();
    link(&mut batch, interface, "machine's interface up", Some(GATEWAY_HARDWARE), None);
    let addresses =
        [Some((IpAddr::V4(machine), NODE.into())), address6.map(|address| (address.into(), NODE6.into()))];
    for (address, node) in addresses.into_iter().flatten() {
        batch.message((RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK), "neighbour", |body| {
            body.put(&[family(address), 0, 0, 0]).put(&interface.to_ne_bytes()).put(&[
                NUD_PERMANENT,
                0,
                0,
                UNICAST,
            ]);
            // NDA_DST, NDA_LLADDR.
            body.attribute(1, &octets(address)).attribute(2, &wanted::hardware_address(machine));
        });
        let to = Block::one(address);
        let source = Some(node);
        route(&mut batch, &Route { to, kind: UNICAST, table: TABLE_MAIN, interface, source, metric: None });
    }
    batch
}

/// The number of a family of addresses.
fn number(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => AF_INET,
        IpFamily::V6 => AF_INET6,
    }
}

/// The number of an address' family.
fn family(address: IpAddr) -> u8 {
    number(IpFamily::of(address))
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
fn address(batch: &mut Batch, address: IpAddr, scope: u8) {
    let flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
    batch.message((RTM_NEWADDR, flags), format!("address {address}"), |body| {
        let bits = Block::one(address).bits;
        // An address that others are asked about is not there at once, and no route has it as its source.
        let flags = if address.is_ipv6() { NO_DETECTION } else { 0 };
        body.put(&[family(address), bits, flags, scope]).put(&LOOPBACK.to_ne_bytes());
        // IFA_LOCAL, IFA_ADDRESS.
        body.attribute(2, &octets(address)).attribute(1, &octets(address));
    });
}

fn route(batch: &mut Batch, route: &Route) {
    let flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
    batch.message((RTM_NEWROUTE, flags), format!("route to {}", route.to), |body| {
        let scope = if route.kind == LOCAL { SCOPE_HOST } else { SCOPE_LINK };
        let family = family(route.to.address);
        body.put(&[family, route.to.bits, 0, 0, route.table, RTPROT_STATIC, scope, route.kind, 0, 0, 0, 0]);
        if route.to.bits > 0 {
            // RTA_DST.
            body.attribute(1, &octets(route.to.address));
        }
        // RTA_OIF.
        body.ne32(4, route.interface);
        if let Some(source) = route.source {
            // RTA_PREFSRC.
            body.attribute(7, &octets(source));
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
