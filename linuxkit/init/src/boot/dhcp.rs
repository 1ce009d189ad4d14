//! Asks for the machine's address by DHCP (RFC 2131), where the host gives none on the command line.
//!
//! One exchange at boot: discover, offer, request, acknowledgement. The address is then kept for the VM's life, which is
//! what clouds promise for an instance's primary address; leases are not renewed.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::cmdline::StaticNetwork;
use crate::error::{Doing, Error};

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// How long is waited for an answer before the question is sent again; doubled each time up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MAX_WAIT: Duration = Duration::from_secs(4);

/// A network without a DHCP server is an error of the set-up; the boot fails with it.
const GIVE_UP: Duration = Duration::from_secs(30);

/// `BOOTREQUEST` and `BOOTREPLY`.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Hardware addresses of Ethernet, and their length.
const ETHERNET: [u8; 2] = [1, 6];

/// Answers come as broadcasts, which a socket receives before its interface has an address.
const BROADCAST: [u8; 2] = [0x80, 0];

/// Where options begin, marked by four bytes.
const OPTIONS: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_DNS: u8 = 6;
const OPTION_REQUESTED: u8 = 50;
const OPTION_MESSAGE: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_PARAMETERS: u8 = 55;
const OPTION_END: u8 = 255;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const WANT: u8 = 3;
const ACKNOWLEDGED: u8 = 5;

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Client {
    hardware: [u8; 6],
    transaction: u32,
}

/// The answer of a server.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    message: u8,
    server: Ipv4Addr,
    network: StaticNetwork,
}

/// Gets the set-up of an interface that is up.
pub(crate) fn configure(interface: &str, hardware: [u8; 6]) -> Result<StaticNetwork, Error> {
    let doing = || format!("ask for an address on {interface} by DHCP");
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).doing(doing)?;
    socket.set_broadcast(true).doing(doing)?;
    i2kit_sys::bind_to_device(&socket, interface).doing(doing)?;
    // Other machines on the wire must not take an answer for theirs; the address identifies the machine.
    let [.., a, b, c, d] = hardware;
    let client = Client { hardware, transaction: u32::from_be_bytes([a, b, c, d]) ^ 0x6932_6b74 };
    let deadline = Instant::now() + GIVE_UP;
    let offer = exchange(&socket, client, &client.message(DISCOVER, None), OFFER, deadline).doing(doing)?;
    let request = client.message(WANT, Some(&offer));
    Ok(exchange(&socket, client, &request, ACKNOWLEDGED, deadline).doing(doing)?.network)
}

/// Sends a message until the answer that is wanted arrives.
fn exchange(
    socket: &UdpSocket,
    client: Client,
    message: &[u8],
    wanted: u8,
    deadline: Instant,
) -> io::Result<Answer> {
    let mut wait = FIRST_WAIT;
    let mut buffer = [0; 1500];
    while Instant::now() < deadline {
        socket.send_to(message, (Ipv4Addr::BROADCAST, SERVER_PORT))?;
        let again = Instant::now() + wait;
        while let Some(left) = again.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(length) => match client.read(&buffer[..length]) {
                    Some(answer) if answer.message == wanted => return Ok(answer),
                    _ => {}
                },
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(error),
            }
        }
        wait = (wait * 2).min(MAX_WAIT);
    }
    Err(io::Error::new(ErrorKind::TimedOut, format!("no DHCP server answered in {} s", GIVE_UP.as_secs())))
}

impl Client {
    fn message(self, kind: u8, offer: Option<&Answer>) -> Vec<u8> {
        let mut out = vec![0; OPTIONS];
        out[0] = REQUEST;
        out[1..3].copy_from_slice(&ETHERNET);
        out[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        out[10..12].copy_from_slice(&BROADCAST);
        out[28..34].copy_from_slice(&self.hardware);
        out.extend(COOKIE);
        let mut option = |code, value: &[u8]| {
            out.extend([code, u8::try_from(value.len()).expect("options of ours are a few bytes long")]);
            out.extend(value);
        };
        option(OPTION_MESSAGE, &[kind]);
        if let Some(offer) = offer {
            option(OPTION_REQUESTED, &offer.network.address.octets());
            option(OPTION_SERVER, &offer.server.octets());
        }
        option(OPTION_PARAMETERS, &[OPTION_MASK, OPTION_ROUTER, OPTION_DNS]);
        out.push(OPTION_END);
        out
    }

    /// Reads an answer to this client; anything else on the wire is nothing.
    fn read(self, packet: &[u8]) -> Option<Answer> {
        let head = packet.get(..OPTIONS)?;
        let ours = head[0] == REPLY
            && head[4..8] == self.transaction.to_be_bytes()
            && head[28..34] == self.hardware
            && packet[OPTIONS..].starts_with(&COOKIE);
        if !ours {
            return None;
        }
        let options = &packet[OPTIONS + COOKIE.len()..];
        let addresses = |code| -> Vec<Ipv4Addr> {
            let value = option(options, code).unwrap_or_default();
            value.chunks_exact(4).map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3])).collect()
        };
        let mask = addresses(OPTION_MASK).first().map_or(u32::MAX, |mask| mask.to_bits());
        Some(Answer {
            message: *option(options, OPTION_MESSAGE)?.first()?,
            server: addresses(OPTION_SERVER).first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED),
            network: StaticNetwork {
                address: Ipv4Addr::new(head[16], head[17], head[18], head[19]),
                prefix: u8::try_from(mask.leading_ones()).unwrap_or(32),
                gateway: addresses(OPTION_ROUTER).first().copied(),
                dns: addresses(OPTION_DNS),
            },
        })
    }
}

/// The value of an option.
fn option(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        match options {
            // Padding has no length.
            [0, rest @ ..] => options = rest,
            [found, length, rest @ ..] if *found != OPTION_END => {
                let value = rest.get(..usize::from(*length))?;
                if *found == code {
                    return Some(value);
                }
                options = &rest[value.len()..];
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: Client = Client { hardware: [0x52, 0x54, 0, 0x12, 0x34, 0x56], transaction: 7 };

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut packet = CLIENT.message(DISCOVER, None);
        packet.truncate(OPTIONS + COOKIE.len());
        packet[0] = REPLY;
        packet[16..20].copy_from_slice(&[10, 0, 2, 15]);
        packet.extend(options);
        packet
    }

    #[test]
    fn an_answer_gives_the_network() {
        let packet = reply(&[
            53, 1, 5, 54, 4, 10, 0, 2, 2, 0, 0, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 8, 10, 0, 2, 3,
            1, 1, 1, 1, 255,
        ]);
        let answer = CLIENT.read(&packet).unwrap();
        assert_eq!((answer.message, answer.server), (ACKNOWLEDGED, Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(
            answer.network,
            StaticNetwork {
                address: Ipv4Addr::new(10, 0, 2, 15),
                prefix: 24,
                gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
                dns: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(1, 1, 1, 1)],
            }
        );
    }

    #[test]
    fn a_request_names_what_was_offered() {
        let packet = reply(&[53, 1, 2, 54, 4, 10, 0, 2, 2, 255]);
        let offer = CLIENT.read(&packet).unwrap();
        let request = CLIENT.message(WANT, Some(&offer));
        let options = &request[OPTIONS + COOKIE.len()..];
        assert_eq!(option(options, OPTION_REQUESTED), Some(&[10, 0, 2, 15][..]));
        assert_eq!(option(options, OPTION_SERVER), Some(&[10, 0, 2, 2][..]));
        assert_eq!(option(options, OPTION_MESSAGE), Some(&[WANT][..]));
    }

    #[test]
    fn answers_to_others_are_nothing() {
        let packet = reply(&[53, 1, 2, 255]);
        assert!(CLIENT.read(&packet).is_some());
        assert_eq!(Client { transaction: 8, ..CLIENT }.read(&packet), None);
        assert_eq!(Client { hardware: [0; 6], ..CLIENT }.read(&packet), None);
        assert_eq!(CLIENT.read(&CLIENT.message(DISCOVER, None)), None);
    }

    proptest! {
        #[test]
        fn whatever_is_on_the_wire_does_no_harm(options in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = CLIENT.read(&reply(&options));
            let _ = CLIENT.read(&options);
        }
    }
}
