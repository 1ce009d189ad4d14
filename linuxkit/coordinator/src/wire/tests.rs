//! Replicas talk to their like, and to nobody else.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use super::frame::{self, Hello, Kind};
use super::link::{CallError, Greeter, Link};
use super::service::{self, Answer, Service};
use super::tls::Identity;
use crate::member::era::Era;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Against hangs alone.
const PATIENCE: Duration = Duration::from_secs(30);

fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["i2kit".into()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn identity((certificate, key): &(String, String)) -> Identity {
    Identity::new(certificate.as_bytes(), key.as_bytes()).unwrap()
}

fn hello(slot: u32) -> Hello {
    Hello { group: "shop/db".into(), id: u64::from(slot) + 100, slot, empty: true, era: Era::default() }
}

/// Answers each call with its body twice.
struct Twice(Mutex<Vec<Bytes>>);

impl Greeter for Twice {
    fn hello(&self) -> Hello {
        hello(0)
    }

    fn meets(&self, other: &Hello) -> io::Result<()> {
        same_era(other)
    }
}

fn same_era(other: &Hello) -> io::Result<()> {
    if other.era == Era::default() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Who asks, from slot 1.
struct Asker;

impl Greeter for Asker {
    fn hello(&self) -> Hello {
        hello(1)
    }

    fn meets(&self, other: &Hello) -> io::Result<()> {
        same_era(other)
    }
}

impl Service for Twice {
    fn notice(&self, _: &Hello, _: Kind, body: Bytes) {
        self.0.lock().unwrap().push(body);
    }

    fn call(&self, _: Arc<Hello>, _: Kind, body: Bytes) -> Answer {
        Box::pin(async move { Some([&body[..], &body[..]].concat().into()) })
    }
}

async fn server(identity: Identity) -> (String, Arc<Twice>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = Arc::new(Twice(Mutex::default()));
    tokio::spawn(service::serve(listener, identity, service.clone()));
    (address, service)
}

fn link(address: &str, identity: &Identity) -> Link {
    Link::start(address.to_owned(), identity, Arc::new(Asker))
}

/// Waits until the link is up.
async fn up(link: &Link) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while link.connected().is_none() {
        assert!(tokio::time::Instant::now() < until, "the link is not up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Connects, says hello, and tells whether the other side says its own: with an error of TLS, or an end, it does not.
async fn is_greeted(address: &str, identity: &Identity, hello: &Hello) -> bool {
    let connector = tokio_rustls::TlsConnector::from(identity.client.clone());
    let name = rustls::pki_types::ServerName::try_from("i2kit").unwrap();
    let greeting = async {
        let mut stream = connector.connect(name, TcpStream::connect(address).await?).await?;
        let mut out = BytesMut::new();
        frame::put(&mut out, Kind::Hello, 0, &hello.encode());
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut answer = [0];
        stream.read(&mut answer).await
    };
    let answered = tokio::time::timeout(PATIENCE, greeting).await.expect("the server says nothing at all");
    answered.is_ok_and(|len| len > 0)
}

#[tokio::test]
async fn calls_are_answered_and_large_bodies_pass() {
    let pair = pair();
    let (address, service) = server(identity(&pair)).await;
    let link = link(&address, &identity(&pair));
    assert_eq!(link.call(Kind::Vote, Bytes::new(), PATIENCE).await, Err(CallError::Down));
    up(&link).await;
    assert_eq!(link.connected().unwrap().hello, hello(0));
    link.send(Kind::Forward, Bytes::from_static(b"one way"));
    let body = Bytes::from(vec![7; 7 << 20]);
    let (small, large) = tokio::join!(
        link.call(Kind::Vote, Bytes::from_static(b"ab"), PATIENCE),
        link.call(Kind::Append, body.clone(), PATIENCE),
    );
    assert_eq!(small.unwrap(), "abab");
    assert_eq!(large.unwrap().len(), 2 * body.len());
    assert_eq!(*service.0.lock().unwrap(), ["one way"]);
}

#[tokio::test]
async fn another_certificate_is_refused_on_either_side_and_two_pins_are_taken() {
    let (ours, others) = (pair(), pair());
    let (address, _) = server(identity(&ours)).await;
    assert!(is_greeted(&address, &identity(&ours), &hello(1)).await);
    assert!(
        !is_greeted(&address, &identity(&others), &hello(1)).await,
        "the client does not know the server's"
    );
    // While certificates are exchanged, a replica with the new pair first and the old one behind it talks to those that have both.
    let both =
        |first: &(String, String), second: &(String, String)| (first.0.clone() + &second.0, first.1.clone());
    let shows_another = identity(&both(&others, &ours));
    assert!(!is_greeted(&address, &shows_another, &hello(1)).await, "the server does not know the client's");
    let (address, _) = server(identity(&both(&ours, &others))).await;
    assert!(is_greeted(&address, &shows_another, &hello(1)).await);
    up(&link(&address, &shows_another)).await;
    // A stolen certificate is worth nothing without its key.
    assert!(Identity::new(ours.0.as_bytes(), others.1.as_bytes()).is_err());
}

#[tokio::test]
async fn another_group_is_refused() {
    let pair = pair();
    let (address, _) = server(identity(&pair)).await;
    let stranger = Hello { group: "shop/other".into(), ..hello(1) };
    assert!(!is_greeted(&address, &identity(&pair), &stranger).await);
    assert!(is_greeted(&address, &identity(&pair), &hello(1)).await);
}

/// A connection by TLS that has said its hello.
async fn raw(address: &str, identity: &Identity) -> tokio_rustls::client::TlsStream<TcpStream> {
    let connector = tokio_rustls::TlsConnector::from(identity.client.clone());
    let name = rustls::pki_types::ServerName::try_from("i2kit").unwrap();
    connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap()
}

/// Whether the other side ends the connection, whatever it says before.
async fn ends(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.is_ok()
}

#[tokio::test]
async fn hostile_peers_are_cut_off_and_others_are_served_on() {
    let pair = pair();
    let (address, _) = server(identity(&pair)).await;
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(ends(&mut plain).await, "it does not speak TLS");
    let mut no_hello = raw(&address, &identity(&pair)).await;
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::Vote, 1, b"x");
    no_hello.write_all(&out).await.unwrap();
    assert!(ends(&mut no_hello).await, "its first frame is no hello");
    let mut oversized = raw(&address, &identity(&pair)).await;
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::Hello, 0, &hello(1).encode());
    out.extend_from_slice(&u32::MAX.to_le_bytes());
    oversized.write_all(&out).await.unwrap();
    assert!(ends(&mut oversized).await, "its frame is too long");
    let mut truncated = raw(&address, &identity(&pair)).await;
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::Hello, 0, &hello(1).encode());
    frame::put(&mut out, Kind::Append, 1, &[1; 5000]);
    truncated.write_all(&out[..out.len() - 1]).await.unwrap();
    truncated.shutdown().await.unwrap();
    assert!(ends(&mut truncated).await, "its frame is cut");
    // Who connects and says nothing keeps nobody out.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let good = link(&address, &identity(&pair));
    up(&good).await;
    assert_eq!(good.call(Kind::Vote, Bytes::from_static(b"a"), PATIENCE).await.unwrap(), "aa");
}
