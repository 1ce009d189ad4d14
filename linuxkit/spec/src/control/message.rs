//! What frames mean.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::{Frame, MAX_PAYLOAD, TooLong};

/// The version of the messages. Fields and kinds may be added to a version; a reader passes over what it does not know.
pub const VERSION: u32 = 1;

/// One message. Streams are numbered by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// From the host, when it has connected and in answer to the guest's.
    HostHello(HostHello),
    /// From the guest, when whoever speaks for it has started and in answer to the host's.
    GuestHello(GuestHello),
    /// From the host: begin a stream. Said again when a guest that was started anew does not know the stream.
    Open {
        /// Its number, used once.
        stream: u32,
        /// What it leads to.
        open: Open,
    },
    /// Bytes.
    Data {
        /// Of this stream.
        stream: u32,
        /// Which of its channels.
        end: End,
        /// How many bytes of the channel came before.
        offset: u64,
        /// At most [`Message::DATA`] bytes.
        bytes: Vec<u8>,
    },
    /// No more bytes come on a channel.
    Eof {
        /// Of this stream.
        stream: u32,
        /// Which of its channels.
        end: End,
    },
    /// The reader of a channel has taken all bytes before this one, and never wants them again.
    Credit {
        /// Of this stream.
        stream: u32,
        /// Which of its channels.
        end: End,
        /// How many bytes it took, from the start.
        taken: u64,
    },
    /// From the host: the terminal has another size.
    Resize {
        /// Of this stream.
        stream: u32,
        /// Lines.
        rows: u16,
        /// Characters a line.
        columns: u16,
    },
    /// From the guest: the stream has ended; all its output came before.
    Ended {
        /// The stream.
        stream: u32,
        /// How.
        ended: Ended,
    },
    /// From the host: it wants nothing of the stream any more. What still runs is ended.
    Close {
        /// The stream.
        stream: u32,
    },
    /// From the guest: lines that a container wrote.
    Log {
        /// Where they come from.
        head: LogHead,
        /// Whole lines in the form of Kubernetes' container logs: `TIME STREAM TAG TEXT`.
        lines: Vec<u8>,
    },
    /// From the host: it keeps lines now.
    Logged(Logged),
    /// From the guest: what time is it? From the host, the answer.
    Clock(Clock),
}

/// A question about the time, or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// The guest's own time when it asked, in nanoseconds since 1970; the answer repeats it.
    pub asked: u64,
    /// The host's time, in nanoseconds since 1970; zero in a question.
    pub now: u64,
}

/// How a host introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostHello {
    /// [`VERSION`].
    pub version: u32,
    /// Another one for each process that connects: what the guest knows of streams of another epoch is void.
    pub epoch: u64,
    /// Whether it answers the guest's.
    pub answer: bool,
    /// The time of the last line that it keeps of each container.
    #[serde(default)]
    pub logged: BTreeMap<String, String>,
}

/// How a guest introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestHello {
    /// [`VERSION`].
    pub version: u32,
    /// How often whoever speaks was started.
    pub epoch: u64,
    /// Whether it answers the host's.
    pub answer: bool,
    /// The epoch of the host's hello that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// The version of the guest's program.
    #[serde(default)]
    pub program: String,
    /// The streams that it knows, those that have ended among them.
    #[serde(default)]
    pub streams: Vec<StreamState>,
    /// Whether it says a credit of zero bytes as soon as a stream was begun, so that a host can tell a command that is
    /// silent from a guest that is.
    #[serde(default)]
    pub credits_open: bool,
}

/// A stream that the guest knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamState {
    /// Its number.
    pub stream: u32,
    /// How many bytes of input it has taken.
    pub input: u64,
}

/// What a stream leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// Whether the stream leads into a container or to the guest itself.
    #[serde(default)]
    pub target: Target,
    /// The container; the first service when it is empty.
    #[serde(default)]
    pub container: String,
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Whether the command gets a terminal; then its errors come with its output.
    #[serde(default)]
    pub terminal: bool,
    /// Whether the command gets input.
    #[serde(default)]
    pub input: bool,
    /// Lines of the terminal.
    #[serde(default)]
    pub rows: u16,
    /// Characters a line of the terminal.
    #[serde(default)]
    pub columns: u16,
}

/// Where a stream leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A command in a container.
    #[default]
    Command,
    /// The input is a program that becomes the supervisor.
    Supervisor,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// The exit code of its command; 128 plus the signal when one killed it.
    pub code: i32,
    /// Why there was no command, or why its streams are not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Ended {
    /// The most bytes of an error: more words help nobody, and it must fit into a frame.
    pub const ERROR_BYTES: usize = 4096;

    /// A stream that ended with an error.
    pub fn failed(code: i32, error: impl Into<String>) -> Self {
        let mut error = error.into();
        let end = (0..=Self::ERROR_BYTES).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
        error.truncate(end);
        Self { code, error: Some(error) }
    }
}

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogHead {
    /// The container; empty for the guest itself.
    pub container: String,
    /// How often the container was started before.
    pub run: u64,
    /// The number of the first line; each line of a container counts, over all its runs.
    pub first: u64,
    /// How many lines before these were dropped before anybody took them.
    #[serde(default)]
    pub dropped: u64,
}

/// Lines that the host keeps now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logged {
    /// The container.
    pub container: String,
    /// The number of the next line that it wants.
    pub next: u64,
    /// How many bytes of lines it took, which make room for as many.
    pub bytes: u64,
    /// How many lines it knows to be missing before these.
    #[serde(default)]
    pub dropped: u64,
}

/// The channels of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// What the host sends.
    Input,
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

impl End {
    fn number(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Output => 1,
            Self::Error => 2,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Input, Self::Output, Self::Error].into_iter().find(|end| end.number() == number)
    }
}

const HOST_HELLO: u8 = 1;
const GUEST_HELLO: u8 = 2;
const OPEN: u8 = 3;
const DATA: u8 = 4;
const EOF: u8 = 5;
const CREDIT: u8 = 6;
const RESIZE: u8 = 7;
const ENDED: u8 = 8;
const CLOSE: u8 = 9;
const LOG: u8 = 10;
const LOGGED: u8 = 11;
const CLOCK: u8 = 12;

impl Message {
    /// The most bytes that a data message carries: small, so that streams take turns.
    pub const DATA: usize = 32 * 1024;

    /// The most bytes of lines that a log message carries.
    pub const LINES: usize = MAX_PAYLOAD - 1024;

    /// Appends the message's frame. What a reader would not take is not written: nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let frame = |kind, stream, channel, payload| Frame { kind, channel, stream, payload };
        let frame = match self {
            Self::HostHello(hello) => frame(HOST_HELLO, 0, 0, json(hello)),
            Self::GuestHello(hello) => frame(GUEST_HELLO, 0, 0, json(hello)),
            Self::Open { stream, open } => frame(OPEN, *stream, 0, json(open)),
            Self::Data { stream, end, offset, bytes } => {
                frame(DATA, *stream, end.number(), [&offset.to_le_bytes(), bytes.as_slice()].concat())
            }
            Self::Eof { stream, end } => frame(EOF, *stream, end.number(), vec![]),
            Self::Credit { stream, end, taken } => {
                frame(CREDIT, *stream, end.number(), taken.to_le_bytes().to_vec())
            }
            Self::Resize { stream, rows, columns } => {
                frame(RESIZE, *stream, 0, [rows.to_le_bytes(), columns.to_le_bytes()].concat())
            }
            Self::Ended { stream, ended } => frame(ENDED, *stream, 0, json(ended)),
            Self::Close { stream } => frame(CLOSE, *stream, 0, vec![]),
            Self::Log { head, lines } => {
                // A line of JSON, then the container's lines.
                let mut payload = json(head);
                payload.push(b'\n');
                payload.extend_from_slice(lines);
                frame(LOG, 0, 0, payload)
            }
            Self::Logged(logged) => frame(LOGGED, 0, 0, json(logged)),
            Self::Clock(Clock { asked, now }) => {
                frame(CLOCK, 0, 0, [asked.to_le_bytes(), now.to_le_bytes()].concat())
            }
        };
        frame.encode(out)
    }

    /// What a frame says; nothing when this version does not know it.
    pub(super) fn parse(frame: &Frame) -> Option<Self> {
        let Frame { kind, channel, stream, payload } = frame;
        let (stream, end) = (*stream, End::of(*channel));
        Some(match *kind {
            HOST_HELLO => Self::HostHello(parsed(payload)?),
            GUEST_HELLO => Self::GuestHello(parsed(payload)?),
            OPEN => Self::Open { stream, open: parsed(payload)? },
            DATA => {
                let (offset, bytes) = payload.split_first_chunk()?;
                Self::Data { stream, end: end?, offset: u64::from_le_bytes(*offset), bytes: bytes.to_vec() }
            }
            EOF => Self::Eof { stream, end: end? },
            CREDIT => Self::Credit {
                stream,
                end: end?,
                taken: u64::from_le_bytes(payload.as_slice().try_into().ok()?),
            },
            RESIZE => {
                let [a, b, c, d] = *payload.first_chunk()?;
                Self::Resize { stream, rows: u16::from_le_bytes([a, b]), columns: u16::from_le_bytes([c, d]) }
            }
            ENDED => Self::Ended { stream, ended: parsed(payload)? },
            CLOSE => Self::Close { stream },
            LOG => {
                let end = payload.iter().position(|byte| *byte == b'\n')?;
                Self::Log { head: parsed(&payload[..end])?, lines: payload[end + 1..].to_vec() }
            }
            LOGGED => Self::Logged(parsed(payload)?),
            CLOCK => {
                let (asked, now) = payload.split_first_chunk()?;
                let now = u64::from_le_bytes(now.try_into().ok()?);
                Self::Clock(Clock { asked: u64::from_le_bytes(*asked), now })
            }
            _ => return None,
        })
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have only string keys")
}

fn parsed<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_reads_as_it_was_written() {
        let open = Open { command: vec!["sh".into()], terminal: true, rows: 24, ..Open::default() };
        let logged = BTreeMap::from([("web".to_owned(), "2026-01-01T00:00:00.000000001Z".to_owned())]);
        let head = LogHead { container: "web".into(), run: 1, first: 2, dropped: 3 };
        let streams = vec![StreamState { stream: 3, input: 9 }];
        let messages = [
            Message::HostHello(HostHello { version: VERSION, epoch: u64::MAX, answer: true, logged }),
            Message::GuestHello(GuestHello { version: VERSION, streams, ..GuestHello::default() }),
            Message::Open { stream: 1, open },
            Message::Data { stream: 1, end: End::Error, offset: 5, bytes: vec![0; Message::DATA] },
            Message::Eof { stream: 1, end: End::Input },
            Message::Ended { stream: 1, ended: Ended { code: 137, error: None } },
            Message::Log { head, lines: b"a\nb\n".to_vec() },
            Message::Logged(Logged { container: "web".into(), next: 4, bytes: 4, dropped: 0 }),
            Message::Clock(Clock { asked: 1, now: u64::MAX }),
        ];
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes).unwrap();
            let mut decoder = super::super::Decoder::default();
            decoder.push(&bytes);
            assert_eq!(decoder.next(), Some(message));
        }
    }
}
