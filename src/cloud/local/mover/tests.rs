//! A carrier between real sockets, on a thread of the test.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::admission::Shares;
use super::bind::FALLBACK_OFFSET;
use super::carrier::{Carrier, Shared};
use super::dns::message::{self, Reply, Zone};
use super::log::Log;
use super::routes::{Backend, ListenerId, NameServer, Report, Route, Routes};
use super::table::{Kept, Table};
use crate::cloud::local::network::addresses;
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
        (id(*port, *protocol), Route { host, backends: backends.to_vec(), inside: None })
    };
    Routes { listeners: ports.iter().map(one).collect(), ..Routes::default() }
}

const TCP: &[(u16, Protocol)] = &[(PORT, Protocol::Tcp)];
const UDP: &[(u16, Protocol)] = &[(PORT, Protocol::Udp)];

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
            let route = Route { host: host(104), backends: vec![a.clone()], inside: None };
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
        let mut engine = super::carry::Engine::new(carrier.shared.table, 2).unwrap();
        let mut others = Vec::new();
        for _ in 0..4 {
            let [client, server] = [(), ()].map(|()| {
                let (end, other) = std::os::unix::net::UnixStream::pair().unwrap();
                end.set_nonblocking(true).unwrap();
                others.push(other);
                super::table::Fd::from_owned(end.into())
            });
            let meta = super::carry::Meta { listener: super::table::NO_LISTENER, machine: 0 };
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

/// A server that sends every datagram back.
fn echo() -> Backend {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let backend = backend(echo.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], client);
        }
    });
    backend
}

fn say(client: &UdpSocket, text: &[u8]) {
    client.send(text).unwrap();
    let mut buffer = vec![0; 65_535];
    let length = client.recv(&mut buffer).unwrap();
    assert!(&buffer[..length] == text);
}

fn client(address: (Ipv4Addr, u16)) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn datagrams_come_back_to_their_client() {
    let door = Door::new(Shares::of(1024));
    door.apply(wanted(host(108), UDP, &[echo()]));
    let clients = [client((host(108), PORT)), client((host(108), PORT))];
    for text in [&b"one"[..], b"two", &vec![7; 60_000]] {
        for client in &clients {
            say(client, text);
        }
    }
}

#[test]
fn a_session_moves_to_a_backend_that_is_healthy() {
    let door = Door::new(Shares::of(1024));
    let (one, two) = (echo(), echo());
    door.apply(wanted(host(112), UDP, std::slice::from_ref(&one)));
    let steady = client((host(112), PORT));
    say(&steady, b"one");
    door.apply(wanted(host(112), UDP, std::slice::from_ref(&two)));
    say(&steady, b"two");
    assert_eq!((door.connections(&one), door.connections(&two)), (0, 1));
}

#[test]
fn silent_sessions_are_forgotten_while_others_talk() {
    let door = Door::new(Shares::of(1 << 20));
    door.with(|carrier| {
        carrier.sessions.times =
            super::udp::Times { idle: Duration::from_secs(1), sweep: Duration::from_millis(100) };
    });
    let echo = echo();
    door.apply(wanted(host(109), UDP, std::slice::from_ref(&echo)));
    for _ in 0..50 {
        say(&client((host(109), PORT)), b"x");
    }
    // It never stops for as long as one look for silent sessions takes to come.
    let steady = client((host(109), PORT));
    eventually("one session stays", || {
        say(&steady, b"on");
        door.connections(&echo) == 1
    });
}

#[test]
fn the_session_that_was_silent_for_longest_makes_room() {
    let shares = Shares { connections: 28, listener: 14, names: 4, outside: 4, outwards: 14 };
    let door = Door::new(shares);
    let echo = echo();
    door.apply(wanted(host(110), UDP, std::slice::from_ref(&echo)));
    let steady = client((host(110), PORT));
    for _ in 0..100 {
        say(&steady, b"on");
        say(&client((host(110), PORT)), b"x");
        let sessions = door.connections(&echo);
        assert!(sessions as usize <= shares.listener, "{sessions}");
    }
    let text = door.log();
    assert_eq!(text.matches("silent for longest").count(), 1, "{text}");
}

fn names(environment: &str, address: Ipv4Addr, zone: Zone) -> Routes {
    let server = NameServer { address, zone, inside: false };
    Routes { name_servers: BTreeMap::from([(environment.to_owned(), server)]), ..Routes::default() }
}

#[test]
fn a_name_server_that_cannot_start_says_once_what_to_do() {
    // Another user than root has the same failure without this.
    let address = addresses::name_server("taken");
    let taken = UdpSocket::bind((address, 53));
    let door = Door::new(Shares::of(1024));
    for _ in 0..2 {
        door.apply(names("taken", address, Zone::default()));
    }
    let report = door.report();
    assert!(report.name_servers.is_empty());
    let said = &report.warnings["taken"][0];
    assert!(
        said.contains(":53 cannot be served: ")
            && (said.contains("ip_unprivileged_port_start")
                || said.contains("another program has that address")),
        "{said}"
    );
    let log = door.log();
    assert_eq!(log.matches("cannot be served").count(), 1, "{log}");
    drop(taken);
    door.apply(Routes::default());
    assert_eq!(door.report(), Report::default());
}

const NAMES: u16 = 5300;

/// A carrier with a name server on a port that needs no privilege.
fn name_server(number: u8, low: u8) -> (SocketAddr, Door) {
    let door = Door::new(Shares::of(1024));
    door.with(|carrier| carrier.dns.port = NAMES);
    door.apply(names("test", host(number), zone(low)));
    ((host(number), NAMES).into(), door)
}

fn zone(low: u8) -> Zone {
    Zone::from([("web.default.svc.cluster.local".to_owned(), Ipv4Addr::new(127, 77, 0, low))])
}

fn question() -> Vec<u8> {
    message::example_question("web.default.svc.cluster.local", 1)
}

#[test]
fn a_resolver_is_answered_with_what_the_zone_is_now() {
    let (address, door) = name_server(94, 1);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for low in [1, 2] {
        door.apply(names("test", host(94), zone(low)));
        client.send(&question()).unwrap();
        let mut answer = [0; 512];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(answer[length - 4..length], [127, 77, 0, low]);
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

#[test]
fn several_questions_over_one_connection_have_the_answers_of_datagrams() {
    let (address, door) = name_server(95, 7);
    let Some(Reply::Answer(expected)) = message::reply(&question(), &zone(7)) else { panic!("no answer") };
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // Two at once, the second one in two parts.
    let framed_question = framed(&question());
    let (start, end) = framed_question.split_at(20);
    client.write_all(&[&framed_question, start].concat()).unwrap();
    assert_eq!(read_framed(&mut client).unwrap(), expected);
    client.write_all(end).unwrap();
    assert_eq!(read_framed(&mut client).unwrap(), expected);
    // What is no question ends the connection.
    client.write_all(&framed(b"no question")).unwrap();
    assert!(read_framed(&mut client).is_err());

    // A closed server leaves its address to the next one at once, connections or not.
    let _open = TcpStream::connect(address).unwrap();
    door.apply(Routes::default());
    door.apply(names("other", host(95), zone(8)));
    assert!(door.report().name_servers.contains_key("other"), "{:?}", door.report());
}

#[test]
fn connections_of_resolvers_are_bounded() {
    let (address, door) = name_server(96, 7);
    door.apply(names("test", host(96), zone(7)));
    let most = Shares::of(1024).names;
    let silent: Vec<_> = (0..most).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut further = TcpStream::connect(address).unwrap();
    further.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(further.read(&mut [0; 1]), Ok(0) | Err(_)));
    let warnings = door.report().warnings.remove("test").unwrap_or_default();
    assert!(warnings.iter().any(|warning| warning.contains("name server of test (TCP)")), "{warnings:?}");
    drop(silent);
    eventually("an answer once they are gone", || {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&framed(&question())).is_ok() && read_framed(&mut client).is_ok()
    });
}

#[test]
fn a_silent_resolver_is_let_go() {
    let (address, door) = name_server(97, 7);
    door.with(|carrier| carrier.dns.idle = Duration::from_millis(50));
    let mut silent = TcpStream::connect(address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(silent.read(&mut [0; 1]), Ok(0) | Err(_)));
}

/// A name server at that address which answers each datagram with `code`, and a marker behind the question.
fn upstream(address: (Ipv4Addr, u16), code: u8, marker: &'static [u8]) {
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            buffer[3] = code;
            let _ = socket.send_to(&[&buffer[..length], marker].concat(), client);
        }
    });
}

#[test]
fn the_next_name_server_is_asked_where_one_is_gone_or_refuses() {
    const OTHERS: u16 = 5353;
    let (address, door) = name_server(98, 7);
    let settings = door.folder.path().join("resolv.conf");
    // Nobody is at the first; the second one refuses; the third one knows.
    let lines = [91, 92, 93].map(|number| format!("nameserver {}\n", host(number)));
    std::fs::write(&settings, lines.concat()).unwrap();
    upstream((host(92), OTHERS), 5, b"");
    upstream((host(93), OTHERS), 0, b"known");
    let file = settings.clone();
    door.with(move |carrier| {
        carrier.dns.settings.file = file;
        carrier.dns.settings.port = OTHERS;
    });
    let elsewhere = message::example_question("example.com", 1);
    let by_datagram = || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(&elsewhere).unwrap();
        let mut answer = vec![0; 512];
        let length = client.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    };
    assert!(by_datagram().ends_with(b"known"));
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // The second question waits for the answer to the first.
    client.write_all(&[framed(&elsewhere), framed(&question())].concat()).unwrap();
    assert!(read_framed(&mut client).unwrap().ends_with(b"known"));
    let Some(Reply::Answer(expected)) = message::reply(&question(), &zone(7)) else { panic!("no answer") };
    assert_eq!(read_framed(&mut client).unwrap(), expected);
    std::fs::write(&settings, &lines[1]).unwrap();
    assert!(message::is_refusal(&by_datagram()));
    std::fs::write(&settings, "").unwrap();
    assert!(message::is_refusal(&by_datagram()), "nobody can be asked");
}

#[test]
fn a_machine_that_asks_for_many_names_leaves_others_room() {
    const OTHERS: u16 = 5354;
    let door = Door::new(Shares::of(1 << 17));
    let settings = door.folder.path().join("resolv.conf");
    std::fs::write(&settings, format!("nameserver {}\n", host(114))).unwrap();
    let silent = UdpSocket::bind((host(114), OTHERS)).unwrap();
    silent.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let udp = UdpSocket::bind((host(115), NAMES)).unwrap();
    let tcp = TcpListener::bind((host(115), NAMES)).unwrap();
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let zone = zone(7);
    door.with(move |carrier| {
        carrier.dns.settings.file = settings;
        carrier.dns.settings.port = OTHERS;
        carrier.dns.give("test", [udp.into(), tcp.into()].map(super::table::Fd::from_owned));
        let server = NameServer { address: host(115), zone, inside: true };
        let name_servers = BTreeMap::from([("test".to_owned(), server)]);
        carrier.apply(Routes { name_servers, ..Routes::default() });
    });
    let client = |number| {
        let client = UdpSocket::bind((host(number), 0)).unwrap();
        client.connect((host(115), NAMES)).unwrap();
        client
    };
    let (greedy, modest) = (client(116), client(117));
    let ask = |client: &UdpSocket, id: u8| {
        let mut question = message::example_question("example.com", 1);
        question[0] = id;
        client.send(&question).unwrap();
    };
    (0..200).for_each(|id| ask(&greedy, id));
    let heard = || std::iter::from_fn(|| silent.recv(&mut [0; 512]).ok()).count();
    assert_eq!(heard(), 64);
    ask(&modest, 1);
    assert_eq!(heard(), 1);
    // Connections have a share as well.
    let connected: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect((host(115), NAMES)).unwrap()).collect();
    let closed = |stream: &&TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut stream: &TcpStream = stream;
        matches!(stream.read(&mut [0; 1]), Ok(0))
    };
    assert_eq!(connected.iter().filter(closed).count(), 4);
}

#[test]
fn a_pair_that_is_connected_elsewhere_is_carried() {
    let door = Door::new(Shares::of(1024));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pair = || {
        let one = TcpStream::connect(address).unwrap();
        let (other, _) = listener.accept().unwrap();
        other.set_nonblocking(true).unwrap();
        one.set_read_timeout(Some(PATIENCE)).unwrap();
        (one, super::table::Fd::from_owned(other.into()))
    };
    let ((mut client, accepted), (mut server, connected)) = (pair(), pair());
    let meta =
        super::carry::Meta { listener: super::table::NO_LISTENER, machine: super::table::key("web-1") };
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
            (id, Route { host: host(117), backends: backends.to_vec(), inside: None })
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
