//! The network in the kernel: namespaces that the test makes as root, with stand-ins in the place of machines. A stand-in is a
//! network namespace whose one interface is cabled to that of the machine, with the address and the routes that the guest
//! sets.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::namespace::{self, DEVICE, Handles, Join};
use super::netlink::{self, Batch, NLM_F_DUMP};
use super::nftables::Packets;
use super::sys::{self, Virtual};
use super::wanted::{
    Addresses, Allow, Block, GATEWAY, GATEWAY_HARDWARE, GATEWAY6, NODE, NODE6, Policy, Ports, Range, Wanted,
    WantedService, machine_address6,
};
use super::{interfaces, rules, wanted};
use crate::manifest::api::{IpFamily, Protocol};

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

fn block(address: impl Into<IpAddr>, bits: u8) -> Block {
    Block { address: address.into(), bits }
}

/// These machines, with both of their addresses.
fn there(machines: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, Option<Ipv6Addr>> {
    machines.iter().map(|machine| (*machine, Some(machine_address6(*machine)))).collect()
}

impl Network {
    fn tap(&self, address: Ipv4Addr) -> OwnedFd {
        let tap = self
            .inside
            .run(move || sys::interface(Path::new(DEVICE), &wanted::tap(address), Virtual::Frames));
        let tap = tap.unwrap();
        let index = interfaces::list(&self.handles.route).unwrap()[&wanted::tap(address)];
        interfaces::request(
            &self.handles.route,
            &interfaces::machine(index, address, Some(machine_address6(address))),
        )
        .unwrap();
        tap
    }

    fn standin(&self, last: u8) -> Standin {
        let address = Ipv4Addr::new(10, 78, 1, last);
        let ours = self.tap(address);
        let (inside, theirs) = Inside::new(move || {
            sys::unshare(false, true).unwrap();
            let theirs = sys::interface(Path::new(DEVICE), "eth0", Virtual::Frames).unwrap();
            let [mac, gateway] = [wanted::hardware_address(address), GATEWAY_HARDWARE]
                .map(|bytes| bytes.map(|byte| format!("{byte:02x}")).join(":"));
            for command in [
                "ip link set lo up".to_owned(),
                format!("ip link set eth0 address {mac} up"),
                format!("ip address add {address}/32 dev eth0"),
                format!("ip route add {GATEWAY} dev eth0"),
                format!("ip route add default via {GATEWAY}"),
                format!("ip -6 address add {}/128 dev eth0 nodad", machine_address6(address)),
                format!("ip -6 neigh add {GATEWAY6} lladdr {gateway} dev eth0 nud permanent"),
                format!("ip -6 route add default via {GATEWAY6} dev eth0"),
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
        namespace::write_rules(&self.handles.rules, wanted, self.handles.has_ipv6).unwrap();
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
            let listener = TcpListener::bind(("::", port)).unwrap();
            listening.send(()).unwrap();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let client = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = stream.write_all(format!("{own} from {client}").as_bytes());
            }
        });
        is.recv().unwrap();
    }

    fn get(&self, address: impl Into<IpAddr>, port: u16) -> Result<String, Errno> {
        let address = address.into();
        self.inside.run(move || get(address, port))
    }

    fn address6(&self) -> Ipv6Addr {
        machine_address6(self.address)
    }
}

/// What is answered at a port; why there is no answer.
fn get(address: impl Into<IpAddr>, port: u16) -> Result<String, Errno> {
    let to = SocketAddr::new(address.into(), port);
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::TIMEDOUT);
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 4);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0x77, 0, 0, 0, 0x304);

/// A Service at [`VIP`] with these machines behind port 80.
fn service(backends: &[Ipv4Addr]) -> WantedService {
    WantedService {
        address: VIP.into(),
        protocol: Protocol::Tcp,
        port: 80,
        has_affinity: false,
        backends: backends.iter().map(|address| SocketAddr::from((*address, 8080))).collect(),
    }
}

/// The same over IPv6.
fn service6(backends: &[Ipv4Addr]) -> WantedService {
    let backends = backends.iter().map(|machine| SocketAddr::from((machine_address6(*machine), 8080)));
    WantedService { address: VIP6.into(), backends: backends.collect(), ..service(&[]) }
}

/// The number of entries that the kernel lists of nftables, by a request's type.
fn listed(socket: &OwnedFd, packets: Packets, request: u16) -> usize {
    let mut batch = Batch::default();
    batch.message((10 << 8 | request, NLM_F_DUMP), "list", |body| {
        body.put(&[packets.number(), 0, 0, 0]);
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
        for family in [IpFamily::V4, IpFamily::V6] {
            let table = rules::table(&wanted, family);
            let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
            // NFT_MSG_GETTABLE, GETCHAIN, GETRULE, GETSET.
            let found = [1, 4, 7, 10].map(|request| listed(socket, family.into(), request));
            assert_eq!(found, [1, table.chains.len(), rules, table.sets.len()]);
        }
    }
    // The table of limits, of two chains with a rule each.
    assert_eq!([1, 4, 7, 10].map(|request| listed(socket, Packets::Both, request)), [1, 2, 2, 1]);
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
        for family in [IpFamily::V4, IpFamily::V6] {
            let table = rules::table(&wanted, family);
            let found = [1, 4, 10].map(|request| listed(socket, family.into(), request));
            assert_eq!(found, [1, table.chains.len(), table.sets.len()]);
        }
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
    let machine = |address: Ipv4Addr| vec![block(address, 32).range()];
    let mut state = Wanted {
        machines: there(&[a.address, b.address, c.address]),
        services: vec![service(&[a.address])],
        policies: vec![Policy {
            machines: vec![a.address.into()],
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
        Policy { machines: vec![a.address.into()], ingress: Some(vec![all]), egress: None },
        Policy { machines: vec![b.address.into()], ingress: None, egress },
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
    network.write(&Wanted { machines: there(&[a.address, b.address]), ..Wanted::default() });
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
fn a_policy_closes_over_ipv6_what_it_closes_over_ipv4() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    for standin in [&a, &b, &c] {
        standin.serve(8080);
    }
    let both = |standin: &Standin| [IpAddr::V4(standin.address), IpAddr::V6(standin.address6())];
    let alone = |address: IpAddr| (address, address);
    let allow = |ranges: Vec<Range>| Some(vec![Allow { peers: Addresses::of(ranges), ports: None }]);
    let policy = |ingress, egress| Policy { machines: both(&a).into(), ingress, egress };
    let write = |policies| {
        network.write(&Wanted {
            machines: there(&[a.address, b.address, c.address]),
            services: vec![service(&[a.address]), service6(&[a.address])],
            policies,
        });
    };
    // By both addresses, and both Services.
    let reaches = |from: &Standin| {
        [(a.address.into(), 8080), (VIP.into(), 80), (a.address6().into(), 8080), (VIP6.into(), 80)]
            .map(|(address, port): (IpAddr, u16)| from.get(address, port).is_ok())
    };
    let refused = |from: &Standin, address: Ipv6Addr| from.get(address, 8080) == Err(Errno::CONNREFUSED);
    write(vec![]);
    assert_eq!(reaches(&b), [true; 4]);
    write(vec![policy(Some(vec![]), Some(vec![]))]);
    assert_eq!(reaches(&b), [false; 4]);
    assert!(refused(&b, a.address6()) && refused(&a, b.address6()));
    // Itself and this host are never kept out.
    let own = a.address6();
    assert!(a.get(own, 8080).is_ok() && network.inside.run(move || get(own, 8080)).is_ok());
    write(vec![policy(allow(both(&b).map(alone).into()), None)]);
    assert_eq!((reaches(&b), reaches(&c)), ([true; 4], [false; 4]));
    // What is allowed over one family is not over the other one.
    write(vec![policy(allow(vec![block(c.address, 32).range()]), None)]);
    assert_eq!(reaches(&c), [true, true, false, false]);
    write(vec![policy(allow(vec![block(c.address6(), 128).range()]), None)]);
    assert_eq!(reaches(&c), [false, false, true, true]);
    let other = block(NODE6, 64).without(&[block(c.address6(), 128)]);
    write(vec![policy(allow(other), None)]);
    assert_eq!((reaches(&b), reaches(&c)), ([false, false, true, true], [false; 4]));
    write(vec![policy(None, allow(vec![wanted::everything(IpFamily::V4)]))]);
    assert!(a.get(b.address, 8080).is_ok() && refused(&a, b.address6()));
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
        super::conntrack::forget(&network.handles.conntrack, &wanted).unwrap();
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
fn datagrams_on_their_way_are_refused_by_a_policy_that_comes_later() {
    if !runs() {
        return;
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        a_later_policy(family);
    }
}

/// The same with addresses of this family.
fn a_later_policy(family: IpFamily) {
    let of_family = |standin: &Standin| match family {
        IpFamily::V4 => IpAddr::V4(standin.address),
        IpFamily::V6 => IpAddr::V6(standin.address6()),
    };
    let everybody = wanted::everything(family).0;
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    let server = a.inside.run(move || UdpSocket::bind((everybody, 5000)).unwrap());
    std::thread::spawn(move || {
        let mut question = [0; 16];
        while let Ok((length, client)) = server.recv_from(&mut question) {
            let _ = server.send_to(&question[..length], client);
        }
    });
    let to = of_family(&a);
    let client = |standin: &Standin| {
        standin.inside.run(move || {
            let socket = UdpSocket::bind((everybody, 0)).unwrap();
            socket.connect((to, 5000)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        })
    };
    let ask = |client: &UdpSocket| client.send(b"who").and_then(|_| client.recv(&mut [0; 16]));
    let mut state = Wanted { machines: there(&[a.address, b.address, c.address]), ..Wanted::default() };
    let write = |state: &Wanted| {
        network.write(state);
        super::conntrack::forget(&network.handles.conntrack, state).unwrap();
    };
    write(&state);
    let (of_b, of_c) = (client(&b), client(&c));
    assert!(ask(&of_b).is_ok() && ask(&of_c).is_ok());
    let allowed = Allow { peers: Addresses::of(vec![Block::one(of_family(&c)).range()]), ports: None };
    let policy = Policy { machines: vec![of_family(&a)], ingress: Some(vec![allowed]), egress: None };
    state.policies = vec![policy.clone()];
    // The rules alone do not look at a flow that is on its way.
    network.write(&state);
    assert!(ask(&of_b).is_ok());
    write(&state);
    assert!(ask(&of_b).is_err(), "the policy does not allow it");
    assert!(ask(&of_c).is_ok(), "what it allows goes on");
    state.policies = vec![Policy { ingress: None, egress: Some(vec![]), machines: vec![of_family(&c)] }];
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
        netlink::dump(socket, &super::nftables::list_chains(Packets::Both), |_, body| {
            found += usize::from(super::nftables::is_hooked_in(body, rules::LIMITS));
        })
        .unwrap();
        found
    };
    assert_eq!(hooked(), 2);
    // As a program made it that had one chain, or none.
    let mut older = rules::limits(20, Packets::Both);
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
    let few = rules::limits(20, Packets::Both).written(rules::LIMITS, None);
    namespace::write(socket, few).unwrap();
    namespace::write_limits(socket, true).unwrap();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: there(&[a.address, b.address]), ..Wanted::default() });
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
    network.write(&Wanted { machines: there(&[a.address, b.address]), services, policies: vec![] });
    let count = || super::conntrack::connections(&network.handles.conntrack).unwrap();
    assert!(count().is_empty());
    let _listener = a.inside.run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let address = a.address;
    let _direct = b.inside.run(move || TcpStream::connect((address, 8080)).unwrap());
    let _by_service = network.inside.run(|| TcpStream::connect((VIP, 80)).unwrap());
    assert_eq!(count(), [(a.address, 2)].into());
    // Those over IPv6 are the same machine's.
    let address = a.address6();
    let _over_ipv6 =
        a.inside.run(|| TcpListener::bind((machine_address6(Ipv4Addr::new(10, 78, 1, 1)), 8080)).unwrap());
    let _direct = b.inside.run(move || TcpStream::connect((address, 8080)).unwrap());
    assert_eq!(count(), [(a.address, 3)].into());
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
