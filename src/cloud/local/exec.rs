//! The tool's end of a command in a VM: frames on a connection to the local cloud's process, as input and output.

use std::collections::VecDeque;

use futures::StreamExt as _;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use i2kit_spec::control::{Decoder, End, Ended, Message, WINDOW};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

use super::client::{refusal, unreachable};
use super::home::{Home, SOCKET};
use super::socket;
use super::wire::{EXEC_PROTOCOL, Exec};
use crate::cloud::CloudError;
use crate::cloud::exec::{Input, Output, Session};

/// How many pieces of input may wait.
const INPUTS: usize = 4;

/// Begins the command.
pub(super) async fn start(home: &Home, exec: &Exec) -> Result<Session, CloudError> {
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
            Message::Data { stream: 0, end: End::Input, offset: sent, bytes: part }.encode(&mut bytes);
            sent += length as u64;
            writer.write_all(&bytes).await?;
            continue;
        }
        tokio::select! {
            input = inputs.recv(), if pending.is_empty() && !over => match input {
                Some(Input::Bytes(more)) => pending.extend(more),
                Some(Input::Resize(size)) => {
                    Message::Resize { stream: 0, rows: size.rows, columns: size.columns }.encode(&mut bytes);
                }
                Some(Input::End) => Message::Eof { stream: 0, end: End::Input }.encode(&mut bytes),
                None => over = true,
            },
            message = acknowledged.recv() => match message {
                Some(message) => message.encode(&mut bytes),
                // Nobody reads any more.
                None => return Ok(()),
            },
            changed = room.changed() => if changed.is_err() { return Ok(()) },
        }
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
            match self.reader.read(&mut buffer).await {
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
