//! What a connection receives: frames become messages, messages change the channel's state and the logs.

use std::io;
use std::sync::Arc;

use i2kit_spec::control::{Clock, Decoder, Ended, Logged, Message};
use tokio::time::Instant;

use super::state::{OUT_BYTES, Shared};
use super::stream::Overrun;
use crate::cloud::local::clock;
use crate::cloud::local::link::guest::Guest;
use crate::cloud::local::link::log_writer::LogWriter;

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// The messages of one connection. They are decoded, and lines are written, on threads for blocking work.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) shared: Arc<Shared>,
    pub(super) decoder: Decoder,
    pub(super) lines: LogWriter,
    /// There may be whole messages that were not applied yet, because too much waits for the guest.
    pub(super) has_more: bool,
}

impl Receiver {
    /// A connection was made.
    pub(super) fn begin(guest: &Guest, shared: Arc<Shared>) -> Self {
        let lines = LogWriter::open(guest);
        shared.lock().connected(lines.logged());
        Self { shared, decoder: Decoder::default(), lines, has_more: false }
    }

    /// Applies the messages that these bytes complete.
    pub(super) async fn receive(mut self, bytes: Vec<u8>) -> io::Result<Self> {
        blocking(move || {
            self.decode(&bytes);
            self
        })
        .await
    }

    /// When lines that were refused are to be requested again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.lines.retry_at()
    }

    /// Requests lines that were refused again.
    pub(super) async fn retry(mut self) -> io::Result<Self> {
        blocking(move || {
            self.lines.retry();
            self.shared.lock().hello(false, self.lines.logged());
            self
        })
        .await
    }

    /// Keeps what is still held back: the guest is gone, and sends nothing again.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        blocking(move || self.lines.finish()).await
    }

    /// Applies what arrived, until too much waits for the guest.
    pub(super) fn decode(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        loop {
            self.has_more = self.shared.lock().out.len() > OUT_BYTES;
            if self.has_more {
                return;
            }
            let Some(message) = self.decoder.next() else { return };
            self.apply(message);
        }
    }

    fn apply(&mut self, message: Message) {
        match message {
            Message::GuestHello(hello) => {
                // An answer to an earlier process says nothing of what this one keeps.
                let is_late =
                    hello.answer && hello.answers.is_some_and(|epoch| epoch != self.shared.lock().epoch);
                if !is_late {
                    self.lines.resume(hello.answer);
                }
                if !hello.answer {
                    let logged = self.lines.logged();
                    self.shared.lock().hello(true, logged);
                }
                self.shared.lock().apply_hello(&hello);
            }
            Message::Log { head, lines } => {
                if let Some(next) = self.lines.keep(&head, &lines) {
                    let bytes = lines.len() as u64;
                    let logged = Logged { container: head.container, next, bytes, dropped: head.dropped };
                    self.shared.lock().send(&Message::Logged(logged));
                }
            }
            Message::Ended { stream, ended } => {
                let mut state = self.shared.lock();
                if let Some(found) = state.streams.remove(&stream) {
                    found.end(match ended.error {
                        Some(error) => Ended::failed(ended.code, error),
                        None => ended,
                    });
                }
                // Also when it was closed already: the guest keeps the stream until it gets this.
                state.send(&Message::Close { stream });
            }
            Message::Data { stream, end, offset, bytes } => {
                let mut state = self.shared.lock();
                match state.streams.get_mut(&stream).map(|found| found.guest_data(stream, end, offset, bytes))
                {
                    Some(Ok(Some(credit))) => state.send(&credit),
                    Some(Err(Overrun)) => state.overrun(stream, "the guest"),
                    _ => {}
                }
            }
            Message::Credit { stream, taken, .. } => {
                if let Some(found) = self.shared.lock().streams.get_mut(&stream) {
                    found.credit(taken);
                }
            }
            Message::Clock(Clock { asked, .. }) => {
                self.shared.lock().send(&Message::Clock(Clock { asked, now: clock::nanoseconds() }));
            }
            _ => {}
        }
    }
}
