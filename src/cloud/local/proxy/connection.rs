//! Connections of clients: counted, watched for silence, and closed when they have been silent for too long.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Seconds until a connection is closed on which nothing passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silences {
    /// From the first byte of a request's head to its last one, whatever comes in between; for the first request from the
    /// beginning of the connection.
    pub(crate) head: u32,
    /// Between two requests.
    pub(crate) between: u32,
    /// Between two requests while there is no room for further clients.
    pub(crate) crowded: u32,
    /// While a request or an answer is under way, or a tunnel stands.
    pub(crate) within: u32,
    /// At a port of a Service, after the handshake.
    pub(crate) stream: u32,
}

/// As nginx has them; 5 minutes within a request leave time for slow answers and for pings of tunnels. Streams
/// have the 350 seconds that balancers of other clouds give connections whose TLS they end.
pub(crate) const SILENCES: Silences =
    Silences { head: 10, between: 75, crowded: 1, within: 300, stream: 350 };

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    /// When a byte passed last, by the clock of [`Connections`].
    last: AtomicU32,
    /// Requests under way, tunnels, and what a port of a Service passes on.
    active: AtomicU32,
    /// When the head of a request began that is not whole yet; 0 without such a one.
    head: AtomicU32,
    /// Whether the connection is one of HTTP/2, whose frames need not be of requests.
    http2: AtomicBool,
    /// Seconds of silence while it is busy.
    within: u32,
    clock: Arc<AtomicU32>,
    /// Cancelled when the connection is to be closed.
    pub(crate) stop: CancellationToken,
}

impl Activity {
    fn touch(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Something passed. Frames of HTTP/2 between requests, such as pings, keep no connection open.
    fn passed(&self) {
        if self.is_busy() || !self.http2.load(Ordering::Relaxed) {
            self.touch();
        }
    }

    /// Something was read: of a request's head, unless it is of a request that is under way.
    fn read(&self) {
        self.passed();
        if !self.is_busy() && !self.http2.load(Ordering::Relaxed) && self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }
}

/// A request that is under way, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Busy {
    /// A request on this connection.
    pub(crate) fn new(activity: &Arc<Activity>, version: Version) -> Self {
        activity.active.fetch_add(1, Ordering::Relaxed);
        activity.http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        activity.head.store(0, Ordering::Relaxed);
        activity.touch();
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All connections of clients.
#[derive(Debug)]
pub(crate) struct Connections {
    all: Mutex<HashMap<u64, Arc<Activity>>>,
    next: AtomicU64,
    clock: Arc<AtomicU32>,
    silences: Silences,
}

/// A connection in the list of all, for as long as it lives: as one of HTTP, and as the tunnel that it became.
#[derive(Debug)]
pub(crate) struct ConnectionEntry {
    connections: Arc<Connections>,
    id: u64,
    /// What is known of it.
    pub(crate) activity: Arc<Activity>,
    /// Its place among those that there is room for.
    _place: OwnedSemaphorePermit,
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        self.connections.all().remove(&self.id);
    }
}

impl Connections {
    /// None yet.
    pub(crate) fn new(silences: Silences) -> Self {
        Self { all: Mutex::default(), next: AtomicU64::new(0), clock: Arc::new(AtomicU32::new(1)), silences }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of connections.
    pub(crate) fn count(&self) -> usize {
        self.all().len()
    }

    /// Enters a connection, which is closed when `front` is; `is_stream`: it is of a port of a Service.
    pub(crate) fn enter(
        self: &Arc<Self>,
        front: &CancellationToken,
        place: OwnedSemaphorePermit,
        is_stream: bool,
    ) -> ConnectionEntry {
        let Silences { within, stream, .. } = self.silences;
        let activity = Arc::new(Activity {
            last: AtomicU32::new(self.clock.load(Ordering::Relaxed)),
            active: AtomicU32::new(0),
            head: AtomicU32::new(self.clock.load(Ordering::Relaxed)),
            http2: AtomicBool::new(false),
            within: if is_stream { stream } else { within },
            clock: Arc::clone(&self.clock),
            stop: front.child_token(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.all().insert(id, Arc::clone(&activity));
        ConnectionEntry { connections: Arc::clone(self), id, activity, _place: place }
    }

    /// A second has passed: closes what was silent for too long.
    pub(crate) fn second(&self, is_crowded: bool) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        for activity in self.all().values() {
            let silent = now.saturating_sub(activity.last.load(Ordering::Relaxed));
            let head = activity.head.load(Ordering::Relaxed);
            let (waited, limit) = if activity.is_busy() {
                (silent, activity.within)
            } else if head > 0 {
                (now.saturating_sub(head), self.silences.head)
            } else if is_crowded {
                (silent, self.silences.crowded)
            } else {
                (silent, self.silences.between)
            };
            if waited > limit {
                activity.stop.cancel();
            }
        }
    }
}

/// A client's socket: what passes is noted.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// The socket of the connection.
    pub(crate) fn new(inner: S, activity: &Arc<Activity>) -> Self {
        Self { inner, activity: Arc::clone(activity) }
    }

    fn written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.activity.passed();
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.activity.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
