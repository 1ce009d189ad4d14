//! Any bytes as what a machine sends outwards: three packets, cut at lengths that come first. Answers to them are packets
//! that are right themselves, and parts of datagrams make whole ones or nothing.

use std::time::Instant;

use i2kit::cloud::local::packets::build::{self, IcmpFailure};
use i2kit::cloud::local::packets::fragments::Fragments;
use i2kit::cloud::local::packets::parse::{self, Datagram, Echo, Ip, Packet, TcpSegment};

fn answer(packet: &Packet<'_>) {
    let mut answers = Vec::new();
    answers.extend(TcpSegment::of(packet).and_then(|segment| build::reset(&segment)));
    for failure in [IcmpFailure::Port, IcmpFailure::TooBig(1300)] {
        answers.extend(build::error(failure, packet, packet.destination));
    }
    if let Some(datagram) = Datagram::of(packet) {
        let back = build::udp(datagram.destination, datagram.source, datagram.data, 1);
        answers.extend(back.expect("what fits one way fits the other way"));
    }
    if let Some(echo) = Echo::of(packet) {
        answers.extend(
            build::echo(packet.destination, packet.source, echo.id, echo.message, 1).unwrap_or_default(),
        );
    }
    for answer in answers {
        assert!(parse::ip(&answer).is_some());
    }
}

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let mut fragments = Fragments::default();
    let now = Instant::now();
    let mut rest = data;
    for _ in 0..3 {
        let Some((length, behind)) = rest.split_first_chunk::<2>() else { return };
        let (bytes, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)).min(behind.len()));
        rest = behind;
        match parse::ip(bytes) {
            Some(Ip::Packet(packet)) => answer(&packet),
            Some(Ip::Fragment(fragment)) => {
                let whole = fragments.add(&fragment, now);
                if let Some(Ip::Packet(packet)) = whole.as_deref().and_then(parse::ip) {
                    answer(&packet);
                }
            }
            None => {}
        }
    }
}
