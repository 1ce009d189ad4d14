//! The channel against a guest that is a socket.

use std::fs;
use std::path::Path;

use i2kit_spec::control::{
    Decoder, End, Ended, GuestHello, HostHello, LogHead, StreamState, VERSION, WINDOW,
};
use tokio::net::{UnixListener, UnixStream};

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::refusal::STREAMS;
use super::*;
use crate::cloud::local::link::journal::FOLDER;
use crate::cloud::local::log::Log;
use crate::cloud::local::machine::qemu;
use crate::cloud::local::socket;
use crate::cloud::local::supervise::Tasks;

/// The guest's end.
struct Peer {
    stream: UnixStream,
    decoder: Decoder,
}

impl Peer {
    async fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next message that is such a one.
    async fn hear_such(&mut self, is_such: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.hear().await;
            if is_such(&message) {
                return message;
            }
        }
    }

    async fn hear(&mut self) -> Message {
        loop {
            if let Some(message) = self.decoder.next() {
                return message;
            }
            let mut buffer = [0; 4096];
            let length = self.stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "the channel was closed");
            self.decoder.push(&buffer[..length]);
        }
    }
}

impl Peer {
    /// Answers the host's hello, which it returns.
    async fn greet(&mut self) -> HostHello {
        let Message::HostHello(hello) = self.hear().await else { panic!("a hello comes first") };
        let answer = GuestHello {
            version: VERSION,
            answer: true,
            answers: Some(hello.epoch),
            ..GuestHello::default()
        };
        self.say(&Message::GuestHello(answer)).await;
        hello
    }

    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        Self { stream, decoder: Decoder::default() }
    }
}

/// The channel of a VM in `folder`, with the container `web`, until the token is cancelled.
pub(super) fn start(folder: &Path) -> (Channel, Arc<Tasks>, CancellationToken) {
    let log = Arc::new(Log::open(&folder.join("cloud.log")).unwrap());
    let (tasks, gone) = (Arc::<Tasks>::default(), CancellationToken::new());
    let guest = Guest {
        id: "web-1-a".into(),
        folder: folder.into(),
        containers: BTreeSet::from(["web".to_owned()]),
        tasks: Arc::clone(&tasks),
        log,
    };
    (Channel::start(guest, gone.clone()), tasks, gone)
}

async fn channel(folder: &Path) -> (Channel, Peer) {
    let listener = socket::listen(folder, qemu::CONTROL).unwrap();
    let (channel, ..) = start(folder);
    (channel, Peer::accept(&listener).await)
}

/// Looks again and again until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn log(first: u64, lines: &str) -> Message {
    let head = LogHead { container: "web".into(), run: 0, first, dropped: 0 };
    Message::Log { head, lines: lines.into() }
}

#[tokio::test]
async fn lines_are_kept_once_whoever_connects() {
    let root = tempfile::tempdir().unwrap();
    let (first, mut guest) = channel(root.path()).await;
    let hello = guest.greet().await;
    assert!(!hello.answer && hello.logged.is_empty());
    guest.say(&log(0, "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:00.2Z stdout F two\n")).await;
    assert!(matches!(guest.hear().await, Message::Logged(logged) if logged.next == 2));
    drop((first, guest));
    let path = root.path().join(FOLDER).join("web/0.log");
    // The process was killed in the middle of a line.
    fs::write(&path, fs::read_to_string(&path).unwrap() + "2026-01-01T00:00:00.3Z stdo").unwrap();
    let (_second, mut guest) = channel(root.path()).await;
    // The guest sends on what it wrote, and the third line went with the process, before it gets the hello; so does its
    // answer to that process.
    let late = "2026-01-01T00:00:00.4Z stdout F four\n";
    guest.say(&log(3, late)).await;
    let old = GuestHello { version: VERSION, answer: true, answers: Some(1), ..GuestHello::default() };
    guest.say(&Message::GuestHello(old)).await;
    guest.say(&log(3, late)).await;
    assert_eq!(guest.greet().await.logged["web"], "2026-01-01T00:00:00.2Z");
    guest.say(&log(1, "2026-01-01T00:00:00.2Z stdout F two\n2026-01-01T00:00:00.3Z stdout F three\n")).await;
    assert!(matches!(guest.hear().await, Message::Logged(logged) if logged.next == 3));
    let texts = fs::read_to_string(&path).unwrap();
    let texts: Vec<&str> = texts.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
}

#[tokio::test]
async fn lines_of_a_guest_that_is_gone_before_it_answers_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let (_channel, mut guest) = channel(root.path()).await;
    let line = "2026-01-01T00:00:00.1Z stdout F one\n";
    guest.say(&log(0, line)).await;
    drop(guest);
    let path = root.path().join(FOLDER).join("web/0.log");
    until(|| fs::read_to_string(&path).is_ok_and(|text| text == line)).await;
}

#[tokio::test]
async fn what_a_supervisor_may_not_have_heard_is_said_again() {
    let root = tempfile::tempdir().unwrap();
    let (channel, mut guest) = channel(root.path()).await;
    guest.hear().await;
    let mut connection = channel.open(Open { command: vec!["cat".into()], ..Open::default() }).unwrap();
    let Message::Open { stream, .. } = guest.hear().await else { panic!("the stream is opened") };
    let input =
        |offset: u64, bytes: &[u8]| Message::Data { stream, end: End::Input, offset, bytes: bytes.into() };
    connection.send(Message::Data { stream: 0, end: End::Input, offset: 0, bytes: b"hello".into() });
    assert_eq!(guest.hear().await, input(0, b"hello"));
    let output =
        |offset: u64, bytes: &[u8]| Message::Data { stream, end: End::Output, offset, bytes: bytes.into() };
    guest.say(&output(0, b"hel")).await;
    let at_tool = |offset: u64, bytes: &[u8]| Message::Data {
        stream: 0,
        end: End::Output,
        offset,
        bytes: bytes.into(),
    };
    assert_eq!(connection.messages.recv().await.unwrap(), at_tool(0, b"hel"));

    // Another supervisor speaks, and PID 1 has taken two bytes; a stream that nobody knows is closed.
    let streams = vec![StreamState { stream, input: 2 }, StreamState { stream: 99, input: 0 }];
    guest.say(&Message::GuestHello(GuestHello { version: VERSION, streams, ..GuestHello::default() })).await;
    assert!(matches!(guest.hear().await, Message::HostHello(hello) if hello.answer));
    assert_eq!(guest.hear().await, Message::Close { stream: 99 });
    assert_eq!(guest.hear().await, input(2, b"llo"));
    guest.say(&output(0, b"hello")).await;
    assert_eq!(connection.messages.recv().await.unwrap(), at_tool(3, b"lo"));
    guest.say(&Message::Ended { stream, ended: Ended { code: 3, error: None } }).await;
    assert!(
        matches!(connection.messages.recv().await, Some(Message::Ended { ended, .. }) if ended.code == 3)
    );
}

#[tokio::test]
async fn a_guest_writes_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("machine");
    std::fs::create_dir(&root).unwrap();
    let (_channel, mut guest) = channel(&root).await;
    guest.greet().await;
    for name in ["../../x".to_owned(), "x/y".to_owned(), "\0".to_owned(), "a".repeat(300)] {
        let head = LogHead { container: name.clone(), ..LogHead::default() };
        guest.say(&Message::Log { head, lines: b"2026 stdout F x\n".to_vec() }).await;
        // Acknowledged, so that nothing waits for it.
        assert!(matches!(guest.hear().await, Message::Logged(logged) if logged.container == name));
    }
    assert!(!root.join("x").exists() && !outside.path().join("x").exists());
    assert_eq!(fs::read_dir(root.join(FOLDER)).unwrap().count(), 0);
    // The channel goes on.
    guest.say(&log(0, "2026-01-01T00:00:00.1Z stdout F one\n")).await;
    assert!(matches!(guest.hear().await, Message::Logged(logged) if logged.next == 1));
    let told = crate::cloud::local::log::with(&root.join("cloud.log"), "its pod does not have");
    assert_eq!(told.matches("its pod does not have").count(), 1, "{told}");
}

#[tokio::test]
async fn a_write_that_fails_ends_nothing_and_lines_come_again() {
    let root = tempfile::tempdir().unwrap();
    let listener = socket::listen(root.path(), qemu::CONTROL).unwrap();
    let (channel, tasks, _gone) = start(root.path());
    let mut guest = Peer::accept(&listener).await;
    guest.hear().await;
    guest
        .say(&Message::GuestHello(GuestHello { version: VERSION, answer: true, ..GuestHello::default() }))
        .await;
    // Nothing can be written below a file.
    let folder = root.path().join(FOLDER).join("web");
    fs::write(&folder, "").unwrap();
    let lines = ["2026-01-01T00:00:00.1Z stdout F one\n", "2026-01-01T00:00:00.2Z stdout F two\n"];
    guest.say(&log(0, lines[0])).await;
    until(|| tasks.failing().iter().any(|task| task.starts_with("logs of web-1-a: "))).await;
    // There is room again, but a line that follows one that is missing is not kept before it.
    fs::remove_file(&folder).unwrap();
    guest.say(&log(1, lines[1])).await;
    // Commands go on meanwhile.
    drop(channel.open(Open::default()).unwrap());
    guest.hear_such(|message| matches!(message, Message::Open { .. })).await;
    // The guest is asked to say again what is not kept.
    let hello = guest.hear_such(|message| matches!(message, Message::HostHello(_))).await;
    assert!(matches!(hello, Message::HostHello(hello) if !hello.answer && hello.logged.is_empty()));
    guest
        .say(&Message::GuestHello(GuestHello { version: VERSION, answer: true, ..GuestHello::default() }))
        .await;
    guest.say(&log(0, &lines.concat())).await;
    let logged = guest.hear_such(|message| matches!(message, Message::Logged(_))).await;
    assert!(matches!(logged, Message::Logged(logged) if logged.next == 2), "what came first was refused");
    assert_eq!(fs::read_to_string(folder.join("0.log")).unwrap(), lines.concat());
    until(|| tasks.failing().is_empty()).await;
    let told = crate::cloud::local::log::with(&root.path().join("cloud.log"), "cannot be written");
    assert_eq!(told.matches("cannot be written").count(), 1, "{told}");
}

#[tokio::test]
async fn a_channel_that_ended_is_opened_again_while_its_vm_lives() {
    let root = tempfile::tempdir().unwrap();
    let listener = socket::listen(root.path(), qemu::CONTROL).unwrap();
    let (channel, tasks, gone) = start(root.path());
    let mut guest = Peer::accept(&listener).await;
    let Message::HostHello(first) = guest.hear().await else { panic!("a hello comes first") };
    let mut connection = channel.open(Open::default()).unwrap();
    drop(guest);
    // Whoever waits for a command sees that it is gone; who begins one hears why there is none.
    assert_eq!(connection.messages.recv().await, None);
    let refusal = channel.open(Open::default()).unwrap_err();
    assert!(matches!(&refusal, Refusal::Lost(reason) if reason.contains("qemu")), "{refusal:?}");
    assert!(refusal.to_string().contains("opened again"), "{refusal}");
    until(|| tasks.failing().iter().any(|task| task.starts_with("channel of web-1-a: "))).await;
    let mut guest = Peer::accept(&listener).await;
    let Message::HostHello(second) = guest.hear().await else { panic!("a hello comes first") };
    assert_ne!(first.epoch, second.epoch, "the guest ends what the last connection began");
    until(|| channel.open(Open::default()).is_ok()).await;
    assert!(matches!(guest.hear().await, Message::Open { .. }));

    // The VM is gone: what it said last is kept, and nobody is told of a failure.
    gone.cancel();
    guest.say(&log(0, "2026-01-01T00:00:00.1Z stdout F last\n")).await;
    drop(guest);
    until(|| channel.open(Open::default()).is_err_and(|refusal| refusal == Refusal::Ended)).await;
    assert!(fs::read_to_string(root.path().join(FOLDER).join("web/0.log")).unwrap().ends_with("last\n"));
    until(|| tasks.failing().is_empty()).await;
}

#[tokio::test]
async fn a_guest_that_does_not_read_stops_nobody_else() {
    let root = tempfile::tempdir().unwrap();
    let (channel, mut guest) = channel(root.path()).await;
    guest.hear().await;
    // Far more than the socket takes: each of them returns at once all the same.
    let arguments = || Open { command: vec!["x".repeat(60 * 1024)], ..Open::default() };
    let mut connections: Vec<Connection> = (0..STREAMS).map(|_| channel.open(arguments()).unwrap()).collect();
    assert_eq!(channel.open(Open::default()).unwrap_err(), Refusal::Many);
    let input = || Message::Data { stream: 0, end: End::Input, offset: 0, bytes: vec![0; Message::DATA] };
    connections[0].send(input());
    connections[0].send(input());
    // A tool that sends more than the window is ended.
    connections[0].send(input());
    let message = connections[0].messages.recv().await;
    assert!(matches!(message, Some(Message::Ended { ended, .. }) if ended.error.is_some()));
    connections.remove(0);
    assert!(channel.open(Open::default()).is_ok(), "there is room for another one");
    // What fits into no message is refused, with what to do.
    drop(connections);
    let long = channel.open(Open { command: vec!["x".repeat(70 * 1024)], ..Open::default() }).unwrap_err();
    assert!(long.to_string().contains("i2kit cp"), "{long}");
}

#[tokio::test]
async fn output_beyond_the_window_ends_its_stream_alone() {
    let root = tempfile::tempdir().unwrap();
    let (channel, mut guest) = channel(root.path()).await;
    guest.hear().await;
    let mut connection = channel.open(Open::default()).unwrap();
    let _other = channel.open(Open::default()).unwrap();
    let Message::Open { stream, .. } = guest.hear().await else { panic!("the stream is opened") };
    guest.hear().await;
    let data = |offset: usize| Message::Data {
        stream,
        end: End::Output,
        offset: offset as u64,
        bytes: vec![0; Message::DATA],
    };
    for number in 0..=WINDOW / Message::DATA {
        guest.say(&data(number * Message::DATA)).await;
    }
    assert_eq!(guest.hear().await, Message::Close { stream });
    for _ in 0..WINDOW / Message::DATA {
        assert!(matches!(connection.messages.recv().await, Some(Message::Data { .. })));
    }
    let message = connection.messages.recv().await;
    assert!(matches!(message, Some(Message::Ended { ended, .. }) if ended.error.is_some()));
    assert_eq!(connection.messages.recv().await, None);
    assert_eq!(channel.shared.lock().streams.len(), 1, "the other one goes on");
}

#[tokio::test]
async fn a_silent_command_is_told_from_a_silent_guest() {
    let root = tempfile::tempdir().unwrap();
    let (channel, mut guest) = channel(root.path()).await;
    guest.hear().await;
    let hello = GuestHello { version: VERSION, answer: true, credits_open: true, ..GuestHello::default() };
    guest.say(&Message::GuestHello(hello.clone())).await;
    let mut connection = channel.open(Open::default()).unwrap();
    let Message::Open { stream, .. } = guest.hear().await else { panic!("the stream is opened") };
    assert!(connection.messages.try_recv().is_err(), "nobody has begun it");
    let begun = |stream| Message::Credit { stream, end: End::Input, taken: 0 };
    // Said twice, heard once.
    guest.say(&begun(stream)).await;
    guest.say(&begun(stream)).await;
    guest.say(&Message::Ended { stream, ended: Ended::default() }).await;
    assert_eq!(connection.messages.recv().await, Some(begun(0)));
    assert!(matches!(connection.messages.recv().await, Some(Message::Ended { .. })));

    // An older guest does not say it, and nobody waits for that.
    guest.say(&Message::GuestHello(GuestHello { credits_open: false, ..hello })).await;
    until(|| channel.shared.lock().begins_in_silence).await;
    let mut connection = channel.open(Open::default()).unwrap();
    assert_eq!(connection.messages.recv().await, Some(begun(0)));
}
