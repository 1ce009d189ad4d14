//! Reading: an IP packet, and in it a TCP segment, a UDP datagram or an ICMP echo request. Whatever does not agree with
//! itself is refused: lengths, header checksums, checksums of transports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::checksum;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of `ICMPv6`.
pub const ICMPV6: u8 = 58;

/// TCP's flag FIN.
pub const FIN: u8 = 0x01;
/// TCP's flag SYN.
pub const SYN: u8 = 0x02;
/// TCP's flag RST.
pub const RST: u8 = 0x04;
/// TCP's flag ACK.
pub const ACK: u8 = 0x10;

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_HEADER: usize = 40;
/// Length of a UDP header.
pub const UDP_HEADER: usize = 8;

/// Extension headers of an IPv6 packet that are read; RFC 8504 lets a node have such a limit, and names 8.
const MAX_EXTENSIONS: usize = 8;

/// An IP packet that is no fragment.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The whole packet, without what followed it.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The protocol of `payload`.
    pub protocol: u8,
    /// How many further routers it may pass.
    pub hops: u8,
    /// Whether routers may fragment it: IPv4 without DF.
    pub may_fragment: bool,
    /// What is behind the IP header and its extensions.
    pub payload: &'a [u8],
}

/// The parts of a datagram have this in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The protocol of the datagram; with IPv6 it is that of the first part alone that counts.
    pub protocol: u8,
    /// The number that the sender gave it.
    pub id: u32,
}

/// A part of a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Fragment<'a> {
    /// Which datagram it is of.
    pub key: FragmentKey,
    /// Where it starts in the datagram's payload, in bytes.
    pub offset: usize,
    /// Whether further parts follow.
    pub more: bool,
    /// How many further routers it may pass.
    pub hops: u8,
    /// Its bytes.
    pub data: &'a [u8],
}

/// An IP packet.
#[derive(Debug, Clone, Copy)]
pub enum Ip<'a> {
    /// A whole one.
    Packet(Packet<'a>),
    /// A part of one.
    Fragment(Fragment<'a>),
}

/// Reads the packet at the start of `bytes`; `None` when it is none, or does not agree with itself.
pub fn ip(bytes: &[u8]) -> Option<Ip<'_>> {
    match bytes.first()? >> 4 {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => None,
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = bytes.first_chunk::<IPV4_HEADER>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(word(bytes, 2)?);
    if header_len < IPV4_HEADER || len < header_len {
        return None;
    }
    let bytes = bytes.get(..len)?;
    if checksum::internet(&bytes[..header_len]) != 0 {
        return None;
    }
    let (source, destination) = (ipv4_address(bytes, 12)?, ipv4_address(bytes, 16)?);
    let (hops, protocol) = (header[8], header[9]);
    let flags = word(bytes, 6)?;
    let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let payload = &bytes[header_len..];
    if offset == 0 && !more {
        let may_fragment = flags & 0x4000 == 0;
        return Some(Ip::Packet(Packet {
            bytes,
            source,
            destination,
            protocol,
            hops,
            may_fragment,
            payload,
        }));
    }
    let key = FragmentKey { source, destination, protocol, id: u32::from(word(bytes, 4)?) };
    fragment(key, offset, more, hops, payload)
}

fn ipv6(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = bytes.first_chunk::<IPV6_HEADER>()?;
    let bytes = bytes.get(..IPV6_HEADER + usize::from(word(bytes, 4)?))?;
    let (source, destination) = (ipv6_address(bytes, 8)?, ipv6_address(bytes, 24)?);
    let hops = header[7];
    let (mut protocol, mut payload) = (header[6], &bytes[IPV6_HEADER..]);
    for _ in 0..=MAX_EXTENSIONS {
        let len = match protocol {
            // Hop-by-hop options, routing, destination options: type of the next, length in 8 bytes without the first 8.
            0 | 43 | 60 => 8 + usize::from(*payload.get(1)?) * 8,
            44 => 8,
            _ => {
                let may_fragment = false;
                return Some(Ip::Packet(Packet {
                    bytes,
                    source,
                    destination,
                    protocol,
                    hops,
                    may_fragment,
                    payload,
                }));
            }
        };
        let (extension, rest) = payload.split_at_checked(len)?;
        if protocol == 44 {
            let flags = word(extension, 2)?;
            let (offset, more) = (usize::from(flags & 0xfff8), flags & 1 != 0);
            if offset != 0 || more {
                let id = u32::from_be_bytes(*extension[4..].first_chunk()?);
                // The type of later parts need not be that of the first (RFC 8200): it takes no part in the key.
                let key = FragmentKey { source, destination, protocol: extension[0], id };
                return fragment(key, offset, more, hops, rest);
            }
        }
        protocol = extension[0];
        payload = rest;
    }
    None
}

/// A part whose place is possible: no hole can be behind it, and its end is within the longest datagram.
fn fragment(key: FragmentKey, offset: usize, more: bool, hops: u8, data: &[u8]) -> Option<Ip<'_>> {
    let possible = !data.is_empty() && (!more || data.len().is_multiple_of(8));
    let fits = offset + data.len() <= usize::from(u16::MAX) - IPV4_HEADER;
    (possible && fits).then_some(Ip::Fragment(Fragment { key, offset, more, hops, data }))
}

/// A TCP segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// Who sent it.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    /// Number of the byte that its sender waits for.
    pub acknowledgment: u32,
    /// Its flags.
    pub flags: u8,
    /// How many bytes of data it has.
    pub data: usize,
}

impl TcpSegment {
    /// The segment in `packet`, if it is one.
    pub fn of(packet: &Packet<'_>) -> Option<Self> {
        let payload = packet.payload;
        let header = payload.first_chunk::<20>()?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if packet.protocol != TCP || header_len < 20 || header_len > payload.len() || !intact(packet) {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(packet.source, word(header, 0)?),
            destination: SocketAddr::new(packet.destination, word(header, 2)?),
            sequence: u32::from_be_bytes(*header[4..].first_chunk()?),
            acknowledgment: u32::from_be_bytes(*header[8..].first_chunk()?),
            flags: header[13],
            data: payload.len() - header_len,
        })
    }

    /// Whether it asks for a connection.
    pub fn opens(&self) -> bool {
        self.flags & (FIN | SYN | RST | ACK) == SYN
    }
}

/// A UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
    /// What is in it.
    pub data: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagram in `packet`, if it is one.
    pub fn of(packet: &Packet<'a>) -> Option<Self> {
        let payload = packet.payload;
        let header = payload.first_chunk::<UDP_HEADER>()?;
        let (len, sum) = (usize::from(word(header, 4)?), word(header, 6)?);
        if packet.protocol != UDP || len < UDP_HEADER || len > payload.len() {
            return None;
        }
        // Without a checksum, which IPv4 alone allows, there is nothing to compare.
        let unsummed = sum == 0 && packet.source.is_ipv4();
        let summed = checksum::transport(packet.source, packet.destination, UDP, &payload[..len]);
        if !unsummed && (sum == 0 || summed != 0) {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(packet.source, word(header, 0)?),
            destination: SocketAddr::new(packet.destination, word(header, 2)?),
            data: &payload[UDP_HEADER..len],
        })
    }
}

/// An ICMP echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// The number that its sender gave to the series.
    pub id: u16,
    /// The whole message.
    pub message: &'a [u8],
}

impl<'a> Echo<'a> {
    /// The echo request in `packet`, if it is one.
    pub fn of(packet: &Packet<'a>) -> Option<Self> {
        let message = packet.payload;
        let kind = match packet.protocol {
            ICMP => 8,
            ICMPV6 => 128,
            _ => return None,
        };
        let header = message.first_chunk::<8>()?;
        let sum = match packet.protocol {
            ICMP => checksum::internet(message),
            _ => checksum::transport(packet.source, packet.destination, ICMPV6, message),
        };
        (header[..2] == [kind, 0] && sum == 0).then_some(Self { id: word(header, 4)?, message })
    }
}

/// Whether the transport's checksum is right.
fn intact(packet: &Packet<'_>) -> bool {
    checksum::transport(packet.source, packet.destination, packet.protocol, packet.payload) == 0
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ipv4_address(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?)))
}

fn ipv6_address(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V6(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?)))
}
