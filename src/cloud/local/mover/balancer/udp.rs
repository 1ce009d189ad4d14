//! UDP sessions: each client has a backend and a socket of its own for as long as it sends.
//!
//! One task carries all datagrams of a listener, with one buffer, so that a session costs no more than its socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior};

use super::service::{Counted, Service};
use crate::cloud::local::mover::admission::Room;

/// Sessions of one listener. The one that was silent for longest makes room for a new one: sources of datagrams can be
/// invented, so that a bound without that would let one client lock out all others.
pub(super) const MAX_SESSIONS: usize = 1024;

/// Answers that are sent for one session before others have their turn.
const BATCH: usize = 32;

/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// A client and its backend.
struct UdpSession {
    upstream: Arc<UdpSocket>,
    backend: SocketAddr,
    last: Instant,
    watch: AbortHandle,
    _counted: Counted,
    _room: Room,
}

impl Drop for UdpSession {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// A client whose backend has answered; nothing when the session was forgotten meanwhile.
type Answered = Option<SocketAddr>;

/// The sessions of a listener.
#[derive(Default)]
struct Sessions {
    open: HashMap<SocketAddr, UdpSession>,
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
}

/// Serves until it is dropped; its sessions end with it.
pub(super) async fn serve(socket: Arc<UdpSocket>, service: Arc<Service>) -> Result<(), Infallible> {
    let mut sessions = Sessions::default();
    let mut buffer = vec![0; DATAGRAM];
    let mut sweep = tokio::time::interval(service.times.sweep);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // An error reports an answer that was not delivered.
                let Ok((length, client)) = received else { continue };
                if let Some(session) = sessions.of(client, &service).await {
                    session.last = Instant::now();
                    // A datagram may be lost; the client knows.
                    drop(session.upstream.send(&buffer[..length]).await);
                }
            }
            Some(answered) = sessions.answers.next(), if !sessions.answers.is_empty() => {
                if let Some(client) = answered {
                    sessions.carry_back(client, &socket, &mut buffer).await;
                }
            }
            _ = sweep.tick() => sessions.open.retain(|_, session| session.last.elapsed() < service.times.idle),
        }
    }
}

impl Sessions {
    /// The client's session, made when it has none or its backend is not healthy any more.
    async fn of(&mut self, client: SocketAddr, service: &Service) -> Option<&mut UdpSession> {
        let order = service.table.order();
        let is_stale = |session: &UdpSession| order.iter().all(|backend| backend.address != session.backend);
        if self.open.get(&client).is_some_and(is_stale) {
            self.open.remove(&client);
        }
        if !self.open.contains_key(&client) {
            let backend = order.first()?;
            let room = service.gate.try_enter(1).or_else(|| {
                self.forget_oldest();
                service.gate.try_enter(1)
            })?;
            let upstream = Arc::new(connect(backend.address).await.ok()?);
            let watch = self.watch(client, Arc::clone(&upstream));
            let counted = backend.count();
            let (backend, last) = (backend.address, Instant::now());
            let session = UdpSession { upstream, backend, last, watch, _counted: counted, _room: room };
            self.open.insert(client, session);
        }
        self.open.get_mut(&client)
    }

    fn forget_oldest(&mut self) {
        let oldest = self.open.iter().min_by_key(|(_, session)| session.last).map(|(client, _)| *client);
        if let Some(client) = oldest {
            self.open.remove(&client);
        }
    }

    /// Waits for the backend's next answer.
    fn watch(&mut self, client: SocketAddr, upstream: Arc<UdpSocket>) -> AbortHandle {
        let (abort, registration) = AbortHandle::new_pair();
        let readable = async move {
            // An error is read, and so ends, with the next answer.
            drop(upstream.readable().await);
            client
        };
        self.answers.push(Abortable::new(readable, registration).map(Result::ok).boxed());
        abort
    }

    /// Sends the backend's answers to the client.
    async fn carry_back(&mut self, client: SocketAddr, socket: &UdpSocket, buffer: &mut [u8]) {
        let Some(session) = self.open.get_mut(&client) else { return };
        session.last = Instant::now();
        let upstream = Arc::clone(&session.upstream);
        for _ in 0..BATCH {
            match upstream.try_recv(buffer) {
                Ok(length) => drop(socket.send_to(&buffer[..length], client).await),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The backend has refused a datagram: the client may try again.
                Err(_) => {}
            }
        }
        let watch = self.watch(client, upstream);
        if let Some(session) = self.open.get_mut(&client) {
            // One of an earlier session of this client may have led here: then this one has a watch of its own still.
            session.watch.abort();
            session.watch = watch;
        }
    }
}

async fn connect(backend: SocketAddr) -> io::Result<UdpSocket> {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    upstream.connect(backend).await?;
    Ok(upstream)
}
