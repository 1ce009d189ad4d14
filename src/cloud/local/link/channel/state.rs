//! The state of a channel, without its socket: what messages of tools and of the guest change, and what they lead to.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use i2kit_spec::control::{Ended, GuestHello, HostHello, Message, Open, StreamState, VERSION, WINDOW};
use tokio::sync::{Notify, mpsc};

use super::refusal::{Refusal, STREAMS};
use super::stream::{Overrun, Stream};

/// How many bytes may wait for the guest before nothing more is read from it: its messages have answers, and a guest
/// that does not read these gets no more of them. On top come the answers to one message.
pub(super) const OUT_BYTES: usize = 256 * 1024;

/// What the task of a channel shares with the users of its streams. Nothing waits while it is locked.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<ChannelState>,
    /// Notified when there is something to write.
    pub(super) wake: Notify,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, ChannelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection to qemu.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// Not made yet. Streams are opened when it is.
    #[default]
    Opening,
    Open,
    /// It failed, for this reason, and is made again.
    Lost(String),
    /// The machine is gone.
    Ended,
}

/// A channel: its link, its streams, and what is to be written.
#[derive(Debug, Default)]
pub(super) struct ChannelState {
    pub(super) link: Link,
    /// Random, a connection: streams of an earlier one must not be taken for those of this one.
    pub(super) epoch: u64,
    pub(super) streams: BTreeMap<u32, Stream>,
    last: u32,
    /// Bytes to be written.
    pub(super) out: Vec<u8>,
    /// The guest is of a program that does not report when a stream has begun.
    pub(super) begins_in_silence: bool,
}

impl ChannelState {
    /// Appends a message to what is to be written.
    pub(super) fn send(&mut self, message: &Message) {
        // What comes from outside was bounded when it came in.
        let _ = message.encode(&mut self.out);
    }

    /// Opens a stream whose messages go to `to`. Returns its number.
    pub(super) fn open(&mut self, open: Open, to: mpsc::UnboundedSender<Message>) -> Result<u32, Refusal> {
        match &self.link {
            Link::Ended => return Err(Refusal::Ended),
            Link::Lost(reason) => return Err(Refusal::Lost(reason.clone())),
            Link::Opening | Link::Open => {}
        }
        if self.streams.len() >= STREAMS {
            return Err(Refusal::Many);
        }
        let stream = self.last + 1;
        let mut frame = Vec::new();
        Message::Open { stream, open: open.clone() }.encode(&mut frame).map_err(Refusal::Long)?;
        self.last = stream;
        if self.link == Link::Open {
            self.out.extend(frame);
        }
        let mut begun = Stream::new(open, to);
        if self.begins_in_silence {
            begun.begin();
        }
        self.streams.insert(stream, begun);
        Ok(stream)
    }

    /// Sends a message of the tool on its stream.
    pub(super) fn send_on(&mut self, stream: u32, message: Message) {
        // A guest that does not read gets the size with its next hello.
        let skipped = matches!(message, Message::Resize { .. }) && self.out.len() > OUT_BYTES;
        match self.streams.get_mut(&stream).map(|found| found.tool_message(stream, message)) {
            Some(Ok(Some(message))) if self.link == Link::Open && !skipped => self.send(&message),
            Some(Err(Overrun)) => self.overrun(stream, "the tool"),
            _ => {}
        }
    }

    /// Closes a stream, for both ends.
    pub(super) fn close(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.send(&Message::Close { stream });
        }
    }

    /// Ends a stream on which `who` sent more than the window.
    pub(super) fn overrun(&mut self, stream: u32, who: &str) {
        if let Some(found) = self.streams.get(&stream) {
            let error = format!("{who} sent more than {WINDOW} bytes ahead, which ends the command");
            found.end(Ended::failed(1, error));
        }
        self.close(stream);
    }

    /// The connection is made.
    pub(super) fn connected(&mut self, logged: BTreeMap<String, String>) {
        self.link = Link::Open;
        self.epoch = RandomState::new().hash_one(std::process::id());
        self.out = Vec::new();
        self.hello(false, logged);
        self.resend(&[]);
    }

    /// The connection is over, and all streams with it.
    pub(super) fn disconnected(&mut self, link: Link) {
        self.link = link;
        self.out = Vec::new();
        // Tools see that the other end is gone.
        self.streams.clear();
    }

    /// Sends a hello, with the time of the last kept line of each container.
    pub(super) fn hello(&mut self, answer: bool, logged: BTreeMap<String, String>) {
        let hello = HostHello { version: VERSION, epoch: self.epoch, answer, logged };
        if Message::HostHello(hello.clone()).encode(&mut self.out).is_err() {
            // Of so many containers the guest sends all lines again, which does no harm.
            self.send(&Message::HostHello(HostHello { logged: BTreeMap::new(), ..hello }));
        }
    }

    /// Sends again what a guest that knows these streams has not taken.
    fn resend(&mut self, known: &[StreamState]) {
        let mut again = Vec::new();
        for (number, stream) in &self.streams {
            let known = known.iter().find(|state| state.stream == *number);
            again.extend(stream.resend(*number, known.map(|state| state.input)));
        }
        for message in again {
            self.send(&message);
        }
    }

    /// The guest's supervisor is a new one, or answers: what it does not know is sent again.
    pub(super) fn apply_hello(&mut self, hello: &GuestHello) {
        if hello.version != VERSION {
            let error = format!(
                "the guest speaks version {} of the control channel and this program version {VERSION}; deploy again \
                 to give the VM the guest of this program",
                hello.version
            );
            for (_, stream) in std::mem::take(&mut self.streams) {
                stream.end(Ended::failed(1, error.as_str()));
            }
            return;
        }
        self.begins_in_silence = !hello.credits_open;
        if self.begins_in_silence {
            self.streams.values_mut().for_each(Stream::begin);
        }
        for state in &hello.streams {
            if !self.streams.contains_key(&state.stream) {
                self.send(&Message::Close { stream: state.stream });
            }
        }
        self.resend(&hello.streams);
    }
}
