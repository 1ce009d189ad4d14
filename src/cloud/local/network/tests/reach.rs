//! Who reaches whom: machines, Services, this host and the outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::namespace::DEVICE;
use super::super::sys::{self, Virtual};
use super::super::wanted::{self, GATEWAY, NODE, NODE6, Wanted, WantedService, machine_address6};
use super::super::{interfaces, rules};
use super::{Standin, VIP, VIP6, get, network, runs, service, service6, there};
use crate::manifest::api::Protocol;
use crate::plan::pod::HEALTH_PORT;

#[test]
fn machines_reach_each_other_by_address_and_by_service_and_are_who_they_are() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    let mut state = Wanted {
        machines: there(&[a.address, b.address]),
        services: vec![service(&[a.address, b.address])],
        policies: vec![],
    };
    network.write(&state);
    a.serve(8080);
    b.serve(8080);
    // By address, and each sees the other's own.
    assert_eq!(a.get(b.address, 8080).unwrap(), "10.78.1.2 from 10.78.1.1");
    assert_eq!(a.get(b.address, 8081), Err(Errno::CONNREFUSED));
    // By Service: both in turn, itself among them, which sees the node.
    let mut answers: Vec<String> = (0..4).map(|_| a.get(VIP, 80).unwrap()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["10.78.1.1 from 10.78.0.1", "10.78.1.2 from 10.78.1.1"]);
    // From this host's side of the network.
    let from_node: Vec<String> = (0..2).map(|_| network.inside.run(|| get(VIP, 80)).unwrap()).collect();
    assert!(from_node.iter().all(|answer| answer.ends_with(" from 10.78.0.1")), "{from_node:?}");
    // Ports that the Service does not have, and one without backends, are refused at once.
    assert_eq!(
        (a.get(VIP, 81), network.inside.run(|| get(VIP, 81))),
        (Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED))
    );
    state.services = vec![service(&[])];
    network.write(&state);
    assert_eq!(
        (a.get(VIP, 80), network.inside.run(|| get(VIP, 80))),
        (Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED))
    );
    // One with affinity is always the same for a client.
    state.services = vec![WantedService { has_affinity: true, ..service(&[a.address, b.address]) }];
    network.write(&state);
    let mut same: Vec<String> = (0..6).map(|_| b.get(VIP, 80).unwrap()).collect();
    same.dedup();
    assert_eq!(same.len(), 1, "{same:?}");
    // The network's own ports are no machine's matter.
    assert_eq!(
        (a.get(NODE, rules::PROXY_PORT), a.get(GATEWAY, rules::PROXY_PORT)),
        (Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED))
    );
}

#[test]
fn machines_reach_each_other_and_services_over_ipv6_as_over_ipv4() {
    if !runs() {
        return;
    }
    let network = network();
    assert!(network.handles.has_ipv6, "this kernel has no IPv6, or not all that the rules need");
    let (a, b) = (network.standin(1), network.standin(2));
    let mut state = Wanted {
        machines: there(&[a.address, b.address]),
        services: vec![service6(&[a.address, b.address])],
        policies: vec![],
    };
    network.write(&state);
    for standin in [&a, &b] {
        standin.serve(8080);
        standin.serve(10256);
    }
    assert_eq!(a.get(b.address6(), 8080).unwrap(), "10.78.1.2 from fd69:326b:6974:78::101");
    let mut answers: Vec<String> = (0..4).map(|_| a.get(VIP6, 80).unwrap()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["10.78.1.1 from fd69:326b:6974:78::1", "10.78.1.2 from fd69:326b:6974:78::101"]);
    let from_node = network.inside.run(|| get(VIP6, 80)).unwrap();
    assert!(from_node.ends_with(" from fd69:326b:6974:78::1"), "{from_node}");
    state.services = vec![WantedService { has_affinity: true, ..service6(&[a.address, b.address]) }];
    network.write(&state);
    let mut same: Vec<String> = (0..6).map(|_| b.get(VIP6, 80).unwrap()).collect();
    same.dedup();
    assert_eq!(same.len(), 1, "{same:?}");
    // Ports that the Service does not have, those of the network itself, addresses without a machine, and the port that is
    // this host's alone.
    let nobody = machine_address6(Ipv4Addr::new(10, 78, 9, 9));
    for (address, port) in
        [(VIP6, 81), (NODE6, rules::PROXY_PORT), (NODE6, 53), (nobody, 80), (b.address6(), 10256)]
    {
        assert_eq!(a.get(address, port), Err(Errno::CONNREFUSED), "{address} {port}");
    }
    let host = b.address6();
    assert!(network.inside.run(move || get(host, 10256)).is_ok());
    state.services = vec![service6(&[])];
    network.write(&state);
    assert_eq!(
        (a.get(VIP6, 80), network.inside.run(|| get(VIP6, 80)), network.inside.run(move || get(nobody, 80))),
        (Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED))
    );
}

#[test]
fn the_health_port_of_a_machine_is_the_hosts_alone() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: there(&[a.address, b.address]), ..Wanted::default() });
    b.serve(10256);
    assert_eq!(a.get(b.address, 10256), Err(Errno::CONNREFUSED));
    let host = b.address;
    assert!(network.inside.run(move || get(host, 10256)).is_ok());
}

#[test]
fn a_client_with_one_socket_reaches_the_backends_that_a_service_has_now() {
    if !runs() {
        return;
    }
    for (vip, everybody) in
        [(VIP.into(), Ipv4Addr::UNSPECIFIED.into()), (VIP6.into(), Ipv6Addr::UNSPECIFIED.into())]
    {
        one_socket(vip, everybody);
    }
}

/// The same with a Service at this address; `everybody` is the unspecified one of its family.
fn one_socket(vip: IpAddr, everybody: IpAddr) {
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    let of = |standin: &Standin| match vip {
        IpAddr::V4(_) => IpAddr::V4(standin.address),
        IpAddr::V6(_) => IpAddr::V6(standin.address6()),
    };
    for server in [&b, &c] {
        let own = of(server).to_string();
        let socket = server.inside.run(move || UdpSocket::bind((everybody, 53)).unwrap());
        std::thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 16]) {
                let _ = socket.send_to(own.as_bytes(), client);
            }
        });
    }
    let service = |backend: IpAddr| WantedService {
        address: vip,
        protocol: Protocol::Udp,
        port: 53,
        backends: vec![SocketAddr::from((backend, 53))],
        ..service(&[])
    };
    let write = |services: Vec<WantedService>| {
        network.write(&Wanted {
            machines: there(&[a.address, b.address, c.address]),
            services,
            policies: vec![],
        });
    };
    let client = a.inside.run(move || {
        let socket = UdpSocket::bind((everybody, 0)).unwrap();
        socket.connect((vip, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        socket
    });
    let ask = || {
        client.send(b"who").unwrap();
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).map_err(|error| error.kind())?;
        Ok::<_, std::io::ErrorKind>(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    write(vec![service(of(&b))]);
    assert_eq!(ask().unwrap(), of(&b).to_string());
    write(vec![service(of(&c))]);
    assert_eq!(ask().unwrap(), of(&b).to_string(), "the kernel remembers");
    let forget = |services: &[WantedService]| {
        let wanted = Wanted { services: services.to_vec(), ..Wanted::default() };
        super::super::conntrack::forget(&network.handles.conntrack, &wanted).unwrap();
    };
    forget(&[service(of(&c))]);
    assert_eq!(ask().unwrap(), of(&c).to_string());
    // What goes to a backend stays.
    forget(&[service(of(&c))]);
    assert_eq!(ask().unwrap(), of(&c).to_string());
    write(vec![]);
    forget(&[]);
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(ask().is_err());
}

#[test]
fn open_connections_are_counted_for_the_machine_that_accepted_them() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    let services = vec![service(&[a.address])];
    network.write(&Wanted { machines: there(&[a.address, b.address]), services, policies: vec![] });
    let count = || super::super::conntrack::connections(&network.handles.conntrack).unwrap();
    // A client is connected a moment before its last packet of that has come through.
    let counted = |connections: u32| {
        let expected = [(a.address, connections)].into();
        let given_up = Instant::now() + Duration::from_secs(30);
        while count() != expected {
            assert!(Instant::now() < given_up, "{:?}, not {connections}", count());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    assert!(count().is_empty());
    let _listener = a.inside.run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let address = a.address;
    let _direct = b.inside.run(move || TcpStream::connect((address, 8080)).unwrap());
    let _by_service = network.inside.run(|| TcpStream::connect((VIP, 80)).unwrap());
    counted(2);
    // Those over IPv6 are the same machine's.
    let address = a.address6();
    let _over_ipv6 =
        a.inside.run(|| TcpListener::bind((machine_address6(Ipv4Addr::new(10, 78, 1, 1)), 8080)).unwrap());
    let _direct = b.inside.run(move || TcpStream::connect((address, 8080)).unwrap());
    counted(3);
    // The connection of status checks is no client's.
    let address = a.address;
    let listener = a.inside.run(|| TcpListener::bind(("0.0.0.0", HEALTH_PORT)).unwrap());
    let check = network.inside.run(move || TcpStream::connect((address, HEALTH_PORT)).unwrap());
    let accepted = listener.accept().unwrap();
    // One of a client that comes after it is counted, and with it the table has the other one.
    let client = b.inside.run(move || TcpStream::connect((address, 8080)).unwrap());
    counted(4);
    drop((check, accepted, client));
}

#[test]
fn an_interface_goes_with_its_machine_and_the_sockets_work_from_outside() {
    if !runs() {
        return;
    }
    let network = network();
    let address = Ipv4Addr::new(10, 78, 1, 1);
    let tap = network.tap(address);
    let name = wanted::tap(address);
    assert!(interfaces::list(&network.handles.route).unwrap().contains_key(&name));
    let again = network
        .inside
        .run(move || sys::interface(Path::new(DEVICE), &wanted::tap(address), Virtual::Frames).unwrap_err());
    assert_eq!(again.raw_os_error(), Some(Errno::BUSY.raw_os_error()));
    drop(tap);
    assert!(!interfaces::list(&network.handles.route).unwrap().contains_key(&name));
    // The name server's socket answers in the network, wherever its owner is.
    let names = network.handles.outside.as_ref().unwrap().names_udp.try_clone().unwrap();
    let names = UdpSocket::from(names);
    names.set_nonblocking(false).unwrap();
    let asked = network.inside.run(|| {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"question", (GATEWAY, 53)).unwrap();
        client
    });
    let mut bytes = [0; 16];
    let (length, client) = names.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], client.ip()), (&b"question"[..], GATEWAY.into()));
    names.send_to(b"answer", client).unwrap();
    assert_eq!(asked.recv(&mut bytes).unwrap(), 6);
    // What leaves comes to the interface to outside.
    network.inside.run(|| drop(UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"out", "192.0.2.1:9")));
    let tun = &network.handles.outside.as_ref().unwrap().tun;
    // The kernel joins groups of IPv6 there, too.
    let sent = || {
        let mut packet = vec![0; 2048];
        loop {
            let length = rustix::io::read(tun.as_fd(), &mut *packet).unwrap();
            if packet[..length].ends_with(b"out") {
                return packet;
            }
        }
    };
    let packet = sent();
    assert_eq!((packet[0] >> 4, &packet[12..20]), (4, &[10, 78, 0, 1, 192, 0, 2, 1][..]));
    network.inside.run(|| drop(UdpSocket::bind("[::]:0").unwrap().send_to(b"out", "[2001:db8::1]:9")));
    let packet = sent();
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap());
    assert_eq!((packet[0] >> 4, source), (6, NODE6));
}
