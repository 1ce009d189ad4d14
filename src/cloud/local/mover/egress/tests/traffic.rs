//! What machines get: connections, datagrams and pings, the answers to them, and the truth where there is none.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

use super::bed::{Bed, MACHINES, Namespace, SERVERS, digest, noise, wanted};
use crate::cloud::local::network::sys::queue_errors;

const PATIENCE: Duration = Duration::from_secs(15);

/// The port of a server of the host that reads to the end, then sends the checksum of it, its length, and all of it
/// back. One server for each family.
fn echo_server(host: &Namespace, address: &'static str) -> SocketAddr {
    host.run(move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                std::thread::spawn(move || {
                    let mut client = client.unwrap();
                    let mut all = Vec::new();
                    // A client may go away, which is told by what it does not get.
                    let _ = client.read_to_end(&mut all);
                    let _ = client.write_all(&digest(&all).to_be_bytes());
                    let _ = client.write_all(&all);
                });
            }
        });
        at
    })
}

/// A datagram socket of the machine that is connected to `to`.
fn udp_client(bed: &Bed, from: &'static str, to: SocketAddr) -> UdpSocket {
    bed.guest.run(move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

fn connect(bed: &Bed, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    bed.guest.run(move || TcpStream::connect_timeout(&to, PATIENCE))
}

#[test]
fn transfers_are_whole_both_ways_and_end_in_halves() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    for server in SERVERS.map(|address| echo_server(&bed.host, address)) {
        let clients: Vec<_> = (0..8).map(|_| connect(&bed, &server.to_string()).unwrap()).collect();
        let transfers = clients.into_iter().enumerate().map(|(seed, mut client)| {
            std::thread::spawn(move || {
                let sent = noise(u32::try_from(seed).unwrap(), 1 << 20);
                client.write_all(&sent).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                let (mut sum, mut back) = ([0; 4], Vec::new());
                client.read_exact(&mut sum).unwrap();
                client.read_to_end(&mut back).unwrap();
                assert_eq!(u32::from_be_bytes(sum), digest(&sent), "what the server got");
                assert!(back == sent, "what came back");
            })
        });
        for transfer in transfers.collect::<Vec<_>>() {
            transfer.join().unwrap();
        }
    }
    let report = bed.until(|report| report.connecting == 0);
    assert_eq!((report.counters.dropped, report.counters.forbidden), (0, 0), "{report:?}");
}

#[test]
fn a_machine_gets_the_answer_that_the_host_got() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    let refusals = [
        ("192.0.2.1:9", "Connection refused"),
        ("[2001:db8::1]:9", "Connection refused"),
        ("198.51.100.1:80", "No route to host"),
        ("[2001:db8:2::1]:80", "No route to host"),
        ("203.0.113.1:80", "Network is unreachable"),
        ("[2001:db8:9::1]:80", "Network is unreachable"),
        ("198.51.101.1:80", "No route to host"),
    ];
    for (to, answer) in refusals {
        let started = Instant::now();
        let error = connect(&bed, to).unwrap_err().to_string();
        assert!(error.starts_with(answer), "{to}: {error}");
        assert!(started.elapsed() < Duration::from_secs(1), "{to} took {:?}", started.elapsed());
    }
    assert_eq!(bed.until(|report| report.connecting == 0).counters.dropped, 0);
}

#[test]
fn a_host_without_ipv6_says_so_at_once() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    bed.host.sysctl("ipv6/conf/all/disable_ipv6", "1");
    for to in ["[2001:db8::1]:80", "[2001:db8:9::1]:80"] {
        let error = connect(&bed, to).unwrap_err().to_string();
        assert!(error.starts_with("Network is unreachable"), "{to}: {error}");
        let client = udp_client(&bed, MACHINES[2], to.parse().unwrap());
        // Without this the kernel keeps such an answer to itself: it may pass.
        queue_errors(client.as_fd(), true).unwrap();
        client.send(b"anybody?").unwrap();
        let error = client.recv(&mut [0; 16]).unwrap_err().to_string();
        assert!(error.starts_with("Network is unreachable"), "{to}: {error}");
    }
    let report = bed.until(|report| report.connecting == 0);
    assert_eq!((report.counters.dropped, report.warnings.len()), (0, 0), "{report:?}");
}

#[test]
fn loopback_metadata_and_other_networks_are_not_reached() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    // Servers on all addresses of the host, and one on its loopback address, which the first would also be.
    bed.host.ip("addr add 169.254.169.254/32 dev wan\naddr add 10.77.0.9/32 dev wan\naddr add fd00:ec2::254/128 dev wan nodad\n");
    let port = bed.host.run(|| {
        let any = TcpListener::bind(("::", 0)).unwrap();
        let port = any.local_addr().unwrap().port();
        std::thread::spawn(move || any.incoming().for_each(drop));
        port
    });
    connect(&bed, &format!("192.0.2.1:{port}")).unwrap();
    // 127/8 does not leave a machine by itself: a route says that it does.
    bed.guest.ip(
        "route del local 127.0.0.0/8 dev lo table local\nroute add 127.0.0.0/8 via 169.254.1.1 dev eth0\n",
    );
    bed.guest.sysctl("ipv4/conf/all/route_localnet", "1");
    bed.environment.sysctl("ipv4/conf/all/route_localnet", "1");
    bed.environment.ip("route del local 127.0.0.0/8 dev lo table local\nroute add 127.0.0.0/8 dev tun0\n");
    for to in ["169.254.169.254", "10.77.0.9", "[fd00:ec2::254]"] {
        let started = Instant::now();
        let error = connect(&bed, &format!("{to}:{port}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
        assert!(started.elapsed() < Duration::from_secs(1), "{to}");
    }
    let before = bed.report().counters.forbidden;
    for to in ["169.254.169.254", "10.77.0.9", "[fd00:ec2::254]"] {
        let socket = udp_client(
            &bed,
            if to.starts_with('[') { MACHINES[2] } else { MACHINES[0] },
            format!("{to}:{port}").parse().unwrap(),
        );
        socket.send(b"x").unwrap();
        assert!(socket.recv(&mut [0; 8]).is_err(), "{to}");
    }
    bed.until(|report| report.counters.forbidden >= before + 3);
}

#[test]
fn datagrams_of_all_lengths_go_and_come_back() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    for (server, client) in SERVERS.into_iter().zip([MACHINES[0], MACHINES[2]]) {
        let at = udp_echo(&bed.host, server);
        let client = udp_client(&bed, client, at);
        for (seed, len) in [(1, 0), (2, 1), (3, 1232), (4, 1472), (5, 4000), (6, 30_000), (7, 60_000)] {
            let sent = noise(seed, len);
            client.send(&sent).unwrap();
            let mut back = vec![0; 65_536];
            let count = client.recv(&mut back).unwrap();
            assert!(back[..count] == sent, "{len} bytes of {server}, {count} came back");
        }
    }
    let report = bed.until(|report| report.flows == 2);
    assert_eq!((report.fragments, report.counters.malformed), (0, 0), "{report:?}");
    // Nothing was said for long: the flows end.
    bed.skipped.store(130, std::sync::atomic::Ordering::Release);
    bed.until(|report| report.flows == 0);
}

/// A server of the host that sends datagrams back.
pub(super) fn udp_echo(host: &Namespace, address: &'static str) -> SocketAddr {
    host.run(move || {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let at = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..len], from).unwrap();
            }
        });
        at
    })
}

#[test]
fn errors_about_datagrams_reach_the_machine() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    // What a firewall of the host's network answers.
    bed.host.tool(
        &["nft", "-f", "-"],
        "table inet wall { chain input { type filter hook input priority 0;
            udp dport 7777 reject with icmpx type admin-prohibited
            udp dport 7778 meta nfproto ipv4 reject with icmp type host-unreachable
        }
        }",
    );
    let refusals = [
        (MACHINES[0], "192.0.2.1:9", "Connection refused"),
        (MACHINES[2], "[2001:db8::1]:9", "Connection refused"),
        (MACHINES[0], "192.0.2.1:7777", "No route to host"),
        (MACHINES[0], "192.0.2.1:7778", "No route to host"),
        (MACHINES[0], "198.51.100.1:53", "No route to host"),
        (MACHINES[0], "203.0.113.1:53", "Network is unreachable"),
    ];
    for (from, to, answer) in refusals {
        let socket = udp_client(&bed, from, to.parse().unwrap());
        let ipv6 = to.starts_with('[');
        crate::cloud::local::network::sys::queue_errors(std::os::fd::AsFd::as_fd(&socket), ipv6).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err().to_string();
        assert!(error.starts_with(answer), "{to}: {error}");
    }
    // Too long for the host's link, and not to be fragmented: the machine learns the link's MTU.
    let to: SocketAddr = "198.18.0.2:53".parse().unwrap();
    let socket = udp_client(&bed, MACHINES[0], to);
    sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO).unwrap();
    socket.send(&[0; 1400]).unwrap();
    let started = Instant::now();
    while sockopt::ip_mtu(&socket).unwrap() != 1300 {
        assert!(started.elapsed() < PATIENCE, "{:?}", sockopt::ip_mtu(&socket));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(socket.send(&[0; 1400]).unwrap_err().raw_os_error(), Some(90), "EMSGSIZE");
    // The same may be fragmented: the host's link carries it in two parts.
    let before = transmitted(&bed);
    let socket = udp_client(&bed, MACHINES[0], to);
    sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT).unwrap();
    socket.send(&[0; 1400]).unwrap();
    let started = Instant::now();
    while transmitted(&bed) < before + 2 {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number of packets that the host has sent by its narrow link.
fn transmitted(bed: &Bed) -> u64 {
    bed.host.run(|| {
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let narrow = devices.lines().find_map(|line| line.trim().strip_prefix("narrow:")).unwrap();
        narrow.split_whitespace().nth(9).unwrap().parse().unwrap()
    })
}

/// Sends an echo request of the machine, and gives the answer.
fn ping(bed: &Bed, to: &str, bytes: usize) -> rustix::io::Result<Vec<u8>> {
    let to = SocketAddr::new(to.parse().unwrap(), 0);
    let (family, protocol, kind) = if to.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP, 8)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6, 128)
    };
    let socket: OwnedFd =
        bed.guest.run(move || rustix::net::socket(family, SocketType::DGRAM, Some(protocol)).unwrap());
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
    crate::cloud::local::network::sys::queue_errors(std::os::fd::AsFd::as_fd(&socket), to.is_ipv6()).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 42];
    request.extend(noise(7, bytes));
    rustix::net::send(&socket, &request, SendFlags::empty()).unwrap();
    let mut answer = vec![0; 65_536];
    let (len, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    answer.truncate(len);
    Ok(answer)
}

#[test]
fn pings_are_answered_and_what_forbids_them_is_said() {
    if !wanted() {
        return;
    }
    let mut bed = Bed::new();
    for (server, kind) in SERVERS.into_iter().zip([0, 129]) {
        for bytes in [0, 56, 3000] {
            let answer = ping(&bed, server, bytes).unwrap();
            assert_eq!((answer[0], &answer[6..8]), (kind, &[0, 42][..]), "{server}");
            assert!(answer[8..] == noise(7, bytes), "{server}: {bytes} bytes");
        }
    }
    let error = ping(&bed, "198.51.100.1", 8).unwrap_err();
    assert_eq!(error, rustix::io::Errno::HOSTUNREACH);
    assert_eq!(bed.report().warnings, Vec::<String>::new());
    bed.stop();
    bed.host.sysctl("ipv4/ping_group_range", "1 0");
    bed.start(true);
    assert_eq!(ping(&bed, SERVERS[0], 8).unwrap_err(), rustix::io::Errno::HOSTUNREACH);
    let report = bed.until(|report| !report.warnings.is_empty());
    assert!(report.warnings[0].contains("sysctl -w net.ipv4.ping_group_range"), "{report:?}");
}
