//! Questions over TCP: a connection carries several of them ([RFC 7766]).
//!
//! [RFC 7766]: https://www.rfc-editor.org/rfc/rfc7766

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::answers::Answers;
use super::framing::{read, write};
use super::message::{self, Reply};
use super::relay;

/// A connection on which a question, or the reading of an answer, takes longer is closed.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// The pause after an accept that failed for want of descriptors or memory.
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
                // A resolver without an answer asks again.
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
