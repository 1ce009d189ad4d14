//! The port of the clients, over real connections.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use i2kit_spec::replica::{Framing, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::super::types::{Entry, Kind, Outcome, Request};
use super::super::{Framer, serve};
use super::{framer, limits};

/// Answers with the kind and the first line of a request; one for `/wait` when it is told so, one for `/none` never.
struct Echo {
    framer: Framer,
    go_on: Notify,
}

impl Echo {
    async fn answer(&self, request: Request) -> Bytes {
        let line = request.bytes.split(|byte| *byte == b'\r').next().unwrap().to_vec();
        let line = String::from_utf8(line).unwrap();
        if line.contains("/wait") {
            self.go_on.notified().await;
        }
        if line.contains("/none") {
            return self.framer.error(Outcome::NotDone, "no quorum");
        }
        let kind = if request.kind == Kind::Read { "read" } else { "write" };
        let body = format!("{kind} {line}");
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
    }
}

impl Entry for Echo {
    async fn write(&self, request: Request) -> Bytes {
        self.answer(request).await
    }

    async fn read(&self, request: Request) -> Bytes {
        self.answer(request).await
    }
}

struct Server {
    address: SocketAddr,
    echo: Arc<Echo>,
    drain: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn server(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, drained) = watch::channel(false);
    let framer = framer(Framing::Http);
    let echo = Arc::new(Echo { framer: framer.clone(), go_on: Notify::new() });
    let task = tokio::spawn(serve(listener, framer, limits, Arc::clone(&echo), drained));
    Server { address, echo, drain, task }
}

/// All that comes until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_turn() {
    let server = server(limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let requests = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxHEAD /none HTTP/1.1\r\nHost: a\r\n\r\n\
                    GET /c HTTP/1.0\r\n\r\nGET /never HTTP/1.1\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let all = rest(&mut stream).await;
    let statuses: Vec<&str> = all.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
    assert_eq!(statuses, ["200", "200", "503", "200"], "{all}");
    assert!(
        all.contains("read GET /a") && all.contains("write PUT /b") && all.ends_with("read GET /c HTTP/1.1")
    );
    let to_head = all.split("503 Service Unavailable").nth(1).unwrap();
    let (head, next) = to_head.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("not-done") && next.starts_with("HTTP/1.1 200 OK"), "HEAD has no body: {to_head}");
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_gets_it_before_its_body() {
    let server = server(limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut word = [0; 25];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("write POST /a HTTP/1.1"));
}

#[tokio::test]
async fn a_refused_client_sees_why_though_it_still_sends() {
    let server = server(limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 100_000]).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn told_to_end_it_answers_who_waits_and_closes_who_rests() {
    let server = server(limits()).await;
    let mut waits = TcpStream::connect(server.address).await.unwrap();
    let mut rests = TcpStream::connect(server.address).await.unwrap();
    rests.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 8];
    rests.read_exact(&mut first).await.unwrap();
    waits.write_all(b"PUT /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    // The request has come when another connection's later one was answered.
    rests.write_all(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut second = [0; 70];
    rests.read_exact(&mut second).await.unwrap();
    server.drain.send(true).unwrap();
    assert!(rest(&mut rests).await.ends_with("read GET /b HTTP/1.1"));
    server.echo.go_on.notify_one();
    assert!(rest(&mut waits).await.ends_with("write PUT /wait HTTP/1.1"));
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// The clock stands while anything can be done, and leaps to the next deadline when nothing can.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_request_is_left() {
    let server = server(limits()).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx").await.unwrap();
    assert_eq!(rest(&mut slow).await, "");
}

#[tokio::test]
async fn long_requests_of_many_clients_share_memory_and_all_are_answered() {
    let server = server(Limits::default()).await;
    let body = vec![b'x'; 1 << 20];
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (address, body) = (server.address, body.clone());
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = if number % 2 == 0 {
                format!("PUT /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())
            } else {
                let head = "HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n";
                format!("PUT /{number} {head}")
            };
            let end: &[u8] = if number % 2 == 0 { b"" } else { b"\r\n0\r\n\r\n" };
            for part in [head.as_bytes(), &body, end] {
                stream.write_all(part).await.unwrap();
            }
            assert!(rest(&mut stream).await.ends_with(&format!("write PUT /{number} HTTP/1.1")));
        });
    }
    assert_eq!(clients.join_all().await.len(), 40);
}
