//! Questions over TCP: each message has its length in front, and a connection carries several ([RFC 7766]).
//!
//! [RFC 7766]: https://www.rfc-editor.org/rfc/rfc7766

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::message::{self, Reply};
use super::{Answers, relay};

/// Connections of one server at once; further ones are closed, which resolvers take for "ask again".
pub(super) const CONNECTIONS: usize = 64;

/// A client that takes longer than this to send a question, or to take an answer, is let go.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// After an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers connections until it is dropped.
pub(super) async fn serve(listener: Arc<TcpListener>, answers: Arc<Answers>) -> Result<(), Infallible> {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some(room) = answers.connections.try_enter(1) else { continue };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            tokio::select! {
                // Whoever does not get an answer asks again.
                _ = answer(client, &answers) => {}
                () = answers.ended.cancelled() => {}
            }
            drop(room);
        });
    }
}

/// Answers one question after the other, until the client has no more.
async fn answer(mut client: TcpStream, answers: &Answers) -> io::Result<()> {
    drop(client.set_nodelay(true));
    loop {
        let question = tokio::time::timeout(answers.idle, read(&mut client)).await??;
        let answer = match answers.look_up(&question) {
            None => return Ok(()),
            Some(Reply::Answer(answer)) => answer,
            Some(Reply::Elsewhere) => match answers.relayed.try_enter(1) {
                Some(_room) => answers.relay.ask(&question, relay::Transport::Tcp).await,
                None => message::failure(&question),
            },
        };
        tokio::time::timeout(answers.idle, write(&mut client, &answer)).await??;
    }
}

/// Reads a message and the length in front of it.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length in front.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes).await
}
