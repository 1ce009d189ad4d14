//! One connection of a channel to qemu's socket: reading, writing, and its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::receiver::{Receiver, blocking};
use super::state::{Link, OUT_BYTES, Shared};
use crate::cloud::local::link::guest::Guest;
use crate::cloud::local::machine::qemu;
use crate::cloud::local::socket;

/// How long qemu may take to make the socket.
const QEMU_START: Duration = Duration::from_secs(30);

/// How long a connection that ended waits for the report that its machine has ended too, before it counts as a failure.
const LINGER: Duration = Duration::from_secs(2);

/// How long the last lines of a machine that is gone are read: its process has ended, so that they are in the socket.
const DRAIN: Duration = Duration::from_secs(10);

/// How many bytes are read of the socket at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// Makes one connection and serves it to its end. An error is a reason to make another one.
pub(super) async fn run(
    guest: Arc<Guest>,
    shared: Arc<Shared>,
    gone: CancellationToken,
) -> Result<(), String> {
    let ended = match connect(&guest, &gone).await {
        Ok(Some(socket)) => carry(&guest, &shared, socket, &gone).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let failed = match ended {
        Err(error) if !gone.is_cancelled() => error.to_string(),
        _ => {
            shared.lock().disconnected(Link::Ended);
            return Ok(());
        }
    };
    shared.lock().disconnected(Link::Lost(failed.clone()));
    tokio::select! {
        () = tokio::time::sleep(LINGER) => Err(failed),
        () = gone.cancelled() => {
            shared.lock().disconnected(Link::Ended);
            Ok(())
        }
    }
}

/// Connects to qemu. Nothing when the machine is gone before that.
async fn connect(guest: &Guest, gone: &CancellationToken) -> io::Result<Option<UnixStream>> {
    let deadline = Instant::now() + QEMU_START;
    loop {
        match socket::connect(&guest.folder, qemu::CONTROL).await {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = gone.cancelled() => return Ok(None),
        }
    }
}

/// Reads and writes until the machine is gone or the connection is.
async fn carry(
    guest: &Arc<Guest>,
    shared: &Arc<Shared>,
    socket: UnixStream,
    gone: &CancellationToken,
) -> io::Result<()> {
    let (opened, state) = (Arc::clone(guest), Arc::clone(shared));
    let mut receiver = blocking(move || Receiver::begin(&opened, state)).await?;
    let (reader, mut writer) = socket.into_split();
    let (mut out, mut written) = (Vec::new(), 0);
    let mut deadline: Option<Instant> = None;
    let mut failed = None;
    loop {
        if written == out.len() || failed.is_some() {
            (out, written) = (std::mem::take(&mut shared.lock().out), 0);
        }
        let has_room = shared.lock().out.len() <= OUT_BYTES;
        if has_room && receiver.has_more {
            receiver = receiver.receive(Vec::new()).await?;
            continue;
        }
        let never = Instant::now() + Duration::from_hours(24);
        let retry = receiver.retry_at();
        let has_output = written < out.len() && failed.is_none();
        tokio::select! {
            ready = reader.readable(), if has_room => {
                // Room is taken when there is something to read: most guests are silent most of the time.
                let mut bytes = Vec::with_capacity(CHUNK);
                match ready.and_then(|()| reader.try_read_buf(&mut bytes)) {
                    Ok(length) if length > 0 => receiver = receiver.receive(bytes).await?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    ended => {
                        receiver.finish().await?;
                        return Err(of_qemu(ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())));
                    }
                }
            },
            length = writer.write(&out[written..]), if has_output => match length {
                Ok(length) => written += length,
                // A machine that has ended reads no more, and its last lines are still to be read.
                Err(error) => {
                    failed = Some(error);
                    deadline.get_or_insert_with(|| Instant::now() + DRAIN);
                }
            },
            () = shared.wake.notified(), if !has_output => {}
            () = sleep_until(retry.unwrap_or(never)), if retry.is_some() && has_room => {
                receiver = receiver.retry().await?;
            }
            // The machine is gone. Lines that are in the socket are kept all the same.
            () = gone.cancelled(), if deadline.is_none() => deadline = Some(Instant::now() + DRAIN),
            () = sleep_until(deadline.unwrap_or(never)), if deadline.is_some() => {
                receiver.finish().await?;
                return failed.map_or(Ok(()), |error| Err(of_qemu(error)));
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the adapter of map_err")]
fn of_qemu(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the connection to qemu is over: {error}"))
}
