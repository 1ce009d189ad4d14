//! UDP sessions of Services: each client has a backend and a socket of its own for as long as it sends.
//!
//! A session's socket is recorded with its client, so that a successor carries on, and answers that wait in it are not
//! lost.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::admission::Shares;
use super::balance::Upstream;
use super::carry::Engine;
use super::log::Log;
use super::poll::EventFlags;
use super::services::Services;
use super::table::{Count, Fd, Side, SlotState};

/// Datagrams of one socket that are carried before others have their turn.
const BATCH: usize = 64;

/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// Periods of sessions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// A session without a datagram for this long is forgotten.
    pub(super) idle: Duration,
    /// Between two searches for such sessions.
    pub(super) sweep: Duration,
}

const TIMES: Times = Times { idle: Duration::from_mins(1), sweep: Duration::from_secs(5) };

/// What only this process knows of a session.
#[derive(Debug, Clone, Copy)]
struct Session {
    record: u64,
    client: SocketAddr,
    backend: Option<SocketAddr>,
    last: Instant,
}

/// The sessions of all listeners.
#[derive(Debug)]
pub(super) struct Sessions {
    open: HashMap<u32, Session>,
    of_clients: HashMap<(u64, SocketAddr), u32>,
    buffer: Vec<u8>,
    swept: Instant,
    pub(super) times: Times,
}

impl Sessions {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            open: HashMap::new(),
            of_clients: HashMap::new(),
            buffer: vec![0; DATAGRAM],
            swept: Instant::now(),
            times: TIMES,
        }
    }

    /// Goes on with a session of a predecessor.
    pub(super) fn recover(&mut self, engine: &mut Engine, index: u32) {
        let slot = engine.table.slot(index);
        let peer = slot.side(Side::Client).and_then(|socket| rustix::net::getpeername(socket).ok().flatten());
        let backend = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        self.note(engine, index, backend);
    }

    fn note(&mut self, engine: &mut Engine, index: u32, backend: Option<SocketAddr>) {
        let slot = engine.table.slot(index);
        let (record, client) = (slot.listener(), slot.client());
        self.open.insert(index, Session { record, client, backend, last: Instant::now() });
        self.of_clients.insert((record, client), index);
        engine.interest(index, Side::Client, EventFlags::IN);
    }

    /// Carries what clients have sent to a listener.
    pub(super) fn receive(
        &mut self,
        engine: &mut Engine,
        services: &mut Services,
        (record, shares): (u64, Shares),
        log: Log,
    ) {
        let listener = usize::try_from(record).ok().map(|index| engine.table.listener(index));
        let Some((listener, socket)) = listener.and_then(|listener| Some((listener, listener.fd()?))) else {
            return;
        };
        for _ in 0..BATCH {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = rustix::net::recvfrom(socket, buffer.as_mut_slice(), RecvFlags::empty());
            let client = match &received {
                Ok((_, _, Some(client))) => SocketAddr::try_from(client.clone()).ok(),
                _ => None,
            };
            let admitted = client.filter(|client| services.let_in(record, || Some(client.ip())));
            if client.is_some() && admitted.is_none() {
                listener.count(Count::Refused, 1);
            }
            if let (Ok((length, ..)), Some(client)) = (&received, admitted)
                && let Some(index) = self.of(engine, services, (record, client), shares, log)
            {
                listener.count(Count::Received, *length as u64);
                if let (Some(session), Some(upstream)) =
                    (self.open.get_mut(&index), engine.table.slot(index).side(Side::Client))
                {
                    session.last = Instant::now();
                    // A datagram may be lost; the client knows.
                    let _ = rustix::net::send(upstream, &buffer[..*length], SendFlags::NOSIGNAL);
                }
            }
            self.buffer = buffer;
            // Any other error reports an answer that was not delivered.
            if matches!(received, Err(Errno::AGAIN)) {
                return;
            }
        }
    }

    /// The client's session, made when it has none or its backend is not healthy any more.
    fn of(
        &mut self,
        engine: &mut Engine,
        services: &mut Services,
        client: (u64, SocketAddr),
        shares: Shares,
        log: Log,
    ) -> Option<u32> {
        let record = client.0;
        if let Some(index) = self.of_clients.get(&client).copied() {
            let backend = self.open.get(&index).and_then(|session| session.backend);
            let service = services.get(record)?;
            if backend.is_some_and(|backend| service.backends.has(backend)) {
                return Some(index);
            }
            self.forget(engine, index);
        }
        let backend = services.next((record, Some(client.1.ip())), &[], engine)?;
        if !services.admits(record, engine, shares, log) {
            self.forget_oldest(engine, record);
            if !services.admits(record, engine, shares, log) {
                return None;
            }
        }
        self.begin(engine, client, backend)
    }

    fn begin(&mut self, engine: &mut Engine, client: (u64, SocketAddr), backend: Upstream) -> Option<u32> {
        let (record, client) = client;
        let upstream = connected(backend.address).ok()?;
        let Some(index) = engine.open(upstream, record) else {
            upstream.close();
            return None;
        };
        let slot = engine.table.slot(index);
        slot.set_client(client);
        engine.set_machine(index, backend.machine);
        slot.set_state(SlotState::Session);
        engine.table.listener(usize::try_from(record).unwrap_or(0)).count(Count::Accepted, 1);
        self.note(engine, index, Some(backend.address));
        Some(index)
    }

    fn forget(&mut self, engine: &mut Engine, index: u32) {
        if let Some(session) = self.open.remove(&index) {
            self.of_clients.remove(&(session.record, session.client));
            engine.close(index, false);
        }
    }

    fn forget_oldest(&mut self, engine: &mut Engine, record: u64) {
        let own = self.open.iter().filter(|(_, session)| session.record == record);
        let oldest = own.min_by_key(|(_, session)| session.last).map(|(index, _)| *index);
        if let Some(index) = oldest {
            self.forget(engine, index);
        }
    }

    /// A listener was closed with all its sessions.
    pub(super) fn forget_listener(&mut self, record: u64) {
        self.open.retain(|_, session| session.record != record);
        self.of_clients.retain(|(of, _), _| *of != record);
    }

    /// Sends the backend's answers to the client.
    pub(super) fn answer(&mut self, engine: &mut Engine, index: u32) {
        let Some(session) = self.open.get_mut(&index) else { return };
        session.last = Instant::now();
        let Ok(record) = usize::try_from(session.record) else { return };
        let listener = engine.table.listener(record);
        let upstream = engine.table.slot(index).side(Side::Client);
        let (Some(socket), Some(upstream)) = (listener.fd(), upstream) else { return };
        for _ in 0..BATCH {
            match rustix::net::recv(upstream, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    listener.count(Count::Sent, length as u64);
                    let answer = &self.buffer[..length];
                    let _ = rustix::net::sendto(socket, answer, SendFlags::NOSIGNAL, &session.client);
                }
                Err(Errno::AGAIN) => return,
                // The backend has refused a datagram: the client may try again.
                Err(_) => {}
            }
        }
    }

    /// Forgets silent sessions. Returns when to look again.
    pub(super) fn sweep(&mut self, engine: &mut Engine) -> Option<Instant> {
        if self.open.is_empty() {
            return None;
        }
        if self.swept.elapsed() >= self.times.sweep {
            self.swept = Instant::now();
            let idle = self.times.idle;
            let silent = self.open.iter().filter(|(_, session)| session.last.elapsed() >= idle);
            for index in silent.map(|(index, _)| *index).collect::<Vec<_>>() {
                self.forget(engine, index);
            }
        }
        Some(self.swept + self.times.sweep)
    }
}

fn connected(backend: SocketAddr) -> rustix::io::Result<Fd> {
    let (family, any): (_, SocketAddr) = match backend {
        SocketAddr::V4(backend) if backend.ip().is_loopback() => {
            (AddressFamily::INET, (Ipv4Addr::LOCALHOST, 0).into())
        }
        SocketAddr::V4(_) => (AddressFamily::INET, (Ipv4Addr::UNSPECIFIED, 0).into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, (Ipv6Addr::UNSPECIFIED, 0).into()),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    // Dropped, and so closed, where it cannot be connected.
    rustix::net::bind(&socket, &any)?;
    rustix::net::connect(&socket, &backend)?;
    Ok(Fd::from_owned(socket))
}
