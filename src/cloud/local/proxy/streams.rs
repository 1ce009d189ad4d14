//! Connections of HTTP/2 to the ports of machines, which requests share: streams, and how many the machine takes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedSemaphorePermit, watch};

use super::outgoing::{RequestBody, Unanswered};

/// A machine of this host accepts at once or not at all.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// How long a request waits for a stream of HTTP/2 to a machine: for a place and for one connection after the other.
pub(super) const STREAM: Duration = Duration::from_secs(10);

/// How often a new connection of HTTP/2 is looked at for the machine's settings.
const SETTINGS_LOOK: Duration = Duration::from_millis(1);

/// The same, where they are known: a machine may change them.
const SETTINGS_RELOOK: Duration = Duration::from_secs(1);

/// Bytes of a stream of HTTP/2 that may be under way to the proxy.
pub(super) const WINDOW: u32 = 1 << 20;

/// A connection of HTTP/2 to a machine, which requests share.
#[derive(Debug)]
pub(super) struct Shared {
    sender: http2::SendRequest<RequestBody>,
    pub(super) used: Arc<Used>,
    /// The streams that the machine takes on it (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    most: watch::Receiver<usize>,
}

/// What requests know of the connection that they share.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) streams: AtomicUsize,
    /// Whether it broke off under a request.
    pub(super) broken: AtomicBool,
}

/// A request's stream on a shared connection.
#[derive(Debug)]
pub(super) struct Stream(pub(super) Arc<Used>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn has_ended(&self) -> bool {
        self.sender.is_closed() || self.used.broken.load(Ordering::Relaxed)
    }

    /// A stream, unless the machine takes no further one. Under the lock of the server's list.
    fn stream(&self) -> Option<(http2::SendRequest<RequestBody>, Stream)> {
        if self.has_ended() || self.used.streams.load(Ordering::Relaxed) >= *self.most.borrow() {
            return None;
        }
        self.used.streams.fetch_add(1, Ordering::Relaxed);
        Some((self.sender.clone(), Stream(Arc::clone(&self.used))))
    }
}

/// A stream on a connection of HTTP/2, on another one where those that there are have none left; whether the connection
/// was there before. The place, and what the next one is made of, are waited for where there is need of another.
pub(super) async fn shared_stream(
    all: &Mutex<Vec<Shared>>,
    place: impl Future<Output = Result<OwnedSemaphorePermit, Unanswered>>,
    connection: impl Future<Output = io::Result<TokioIo<TcpStream>>>,
) -> Result<(http2::SendRequest<RequestBody>, Stream, bool), Unanswered> {
    let free = |shared: &[Shared]| shared.iter().find_map(Shared::stream);
    if let Some((sender, stream)) = free(&all.lock().await) {
        return Ok((sender, stream, true));
    }
    let place = place.await?;
    let mut shared = all.lock().await;
    if let Some((sender, stream)) = free(&shared) {
        return Ok((sender, stream, true));
    }
    let connection = connect_shared(connection, place).await?;
    let (sender, stream) = connection.stream().ok_or(Unanswered::Unreached)?;
    shared.retain(|connection| !connection.has_ended());
    shared.push(connection);
    Ok((sender, stream, false))
}

/// Connects, and waits until the machine has sent how many streams it takes.
async fn connect_shared(
    connection: impl Future<Output = io::Result<TokioIo<TcpStream>>>,
    place: OwnedSemaphorePermit,
) -> Result<Shared, Unanswered> {
    let stream = connection.await.map_err(|_| Unanswered::Unreached)?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_header_list_size(64 * 1024)
        // None before its settings are known: further requests would wait inside the connection.
        .initial_max_send_streams(0)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW);
    let (sender, driver) = builder.handshake(stream).await.map_err(|_| Unanswered::Unreached)?;
    let (limit, mut most) = watch::channel(0);
    tokio::spawn(async move {
        let mut driver = std::pin::pin!(driver);
        loop {
            let pause = if *limit.borrow() == 0 { SETTINGS_LOOK } else { SETTINGS_RELOOK };
            tokio::select! {
                _ = &mut driver => break,
                () = tokio::time::sleep(pause) => {}
            }
            let now = driver.current_max_send_streams();
            limit.send_if_modified(|most| std::mem::replace(most, now) != now);
        }
        drop(place);
    });
    let known = tokio::time::timeout(CONNECT, most.wait_for(|most| *most > 0)).await;
    known.ok().and_then(|known| known.ok().map(drop)).ok_or(Unanswered::Unreached)?;
    Ok(Shared { sender, used: Arc::default(), most })
}
