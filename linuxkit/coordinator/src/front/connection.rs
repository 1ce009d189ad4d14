//! One connection of a client: requests one after the other, each with its reply before the next is looked at, so that a client
//! that does not read holds up itself alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use i2kit_spec::replica::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::framer::Framer;
use super::types::{Entry, Inbound, Kind, Outcome, Progress, Request, Shape, Word};

/// Bytes of a connection's buffer that are its own; what is longer is taken from the memory that all share.
const OWN: usize = 16 << 10;

/// Bytes of a connection's buffer while it rests.
const RESTING: usize = 4 << 10;

/// How long a connection may rest between two requests.
const IDLE: Duration = Duration::from_mins(10);

/// How long a request may take from its first byte to its last.
const REQUEST: Duration = Duration::from_secs(30);

/// How long a client may take to read a reply.
const REPLY: Duration = Duration::from_mins(1);

/// How long a refused client may go on sending, so that it sees the answer before the connection's end.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that a refused client may go on sending.
const LINGER_BYTES: usize = 256 << 10;

/// What all connections have in common.
pub(super) struct Shared<E> {
    framer: Framer,
    limits: Limits,
    entry: Arc<E>,
    memory: Arc<Semaphore>,
    memory_kib: u32,
}

impl<E> Shared<E> {
    /// `memory_kib` is for the requests of all connections together; at least one of the longest has room.
    pub(super) fn new(framer: Framer, limits: Limits, entry: Arc<E>, memory_kib: u32) -> Self {
        let longest = u32::try_from((limits.body_bytes.0 >> 10).saturating_mul(2)).unwrap_or(u32::MAX >> 4);
        let memory_kib = memory_kib.max(longest.saturating_add(128)).min(u32::MAX >> 4);
        let memory = Semaphore::new(usize::try_from(memory_kib).unwrap_or(Semaphore::MAX_PERMITS));
        Self { framer, limits, entry, memory: Arc::new(memory), memory_kib }
    }
}

/// What a connection has.
struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    progress: Progress,
    /// Memory beyond its own, while the request needs it.
    memory: Option<OwnedSemaphorePermit>,
    /// When the request that is being read must be whole.
    until: Option<Instant>,
}

/// Serves a client until either side ends the connection.
pub(super) async fn run<E: Entry>(
    stream: TcpStream,
    shared: &Shared<E>,
    mut drain: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let buffer = BytesMut::with_capacity(RESTING);
    let mut client = Client { stream, buffer, progress: Progress::default(), memory: None, until: None };
    loop {
        match shared.framer.request(&mut client.progress, &mut client.buffer, &shared.limits) {
            Ok(None) => {
                if !client.read(shared, &mut drain).await? {
                    return Ok(());
                }
            }
            Ok(Some(Inbound::Answer(bytes))) => {
                client.begin_anew();
                client.write(&bytes).await?;
            }
            Ok(Some(Inbound::Request(request))) => {
                let close = request.close;
                let reply = execute(shared, request).await;
                client.begin_anew();
                client.write(&reply).await?;
                if close || reply.is_empty() || *drain.borrow() {
                    return client.stream.shutdown().await;
                }
            }
            Err(refusal) => {
                shared.entry.refused(refusal.reason);
                client.write(&refusal.reply).await?;
                if refusal.close {
                    return client.linger().await;
                }
                client.begin_anew();
            }
        }
    }
}

/// Has a request executed, and gives the whole reply.
async fn execute<E: Entry>(shared: &Shared<E>, request: Request) -> Bytes {
    let shape = shared.framer.shape(&request.bytes);
    let reply = match request.kind {
        Kind::Read => shared.entry.read(request).await,
        Kind::Write => shared.entry.write(request).await,
    };
    if shape != Shape::Head {
        return reply;
    }
    // An error in place of a reply has a body, which the client of HEAD would take for the next reply.
    let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
    end.map_or(reply.clone(), |end| reply.slice(..end))
}

impl Client {
    /// The next request has memory and time of its own.
    fn begin_anew(&mut self) {
        self.until = None;
        if self.progress.is_between() {
            self.memory = None;
        }
        if self.buffer.is_empty() && self.buffer.capacity() > OWN {
            self.buffer = BytesMut::with_capacity(RESTING);
        }
    }

    /// Reads more of the request; false at the end of the connection.
    async fn read<E: Entry>(
        &mut self,
        shared: &Shared<E>,
        drain: &mut watch::Receiver<bool>,
    ) -> io::Result<bool> {
        let is_idle = self.buffer.is_empty() && self.progress.is_between();
        let until = match self.until {
            Some(until) => until,
            None if self.buffer.is_empty() => Instant::now() + IDLE,
            None => *self.until.insert(Instant::now() + REQUEST),
        };
        if !self.has_memory(shared, until).await {
            let reply = shared.framer.error(Outcome::NotDone, "too many long requests are under way");
            self.write(&reply).await?;
            self.linger().await?;
            return Ok(false);
        }
        if self.progress.word == Word::Due {
            self.progress.word = Word::None;
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        tokio::select! {
            biased;
            Ok(_) = drain.wait_for(|drains| *drains), if is_idle => Ok(false),
            read = timeout_at(until, self.stream.read_buf(&mut self.buffer)) => match read {
                Ok(read) => Ok(read? > 0),
                Err(_) => Ok(false),
            },
        }
    }

    /// Takes memory for a long request, all that it may need at once: those that wait for each other's would wait for ever.
    async fn has_memory<E: Entry>(&mut self, shared: &Shared<E>, until: Instant) -> bool {
        let needed = self.progress.needed().max(self.buffer.len());
        if needed <= OWN || self.memory.is_some() {
            return true;
        }
        let longest = usize::try_from(shared.limits.body_bytes.0).unwrap_or(usize::MAX);
        // A transaction is not known to its end: it may become as long as a request may be.
        let most = if self.progress.is_between() { needed } else { longest.max(needed) };
        let kib = u32::try_from(most >> 10).unwrap_or(u32::MAX).saturating_add(1).min(shared.memory_kib);
        let permits = Arc::clone(&shared.memory).acquire_many_owned(kib);
        self.memory = timeout_at(until, permits).await.ok().and_then(Result::ok);
        self.memory.is_some()
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = timeout(REPLY, self.stream.write_all(bytes)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the connection so that the client sees what was written last, though it may be sending still.
    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let rest = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.buffer.clear();
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => left = left.saturating_sub(read),
                }
            }
        };
        // Time is over, or the client is.
        let _ = timeout(LINGER, rest).await;
        Ok(())
    }
}
