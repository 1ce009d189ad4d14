//! A machine that sends whatever it likes: a thousand seeds of packets, of every protocol, spoiled in every way.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::super::budget::{CONNECTING, FLOWS};
use super::super::packets::build;
use super::super::packets::parse::{self, ICMP, ICMPV6, TCP, UDP};
use super::super::{Budget, Egress, Sockets};
use super::bed::{Bed, Copier, forever, noise, ranges, wanted};

const SEEDS: u32 = 1000;
const PACKETS: usize = 60;

/// A source of numbers.
struct Dice(Vec<u8>);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        let byte = |dice: &mut Self| usize::from(dice.0.pop().unwrap_or(0));
        (byte(self) << 8 | byte(self)) % sides
    }
}

/// A packet as a hostile machine may send it.
fn packet(dice: &mut Dice) -> Vec<u8> {
    let v4 = [
        "10.78.1.7",
        "10.78.1.8",
        "192.0.2.1",
        "198.18.0.2",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.169.254",
        "10.78.1.9",
    ];
    let v6 = [
        "fd76::7",
        "fd76::8",
        "2001:db8::1",
        "2001:db8:3::2",
        "::1",
        "::",
        "ff02::1",
        "fe80::2",
        "64:ff9b::7f00:1",
        "fd76::9",
    ];
    let all = if dice.roll(3) > 0 { v4 } else { v6 };
    let address = |dice: &mut Dice, sides| -> IpAddr { all[dice.roll(sides)].parse().unwrap() };
    let known = if dice.roll(10) == 0 { 10 } else { 2 };
    let source = address(dice, known);
    let destination = address(dice, 10);
    let ports = [0, 1, 53, 80, 443, 65_535];
    let at = |dice: &mut Dice, address| SocketAddr::new(address, ports[dice.roll(ports.len())]);
    let data = noise(u32::try_from(dice.roll(1000)).unwrap(), dice.roll(1500));
    let mut packet = match dice.roll(6) {
        0 | 1 => {
            let (source, destination) = (at(dice, source), at(dice, destination));
            let mut packets = build::udp(source, destination, &data, 1).unwrap_or_default();
            packets.truncate(1);
            packets.pop().unwrap_or_default()
        }
        2 | 3 => {
            let (source, destination) = (at(dice, source), at(dice, destination));
            let flags = [0, parse::SYN, parse::SYN, parse::ACK, parse::FIN, 0xff][dice.roll(6)];
            let segment = parse::TcpSegment {
                source: destination,
                destination: source,
                sequence: 1,
                acknowledgment: 2,
                flags,
                data: 0,
            };
            let mut packet = build::reset(&segment).unwrap_or_default();
            let header = if source.is_ipv4() { 20 } else { 40 };
            if let Some(segment) = packet.get_mut(header..).filter(|segment| segment.len() >= 20) {
                segment[13] = flags;
                segment[16..18].fill(0);
                let sum =
                    super::super::packets::checksum::transport(source.ip(), destination.ip(), TCP, segment);
                segment[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            packet
        }
        4 => {
            let kind = if source.is_ipv4() { 8 } else { 128 };
            let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
            message.extend(data);
            let packets = build::echo(source, destination, 1, &message, 1);
            packets.unwrap_or_default().into_iter().next().unwrap_or_default()
        }
        _ => {
            let protocol = [0, ICMP, TCP, UDP, 43, 44, 47, 50, ICMPV6, 60, 132, 255][dice.roll(12)];
            build::ip(source, destination, protocol, 1, 1, &data).unwrap_or_default()
        }
    };
    match dice.roll(5) {
        // Bytes change, or some are missing; an IPv4 header is made right again, so that what is behind it is looked at.
        0 if !packet.is_empty() => {
            for _ in 0..=dice.roll(4) {
                let at = dice.roll(packet.len());
                packet[at] = u8::try_from(dice.roll(256)).unwrap();
            }
            if packet.len() >= 20 && packet[0] == 0x45 {
                packet[10..12].fill(0);
                let sum = super::super::packets::checksum::internet(&packet[..20]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        1 => packet.truncate(dice.roll(packet.len() + 1)),
        2 if packet.len() >= 20 && packet[0] == 0x45 => {
            let flags = u16::try_from(dice.roll(8191)).unwrap() | if dice.roll(2) == 0 { 0x2000 } else { 0 };
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            packet[10..12].fill(0);
            let sum = super::super::packets::checksum::internet(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
    packet
}

#[test]
fn a_thousand_seeds_of_hostile_packets_do_no_harm() {
    if !wanted() {
        return;
    }
    // The host's network of the bed leads nowhere; the device is a socket, at whose other end the packets come in.
    let bed = Bed::without_egress();
    let (listener, listener6) = (bed.sockets().listener, bed.sockets().listener6);
    let (report, watched, answers, places) = bed.host.run(move || {
        let (device, machine) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::NONBLOCK, None)
                .unwrap();
        let tun = forever(device);
        let budget = Budget::new(4096, 16_384);
        let mut egress = Egress::new(Sockets { tun, listener, listener6 }, ranges(), Rc::clone(&budget));
        let mut carrier = Copier::new();
        let (mut now, mut answers) = (Instant::now(), 0_usize);
        let mut buffer = vec![0; 65_536];
        for seed in 0..SEEDS {
            let mut dice = Dice(noise(seed, 16_384));
            for _ in 0..PACKETS {
                let packet = packet(&mut dice);
                if !packet.is_empty() {
                    rustix::net::send(&machine, &packet, SendFlags::empty()).unwrap();
                }
                egress.ready(std::os::fd::AsRawFd::as_raw_fd(&tun), &mut carrier, now);
                while let Ok((len, _)) = rustix::net::recv(&machine, &mut buffer, RecvFlags::empty()) {
                    // A SYN that comes back, a reset, an error, or an answer: packets that are right.
                    assert!(parse::ip(&buffer[..len]).is_some(), "seed {seed}: {:?}", &buffer[..len.min(60)]);
                    answers += 1;
                }
            }
            for fd in carrier.wait(Duration::ZERO) {
                egress.ready(fd, &mut carrier, now);
            }
            now += Duration::from_millis(100);
            egress.tick(&mut carrier, now);
            let report = egress.report();
            assert!(
                report.connecting <= 4 * CONNECTING && report.flows <= 4 * FLOWS && report.fragments <= 256,
                "{report:?}"
            );
            // Each socket has a place in the budget.
            assert!(Rc::strong_count(&budget) <= 2 + 4 * (CONNECTING + FLOWS));
        }
        egress.end(&mut carrier, now);
        egress.tick(&mut carrier, now + Duration::from_mins(10));
        (egress.report(), carrier.watched(), answers, Rc::strong_count(&budget))
    });
    assert!(
        answers > 10_000 && report.counters.malformed > 1000 && report.counters.forbidden > 1000,
        "{answers} {report:?}"
    );
    assert_eq!((report.connecting, report.flows, report.fragments, watched), (0, 0, 0, 0), "{report:?}");
    assert_eq!(places, 2, "that of egress and that of the test");
}
