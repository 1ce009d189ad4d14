//! A carrier between real sockets, on a thread of the test: the bed, and connections of Services.

mod clients;
mod datagrams;
mod names;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::admission::Shares;
use super::bind::FALLBACK_OFFSET;
use super::carrier::{Carrier, Shared};
use super::carry::{Engine, Meta};
use super::dns::message::Zone;
use super::log::Log;
use super::places::HOST;
use super::protocol::DoorAnswer;
use super::routes::{Backend, ListenerId, NameServer, Report, Route, Routes};
use super::table::{Fd, Kept, NO_LISTENER, Owner, Side, Table};
use crate::manifest::api::{Name, Protocol};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// An address that no other test has, nor another run of the tests at this time.
fn host(test: u8) -> Ipv4Addr {
    let [high, low] = [std::process::id() >> 8, std::process::id()].map(|part| part.to_le_bytes()[0]);
    Ipv4Addr::new(127, test, high, low)
}

/// A port that needs no privilege.
const PORT: u16 = 8000;

fn id(port: u16, protocol: Protocol) -> ListenerId {
    let service = Name { namespace: "default".into(), name: "web".into() };
    ListenerId { environment: "local".into(), service, port, protocol }
}

fn wanted(host: Ipv4Addr, ports: &[(u16, Protocol)], backends: &[Backend]) -> Routes {
    let one = |(port, protocol): &(u16, Protocol)| {
        (id(*port, *protocol), Route { backends: backends.to_vec(), ..Route::new(host) })
    };
    Routes { listeners: ports.iter().map(one).collect(), ..Routes::default() }
}

const TCP: &[(u16, Protocol)] = &[(PORT, Protocol::Tcp)];
type Job = Box<dyn FnOnce(&mut Carrier) + Send>;

/// A carrier that runs.
struct Door {
    folder: tempfile::TempDir,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn new(shares: Shares) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).unwrap();
        let (sender, jobs) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            let table = Table::create().unwrap();
            let mut carrier =
                ManuallyDrop::into_inner(Carrier::new(Shared { table, shares, log }, 1).unwrap());
            loop {
                carrier.run(Instant::now() + Duration::from_millis(5));
                match jobs.try_recv() {
                    Ok(job) => job(&mut carrier),
                    Err(std::sync::mpsc::TryRecvError::Empty) => {}
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
                }
            }
            carrier.apply(Routes::default());
            carrier.engine.poll.close(&table);
            log.fd().close();
            for kept in [Kept::Wanted, Kept::Table] {
                if let Some(fd) = table.kept(kept) {
                    table.close(fd);
                }
            }
        });
        Self { folder, jobs: Some(sender), thread: Some(thread) }
    }

    /// Does something with the carrier, between two of its rounds.
    fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut Carrier) -> T + Send + 'static) -> T {
        let (sender, answer) = channel();
        let job: Job = Box::new(move |carrier| {
            let _ = sender.send(act(carrier));
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        answer.recv_timeout(PATIENCE).unwrap()
    }

    fn apply(&self, routes: Routes) {
        self.with(move |carrier| carrier.apply(routes));
    }

    fn report(&self) -> Report {
        self.with(|carrier| carrier.report())
    }

    fn bound(&self, id: &ListenerId) -> Option<u16> {
        self.report().bound.get(id).copied()
    }

    fn warnings(&self) -> Vec<String> {
        self.report().warnings.remove("local").unwrap_or_default()
    }

    fn has_failures(&self) -> bool {
        self.with(|carrier| carrier.listeners.has_failures())
    }

    fn connections(&self, backend: &Backend) -> u32 {
        self.report().connections.get(&backend.machine).copied().unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the carrier panicked");
        }
    }
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let given_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < given_up, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A machine's port; machines are named by their address here.
fn backend(address: SocketAddr) -> Backend {
    Backend { machine: address.to_string(), address }
}

/// A server that answers each connection with its name and whatever the client sent.
fn server(name: &'static str) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Other tests may have all descriptors for a moment.
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut sent = Vec::new();
                let _ = stream.read_to_end(&mut sent);
                let _ = stream.write_all(&[name.as_bytes(), &sent].concat());
            });
        }
    });
    backend(address)
}

fn connect(address: (Ipv4Addr, u16)) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(address: (Ipv4Addr, u16), text: &str) -> String {
    let mut stream = connect(address);
    let mut answer = String::new();
    // A refused client sees its connection closed or reset, depending on who was faster.
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn connections_take_turns_and_skip_the_dead() {
    let door = Door::new(Shares::of(1024));
    let dead = backend(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let backends = [server("a"), dead, server("b")];
    door.apply(wanted(host(101), TCP, &backends));
    assert!(!door.has_failures());
    let answers: Vec<String> = (0..6).map(|_| ask((host(101), PORT), "!")).collect();
    assert!(answers.iter().all(|answer| answer == "a!" || answer == "b!"), "{answers:?}");
    assert!(answers.contains(&"a!".to_owned()) && answers.contains(&"b!".to_owned()), "{answers:?}");
    let is_over = || backends.iter().all(|backend| door.connections(backend) == 0);
    eventually("the end of all connections", is_over);
}

#[test]
fn a_backend_that_has_answered_is_not_given_up_however_long_nobody_looked() {
    let door = Door::new(Shares::of(1024));
    door.apply(wanted(host(140), TCP, &[server("a")]));
    let mut client = door.with(|carrier| {
        let client = connect((host(140), PORT));
        // It connects to the backend, and has no turn after that for longer than a backend may take.
        let record = carrier.listeners.bound.values().next().unwrap().record as u64;
        let Carrier { engine, services, connecting, shared, .. } = carrier;
        connecting.accept(engine, services, (record, shared.shares), shared.log);
        assert_eq!(engine.all(), 1);
        std::thread::sleep(Duration::from_millis(2100));
        client
    });
    client.write_all(b"!").and_then(|()| client.shutdown(Shutdown::Write)).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "a!");
}

#[test]
fn tables_change_and_listeners_go_while_in_use() {
    let door = Door::new(Shares::of(1024));
    let (a, b) = (server("a"), server("b"));
    let address = (host(102), PORT);
    door.apply(wanted(host(102), TCP, std::slice::from_ref(&a)));
    assert_eq!(door.bound(&id(PORT, Protocol::Tcp)), Some(PORT));
    assert_eq!(ask(address, ""), "a");
    door.apply(wanted(host(102), TCP, &[b]));
    assert_eq!(ask(address, ""), "b");
    door.apply(wanted(host(102), TCP, &[]));
    assert_eq!(ask(address, ""), "");

    // A connection under way ends with its listener.
    door.apply(wanted(host(102), TCP, std::slice::from_ref(&a)));
    let mut open = connect(address);
    open.write_all(b"x").unwrap();
    eventually("the connection", || door.connections(&a) == 1);
    door.apply(Routes::default());
    assert!(matches!(open.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_machine_that_is_no_backend_any_more_is_counted_until_its_connections_end() {
    let door = Door::new(Shares::of(1024));
    let (a, b) = (server("a"), server("b"));
    door.apply(wanted(host(111), TCP, std::slice::from_ref(&a)));
    let mut open = connect((host(111), PORT));
    open.write_all(b"x").unwrap();
    eventually("the connection", || door.connections(&a) == 1);
    door.apply(wanted(host(111), TCP, std::slice::from_ref(&b)));
    door.apply(wanted(host(111), TCP, &[]));
    assert_eq!(door.connections(&a), 1, "it drains");
    open.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ax");
    eventually("the end of the connection", || door.connections(&a) == 0);
}

#[test]
fn a_port_before_another_one_leaves_that_where_it_is() {
    let door = Door::new(Shares::of(1024));
    let a = server("a");
    let (first, second) = ((PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp));
    door.apply(wanted(host(103), &[second], std::slice::from_ref(&a)));
    let mut open = connect((host(103), second.0));
    open.write_all(b"on").unwrap();
    eventually("the connection", || door.connections(&a) == 1);

    door.apply(wanted(host(103), &[first, second], std::slice::from_ref(&a)));
    for (port, protocol) in [first, second] {
        assert_eq!(door.bound(&id(port, protocol)), Some(port));
        assert_eq!(ask((host(103), port), ""), "a");
    }
    open.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "aon", "the open connection went on");
}

#[test]
fn a_port_is_free_for_another_balancer_once_its_own_is_gone() {
    let door = Door::new(Shares::of(1024));
    let a = server("a");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for name in ["one", "two", "three"] {
            let mut id = id(PORT, protocol);
            id.service.name = name.into();
            let route = Route { backends: vec![a.clone()], ..Route::new(host(104)) };
            let listeners = BTreeMap::from([(id.clone(), route)]);
            door.apply(Routes { listeners, ..Routes::default() });
            assert!(!door.has_failures());
            assert_eq!(door.bound(&id), Some(PORT), "{name}");
        }
    }
}

#[test]
fn a_taken_port_falls_back_to_another_until_it_is_free() {
    let taken = TcpListener::bind((host(105), PORT)).unwrap();
    let door = Door::new(Shares::of(1024));
    door.with(|carrier| carrier.listeners.retry = Duration::ZERO);
    let a = server("a");
    let apply = || door.apply(wanted(host(105), TCP, std::slice::from_ref(&a)));
    apply();
    assert!(!door.has_failures());
    let other = door.bound(&id(PORT, Protocol::Tcp)).unwrap();
    assert_ne!(other, PORT);
    let mut open = connect((host(105), other));
    open.write_all(b"on").unwrap();
    eventually("the connection", || door.connections(&a) == 1);

    drop(taken);
    apply();
    assert_eq!(door.bound(&id(PORT, Protocol::Tcp)), Some(PORT));
    assert_eq!(ask((host(105), PORT), ""), "a");
    open.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "aon", "the open connection went on");
}

#[test]
fn a_fallback_makes_room_for_who_wants_its_port() {
    let port = 79;
    let other = port + FALLBACK_OFFSET;
    // Another user than root has the same failure without this.
    let taken = TcpListener::bind((host(106), port));
    let door = Door::new(Shares::of(1024));
    door.apply(wanted(host(106), &[(port, Protocol::Tcp)], &[]));
    assert_eq!(door.bound(&id(port, Protocol::Tcp)), Some(other));
    door.apply(wanted(host(106), &[(port, Protocol::Tcp), (other, Protocol::Tcp)], &[]));
    assert_eq!(door.bound(&id(other, Protocol::Tcp)), Some(other));
    assert!(door.bound(&id(port, Protocol::Tcp)).is_some_and(|bound| bound != port && bound != other));
    drop(taken);
}

#[test]
fn silent_clients_leave_room_for_everything_else() {
    let shares = Shares { connections: 28, listener: 14, names: 4, outside: 4, outwards: 14 };
    let door = Door::new(shares);
    let a = server("a");
    let (full, other) = ((PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp));
    door.apply(wanted(host(107), &[full, other], std::slice::from_ref(&a)));
    let silent: Vec<_> = (0..100).map(|_| connect((host(107), PORT))).collect();
    let carried = u32::try_from(shares.listener).unwrap();
    eventually("as many as may be", || door.connections(&a) == carried);
    eventually("a warning", || door.warnings().len() == 1);
    assert!(door.warnings()[0].starts_with("TCP port 8000 of the Service"));
    // The others wait, and other listeners serve.
    for _ in 0..20 {
        assert_eq!(ask((host(107), PORT + 1), ""), "a");
    }
    assert!(door.connections(&a) <= carried + 1);
    drop(silent);
    assert_eq!(ask((host(107), PORT), "!"), "a!");
    eventually("the end of the warning", || door.warnings().is_empty());
}

#[test]
fn places_are_counted_over_all_processes() {
    let shares = Shares { connections: 6, listener: 6, names: 4, outside: 4, outwards: 3 };
    let door = Door::new(shares);
    let a = server("a");
    // Another process, that of a network, carries four.
    let others = door.with(|carrier| {
        let mut engine = Engine::new(carrier.shared.table, 2).unwrap();
        let mut others = Vec::new();
        for _ in 0..4 {
            let [client, server] = [(), ()].map(|()| {
                let (end, other) = std::os::unix::net::UnixStream::pair().unwrap();
                end.set_nonblocking(true).unwrap();
                others.push(other);
                Fd::from_owned(end.into())
            });
            let meta = Meta { listener: NO_LISTENER, machine: 0 };
            assert!(engine.adopt_pair(client, server, meta).is_some());
        }
        engine.poll.close(&carrier.shared.table);
        others
    });
    door.apply(wanted(host(113), &[(PORT, Protocol::Tcp)], std::slice::from_ref(&a)));
    let silent: Vec<_> = (0..10).map(|_| connect((host(113), PORT))).collect();
    eventually("as many as may be", || door.connections(&a) == 2);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(door.connections(&a), 2);
    drop((silent, others));
}

/// Two ends of a connection: the test's, and one to be carried.
fn pair() -> (TcpStream, Fd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    other.set_nonblocking(true).unwrap();
    one.set_read_timeout(Some(PATIENCE)).unwrap();
    (one, Fd::from_owned(other.into()))
}

#[test]
fn what_was_taken_in_a_round_is_sent_by_a_successor_and_to_nobody_else() {
    let table = Table::create().unwrap();
    let meta = Meta { listener: NO_LISTENER, machine: 0 };
    // Takes what a client has said, as a round does before its last step.
    let take = |engine: &mut Engine, index: u32| {
        let mut events = Vec::new();
        engine.poll.wait(Some(PATIENCE), &mut events);
        let [(_, flags)] = events[..] else { panic!("{events:?}") };
        engine.event(index, Side::Client, flags);
    };
    let ((mut client, accepted), (mut server, connected)) = (pair(), pair());
    let mut killed = Engine::new(table, HOST).unwrap();
    let index = killed.adopt_pair(accepted, connected, meta).unwrap();
    client.write_all(b"there").unwrap();
    take(&mut killed, index);
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock, "it is in the pipe");
    server.set_nonblocking(false).unwrap();
    // In a record and out of it: another process never finds it to be nobody's.
    let is_own = |(read, write)| [read, write].iter().all(|fd| table.is_of(*fd, Owner::Member(HOST)));
    assert!(is_own(table.slot(index).pipe(Side::Client).unwrap()));
    let mut engine = Engine::new(table, HOST).unwrap();
    assert!(engine.recover().is_empty());
    assert!(is_own(table.slot(index).pipe(Side::Client).unwrap()));
    engine.run_ready();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"there");

    // The record of a connection that is closed in the same round has another one in it when what was taken is sent.
    client.write_all(b"late").unwrap();
    take(&mut engine, index);
    engine.close(index, true);
    let ((mut other, accepted), (mut own, connected)) = (pair(), pair());
    assert_eq!(engine.adopt_pair(accepted, connected, meta), Some(index));
    engine.run_ready();
    other.write_all(b"own").unwrap();
    take(&mut engine, index);
    engine.run_ready();
    engine.close(index, false);
    let mut heard = String::new();
    own.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "own");
    for poll in [killed.poll, engine.poll] {
        poll.close(&table);
    }
}

#[test]
fn a_pair_that_is_connected_elsewhere_is_carried() {
    let door = Door::new(Shares::of(1024));
    let ((mut client, accepted), (mut server, connected)) = (pair(), pair());
    let meta = Meta { listener: NO_LISTENER, machine: super::table::key("web-1") };
    let index = door.with(move |carrier| carrier.engine.adopt_pair(accepted, connected, meta));
    assert!(index.is_some());
    let carried = || door.with(move |carrier| carrier.engine.of_machine(meta.machine));
    assert_eq!(carried(), 1);
    client.write_all(b"there").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    server.write_all(b"and back").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((heard.as_str(), answer.as_str()), ("there", "and back"));
    eventually("the end of the connection", || carried() == 0);
}

#[test]
fn two_hundred_services_are_bound_and_changed_by_one_request_each() {
    let door = Door::new(Shares::of(16_384));
    let routes = |backends: &[Backend]| {
        let one = |number: u16| {
            let mut id = id(PORT + number, Protocol::Tcp);
            id.service.name = format!("web-{number}");
            (id, Route { backends: backends.to_vec(), ..Route::new(host(117)) })
        };
        Routes { listeners: (0..200).map(one).collect(), ..Routes::default() }
    };
    for name in ["a", "b"] {
        let wanted = routes(&[server(name)]);
        let started = Instant::now();
        door.apply(wanted.clone());
        let bound = door.report().bound;
        // Less than a tenth of a second on two busy cores. One Service a round of the control loop would take 40 s.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(bound.iter().all(|(id, port)| id.port == *port) && !door.has_failures());
        assert!(bound.keys().eq(wanted.listeners.keys()), "{} of 200", bound.len());
        for number in [0, 99, 199] {
            assert_eq!(ask((host(117), PORT + number), ""), name);
        }
    }
}

#[test]
fn what_waits_for_a_network_is_bound_with_it() {
    let door = Door::new(Shares::of(1024));
    let id = id(PORT, Protocol::Tcp);
    let route = Route { inside: Some("10.77.1.2:8080".parse().unwrap()), ..Route::new(host(141)) };
    let server = NameServer { address: host(141), zone: Zone::default(), inside: true };
    door.apply(Routes {
        listeners: BTreeMap::from([(id.clone(), route)]),
        name_servers: BTreeMap::from([("local".to_owned(), server)]),
    });
    assert_eq!(door.bound(&id), None, "nobody is in the network yet");
    let given = door.with(|carrier| {
        let nothing = || Fd::from_owned(std::fs::File::open("/dev/null").unwrap().into());
        carrier.give("local".to_owned(), &[nothing(), nothing()])
    });
    assert_eq!(given, DoorAnswer::Done);
    assert_eq!(door.bound(&id), Some(PORT), "without another request for routes");
}
