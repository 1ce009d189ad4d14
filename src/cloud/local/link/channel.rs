//! The host's end of a guest's control channel: one supervised task a machine owns the socket, keeps the lines that the
//! guest sends, and connects the tool's commands to the guest's streams.
//!
//! qemu keeps the socket open whoever connects, and the guest sends again what a process that died may not have kept.
//! A supervisor that dies inside the guest is noticed by its successor's hello; then this side sends again what that
//! one may not have received.
//!
//! The guest may be hostile: what waits for it and for the tool is bounded, whatever it sends and whatever it does not
//! read.

mod receiver;
mod refusal;
mod state;
mod stream;
mod transport;

use std::sync::Arc;

use i2kit_spec::control::{Message, Open};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::refusal::{Refusal, too_long};
use self::state::Shared;
use super::guest::Guest;
use crate::cloud::local::supervise::supervise;

/// The control channel of a guest, for those who run something in it.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    shared: Arc<Shared>,
}

/// A stream of a channel. Dropping it ends what it leads to.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: u32,
    shared: Arc<Shared>,
    /// Messages of the guest, bounded by the windows of the stream.
    pub(crate) messages: mpsc::UnboundedReceiver<Message>,
}

impl Channel {
    /// Opens the channel of a guest, and opens it again however it ends, until `gone` is cancelled.
    pub(crate) fn start(guest: Guest, gone: CancellationToken) -> Self {
        let shared = Arc::<Shared>::default();
        let (task, guest) = (Arc::clone(&shared), Arc::new(guest));
        let (tasks, log) = (Arc::clone(&guest.tasks), Arc::clone(&guest.log));
        let name = format!("channel of {}", guest.id);
        // The last lines of a machine are read after it is gone, so the task ends by itself and is not cancelled.
        tokio::spawn(supervise(tasks, log, name, CancellationToken::new(), move || {
            transport::run(Arc::clone(&guest), Arc::clone(&task), gone.clone())
        }));
        Self { shared }
    }

    pub(crate) fn open(&self, open: Open) -> Result<Connection, Refusal> {
        let (to, messages) = mpsc::unbounded_channel();
        let stream = self.shared.lock().open(open, to)?;
        self.shared.wake.notify_one();
        Ok(Connection { stream, shared: Arc::clone(&self.shared), messages })
    }
}

impl Connection {
    /// Sends a message to the guest. A channel that is gone has ended the stream already.
    pub(crate) fn send(&self, message: Message) {
        self.shared.lock().send_on(self.stream, message);
        self.shared.wake.notify_one();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.lock().close(self.stream);
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
