//! Questions over UDP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::answers::Answers;
use super::message::{self, Reply};
use super::relay;

/// The largest question over UDP: the size that EDNS recommends for the largest message.
const QUESTION: usize = 4096;

/// Answers datagrams until it is dropped.
pub(super) async fn serve(socket: Arc<UdpSocket>, answers: Arc<Answers>) -> Result<(), Infallible> {
    let mut buffer = vec![0; QUESTION];
    loop {
        // An error reports an answer that was not delivered.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let question = &buffer[..length];
        match answers.look_up(question) {
            None => {}
            Some(Reply::Answer(answer)) => send(&socket, &answer, client).await,
            Some(Reply::Elsewhere) => {
                let Some(room) = answers.relayed.try_enter(1) else { continue };
                let (socket, question, answers) =
                    (Arc::clone(&socket), question.to_vec(), Arc::clone(&answers));
                tokio::spawn(async move {
                    let answer = tokio::select! {
                        answer = answers.relay.ask(&question, relay::Transport::Udp) => answer,
                        () = answers.ended.cancelled() => return,
                    };
                    send(&socket, &message::fitting(&question, answer), client).await;
                    drop(room);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    // A resolver without an answer asks again.
    let _ = socket.send_to(answer, client).await;
}
