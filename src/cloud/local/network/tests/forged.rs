//! Packets that a guest makes by hand: parts of other ones' packets, and errors about other ones' connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::wanted::{self, GATEWAY_HARDWARE, Wanted, WantedService, machine_address6};
use super::{Network, Standin, VIP, VIP6, network, runs, service, service6, there};
use crate::cloud::local::mover::egress::packets::build::{self, IcmpFailure};
use crate::cloud::local::mover::egress::packets::checksum;
use crate::cloud::local::mover::egress::packets::parse::{self, Ip};
use crate::manifest::api::{IpFamily, Protocol};

/// Sends a packet.
type Sends<'s> = &'s dyn Fn(&[u8]);

/// A machine whose frames the test writes.
struct Forger {
    address: Ipv4Addr,
    tap: OwnedFd,
}

impl Forger {
    fn new(network: &Network, last: u8) -> Self {
        let address = Ipv4Addr::new(10, 78, 1, last);
        Self { address, tap: network.tap(address) }
    }

    /// Sends a packet, as a frame behind the header of virtio, with so many bytes behind it.
    fn send(&self, packet: &[u8], padding: usize) {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let own = wanted::hardware_address(self.address);
        let frame = [&[0; 10][..], &GATEWAY_HARDWARE, &own, &kind, packet, &vec![0; padding]].concat();
        rustix::io::write(&self.tap, &frame).unwrap();
    }

    fn own(&self, family: IpFamily) -> IpAddr {
        of_family(self.address, family)
    }
}

fn of_family(machine: Ipv4Addr, family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => machine.into(),
        IpFamily::V6 => machine_address6(machine).into(),
    }
}

/// An address outside.
fn outside(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(192, 0, 2, 9).into(),
        IpFamily::V6 => "2001:db8::9".parse().unwrap(),
    }
}

/// A datagram in two parts, of 1448 bytes of it and of the rest.
fn in_parts(from: IpAddr, to: SocketAddr, data: &[u8], id: u16) -> [Vec<u8>; 2] {
    let packets = build::udp(SocketAddr::new(from, 4000), to, data, id.into()).unwrap();
    if from.is_ipv6() {
        return packets.try_into().unwrap();
    }
    let [whole] = <[Vec<u8>; 1]>::try_from(packets).unwrap();
    let part = |payload: &[u8], flags: u16| {
        let mut packet = [&whole[..20], payload].concat();
        packet[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::internet(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let (first, rest) = whole[20..].split_at(1448);
    [part(first, 0x2000), part(rest, 1448 / 8)]
}

/// A socket of a machine at the port 9.
fn listener(standin: &Standin, family: IpFamily) -> UdpSocket {
    let everybody = wanted::everything(family).0;
    let socket = standin.inside.run(move || UdpSocket::bind((everybody, 9)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

#[test]
fn parts_of_a_packet_come_from_its_sender_alone() {
    if !runs() {
        return;
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let network = network();
        let (forger, sender, b) = (Forger::new(&network, 1), Forger::new(&network, 3), network.standin(2));
        let all = [forger.address, sender.address, b.address];
        network.write(&Wanted { machines: there(&all), ..Wanted::default() });
        let heard = listener(&b, family);
        let to = SocketAddr::new(of_family(b.address, family), 9);
        let tun = &network.handles.outside.as_ref().unwrap().tun;
        let by_machine = |packet: &[u8]| sender.send(packet, 0);
        let by_outside = |packet: &[u8]| assert_eq!(rustix::io::write(tun, packet), Ok(packet.len()));
        let senders: [(IpAddr, Sends<'_>); 2] =
            [(sender.own(family), &by_machine), (outside(family), &by_outside)];
        let mut bytes = [0; 4096];
        let mut id = 0;
        for (from, send) in senders {
            let mut next = |data: &[u8]| {
                id += 1;
                in_parts(from, to, data, id)
            };
            // The other one's part comes before the true one, and after it.
            for is_before in [true, false] {
                let [first, rest] = next(&[1; 2000]);
                if is_before {
                    forger.send(&rest, 0);
                }
                send(&first);
                if !is_before {
                    forger.send(&rest, 0);
                }
                let last = build::udp(SocketAddr::new(from, 4000), to, b"last", 0).unwrap();
                for packet in &last {
                    send(packet);
                }
                let length = heard.recv(&mut bytes).unwrap();
                assert_eq!(&bytes[..length], b"last", "{from}, first: {is_before}");
            }
            // Its own parts are one.
            for part in &next(&[2; 2000]) {
                send(part);
            }
            assert_eq!(heard.recv(&mut bytes).unwrap(), 2000, "{from}");
        }
    }
}

#[test]
fn a_machine_that_sends_parts_of_packets_leaves_others_room() {
    if !runs() {
        return;
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let network = network();
        let (forger, b, c) = (Forger::new(&network, 1), network.standin(2), network.standin(3));
        network
            .write(&Wanted { machines: there(&[forger.address, b.address, c.address]), ..Wanted::default() });
        let heard = listener(&b, family);
        let to = SocketAddr::new(of_family(b.address, family), 9);
        let from = forger.own(family);
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopped, begins) = (Arc::clone(&stop), Arc::clone(&begun));
        let flood = std::thread::spawn(move || {
            let mut id = 0_u16;
            while !stopped.load(Ordering::Relaxed) {
                id = id.wrapping_add(1);
                let [first, _] = in_parts(from, to, &[1; 1500], id);
                // What is behind a packet in its frame takes memory with it.
                forger.send(&first, if id.is_multiple_of(2) { 0 } else { 60_000 });
                // What others have room for beside those of an old limit of 4 MiB.
                begins.fetch_or(id > 6000, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Many parts of one packet, as a guest sends it.
        let everybody = wanted::everything(family).0;
        c.inside.run(move || UdpSocket::bind((everybody, 0)).unwrap().send_to(&vec![2; 20_000], to).unwrap());
        let mut bytes = vec![0; 65_536];
        let length = heard.recv(&mut bytes);
        // `FRAG: inuse NUMBER memory BYTES`, which is about IPv4: that of conntrack over IPv6 is nowhere told.
        let told = network.inside.run(|| std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap());
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        assert_eq!(length.unwrap(), 20_000);
        let kept = told.lines().find(|line| line.starts_with("FRAG:")).unwrap();
        let kept: usize = kept.split_whitespace().last().unwrap().parse().unwrap();
        assert!(kept <= 4 << 20, "{told}");
    }
}

/// A client's socket at a port that asks at `to`.
fn asks(standin: &Standin, port: u16, to: SocketAddr) -> UdpSocket {
    let everybody = wanted::everything(IpFamily::of(to.ip())).0;
    let socket = standin.inside.run(move || {
        let socket = UdpSocket::bind((everybody, port)).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"ask").unwrap();
        socket
    });
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// The error that `from` sends about a datagram between these ends.
fn failed(from: IpAddr, (source, to): (SocketAddr, SocketAddr)) -> Vec<u8> {
    let packets = build::udp(source, to, b"ask", 0).unwrap();
    let Some(Ip::Packet(packet)) = parse::ip(&packets[0]) else { panic!("it is whole") };
    build::error(IcmpFailure::Port, &packet, from).unwrap()
}

#[test]
fn an_error_about_a_connection_comes_from_one_of_its_ends() {
    if !runs() {
        return;
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let network = network();
        let (a, b, forger) = (network.standin(1), network.standin(2), Forger::new(&network, 3));
        let (vip, services) = match family {
            IpFamily::V4 => (IpAddr::V4(VIP), service(&[b.address])),
            IpFamily::V6 => (IpAddr::V6(VIP6), service6(&[b.address])),
        };
        let backends = services.backends.iter().map(|backend| SocketAddr::new(backend.ip(), 9)).collect();
        let services = vec![WantedService { protocol: Protocol::Udp, port: 9, backends, ..services }];
        let machines = there(&[a.address, b.address, forger.address]);
        network.write(&Wanted { machines, services, policies: vec![] });
        let [own, of_b] = [&a, &b].map(|standin| of_family(standin.address, family));
        let tun = &network.handles.outside.as_ref().unwrap().tun;
        let write = |packet: &[u8]| assert_eq!(rustix::io::write(tun, packet), Ok(packet.len()));
        let mut bytes = [0; 64];
        // With the outside: another machine ends nothing, and the answer comes; the outside itself does.
        let far = SocketAddr::new(outside(family), 9);
        let client = SocketAddr::new(own, 4000);
        let socket = asks(&a, 4000, far);
        forger.send(&failed(forger.own(family), (client, far)), 0);
        build::udp(far, client, b"answer", 0).unwrap().iter().for_each(|packet| write(packet));
        assert_eq!(socket.recv(&mut bytes).unwrap(), 6, "{family:?}");
        write(&failed(outside(family), (client, far)));
        assert_refused(&socket);
        drop(socket);
        // With a machine, by its address and by its Service's, as the client knows it and as the network does.
        let server = listener(&b, family);
        for (port, to) in [(4001, SocketAddr::new(of_b, 9)), (4002, SocketAddr::new(vip, 9))] {
            let client = SocketAddr::new(own, port);
            let socket = asks(&a, port, to);
            let (length, from) = server.recv_from(&mut bytes).unwrap();
            assert_eq!((length, from), (3, client));
            for known in [to, SocketAddr::new(of_b, 9)] {
                forger.send(&failed(forger.own(family), (client, known)), 0);
                forger.send(&failed(forger.own(family), (known, client)), 0);
            }
            server.send_to(b"answer", client).unwrap();
            assert_eq!(socket.recv(&mut bytes).unwrap(), 6, "{to}");
            // The client is gone: it tells the server, which is the other end.
            drop(socket);
            server.connect(client).unwrap();
            server.send(b"more").unwrap();
            assert_refused(&server);
            disconnect(&server);
        }
        // The server is gone, and tells its client.
        drop(server);
        for (port, to) in [(4003, SocketAddr::new(of_b, 9)), (4004, SocketAddr::new(vip, 9))] {
            assert_refused(&asks(&a, port, to));
        }
    }
}

/// Lets a socket hear everybody again.
fn disconnect(socket: &UdpSocket) {
    rustix::net::connect_unspec(socket).unwrap();
}

fn assert_refused(socket: &UdpSocket) {
    let error = socket.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
}
