//! Ports of Services that end TLS: bytes both ways, ends of each direction, clients that mean harm, machines that come and go.

use i2kit_spec::Seconds;
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use super::secure::Signer;
use super::*;
use crate::cloud::local::proxy::tls::{Certificates, config};
use crate::cloud::local::proxy::wanted::TlsPort;
use crate::plan::fleet::Traffic;

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// The port that tests want. Others may have it, at other addresses.
pub(super) const PORT: u16 = 6443;

/// A front of a port whose connections go to these servers.
pub(super) fn port(signer: &Signer, servers: &[SocketAddr]) -> Front {
    let host = host();
    let address = host.to_string();
    let names = ["db.shop.svc.cluster.local", "db.shop.svc", "db.shop", "db", "localhost", &address];
    Front {
        host,
        certificates: vec![signer.certificate(&names)],
        tls: vec![Some(names[0].to_owned())],
        redirect: false,
        rules: vec![],
        tls_port: Some(TlsPort { port: PORT, to_pods: false, affinity_seconds: None }),
        ..front(servers)
    }
}

/// A server of bytes: `serve` is a connection.
async fn bytes<F, R>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that sends back what it gets.
pub(super) async fn echo() -> SocketAddr {
    bytes(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        drop(tokio::io::copy(&mut from, &mut to).await);
    })
    .await
}

/// A server that says its name and sends back what it gets.
async fn called(name: &'static str) -> SocketAddr {
    bytes(move |mut stream| async move {
        drop(stream.write_all(name.as_bytes()).await);
        let (mut from, mut to) = stream.split();
        drop(tokio::io::copy(&mut from, &mut to).await);
    })
    .await
}

/// A client of the port.
pub(super) async fn client(bed: &Bed, signer: &Signer) -> TlsStream<TcpStream> {
    timeout(PATIENCE, signer.connect(bed, "db", &[])).await.unwrap().unwrap()
}

/// Sends a text, and has it come back.
pub(super) async fn asks(stream: &mut TlsStream<TcpStream>, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, text);
}

/// Reads as many bytes as a name has.
async fn hears<const N: usize>(stream: &mut TlsStream<TcpStream>) -> String {
    let mut name = [0; N];
    timeout(PATIENCE, stream.read_exact(&mut name)).await.unwrap().unwrap();
    String::from_utf8(name.to_vec()).unwrap()
}

fn traffic(bed: &Bed) -> Traffic {
    bed.server.carried()["test/default/web"].clone()
}

pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looks = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looks).await.expect(what);
}

#[tokio::test]
async fn bytes_pass_both_ways_under_every_name_of_the_service_and_are_counted() {
    let (signer, other) = (Signer::new(), Signer::new());
    let front = port(&signer, &[echo().await]);
    let address = front.host.to_string();
    let bed = Bed::new(front);
    let names = ["db.shop.svc.cluster.local", "db.shop.svc", "db.shop", "DB", "localhost", &address];
    for name in names {
        let mut stream = signer.connect(&bed, name, &[]).await.unwrap();
        asks(&mut stream, b"\0any bytes\xff").await;
    }
    assert!(signer.connect(&bed, "other.shop", &[]).await.is_err());
    assert!(other.connect(&bed, "db", &[]).await.is_err());
    // What machines speak is not known, so that nothing is agreed on.
    let mut stream = signer.connect(&bed, "db", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    asks(&mut stream, b"any other").await;
    drop(stream);
    until("all have ended", || traffic(&bed).open == 0).await;
    let counted = traffic(&bed);
    assert_eq!((counted.connections, counted.errors, counted.refused), (9, 2, 0));
    assert_eq!((counted.received_bytes, counted.sent_bytes), (6 * 11 + 9, 6 * 11 + 9));
    assert_eq!(counted.connect.iter().map(|bucket| bucket.count).sum::<u64>(), 7);
    assert!(bed.server.counted().is_empty(), "it is no Ingress");
    assert_eq!(bed.server.report().bound["test/default/web"].http, None);
}

#[tokio::test]
async fn ten_megabytes_pass_while_as_many_come_back() {
    let signer = Signer::new();
    let bed = Bed::new(port(&signer, &[echo().await]));
    let sent: Arc<Vec<u8>> = Arc::new(
        (0..10_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect(),
    );
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let stream = TcpStream::connect(bed.address(true)).await.unwrap();
        let connector = signer.connector_of(&[], versions);
        let stream = connector.connect(ServerName::try_from("db").unwrap(), stream).await.unwrap();
        let (mut from, mut to) = tokio::io::split(stream);
        let given = Arc::clone(&sent);
        let writer = tokio::spawn(async move {
            to.write_all(&given).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let mut answer = Vec::new();
        timeout(PATIENCE, from.read_to_end(&mut answer)).await.unwrap().unwrap();
        writer.await.unwrap();
        assert!(answer == *sent, "{} bytes came back", answer.len());
    }
    assert_eq!((traffic(&bed).received_bytes, traffic(&bed).errors), (20_000_000, 0));
}

#[tokio::test]
async fn each_side_may_end_its_direction_and_read_on() {
    let signer = Signer::new();
    // It answers when the client has ended.
    let patient = bytes(|mut stream| async move {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.unwrap();
        stream.write_all(format!("{} bytes", asked.len()).as_bytes()).await.unwrap();
    })
    .await;
    let mut bed = Bed::new(port(&signer, &[patient]));
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let stream = TcpStream::connect(bed.address(true)).await.unwrap();
        let connector = signer.connector_of(&[], versions);
        let mut stream = connector.connect(ServerName::try_from("db").unwrap(), stream).await.unwrap();
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, "8 bytes");
    }
    // A client that ends without the alert that TLS has for it.
    let mut stream = client(&bed, &signer).await;
    stream.write_all(b"cut").await.unwrap();
    stream.get_mut().0.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "3 bytes");
    // A machine that ends first hears the client out.
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let first = bytes(move |mut stream| {
        let heard = heard.clone();
        async move {
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.unwrap();
            heard.send(asked).unwrap();
        }
    })
    .await;
    let mut front = bed.front();
    front.pools = vec![pool("web", &[first])];
    bed.serve(front);
    let mut stream = client(&bed, &signer).await;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "bye");
    stream.write_all(b"and more").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, hearing.recv()).await.unwrap().unwrap(), b"and more");
    until("all have ended", || traffic(&bed).open == 0).await;
    assert_eq!(traffic(&bed).errors, 0);
}

#[tokio::test]
async fn who_breaks_off_is_not_taken_for_one_that_has_ended() {
    let signer = Signer::new();
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let listening = bytes(move |mut stream| {
        let heard = heard.clone();
        async move {
            let mut asked = Vec::new();
            heard.send(stream.read_to_end(&mut asked).await.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let mut bed = Bed::new(port(&signer, &[listening]));
    let mut stream = client(&bed, &signer).await;
    stream.write_all(b"half a").await.unwrap();
    until("it has passed", || traffic(&bed).received_bytes == 6).await;
    stream.get_ref().0.set_zero_linger().unwrap();
    drop(stream);
    let found = timeout(PATIENCE, hearing.recv()).await.unwrap().unwrap();
    assert_eq!(found, Err(std::io::ErrorKind::ConnectionReset));
    // The other way round the client misses the alert that ends TLS.
    let breaking = bytes(|mut stream| async move {
        stream.write_all(b"half an").await.unwrap();
        drop(stream.read(&mut [0; 16]).await);
        stream.set_zero_linger().unwrap();
    })
    .await;
    let mut front = bed.front();
    front.pools = vec![pool("web", &[breaking])];
    bed.serve(front);
    let mut stream = client(&bed, &signer).await;
    assert_eq!(hears::<7>(&mut stream).await, "half an");
    stream.write_all(b"x").await.unwrap();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    until("both are counted", || traffic(&bed).errors == 2).await;
}

#[tokio::test]
async fn a_machine_that_ends_connections_at_once_gets_no_more_of_them() {
    let signer = Signer::new();
    let (refused, mut refusals) = mpsc::unbounded_channel();
    // As the front door does for a pod that takes no connections.
    let refusing = bytes(move |stream| {
        refused.send(()).unwrap();
        async move { drop(stream) }
    })
    .await;
    let bed = Bed::new(port(&signer, &[called("good").await, refusing]));
    // Connections that stay make the other machine the one with the fewest.
    let mut open = Vec::new();
    for _ in 0..100 {
        if open.len() == 10 {
            break;
        }
        let mut stream = client(&bed, &signer).await;
        let mut name = [0; 4];
        if timeout(PATIENCE, stream.read_exact(&mut name)).await.unwrap().is_ok() {
            open.push(stream);
        }
    }
    assert_eq!(open.len(), 10);
    assert!(refusals.try_recv().is_ok(), "it was tried");
}

#[tokio::test]
async fn handshakes_without_an_end_and_clients_without_tls_reach_no_machine() {
    let signer = Signer::new();
    let (told, mut reached) = mpsc::unbounded_channel();
    let machine = bytes(move |mut stream| {
        told.send(()).unwrap();
        async move { drop(stream.write_all(b"in").await) }
    })
    .await;
    let bed = Bed::with(port(&signer, &[machine]), Silences { head: 1, ..SILENCES });
    let address = bed.address(true);
    let connect = async || TcpStream::connect(address).await.unwrap();
    let ends = async |mut stream: TcpStream| {
        let mut rest = Vec::new();
        drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed"));
        rest
    };
    let silent = connect().await;
    // The head of a record, whose bytes come one at a time.
    let mut crawling = connect().await;
    crawling.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
    let mut written = 0;
    while written < 300 && crawling.write_all(b"y").await.is_ok() {
        written += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(written < 300, "it is closed");
    assert!(ends(silent).await.is_empty());
    for words in [&b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"[..], b"\0\0\0\x08\x04\xd2\x16\x2f", &[0xff; 9000]] {
        let mut stream = connect().await;
        stream.write_all(words).await.unwrap();
        let said = ends(stream).await;
        // An alert at most, and no word of HTTP.
        assert!(said.len() <= 7 && (said.is_empty() || said[0] == 21), "{said:?}");
    }
    assert!(reached.try_recv().is_err());
    let mut stream = client(&bed, &signer).await;
    assert_eq!(hears::<2>(&mut stream).await, "in");
    assert_eq!(timeout(PATIENCE, reached.recv()).await.unwrap(), Some(()));
    assert!(traffic(&bed).errors >= 3, "{:?}", traffic(&bed));
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_one_that_speaks_at_times_is_not() {
    let signer = Signer::new();
    let bed = Bed::with(port(&signer, &[echo().await]), Silences { within: 0, stream: 4, ..SILENCES });
    let (mut silent, mut slow) = (client(&bed, &signer).await, client(&bed, &signer).await);
    for _ in 0..14 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        asks(&mut slow, b"still here").await;
    }
    let ended = timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.expect("it is closed");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof, "it is not whole");
}

#[tokio::test]
async fn clients_outside_the_ranges_of_a_port_are_reset_and_counted() {
    let signer = Signer::new();
    let mut bed = Bed::new(port(&signer, &[echo().await]));
    let mut open = client(&bed, &signer).await;
    let mut front = bed.front();
    front.source_ranges = vec!["192.0.2.0/24".into()];
    bed.serve(front);
    let mut stream = TcpStream::connect(bed.address(true)).await.unwrap();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((traffic(&bed).refused, traffic(&bed).connections), (1, 1));
    // What stands goes on.
    asks(&mut open, b"on").await;
    let mut front = bed.front();
    front.source_ranges.push("127.0.0.0/8".into());
    bed.serve(front);
    asks(&mut client(&bed, &signer).await, b"in").await;
}

#[tokio::test]
async fn the_certificate_of_a_port_is_replaced_under_traffic() {
    let signers = [Signer::new(), Signer::new()];
    let mut bed = Bed::new(port(&signers[0], &[echo().await]));
    let mut kept = client(&bed, &signers[0]).await;
    for round in 1..20 {
        let mut front = bed.front();
        front.certificates = vec![signers[round % 2].certificate(&["db"])];
        bed.serve(front);
        asks(&mut client(&bed, &signers[round % 2]).await, b"new").await;
        assert!(signers[(round + 1) % 2].connect(&bed, "db", &[]).await.is_err());
        asks(&mut kept, b"goes on").await;
    }
}

#[tokio::test]
async fn a_machine_that_leaves_keeps_its_connections_and_is_counted_until_they_end() {
    let signer = Signer::new();
    let (leaving, next) = (called("one").await, called("two").await);
    let mut bed = Bed::new(port(&signer, &[leaving]));
    let mut stream = client(&bed, &signer).await;
    assert_eq!(hears::<3>(&mut stream).await, "one");
    let mut front = bed.front();
    front.pools = vec![pool("web", &[next])];
    bed.serve(front);
    let mut other = client(&bed, &signer).await;
    assert_eq!(hears::<3>(&mut other).await, "two");
    let active = bed.server.report().active;
    assert_eq!((active[&leaving.to_string()], active[&next.to_string()]), (1, 1));
    asks(&mut stream, b"still served").await;
    drop(stream);
    until("it has none", || !bed.server.report().active.contains_key(&leaving.to_string())).await;
    // The port goes, and what it carries with it.
    bed.wanted.0.clear();
    bed.server.apply(&bed.wanted);
    let ended = timeout(PATIENCE, other.read_to_end(&mut Vec::new())).await.expect("it is closed");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn connections_go_to_the_machine_with_the_fewest_and_past_one_that_takes_none() {
    let signer = Signer::new();
    let closed = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (one, two) = (called("one").await, called("two").await);
    let mut bed = Bed::new(port(&signer, &[closed, one, two]));
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut stream = client(&bed, &signer).await;
        let name = hears::<3>(&mut stream).await;
        open.push((stream, name));
    }
    assert_eq!(open.iter().filter(|(_, name)| name == "one").count(), 5);
    assert_eq!(traffic(&bed).errors, 0);
    // Nobody to go to: the connection ends, and TLS does not say that it is whole.
    for servers in [&[closed][..], &[]] {
        let mut front = bed.front();
        front.pools = vec![pool("web", servers)];
        bed.serve(front);
        let mut stream = client(&bed, &signer).await;
        let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
    until("both are counted", || traffic(&bed).errors == 2).await;
}

#[tokio::test]
async fn a_client_of_a_sticky_port_stays_with_its_machine() {
    let signer = Signer::new();
    let servers = [called("one").await, called("two").await, called("six").await];
    let mut front = port(&signer, &servers);
    front.tls_port = Some(TlsPort { port: PORT, to_pods: false, affinity_seconds: Some(Seconds(600)) });
    let mut bed = Bed::new(front);
    let ask = async |bed: &Bed, number: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 1, number), 0).into()).unwrap();
        let stream = socket.connect(bed.address(true)).await.unwrap();
        let connector = signer.connector_of(&[], rustls::ALL_VERSIONS);
        let mut stream = connector.connect(ServerName::try_from("db").unwrap(), stream).await.unwrap();
        hears::<3>(&mut stream).await
    };
    let mut first = Vec::new();
    for number in 1..=20 {
        first.push(ask(&bed, number).await);
    }
    for name in ["one", "two", "six"] {
        assert!(first.iter().any(|found| found == name), "{name} has clients: {first:?}");
    }
    // A new machine takes nobody, and one that goes gives up its own.
    let mut front = bed.front();
    front.pools = vec![pool("web", &[servers[0], servers[1], called("ten").await])];
    bed.serve(front);
    for (number, was) in (1..=20).zip(&first) {
        let found = ask(&bed, number).await;
        assert!(found == *was || was == "six", "client {number} was with {was}, and is with {found}");
        assert_ne!(found, "six");
    }
}

#[tokio::test]
async fn machines_are_spoken_tls_to_where_the_service_says_so() {
    let (signer, own) = (Signer::new(), Signer::new());
    let certificates = Arc::<Certificates>::default();
    assert!(certificates.set(&[own.certificate(&["whatever.test"])], &[]).is_empty());
    let acceptor = TlsAcceptor::from(config(&certificates, false).unwrap());
    let machine = bytes(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let (mut from, mut to) = tokio::io::split(stream);
            drop(tokio::io::copy(&mut from, &mut to).await);
            drop(to.shutdown().await);
        }
    })
    .await;
    let mut front = port(&signer, &[machine]);
    front.tls_port = Some(TlsPort { port: PORT, to_pods: true, affinity_seconds: None });
    let mut bed = Bed::new(front);
    let mut stream = client(&bed, &signer).await;
    asks(&mut stream, b"twice").await;
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
    // One that does not speak TLS is no machine of such a Service.
    let mut front = bed.front();
    front.pools = vec![pool("web", &[echo().await])];
    bed.serve(front);
    let mut stream = client(&bed, &signer).await;
    drop(stream.write_all(b"in clear?").await);
    let mut answer = Vec::new();
    assert!(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().is_err());
    assert!(answer.is_empty(), "{answer:?}");
}
