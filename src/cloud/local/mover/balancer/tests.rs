//! The balancer between real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::bind::FALLBACK_OFFSET;
use super::*;
use crate::cloud::local::log;
use crate::cloud::local::mover::routes::Backend;
use crate::manifest::api::Name;

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

fn wanted(host: Ipv4Addr, ports: &[(u16, Protocol)], backends: &[Backend]) -> BTreeMap<ListenerId, Route> {
    let one = |(port, protocol): &(u16, Protocol)| {
        (id(*port, *protocol), Route { host, backends: backends.to_vec() })
    };
    ports.iter().map(one).collect()
}

const TCP: &[(u16, Protocol)] = &[(PORT, Protocol::Tcp)];
const UDP: &[(u16, Protocol)] = &[(PORT, Protocol::Udp)];

fn balancer(shares: Shares) -> (tempfile::TempDir, Balancer) {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::open(&folder.path().join("log")).unwrap());
    (folder, Balancer::new(shares, Arc::default(), log))
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A machine's port; machines are named by their address here.
fn backend(address: SocketAddr) -> Backend {
    Backend { machine: address.to_string(), address }
}

impl Balancer {
    fn reported(&self) -> Report {
        let mut report = Report::default();
        self.report(&mut report);
        report
    }

    fn bound(&self, id: &ListenerId) -> Option<u16> {
        self.reported().bound.get(id).copied()
    }

    fn warnings(&self) -> Vec<String> {
        self.reported().warnings.remove("local").unwrap_or_default()
    }

    fn has_failures(&self) -> bool {
        !self.failed.lock().unwrap().is_empty()
    }

    /// The connections of the backend's machine.
    fn connections(&self, backend: &Backend) -> u32 {
        self.connections.counts().get(&backend.machine).copied().unwrap_or_default()
    }
}

/// A server that answers each connection with its name and whatever the client sent.
async fn server(name: &'static str) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut sent = Vec::new();
                stream.read_to_end(&mut sent).await.unwrap();
                stream.write_all(name.as_bytes()).await.unwrap();
                stream.write_all(&sent).await.unwrap();
            });
        }
    });
    backend(address)
}

async fn ask(address: (Ipv4Addr, u16), text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = String::new();
    let talk = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        stream.read_to_string(&mut answer).await
    };
    // A refused client sees its connection closed or reset, depending on who was faster.
    drop(tokio::time::timeout(Duration::from_mins(1), talk).await.expect("an answer or an end in time"));
    answer
}

#[tokio::test]
async fn connections_take_turns_and_skip_the_dead() {
    let (_folder, balancer) = balancer(Shares::of(1024));
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        backend(listener.local_addr().unwrap())
    };
    let backends = [server("a").await, dead, server("b").await];
    balancer.apply(wanted(host(101), TCP, &backends)).await;
    assert!(!balancer.has_failures());
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(ask((host(101), PORT), "!").await);
    }
    assert!(answers.iter().all(|answer| answer == "a!" || answer == "b!"), "{answers:?}");
    assert!(answers.contains(&"a!".to_owned()) && answers.contains(&"b!".to_owned()), "{answers:?}");
    let is_over = || backends.iter().all(|backend| balancer.connections(backend) == 0);
    eventually("the end of all connections", is_over).await;
}

#[tokio::test]
async fn tables_change_and_listeners_go_while_in_use() {
    let (_folder, balancer) = balancer(Shares::of(1024));
    let (a, b) = (server("a").await, server("b").await);
    let address = (host(102), PORT);
    balancer.apply(wanted(host(102), TCP, std::slice::from_ref(&a))).await;
    assert_eq!(balancer.bound(&id(PORT, Protocol::Tcp)), Some(PORT));
    assert_eq!(ask(address, "").await, "a");
    balancer.apply(wanted(host(102), TCP, &[b])).await;
    assert_eq!(ask(address, "").await, "b");
    balancer.apply(wanted(host(102), TCP, &[])).await;
    assert_eq!(ask(address, "").await, "");

    // A connection under way ends with its listener.
    balancer.apply(wanted(host(102), TCP, std::slice::from_ref(&a))).await;
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(b"x").await.unwrap();
    eventually("the connection", || balancer.connections(&a) == 1).await;
    balancer.apply(BTreeMap::new()).await;
    let ended = tokio::time::timeout(Duration::from_mins(1), open.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_before_another_one_leaves_that_where_it_is() {
    let (_folder, balancer) = balancer(Shares::of(1024));
    let a = server("a").await;
    let (first, second) = ((PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp));
    balancer.apply(wanted(host(103), &[second], std::slice::from_ref(&a))).await;
    let mut open = TcpStream::connect((host(103), second.0)).await.unwrap();
    open.write_all(b"on").await.unwrap();
    eventually("the connection", || balancer.connections(&a) == 1).await;

    balancer.apply(wanted(host(103), &[first, second], std::slice::from_ref(&a))).await;
    for (port, protocol) in [first, second] {
        assert_eq!(balancer.bound(&id(port, protocol)), Some(port));
        assert_eq!(ask((host(103), port), "").await, "a");
    }
    open.shutdown().await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "aon", "the open connection went on");
}

#[tokio::test]
async fn a_port_is_free_for_another_balancer_once_its_own_is_gone() {
    let (_folder, balancer) = balancer(Shares::of(1024));
    let a = server("a").await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for name in ["one", "two", "three"] {
            let mut id = id(PORT, protocol);
            id.service.name = name.into();
            let route = Route { host: host(104), backends: vec![a.clone()] };
            balancer.apply(BTreeMap::from([(id.clone(), route)])).await;
            assert!(!balancer.has_failures());
            assert_eq!(balancer.bound(&id), Some(PORT), "{name}");
        }
    }
}

#[tokio::test]
async fn a_taken_port_falls_back_to_another_until_it_is_free() {
    let taken = TcpListener::bind((host(105), PORT)).await.unwrap();
    let (_folder, mut balancer) = balancer(Shares::of(1024));
    balancer.times.retry = Duration::ZERO;
    let a = server("a").await;
    let apply = || balancer.apply(wanted(host(105), TCP, std::slice::from_ref(&a)));
    apply().await;
    assert!(!balancer.has_failures());
    let other = balancer.bound(&id(PORT, Protocol::Tcp)).unwrap();
    assert_ne!(other, PORT);
    let mut open = TcpStream::connect((host(105), other)).await.unwrap();
    open.write_all(b"on").await.unwrap();
    eventually("the connection", || balancer.connections(&a) == 1).await;

    drop(taken);
    apply().await;
    assert_eq!(balancer.bound(&id(PORT, Protocol::Tcp)), Some(PORT));
    assert_eq!(ask((host(105), PORT), "").await, "a");
    open.shutdown().await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "aon", "the open connection went on");
}

#[tokio::test]
async fn a_fallback_makes_room_for_who_wants_its_port() {
    let port = 79;
    let other = port + FALLBACK_OFFSET;
    // Another user than root has the same failure without this.
    let taken = std::net::TcpListener::bind((host(106), port));
    let (_folder, balancer) = balancer(Shares::of(1024));
    balancer.apply(wanted(host(106), &[(port, Protocol::Tcp)], &[])).await;
    assert_eq!(balancer.bound(&id(port, Protocol::Tcp)), Some(other));
    let both = wanted(host(106), &[(port, Protocol::Tcp), (other, Protocol::Tcp)], &[]);
    balancer.apply(both).await;
    assert_eq!(balancer.bound(&id(other, Protocol::Tcp)), Some(other));
    assert!(balancer.bound(&id(port, Protocol::Tcp)).is_some_and(|bound| bound != port && bound != other));
    drop(taken);
}

#[tokio::test]
async fn silent_clients_leave_descriptors_for_everything_else() {
    // As with a limit of 64 descriptors: 28 for traffic, half of them for one listener.
    let shares = Shares::of(64);
    let (_folder, balancer) = balancer(shares);
    let a = server("a").await;
    let (full, other) = ((PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp));
    balancer.apply(wanted(host(107), &[full, other], std::slice::from_ref(&a))).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect((host(107), PORT)).await.unwrap());
    }
    let carried = u32::try_from(shares.listener / 2).unwrap();
    eventually("as many as may be", || balancer.connections(&a) == carried).await;
    eventually("a warning", || balancer.warnings().len() == 1).await;
    assert!(balancer.warnings()[0].starts_with("TCP port 8000 of the Service"));
    // The others wait, and other listeners serve.
    for _ in 0..20 {
        assert_eq!(ask((host(107), PORT + 1), "").await, "a");
    }
    assert!(balancer.connections(&a) <= carried + 1);
    drop(silent);
    assert_eq!(ask((host(107), PORT), "!").await, "a!");
    eventually("the end of the warning", || balancer.warnings().is_empty()).await;
}

/// A server that sends every datagram back.
async fn echo() -> Backend {
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(echo.local_addr().unwrap());
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = echo.recv_from(&mut buffer).await {
            echo.send_to(&buffer[..length], client).await.unwrap();
        }
    });
    backend
}

async fn say(client: &UdpSocket, text: &[u8]) {
    client.send(text).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(Duration::from_mins(1), client.recv(&mut buffer)).await;
    assert!(&buffer[..received.unwrap().unwrap()] == text);
}

async fn client(address: (Ipv4Addr, u16)) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    client
}

#[tokio::test]
async fn datagrams_come_back_to_their_client() {
    let (_folder, balancer) = balancer(Shares::of(1024));
    balancer.apply(wanted(host(108), UDP, &[echo().await])).await;
    let clients = [client((host(108), PORT)).await, client((host(108), PORT)).await];
    for text in [&b"one"[..], b"two", &vec![7; 60_000]] {
        for client in &clients {
            say(client, text).await;
        }
    }
}

#[tokio::test]
async fn silent_sessions_are_forgotten_while_others_talk() {
    let (_folder, mut balancer) = balancer(Shares::of(1 << 20));
    balancer.times = Times { idle: Duration::from_secs(1), sweep: Duration::from_millis(100), ..TIMES };
    let echo = echo().await;
    balancer.apply(wanted(host(109), UDP, std::slice::from_ref(&echo))).await;
    for _ in 0..50 {
        say(&client((host(109), PORT)).await, b"x").await;
    }
    // It never stops for as long as one look for silent sessions takes to come.
    let steady = client((host(109), PORT)).await;
    let talk = async {
        while balancer.connections(&echo) != 1 {
            say(&steady, b"on").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), talk).await.expect("one session stays");
}

#[tokio::test]
async fn the_session_that_was_silent_for_longest_makes_room() {
    let shares = Shares::of(64);
    let (folder, balancer) = balancer(shares);
    let echo = echo().await;
    balancer.apply(wanted(host(110), UDP, std::slice::from_ref(&echo))).await;
    let steady = client((host(110), PORT)).await;
    for _ in 0..100 {
        say(&steady, b"on").await;
        say(&client((host(110), PORT)).await, b"x").await;
        let sessions = balancer.connections(&echo);
        assert!(sessions as usize <= shares.listener, "{sessions}");
    }
    let text = log::with(&folder.path().join("log"), "silent for longest");
    assert_eq!(text.matches("silent for longest").count(), 1, "{text}");
}
