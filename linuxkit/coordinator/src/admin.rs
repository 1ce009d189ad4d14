//! The coordinator's own HTTP server, for probes, for scrapers and for the command `status`: `/livez`, `/readyz`, `/replicas` and
//! `/metrics`. One request a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::replica::{ReplicaStatus, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::Metrics;
use crate::silent::{Places, Ticket};

/// Connections at one time; for a further one the connection goes that is silent for longest.
const MAX_CONNECTIONS: usize = 32;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// How long a request and its answer may take on the way.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the head of a request may take.
const ARRIVAL: Duration = Duration::from_secs(1);

/// How long `/readyz` waits until the replica has executed what was committed when it was asked: less than a probe waits.
const CATCHES_UP: Duration = Duration::from_millis(500);

/// Tells how the replica is.
pub(crate) type Status = dyn Fn() -> ReplicaStatus + Send + Sync;

/// Takes questions for the index up to which a read must see the log, as the leader says it; none when nobody can say.
pub(crate) type Questions = mpsc::UnboundedSender<oneshot::Sender<Option<u64>>>;

/// Serves for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    status: Arc<Status>,
    questions: Questions,
    metrics: Arc<Metrics>,
) {
    let places = Places::new(MAX_CONNECTIONS);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (status, questions, metrics) = (Arc::clone(&status), questions.clone(), Arc::clone(&metrics));
        let answering = async move |ticket: Ticket| {
            // Who asked is gone, or says nothing: there is nobody to tell.
            let _ = timeout(PATIENCE, answer(stream, &ticket, &*status, &questions, &metrics)).await;
        };
        places.spawn(answering).await;
    }
}

async fn answer(
    mut stream: TcpStream,
    ticket: &Ticket,
    status: &Status,
    questions: &Questions,
    metrics: &Metrics,
) -> io::Result<()> {
    let Some((method, path)) = timeout(ARRIVAL, request(&mut stream)).await?? else {
        return stream
            .write_all(&document(400, "text/plain", "this is no request of HTTP/1.1\n", true))
            .await;
    };
    ticket.spoke();
    let path = path.split('?').next().unwrap_or_default();
    let (code, kind, text) = match path {
        _ if method != "GET" && method != "HEAD" => (405, "text/plain", "only GET and HEAD\n".to_owned()),
        "/livez" => (200, "text/plain", "ok\n".to_owned()),
        "/readyz" => match waits_for(status, questions).await {
            None => (200, "text/plain", "ok\n".to_owned()),
            Some(what) => (503, "text/plain", format!("{what}\n")),
        },
        "/replicas" => (200, "application/json", serde_json::to_string(&status())?),
        "/metrics" => (200, "text/plain; version=0.0.4", metrics.document(&status())),
        _ => (404, "text/plain", "there are /livez, /readyz, /replicas and /metrics\n".to_owned()),
    };
    stream.write_all(&document(code, kind, &text, method != "HEAD")).await?;
    stream.shutdown().await
}

/// Reads the head of a request: its method and its path. None when it is none.
async fn request(stream: &mut TcpStream) -> io::Result<Option<(String, String)>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        match parse(&head) {
            Head::Partial => {}
            Head::Whole(method, path) => return Ok(Some((method, path))),
            Head::None => return Ok(None),
        }
    }
}

/// What the bytes of a client are.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// More must come.
    Partial,
    /// Method and path.
    Whole(String, String),
    /// No request.
    None,
}

fn parse(head: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => Head::Partial,
        Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
            (Some(method), Some(path)) => Head::Whole(method.to_owned(), path.to_owned()),
            _ => Head::None,
        },
        _ => Head::None,
    }
}

/// Why the replica is not ready, in words: it lacks something, or has not executed yet what was committed when it was asked. Only
/// the leader knows what was committed: a replica that begins anew has an older number.
async fn waits_for(status: &Status, questions: &Questions) -> Option<String> {
    if let Some(what) = lacks(&status()) {
        return Some(what);
    }
    let until = Instant::now() + CATCHES_UP;
    let (question, index) = oneshot::channel();
    drop(questions.send(question));
    let Some(index) = timeout_at(until, index).await.ok().and_then(Result::ok).flatten() else {
        return Some("the leader has not said what is committed".to_owned());
    };
    loop {
        let now = status();
        if let Some(what) = lacks(&now) {
            return Some(what);
        }
        if now.applied >= index {
            return None;
        }
        if Instant::now() >= until {
            return Some(format!("{} entries are still to be executed", index - now.applied));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a replica lacks to serve clients, whatever it has executed.
fn lacks(status: &ReplicaStatus) -> Option<String> {
    if let Some(at) = status.diverged_at {
        return Some(format!("quarantined: its replies differed at index {at}"));
    }
    let is_member = matches!(status.role, Role::Leader | Role::Follower);
    match (&status.waits_for, status.leader) {
        (Some(what), _) => Some(what.clone()),
        (None, None) => Some("no leader is known".to_owned()),
        (None, Some(_)) => (!is_member).then(|| "it has no vote yet".to_owned()),
    }
}

fn document(code: u16, kind: &str, text: &str, has_body: bool) -> Vec<u8> {
    let phrase = match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {code} {phrase}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n"
    );
    [head.as_bytes(), if has_body { text.as_bytes() } else { &[] }].concat()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use i2kit_spec::replica::{ReplicaStatus, Role};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, oneshot};

    use super::{Head, parse, serve};
    use crate::metrics::Metrics;

    fn status() -> ReplicaStatus {
        ReplicaStatus {
            slot: 2,
            id: 5,
            role: Role::Follower,
            term: 1,
            leader: Some(0),
            committed: 8,
            applied: 8,
            members: Vec::new(),
            diverged_at: None,
            divergences: 0,
            log_bytes: 0,
            waits_for: None,
            recoveries: 0,
            has_quorum: true,
        }
    }

    type Change = fn(&mut ReplicaStatus);

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_probe_is_told_what_is_missing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::new(Mutex::new(status()));
        let source = Arc::clone(&shown);
        let (questions, mut asked) = mpsc::unbounded_channel();
        let leader = Arc::clone(&shown);
        // The leader knows of entry 8, and says nothing in term 0.
        tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                let knows = leader.lock().unwrap().term > 0;
                oneshot::Sender::send(question, knows.then_some(8)).unwrap();
            }
        });
        let status_of = Arc::new(move || source.lock().unwrap().clone());
        let server = serve(listener, status_of, questions, Arc::new(Metrics::new()));
        let server = tokio::spawn(server);
        let get = async |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(get("/readyz").await.starts_with("HTTP/1.1 200 OK\r\n"));
        let cases: [(Change, &str); 7] = [
            (|status| status.waits_for = Some("the log of slot 1".to_owned()), "the log of slot 1"),
            (|status| status.leader = None, "no leader is known"),
            (|status| status.role = Role::Learner, "it has no vote yet"),
            (|status| status.diverged_at = Some(3), "quarantined: its replies differed at index 3"),
            (|status| status.applied = 6, "2 entries are still to be executed"),
            // Its own log tells less than the leader's.
            (|status| (status.applied, status.committed) = (5, 5), "3 entries are still to be executed"),
            (|status| status.term = 0, "the leader has not said what is committed"),
        ];
        for (change, words) in cases {
            change(&mut shown.lock().unwrap());
            let answer = get("/readyz").await;
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.ends_with(&format!("\r\n\r\n{words}\n")),
                "{answer}"
            );
            assert!(get("/livez").await.starts_with("HTTP/1.1 200 OK\r\n"));
            *shown.lock().unwrap() = status();
        }
        let replicas = get("/replicas?x").await;
        let body = replicas.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(serde_json::from_str::<ReplicaStatus>(body).unwrap(), status());
        assert!(get("/metrics").await.contains("\ni2kit_replica_committed 8\n"));
        assert!(get("/").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /livez HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(address, "HEAD /livez HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
        assert!(ask(address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        server.abort();
    }

    #[tokio::test]
    async fn who_only_connects_keeps_no_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (questions, _asked) = mpsc::unbounded_channel();
        let server = tokio::spawn(serve(listener, Arc::new(status), questions, Arc::new(Metrics::new())));
        let mut silent = Vec::new();
        for _ in 0..3 * super::MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // None of them is waited for.
        assert!(ask(address, "GET /livez HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
        // And the last ones go by themselves, without a word.
        let mut rest = Vec::new();
        silent.pop().unwrap().read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        server.abort();
    }

    #[test]
    fn a_head_that_never_ends_is_none() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost:"), Head::Partial);
        assert_eq!(parse(&[b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 9000]].concat()), Head::None);
    }
}
