//! TCP connections of Services: accepts, connects to a backend, and gives both to what carries.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::admission::Shares;
use super::carry::Engine;
use super::log::Log;
use super::poll::EventFlags;
use super::services::Services;
use super::table::{Count, Fd, Owner, Side, SlotState};

/// A backend on this machine accepts at once or not at all.
const CONNECT: Duration = Duration::from_secs(2);

/// Connections of one listener that are accepted before others have their turn.
const BATCH: usize = 64;

/// A connection whose backend has not answered yet.
#[derive(Debug, Default)]
struct Attempt {
    /// Backends that were tried, the present one with them.
    tried: Vec<SocketAddr>,
    since: Option<Instant>,
}

/// The connections that are being made.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    attempts: HashMap<u32, Attempt>,
    /// When each attempt is given up: the record, and which use of it.
    deadlines: VecDeque<(Instant, u32, usize)>,
}

impl Connecting {
    /// Accepts what waits at a listener.
    pub(super) fn accept(
        &mut self,
        engine: &mut Engine,
        services: &mut Services,
        (record, shares): (u64, Shares),
        log: Log,
    ) {
        for _ in 0..BATCH {
            let Some(listener) = listener(engine, record) else { return };
            if !services.admits(record, engine, shares, log) {
                services.pause(record, &engine.table, engine.poll);
                return;
            }
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) => self.begin(engine, services, Fd::from_owned(client), record),
                Err(Errno::AGAIN) => return,
                // The client has gone already, or a signal came.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => {
                    services.pause(record, &engine.table, engine.poll);
                    return;
                }
            }
        }
    }

    /// Takes on an accepted connection. One of a client that may not connect is reset at once.
    pub(super) fn begin(&mut self, engine: &mut Engine, services: &mut Services, client: Fd, record: u64) {
        if !services.let_in(record, || peer(client)) {
            engine.table.listener(usize::try_from(record).unwrap_or(0)).count(Count::Refused, 1);
            let _ = sockopt::set_socket_linger(client, Some(Duration::ZERO));
            client.close();
            return;
        }
        let Some(index) = engine.open(client, record) else {
            client.close();
            return;
        };
        engine.table.slot(index).set_state(SlotState::Connecting);
        engine.table.listener(usize::try_from(record).unwrap_or(0)).count(Count::Accepted, 1);
        let attempt = Attempt { tried: Vec::new(), since: Some(Instant::now()) };
        self.connect(engine, services, index, attempt);
    }

    /// Goes on with a connection that a predecessor was making.
    pub(super) fn recover(&mut self, engine: &mut Engine, services: &mut Services, index: u32) {
        let server = engine.table.slot(index).side(Side::Server);
        let attempt = Attempt::default();
        if server.is_some() {
            self.attempts.insert(index, attempt);
            self.wait(engine, index, 0);
        } else {
            self.connect(engine, services, index, attempt);
        }
    }

    /// Tries one backend after the other until one takes the connection, or may take it.
    fn connect(&mut self, engine: &mut Engine, services: &mut Services, index: u32, mut attempt: Attempt) {
        let slot = engine.table.slot(index);
        let record = slot.listener();
        let asks = services.have_affinity(record);
        let client = slot.side(Side::Client).filter(|_| asks).and_then(peer);
        while let Some(backend) = services.next((record, client), &attempt.tried, engine) {
            attempt.tried.push(backend.address);
            let Ok(server) = socket(backend.address) else { continue };
            engine.table.own(server, Owner::Nobody);
            slot.set_side(Side::Server, Some(server));
            engine.disarm(index, Side::Server);
            engine.set_machine(index, backend.machine);
            match rustix::net::connect(server, &backend.address) {
                Ok(()) => {
                    Self::established(engine, index, attempt.since);
                    return;
                }
                Err(Errno::INPROGRESS) => {
                    let number = attempt.tried.len();
                    self.attempts.insert(index, attempt);
                    self.wait(engine, index, number);
                    return;
                }
                Err(_) => drop_server(engine, index),
            }
        }
        // No healthy backend: closing the client tells it at once.
        engine.table.listener(usize::try_from(record).unwrap_or(0)).count(Count::Failed, 1);
        self.attempts.remove(&index);
        engine.close(index, false);
    }

    fn wait(&mut self, engine: &mut Engine, index: u32, number: usize) {
        engine.interest(index, Side::Server, EventFlags::OUT);
        self.deadlines.push_back((Instant::now() + CONNECT, index, number));
    }

    fn established(engine: &mut Engine, index: u32, since: Option<Instant>) {
        let slot = engine.table.slot(index);
        if let (Some(since), Ok(record)) = (since, usize::try_from(slot.listener())) {
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            engine.table.listener(record).connected(micros);
        }
        slot.set_state(SlotState::Carrying);
        engine.both(index);
    }

    /// Something happened to the server's side of a connection that is being made.
    pub(super) fn event(&mut self, engine: &mut Engine, services: &mut Services, index: u32) {
        let Some(server) = engine.table.slot(index).side(Side::Server) else { return };
        let is_connected = matches!(sockopt::socket_error(server), Ok(Ok(())))
            && rustix::net::getpeername(server).is_ok_and(|peer| peer.is_some());
        let attempt = self.attempts.remove(&index).unwrap_or_default();
        if is_connected {
            Self::established(engine, index, attempt.since);
        } else {
            drop_server(engine, index);
            self.connect(engine, services, index, attempt);
        }
    }

    /// Gives up attempts that take too long. Returns when the next one does.
    pub(super) fn expire(&mut self, engine: &mut Engine, services: &mut Services) -> Option<Instant> {
        let now = Instant::now();
        while let Some((due, index, number)) = self.deadlines.front().copied() {
            if due > now {
                return Some(due);
            }
            self.deadlines.pop_front();
            // It may be the next use of the record: then it has not waited for long.
            let is_late = |attempt: &Attempt| {
                attempt.tried.len() == number && attempt.since.is_none_or(|since| since.elapsed() >= CONNECT)
            };
            let state = engine.table.slot(index).state();
            if !self.attempts.get(&index).is_some_and(is_late)
                || state != (SlotState::Connecting, engine.member)
            {
                continue;
            }
            // This process may have waited for its turn for so long, and the backend has answered.
            self.event(engine, services, index);
        }
        None
    }

    /// A connection was closed by somebody else.
    pub(super) fn forget_closed(&mut self, engine: &Engine) {
        self.attempts.retain(|index, _| engine.table.slot(*index).state().0 == SlotState::Connecting);
    }
}

/// The address of a connection's client.
fn peer(client: Fd) -> Option<IpAddr> {
    let peer = rustix::net::getpeername(client).ok().flatten()?;
    SocketAddr::try_from(peer).ok().map(|peer| peer.ip())
}

fn listener(engine: &Engine, record: u64) -> Option<Fd> {
    engine.table.listener(usize::try_from(record).ok()?).fd()
}

/// Forgets the server that did not take the connection.
fn drop_server(engine: &mut Engine, index: u32) {
    let slot = engine.table.slot(index);
    engine.set_machine(index, 0);
    engine.disarm(index, Side::Server);
    if let Some(server) = slot.side(Side::Server) {
        slot.set_side(Side::Server, None);
        server.close();
    }
}

fn socket(address: SocketAddr) -> rustix::io::Result<Fd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let socket = Fd::from_owned(socket);
    let _ = sockopt::set_tcp_nodelay(socket, true);
    Ok(socket)
}
