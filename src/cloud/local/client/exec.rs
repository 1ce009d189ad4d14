//! The tool's end of a command in a VM: frames on a connection to the local cloud's process, as input and output.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use i2kit_spec::control::{Decoder, End, Ended, Message, Open, WINDOW};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::connection::{refusal, unreachable};
use crate::cloud::CloudError;
use crate::cloud::exec::{Input, Output, Session};
use crate::cloud::local::home::{Home, SOCKET};
use crate::cloud::local::link::channel::too_long;
use crate::cloud::local::socket;
use crate::cloud::local::wire::{EXEC_PROTOCOL, Exec};

/// How many pieces of input may wait.
const INPUTS: usize = 4;

/// How long a guest may take to begin the command before that is told. One that runs takes milliseconds, one that is
/// emulated on a busy machine a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the command fits into the message that begins it.
fn check(exec: &Exec) -> Result<(), CloudError> {
    let Exec { instance, command, .. } = exec;
    let container = command.container.clone().unwrap_or_default();
    let open = Open { container, command: command.command.clone(), ..Open::default() };
    // The real one has a larger number and other flags at most; what that makes too long is refused on the other side.
    let fits = Message::Open { stream: 0, open }.encode(&mut Vec::new());
    fits.map_err(|long| CloudError::Guest { instance: instance.clone(), message: too_long(long) })
}

/// Begins the command.
pub(super) async fn start(home: &Home, exec: &Exec) -> Result<Session, CloudError> {
    check(exec)?;
    let stream = socket::connect(&home.state, SOCKET).await.map_err(unreachable("connect"))?;
    socket::check_peer(&stream).map_err(unreachable("connect"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable("connect"))?;
    tokio::spawn(connection.with_upgrades());
    let body = serde_json::to_vec(exec).map_err(unreachable("write a question"))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/exec")
        .header("host", "local-cloud")
        .header("content-type", "application/json")
        .header("connection", "upgrade")
        .header("upgrade", EXEC_PROTOCOL)
        .body(Full::new(Bytes::from(body)))
        .map_err(unreachable("ask"))?;
    let answer = sender.send_request(request).await.map_err(unreachable("ask"))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(unreachable("ask"))?;
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    let (input, inputs) = mpsc::channel(INPUTS);
    // The reader tells the writer what to acknowledge, and how much the guest has taken.
    let (credits, acknowledged) = mpsc::unbounded_channel();
    let (taken, room) = watch::channel(0);
    tokio::spawn(async move {
        // The reader sees the end of the connection as well, and tells of it.
        drop(write(writer, inputs, acknowledged, room).await);
    });
    let source = Source {
        reader,
        instance: exec.instance.clone(),
        decoder: Decoder::default(),
        credits,
        taken,
        unanswered: Some(Instant::now() + PATIENCE),
        over: false,
    };
    let output = futures::stream::unfold(source, |mut source| async move {
        let output = source.next().await?;
        Some((output, source))
    });
    Ok(Session { input, output: output.boxed() })
}

/// Sends input as far as there is room for it, and acknowledgements.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut inputs: mpsc::Receiver<Input>,
    mut acknowledged: mpsc::UnboundedReceiver<Message>,
    mut room: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let mut sent = 0_u64;
    let mut pending = VecDeque::new();
    let mut over = false;
    loop {
        let mut bytes = Vec::new();
        let taken = *room.borrow_and_update();
        let free = (taken + WINDOW as u64).saturating_sub(sent);
        let length = pending.len().min(usize::try_from(free).unwrap_or(usize::MAX)).min(Message::DATA);
        if length > 0 {
            let part: Vec<u8> = pending.drain(..length).collect();
            let data = Message::Data { stream: 0, end: End::Input, offset: sent, bytes: part };
            data.encode(&mut bytes).map_err(std::io::Error::other)?;
            sent += length as u64;
            writer.write_all(&bytes).await?;
            continue;
        }
        let message = tokio::select! {
            input = inputs.recv(), if pending.is_empty() && !over => match input {
                Some(Input::Bytes(more)) => {
                    pending.extend(more);
                    continue;
                }
                Some(Input::Resize(size)) => {
                    Message::Resize { stream: 0, rows: size.rows, columns: size.columns }
                }
                Some(Input::End) => Message::Eof { stream: 0, end: End::Input },
                None => {
                    over = true;
                    continue;
                }
            },
            message = acknowledged.recv() => match message {
                Some(message) => message,
                // Nobody reads any more.
                None => return Ok(()),
            },
            changed = room.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        message.encode(&mut bytes).map_err(std::io::Error::other)?;
        writer.write_all(&bytes).await?;
    }
}

/// What comes from the guest.
struct Source<R> {
    reader: R,
    instance: String,
    decoder: Decoder,
    credits: mpsc::UnboundedSender<Message>,
    taken: watch::Sender<u64>,
    /// When it is told that nothing came; none when something did, or it was told.
    unanswered: Option<Instant>,
    over: bool,
}

impl<R: AsyncRead + Unpin> Source<R> {
    async fn next(&mut self) -> Option<Result<Output, CloudError>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if self.over {
                return None;
            }
            while let Some(message) = self.decoder.next() {
                self.unanswered = None;
                match message {
                    Message::Data { end, offset, bytes, .. } => {
                        let taken = offset + bytes.len() as u64;
                        // Asked for when the bytes are handed out: whoever does not take them gets no more.
                        let _ = self.credits.send(Message::Credit { stream: 0, end, taken });
                        let output = if end == End::Error { Output::Err } else { Output::Out };
                        return Some(Ok(output(bytes)));
                    }
                    Message::Credit { taken, .. } => drop(self.taken.send(taken)),
                    Message::Ended { ended, .. } => {
                        self.over = true;
                        return Some(self.ended(ended));
                    }
                    _ => {}
                }
            }
            let read = self.reader.read(&mut buffer);
            let read = match self.unanswered {
                None => read.await,
                Some(deadline) => {
                    let Ok(read) = timeout_at(deadline, read).await else {
                        self.unanswered = None;
                        return Some(Ok(Output::Unanswered));
                    };
                    read
                }
            };
            match read {
                Ok(length) if length > 0 => self.decoder.push(&buffer[..length]),
                _ => {
                    self.over = true;
                    let message = "the connection to the VM has ended, and the command with it".to_owned();
                    return Some(Err(CloudError::Guest { instance: self.instance.clone(), message }));
                }
            }
        }
    }

    fn ended(&self, ended: Ended) -> Result<Output, CloudError> {
        match ended.error {
            None => Ok(Output::Ended(ended.code)),
            Some(message) => Err(CloudError::Guest { instance: self.instance.clone(), message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::exec::Command;

    #[test]
    fn a_command_that_fits_into_no_message_is_refused_with_what_to_do() {
        let exec = |bytes: usize| Exec {
            environment: "local".into(),
            instance: "web-1-a".into(),
            command: Command {
                command: vec!["sh".into(), "-c".into(), "x".repeat(bytes)],
                ..Command::default()
            },
        };
        check(&exec(60 * 1024)).unwrap();
        let error = check(&exec(70 * 1024)).unwrap_err().to_string();
        assert!(error.contains("at most 64 KiB of arguments") && error.contains("i2kit cp"), "{error}");
    }

    /// What comes over a pipe whose other end is returned, from a guest whose time to answer is over.
    fn source() -> (tokio::io::DuplexStream, Source<tokio::io::DuplexStream>) {
        let (other, reader) = tokio::io::duplex(64 * 1024);
        let source = Source {
            reader,
            instance: "web-1-a".into(),
            decoder: Decoder::default(),
            credits: mpsc::unbounded_channel().0,
            taken: watch::channel(0).0,
            unanswered: Some(Instant::now()),
            over: false,
        };
        (other, source)
    }

    fn begun() -> Vec<u8> {
        let mut bytes = Vec::new();
        Message::Credit { stream: 0, end: End::Input, taken: 0 }.encode(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_guest_that_does_not_answer_is_told_of_once() {
        let (mut other, mut source) = source();
        assert_eq!(source.next().await.unwrap().unwrap(), Output::Unanswered);
        let mut bytes = begun();
        Message::Ended { stream: 0, ended: Ended::default() }.encode(&mut bytes).unwrap();
        other.write_all(&bytes).await.unwrap();
        assert_eq!(source.next().await.unwrap().unwrap(), Output::Ended(0), "said once");
        assert!(source.next().await.is_none());
    }

    #[tokio::test]
    async fn a_command_that_has_begun_may_be_silent() {
        let (mut other, mut source) = source();
        other.write_all(&begun()).await.unwrap();
        let ended = async {
            tokio::task::yield_now().await;
            drop(other);
        };
        let (output, ()) = tokio::join!(source.next(), ended);
        assert!(
            matches!(output, Some(Err(CloudError::Guest { .. }))),
            "the VM is gone, and so is the command"
        );
    }
}
