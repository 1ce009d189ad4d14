//! Who may connect, and who stays with a backend, by clients' addresses.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use i2kit_spec::Seconds;
use rustix::net::{AddressFamily, SocketType};

use super::datagrams::{UDP, echo, say};
use super::{Door, PATIENCE, PORT, TCP, host, id, server, wanted};
use crate::cloud::local::mover::admission::Shares;
use crate::cloud::local::mover::carrier::Carrier;
use crate::cloud::local::mover::routes::Routes;
use crate::manifest::api::Protocol;

/// A connection of the client with that address of this host.
fn connect_as(client: Ipv4Addr, to: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((client, 0)))?;
    rustix::net::connect(&socket, &SocketAddr::from((to, PORT)))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What a client is answered; an error where its connection is reset.
fn ask_as(client: Ipv4Addr, to: Ipv4Addr) -> std::io::Result<String> {
    let mut stream = connect_as(client, to)?;
    stream.write_all(b"!")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn limited(mut routes: Routes, ranges: &[&str]) -> Routes {
    for route in routes.listeners.values_mut() {
        route.source_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
    }
    routes
}

const ME: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn refused(door: &Door, protocol: Protocol) -> u64 {
    door.with(move |carrier: &mut Carrier| carrier.counted().0[&id(PORT, protocol)].refused)
}

#[test]
fn a_client_outside_the_ranges_is_reset_at_once_and_open_connections_go_on() {
    let door = Door::new(Shares::of(1024));
    let routes = wanted(host(121), TCP, &[server("a")]);
    door.apply(routes.clone());
    let mut open = connect_as(OTHER, host(121)).unwrap();
    open.write_all(b"still").unwrap();
    let ask = |client| ask_as(client, host(121));
    for (ranges, of_me, of_other) in [
        (&["127.0.0.1/32"][..], true, false),
        (&["10.0.0.0/8", "127.0.0.2/31"], false, true),
        (&["127.0.0.0/8"], true, true),
        (&["fd00::/8"], false, false),
        (&[], true, true),
    ] {
        door.apply(limited(routes.clone(), ranges));
        for (client, admitted) in [(ME, of_me), (OTHER, of_other)] {
            match ask(client) {
                Ok(answer) => assert_eq!((answer.as_str(), admitted), ("a!", true), "{client} {ranges:?}"),
                Err(error) => {
                    assert!(!admitted, "{client} {ranges:?}: {error}");
                    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::NotConnected];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                }
            }
        }
    }
    assert_eq!(refused(&door, Protocol::Tcp), 4);
    open.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "astill");
    assert!(door.with(|carrier| carrier.engine.all()) == 0, "what is refused is not carried");
}

#[test]
fn datagrams_of_a_client_outside_the_ranges_reach_nobody() {
    let door = Door::new(Shares::of(1024));
    let routes = wanted(host(122), UDP, &[echo()]);
    let client = |address: Ipv4Addr| {
        let client = UdpSocket::bind((address, 0)).unwrap();
        client.connect((host(122), PORT)).unwrap();
        client
    };
    let (me, other) = (client(ME), client(OTHER));
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    door.apply(routes.clone());
    say(&other, b"before");
    door.apply(limited(routes, &["127.0.0.1/32"]));
    other.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    other.send(b"after").unwrap();
    me.set_read_timeout(Some(PATIENCE)).unwrap();
    say(&me, b"mine");
    assert_eq!(other.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(refused(&door, Protocol::Udp), 1);
}

#[test]
fn a_client_stays_with_its_backend_and_moves_when_that_is_gone() {
    let door = Door::new(Shares::of(1024));
    let backends = [server("a"), server("b"), server("c")];
    let sticky = |backends: &[_]| {
        let mut routes = wanted(host(123), TCP, backends);
        routes.listeners.values_mut().for_each(|route| route.affinity_seconds = Some(Seconds(10_800)));
        routes
    };
    door.apply(sticky(&backends));
    let of = |last: u8| ask_as(Ipv4Addr::new(127, 0, 0, last), host(123)).unwrap();
    let first: Vec<String> = (1..=20).map(of).collect();
    assert!(["a!", "b!", "c!"].iter().all(|name| first.iter().any(|answer| answer == name)), "{first:?}");
    assert!((0..3).all(|_| (1..=20).map(of).eq(first.iter().cloned())));
    // One comes, and takes nobody.
    let more = [backends.as_slice(), &[server("d")]].concat();
    door.apply(sticky(&more));
    assert!((1..=20).map(of).eq(first.iter().cloned()));
    // One goes, and only its clients move.
    door.apply(sticky(&more[1..]));
    let after: Vec<String> = (1..=20).map(of).collect();
    assert!(
        first.iter().zip(&after).all(|(was, is)| if was == "a!" { is != was } else { is == was }),
        "{after:?}"
    );
    // Without it all take turns.
    door.apply(wanted(host(123), TCP, &backends));
    let answers: Vec<String> = (0..6).map(|_| of(1)).collect();
    assert!(answers.iter().any(|answer| *answer != answers[0]), "{answers:?}");
}
