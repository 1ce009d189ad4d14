//! Ports of clients that are used again, while a server still keeps the connection that had them (TIME-WAIT).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::super::wanted::Wanted;
use super::{Standin, VIP, network, runs, service, there};

/// How often it is tried: Linux chooses offsets of timestamps by chance, of which every other one would do.
const ROUNDS: usize = 10;

impl Standin {
    /// Tells each client the port from which it came, and ends first: it is the server then that keeps the connection.
    fn tell_ports(&self, port: u16) {
        let listener = self.inside.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap().port();
                stream.write_all(from.to_string().as_bytes()).unwrap();
            }
        });
    }

    /// The port from which the server sees a connection that is made from this one. On this side nothing is left of it.
    fn port_seen(&self, to: SocketAddr, from: u16) -> u16 {
        self.inside.run(move || {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, from))).unwrap();
            rustix::net::connect(&socket, &to).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            drop(stream);
            // Timestamps count milliseconds, and one that is later is needed. Beside its headline the list is empty then.
            loop {
                std::thread::sleep(Duration::from_millis(2));
                if fs::read_to_string("/proc/thread-self/net/tcp").unwrap().lines().count() == 1 {
                    break;
                }
            }
            text.parse().unwrap()
        })
    }

    /// Resets that it has sent. A client answers so where a server takes its SYN for a part of the connection before, and
    /// sends the SYN again after a second.
    fn resets(&self) -> u64 {
        self.inside.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let place = names.split(' ').position(|name| name == "OutRsts").unwrap();
            values.split(' ').nth(place).unwrap().parse().unwrap()
        })
    }
}

#[test]
fn a_port_that_another_way_to_the_same_server_had_connects_with_its_first_packet() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted {
        machines: there(&[a.address, b.address]),
        services: vec![service(&[b.address])],
        policies: vec![],
    });
    b.tell_ports(8080);
    let (direct, by_service) = (SocketAddr::from((b.address, 8080)), SocketAddr::from((VIP, 80)));
    let mut ports = 20_000..30_000;
    for _ in 0..ROUNDS {
        for (first, second) in [(direct, by_service), (by_service, direct)] {
            // One that no connection before was given.
            let port = ports.find(|port| a.port_seen(first, *port) == *port).unwrap();
            // Both ways would be one connection at the server: the second one is given another port by chance.
            let given = a.port_seen(second, port);
            assert_ne!(given, port);
            // With the next connection that port is free in the network, while the server still keeps it.
            while a.port_seen(second, port) == given {}
            assert_eq!(a.port_seen(first, given), given);
        }
    }
    assert_eq!(a.resets(), 0, "a server took SYNs for parts of connections before");
}
