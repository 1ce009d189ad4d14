//! The balancer between real sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// An address that no other test has, nor another run of the tests at this time.
fn host(test: u8) -> Ipv4Addr {
    let [high, low] = [std::process::id() >> 8, std::process::id()].map(|part| part.to_le_bytes()[0]);
    Ipv4Addr::new(127, test, high, low)
}

/// A port that needs no privilege.
const PORT: u16 = 8000;

fn key(port: u16, protocol: Protocol) -> Key {
    ("local".into(), Name { namespace: "default".into(), name: "web".into() }, port, protocol)
}

fn wanted(host: Ipv4Addr, ports: &[(u16, Protocol)], backends: &[Backend]) -> BTreeMap<Key, Wanted> {
    let one = |(port, protocol): &(u16, Protocol)| {
        (key(*port, *protocol), Wanted { host, backends: backends.to_vec() })
    };
    ports.iter().map(one).collect()
}

const TCP: &[(u16, Protocol)] = &[(PORT, Protocol::Tcp)];
const UDP: &[(u16, Protocol)] = &[(PORT, Protocol::Udp)];

fn balancers(shares: Shares) -> (tempfile::TempDir, Balancers) {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::open(&folder.path().join("log")).unwrap());
    (folder, Balancers::new(shares, Arc::default(), log))
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn backend(address: SocketAddr) -> Backend {
    Backend { address, connections: Arc::new(AtomicU32::new(0)) }
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
    let (_folder, balancers) = balancers(Shares::of(1024));
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        backend(listener.local_addr().unwrap())
    };
    let backends = [server("a").await, dead, server("b").await];
    assert!(balancers.apply(wanted(host(101), TCP, &backends)).await.is_empty());
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(ask((host(101), PORT), "!").await);
    }
    assert!(answers.iter().all(|answer| answer == "a!" || answer == "b!"), "{answers:?}");
    assert!(answers.contains(&"a!".to_owned()) && answers.contains(&"b!".to_owned()), "{answers:?}");
    let is_over = || backends.iter().all(|backend| backend.connections.load(Ordering::Relaxed) == 0);
    eventually("the end of all connections", is_over).await;
}

#[tokio::test]
async fn tables_change_and_listeners_go_while_in_use() {
    let (_folder, balancers) = balancers(Shares::of(1024));
    let (a, b) = (server("a").await, server("b").await);
    let address = (host(102), PORT);
    balancers.apply(wanted(host(102), TCP, std::slice::from_ref(&a))).await;
    assert_eq!(balancers.bound(&key(PORT, Protocol::Tcp)), Some(PORT));
    assert_eq!(ask(address, "").await, "a");
    balancers.apply(wanted(host(102), TCP, &[b])).await;
    assert_eq!(ask(address, "").await, "b");
    balancers.apply(wanted(host(102), TCP, &[])).await;
    assert_eq!(ask(address, "").await, "");

    // A connection under way ends with its listener.
    balancers.apply(wanted(host(102), TCP, std::slice::from_ref(&a))).await;
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(b"x").await.unwrap();
    eventually("the connection", || a.connections.load(Ordering::Relaxed) == 1).await;
    balancers.apply(BTreeMap::new()).await;
    let ended = tokio::time::timeout(Duration::from_mins(1), open.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_before_another_one_leaves_that_where_it_is() {
    let (_folder, balancers) = balancers(Shares::of(1024));
    let a = server("a").await;
    let (first, second) = ((PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp));
    balancers.apply(wanted(host(103), &[second], std::slice::from_ref(&a))).await;
    let mut open = TcpStream::connect((host(103), second.0)).await.unwrap();
    open.write_all(b"on").await.unwrap();
    eventually("the connection", || a.connections.load(Ordering::Relaxed) == 1).await;

    balancers.apply(wanted(host(103), &[first, second], std::slice::from_ref(&a))).await;
    for (port, protocol) in [first, second] {
        assert_eq!(balancers.bound(&key(port, protocol)), Some(port));
        assert_eq!(ask((host(103), port), "").await, "a");
    }
    open.shutdown().await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "aon", "the open connection went on");
}

#[tokio::test]
async fn a_port_is_free_for_another_balancer_once_its_own_is_gone() {
    let (_folder, balancers) = balancers(Shares::of(1024));
    let a = server("a").await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for name in ["one", "two", "three"] {
            let mut key = key(PORT, protocol);
            key.1.name = name.into();
            let listener = Wanted { host: host(104), backends: vec![a.clone()] };
            assert!(balancers.apply(BTreeMap::from([(key.clone(), listener)])).await.is_empty());
            assert_eq!(balancers.bound(&key), Some(PORT), "{name}");
        }
    }
}

#[tokio::test]
async fn a_taken_port_falls_back_to_another_until_it_is_free() {
    let taken = TcpListener::bind((host(105), PORT)).await.unwrap();
    let (_folder, mut balancers) = balancers(Shares::of(1024));
    balancers.times.retry = Duration::ZERO;
    let a = server("a").await;
    let apply = || balancers.apply(wanted(host(105), TCP, std::slice::from_ref(&a)));
    assert!(apply().await.is_empty());
    let other = balancers.bound(&key(PORT, Protocol::Tcp)).unwrap();
    assert_ne!(other, PORT);
    let mut open = TcpStream::connect((host(105), other)).await.unwrap();
    open.write_all(b"on").await.unwrap();
    eventually("the connection", || a.connections.load(Ordering::Relaxed) == 1).await;

    drop(taken);
    apply().await;
    assert_eq!(balancers.bound(&key(PORT, Protocol::Tcp)), Some(PORT));
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
    let (_folder, balancers) = balancers(Shares::of(1024));
    balancers.apply(wanted(host(106), &[(port, Protocol::Tcp)], &[])).await;
    assert_eq!(balancers.bound(&key(port, Protocol::Tcp)), Some(other));
    let both = wanted(host(106), &[(port, Protocol::Tcp), (other, Protocol::Tcp)], &[]);
    balancers.apply(both).await;
    assert_eq!(balancers.bound(&key(other, Protocol::Tcp)), Some(other));
    assert!(balancers.bound(&key(port, Protocol::Tcp)).is_some_and(|bound| bound != port && bound != other));
    drop(taken);
}

#[tokio::test]
async fn silent_clients_leave_descriptors_for_everything_else() {
    // As with a limit of 64 descriptors: 28 for traffic, half of them for one listener.
    let shares = Shares::of(64);
    let (_folder, balancers) = balancers(shares);
    let a = server("a").await;
    let (full, other) = ((PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp));
    balancers.apply(wanted(host(107), &[full, other], std::slice::from_ref(&a))).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect((host(107), PORT)).await.unwrap());
    }
    let carried = u32::try_from(shares.listener / 2).unwrap();
    eventually("as many as may be", || a.connections.load(Ordering::Relaxed) == carried).await;
    eventually("a warning", || balancers.warnings("local").len() == 1).await;
    assert!(balancers.warnings("local")[0].starts_with("TCP port 8000 of the Service"));
    // The others wait, and other listeners serve.
    for _ in 0..20 {
        assert_eq!(ask((host(107), PORT + 1), "").await, "a");
    }
    assert!(a.connections.load(Ordering::Relaxed) <= carried + 1);
    drop(silent);
    assert_eq!(ask((host(107), PORT), "!").await, "a!");
    eventually("the end of the warning", || balancers.warnings("local").is_empty()).await;
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
    let (_folder, balancers) = balancers(Shares::of(1024));
    balancers.apply(wanted(host(108), UDP, &[echo().await])).await;
    let clients = [client((host(108), PORT)).await, client((host(108), PORT)).await];
    for text in [&b"one"[..], b"two", &vec![7; 60_000]] {
        for client in &clients {
            say(client, text).await;
        }
    }
}

#[tokio::test]
async fn silent_sessions_are_forgotten_while_others_talk() {
    let (_folder, mut balancers) = balancers(Shares::of(1 << 20));
    balancers.times = Times { idle: Duration::from_secs(1), sweep: Duration::from_millis(100), ..TIMES };
    let echo = echo().await;
    balancers.apply(wanted(host(109), UDP, std::slice::from_ref(&echo))).await;
    for _ in 0..50 {
        say(&client((host(109), PORT)).await, b"x").await;
    }
    // It never stops for as long as one look for silent sessions takes to come.
    let steady = client((host(109), PORT)).await;
    let talk = async {
        while echo.connections.load(Ordering::Relaxed) != 1 {
            say(&steady, b"on").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), talk).await.expect("one session stays");
}

#[tokio::test]
async fn the_session_that_was_silent_for_longest_makes_room() {
    let shares = Shares::of(64);
    let (folder, balancers) = balancers(shares);
    let echo = echo().await;
    balancers.apply(wanted(host(110), UDP, std::slice::from_ref(&echo))).await;
    let steady = client((host(110), PORT)).await;
    for _ in 0..100 {
        say(&steady, b"on").await;
        say(&client((host(110), PORT)).await, b"x").await;
        let sessions = echo.connections.load(Ordering::Relaxed);
        assert!(sessions as usize <= shares.listener, "{sessions}");
    }
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(text.matches("silent for longest").count(), 1, "{text}");
}

#[test]
fn addresses_are_stable_and_never_shared() {
    let name = Name { namespace: "default".into(), name: "web".into() };
    let first = address("local", &name, &[]);
    assert_eq!(address("local", &name, &[]), first);
    assert_eq!(first.octets()[..2], [127, 77]);
    assert_ne!(address("local", &name, &[first.to_string()]), first);
}
