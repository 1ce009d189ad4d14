//! Making: UDP datagrams, ICMP errors and echo replies, and TCP resets, as IP packets with their checksums. Every
//! function gives `None` where no such packet is possible: families that differ, or more bytes than fit.

use std::net::{IpAddr, SocketAddr};

use super::checksum;
use super::parse::{
    ACK, FIN, ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, Packet, RST, SYN, TCP, TcpSegment, UDP, UDP_HEADER,
};

/// Hops that our packets may pass: the default of Linux.
const HOPS: u8 = 64;

/// Longest packet with an ICMP error: what every host takes (RFC 1812, RFC 4443).
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;

/// The longest packet that a machine's interface carries, in bytes: the MTU of both of its ends.
const MTU: usize = 1500;

/// Why a packet did not get where it should, as an ICMP error tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpFailure {
    /// There is no route.
    Network,
    /// The host does not answer.
    Host,
    /// The host takes no such protocol.
    Protocol,
    /// Nothing is at the port.
    Port,
    /// It is forbidden.
    Prohibited,
    /// It is longer than this number of bytes, and must not be fragmented.
    TooBig(u32),
    /// It had passed as many routers as it might.
    Expired,
}

impl IcmpFailure {
    /// Type, code, and the second word of the header, of ICMP.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (3, 0, 0),
            Self::Host => (3, 1, 0),
            Self::Protocol => (3, 2, 0),
            Self::Port => (3, 3, 0),
            Self::TooBig(mtu) => (3, 4, mtu.min(0xffff)),
            Self::Prohibited => (3, 13, 0),
            Self::Expired => (11, 0, 0),
        }
    }

    /// The same of `ICMPv6`. A protocol that is not known is told by its place, the header's field of the next one.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::Host => (1, 3, 0),
            Self::Port => (1, 4, 0),
            Self::TooBig(mtu) => (2, 0, mtu),
            Self::Expired => (3, 0, 0),
            Self::Protocol => (4, 1, 6),
        }
    }

    /// The failure that an ICMP error of this type and code tells, for IPv6 or IPv4; `mtu` is its second word.
    pub fn of(ipv6: bool, kind: u8, code: u8, mtu: u32) -> Self {
        let all = [Self::Network, Self::Host, Self::Protocol, Self::Port, Self::Prohibited, Self::Expired];
        let too_big = if ipv6 { kind == 2 } else { (kind, code) == (3, 4) };
        if too_big {
            return Self::TooBig(mtu);
        }
        let same = |failure: &Self| {
            let (own, own_code, _) = if ipv6 { failure.v6() } else { failure.v4() };
            (own, own_code) == (kind, code)
        };
        all.into_iter().find(same).unwrap_or(match (ipv6, kind, code) {
            (false, 3, 9 | 10) | (true, 1, _) => Self::Prohibited,
            _ => Self::Host,
        })
    }
}

/// A packet of `protocol` with `payload`. IPv4's may be fragmented by routers, hence the `id`.
pub fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    id: u16,
    payload: &[u8],
) -> Option<Vec<u8>> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(IPV4_HEADER + payload.len()).ok()?;
            let mut packet = Vec::with_capacity(usize::from(len));
            packet.extend([0x45, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend([0, 0, hops, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum::internet(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(payload);
            Some(packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = u16::try_from(payload.len()).ok()?;
            let mut packet = Vec::with_capacity(IPV6_HEADER + payload.len());
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend([protocol, hops]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            Some(packet)
        }
        _ => None,
    }
}

/// The packets of a UDP datagram: one, or its fragments where it is IPv6 and longer than a machine's interface carries,
/// because routers fragment IPv4 alone. `id` tells its fragments from those of others; IPv4 has the lower half of it.
pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8], id: u32) -> Option<Vec<Vec<u8>>> {
    let len = u16::try_from(UDP_HEADER + data.len()).ok()?;
    let mut segment = Vec::with_capacity(usize::from(len));
    segment.extend(source.port().to_be_bytes());
    segment.extend(destination.port().to_be_bytes());
    segment.extend(len.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(data);
    let (from, to) = (source.ip(), destination.ip());
    // Zero means that there is no checksum, so that a sum of zero is sent as its other form.
    let sum = match checksum::transport(from, to, UDP, &segment) {
        0 => 0xffff,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    packets(from, to, UDP, id, &segment)
}

/// `payload` in one packet, or in fragments of IPv6.
fn packets(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
    payload: &[u8],
) -> Option<Vec<Vec<u8>>> {
    let [.., high, low] = id.to_be_bytes();
    let short = u16::from_be_bytes([high, low]);
    if source.is_ipv4() || IPV6_HEADER + payload.len() <= MTU {
        return Some(vec![ip(source, destination, protocol, HOPS, short, payload)?]);
    }
    let room = (MTU - IPV6_HEADER - 8) & !7;
    let parts = payload.chunks(room).enumerate();
    let fragment = |(at, part): (usize, &[u8])| {
        let offset = u16::try_from(at * room).ok()?;
        let more = u16::from(at * room + part.len() < payload.len());
        let mut body = Vec::with_capacity(8 + part.len());
        body.extend([protocol, 0]);
        body.extend((offset | more).to_be_bytes());
        body.extend(id.to_be_bytes());
        body.extend(part);
        ip(source, destination, 44, HOPS, short, &body)
    };
    parts.map(fragment).collect()
}

/// The reset that answers `segment` (RFC 9293, 3.5.2); `None` for a reset.
pub fn reset(segment: &TcpSegment) -> Option<Vec<u8>> {
    if segment.flags & RST != 0 {
        return None;
    }
    let (sequence, acknowledgment, flags) = if segment.flags & ACK != 0 {
        (segment.acknowledgment, 0, RST)
    } else {
        let marks = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
        let data = u32::try_from(segment.data).ok()?;
        (0, segment.sequence.wrapping_add(data).wrapping_add(marks), RST | ACK)
    };
    let (source, destination) = (segment.destination, segment.source);
    let mut answer = Vec::with_capacity(20);
    answer.extend(source.port().to_be_bytes());
    answer.extend(destination.port().to_be_bytes());
    answer.extend(sequence.to_be_bytes());
    answer.extend(acknowledgment.to_be_bytes());
    answer.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let sum = checksum::transport(source.ip(), destination.ip(), TCP, &answer);
    answer[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(source.ip(), destination.ip(), TCP, HOPS, 0, &answer)
}

/// The ICMP error of `from` that tells the sender of `packet` about its failure; `None` where none may be sent: about
/// an error, or about what was sent to many (RFC 1122, RFC 4443).
pub fn error(failure: IcmpFailure, packet: &Packet<'_>, from: IpAddr) -> Option<Vec<u8>> {
    let is_error = match (packet.protocol, packet.payload.first()) {
        (ICMP, kind) => !matches!(kind, Some(0 | 8 | 13..=18)),
        (ICMPV6, kind) => !matches!(kind, Some(128..)),
        _ => false,
    };
    let to_many = match packet.destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    if is_error || to_many {
        return None;
    }
    let (protocol, (kind, code, word), longest) = match from {
        IpAddr::V4(_) => (ICMP, failure.v4(), MAX_ERROR_V4 - IPV4_HEADER - 8),
        IpAddr::V6(_) => (ICMPV6, failure.v6(), MAX_ERROR_V6 - IPV6_HEADER - 8),
    };
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(&packet.bytes[..packet.bytes.len().min(longest)]);
    icmp(from, packet.source, protocol, message)
}

/// An ICMP `message` as a packet, with its checksum set.
fn icmp(source: IpAddr, destination: IpAddr, protocol: u8, mut message: Vec<u8>) -> Option<Vec<u8>> {
    message.get_mut(2..4)?.fill(0);
    let sum = match protocol {
        ICMP => checksum::internet(&message),
        _ => checksum::transport(source, destination, protocol, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, protocol, HOPS, 0, &message)
}

/// The packets with an echo `message` from `source`, with the number `id` in place of its own.
pub fn echo(
    source: IpAddr,
    destination: IpAddr,
    id: u16,
    message: &[u8],
    packet_id: u32,
) -> Option<Vec<Vec<u8>>> {
    let mut message = message.to_vec();
    message.get_mut(4..6)?.copy_from_slice(&id.to_be_bytes());
    message[2..4].fill(0);
    let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
    let sum = match protocol {
        ICMP => checksum::internet(&message),
        _ => checksum::transport(source, destination, protocol, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packets(source, destination, protocol, packet_id, &message)
}
