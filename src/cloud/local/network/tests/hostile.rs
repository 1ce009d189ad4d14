//! Machines that say what is not so, or too much of it.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;

use super::super::netlink::{self, Batch, NLM_F_DUMP};
use super::super::nftables::Packets;
use super::super::wanted::{
    self, GATEWAY, GATEWAY_HARDWARE, GATEWAY6, NODE, NODE6, Wanted, machine_address6,
};
use super::super::{namespace, rules};
use super::{Network, get, ip, network, runs, service, there};

#[test]
fn a_forged_source_is_dropped_and_an_address_without_a_machine_refused() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: there(&[a.address, b.address]), ..Wanted::default() });
    let heard = b.inside.run(|| UdpSocket::bind("0.0.0.0:9").unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (to, mut bytes) = (b.address, [0; 16]);
    a.inside.run(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"own", (to, 9)).unwrap());
    assert_eq!(heard.recv_from(&mut bytes).unwrap().1.ip(), a.address);
    for forged in ["10.78.1.3", "10.78.0.1", "8.8.8.8"] {
        let before = a.sent.load(Ordering::SeqCst);
        a.inside.run(move || {
            ip(&format!("ip address add {forged}/32 dev eth0"));
            UdpSocket::bind((forged, 0)).unwrap().send_to(b"forged", (to, 9)).unwrap();
        });
        let error = heard.recv_from(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{forged}");
        assert!(a.sent.load(Ordering::SeqCst) > before, "{forged} was sent");
    }
    let nobody = Ipv4Addr::new(10, 78, 9, 9);
    assert_eq!(
        (a.get(nobody, 80), network.inside.run(move || get(nobody, 80))),
        (Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED))
    );
}

#[test]
fn a_forged_source_of_ipv6_is_dropped_and_a_machine_without_ipv6_has_none() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    let mut machines = there(&[a.address, b.address]);
    network.write(&Wanted { machines: machines.clone(), ..Wanted::default() });
    let heard = b.inside.run(|| UdpSocket::bind("[::]:9").unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (to, mut bytes) = (b.address6(), [0; 16]);
    let own = a.address6();
    let send = |source: Ipv6Addr| {
        let before = a.sent.load(Ordering::SeqCst);
        a.inside.run(move || UdpSocket::bind((source, 0)).unwrap().send_to(b"x", (to, 9)).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert!(a.sent.load(Ordering::SeqCst) > before, "{source} was sent");
    };
    send(own);
    assert_eq!(heard.recv_from(&mut bytes).unwrap().1.ip(), own);
    for forged in ["fd69:326b:6974:78::103", "fd69:326b:6974:78::1", "2001:db8::1"] {
        let forged: Ipv6Addr = forged.parse().unwrap();
        a.inside.run(move || ip(&format!("ip -6 address add {forged}/128 dev eth0 nodad")));
        send(forged);
        let error = heard.recv_from(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{forged}");
    }
    // A machine that has no address of IPv6 sends nothing over it, whatever its guest sets.
    machines.insert(a.address, None);
    network.write(&Wanted { machines, ..Wanted::default() });
    send(own);
    assert_eq!(heard.recv_from(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_machine_with_many_connections_leaves_others_room() {
    if !runs() {
        return;
    }
    let network = network();
    let [a, b, c, d, six] = [1, 2, 3, 4, 5].map(|last| network.standin(last));
    let machines = there(&[a.address, b.address, c.address, d.address, six.address]);
    let state = Wanted { machines, ..Wanted::default() };
    network.write(&state);
    b.serve(8080);
    let to = b.address;
    assert!(a.get(to, 8080).is_ok());
    let few = rules::limits(20, Packets::Both).written(rules::LIMITS, None);
    namespace::write(&network.handles.rules, few).unwrap();
    // Each datagram to another port is a flow of its own, for half a minute.
    a.inside.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1..=200 {
            socket.send_to(b"flow", (to, port)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    // And each question to the name server.
    d.inside.run(|| {
        for _ in 1..=200 {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"flow", (GATEWAY, 53)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    // Connections of both families are counted together.
    let to6 = b.address6();
    six.inside.run(move || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        for port in 1..=200 {
            socket.send_to(b"flow", (to6, port)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    // Other rules are no new beginning.
    network.write(&Wanted { services: vec![service(&[to])], ..state });
    assert!(a.get(to, 8080).is_err() && d.get(to, 8080).is_err());
    assert!(a.get(to6, 8080).is_err() && six.get(to6, 8080).is_err() && six.get(to, 8080).is_err());
    assert!(c.get(to, 8080).is_ok() && network.inside.run(move || get(to, 8080)).is_ok());
}

#[test]
fn forged_requests_of_arp_are_not_remembered() {
    if !runs() {
        return;
    }
    let network = network();
    let machine = Ipv4Addr::new(10, 78, 1, 1);
    let tap = network.tap(machine);
    network.write(&Wanted { machines: there(&[machine]), ..Wanted::default() });
    // A request for the gateway's address behind the header of virtio.
    let ask = |sender: Ipv4Addr| {
        let own = wanted::hardware_address(machine);
        let parts: [&[u8]; 9] = [
            &[0; 10],
            &[0xff; 6],
            &own,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &own,
            &sender.octets(),
            &[0; 6],
            &GATEWAY.octets(),
            &[0; 18],
        ];
        rustix::io::write(&tap, &parts.concat()).unwrap();
    };
    let forged = (0..200).map(|number| Ipv4Addr::new(10, 9, 9, number));
    forged.chain([Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(10, 78, 1, 2), NODE]).for_each(ask);
    ask(machine);
    // The machine gets its answer, and nobody else.
    rustix::io::ioctl_fionbio(&tap, true).unwrap();
    let (mut frame, mut answers) = ([0; 2048], Vec::new());
    while let Ok(length) = rustix::io::read(&tap, &mut frame) {
        if frame[22..24] == [8, 6] {
            answers.push(<[u8; 4]>::try_from(&frame[48..length.min(52)]).map(Ipv4Addr::from).unwrap());
        }
    }
    assert_eq!(answers, [machine]);
    // RTM_GETNEIGH, of IPv4: the machine itself, and what has no hardware address.
    let mut batch = Batch::default();
    batch.message((30, NLM_F_DUMP), "list of neighbours", |body| {
        body.put(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
    let mut neighbours = Vec::new();
    netlink::dump(&network.handles.route, &batch, |_, body| {
        let address = netlink::attributes(&body[12..]).find(|(kind, _)| *kind == 1);
        neighbours
            .extend(address.and_then(|(_, address)| Some(Ipv4Addr::from(*address.first_chunk::<4>()?))));
    })
    .unwrap();
    assert_eq!(neighbours, [machine]);
}

/// A packet of `ICMPv6` as a frame from a machine, behind the header of virtio.
fn icmp6(machine: Ipv4Addr, (source, to): (Ipv6Addr, Ipv6Addr), body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let mut body = body.to_vec();
    let pseudo = [&source.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, 58], &body].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    body[2..4].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    let hardware = wanted::hardware_address(machine);
    let head: [&[u8]; 8] = [
        &[0; 10],
        &GATEWAY_HARDWARE,
        &hardware,
        &[0x86, 0xdd, 0x60, 0, 0, 0],
        &length,
        &[58, 255],
        &source.octets(),
        &to.octets(),
    ];
    [head.concat(), body].concat()
}

/// The neighbours of IPv6 that the network knows, with their hardware addresses; without groups, whose hardware address is
/// computed and which the kernel lists whenever it reports one.
fn neighbours6(network: &Network) -> Vec<(Ipv6Addr, Vec<u8>)> {
    let mut batch = Batch::default();
    batch.message((30, NLM_F_DUMP), "list of neighbours", |body| {
        body.put(&[10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
    let mut found = Vec::new();
    netlink::dump(&network.handles.route, &batch, |_, body| {
        let of = |wanted: u16| netlink::attributes(&body[12..]).find(|(kind, _)| *kind == wanted);
        let address = of(1).and_then(|(_, bytes)| Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?)));
        found.extend(
            address
                .filter(|address| !address.is_multicast())
                .map(|address| (address, of(2).map(|(_, bytes)| bytes.to_vec()).unwrap_or_default())),
        );
    })
    .unwrap();
    found
}

#[test]
fn neighbours_and_routers_over_ipv6_cannot_be_forged() {
    if !runs() {
        return;
    }
    let network = network();
    let [machine, other] = [1, 2].map(|last| Ipv4Addr::new(10, 78, 1, last));
    let taps = [network.tap(machine), network.tap(other)];
    network.write(&Wanted { machines: there(&[machine, other]), ..Wanted::default() });
    let (own, neighbour) = (machine_address6(machine), machine_address6(other));
    let state = |network: &Network| {
        let lists = network.inside.run(|| {
            ["ip -6 route show table all", "ip -6 address"].map(|command| {
                let words: Vec<&str> = command.split(' ').collect();
                std::process::Command::new(words[0]).args(&words[1..]).output().unwrap().stdout
            })
        });
        (neighbours6(network), lists.map(|text| String::from_utf8(text).unwrap()))
    };
    // The kernel adds the routes of an interface a moment after it is up.
    let mut before = state(&network);
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = state(&network);
        if now == before {
            break;
        }
        before = now;
    }
    let hardware = |address: Ipv4Addr| wanted::hardware_address(address).to_vec();
    for expected in [(own, hardware(machine)), (neighbour, hardware(other))] {
        assert!(before.0.contains(&expected), "{:?}", before.0);
    }
    assert!(
        !before.1[1].contains("fe80"),
        "the network's interfaces have no link-local address: {}",
        before.1[1]
    );
    let wrong = [2, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb];
    let link = |kind: u8| [&[kind, 1][..], &wrong].concat();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
    let strangers = (0..50).map(|number| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, number));
    for source in strangers.chain([own, neighbour, local, GATEWAY6, NODE6, Ipv6Addr::UNSPECIFIED]) {
        for target in [own, neighbour, GATEWAY6, NODE6] {
            // A solicitation of a neighbour, and an advertisement that overrides.
            let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &link(1)].concat();
            let advertisement = [&[136, 0, 0, 0, 0xe0, 0, 0, 0][..], &target.octets(), &link(2)].concat();
            for to in [all_nodes, NODE6, GATEWAY6] {
                for body in [&solicitation, &advertisement] {
                    rustix::io::write(&taps[0], &icmp6(machine, (source, to), body)).unwrap();
                }
            }
        }
        // An advertisement of a router with a prefix, and a redirect of the other machine's address.
        let prefix = [
            &[3, 4, 64, 0xc0][..],
            &[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
            &[0x20, 1, 0xd, 0xb8],
            &[0; 12],
        ];
        let router =
            [&[134, 0, 0, 0, 64, 0, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix.concat(), &link(1)]
                .concat();
        let redirect =
            [&[137, 0, 0, 0, 0, 0, 0, 0][..], &own.octets(), &neighbour.octets(), &link(2)].concat();
        for body in [router, redirect, [&[133, 0, 0, 0, 0, 0, 0, 0][..], &link(1)].concat()] {
            for to in [all_nodes, NODE6] {
                rustix::io::write(&taps[0], &icmp6(machine, (source, to), &body)).unwrap();
            }
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(state(&network), before);
    // Nobody was answered either: neighbour advertisements and router advertisements.
    rustix::io::ioctl_fionbio(&taps[0], true).unwrap();
    let mut frame = [0; 2048];
    while let Ok(length) = rustix::io::read(&taps[0], &mut frame) {
        let is_discovery =
            frame[22..24] == [0x86, 0xdd] && frame[30] == 58 && (133..=137).contains(&frame[64]);
        assert!(!is_discovery, "{:02x?}", &frame[..length]);
    }
}
