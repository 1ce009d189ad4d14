//! The proxy against clients and servers that are tasks of the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::connection::{SILENCES, Silences};
use super::ports::Sockets;
use super::server::Server;
use super::wanted::{Certificate, Front, Pool, PrivateKey, ServerAddress, Wanted};
use crate::cloud::local::ca::Authority;
use crate::cloud::local::home::Home;
use crate::plan::fleet::HttpRule;

mod away;
mod hostile;
mod protocols;
mod secure;
mod termination;

/// Keeps nothing.
#[derive(Debug)]
struct Unkept;

impl Sockets for Unkept {
    fn take(&self, _: &str) -> Option<StdListener> {
        None
    }
    fn keep(&self, _: &str, _: &StdListener) {}
    fn forget(&self, _: &str) {}
}

/// An address of this host for each test: listeners want the same ports.
fn host() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let byte = |number: u32| u8::try_from(number % 250).unwrap();
    Ipv4Addr::new(127, 90 + byte(process / 250) % 100, byte(process), 1 + byte(number))
}

fn rule(path: &str, backend: usize) -> HttpRule {
    HttpRule { host: None, path: path.into(), exact: false, backend }
}

fn pool(service: &str, servers: &[SocketAddr]) -> Pool {
    let server = |address: &SocketAddr| ServerAddress { machine: address.to_string(), address: *address };
    Pool { service: service.into(), http2: false, servers: servers.iter().map(server).collect() }
}

/// A front whose every path leads to these servers.
fn front(servers: &[SocketAddr]) -> Front {
    Front {
        environment: "test".into(),
        host: host(),
        source_ranges: vec![],
        certificates: vec![],
        tls: vec![],
        redirect: true,
        rules: vec![rule("/", 0)],
        default: None,
        pools: vec![pool("web", servers)],
        challenges: vec![],
        tls_port: None,
    }
}

/// A proxy that serves fronts, with what is served.
struct Bed {
    server: Arc<Server>,
    wanted: Wanted,
}

impl Bed {
    fn new(front: Front) -> Self {
        Self::with(front, SILENCES)
    }

    fn with(front: Front, silences: Silences) -> Self {
        let server = Server::with(256, Arc::new(Unkept), silences);
        let mut bed = Self { server, wanted: Wanted::default() };
        bed.serve(front);
        bed
    }

    fn serve(&mut self, front: Front) {
        self.wanted.0 = BTreeMap::from([("test/default/web".to_owned(), front)]);
        self.server.apply(&self.wanted);
    }

    fn front(&self) -> Front {
        self.wanted.0["test/default/web"].clone()
    }

    fn address(&self, is_tls: bool) -> SocketAddr {
        let bound = self.server.report().bound["test/default/web"];
        let port = if is_tls { bound.https } else { bound.http };
        (self.front().host, port.unwrap()).into()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address(false)).await.unwrap()
    }

    /// Sends a text over a new connection, and returns what is answered until its end.
    async fn raw(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        drop(stream.write_all(text.as_bytes()).await);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        drop(tokio::time::timeout(Duration::from_secs(20), read).await.expect("the connection ends"));
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header("host", "web.test").body(Empty::<Bytes>::new()).unwrap();
        let stream = TokioIo::new(self.connect().await);
        let (mut sender, driver) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(driver);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>;

fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed())
}

/// A server whose answers `answer` makes; HTTP/1.1 and HTTP/2.
async fn backend<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

/// A server that answers with its name.
async fn named(name: &'static str) -> SocketAddr {
    backend(move |_| async move { text(name) }).await
}

/// A server that promises to keep a connection and closes it with the next request, as servers do whose patience ends; and
/// how often that one began with `with`.
async fn fickle(with: &'static str) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closings = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&closings);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await);
                    let second = stream.read(&mut buffer).await;
                    if second.is_ok_and(|read| buffer[..read].starts_with(with.as_bytes())) {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (address, closings)
}

/// A server that answers with the head of the request.
async fn mirror() -> SocketAddr {
    backend(|request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
        let mut lines = vec![format!("{} {} {:?}", parts.method, parts.uri, parts.version)];
        lines
            .extend(parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
        lines.push(format!("body of {length}"));
        text(lines.join("\n"))
    })
    .await
}

#[tokio::test]
async fn requests_go_by_host_and_path_and_the_rest_to_nobody() {
    let (one, two) = (named("one").await, named("two").await);
    let mut front = front(&[one]);
    front.rules = vec![rule("/a", 0), rule("/a/b", 1), HttpRule { exact: true, ..rule("/c", 2) }];
    front.pools = vec![pool("one", &[one]), pool("two", &[two]), pool("three", &[])];
    let mut bed = Bed::new(front);
    assert_eq!(bed.get("/a/x?y=z").await, (StatusCode::OK, "one".into()));
    assert_eq!(bed.get("/a/b/").await, (StatusCode::OK, "two".into()));
    assert_eq!(bed.get("/ab").await.0, StatusCode::NOT_FOUND);
    let (status, why) = bed.get("/c").await;
    assert_eq!(
        (status, why.contains("the Service three has no healthy instance")),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    // A default backend, while connections go on.
    let mut front = bed.front();
    front.default = Some(1);
    bed.serve(front);
    assert_eq!(bed.get("/ab").await, (StatusCode::OK, "two".into()));
    assert_eq!(bed.server.report().requests, 5);
}

#[tokio::test]
async fn requests_are_counted_by_service_and_by_the_class_of_their_answer() {
    let one = mirror().await;
    let mut front = front(&[one]);
    front.rules = vec![rule("/a", 0), rule("/b", 1)];
    front.pools = vec![pool("one", &[one]), pool("two", &[])];
    let mut bed = Bed::new(front);
    let mut sent = 0;
    for _ in 0..3 {
        sent += bed.get("/a").await.1.len();
    }
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nabcde";
    let answer = bed.raw(head).await;
    sent += answer.split_once("\r\n\r\n").unwrap().1.len();
    assert_eq!(bed.get("/b").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bed.get("/c").await.0, StatusCode::NOT_FOUND);
    bed.raw("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n").await;
    let of = |bed: &Bed| {
        let counted = bed.server.counted().remove("test/default/web").unwrap();
        let found = |service: &str| counted.iter().find(|found| found.service == service).unwrap().clone();
        ["one", "two", ""].map(found)
    };
    let [one, two, others] = of(&bed);
    assert_eq!((one.codes["2xx"], one.codes.values().sum::<u64>()), (4, 4));
    assert_eq!((one.received_bytes, one.sent_bytes), (5, sent as u64));
    assert_eq!(one.durations.iter().map(|bucket| bucket.count).sum::<u64>(), 4);
    assert_eq!((two.codes["5xx"], two.received_bytes), (1, 0));
    assert_eq!(others.codes["4xx"], 2);
    // What was counted stays when rules change, as long as the Service is one of them.
    let mut front = bed.front();
    front.rules.remove(1);
    front.pools.remove(1);
    bed.serve(front);
    let counted = bed.server.counted().remove("test/default/web").unwrap();
    assert_eq!(counted.iter().map(|found| found.service.as_str()).collect::<Vec<_>>(), ["", "one"]);
    assert_eq!(counted[1], one);
}

#[tokio::test]
async fn a_request_whose_client_goes_is_counted_as_one_of_the_client() {
    let bed = Bed::new(front(&[backend(|_| std::future::pending()).await]));
    let mut stream = bed.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    while bed.server.report().active.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    let counted =
        || bed.server.counted()["test/default/web"].iter().map(|found| found.codes["4xx"]).sum::<u64>();
    let given_up = tokio::time::Instant::now() + Duration::from_secs(20);
    while counted() == 0 {
        assert!(tokio::time::Instant::now() < given_up);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn clients_outside_the_ranges_are_not_answered() {
    let one = named("one").await;
    let mut bed = Bed::new(front(&[one]));
    for (ranges, admitted) in
        [(&["192.0.2.0/24"][..], false), (&["10.0.0.0/8", "127.0.0.0/8"], true), (&[], true)]
    {
        let mut front = bed.front();
        front.source_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
        bed.serve(front);
        let answer = bed.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_eq!(answer.ends_with("one"), admitted, "{ranges:?}: {answer}");
        assert_eq!(answer.is_empty(), !admitted, "{ranges:?}: {answer}");
    }
    // Whom no rule is about, as no request was read.
    let counted = bed.server.counted().remove("test/default/web").unwrap();
    let of = |service: &str, class: &str| {
        counted.iter().find(|found| found.service == service).map(|found| found.codes[class])
    };
    assert_eq!((of("", "4xx"), of("web", "4xx"), of("web", "2xx")), (Some(1), Some(0), Some(2)));
    // Whom later ranges leave out is refused on the connection that is open.
    let mut stream = bed.connect().await;
    for (ranges, status) in [(&[][..], "200"), (&["192.0.2.0/24"], "403")] {
        let mut front = bed.front();
        front.source_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
        bed.serve(front);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(answer.contains("connection: close"), status == "403", "{answer}");
    }
}

#[tokio::test]
async fn what_a_client_says_of_itself_is_not_believed() {
    let bed = Bed::new(front(&[mirror().await]));
    let head = "POST /p?q HTTP/1.1\r\nHost: Web.Test:81\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
                Forwarded: for=6.6.6.6\r\nX-Real-Ip: 6.6.6.6\r\nConnection: close, X-Secret, Host\r\nX-Secret: 1\r\nTE: trailers\r\n\
                Keep-Alive: x\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nX_Forwarded_For: 6.6.6.6\r\nX_Forwarded_Proto: spoof\r\n\
                X-Forwarded-Scheme: spoof\r\nX-Scheme: spoof\r\nX-Forwarded-Ssl: spoof\r\nFront-End-Https: spoof\r\n\
                X-Original-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Prefix: spoof\r\nX-Forwarded-Server: spoof\r\n\
                X-Client-IP: 6.6.6.6\r\nContent-Length: 3\r\n\r\nabc";
    let answer = bed.raw(head).await.to_lowercase();
    for expected in [
        "post /p?q http/1.1",
        "host: web.test:81",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: web.test:81\n",
        "x-real-ip: 127.0.0.1",
        "body of 3",
    ] {
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    for gone in [
        "6.6.6.6",
        "spoof",
        "x-secret",
        "\nte:",
        "\nkeep-alive:",
        "proxy-connection",
        "upgrade",
        "\nforwarded:",
    ] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
}

#[tokio::test]
async fn a_machine_that_leaves_gets_nothing_new_and_is_counted_until_its_last_answer() {
    let slow = backend(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("slow")
    })
    .await;
    let mut bed = Bed::new(front(&[slow]));
    let mut stream = bed.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    while bed.server.report().active.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let next = named("next").await;
    let mut front = bed.front();
    front.pools = vec![pool("web", &[next])];
    bed.serve(front);
    assert_eq!(bed.get("/").await.1, "next");
    assert_eq!(bed.server.report().active[&slow.to_string()], 1);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("slow"), "{answer}");
    assert!(bed.server.report().active.is_empty());
}

#[tokio::test]
async fn a_refused_connection_and_one_that_was_closed_meanwhile_are_tried_elsewhere() {
    let closed = {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let (fickle, closings) = fickle("").await;
    let mut front = front(&[closed, fickle]);
    let bed = Bed::new(front.clone());
    for _ in 0..10 {
        assert_eq!(bed.get("/").await, (StatusCode::OK, "ok".into()));
    }
    assert!(closings.load(Ordering::Relaxed) > 0);
    // Alone and refused: that is an answer as well.
    front.pools = vec![pool("web", &[closed])];
    front.host = host();
    assert_eq!(Bed::new(front).get("/").await.0, StatusCode::BAD_GATEWAY);
}

/// As the forwarding of qemu does it for a port that nothing in the guest listens on.
#[tokio::test]
async fn a_machine_that_accepts_and_breaks_off_gets_little_and_costs_no_get() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = dead.accept().await.unwrap();
            tokio::spawn(async move {
                // What is left unread makes a reset of its end.
                drop(stream.readable().await);
            });
        }
    });
    let servers = [address, named("alive").await];
    let bed = Bed::new(front(&servers));
    for _ in 0..100 {
        assert_eq!(bed.get("/").await, (StatusCode::OK, "alive".into()));
    }
    let mut lost = 0;
    for _ in 0..20 {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
        lost += u32::from(!bed.raw(post).await.starts_with("HTTP/1.1 200"));
    }
    assert!(lost <= 2, "{lost} of 20 requests went to the one that breaks off");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_has_its_own_reason() {
    let many = backend(|_| async {
        let mut answer = text("");
        for number in 0..120 {
            let name = hyper::header::HeaderName::try_from(format!("x-{number}")).unwrap();
            answer.headers_mut().insert(name, "y".parse().unwrap());
        }
        answer
    })
    .await;
    let (status, why) = Bed::new(front(&[many])).get("/").await;
    assert_eq!(
        (status, why.contains("a head of more than 64 KiB or 100 lines")),
        (StatusCode::BAD_GATEWAY, true),
        "{why}"
    );
}

#[tokio::test]
async fn a_request_that_changes_something_is_not_sent_twice() {
    let (address, posts) = fickle("POST").await;
    let bed = Bed::new(front(&[address]));
    assert_eq!(bed.get("/").await.0, StatusCode::OK);
    let answer =
        bed.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(posts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_machine_with_two_streams_a_connection_is_asked_over_several() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&waiting);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let counted = Arc::clone(&counted);
                    async move {
                        if request.uri().path() == "/open" {
                            counted.fetch_add(1, Ordering::Relaxed);
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(text("done"))
                    }
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(2);
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    let mut front = front(&[address]);
    front.pools[0].http2 = true;
    let bed = Bed::new(front);
    let mut open = Vec::new();
    for number in 1..=5 {
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        open.push(stream);
        let taken = async {
            while waiting.load(Ordering::Relaxed) < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), taken).await.expect("each request has a stream");
    }
    assert_eq!(bed.get("/").await, (StatusCode::OK, "done".into()));
}
