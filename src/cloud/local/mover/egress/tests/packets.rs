//! Packets as bytes: what is made is read as it was meant, and any bytes are read without harm.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};

use super::super::packets::build::{self, IcmpFailure};
use super::super::packets::checksum;
use super::super::packets::fragments::Fragments;
use super::super::packets::parse::{self, ACK, Datagram, Echo, Ip, Packet, RST, SYN, TcpSegment};
use super::super::tun::Tun;
use super::bed::{forever, noise};

fn whole(bytes: &[u8]) -> Packet<'_> {
    match parse::ip(bytes) {
        Some(Ip::Packet(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn ends() -> [(SocketAddr, SocketAddr); 2] {
    let at = |text: &str| text.parse().unwrap();
    [(at("10.78.1.7:4000"), at("192.0.2.1:53")), (at("[fd76::7]:4000"), at("[2001:db8::1]:53"))]
}

#[test]
fn datagrams_are_read_as_they_were_made() {
    for (from, to) in ends() {
        for len in [0, 1, 2, 1000, 1452] {
            let data = noise(1, len);
            let packets = build::udp(from, to, &data, 7).unwrap();
            assert_eq!(packets.len(), 1);
            let packet = whole(&packets[0]);
            assert_eq!(Datagram::of(&packet), Some(Datagram { source: from, destination: to, data: &data }));
            let mut spoiled = packets[0].clone();
            *spoiled.last_mut().unwrap() ^= 1;
            assert_eq!(Datagram::of(&whole(&spoiled)), None, "its checksum is wrong");
        }
        assert_eq!(build::udp(from, to, &vec![0; 65_528], 7), None, "longer than a length field tells");
    }
    let [(v4, _), (v6, _)] = ends();
    assert_eq!(build::udp(v4, v6, b"", 7), None);
}

#[test]
fn fragments_in_any_order_are_a_datagram_again() {
    let now = Instant::now();
    for (from, to) in ends() {
        let data = noise(3, 30_000);
        // IPv4 is fragmented here as a router would.
        let packets = build::udp(from, to, &data, 9).unwrap();
        let packets = if from.is_ipv4() { split(&packets[0], 1480) } else { packets };
        assert!(packets.len() > 20);
        for order in [0, 1, 7, 13] {
            let mut parts = packets.clone();
            let count = parts.len();
            parts.rotate_left(order % count);
            parts.insert(3, parts[1].clone()); // one comes twice
            if order == 13 {
                parts.reverse();
            }
            let mut fragments = Fragments::default();
            let mut made = Vec::new();
            for part in &parts {
                let Some(Ip::Fragment(fragment)) = parse::ip(part) else { panic!("{order}") };
                made.extend(fragments.add(&fragment, now));
            }
            assert_eq!(made.len(), 1, "{from} {order}");
            assert_eq!(Datagram::of(&whole(&made[0])).unwrap().data, data);
            assert!(fragments.len() <= 1, "what came after the last part");
        }
    }
}

#[test]
fn numbers_of_packets_are_not_to_be_guessed() {
    let tun = || Tun::new(forever(rustix::fs::open("/dev/null", OFlags::WRONLY, Mode::empty()).unwrap()));
    let numbers = |mut tun: Tun| -> Vec<u32> { (0..1000).map(|_| tun.next_id()).collect() };
    let (first, second) = (numbers(tun()), numbers(tun()));
    let distinct = |all: Vec<u32>| all.into_iter().collect::<HashSet<u32>>().len();
    // Neither the numbers nor the steps between them come again, and nobody has those of somebody else.
    let steps = first.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(distinct(first.clone()) > 990 && distinct(steps) > 990);
    assert!(distinct([first, second].concat()) > 1980);
}

/// The fragments of an IPv4 packet with at most `room` bytes of payload each.
fn split(packet: &[u8], room: usize) -> Vec<Vec<u8>> {
    let payload = &packet[20..];
    let parts = payload.chunks(room).enumerate();
    let part = |(at, part): (usize, &[u8])| {
        let more = at * room + part.len() < payload.len();
        let mut header = packet[..20].to_vec();
        header[2..4].copy_from_slice(&u16::try_from(20 + part.len()).unwrap().to_be_bytes());
        let flags = u16::try_from(at * room / 8).unwrap() | if more { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::internet(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(part);
        header
    };
    parts.map(part).collect()
}

#[test]
fn fragments_that_overlap_or_never_end_are_given_up() {
    let now = Instant::now();
    let [(from, to), _] = ends();
    let parts = split(&build::udp(from, to, &noise(4, 4000), 9).unwrap()[0], 1480);
    let fragment = |bytes| match parse::ip(bytes) {
        Some(Ip::Fragment(fragment)) => fragment,
        other => panic!("{other:?}"),
    };
    let mut fragments = Fragments::default();
    assert_eq!(fragments.add(&fragment(&parts[0]), now), None);
    let mut overlaps = fragment(&parts[1]);
    overlaps.offset -= 8;
    assert_eq!(fragments.add(&overlaps, now), None);
    assert_eq!((fragments.len(), fragments.dropped), (0, 1), "teardrop");
    assert_eq!(fragments.add(&fragment(&parts[2]), now), None);
    let mut behind = fragment(&parts[1]);
    behind.offset = 8000;
    assert_eq!(fragments.add(&behind, now), None);
    assert_eq!((fragments.len(), fragments.dropped), (0, 2), "behind the last part");
    // First parts of ten thousand datagrams: few are kept, of few bytes, and not for long.
    for id in 0..10_000 {
        let mut first = fragment(&parts[0]);
        first.key.id = id;
        first.key.source = IpAddr::from([10, 78, 1, u8::try_from(id % 50).unwrap()]);
        fragments.add(&first, now);
    }
    assert!(fragments.len() <= 256 && fragments.bytes() <= 256 * 1480, "{}", fragments.bytes());
    fragments.expire(now + Duration::from_secs(5));
    assert!(fragments.is_empty());
}

#[test]
fn resets_answer_what_they_are_about() {
    for (from, to) in ends() {
        let segment = |flags, data| TcpSegment {
            source: from,
            destination: to,
            sequence: 100,
            acknowledgment: 900,
            flags,
            data,
        };
        for (flags, data, expected) in [
            (SYN, 0, (0, 101, RST | ACK)),
            (ACK, 5, (900, 0, RST)),
            (0, 5, (0, 105, RST | ACK)),
            (SYN | parse::FIN, 3, (0, 105, RST | ACK)),
        ] {
            let bytes = build::reset(&segment(flags, data)).unwrap();
            let reset = TcpSegment::of(&whole(&bytes)).unwrap();
            assert_eq!((reset.sequence, reset.acknowledgment, reset.flags), expected);
            assert_eq!((reset.source, reset.destination), (to, from));
            assert!(!reset.opens());
        }
        assert_eq!(build::reset(&segment(RST, 0)), None);
    }
}

#[test]
fn errors_quote_what_they_are_about_and_answer_no_error() {
    for ((from, to), longest) in ends().into_iter().zip([576, 1280]) {
        let sent = build::udp(from, to, &noise(5, 1200), 1).unwrap();
        let packet = whole(&sent[0]);
        for failure in [
            IcmpFailure::Port,
            IcmpFailure::Host,
            IcmpFailure::Network,
            IcmpFailure::TooBig(1300),
            IcmpFailure::Prohibited,
            IcmpFailure::Expired,
            IcmpFailure::Protocol,
        ] {
            let bytes = build::error(failure, &packet, to.ip()).unwrap();
            let error = whole(&bytes);
            assert_eq!((error.source, error.destination), (to.ip(), from.ip()));
            assert!(bytes.len() <= longest && bytes.len() > longest - 100);
            assert!(error.payload[8..] == sent[0][..error.payload.len() - 8]);
            let word = u32::from_be_bytes(*error.payload[4..].first_chunk().unwrap());
            assert_eq!(IcmpFailure::of(from.is_ipv6(), error.payload[0], error.payload[1], word), failure);
            assert_eq!(build::error(IcmpFailure::Host, &error, to.ip()), None, "an error about an error");
            let many = if from.is_ipv4() { "224.0.0.251:5353" } else { "[ff02::fb]:5353" }.parse().unwrap();
            let many = build::udp(from, many, b"who?", 1).unwrap();
            assert_eq!(build::error(IcmpFailure::Prohibited, &whole(&many[0]), to.ip()), None);
        }
        let echo = build::echo(
            from.ip(),
            to.ip(),
            77,
            &[if from.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1, 2, 3],
            0,
        )
        .unwrap();
        assert_eq!(Echo::of(&whole(&echo[0])).unwrap().id, 77);
        assert!(build::error(IcmpFailure::Host, &whole(&echo[0]), to.ip()).is_some());
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let [(from, to), (from6, to6)] = ends();
    let v4 = build::udp(from, to, b"data", 1).unwrap().remove(0);
    let v6 = build::udp(from6, to6, b"data", 1).unwrap().remove(0);
    for packet in [&v4, &v6] {
        for len in 0..packet.len() {
            assert!(parse::ip(&packet[..len]).is_none(), "cut to {len}");
        }
        let mut longer = packet.clone();
        longer.push(9);
        assert_eq!(whole(&longer).bytes, &packet[..], "what follows is none of it");
    }
    for at in 0..20 {
        let mut spoiled = v4.clone();
        spoiled[at] ^= 1;
        assert!(parse::ip(&spoiled).is_none(), "byte {at}");
    }
    // A chain of extension headers, as long as may be and longer.
    for (count, read) in [(1, true), (8, true), (9, false), (200, false)] {
        let mut payload = [[60, 0, 1, 4, 0, 0, 0, 0]; 200][..count].concat();
        payload[(count - 1) * 8] = parse::UDP;
        payload.extend(&v6[40..]);
        let packet = build::ip(from6.ip(), to6.ip(), 60, 9, 0, &payload).unwrap();
        assert_eq!(
            matches!(parse::ip(&packet), Some(Ip::Packet(packet)) if Datagram::of(&packet).is_some()),
            read,
            "{count}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x60])) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let mut fragments = Fragments::default();
        match parse::ip(&bytes) {
            Some(Ip::Packet(packet)) => {
                let answers = [
                    TcpSegment::of(&packet).and_then(|segment| build::reset(&segment)),
                    build::error(IcmpFailure::Host, &packet, packet.destination),
                ];
                for answer in answers.iter().flatten() {
                    prop_assert!(parse::ip(answer).is_some());
                }
            }
            Some(Ip::Fragment(fragment)) => prop_assert!(fragments.add(&fragment, Instant::now()).is_none()),
            None => {}
        }
    }
}

#[test]
fn numbers_of_failures_are_all_different() {
    let all = [
        IcmpFailure::Network,
        IcmpFailure::Host,
        IcmpFailure::Protocol,
        IcmpFailure::Port,
        IcmpFailure::Prohibited,
        IcmpFailure::Expired,
    ];
    for (ipv6, kinds) in [(false, [3, 11]), (true, [1, 3])] {
        let found: HashSet<_> = (0..20)
            .flat_map(|code| kinds.map(|kind| format!("{:?}", IcmpFailure::of(ipv6, kind, code, 0))))
            .collect();
        assert!(found.len() >= all.len() - 1, "{found:?}");
    }
    assert_eq!(IcmpFailure::of(false, 3, 4, 1400), IcmpFailure::TooBig(1400));
    assert_eq!(IcmpFailure::of(true, 2, 0, 1400), IcmpFailure::TooBig(1400));
}
