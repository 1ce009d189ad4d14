//! The kernel's table of connections of an environment's network: how many each machine has, and datagrams that go where no
//! backend is any more, or where a policy refuses them now.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use super::netlink::{self, Batch, NLA_F_NESTED, NLM_F_DUMP, find};
use super::wanted::{self, Judge, SERVICES, SERVICES6, Wanted};
use crate::manifest::api::Protocol;
use crate::plan::pod::HEALTH_PORT;

/// `NFNL_SUBSYS_CTNETLINK`, in the upper byte of a message's type, with the request for the table, and that to delete an
/// entry.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;

/// Entries that are deleted by one request.
const BATCH: usize = 500;

/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// Attributes: the tuples of what is sent and of answers, with addresses, protocol and ports; what the protocol knows.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const IP6_SOURCE: u16 = 3;
const IP6_DESTINATION: u16 = 4;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE: u16 = 2;
const PROTO_DESTINATION: u16 = 3;
const PROTOINFO: u16 = 4;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESTABLISHED: u8 = 3;

/// The number of TCP connections that each machine has accepted and that are open, but for those to its health port, which
/// are this host's. A list of the whole table takes the kernel some milliseconds.
pub(super) fn connections(socket: impl AsFd) -> io::Result<BTreeMap<Ipv4Addr, u32>> {
    let mut counts = BTreeMap::new();
    list(socket, |entry| {
        if let Some(machine) = server(entry).and_then(wanted::machine_of) {
            *counts.entry(machine).or_default() += 1;
        }
    })?;
    Ok(counts)
}

/// `AF_INET` and `AF_INET6`, and what stands for both.
const V4: u8 = 2;
const V6: u8 = 10;
const BOTH: u8 = 0;

/// Gives each entry of the table to `entry`.
fn list(socket: impl AsFd, mut entry: impl FnMut(&[u8])) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.message((GET, NLM_F_DUMP), "list of connections", |body| {
        body.put(&[BOTH, 0, 0, 0]);
    });
    netlink::dump(socket, &batch, |_, body| entry(body.get(HEADER..).unwrap_or_default()))
}

/// Deletes entries by which datagrams go to a Service whose backend is none of those that it has, or between two sides of
/// which one does not allow it any more. The rules are looked at for the first datagram only, and the others follow its
/// entry: a client that uses one socket would never reach another backend, nor ever be refused.
pub(super) fn forget(socket: impl AsFd, wanted: &Wanted) -> io::Result<()> {
    let of_udp = wanted.services.iter().filter(|service| service.protocol == Protocol::Udp);
    let backends: BTreeSet<(SocketAddr, SocketAddr)> = of_udp
        .flat_map(|service| {
            let address = SocketAddr::new(service.address, service.port);
            service.backends.iter().map(move |backend| (address, *backend))
        })
        .collect();
    let judge = Judge::of(&wanted.policies);
    let mut stale: Vec<(u8, Vec<u8>)> = Vec::new();
    list(&socket, |entry| {
        let Some(Flow { tuple, from, to, server }) = datagrams(entry) else { return };
        let is_service = SERVICES.contains(to.ip()) || SERVICES6.contains(to.ip());
        let is_lost = is_service && !backends.contains(&(to, server));
        if is_lost || !judge.allows(from, server, Protocol::Udp) {
            stale.push((if to.is_ipv4() { V4 } else { V6 }, tuple.to_vec()));
        }
    })?;
    for part in stale.chunks(BATCH) {
        let mut batch = Batch::default();
        for (family, tuple) in part {
            batch.message((DELETE, 0), "stale entry of UDP", |body| {
                body.put(&[*family, 0, 0, 0]).attribute(TUPLE_ORIGINAL | NLA_F_NESTED, tuple);
            });
        }
        // The time of one may be over meanwhile.
        batch.delete_if_there();
        batch.ask();
        netlink::request(&socket, &batch, part.len())?;
    }
    Ok(())
}

/// An entry of UDP.
#[derive(Debug, PartialEq, Eq)]
struct Flow<'e> {
    /// The tuple of what is sent.
    tuple: &'e [u8],
    /// Who sends.
    from: IpAddr,
    /// Where that goes.
    to: SocketAddr,
    /// Who answers: of a Service the backend.
    server: SocketAddr,
}

/// The attributes of a tuple's source, and of its destination, in each family.
const SOURCE: [u16; 2] = [IP_SOURCE, IP6_SOURCE];
const DESTINATION: [u16; 2] = [IP_DESTINATION, IP6_DESTINATION];

/// What an entry is, if it is one of UDP.
fn datagrams(entry: &[u8]) -> Option<Flow<'_>> {
    let side = |tuple: u16, addresses: [u16; 2], port: u16| {
        let port = find(entry, &[tuple, TUPLE_PROTO, port])?.first_chunk::<2>()?;
        Some(SocketAddr::new(address(entry, tuple, addresses)?, u16::from_be_bytes(*port)))
    };
    let protocol = find(entry, &[TUPLE_ORIGINAL, TUPLE_PROTO, PROTO_NUMBER])?;
    let tuple = find(entry, &[TUPLE_ORIGINAL]).filter(|_| protocol.first() == Some(&UDP))?;
    Some(Flow {
        tuple,
        from: address(entry, TUPLE_ORIGINAL, SOURCE)?,
        to: side(TUPLE_ORIGINAL, DESTINATION, PROTO_DESTINATION)?,
        server: side(TUPLE_REPLY, SOURCE, PROTO_SOURCE)?,
    })
}

/// The address in a tuple, by its attribute of IPv4 or that of IPv6.
fn address(entry: &[u8], tuple: u16, [v4, v6]: [u16; 2]) -> Option<IpAddr> {
    let of = |attribute: u16| find(entry, &[tuple, TUPLE_IP, attribute]);
    let v4 = of(v4).and_then(|bytes| Some(IpAddr::from(*bytes.first_chunk::<4>()?)));
    v4.or_else(|| Some(IpAddr::from(*of(v6)?.first_chunk::<16>()?)))
}

/// Who answers in an open connection of a client.
fn server(entry: &[u8]) -> Option<IpAddr> {
    let is = |path: &[u16], value: u8| find(entry, path).and_then(<[u8]>::first) == Some(&value);
    let is_open = is(&[TUPLE_REPLY, TUPLE_PROTO, PROTO_NUMBER], TCP)
        && is(&[PROTOINFO, PROTOINFO_TCP, TCP_STATE], ESTABLISHED);
    let port = find(entry, &[TUPLE_REPLY, TUPLE_PROTO, PROTO_SOURCE])?.first_chunk::<2>()?;
    let is_clients = u16::from_be_bytes(*port) != HEALTH_PORT;
    address(entry, TUPLE_REPLY, SOURCE).filter(|_| is_open && is_clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_entry_is_nobodys() {
        for bytes in [&[][..], &[0; 3], &[0; 64], &[255; 64], &[8, 0, 2, 128, 0, 0, 0, 0]] {
            assert_eq!(server(bytes), None, "{bytes:?}");
            assert_eq!(datagrams(bytes), None, "{bytes:?}");
        }
    }
}
