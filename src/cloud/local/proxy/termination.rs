//! TLS that ends at a port of a Service: once a client has shaken hands, its bytes pass to a machine and back as they come,
//! whatever the two speak. Either side may end its direction and go on to read the other one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper::Version;
use i2kit_spec::Seconds;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::backend::{Held, Reached, Servers};
use super::connection::{Busy, ConnectionEntry};
use super::port_tally::PortCounter;
use super::tls;
use crate::cloud::local::affinity::Affinity;

/// The time of a handshake of TLS, with a client and with a machine.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Bytes that are read at once: the longest record of TLS (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// What of a port outlives its machines: its counters, and which clients stay with which machine.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) counter: Arc<PortCounter>,
    affinity: Mutex<Option<Affinity>>,
}

impl Port {
    /// Has each client stay with a machine for as long as it comes again within that time; `None`: it does not stay.
    pub(super) fn set_affinity(&self, timeout: Option<Seconds>) {
        let mut affinity = self.affinity.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *affinity, timeout.map(Duration::from)) {
            (Some(affinity), Some(timeout)) => affinity.set_timeout(timeout),
            (affinity, timeout) => *affinity = timeout.map(Affinity::new),
        }
    }

    /// The one of these addresses, the best of which is the first, for a connection of this client.
    fn choose(&self, client: IpAddr, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        match &mut *self.affinity.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(affinity) => affinity.choose(client, addresses, Instant::now()),
            None => addresses.first().copied(),
        }
    }
}

/// Where the connections of a port go.
#[derive(Debug)]
pub(super) struct Machines {
    pub(super) port: Arc<Port>,
    pub(super) servers: Arc<Servers>,
    /// Whether they are spoken TLS to.
    pub(super) tls: bool,
}

impl Machines {
    /// Passes on what a client with this address and a machine send each other, until both have ended, one has broken off, or
    /// nothing has passed for too long.
    pub(super) async fn pass<S>(&self, client: S, address: IpAddr, entry: &ConnectionEntry)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let _busy = Busy::new(&entry.activity, Version::HTTP_11);
        let stopped = entry.activity.stop.cancelled();
        if self.passed(client, address, stopped).await.is_err() {
            self.port.counter.failed();
        }
    }

    async fn passed<S>(&self, client: S, address: IpAddr, stopped: impl Future<Output = ()>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let began = Instant::now();
        let reached = self.servers.reach(|addresses| self.port.choose(address, addresses)).await;
        let Reached { mut stream, held } = reached.map_err(|_| io::ErrorKind::NotConnected)?;
        self.port.counter.connected(began.elapsed());
        // What is cut off is not to be taken for whole, be it that this process is killed.
        drop(stream.set_zero_linger());
        let (passed, is_whole) = tokio::select! {
            passed = self.carry(client, &mut stream, &held) => {
                let is_whole = passed.is_ok();
                (passed, is_whole)
            }
            () = stopped => (Ok(()), false),
        };
        if is_whole {
            let _ = rustix::net::sockopt::set_socket_linger(&stream, None);
        }
        drop((stream, held));
        passed
    }

    /// Bytes both ways.
    async fn carry<S>(&self, client: S, stream: &mut TcpStream, held: &Held) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let counter = &self.port.counter;
        if !self.tls {
            return both_ways(client, stream, counter, held).await;
        }
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let connect = TlsConnector::from(config()?).connect(name, stream);
        let machine = tokio::time::timeout(HANDSHAKE, connect).await.map_err(io::Error::from).flatten();
        let machine = machine.inspect_err(|_| held.failed())?;
        both_ways(client, machine, counter, held).await
    }
}

/// How machines are spoken TLS to.
fn config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, rustls::Error>> = OnceLock::new();
    CONFIG.get_or_init(tls::to_machines).clone().map_err(io::Error::other)
}

async fn both_ways<S, M>(client: S, machine: M, counter: &PortCounter, held: &Held) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    M: AsyncRead + AsyncWrite + Unpin,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (from_machine, to_machine) = tokio::io::split(machine);
    let (has_ended, has_answered) = (AtomicBool::new(false), AtomicBool::new(false));
    let up = async {
        let passed = one_way(from_client, to_machine, |bytes| counter.received(bytes), || {}).await;
        has_ended.store(true, Ordering::Relaxed);
        passed
    };
    let answered = |bytes| {
        has_answered.store(true, Ordering::Relaxed);
        counter.sent(bytes);
    };
    // The front door takes connections for a machine whose pod takes none, and ends them then.
    let ended = || {
        if !has_ended.load(Ordering::Relaxed) && !has_answered.load(Ordering::Relaxed) {
            held.failed();
        }
    };
    let down = one_way(from_machine, to_client, answered, ended);
    tokio::try_join!(up, down).map(drop)
}

/// Bytes of one direction, to their end, which is told before the other side learns it.
async fn one_way<R, W>(mut from: R, mut to: W, count: impl Fn(usize), ended: impl Fn()) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut bytes = vec![0; RECORD];
    loop {
        let read = match from.read(&mut bytes).await {
            // Many clients close the connection without the alert that TLS has for it; other proxies take that for an end too.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read.inspect_err(|_| ended())?,
        };
        if read == 0 {
            ended();
            break;
        }
        to.write_all(&bytes[..read]).await?;
        // TLS keeps what the socket did not take at once.
        to.flush().await?;
        count(read);
    }
    // Who has gone meanwhile is told nothing.
    drop(to.shutdown().await);
    Ok(())
}
