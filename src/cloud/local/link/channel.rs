//! The host's end of a VM's control channel: one supervised task a VM owns the socket, keeps the lines that the guest
//! ships, and connects the tool's commands to the guest's streams.
//!
//! qemu keeps the socket open whoever connects, and the guest says again what a process that died may not have kept. A
//! supervisor that dies inside the VM is noticed by its successor's hello; then this side says again what that one may
//! not have heard.
//!
//! The guest may be hostile: what waits for it and for the tool is bounded, whatever it sends and whatever it does not
//! read. Frames are decoded, and lines are written, on threads for blocking work.

mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use i2kit_spec::control::{
    Clock, Decoder, Ended, GuestHello, HostHello, Logged, Message, Open, TooLong, VERSION, WINDOW,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::stream::{Overrun, Stream};
use super::log_writer::LogWriter;
use crate::cloud::local::log::Log;
use crate::cloud::local::machine::qemu;
use crate::cloud::local::supervise::{Tasks, supervise};
use crate::cloud::local::{clock, exec, socket};

/// How long qemu may take to make the socket.
const QEMU_START: Duration = Duration::from_secs(30);

/// How long a channel that ended waits for the news that its VM has ended too, before that is called a failure.
const LINGER: Duration = Duration::from_secs(2);

/// How long the last lines of a VM that is gone are read: its process has ended, so that what it said is there already.
const DRAIN: Duration = Duration::from_secs(10);

/// How much is read of the socket at once.
const CHUNK: usize = 64 * 1024;

/// How many bytes may wait for the guest before nothing more is heard of it: its questions have answers, and who does not
/// read these gets no more of them. On top come the answers to one message.
const OUT_BYTES: usize = 256 * 1024;

/// How many streams a VM may have, as many as its guest begins.
const STREAMS: usize = 64;

/// What a channel belongs to.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The VM.
    pub(crate) id: String,
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// The names of its pod's containers.
    pub(crate) containers: BTreeSet<String>,
    /// Where failures are shown.
    pub(crate) tasks: Arc<Tasks>,
    /// Where they are told.
    pub(crate) log: Arc<Log>,
}

/// A VM's control channel, for whoever wants to run something in the VM.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    shared: Arc<Shared>,
}

/// A stream of a channel. Dropping it ends what it leads to.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: u32,
    shared: Arc<Shared>,
    /// What the guest says. It is bounded by the windows of the stream.
    pub(crate) messages: mpsc::UnboundedReceiver<Message>,
}

/// Why a stream was not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The VM has ended.
    Ended,
    /// The channel failed and is opened again.
    Lost(String),
    /// The VM has as many streams as it may have.
    Many,
    /// What is to be run does not fit into a message.
    Long(TooLong),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the VM does not run"),
            Self::Lost(reason) => write!(
                f,
                "its control channel was lost and is being opened again ({reason}); run the command again in a moment"
            ),
            Self::Many => write!(f, "{STREAMS} commands run in it already; end one of them first"),
            Self::Long(long) => write!(f, "{}", exec::too_long(*long)),
        }
    }
}

impl Channel {
    /// Starts to look after the channel of a VM, until `gone` is cancelled. Until then it is opened again however it ends.
    pub(crate) fn start(machine: Machine, gone: CancellationToken) -> Self {
        let shared = Arc::<Shared>::default();
        let (task, machine) = (Arc::clone(&shared), Arc::new(machine));
        let (tasks, log) = (Arc::clone(&machine.tasks), Arc::clone(&machine.log));
        let name = format!("channel of {}", machine.id);
        // What a VM said last is read after it is gone, so the task ends by itself and is not cancelled.
        tokio::spawn(supervise(tasks, log, name, CancellationToken::new(), move || {
            run(Arc::clone(&machine), Arc::clone(&task), gone.clone())
        }));
        Self { shared }
    }

    /// Begins a stream.
    pub(crate) fn open(&self, open: Open) -> Result<Connection, Refusal> {
        let (to, messages) = mpsc::unbounded_channel();
        let stream = self.shared.lock().open(open, to)?;
        self.shared.wake.notify_one();
        Ok(Connection { stream, shared: Arc::clone(&self.shared), messages })
    }
}

impl Connection {
    /// Says something to the guest. A channel that is gone has ended the stream already.
    pub(crate) fn say(&self, message: Message) {
        self.shared.lock().say_on(self.stream, message);
        self.shared.wake.notify_one();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.lock().close(self.stream);
        self.shared.wake.notify_one();
    }
}

/// What the task of a channel has in common with those that use it. Nobody waits while it is locked.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when there is something to write.
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Link {
    /// qemu has not been reached yet. Streams are begun when it is.
    #[default]
    Opening,
    Open,
    /// It failed, of this, and is opened again.
    Lost(String),
    /// The VM is gone.
    Ended,
}

#[derive(Debug, Default)]
struct State {
    link: Link,
    /// Tells streams of a connection from those of an earlier one, which must not be taken for them.
    epoch: u64,
    streams: BTreeMap<u32, Stream>,
    last: u32,
    /// What is to be written.
    out: Vec<u8>,
    /// The guest is of a program that does not say when a stream has begun.
    begins_in_silence: bool,
}

impl State {
    fn say(&mut self, message: &Message) {
        // What comes from outside was bounded when it came in.
        let _ = message.encode(&mut self.out);
    }

    fn open(&mut self, open: Open, to: mpsc::UnboundedSender<Message>) -> Result<u32, Refusal> {
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

    fn say_on(&mut self, stream: u32, message: Message) {
        // A guest that does not read gets the size when it says hello again.
        let skipped = matches!(message, Message::Resize { .. }) && self.out.len() > OUT_BYTES;
        match self.streams.get_mut(&stream).map(|found| found.say(stream, message)) {
            Some(Ok(Some(message))) if self.link == Link::Open && !skipped => self.say(&message),
            Some(Err(Overrun)) => self.overrun(stream, "the tool"),
            _ => {}
        }
    }

    fn close(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.say(&Message::Close { stream });
        }
    }

    fn overrun(&mut self, stream: u32, who: &str) {
        if let Some(found) = self.streams.get(&stream) {
            let error = format!("{who} sent more than {WINDOW} bytes ahead, which ends the command");
            found.end(Ended::failed(1, error));
        }
        self.close(stream);
    }

    /// qemu was reached.
    fn connected(&mut self, logged: BTreeMap<String, String>) {
        self.link = Link::Open;
        self.epoch = RandomState::new().hash_one(std::process::id());
        self.out = Vec::new();
        self.hello(false, logged);
        self.again(&[]);
    }

    /// The connection is over, and all streams with it.
    fn disconnected(&mut self, link: Link) {
        self.link = link;
        self.out = Vec::new();
        // Whoever waits for an answer sees that the other end is gone.
        self.streams.clear();
    }

    fn hello(&mut self, answer: bool, logged: BTreeMap<String, String>) {
        let hello = HostHello { version: VERSION, epoch: self.epoch, answer, logged };
        if Message::HostHello(hello.clone()).encode(&mut self.out).is_err() {
            // Of so many containers the guest says all lines again, which does no harm.
            self.say(&Message::HostHello(HostHello { logged: BTreeMap::new(), ..hello }));
        }
    }

    /// Says again what a guest that knows these streams has not taken.
    fn again(&mut self, known: &[i2kit_spec::control::StreamState]) {
        let mut again = vec![];
        for (number, stream) in &self.streams {
            let known = known.iter().find(|state| state.stream == *number);
            again.extend(stream.again(*number, known.map(|state| state.input)));
        }
        for message in again {
            self.say(&message);
        }
    }

    /// Somebody new speaks for the guest, or answers us: what it does not know is said again.
    fn greeted(&mut self, hello: &GuestHello) {
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
                self.say(&Message::Close { stream: state.stream });
            }
        }
        self.again(&hello.streams);
    }
}

/// One connection from its beginning to its end.
async fn run(machine: Arc<Machine>, shared: Arc<Shared>, gone: CancellationToken) -> Result<(), String> {
    let ended = match connect(&machine, &gone).await {
        Ok(Some(socket)) => carry(&machine, &shared, socket, &gone).await,
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

/// Connects to qemu. Nothing when the VM has gone before that.
async fn connect(machine: &Machine, gone: &CancellationToken) -> io::Result<Option<UnixStream>> {
    let given_up = Instant::now() + QEMU_START;
    loop {
        match socket::connect(&machine.folder, qemu::CONTROL).await {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) if Instant::now() > given_up => return Err(error),
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = gone.cancelled() => return Ok(None),
        }
    }
}

/// Carries bytes both ways until the VM is gone or the connection is.
async fn carry(
    machine: &Arc<Machine>,
    shared: &Arc<Shared>,
    socket: UnixStream,
    gone: &CancellationToken,
) -> io::Result<()> {
    let (opened, state) = (Arc::clone(machine), Arc::clone(shared));
    let mut hearing = blocking(move || Hearing::begin(&opened, state)).await?;
    let (mut reader, mut writer) = socket.into_split();
    let mut buffer = vec![0; CHUNK];
    let (mut out, mut written) = (Vec::new(), 0);
    let mut leaving: Option<Instant> = None;
    let mut failed = None;
    loop {
        if written == out.len() || failed.is_some() {
            (out, written) = (std::mem::take(&mut shared.lock().out), 0);
        }
        let has_room = shared.lock().out.len() <= OUT_BYTES;
        if has_room && hearing.has_more {
            hearing = hearing.go_on(Vec::new()).await?;
            continue;
        }
        let never = Instant::now() + Duration::from_hours(24);
        let retry = hearing.lines.retry_at();
        let has_words = written < out.len() && failed.is_none();
        tokio::select! {
            length = reader.read(&mut buffer), if has_room => match length.map_err(of_qemu)? {
                0 => return Err(of_qemu(io::ErrorKind::UnexpectedEof.into())),
                length => hearing = hearing.go_on(buffer[..length].to_vec()).await?,
            },
            length = writer.write(&out[written..]), if has_words => match length {
                Ok(length) => written += length,
                // A VM that has ended hears no more, and what it said last is still to be read.
                Err(error) => {
                    failed = Some(error);
                    leaving.get_or_insert_with(|| Instant::now() + DRAIN);
                }
            },
            () = shared.wake.notified(), if !has_words => {}
            () = sleep_until(retry.unwrap_or(never)), if retry.is_some() && has_room => {
                hearing = hearing.retry().await?;
            }
            // The VM was forgotten. It may have ended with lines in the socket, which are kept all the same.
            () = gone.cancelled(), if leaving.is_none() => leaving = Some(Instant::now() + DRAIN),
            () = sleep_until(leaving.unwrap_or(never)), if leaving.is_some() => {
                return failed.map_or(Ok(()), |error| Err(of_qemu(error)));
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the adapter of map_err")]
fn of_qemu(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the connection to qemu is over: {error}"))
}

/// Does blocking work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// What one connection heard so far.
#[derive(Debug)]
struct Hearing {
    shared: Arc<Shared>,
    decoder: Decoder,
    lines: LogWriter,
    /// There may be whole messages that were not heard yet, because too much waits for the guest.
    has_more: bool,
}

impl Hearing {
    fn begin(machine: &Machine, shared: Arc<Shared>) -> Self {
        let lines = LogWriter::open(machine);
        shared.lock().connected(lines.logged());
        Self { shared, decoder: Decoder::default(), lines, has_more: false }
    }

    async fn go_on(mut self, bytes: Vec<u8>) -> io::Result<Self> {
        blocking(move || {
            self.hear(&bytes);
            self
        })
        .await
    }

    async fn retry(mut self) -> io::Result<Self> {
        blocking(move || {
            self.lines.retry();
            self.shared.lock().hello(false, self.lines.logged());
            self
        })
        .await
    }

    /// Hears what arrived, until too much waits for the guest.
    fn hear(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        loop {
            self.has_more = self.shared.lock().out.len() > OUT_BYTES;
            if self.has_more {
                return;
            }
            let Some(message) = self.decoder.next() else { return };
            self.message(message);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::GuestHello(hello) => {
                self.lines.greeted(hello.answer);
                if !hello.answer {
                    let logged = self.lines.logged();
                    self.shared.lock().hello(true, logged);
                }
                self.shared.lock().greeted(&hello);
            }
            Message::Log { head, lines } => {
                if let Some(next) = self.lines.keep(&head, &lines) {
                    let bytes = lines.len() as u64;
                    let logged = Logged { container: head.container, next, bytes, dropped: head.dropped };
                    self.shared.lock().say(&Message::Logged(logged));
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
                // Also when it was closed already: the guest keeps it until it hears this.
                state.say(&Message::Close { stream });
            }
            Message::Data { stream, end, offset, bytes } => {
                let mut state = self.shared.lock();
                match state.streams.get_mut(&stream).map(|found| found.data(stream, end, offset, bytes)) {
                    Some(Ok(Some(credit))) => state.say(&credit),
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
                self.shared.lock().say(&Message::Clock(Clock { asked, now: clock::nanoseconds() }));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
