//! Connections to the ports of machines: kept alive between requests, counted, and tried anew where a machine closed one
//! before it could answer.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::outgoing::{Outgoing, RequestBody, Unanswered};
use super::streams::{CONNECT, STREAM, Shared, Stream, shared_stream};
use super::wanted::{Pool, ServerAddress};

/// The time that a machine has to begin its answer, from the last part of the request: as long as nginx' controller gives
/// it.
pub(super) const RESPONSE: Duration = Duration::from_mins(1);

/// Connections without a request that are kept for each port of a machine.
const IDLE: usize = 128;

/// How long they are kept: below the 5 s after which servers of Node.js close theirs.
const KEPT: Duration = Duration::from_secs(4);

/// How long a request waits for a place among the connections to machines: longer than those without a request are kept.
const PLACE: Duration = Duration::from_secs(6);

/// How long a machine that broke off is asked after the others only, as nginx has it.
const FAILED: Duration = Duration::from_secs(10);

/// Machines that one request is tried on, or one connection of a port of a Service.
const TRIES: usize = 4;

/// A port of a machine, with its connections.
#[derive(Debug)]
pub(super) struct Server {
    address: ServerAddress,
    http2: bool,
    /// Requests under way, and connections of ports of Services.
    active: AtomicU32,
    idle: Mutex<Vec<(Connection, Instant)>>,
    shared: tokio::sync::Mutex<Vec<Shared>>,
    /// Whether it is no backend any more: its connections end with their requests.
    gone: AtomicBool,
    /// When it last took no connection, or closed a new one without an answer.
    failed: Mutex<Option<Instant>>,
    places: Arc<Places>,
}

/// Room for connections to machines, each of which is a descriptor.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    all: usize,
}

impl Places {
    /// A place, as soon as there is one.
    async fn take(&self) -> Result<OwnedSemaphorePermit, Unanswered> {
        let place = tokio::time::timeout(PLACE, Arc::clone(&self.free).acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or(Unanswered::Full)
    }

    /// Whether there is room for connections without a request: half of the places are for requests alone.
    fn has_spare(&self) -> bool {
        self.free.available_permits() > self.all / 2
    }
}

/// A connection of HTTP/1.1 to a machine. Its place is free when its descriptor is closed: a tunnel's when that ends.
#[derive(Debug)]
struct Connection {
    sender: http1::SendRequest<RequestBody>,
    _place: Arc<OwnedSemaphorePermit>,
}

/// A request that a server counts, for as long as it lives; with the connection that it is on, or the stream.
#[derive(Debug)]
pub(super) struct Lease {
    server: Arc<Server>,
    connection: Option<Connection>,
    stream: Option<Stream>,
}

impl Lease {
    fn new(server: &Arc<Server>) -> Self {
        server.active.fetch_add(1, Ordering::Relaxed);
        Self { server: Arc::clone(server), connection: None, stream: None }
    }

    /// The answer is whole: its connection may carry the next request.
    pub(super) fn done(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if connection.sender.is_ready() {
            self.server.keep(connection);
        } else if !connection.sender.is_closed() {
            // The rest of the request may still be on its way.
            let server = Arc::clone(&self.server);
            tokio::spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(RESPONSE, connection.sender.ready()).await {
                    server.keep(connection);
                }
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if !self.gone.load(Ordering::Relaxed) && idle.len() < IDLE && self.places.has_spare() {
            idle.push((connection, Instant::now()));
        }
    }

    /// A kept connection, the one that was used last.
    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some((connection, since)) = idle.pop() {
            if connection.sender.is_ready() && since.elapsed() < KEPT {
                return Some(connection);
            }
        }
        None
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it broke off a short time ago.
    fn has_failed(&self) -> bool {
        self.failed().is_some_and(|at| at.elapsed() < FAILED)
    }

    async fn stream(&self) -> io::Result<TokioIo<TcpStream>> {
        let connect = tokio::time::timeout(CONNECT, TcpStream::connect(self.address.address));
        let stream = connect.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }

    async fn connect(&self) -> Result<Connection, Unanswered> {
        let place = Arc::new(self.places.take().await?);
        let stream = self.stream().await.map_err(|_| Unanswered::Unreached)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(HEADERS);
        let (sender, driver) = builder.handshake(stream).await.map_err(|_| Unanswered::Unreached)?;
        let held = Arc::clone(&place);
        tokio::spawn(async move {
            drop(driver.with_upgrades().await);
            drop(held);
        });
        Ok(Connection { sender, _place: place })
    }
}

/// The longest head of a message.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Header lines of a message.
pub(super) const HEADERS: usize = 100;

/// How one attempt ended without an answer.
enum Attempt {
    /// Nothing of the request was sent: another connection may carry it.
    Unsent(Box<Request<RequestBody>>),
    /// The machine takes no connection: another machine may.
    Unreached(Box<Request<RequestBody>>),
    /// It was sent, and the machine closed the connection before the head of an answer.
    Closed {
        /// Whether an earlier request was on the same connection.
        reused: bool,
    },
    /// It is not to be tried again.
    Failed(Unanswered),
}

/// A connection to a machine that is no one of HTTP.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    pub(super) held: Held,
}

/// What a machine counts a connection by, and its place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Held {
    lease: Lease,
    _place: OwnedSemaphorePermit,
}

impl Held {
    /// The machine took the connection and ended it at once: others come first for a while.
    pub(super) fn failed(&self) {
        self.lease.server.failed().replace(Instant::now());
    }
}

/// The servers of a pool, and which of them is next.
#[derive(Debug)]
pub(super) struct Servers {
    all: Vec<Arc<Server>>,
    turn: AtomicUsize,
    /// Whether they speak HTTP/2.
    pub(super) http2: bool,
}

impl Servers {
    /// All of them, the first to try in front: fewest requests first, in turn among equals, and last those that failed: a
    /// machine that breaks off at once has the fewest requests.
    fn order(&self) -> Vec<Arc<Server>> {
        let mut order = self.all.clone();
        if order.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % order.len();
            order.rotate_left(turn);
            order.sort_by_cached_key(|server| (server.has_failed(), server.active.load(Ordering::Relaxed)));
        }
        order
    }

    /// A connection for bytes as they come, to the machine that `choose` takes out of those that are left, and to another
    /// one where that takes none.
    pub(super) async fn reach(
        &self,
        choose: impl Fn(&[SocketAddr]) -> Option<SocketAddr>,
    ) -> Result<Reached, Unanswered> {
        let mut left = self.order();
        let mut outcome = Unanswered::NoServer;
        for _ in 0..TRIES {
            let addresses: Vec<SocketAddr> = left.iter().map(|server| server.address.address).collect();
            let chosen = choose(&addresses);
            let Some(at) = addresses.iter().position(|address| Some(*address) == chosen) else { break };
            let server = left.remove(at);
            let lease = Lease::new(&server);
            let place = server.places.take().await?;
            if let Ok(stream) = server.stream().await {
                return Ok(Reached { stream: stream.into_inner(), held: Held { lease, _place: place } });
            }
            server.failed().replace(Instant::now());
            outcome = Unanswered::Unreached;
        }
        Err(outcome)
    }

    /// Sends a request; to another machine where one takes no connection, or closes it and nothing is done twice.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<(Response<Incoming>, Lease), Unanswered> {
        let Outgoing { mut request, again, parts } = outgoing;
        let mut outcome = Unanswered::NoServer;
        for server in self.order().into_iter().take(TRIES) {
            let mut lease = Lease::new(&server);
            // A kept connection may be closed at any time: a new one follows.
            for fresh in [false, true] {
                match attempt(&mut lease, request, &parts, fresh).await {
                    Ok(response) => {
                        server.failed().take();
                        return Ok((response, lease));
                    }
                    Err(Attempt::Unsent(unsent)) => {
                        request = *unsent;
                        outcome = Unanswered::Unreached;
                    }
                    Err(Attempt::Unreached(unsent)) => {
                        request = *unsent;
                        outcome = Unanswered::Unreached;
                        break;
                    }
                    Err(Attempt::Closed { reused }) => {
                        if !reused {
                            server.failed().replace(Instant::now());
                        }
                        let Some(head) = &again else { return Err(Unanswered::Broken) };
                        request = Request::from_parts(head.clone(), Either::Right(Empty::new()));
                        outcome = Unanswered::Broken;
                        if !reused {
                            break;
                        }
                    }
                    Err(Attempt::Failed(reason)) => return Err(reason),
                }
            }
            // Neither a kept connection nor a new one took it.
            server.failed().replace(Instant::now());
        }
        Err(outcome)
    }
}

/// One attempt, on a kept connection or a `fresh` one.
async fn attempt(
    lease: &mut Lease,
    request: Request<RequestBody>,
    parts: &AtomicU32,
    fresh: bool,
) -> Result<Response<Incoming>, Attempt> {
    let server = Arc::clone(&lease.server);
    if server.http2 {
        let found = shared_stream(&server.shared, server.places.take(), server.stream());
        let found = tokio::time::timeout(STREAM, found).await;
        let (mut sender, stream, reused) = match found.unwrap_or(Err(Unanswered::Unreached)) {
            Ok(found) => found,
            Err(reason) => return Err(unconnected(reason, request)),
        };
        let answered = answer(sender.try_send_request(request), parts, reused).await;
        if matches!(answered, Err(Attempt::Closed { .. } | Attempt::Unsent(_))) {
            stream.0.broken.store(true, Ordering::Relaxed);
        }
        lease.stream = Some(stream);
        return answered;
    }
    let kept = if fresh { None } else { server.kept() };
    let reused = kept.is_some();
    let connected = match kept {
        Some(connection) => Ok(connection),
        None => server.connect().await,
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(reason) => return Err(unconnected(reason, request)),
    };
    let response = answer(connection.sender.try_send_request(request), parts, reused).await?;
    lease.connection = Some(connection);
    Ok(response)
}

/// A request without a connection.
fn unconnected(reason: Unanswered, request: Request<RequestBody>) -> Attempt {
    match reason {
        Unanswered::Full => Attempt::Failed(reason),
        _ => Attempt::Unreached(Box::new(request)),
    }
}

/// Waits for the head of an answer.
async fn answer(
    sent: impl Future<
        Output = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<RequestBody>>>,
    >,
    parts: &AtomicU32,
    reused: bool,
) -> Result<Response<Incoming>, Attempt> {
    let mut sent = std::pin::pin!(sent);
    let mut passed = parts.load(Ordering::Relaxed);
    let answered = loop {
        if let Ok(answered) = tokio::time::timeout(RESPONSE, sent.as_mut()).await {
            break answered;
        }
        // As long as the client sends, the machine has nothing to answer yet.
        let now = parts.load(Ordering::Relaxed);
        if now == passed {
            return Err(Attempt::Failed(Unanswered::Late));
        }
        passed = now;
    };
    match answered {
        Ok(response) => Ok(response),
        Err(mut error) => {
            if let Some(request) = error.take_message() {
                return Err(Attempt::Unsent(Box::new(request)));
            }
            let error = error.into_error();
            let is_closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
            // A reset comes instead of an end where the request was on its way.
            let is_reset = std::error::Error::source(&error)
                .and_then(|cause| cause.downcast_ref::<io::Error>())
                .is_some_and(|cause| {
                    matches!(cause.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
                });
            Err(if is_closed || is_reset {
                Attempt::Closed { reused }
            } else if error.is_parse() {
                Attempt::Failed(Unanswered::Unreadable)
            } else {
                Attempt::Failed(Unanswered::Broken)
            })
        }
    }
}

/// All servers, by where they are and what they speak: one that stays keeps its connections.
#[derive(Debug)]
pub(super) struct Registry(HashMap<(ServerAddress, bool), Arc<Server>>, Arc<Places>);

impl Registry {
    /// None yet, with room for so many connections.
    pub(super) fn new(places: usize) -> Self {
        let places = Places { free: Arc::new(Semaphore::new(places)), all: places };
        Self(HashMap::new(), Arc::new(places))
    }

    /// Whether there is no room for another connection.
    pub(super) fn is_full(&self) -> bool {
        self.1.free.available_permits() == 0
    }

    /// The servers of a pool.
    pub(super) fn servers(&mut self, pool: &Pool) -> Arc<Servers> {
        let (http2, places) = (pool.http2, Arc::clone(&self.1));
        let server = |address: &ServerAddress| {
            let made = || Server {
                address: address.clone(),
                http2,
                active: AtomicU32::new(0),
                idle: Mutex::default(),
                shared: tokio::sync::Mutex::default(),
                gone: AtomicBool::new(false),
                failed: Mutex::default(),
                places: Arc::clone(&places),
            };
            Arc::clone(self.0.entry((address.clone(), http2)).or_insert_with(|| Arc::new(made())))
        };
        let all = pool.servers.iter().map(server).collect();
        Arc::new(Servers { all, turn: AtomicUsize::new(0), http2 })
    }

    /// Takes leave of the servers that `wanted` does not name. Requests under way go on, and are counted until they end.
    pub(super) fn retain(&mut self, wanted: impl Fn(&ServerAddress, bool) -> bool) {
        self.0.retain(|(address, http2), server| {
            if wanted(address, *http2) {
                server.gone.store(false, Ordering::Relaxed);
                return true;
            }
            server.gone.store(true, Ordering::Relaxed);
            server.idle().clear();
            if let Ok(mut shared) = server.shared.try_lock() {
                shared.clear();
            }
            server.active.load(Ordering::Relaxed) > 0
        });
    }

    /// Closes connections that were kept for long enough.
    pub(super) fn sweep(&self) {
        for server in self.0.values() {
            server
                .idle()
                .retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < KEPT);
            // Of those that are shared, one is kept without a request.
            if let Ok(mut shared) = server.shared.try_lock() {
                let mut is_first = true;
                shared.retain(|connection| {
                    let is_used = connection.used.streams.load(Ordering::Relaxed) > 0;
                    !connection.has_ended() && (std::mem::take(&mut is_first) || is_used)
                });
            }
        }
    }

    /// Requests under way, with connections of ports of Services, by machine.
    pub(super) fn active(&self) -> std::collections::BTreeMap<String, u32> {
        let mut counts = std::collections::BTreeMap::new();
        for ((address, _), server) in &self.0 {
            let active = server.active.load(Ordering::Relaxed);
            if active > 0 {
                *counts.entry(address.machine.clone()).or_default() += active;
            }
        }
        counts
    }
}
