//! The host's end of a VM's control channel: one task a VM owns the socket, keeps the lines that the guest ships, and
//! connects the tool's commands to the guest's streams.
//!
//! qemu keeps the socket open whoever connects, and the guest says again what a process that died may not have kept. A
//! supervisor that dies inside the VM is noticed by its successor's hello; then this side says again what that one may
//! not have heard.

mod journal;
mod stream;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::time::Duration;

use i2kit_spec::control::{Clock, Decoder, Ended, GuestHello, HostHello, Logged, Message, Open, VERSION};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use self::journal::Journal;
pub(super) use self::journal::{FOLDER, GUEST, runs};
use self::stream::Stream;
use super::{clock, qemu, socket};

/// How long qemu may take to make the socket.
const QEMU_START: Duration = Duration::from_secs(30);

/// How many messages of the tool may wait for the guest.
const ASKS: usize = 64;

/// A VM's control channel, for whoever wants to run something in the VM.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    asks: mpsc::Sender<Ask>,
}

/// What the tool wants of the channel.
#[derive(Debug)]
enum Ask {
    /// Begin a stream whose messages go there.
    Open { open: Open, to: mpsc::UnboundedSender<Message>, number: tokio::sync::oneshot::Sender<u32> },
    /// Say this on a stream.
    Say { stream: u32, message: Message },
}

/// A stream of a channel. Dropping it ends what it leads to.
#[derive(Debug)]
pub(super) struct Connection {
    stream: u32,
    asks: mpsc::Sender<Ask>,
    /// What the guest says. It is bounded by the windows of the stream.
    pub(super) messages: mpsc::UnboundedReceiver<Message>,
}

impl Channel {
    /// Starts to look after the channel of the VM in `folder`. It ends with the VM.
    pub(super) fn start(folder: &Path) -> Self {
        let (asks, receiver) = mpsc::channel(ASKS);
        let folder = folder.to_owned();
        tokio::spawn(async move {
            // Whoever waits for an answer sees that the other end is gone.
            drop(run(&folder, receiver).await);
        });
        Self { asks }
    }

    /// Begins a stream. Nothing when the VM has ended, or has no channel.
    pub(super) async fn open(&self, open: Open) -> Option<Connection> {
        let (to, messages) = mpsc::unbounded_channel();
        let (number, stream) = tokio::sync::oneshot::channel();
        self.asks.send(Ask::Open { open, to, number }).await.ok()?;
        Some(Connection { stream: stream.await.ok()?, asks: self.asks.clone(), messages })
    }
}

impl Connection {
    /// Says something to the guest.
    pub(super) async fn say(&self, message: Message) {
        // A channel that is gone has ended the stream already.
        let _ = self.asks.send(Ask::Say { stream: self.stream, message }).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (asks, stream) = (self.asks.clone(), self.stream);
        tokio::spawn(async move {
            let _ = asks.send(Ask::Say { stream, message: Message::Close { stream } }).await;
        });
    }
}

async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let given_up = tokio::time::Instant::now() + QEMU_START;
    loop {
        match socket::connect(folder, qemu::CONTROL).await {
            Err(_) if tokio::time::Instant::now() < given_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            connected => return connected,
        }
    }
}

async fn run(folder: &Path, mut asks: mpsc::Receiver<Ask>) -> io::Result<()> {
    let (mut reader, mut writer) = connect(folder).await?.into_split();
    let mut state = State {
        // Streams of a process that is gone must not be taken for ours.
        epoch: RandomState::new().hash_one(std::process::id()),
        journal: Journal::open(folder)?,
        streams: BTreeMap::new(),
        next: 1,
        out: Vec::new(),
    };
    state.hello(false);
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut out = std::mem::take(&mut state.out);
        if !out.is_empty() {
            writer.write_all(&out).await?;
            out.clear();
            state.out = out;
        }
        tokio::select! {
            length = reader.read(&mut buffer) => {
                match length? {
                    0 => break,
                    length => decoder.push(&buffer[..length]),
                }
                for message in decoder.by_ref() {
                    state.hear(message)?;
                }
            }
            ask = asks.recv() => match ask {
                Some(ask) => state.ask(ask),
                // Nobody can ask any more; lines still come.
                None => break,
            }
        }
    }
    // The VM may have been forgotten before it ended: its last lines are kept all the same.
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            length => decoder.push(&buffer[..length]),
        }
        for message in decoder.by_ref() {
            state.hear(message)?;
        }
        let out = std::mem::take(&mut state.out);
        writer.write_all(&out).await?;
    }
}

/// What the task knows.
#[derive(Debug)]
struct State {
    epoch: u64,
    journal: Journal,
    streams: BTreeMap<u32, Stream>,
    next: u32,
    /// What is to be written.
    out: Vec<u8>,
}

impl State {
    fn say(&mut self, message: &Message) {
        message.encode(&mut self.out);
    }

    fn hello(&mut self, answer: bool) {
        let logged = self.journal.logged();
        self.say(&Message::HostHello(HostHello { version: VERSION, epoch: self.epoch, answer, logged }));
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Open { open, to, number } => {
                let stream = self.next;
                self.next += 1;
                self.say(&Message::Open { stream, open: open.clone() });
                self.streams.insert(stream, Stream::new(open, to));
                // Whoever asked may be gone; then its end of the stream goes as well, and the stream is closed.
                if number.send(stream).is_err() {
                    self.close(stream);
                }
            }
            Ask::Say { stream, message: Message::Close { .. } } => self.close(stream),
            Ask::Say { stream, message } => {
                if let Some(found) = self.streams.get_mut(&stream)
                    && let Some(message) = found.say(stream, message)
                {
                    self.say(&message);
                }
            }
        }
    }

    fn close(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.say(&Message::Close { stream });
        }
    }

    fn hear(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::GuestHello(hello) => self.greeted(&hello),
            Message::Log { head, lines } => {
                let next = self.journal.keep(&head, &lines)?;
                let bytes = lines.len() as u64;
                self.say(&Message::Logged(Logged {
                    container: head.container,
                    next,
                    bytes,
                    dropped: head.dropped,
                }));
            }
            Message::Ended { stream, ended } => {
                if let Some(found) = self.streams.remove(&stream) {
                    found.tell(Message::Ended { stream: 0, ended });
                }
                // Also when it was closed already: the guest keeps it until it hears this.
                self.say(&Message::Close { stream });
            }
            Message::Data { stream, end, offset, bytes } => {
                if let Some(found) = self.streams.get_mut(&stream)
                    && let Some(credit) = found.data(stream, end, offset, bytes)
                {
                    self.say(&credit);
                }
            }
            Message::Credit { stream, end, taken } => {
                if let Some(found) = self.streams.get_mut(&stream) {
                    found.credit(end, taken);
                }
            }
            Message::Clock(Clock { asked, .. }) => {
                self.say(&Message::Clock(Clock { asked, now: clock::nanoseconds() }));
            }
            _ => {}
        }
        Ok(())
    }

    /// Somebody new speaks for the guest, or answers us: what it does not know is said again.
    fn greeted(&mut self, hello: &GuestHello) {
        if !hello.answer {
            self.hello(true);
        }
        if hello.version != VERSION {
            let error = format!(
                "the guest speaks version {} of the control channel and this program version {VERSION}; deploy again \
                 to give the VM the guest of this program",
                hello.version
            );
            for (_, stream) in std::mem::take(&mut self.streams) {
                stream
                    .tell(Message::Ended { stream: 0, ended: Ended { code: 1, error: Some(error.clone()) } });
            }
            return;
        }
        for state in &hello.streams {
            if !self.streams.contains_key(&state.stream) {
                self.say(&Message::Close { stream: state.stream });
            }
        }
        let mut again = vec![];
        for (number, stream) in &self.streams {
            let known = hello.streams.iter().find(|state| state.stream == *number);
            again.extend(stream.again(*number, known.map(|state| state.input)));
        }
        for message in again {
            self.say(&message);
        }
    }
}

#[cfg(test)]
mod tests;
