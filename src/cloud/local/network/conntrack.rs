//! The kernel's table of connections of an environment's network: how many each machine has.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use super::netlink::{self, Batch, NLM_F_DUMP, attributes};
use super::wanted::MACHINES;

/// `NFNL_SUBSYS_CTNETLINK`, in the upper byte of a message's type, and the request for the table.
const GET: u16 = (1 << 8) | 1;

/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// Attributes: the tuple of answers, with addresses and protocol; what the protocol knows.
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const PROTO_NUMBER: u16 = 1;
const PROTOINFO: u16 = 4;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;

const TCP: u8 = 6;
const ESTABLISHED: u8 = 3;

/// The number of TCP connections that each machine has accepted and that are open. A list of the whole table takes the
/// kernel some milliseconds.
pub(super) fn connections(socket: impl AsFd) -> io::Result<BTreeMap<Ipv4Addr, u32>> {
    let mut batch = Batch::default();
    batch.message((GET, NLM_F_DUMP), "list of connections", |body| {
        body.put(&[2, 0, 0, 0]);
    });
    let mut counts = BTreeMap::new();
    netlink::dump(socket, &batch, |_, body| {
        let server = body.get(HEADER..).and_then(server);
        if let Some(machine) = server.filter(|machine| MACHINES.contains(*machine)) {
            *counts.entry(machine).or_default() += 1;
        }
    })?;
    Ok(counts)
}

/// The value of an attribute below others.
fn find<'b>(bytes: &'b [u8], path: &[u16]) -> Option<&'b [u8]> {
    path.iter().try_fold(bytes, |bytes, wanted| {
        attributes(bytes).find(|(kind, _)| kind == wanted).map(|(_, value)| value)
    })
}

/// Who answers in an open connection.
fn server(entry: &[u8]) -> Option<Ipv4Addr> {
    let is = |path: &[u16], value: u8| find(entry, path).and_then(<[u8]>::first) == Some(&value);
    let is_open = is(&[TUPLE_REPLY, TUPLE_PROTO, PROTO_NUMBER], TCP)
        && is(&[PROTOINFO, PROTOINFO_TCP, TCP_STATE], ESTABLISHED);
    let source = find(entry, &[TUPLE_REPLY, TUPLE_IP, IP_SOURCE]).filter(|_| is_open)?;
    Some(Ipv4Addr::from(*source.first_chunk::<4>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_entry_is_nobodys() {
        for bytes in [&[][..], &[0; 3], &[0; 64], &[255; 64], &[8, 0, 2, 128, 0, 0, 0, 0]] {
            assert_eq!(server(bytes), None, "{bytes:?}");
        }
    }
}
