//! One replica: its parts, and the requests of its clients.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use i2kit_spec::replica::{Integrity, Reads, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::command::{Command, MAX_KEY_BYTES};
use crate::config::Settings;
use crate::front::{Entry, Framer, Outcome, ReplyProgress, Request};
use crate::lock::lock;
use crate::log::Log;
use crate::machine::executor::{Handle, Shared};
use crate::machine::incoming::Incoming;
use crate::machine::waiting::Done;
use crate::member::fence::Fence;
use crate::metrics::Metrics;
use crate::order::handle::Order;
use crate::order::propose::Queue;
use crate::order::raft::Slots;
use crate::order::timing::Timing;

/// Connections to the application that are kept for reads.
const MAX_IDLE: usize = 32;

/// A read that cannot be served is tried again after so long.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// A question for the index up to which a read has to wait.
pub(crate) type ReadQuestion = oneshot::Sender<Option<u64>>;

/// One replica.
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) timing: Timing,
    pub(crate) log: Log,
    pub(crate) fence: Arc<Fence>,
    pub(crate) order: Order,
    pub(crate) slots: Slots,
    pub(crate) executor: Handle,
    pub(crate) shared: Shared,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) framer: Framer,
    /// The leader's queue.
    pub(crate) queue: Queue,
    /// Commands of this replica's clients, on their way to the leader.
    pub(crate) outgoing: mpsc::UnboundedSender<Command>,
    /// Reads of this replica's clients.
    pub(crate) reads: mpsc::UnboundedSender<ReadQuestion>,
    /// Reads of all replicas' clients, at the leader.
    pub(crate) gate: mpsc::UnboundedSender<ReadQuestion>,
    /// Why it is no voter yet, in words.
    pub(crate) joining: Mutex<Option<String>>,
    /// Whether a change of members is under way at this leader.
    pub(crate) changes: tokio::sync::Mutex<()>,
    /// Whether it was told to end.
    pub(crate) ends: AtomicBool,
    /// The entry of the last snapshot.
    pub(crate) snapshot_at: AtomicU64,
    /// Whether the last attempt to take a snapshot failed.
    pub(crate) captures_fail: AtomicBool,
    /// Whether the disk of the log has hardly any room left.
    pub(crate) disk_is_full: AtomicBool,
    pub(crate) incoming: tokio::sync::Mutex<Incoming>,
    pub(crate) idle: Mutex<Vec<(u64, TcpStream)>>,
}

/// Nobody waits for a command any more when this is dropped: the client got its reply, or is gone.
struct Forget<'a>(&'a Node, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.shared.waiting.remove(self.1);
    }
}

impl Node {
    /// This machine's clock, in milliseconds of Unix time. Only a first guess of agreed time, and a leader's proposal.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let millis = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
        let step = self.settings.place.clock.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let step = step.and_then(|step| step.trim().parse::<i64>().ok()).unwrap_or(0);
        u64::try_from(millis.saturating_add(step)).unwrap_or(0)
    }

    /// The index at which this replica's replies differ from a majority's.
    pub(crate) fn diverged_at(&self) -> Option<u64> {
        if self.settings.config.integrity == Integrity::Off {
            return None;
        }
        lock(&self.shared.digests).divergence().0
    }

    /// Whether the log may not grow: there is no snapshot that could take its place, or no room on its disk.
    pub(crate) fn log_is_full(&self) -> bool {
        let config = &self.settings.config;
        let has_none = config.state == State::Memory || self.captures_fail.load(Ordering::Relaxed);
        let (bytes, limit) = (self.log.bytes(), config.limits.log_bytes.0);
        // With snapshots as well there is an end: what they make room for may be held up.
        has_none && bytes > limit
            || bytes > limit.saturating_mul(2)
            || self.disk_is_full.load(Ordering::Relaxed)
    }

    fn error(&self, outcome: Outcome, reason: &str) -> Bytes {
        self.framer.error(outcome, reason)
    }

    /// Why this replica takes no requests.
    fn refusal(&self) -> Option<&'static str> {
        if self.diverged_at().is_some() {
            return Some("this replica is quarantined: its replies differed; ask another one");
        }
        self.ends.load(Ordering::Relaxed).then_some("this replica ends; ask another one")
    }

    async fn order_and_execute(&self, request: Request) -> Bytes {
        if let Some(reason) = self.refusal() {
            return self.error(Outcome::NotDone, reason);
        }
        if self.log_is_full() {
            let reason = "the log has reached log= of i2kit.dev/replicated-limits, and no snapshot takes its place: the state `memory` has none, or the last one \
                          failed, and the coordinator's log says why; raise i2kit.dev/replicated-log, or choose another i2kit.dev/replicated-state";
            return self.error(Outcome::NotDone, reason);
        }
        if request.key.as_ref().is_some_and(|key| key.len() > MAX_KEY_BYTES) {
            return self.error(Outcome::NotDone, "the Idempotency-Key is longer than 255 bytes");
        }
        let deadline = self.settings.deadline();
        let Some((command, receiver)) = self.shared.waiting.add(request, deadline, self.now_ms()) else {
            return self.error(Outcome::NotDone, "too many requests wait at this replica; try again later");
        };
        let _forget = Forget(self, command.seq);
        drop(self.outgoing.send(command));
        match tokio::time::timeout(deadline, receiver).await {
            Ok(Ok(Done::Reply(bytes))) => bytes,
            Ok(Ok(Done::Late)) => self.error(Outcome::NotDone, "it was not ordered before its deadline"),
            Ok(Ok(Done::Another)) => self.error(
                Outcome::Another,
                "its Idempotency-Key was used for another request: give this one a key of its own",
            ),
            Ok(Ok(Done::Lost(reason))) => self.error(Outcome::Executed, reason),
            Ok(Err(_)) | Err(_) => self.error(Outcome::Unknown, "it was not executed before its deadline"),
        }
    }

    async fn read_here(&self, request: &Request) -> Bytes {
        let until = Instant::now() + self.settings.deadline();
        let attempt = async {
            loop {
                match self.try_read(request, until).await {
                    Some(reply) => return reply,
                    None => tokio::time::sleep(READ_PAUSE).await,
                }
            }
        };
        match tokio::time::timeout_at(until, attempt).await {
            Ok(reply) => reply,
            Err(_) => self.error(Outcome::NotDone, "no leader answered, or this replica is behind"),
        }
    }

    /// One attempt; none when it has to be made again. A read may be repeated.
    async fn try_read(&self, request: &Request, until: Instant) -> Option<Bytes> {
        if let Some(reason) = self.refusal() {
            return Some(self.error(Outcome::NotDone, reason));
        }
        let mut progress = self.executor.progress.clone();
        if self.settings.config.reads == Reads::Linearizable {
            let (sender, receiver) = oneshot::channel();
            self.reads.send(sender).ok()?;
            let index = receiver.await.ok()??;
            let reached = progress.wait_for(|progress| progress.life.is_some() && progress.next > index);
            tokio::time::timeout_at(until, reached).await.ok()?.ok()?;
        }
        let life = progress.borrow().life?;
        let reply = match self.ask(request, life).await {
            Ok(reply) => reply,
            Err(Some(reply)) => return Some(reply),
            Err(None) => return None,
        };
        // A reply of an application that began anew meanwhile may be of a state before.
        (self.executor.progress.borrow().life == Some(life)).then_some(reply)
    }

    /// Asks the application on a connection beside the ordered one. An error is told to the client, or is none and tried again.
    async fn ask(&self, request: &Request, life: u64) -> Result<Bytes, Option<Bytes>> {
        let kept = {
            let mut idle = lock(&self.idle);
            idle.retain(|(of, _)| *of == life);
            idle.pop()
        };
        let mut stream = if let Some((_, stream)) = kept {
            stream
        } else {
            let port = self.settings.config.app_port;
            let stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await.map_err(|_| None)?;
            stream.set_nodelay(true).map_err(|_| None)?;
            stream
        };
        stream.write_all(&request.bytes).await.map_err(|_| None)?;
        let shape = self.framer.shape(&request.bytes);
        let (mut buffer, mut progress) = (BytesMut::with_capacity(4096), ReplyProgress::default());
        let mut memory = self.shared.memory.begin();
        loop {
            match self.framer.reply(&mut progress, &mut buffer, shape, &self.settings.config.limits) {
                Ok(Some(reply)) => {
                    let mut idle = lock(&self.idle);
                    if !reply.close && buffer.is_empty() && idle.len() < MAX_IDLE {
                        idle.push((life, stream));
                    }
                    return Ok(memory.finish(&reply.bytes));
                }
                Ok(None) => match stream.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return Err(None),
                    Ok(_) if memory.grow(buffer.len()) => {}
                    Ok(_) => {
                        let reason = "too many long replies are on their way to clients; try again later";
                        return Err(Some(self.error(Outcome::NotDone, reason)));
                    }
                },
                Err(error) => return Err(Some(self.error(Outcome::Executed, &error.to_string()))),
            }
        }
    }
}

impl Entry for Node {
    async fn write(&self, request: Request) -> Bytes {
        self.order_and_execute(request).await
    }

    async fn read(&self, request: Request) -> Bytes {
        if self.settings.config.reads == Reads::Ordered {
            self.order_and_execute(request).await
        } else {
            self.read_here(&request).await
        }
    }
}

/// A number by chance that is not 0.
pub(crate) fn random() -> std::io::Result<u64> {
    loop {
        let mut bytes = [0; 8];
        let len = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
        let number = u64::from_le_bytes(bytes);
        if len == bytes.len() && number != 0 {
            return Ok(number);
        }
    }
}
