//! One machine takes nothing from another: flows and connections that are being made have a limit each.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::super::budget::{CONNECTING, FLOWS};
use super::bed::{Bed, MACHINES, SERVERS, wanted};
use super::traffic::udp_echo;

/// Sends a datagram to the server and waits for it to come back.
fn round(socket: &UdpSocket) -> bool {
    socket.send(b"round").unwrap();
    socket.recv(&mut [0; 16]).is_ok_and(|len| len == 5)
}

fn client(bed: &Bed, from: &'static str, to: SocketAddr) -> UdpSocket {
    bed.guest.run(move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    })
}

#[test]
fn a_thousand_flows_work_and_a_machine_with_more_evicts_its_own() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    let server = udp_echo(&bed.host, SERVERS[0]);
    let other = client(&bed, MACHINES[1], server);
    assert!(round(&other));
    let clients: Vec<UdpSocket> = (0..1000).map(|_| client(&bed, MACHINES[0], server)).collect();
    for (number, client) in clients.iter().enumerate() {
        assert!(round(client), "flow {number}");
    }
    let report = bed.until(|report| report.flows == 1001);
    assert_eq!(report.counters.evicted, 0, "{report:?}");
    let further: Vec<UdpSocket> = (0..300).map(|_| client(&bed, MACHINES[0], server)).collect();
    assert!(further.iter().all(round));
    let report = bed.until(|report| report.counters.evicted == 300 - (FLOWS as u64 - 1000));
    assert_eq!(report.flows, FLOWS + 1, "{report:?}");
    // The other machine's flow is there, and a flow that was ended begins anew.
    assert!(round(&other) && round(&clients[0]));
    assert_eq!(bed.report().flows, FLOWS + 1);
}

#[test]
fn a_scan_of_ports_leaves_other_machines_room() {
    if !wanted() {
        return;
    }
    let bed = Bed::new();
    let server = bed.host.run(|| {
        let listener = std::net::TcpListener::bind((SERVERS[0], 0)).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        at
    });
    // Nobody answers there.
    let nowhere: Vec<SocketAddr> = (1..=400).map(|port| SocketAddr::from(([198, 18, 0, 2], port))).collect();
    let clients = bed.guest.run(move || {
        let connecting = nowhere.into_iter().map(|to| {
            let flags = rustix::net::SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                flags,
                None,
            )
            .unwrap();
            rustix::net::bind(&socket, &SocketAddr::from(([10, 78, 1, 7], 0))).unwrap();
            assert_eq!(rustix::net::connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
            socket
        });
        connecting.collect::<Vec<_>>()
    });
    let report = bed.until(|report| report.counters.dropped >= 400 - CONNECTING as u64);
    assert_eq!(report.connecting, CONNECTING, "{report:?}");
    assert!(report.warnings[0].starts_with("the machine 10.78.1.7 has as many"), "{report:?}");
    let connected = bed.guest.run(move || {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                .unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([10, 78, 1, 8], 0))).unwrap();
        rustix::net::connect(&socket, &server).map(|()| TcpStream::from(socket))
    });
    assert!(connected.is_ok(), "{connected:?}");
    drop(clients);
    // What nobody answers is given up.
    bed.skipped.store(61, std::sync::atomic::Ordering::Release);
    bed.until(|report| report.connecting == 0);
}
