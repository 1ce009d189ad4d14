//! The side of a connection that asks: it connects again whenever it broke, and fails at once what cannot be sent.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frame::{self, Frame, Hello, Kind};
use super::tls::Identity;

/// When so many bytes wait for one connection, what is beyond fails at once, and is sent again by who needs it. A single frame
/// may be longer.
const MAX_QUEUED: usize = 4 << 20;

/// How long a connection may take to be made, its hello included.
const CONNECT: Duration = Duration::from_secs(3);

/// The first and the longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(400));

/// Frames are gathered up to about this before they are written.
const GATHERED: usize = 256 << 10;

/// Calls whose callers have given up are forgotten beyond so many.
const MAX_CALLS: usize = 256;

/// Something to send.
struct Outgoing {
    kind: Kind,
    body: Bytes,
    answer: Option<oneshot::Sender<Bytes>>,
}

/// Who is at the other end of the connection that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    /// Counts the connections of this link.
    pub(crate) generation: u64,
    /// What the other side said.
    pub(crate) hello: Hello,
}

/// Who speaks on a connection, and what comes of who the other side says to be.
pub(crate) trait Greeter: Send + Sync {
    /// What is said of oneself.
    fn hello(&self) -> Hello;

    /// Takes note of the other side, and refuses it where the two may not talk.
    fn meets(&self, other: &Hello) -> io::Result<()>;
}

/// A connection to one slot. Handles share it; it ends with the last.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    sender: mpsc::UnboundedSender<Outgoing>,
    queued: Arc<AtomicUsize>,
    connected: watch::Receiver<Option<Connected>>,
    /// How often a connection could not be made.
    failures: Arc<AtomicU64>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no connection, or it broke.
    #[error("the replica is not connected")]
    Down,
    /// The answer did not come in time.
    #[error("the replica does not answer in time")]
    Late,
}

impl Link {
    /// Starts a link to `address`, a host name and a port.
    pub(crate) fn start(address: String, identity: &Identity, me: Arc<dyn Greeter>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (connected_sender, connected) = watch::channel(None);
        let queued = Arc::new(AtomicUsize::new(0));
        let connector = TlsConnector::from(identity.client.clone());
        let failures = Arc::new(AtomicU64::new(0));
        let task = Task {
            address,
            connector,
            me,
            receiver,
            queued: queued.clone(),
            connected: connected_sender,
            failures: failures.clone(),
        };
        tokio::spawn(task.run());
        Self { sender, queued, connected, failures }
    }

    /// Who is there.
    pub(crate) fn connected(&self) -> Option<Connected> {
        self.connected.borrow().clone()
    }

    /// Whether the other side has said who it is, or could not be reached at the first attempt.
    pub(crate) fn was_tried(&self) -> bool {
        self.connected.borrow().is_some() || self.failures.load(Ordering::Relaxed) > 0
    }

    /// Sends without an answer. What cannot be sent is dropped.
    pub(crate) fn send(&self, kind: Kind, body: Bytes) {
        let _ = self.queue(kind, body, None);
    }

    /// Sends, and waits for the answer.
    pub(crate) async fn call(&self, kind: Kind, body: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let (sender, receiver) = oneshot::channel();
        self.queue(kind, body, Some(sender))?;
        match tokio::time::timeout(patience, receiver).await {
            Ok(answer) => answer.map_err(|_| CallError::Down),
            Err(_) => Err(CallError::Late),
        }
    }

    fn queue(
        &self,
        kind: Kind,
        body: Bytes,
        answer: Option<oneshot::Sender<Bytes>>,
    ) -> Result<(), CallError> {
        let len = body.len();
        if self.connected.borrow().is_none() || self.queued.load(Ordering::Relaxed) > MAX_QUEUED {
            return Err(CallError::Down);
        }
        self.queued.fetch_add(len, Ordering::Relaxed);
        self.sender.send(Outgoing { kind, body, answer }).map_err(|_| CallError::Down)
    }
}

/// The task of a link.
struct Task {
    address: String,
    connector: TlsConnector,
    me: Arc<dyn Greeter>,
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    queued: Arc<AtomicUsize>,
    connected: watch::Sender<Option<Connected>>,
    failures: Arc<AtomicU64>,
}

impl Task {
    async fn run(mut self) {
        let mut pause = PAUSES.0;
        let mut said = None;
        for generation in 1.. {
            match tokio::time::timeout(CONNECT, self.connect())
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            {
                Ok((stream, buffer, hello)) => {
                    (pause, said) = (PAUSES.0, None);
                    self.connected.send_replace(Some(Connected { generation, hello }));
                    let ended = self.exchange(stream, buffer).await;
                    self.connected.send_replace(None);
                    if ended.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    // The same reason is told once, not at each attempt.
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        crate::report!("replica {} is not reached: {text}", self.address);
                        said = Some(text);
                    }
                }
            }
            while let Ok(outgoing) = self.receiver.try_recv() {
                self.queued.fetch_sub(outgoing.body.len(), Ordering::Relaxed);
            }
            if self.receiver.is_closed() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// A connection on which both have said who they are. The name is resolved each time: a machine that was replaced has another
    /// address.
    async fn connect(&self) -> io::Result<(TlsStream<TcpStream>, BytesMut, Hello)> {
        let stream = TcpStream::connect(&self.address).await?;
        super::prepare(&stream)?;
        let name = ServerName::try_from("i2kit").map_err(io::Error::other)?;
        let mut stream = self.connector.connect(name, stream).await?;
        let me = self.me.hello();
        let mut out = BytesMut::new();
        frame::put(&mut out, Kind::Hello, 0, &me.encode());
        stream.write_all(&out).await?;
        let mut buffer = BytesMut::with_capacity(8 << 10);
        let hello = read_hello(&mut stream, &mut buffer, &me.group).await?;
        self.me.meets(&hello)?;
        Ok((stream, buffer, hello))
    }

    /// Sends and receives until the connection breaks; none when nobody holds the link any more.
    async fn exchange(&mut self, stream: TlsStream<TcpStream>, mut buffer: BytesMut) -> Option<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut calls: HashMap<u64, oneshot::Sender<Bytes>> = HashMap::new();
        let mut next = 1;
        let mut out = BytesMut::new();
        loop {
            tokio::select! {
                outgoing = self.receiver.recv() => {
                    let mut outgoing = outgoing?;
                    loop {
                        self.queued.fetch_sub(outgoing.body.len(), Ordering::Relaxed);
                        let call = if outgoing.answer.is_some() { next } else { 0 };
                        frame::put(&mut out, outgoing.kind, call, &outgoing.body);
                        if let Some(answer) = outgoing.answer {
                            calls.insert(next, answer);
                            next += 1;
                        }
                        match self.receiver.try_recv() {
                            Ok(more) if out.len() < GATHERED => outgoing = more,
                            Ok(more) => {
                                // It is the first of the next write.
                                if writer.write_all(&out).await.is_err() {
                                    return Some(());
                                }
                                out.clear();
                                outgoing = more;
                            }
                            Err(_) => break,
                        }
                    }
                    if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
                        return Some(());
                    }
                    if out.capacity() > 4 * GATHERED { out = BytesMut::new() } else { out.clear() }
                    if calls.len() > MAX_CALLS {
                        calls.retain(|_, answer| !answer.is_closed());
                    }
                }
                read = reader.read_buf(&mut buffer) => {
                    if !matches!(read, Ok(1..)) {
                        return Some(());
                    }
                    loop {
                        match frame::take(&mut buffer) {
                            Ok(Some(Frame { kind: Kind::Answer, call, body })) => {
                                if let Some(answer) = calls.remove(&call) {
                                    drop(answer.send(body));
                                }
                            }
                            Ok(None) => break,
                            Ok(Some(_)) | Err(_) => return Some(()),
                        }
                    }
                }
            }
        }
    }
}

/// Reads the other side's hello, and refuses one of another group.
pub(super) async fn read_hello(
    stream: &mut (impl AsyncReadExt + Unpin),
    buffer: &mut BytesMut,
    group: &str,
) -> io::Result<Hello> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    loop {
        match frame::take(buffer).map_err(|error| wrong(&error.to_string()))? {
            Some(Frame { kind: Kind::Hello, body, .. }) => {
                let hello = Hello::decode(body).map_err(|_| {
                    wrong("its hello is of another version; give all replicas the same image")
                })?;
                if hello.group != group {
                    return Err(wrong(&format!(
                        "it belongs to the group {}; each group needs a key pair of its own",
                        hello.group
                    )));
                }
                return Ok(hello);
            }
            Some(_) => return Err(wrong("its first frame is no hello")),
            None if buffer.len() > 4096 => return Err(wrong("its hello is too long")),
            None => {}
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
