//! What the HTTP proxy of the local cloud costs beside HAProxy in HTTP mode: the same server behind both, the same client
//! before both, in turn, in one run. `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../tests/support/proxy.rs"]
mod process;
#[expect(dead_code, reason = "nothing is measured as a time here")]
mod table;

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use process::Proxy;
use table::{Row, median, report};

/// Rounds of each, in turn.
const ROUNDS: usize = 5;
/// The length of a round.
const ROUND: Duration = Duration::from_secs(4);
/// Connections of the client.
const CLIENTS: usize = 32;
/// Bytes of an answer.
const ANSWER: usize = 1024;

/// What one round showed.
#[derive(Clone, Copy)]
struct Figure {
    requests_a_second: f64,
    /// Microseconds of processor time.
    cpu_a_request: f64,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(server());
    let proxy = Proxy::new();
    let ours = proxy.serve(Ipv4Addr::new(127, 200, 0, 1), &[server]);
    let pid = u32::try_from(proxy.report()["pid"].as_u64().unwrap()).unwrap();
    let peer = Haproxy::start(server);
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        figures[0].push(runtime.block_on(round(ours, pid)));
        figures[1].push(runtime.block_on(round(peer.address, peer.process.id())));
    }
    let [ours, peer] = figures.map(|figures: Vec<Figure>| Figure {
        requests_a_second: median(figures.iter().map(|figure| figure.requests_a_second).collect()),
        cpu_a_request: median(figures.iter().map(|figure| figure.cpu_a_request).collect()),
    });
    let rows = [
        Row {
            what: "HTTP proxy, requests",
            value: ours.requests_a_second,
            unit: "1/s",
            by_hand: Some(peer.requests_a_second),
            goal: Some(0.8 * peer.requests_a_second),
            is_rate: true,
        },
        Row {
            what: "HTTP proxy, processor a request",
            value: ours.cpu_a_request,
            unit: "us",
            by_hand: Some(peer.cpu_a_request),
            goal: Some(1.25 * peer.cpu_a_request),
            is_rate: false,
        },
    ];
    report(&rows, "bench-ingress.json");
}

/// A server that answers with the same bytes.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let service = service_fn(|_: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; ANSWER]))))
            });
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// Asks over and over on connections that are kept.
async fn round(address: SocketAddr, pid: u32) -> Figure {
    let answered = Arc::new(AtomicU64::new(0));
    let (before, began) = (cpu(pid), Instant::now());
    let clients = (0..CLIENTS).map(|_| {
        let answered = Arc::clone(&answered);
        tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, driver) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(driver);
            while began.elapsed() < ROUND {
                sender.ready().await.unwrap();
                let request =
                    Request::get("/").header("host", "bench.test").body(Empty::<Bytes>::new()).unwrap();
                let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
                assert_eq!(body.to_bytes().len(), ANSWER);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    let requests = answered.load(Ordering::Relaxed) as f64;
    let used = cpu(pid) - before;
    Figure {
        requests_a_second: requests / began.elapsed().as_secs_f64(),
        cpu_a_request: used * 1e6 / requests,
    }
}

/// Seconds of processor time that a process has used.
fn cpu(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    // User and system time, in hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

/// HAProxy in HTTP mode, ended with the value.
struct Haproxy {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Haproxy {
    fn start(server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let threads = std::thread::available_parallelism().unwrap();
        let configuration = format!(
            "global\n  nbthread {threads}\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 75s\n  timeout server 60s\n  \
             option forwardfor\n  http-reuse always\nfrontend front\n  bind {address}\n  default_backend back\nbackend back\n  server one {server}\n"
        );
        let path = folder.path().join("haproxy.cfg");
        fs::write(&path, configuration).unwrap();
        let process = Command::new("haproxy").arg("-db").arg("-f").arg(&path).spawn();
        let process = process.expect("haproxy, which scripts/deps installs");
        process::eventually::eventually("HAProxy", || std::net::TcpStream::connect(address).ok());
        Self { process, address, _folder: folder }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
