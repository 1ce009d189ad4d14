//! Clients of a trial: connections at a steady pace, each counted by what became of it.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::manifest::PAGE;

/// Between two connections: 50 a second.
const PACE: Duration = Duration::from_millis(20);

/// How long a client waits for its page.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read; the page has a line.
const MAX_ANSWER: u64 = 64 << 10;

/// What became of connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    /// Connections that got the page.
    pub(super) answered: u64,
    /// The others, by what happened to them.
    pub(super) failed: BTreeMap<String, u64>,
    /// The longest time until a page was there.
    pub(super) slowest: Duration,
}

impl Tally {
    /// Connections that got no page.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// As a sentence.
    pub(super) fn sentence(&self) -> String {
        let total = self.answered + self.failures();
        let failed: Vec<String> = self.failed.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let failed = if failed.is_empty() { "none failed".to_owned() } else { failed.join(", ") };
        let slowest = self.slowest.as_millis();
        format!(
            "{total} connections, {} answered, {failed}; the slowest answer took {slowest} ms",
            self.answered
        )
    }

    fn add(&mut self, (answer, took): (Result<(), String>, Duration)) {
        match answer {
            Ok(()) => {
                self.answered += 1;
                self.slowest = self.slowest.max(took);
            }
            Err(what) => *self.failed.entry(what).or_default() += 1,
        }
    }
}

/// Clients under way; they stop when this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    stop: oneshot::Sender<()>,
    clients: JoinHandle<Tally>,
}

impl Load {
    /// Connects again and again to `addresses` of `host`, one after the other in turn.
    pub(super) fn start(host: &str, addresses: Vec<SocketAddr>) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let host = host.to_owned();
        let clients = tokio::spawn(async move {
            let mut tally = Tally::default();
            let mut clients = JoinSet::new();
            let mut turns = addresses.into_iter().cycle();
            let mut ticks = tokio::time::interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    Some(ended) = clients.join_next() => {
                        if let Ok(end) = ended {
                            tally.add(end);
                        }
                    }
                    _ = ticks.tick() => {
                        // Without an address there is nobody to connect to.
                        let Some(address) = turns.next() else { break };
                        drop(clients.spawn(client(host.clone(), address)));
                    }
                }
            }
            while let Some(ended) = clients.join_next().await {
                if let Ok(end) = ended {
                    tally.add(end);
                }
            }
            tally
        });
        Self { stop, clients }
    }

    /// Stops, waits for the connections that are open, and tells what became of all.
    pub(super) async fn stop(self) -> Tally {
        let _ = self.stop.send(());
        self.clients.await.unwrap_or_default()
    }
}

/// One client.
async fn client(host: String, address: SocketAddr) -> (Result<(), String>, Duration) {
    let started = Instant::now();
    (page(&host, address).await.map(drop), started.elapsed())
}

/// Where `HOST:PORT` leads: every address of the name.
///
/// # Errors
/// The name has none.
pub(super) async fn addresses(host: &str) -> Result<Vec<SocketAddr>, String> {
    let found =
        tokio::net::lookup_host(host).await.map_err(|error| format!("{host} is not found: {error}"))?;
    let found: Vec<SocketAddr> = found.collect();
    if found.is_empty() { Err(format!("{host} has no address")) } else { Ok(found) }
}

/// Asks one address of a host for the page; the lines that it has.
///
/// # Errors
/// What happened instead, in words that are counted.
pub(super) async fn page(host: &str, address: SocketAddr) -> Result<Vec<String>, String> {
    match tokio::time::timeout(PATIENCE, asked(host, address)).await {
        Err(_) => Err(format!("without an answer for {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Err(failure(&error)),
        Ok(Ok(answer)) => judged(&answer),
    }
}

async fn asked(host: &str, address: SocketAddr) -> Result<String, Error> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judged(answer: &str) -> Result<Vec<String>, String> {
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.split_whitespace().nth(1));
    match status {
        Some("200") => {
            // A proxy on the way may have a page of its own.
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let own: Vec<String> =
                body.lines().map(str::trim_end).filter(|line| is_page(line)).map(str::to_owned).collect();
            if own.is_empty() { Err("answered with another page".to_owned()) } else { Ok(own) }
        }
        Some(status) => Err(format!("answered with {status}")),
        None => Err("closed without an answer".to_owned()),
    }
}

/// Whether a line is one of the trial's own page.
fn is_page(line: &str) -> bool {
    line.strip_prefix(PAGE).is_some_and(|number| number.parse::<u8>().is_ok())
}

fn failure(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        ErrorKind::TimedOut => "timed out".to_owned(),
        _ => format!("failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(judged("HTTP/1.1 200 OK\r\nServer: x\r\n\r\npage 1\n"), Ok(vec!["page 1".to_owned()]));
        for other in
            ["HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\npage 1\r\n\r\n", "HTTP/1.1 200 OK\r\n"]
        {
            assert_eq!(judged(other), Err("answered with another page".into()), "{other}");
        }
        assert_eq!(judged("HTTP/1.0 503 Service Unavailable\r\n"), Err("answered with 503".into()));
        assert_eq!(judged(""), Err("closed without an answer".into()));
        assert_eq!(failure(&ErrorKind::ConnectionReset.into()), "reset");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_connection_is_counted_by_what_became_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = address.to_string();
        let load = Load::start(&host, addresses(&host).await.unwrap());
        // The first client gets its page, the second one nothing; then nobody listens any more.
        for answer in ["HTTP/1.0 200 OK\r\n\r\npage 1\n", ""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0, "a client asks");
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        drop(listener);
        while page(&host, address).await != Err("refused".into()) {
            tokio::task::yield_now().await;
        }
        let tally = load.stop().await;
        assert!(tally.answered == 1 && tally.failures() >= 1, "{tally:?}");
        assert!(tally.sentence().contains("1 answered, "), "{}", tally.sentence());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn clients_take_each_address_in_turn() {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let load = Load::start("pages", addresses.to_vec());
        let mut seen = [0, 0];
        while seen[0] + seen[1] < 40 {
            tokio::select! {
                _ = listeners[0].accept() => seen[0] += 1,
                _ = listeners[1].accept() => seen[1] += 1,
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        drop(listeners);
        assert_eq!(load.stop().await.answered, 0);
        assert!(super::addresses("127.0.0.1:70000").await.is_err());
    }
}
