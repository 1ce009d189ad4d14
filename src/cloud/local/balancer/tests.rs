//! The balancer between real sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// How long a test waits for a condition before it fails; no measure of speed.
const PATIENCE: Duration = Duration::from_mins(1);

fn key() -> Key {
    ("local".into(), Name { namespace: "default".into(), name: "web".into() }, 0)
}

fn wanted(protocol: Protocol, port: u16, backends: &[Backend]) -> BTreeMap<Key, Wanted> {
    let host = Ipv4Addr::new(127, 77, 254, 254);
    BTreeMap::from([(key(), Wanted { host, port, protocol, backends: backends.to_vec() })])
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

async fn ask(balancers: &Balancers, text: &str) -> String {
    let port = balancers.bound(&key()).unwrap();
    let mut stream = TcpStream::connect((Ipv4Addr::new(127, 77, 254, 254), port)).await.unwrap();
    let mut answer = String::new();
    let talk = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        stream.read_to_string(&mut answer).await
    };
    // A refused client sees its connection closed or reset, depending on who was faster.
    drop(tokio::time::timeout(PATIENCE, talk).await.expect("an answer or an end in time"));
    answer
}

#[tokio::test]
async fn connections_take_turns_and_skip_the_dead() {
    let balancers = Balancers::default();
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        backend(listener.local_addr().unwrap())
    };
    let backends = [server("a").await, dead, server("b").await];
    assert!(balancers.apply(wanted(Protocol::Tcp, 0, &backends)).is_empty());
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(ask(&balancers, "!").await);
    }
    assert!(answers.iter().all(|answer| answer == "a!" || answer == "b!"), "{answers:?}");
    assert!(answers.contains(&"a!".to_owned()) && answers.contains(&"b!".to_owned()), "{answers:?}");
    let open = || backends.iter().any(|backend| backend.connections.load(Ordering::Relaxed) > 0);
    let closed = async {
        while open() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("no connection is counted for ever");
}

#[tokio::test]
async fn tables_change_and_listeners_go_while_in_use() {
    let balancers = Balancers::default();
    let (a, b) = (server("a").await, server("b").await);
    balancers.apply(wanted(Protocol::Tcp, 0, std::slice::from_ref(&a)));
    let port = balancers.bound(&key()).unwrap();
    assert_eq!(ask(&balancers, "").await, "a");
    balancers.apply(wanted(Protocol::Tcp, 0, &[b]));
    assert_eq!(balancers.bound(&key()), Some(port));
    assert_eq!(ask(&balancers, "").await, "b");
    balancers.apply(wanted(Protocol::Tcp, 0, &[]));
    assert_eq!(ask(&balancers, "").await, "");

    // A connection under way ends with its listener.
    balancers.apply(wanted(Protocol::Tcp, 0, std::slice::from_ref(&a)));
    let mut open = TcpStream::connect((Ipv4Addr::new(127, 77, 254, 254), port)).await.unwrap();
    open.write_all(b"x").await.unwrap();
    while a.connections.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    balancers.apply(BTreeMap::new());
    let ended = tokio::time::timeout(PATIENCE, open.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert!(TcpStream::connect((Ipv4Addr::new(127, 77, 254, 254), port)).await.is_err());
}

#[tokio::test]
async fn a_taken_port_falls_back_to_another() {
    let host = Ipv4Addr::new(127, 77, 254, 253);
    let taken = TcpListener::bind((host, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let wanted = Wanted { host, port, protocol: Protocol::Tcp, backends: Vec::new() };
    let balancers = Balancers::default();
    assert!(balancers.apply(BTreeMap::from([(key(), wanted)])).is_empty());
    assert_ne!(balancers.bound(&key()), Some(port));
}

#[tokio::test]
async fn datagrams_come_back_to_their_client() {
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(echo.local_addr().unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((length, client)) = echo.recv_from(&mut buffer).await {
            echo.send_to(&buffer[..length], client).await.unwrap();
        }
    });
    let balancers = Balancers::default();
    balancers.apply(wanted(Protocol::Udp, 0, &[backend]));
    let port = balancers.bound(&key()).unwrap();
    for text in ["one", "two"] {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect((Ipv4Addr::new(127, 77, 254, 254), port)).await.unwrap();
        client.send(text.as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        let received = tokio::time::timeout(PATIENCE, client.recv(&mut buffer)).await;
        assert_eq!(&buffer[..received.unwrap().unwrap()], text.as_bytes());
    }
}

#[test]
fn addresses_are_stable_and_never_shared() {
    let name = Name { namespace: "default".into(), name: "web".into() };
    let first = address("local", &name, &[]);
    assert_eq!(address("local", &name, &[]), first);
    assert_eq!(first.octets()[..2], [127, 77]);
    assert_ne!(address("local", &name, &[first.to_string()]), first);
}
