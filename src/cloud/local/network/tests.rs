//! The network in the kernel: namespaces that the test makes as root, with stand-ins in the place of machines. A stand-in is a
//! network namespace whose one interface is cabled to that of the machine, with the address and the routes that the guest
//! sets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::namespace::{self, DEVICE, Handles, Join};
use super::netlink::{self, Batch, NLM_F_DUMP};
use super::sys::{self, Virtual};
use super::wanted::{Addresses, Allow, Block, GATEWAY, NODE, Policy, Ports, Range, Wanted, WantedService};
use super::{interfaces, rules, wanted};
use crate::manifest::api::Protocol;

/// Whether these tests run; says so when they do not.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn runs() -> bool {
    let runs = std::env::var_os("I2KIT_TEST_TOOLS").is_some_and(|value| value == "1");
    if !runs {
        eprintln!("skipped: I2KIT_TEST_TOOLS=1 is not set; scripts/test sets it, and runs as root");
    }
    runs
}

/// A thread in a network namespace, which does what it is given.
struct Inside {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Inside {
    /// A thread that begins with `enter`.
    fn new<T: Send + 'static>(enter: impl FnOnce() -> T + Send + 'static) -> (Self, T) {
        let (work, given) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (entered, result) = mpsc::channel();
        std::thread::spawn(move || {
            entered.send(enter()).unwrap();
            for work in given {
                work();
            }
        });
        let entered = result.recv().unwrap();
        (Self { work }, entered)
    }

    /// Does `work` there.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.work.send(Box::new(move || done.send(work()).unwrap())).unwrap();
        result.recv().unwrap()
    }

    /// Begins `work` there, on a thread of its own.
    fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.run(move || drop(std::thread::spawn(work)));
    }
}

/// An environment's network.
struct Network {
    inside: Inside,
    handles: Handles,
}

fn network() -> Network {
    let (inside, handles) = Inside::new(|| namespace::open(&Join::default()).unwrap());
    Network { inside, handles }
}

/// The stand-in of a machine.
struct Standin {
    address: Ipv4Addr,
    inside: Inside,
    /// The number of frames from it.
    sent: Arc<AtomicU64>,
}

fn block(address: Ipv4Addr, bits: u8) -> Block {
    Block { address, bits }
}

impl Network {
    fn tap(&self, address: Ipv4Addr) -> OwnedFd {
        let tap = self
            .inside
            .run(move || sys::interface(Path::new(DEVICE), &wanted::tap(address), Virtual::Frames));
        let tap = tap.unwrap();
        let index = interfaces::list(&self.handles.route).unwrap()[&wanted::tap(address)];
        interfaces::request(&self.handles.route, &interfaces::machine(index, address)).unwrap();
        tap
    }

    fn standin(&self, last: u8) -> Standin {
        let address = Ipv4Addr::new(10, 78, 1, last);
        let ours = self.tap(address);
        let (inside, theirs) = Inside::new(move || {
            sys::unshare(false, true).unwrap();
            let theirs = sys::interface(Path::new(DEVICE), "eth0", Virtual::Frames).unwrap();
            let mac = wanted::hardware_address(address).map(|byte| format!("{byte:02x}")).join(":");
            for command in [
                "ip link set lo up".to_owned(),
                format!("ip link set eth0 address {mac} up"),
                format!("ip address add {address}/32 dev eth0"),
                format!("ip route add {GATEWAY} dev eth0"),
                format!("ip route add default via {GATEWAY}"),
            ] {
                ip(&command);
            }
            theirs
        });
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let (a, b) = (Arc::new(ours), Arc::new(theirs));
        for (from, to, count) in [(Arc::clone(&a), Arc::clone(&b), None), (b, a, Some(count))] {
            std::thread::spawn(move || {
                let mut frame = vec![0; 70_000];
                while let Ok(length) = rustix::io::read(&*from, &mut *frame) {
                    if let Some(count) = &count {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    let _ = rustix::io::write(&*to, &frame[..length]);
                }
            });
        }
        Standin { address, inside, sent }
    }

    fn write(&self, wanted: &Wanted) {
        namespace::write_rules(&self.handles.rules, wanted).unwrap();
    }
}

/// Runs a command of iproute2 in this thread's network.
fn ip(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let status = std::process::Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{command}");
}

impl Standin {
    /// Answers connections to a port with the machine's address and the client's.
    fn serve(&self, port: u16) {
        let (listening, is) = mpsc::channel();
        let own = self.address;
        self.inside.spawn(move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            listening.send(()).unwrap();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let client = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{own} from {client}").as_bytes());
            }
        });
        is.recv().unwrap();
    }

    fn get(&self, address: Ipv4Addr, port: u16) -> Result<String, Errno> {
        self.inside.run(move || get(address, port))
    }
}

/// What is answered at a port; why there is no answer.
fn get(address: Ipv4Addr, port: u16) -> Result<String, Errno> {
    let to = std::net::SocketAddr::from((address, port));
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::TIMEDOUT);
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 4);

/// A Service at [`VIP`] with these machines behind port 80.
fn service(backends: &[Ipv4Addr]) -> WantedService {
    WantedService {
        address: VIP,
        protocol: Protocol::Tcp,
        port: 80,
        has_affinity: false,
        backends: backends.iter().map(|address| SocketAddrV4::new(*address, 8080)).collect(),
    }
}

/// The number of entries that the kernel lists of nftables, by a request's type.
fn listed(socket: &OwnedFd, request: u16) -> usize {
    let mut batch = Batch::default();
    batch.message((10 << 8 | request, NLM_F_DUMP), "list", |body| {
        body.put(&[2, 0, 0, 0]);
    });
    let mut count = 0;
    netlink::dump(socket, &batch, |_, _| count += 1).unwrap();
    count
}

#[test]
fn the_kernel_takes_the_rules_and_each_table_replaces_the_one_before() {
    if !runs() {
        return;
    }
    let network = network();
    let socket = &network.handles.rules;
    for wanted in [rules::tests::sample(), Wanted::default(), rules::tests::sample()] {
        network.write(&wanted);
        let table = rules::table(&wanted);
        let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
        // NFT_MSG_GETTABLE, GETCHAIN, GETRULE, GETSET.
        let found = [1, 4, 7, 10].map(|request| listed(socket, request));
        // With the table of limits, of two chains with a rule each.
        assert_eq!(found, [1 + 1, table.chains.len() + 2, rules + 2, table.sets.len() + 1]);
    }
}

#[test]
fn the_kernel_takes_a_large_table_in_parts() {
    if !runs() {
        return;
    }
    let network = network();
    let socket = &network.handles.rules;
    for wanted in [rules::tests::large(600, 1), rules::tests::large(20, 50), Wanted::default()] {
        network.write(&wanted);
        let table = rules::table(&wanted);
        let found = [1, 4, 10].map(|request| listed(socket, request));
        assert_eq!(found, [1 + 1, table.chains.len() + 2, table.sets.len() + 1]);
    }
}

#[test]
fn machines_reach_each_other_by_address_and_by_service_and_are_who_they_are() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    let mut state = Wanted {
        machines: [a.address, b.address].into(),
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
fn a_forged_source_is_dropped_and_an_address_without_a_machine_refused() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: [a.address, b.address].into(), ..Wanted::default() });
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
fn a_policy_allows_what_it_names_by_address_and_by_service() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    for standin in [&a, &b, &c] {
        standin.serve(8080);
        standin.serve(9090);
    }
    let tcp = |first, last| Some(vec![Ports { protocol: Protocol::Tcp, range: (first, last) }]);
    let allow = |ranges: Vec<Range>, ports| Allow { peers: Addresses::of(ranges), ports };
    let machine = |address| vec![block(address, 32).range()];
    let mut state = Wanted {
        machines: [a.address, b.address, c.address].into(),
        services: vec![service(&[a.address])],
        policies: vec![Policy {
            machines: vec![a.address],
            ingress: Some(vec![allow(machine(b.address), tcp(8000, 8999))]),
            egress: None,
        }],
    };
    network.write(&state);
    let answer = Ok("10.78.1.1 from 10.78.1.2".to_owned());
    assert_eq!((b.get(a.address, 8080), b.get(VIP, 80)), (answer.clone(), answer));
    let refused = Err(Errno::CONNREFUSED);
    assert_eq!(
        (b.get(a.address, 9090), c.get(a.address, 8080), c.get(VIP, 80)),
        (refused.clone(), refused.clone(), refused.clone())
    );
    // The node and the machine itself are never cut off, and what is not selected is not restricted.
    let host = a.address;
    assert!(
        network.inside.run(move || get(host, 8080)).is_ok()
            && a.get(VIP, 80).is_ok()
            && a.get(c.address, 9090).is_ok()
    );
    // Both sides must allow: exceptions in a range, and no egress but to one machine.
    let mut except = vec![block(c.address, 32)];
    except.extend((0..200).map(|number| block(Ipv4Addr::new(10, 78, 2, number), 32)));
    let all = allow(block(NODE, 16).without(&except), None);
    let egress = Some(vec![allow(machine(c.address), None)]);
    state.policies = vec![
        Policy { machines: vec![a.address], ingress: Some(vec![all]), egress: None },
        Policy { machines: vec![b.address], ingress: None, egress },
    ];
    network.write(&state);
    assert_eq!((c.get(a.address, 8080), b.get(a.address, 8080)), (refused.clone(), refused));
    assert!(b.get(c.address, 9090).is_ok() && c.get(b.address, 9090).is_ok());
    state.policies.truncate(1);
    network.write(&state);
    assert!(b.get(a.address, 8080).is_ok());
}

#[test]
fn the_health_port_of_a_machine_is_the_hosts_alone() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: [a.address, b.address].into(), ..Wanted::default() });
    b.serve(10256);
    assert_eq!(a.get(b.address, 10256), Err(Errno::CONNREFUSED));
    let host = b.address;
    assert!(network.inside.run(move || get(host, 10256)).is_ok());
}

#[test]
fn a_machine_with_many_connections_leaves_others_room() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c, d) = (network.standin(1), network.standin(2), network.standin(3), network.standin(4));
    let machines = [a.address, b.address, c.address, d.address].into();
    let state = Wanted { machines, ..Wanted::default() };
    network.write(&state);
    b.serve(8080);
    let to = b.address;
    assert!(a.get(to, 8080).is_ok());
    let few = rules::limits(20).written(rules::LIMITS, None);
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
    std::thread::sleep(Duration::from_millis(300));
    // Other rules are no new beginning.
    network.write(&Wanted { services: vec![service(&[to])], ..state });
    assert!(a.get(to, 8080).is_err() && d.get(to, 8080).is_err());
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
    network.write(&Wanted { machines: [machine].into(), ..Wanted::default() });
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

#[test]
fn a_client_with_one_socket_reaches_the_backends_that_a_service_has_now() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    for server in [&b, &c] {
        let own = server.address.to_string();
        let socket = server.inside.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        std::thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 16]) {
                let _ = socket.send_to(own.as_bytes(), client);
            }
        });
    }
    let service = |backend| WantedService {
        protocol: Protocol::Udp,
        port: 53,
        backends: vec![SocketAddrV4::new(backend, 53)],
        ..service(&[])
    };
    let write = |services: Vec<WantedService>| {
        network.write(&Wanted {
            machines: [a.address, b.address, c.address].into(),
            services,
            policies: vec![],
        });
    };
    let client = a.inside.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((VIP, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        socket
    });
    let ask = || {
        client.send(b"who").unwrap();
        let mut answer = [0; 16];
        let length = client.recv(&mut answer).map_err(|error| error.kind())?;
        Ok::<_, std::io::ErrorKind>(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    write(vec![service(b.address)]);
    assert_eq!(ask().unwrap(), b.address.to_string());
    write(vec![service(c.address)]);
    assert_eq!(ask().unwrap(), b.address.to_string(), "the kernel remembers");
    let forget = |services: &[WantedService]| {
        let wanted = Wanted { services: services.to_vec(), ..Wanted::default() };
        super::conntrack::forget(&network.handles.conntrack, &wanted).unwrap();
    };
    forget(&[service(c.address)]);
    assert_eq!(ask().unwrap(), c.address.to_string());
    // What goes to a backend stays.
    forget(&[service(c.address)]);
    assert_eq!(ask().unwrap(), c.address.to_string());
    write(vec![]);
    forget(&[]);
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(ask().is_err());
}

#[test]
fn datagrams_on_their_way_are_refused_by_a_policy_that_comes_later() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    let server = a.inside.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap());
    std::thread::spawn(move || {
        let mut question = [0; 16];
        while let Ok((length, client)) = server.recv_from(&mut question) {
            let _ = server.send_to(&question[..length], client);
        }
    });
    let to = a.address;
    let client = |standin: &Standin| {
        standin.inside.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((to, 5000)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        })
    };
    let ask = |client: &UdpSocket| client.send(b"who").and_then(|_| client.recv(&mut [0; 16]));
    let mut state = Wanted { machines: [a.address, b.address, c.address].into(), ..Wanted::default() };
    let write = |state: &Wanted| {
        network.write(state);
        super::conntrack::forget(&network.handles.conntrack, state).unwrap();
    };
    write(&state);
    let (of_b, of_c) = (client(&b), client(&c));
    assert!(ask(&of_b).is_ok() && ask(&of_c).is_ok());
    let allowed = Allow { peers: Addresses::of(vec![block(c.address, 32).range()]), ports: None };
    let policy = Policy { machines: vec![a.address], ingress: Some(vec![allowed]), egress: None };
    state.policies = vec![policy.clone()];
    // The rules alone do not look at a flow that is on its way.
    network.write(&state);
    assert!(ask(&of_b).is_ok());
    write(&state);
    assert!(ask(&of_b).is_err(), "the policy does not allow it");
    assert!(ask(&of_c).is_ok(), "what it allows goes on");
    state.policies = vec![Policy { ingress: None, egress: Some(vec![]), machines: vec![c.address] }];
    write(&state);
    assert!(ask(&of_c).is_err() && ask(&of_b).is_ok());
}

#[test]
fn a_network_that_is_joined_gets_the_limits_that_it_lacks() {
    if !runs() {
        return;
    }
    let network = network();
    let socket = &network.handles.rules;
    let hooked = || {
        let mut found = 0;
        netlink::dump(socket, &super::nftables::list_chains(), |_, body| {
            found += usize::from(super::nftables::is_hooked_in(body, rules::LIMITS));
        })
        .unwrap();
        found
    };
    assert_eq!(hooked(), 2);
    // As a program made it that had one chain, or none.
    let mut older = rules::limits(20);
    for chains in [1, 0] {
        older.chains.truncate(chains);
        namespace::write(socket, older.written(rules::LIMITS, None)).unwrap();
        assert_eq!(hooked(), chains);
        let join = Join {
            user: None,
            net: Some(
                format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&network.handles.net)).into(),
            ),
        };
        let (_inside, joined) = Inside::new(move || namespace::open(&join).map(drop));
        joined.unwrap();
        assert_eq!(hooked(), 2);
    }
    // One that is there keeps its counts.
    let few = rules::limits(20).written(rules::LIMITS, None);
    namespace::write(socket, few).unwrap();
    namespace::write_limits(socket).unwrap();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: [a.address, b.address].into(), ..Wanted::default() });
    let to = b.address;
    a.inside.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1..=200 {
            socket.send_to(b"flow", (to, port)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    b.serve(8080);
    assert!(a.get(to, 8080).is_err(), "the table of twenty was replaced");
}

#[test]
fn open_connections_are_counted_for_the_machine_that_accepted_them() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b) = (network.standin(1), network.standin(2));
    let services = vec![service(&[a.address])];
    network.write(&Wanted { machines: [a.address, b.address].into(), services, policies: vec![] });
    let count = || super::conntrack::connections(&network.handles.conntrack).unwrap();
    assert!(count().is_empty());
    let _listener = a.inside.run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let address = a.address;
    let _direct = b.inside.run(move || TcpStream::connect((address, 8080)).unwrap());
    let _by_service = network.inside.run(|| TcpStream::connect((VIP, 80)).unwrap());
    assert_eq!(count(), [(a.address, 2)].into());
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
    let mut packet = [0; 2048];
    let length = rustix::io::read(tun.as_fd(), &mut packet).unwrap();
    assert_eq!(
        (packet[0] >> 4, &packet[12..20], &packet[length - 3..length]),
        (4, &[10, 78, 0, 1, 192, 0, 2, 1][..], &b"out"[..])
    );
}
