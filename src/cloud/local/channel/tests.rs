//! The channel against a guest that is a socket.

use std::fs;

use i2kit_spec::control::{End, LogHead, StreamState};
use tokio::net::UnixStream;

use super::*;

/// The guest's end.
struct Guest {
    stream: UnixStream,
    decoder: Decoder,
}

impl Guest {
    async fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
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

async fn channel(folder: &Path) -> (Channel, Guest) {
    let listener = socket::listen(folder, qemu::CONTROL).unwrap();
    let channel = Channel::start(folder);
    let (stream, _) = listener.accept().await.unwrap();
    (channel, Guest { stream, decoder: Decoder::default() })
}

fn log(first: u64, lines: &str) -> Message {
    let head = LogHead { container: "web".into(), run: 0, first, dropped: 0 };
    Message::Log { head, lines: lines.into() }
}

#[tokio::test]
async fn lines_are_kept_once_whoever_connects() {
    let root = tempfile::tempdir().unwrap();
    let (first, mut guest) = channel(root.path()).await;
    assert!(
        matches!(guest.hear().await, Message::HostHello(hello) if !hello.answer && hello.logged.is_empty())
    );
    guest.say(&log(0, "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:00.2Z stdout F two\n")).await;
    assert!(matches!(guest.hear().await, Message::Logged(logged) if logged.next == 2));
    drop((first, guest));
    let path = root.path().join(FOLDER).join("web/0.log");
    // The process was killed in the middle of a line.
    fs::write(&path, fs::read_to_string(&path).unwrap() + "2026-01-01T00:00:00.3Z stdo").unwrap();
    let (_second, mut guest) = channel(root.path()).await;
    let Message::HostHello(hello) = guest.hear().await else { panic!("a hello comes first") };
    assert_eq!(hello.logged["web"], "2026-01-01T00:00:00.2Z");
    guest.say(&log(1, "2026-01-01T00:00:00.2Z stdout F two\n2026-01-01T00:00:00.3Z stdout F three\n")).await;
    assert!(matches!(guest.hear().await, Message::Logged(logged) if logged.next == 3));
    let texts = fs::read_to_string(&path).unwrap();
    let texts: Vec<&str> = texts.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
}

#[tokio::test]
async fn what_a_supervisor_may_not_have_heard_is_said_again() {
    let root = tempfile::tempdir().unwrap();
    let (channel, mut guest) = channel(root.path()).await;
    guest.hear().await;
    let asked = channel.open(Open { command: vec!["cat".into()], ..Open::default() });
    let mut connection = asked.await.unwrap();
    let Message::Open { stream, .. } = guest.hear().await else { panic!("the stream is opened") };
    let input =
        |offset: u64, bytes: &[u8]| Message::Data { stream, end: End::Input, offset, bytes: bytes.into() };
    connection.say(Message::Data { stream: 0, end: End::Input, offset: 0, bytes: b"hello".into() }).await;
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
    guest.hear().await;
    let head = LogHead { container: "../../x".into(), ..LogHead::default() };
    guest.say(&Message::Log { head, lines: b"2026 stdout F x\n".to_vec() }).await;
    let mut buffer = [0; 1];
    assert_eq!(guest.stream.read(&mut buffer).await.unwrap_or(0), 0, "the channel is given up");
    assert!(!root.join("x").exists() && !outside.path().join("x").exists());
}
