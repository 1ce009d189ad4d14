//! Sessions of UDP: they last while they are used, move with their backends, and make room.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::{Door, PATIENCE, PORT, backend, eventually, host, wanted};
use crate::cloud::local::mover::admission::Shares;
use crate::cloud::local::mover::routes::Backend;
use crate::cloud::local::mover::udp::Times;
use crate::manifest::api::Protocol;

pub(super) const UDP: &[(u16, Protocol)] = &[(PORT, Protocol::Udp)];

/// A server that sends every datagram back.
pub(super) fn echo() -> Backend {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let backend = backend(echo.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], client);
        }
    });
    backend
}

pub(super) fn say(client: &UdpSocket, text: &[u8]) {
    client.send(text).unwrap();
    let mut buffer = vec![0; 65_535];
    let length = client.recv(&mut buffer).unwrap();
    assert!(&buffer[..length] == text);
}

fn client(address: (Ipv4Addr, u16)) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn datagrams_come_back_to_their_client() {
    let door = Door::new(Shares::of(1024));
    door.apply(wanted(host(108), UDP, &[echo()]));
    let clients = [client((host(108), PORT)), client((host(108), PORT))];
    for text in [&b"one"[..], b"two", &vec![7; 60_000]] {
        for client in &clients {
            say(client, text);
        }
    }
}

#[test]
fn a_session_moves_to_a_backend_that_is_healthy() {
    let door = Door::new(Shares::of(1024));
    let (one, two) = (echo(), echo());
    door.apply(wanted(host(112), UDP, std::slice::from_ref(&one)));
    let steady = client((host(112), PORT));
    say(&steady, b"one");
    door.apply(wanted(host(112), UDP, std::slice::from_ref(&two)));
    say(&steady, b"two");
    assert_eq!((door.connections(&one), door.connections(&two)), (0, 1));
}

#[test]
fn silent_sessions_are_forgotten_while_others_talk() {
    let door = Door::new(Shares::of(1 << 20));
    door.with(|carrier| {
        carrier.sessions.times = Times { idle: Duration::from_secs(1), sweep: Duration::from_millis(100) };
    });
    let echo = echo();
    door.apply(wanted(host(109), UDP, std::slice::from_ref(&echo)));
    for _ in 0..50 {
        say(&client((host(109), PORT)), b"x");
    }
    // It never stops for as long as one look for silent sessions takes to come.
    let steady = client((host(109), PORT));
    eventually("one session stays", || {
        say(&steady, b"on");
        door.connections(&echo) == 1
    });
}

#[test]
fn the_session_that_was_silent_for_longest_makes_room() {
    let shares = Shares { connections: 28, listener: 14, names: 4, outside: 4, outwards: 14 };
    let door = Door::new(shares);
    let echo = echo();
    door.apply(wanted(host(110), UDP, std::slice::from_ref(&echo)));
    let steady = client((host(110), PORT));
    for _ in 0..100 {
        say(&steady, b"on");
        say(&client((host(110), PORT)), b"x");
        let sessions = door.connections(&echo);
        assert!(sessions as usize <= shares.listener, "{sessions}");
    }
    let text = door.log();
    assert_eq!(text.matches("silent for longest").count(), 1, "{text}");
}
