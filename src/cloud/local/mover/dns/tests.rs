//! Name servers between real sockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::answers::CONNECTIONS;
use super::message::Reply;
use super::*;
use crate::cloud::local::log;
use crate::cloud::local::network::addresses;

fn dns() -> (tempfile::TempDir, Dns) {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::open(&folder.path().join("log")).unwrap());
    (folder, Dns::new(Shares::of(1024), Arc::default(), log))
}

fn reported(dns: &Dns) -> Report {
    let mut report = Report::default();
    dns.report(&mut report);
    report
}

#[tokio::test]
async fn a_server_that_cannot_start_says_once_what_to_do() {
    // Another user than root has the same failure without this.
    let address = addresses::name_server("taken");
    let taken = std::net::UdpSocket::bind((address, PORT));
    let (folder, dns) = dns();
    let wanted = || BTreeMap::from([("taken".to_owned(), NameServer { address, zone: Zone::new() })]);
    dns.apply(wanted()).await;
    dns.apply(wanted()).await;
    let report = reported(&dns);
    assert!(report.name_servers.is_empty());
    let said = &report.warnings["taken"][0];
    assert!(
        said.contains(":53 cannot be served: ")
            && (said.contains("ip_unprivileged_port_start")
                || said.contains("another program has that address")),
        "{said}"
    );
    let logged = log::with(&folder.path().join("log"), "cannot be served");
    assert_eq!(logged.matches("cannot be served").count(), 1, "{logged}");
    drop(taken);
    dns.apply(BTreeMap::new()).await;
    assert_eq!(reported(&dns), Report::default());
}

/// A server on a port that needs no privilege, at an address that no other test has.
fn start(dns: &Dns, number: u8, zone: Zone) -> (SocketAddr, Server) {
    let [high, low] = [std::process::id() >> 8, std::process::id()].map(|part| part.to_le_bytes()[0]);
    let address = SocketAddr::from((Ipv4Addr::new(127, number, high, low), 5300));
    (address, dns.start("test", address, zone).unwrap())
}

fn zone(low: u8) -> Zone {
    Zone::from([("web.default.svc.cluster.local".to_owned(), Ipv4Addr::new(127, 77, 0, low))])
}

#[tokio::test]
async fn a_client_is_answered_with_what_the_zone_is_now() {
    let (_folder, dns) = dns();
    let (address, server) = start(&dns, 94, zone(1));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let question = message::example_question("web.default.svc.cluster.local", 1);
    for low in [1, 2] {
        server.set_zone(zone(low));
        client.send(&question).await.unwrap();
        let mut answer = [0; 512];
        let length = client.recv(&mut answer).await.unwrap();
        assert_eq!(answer[length - 4..length], [127, 77, 0, low]);
    }
}

#[tokio::test]
async fn several_questions_over_one_connection_have_the_answers_of_datagrams() {
    let (_folder, dns) = dns();
    let (address, server) = start(&dns, 95, zone(7));
    let question = message::example_question("web.default.svc.cluster.local", 1);
    let Some(Reply::Answer(expected)) = message::reply(&question, &zone(7)) else { panic!("no answer") };
    let mut client = TcpStream::connect(address).await.unwrap();
    // Two at once, the second one in two parts.
    let framed = [&[0, u8::try_from(question.len()).unwrap()], question.as_slice()].concat();
    let (start, end) = framed.split_at(20);
    client.write_all(&[&framed, start].concat()).await.unwrap();
    assert_eq!(framing::read(&mut client).await.unwrap(), expected);
    client.write_all(end).await.unwrap();
    assert_eq!(framing::read(&mut client).await.unwrap(), expected);
    // What is no question ends the connection.
    framing::write(&mut client, b"no question").await.unwrap();
    assert!(framing::read(&mut client).await.is_err());

    // A closed server leaves its address to the next one at once, connections or not.
    let _open = TcpStream::connect(address).await.unwrap();
    server.close().await;
    dns.start("test", address, zone(8)).unwrap();
}

#[tokio::test]
async fn connections_are_bounded() {
    let (_folder, dns) = dns();
    let (address, server) = start(&dns, 96, zone(7));
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut further = TcpStream::connect(address).await.unwrap();
    let ended = further.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let warning = server.answers.connections.warning().unwrap();
    assert!(warning.contains("name server of test (TCP)"), "{warning}");
    let question = message::example_question("web.default.svc.cluster.local", 1);
    drop(silent);
    // As soon as the server has seen that they are gone.
    loop {
        let mut client = TcpStream::connect(address).await.unwrap();
        let answered = async {
            framing::write(&mut client, &question).await?;
            framing::read(&mut client).await
        };
        if answered.await.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_silent_connection_is_let_go() {
    let (_folder, mut dns) = dns();
    dns.idle = Duration::from_millis(50);
    let (address, _server) = start(&dns, 97, zone(7));
    let mut silent = TcpStream::connect(address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_mins(1), silent.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
