//! The server: listeners of fronts, and a task for each connection.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backend::{HEADERS, MAX_HEAD, Registry};
use super::connection::{Busy, ConnectionEntry, Connections, SILENCES, Silences, Watched};
use super::forward::{self, Origin, Table, Target};
use super::ports::{self, Sockets};
use super::routing::{Hosts, Routing};
use super::streams::WINDOW;
use super::tally::Counter;
use super::termination::{HANDSHAKE, Machines, Port};
use super::tls::{self, Certificates};
use super::wanted::{Bound, Challenge, Front, Pool, Proof, Report, Wanted};
use crate::cloud::local::sources::Sources;
use crate::plan::fleet::{HttpTraffic, Traffic};

/// The time that a connection without a request has to close in good order.
const CLOSING: Duration = Duration::from_secs(5);

/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 128;

/// After an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// A listener that serves.
#[derive(Debug)]
struct Listening {
    port: u16,
    /// Cancelled when another listener takes its place: clients that wait in its queue are served first.
    moved: CancellationToken,
    serving: DropGuard,
}

impl Listening {
    /// Ends it after the clients that wait in its queue.
    fn leave(self) {
        self.serving.disarm();
        self.moved.cancel();
    }
}

/// A front that is served.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    http: Option<Listening>,
    https: Option<Listening>,
    /// By Service.
    counters: BTreeMap<String, Arc<Counter>>,
    /// Of a port of a Service.
    port: Arc<Port>,
    warnings: Vec<String>,
    /// The challenges that it answers: by token, whether by TLS.
    challenges: BTreeMap<String, bool>,
    _ends_connections: DropGuard,
}

impl Running {
    /// Whether the port is open that a CA asks for the answer at.
    fn has_port(&self, is_tls: bool) -> bool {
        if is_tls { self.https.is_some() } else { self.http.is_some() }
    }

    /// Of these challenges those that are answered here now.
    fn answered(&self, challenges: &[Challenge]) -> BTreeMap<String, bool> {
        let kinds = challenges.iter().map(|Challenge { token, proof, .. }| match proof {
            Proof::Http(_) => (token.clone(), false),
            Proof::Tls(_) => (token.clone(), true),
        });
        let certificates = &self.shared.certificates;
        let is_answered = |(token, is_tls): &(String, bool)| !is_tls || certificates.proves(token);
        kinds.filter(is_answered).filter(|(_, is_tls)| self.has_port(*is_tls)).collect()
    }
}

/// What the connections of a front share.
#[derive(Debug)]
struct Shared {
    host: Ipv4Addr,
    /// Whether it is a port of a Service.
    is_port: bool,
    table: RwLock<Arc<Table>>,
    certificates: Arc<Certificates>,
    ended: CancellationToken,
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What all connections share.
#[derive(Debug)]
struct Common {
    connections: Arc<Connections>,
    room: Arc<Semaphore>,
    builder: auto::Builder<TokioExecutor>,
    requests: AtomicU64,
    leaving: CancellationToken,
}

/// The proxy's server.
#[derive(Debug)]
pub(crate) struct Server {
    common: Arc<Common>,
    running: Mutex<(BTreeMap<String, Running>, Registry)>,
    sockets: Arc<dyn Sockets>,
    limit: usize,
}

impl Server {
    /// Serves nothing yet; at most `limit` clients at a time, over as many connections to machines. Called inside a runtime.
    pub(crate) fn new(limit: usize, sockets: Arc<dyn Sockets>) -> Arc<Self> {
        Self::with(limit, sockets, SILENCES)
    }

    /// The same with other limits of silence.
    pub(crate) fn with(limit: usize, sockets: Arc<dyn Sockets>, silences: Silences) -> Arc<Self> {
        let common = Common {
            connections: Arc::new(Connections::new(silences)),
            room: Arc::new(Semaphore::new(limit)),
            builder: builder(),
            requests: AtomicU64::new(0),
            leaving: CancellationToken::new(),
        };
        let running = Mutex::new((BTreeMap::new(), Registry::new(limit)));
        let server = Arc::new(Self { common: Arc::new(common), running, sockets, limit });
        let weak = Arc::downgrade(&server);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(server) = weak.upgrade() else { return };
                let is_crowded = server.common.room.available_permits() == 0;
                server.common.connections.second(is_crowded);
                server.running().1.sweep();
            }
        });
        server
    }

    fn running(&self) -> MutexGuard<'_, (BTreeMap<String, Running>, Registry)> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves `wanted` from now on, and nothing else. What cannot be is in the report's warnings, and is tried again at
    /// the next call.
    pub(crate) fn apply(&self, wanted: &Wanted) {
        let mut running = self.running();
        let (fronts, registry) = &mut *running;
        let gone = fronts.extract_if(.., |id, front| {
            wanted.0.get(id).is_none_or(|wanted| wanted.host != front.shared.host)
        });
        for (id, _) in gone {
            for is_tls in [false, true] {
                ports::close(&*self.sockets, &id, is_tls);
            }
        }
        for (id, front) in &wanted.0 {
            let running = fronts.entry(id.clone()).or_insert_with(|| idle(front));
            running.warnings = running.shared.certificates.set(&front.certificates, &front.challenges);
            let opened = self.open(id, front, running);
            self.serve(id, front, running, registry, opened);
        }
        let pools = wanted.0.values().flat_map(|front| &front.pools);
        let named: BTreeSet<_> =
            pools.flat_map(|pool| pool.servers.iter().map(|server| (server.clone(), pool.http2))).collect();
        registry.retain(|address, http2| named.contains(&(address.clone(), http2)));
    }

    /// Serves a front as it is wanted, at these ports too, in the place of those that it had.
    fn serve(
        &self,
        id: &str,
        front: &Front,
        running: &mut Running,
        registry: &mut Registry,
        opened: Vec<ports::Opened>,
    ) {
        let https = opened.iter().find(|opened| opened.is_tls).map(|opened| opened.port);
        let https = https.or(running.https.as_ref().map(|https| https.port));
        running.counters.retain(|service, _| {
            service == OTHERS || front.pools.iter().any(|pool| pool.service == *service)
        });
        let mut counter = |service: &str| Arc::clone(running.counters.entry(service.to_owned()).or_default());
        let others = counter(OTHERS);
        let target = |pool: &Pool| Target {
            service: pool.service.clone(),
            servers: registry.servers(pool),
            counter: counter(&pool.service),
        };
        let table = Table {
            sources: Sources::of(&front.source_ranges),
            routing: Routing::new(&front.rules, front.default),
            pools: front.pools.iter().map(target).collect(),
            others,
            redirect: front.redirect.then(|| (Hosts::new(&front.tls), https)),
            is_challenged: !front.challenges.is_empty(),
            challenges: http_challenges(&front.challenges),
            machines: machines(front, running, registry),
        };
        *running.shared.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        // Last: whoever connects is answered by these rules, and a redirect names a port.
        for opened in opened {
            let is_tls = opened.is_tls;
            match self.start(opened, &running.shared) {
                Ok(listening) => {
                    let place = if is_tls { &mut running.https } else { &mut running.http };
                    if let Some(old) = place.replace(listening) {
                        old.leave();
                    }
                }
                Err(error) => {
                    // Nobody accepts there.
                    ports::close(&*self.sockets, id, is_tls);
                    running.warnings.push(format!("{id}: {error}"));
                }
            }
        }
        running.challenges = running.answered(&front.challenges);
    }

    /// Binds listeners that are bound to another port than the wanted one to that, if it is free now, and others out of the
    /// way of fronts whose wanted port they have. Connections go on. `wanted` is what is served.
    pub(crate) fn move_home(&self, wanted: &Wanted) {
        let places =
            |front: &Front| front.ports().into_iter().map(|(_, port)| (front.host, port)).collect::<Vec<_>>();
        let places: BTreeSet<(Ipv4Addr, u16)> = wanted.0.values().flat_map(places).collect();
        let mut running = self.running();
        let (fronts, registry) = &mut *running;
        for (id, front) in &wanted.0 {
            let Some(running) = fronts.get_mut(id) else { continue };
            let moved = |(is_tls, port): (bool, u16)| {
                let listening = if is_tls { &running.https } else { &running.http };
                let away = listening.as_ref().map(|listening| listening.port).filter(|at| *at != port)?;
                let open = |port: u16| ports::open_at(&*self.sockets, id, front.host, (is_tls, port));
                let is_in_the_way = places.contains(&(front.host, away));
                open(port).or_else(|error| if is_in_the_way { open(0) } else { Err(error) }).ok()
            };
            let moved: Vec<ports::Opened> = front.ports().into_iter().filter_map(moved).collect();
            if !moved.is_empty() {
                self.serve(id, front, running, registry, moved);
            }
        }
    }

    /// Opens the ports of a front that are not open, and closes that of TLS where it is not wanted any more.
    fn open(&self, id: &str, front: &Front, running: &mut Running) -> Vec<ports::Opened> {
        let wanted = front.ports();
        if !wanted.iter().any(|(is_tls, _)| *is_tls) && running.https.take().is_some() {
            ports::close(&*self.sockets, id, true);
        }
        let mut opened = Vec::new();
        for (is_tls, port) in wanted {
            let is_open = if is_tls { running.https.is_some() } else { running.http.is_some() };
            if is_open {
                continue;
            }
            match ports::open(&*self.sockets, id, front.host, (is_tls, port)) {
                Ok(found) => opened.push(found),
                Err(error) => {
                    running
                        .warnings
                        .push(format!("{id}: port {port} of {} cannot be bound: {error}", front.host));
                }
            }
        }
        opened
    }

    /// Serves an open port.
    fn start(&self, opened: ports::Opened, shared: &Arc<Shared>) -> io::Result<Listening> {
        let ports::Opened { listener, port, is_tls } = opened;
        let listener = TcpListener::from_std(listener)?;
        let config = is_tls.then(|| tls::config(&shared.certificates, !shared.is_port)).transpose();
        let config = config.map_err(io::Error::other)?;
        let acceptor = config.map(TlsAcceptor::from);
        let stop = self.common.leaving.child_token();
        let serving = stop.clone().drop_guard();
        let moved = CancellationToken::new();
        let ends = (stop, moved.clone());
        tokio::spawn(accept(listener, Arc::clone(shared), Arc::clone(&self.common), acceptor, ends));
        Ok(Listening { port, moved, serving })
    }

    /// What is served now.
    pub(crate) fn report(&self) -> Report {
        let running = self.running();
        let (fronts, registry) = &*running;
        let mut report = Report {
            active: registry.active(),
            requests: self.common.requests.load(Ordering::Relaxed),
            ..Report::default()
        };
        for (id, front) in fronts {
            let port = |listening: &Option<Listening>| listening.as_ref().map(|listening| listening.port);
            report.bound.insert(id.clone(), Bound { http: port(&front.http), https: port(&front.https) });
            let environment = id.split('/').next().unwrap_or_default().to_owned();
            report.warnings.entry(environment).or_default().extend(front.warnings.iter().cloned());
        }
        report.challenges = answered(fronts);
        let limit = self.limit;
        let is_crowded = self.common.room.available_permits() == 0;
        let clients = is_crowded
            .then(|| format!("the HTTP proxy has {limit} clients, as many as it may; further ones wait"));
        let machines = registry.is_full().then(|| {
            format!(
                "the HTTP proxy has {limit} connections to machines, as many as it may; further requests wait, or are \
                 answered with 503"
            )
        });
        let full: Vec<String> = clients.into_iter().chain(machines).collect();
        for warnings in report.warnings.values_mut() {
            warnings.extend(full.iter().cloned());
        }
        report.warnings.retain(|_, warnings| !warnings.is_empty());
        report
    }

    /// What was counted of connections of ports of Services.
    pub(crate) fn carried(&self) -> BTreeMap<String, Traffic> {
        let running = self.running();
        let ports = running.0.iter().filter(|(_, front)| front.shared.is_port);
        ports.map(|(id, front)| (id.clone(), front.port.counter.traffic())).collect()
    }

    /// The requests of each Ingress, by Service.
    pub(crate) fn counted(&self) -> BTreeMap<String, Vec<HttpTraffic>> {
        let running = self.running();
        let of = |(id, front): (&String, &Running)| {
            let counters = front.counters.iter();
            (id.clone(), counters.map(|(service, counter)| counter.requests(service)).collect())
        };
        running.0.iter().filter(|(_, front)| !front.shared.is_port).map(of).collect()
    }

    /// Accepts no more, and returns when all connections have ended or after `patience`. Listeners stay kept.
    pub(crate) async fn leave(&self, patience: Duration) {
        self.common.leaving.cancel();
        let given_up = tokio::time::Instant::now() + patience;
        while self.common.connections.count() > 0 && tokio::time::Instant::now() < given_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What stands for the Service of requests that no rule is about.
const OTHERS: &str = "";

/// The tokens of challenges that a CA may be told of, whichever front it is led to; no CA comes to a port of a Service.
fn answered(fronts: &BTreeMap<String, Running>) -> BTreeSet<String> {
    let somewhere = fronts.values().flat_map(|front| &front.challenges);
    let is_everywhere = |(token, is_tls): &(&String, &bool)| {
        let mut ingresses = fronts.values().filter(|front| !front.shared.is_port);
        ingresses.all(|front| !front.has_port(**is_tls) || front.challenges.contains_key(*token))
    };
    somewhere.filter(is_everywhere).map(|(token, _)| token.clone()).collect()
}

/// The answers to challenges of requests, by token.
fn http_challenges(challenges: &[Challenge]) -> BTreeMap<String, (String, String)> {
    let answered = challenges.iter().filter_map(|Challenge { host, token, proof }| match proof {
        Proof::Http(authorization) => Some((token.clone(), (host.clone(), authorization.clone()))),
        Proof::Tls(_) => None,
    });
    answered.collect()
}

/// A front that nothing is served of yet.
fn idle(front: &Front) -> Running {
    let ended = CancellationToken::new();
    let shared = Shared {
        host: front.host,
        is_port: front.tls_port.is_some(),
        table: RwLock::new(Arc::new(Table::default())),
        certificates: Arc::default(),
        ended: ended.clone(),
    };
    let ends = ended.drop_guard();
    let counters = BTreeMap::new();
    Running {
        shared: Arc::new(shared),
        http: None,
        https: None,
        counters,
        port: Arc::default(),
        warnings: vec![],
        challenges: BTreeMap::new(),
        _ends_connections: ends,
    }
}

/// Where connections of a port of a Service go.
fn machines(front: &Front, running: &Running, registry: &mut Registry) -> Option<Machines> {
    let wanted = front.tls_port.as_ref()?;
    running.port.set_affinity(wanted.affinity_seconds);
    let servers = registry.servers(front.pools.first()?);
    Some(Machines { port: Arc::clone(&running.port), servers, tls: wanted.to_pods })
}

/// How connections are served. Their first bytes show whether they are of HTTP/1.1 or HTTP/2.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would end a connection between two requests as well: see [`Silences::head`].
        .header_read_timeout(None::<Duration>)
        .max_buf_size(MAX_HEAD)
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .initial_stream_window_size(WINDOW / 4)
        .initial_connection_window_size(WINDOW);
    builder
}

/// Accepts until `stop` is cancelled, or `moved`, and then those that wait already. Connections go on after that.
async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    common: Arc<Common>,
    acceptor: Option<TlsAcceptor>,
    (stop, moved): (CancellationToken, CancellationToken),
) {
    let with = (&shared, &common, acceptor.as_ref());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = moved.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok(client) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if enter(client, with, &stop).await.is_none() {
            return;
        }
    }
    // The kernel is asked: the runtime may not have heard of those that came last.
    let Ok(listener) = listener.into_std() else { return };
    // No more than its queue held: clients that go on coming do not keep it open.
    for _ in 0..ports::BACKLOG {
        let Ok((stream, client)) = listener.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let Ok(stream) = stream else { continue };
        if enter((stream, client), with, &stop).await.is_none() {
            return;
        }
    }
}

/// Serves a client that was accepted, where its address may connect, once there is room for it. `None` when `stop` is
/// cancelled before that.
async fn enter(
    (stream, client): (TcpStream, SocketAddr),
    (shared, common, acceptor): (&Arc<Shared>, &Arc<Common>, Option<&TlsAcceptor>),
    stop: &CancellationToken,
) -> Option<()> {
    let table = shared.table();
    if !table.is_challenged && !table.sources.admit(client.ip()) {
        drop(stream.set_zero_linger());
        match &table.machines {
            Some(Machines { port, .. }) => port.counter.refused(),
            None => table.others.refused(),
        }
        return Some(());
    }
    drop(table);
    let (shared, common, acceptor) = (Arc::clone(shared), Arc::clone(common), acceptor.cloned());
    // One client waits here, the others in the kernel's queue.
    let place = tokio::select! {
        place = Arc::clone(&common.room).acquire_owned() => place.ok()?,
        () = stop.cancelled() => return None,
    };
    tokio::spawn(async move { connection(stream, client, &shared, &common, acceptor, place).await });
    Some(())
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    common: &Arc<Common>,
    acceptor: Option<TlsAcceptor>,
    place: OwnedSemaphorePermit,
) {
    let Ok(local) = stream.local_addr() else { return };
    drop(stream.set_nodelay(true));
    let entry = Arc::new(common.connections.enter(&shared.ended, place, shared.is_port));
    let port = shared.table().machines.as_ref().map(|machines| Arc::clone(&machines.port));
    let _open = port.as_ref().map(|port| port.counter.accepted());
    let stream = Watched::new(stream, &entry.activity);
    let origin = Origin { client: client.ip(), local, tls: acceptor.is_some() };
    match acceptor {
        None => serve(stream, origin, shared, common, &entry).await,
        Some(acceptor) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
                () = entry.activity.stop.cancelled() => return,
            };
            match (shaken, &shared.table().machines) {
                (Ok(Ok(mut stream)), _) if stream.get_ref().1.alpn_protocol() == Some(tls::CHALLENGE) => {
                    // The handshake was the answer (RFC 8737, 3): nothing is asked, and nothing served, after it.
                    drop(tokio::time::timeout(CLOSING, stream.shutdown()).await);
                }
                (Ok(Ok(stream)), Some(machines)) => machines.pass(stream, client.ip(), &entry).await,
                (Ok(Ok(stream)), None) => serve(stream, origin, shared, common, &entry).await,
                (Ok(Err(_)) | Err(_), Some(machines)) => machines.port.counter.failed(),
                (Ok(Err(_)) | Err(_), None) => {}
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    origin: Origin,
    shared: &Arc<Shared>,
    common: &Arc<Common>,
    entry: &Arc<ConnectionEntry>,
) {
    let activity = &entry.activity;
    let service = service_fn(|request: Request<Incoming>| {
        let busy = Busy::new(activity, request.version());
        common.requests.fetch_add(1, Ordering::Relaxed);
        let (table, entry) = (shared.table(), Arc::clone(entry));
        async move { Ok::<_, Infallible>(forward::answer(&table, origin, request, entry, busy).await) }
    });
    let served = common.builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // A client that breaks off is nobody's fault.
        ended = served.as_mut() => drop(ended),
        () = activity.stop.cancelled() => {
            if !activity.is_busy() {
                served.as_mut().graceful_shutdown();
                drop(tokio::time::timeout(CLOSING, served).await);
            }
        }
        () = common.leaving.cancelled() => {
            served.as_mut().graceful_shutdown();
            drop(served.await);
        }
    }
}
