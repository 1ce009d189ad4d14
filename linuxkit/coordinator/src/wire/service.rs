//! The side of a connection that answers.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use super::frame::{self, Frame, Hello, Kind};
use super::link::{Greeter, read_hello};
use super::tls::Identity;
use crate::silent::{Places, Ticket};

/// Connections of replicas at a time: seven replicas make two each, and again while old ones end.
const MAX_CONNECTIONS: usize = 64;

/// How long TLS and hello may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Calls of one connection under way.
const MAX_CALLS: usize = 64;

/// How long the port rests when the machine has no room for one more connection.
const REST: Duration = Duration::from_millis(50);

/// At most one refusal in this time is told.
const TOLD: Duration = Duration::from_secs(10);

/// An answer in the making; none ends the connection.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// What answers.
pub(crate) trait Service: Greeter + 'static {
    /// Takes what wants no answer.
    fn notice(&self, from: &Hello, kind: Kind, body: Bytes);

    /// Answers a call.
    fn call(&self, from: Arc<Hello>, kind: Kind, body: Bytes) -> Answer;
}

/// Serves other replicas for ever.
pub(crate) async fn serve<S: Service>(listener: TcpListener, identity: Identity, service: Arc<S>) {
    let places = Places::new(MAX_CONNECTIONS);
    let acceptor = TlsAcceptor::from(identity.server);
    // Who knocks again and again does not fill the log.
    let told = Arc::new(Mutex::new(None::<Instant>));
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let (acceptor, service, told) = (acceptor.clone(), service.clone(), told.clone());
                let serving = async move |ticket: Ticket| {
                    let ended = run(stream, acceptor, service, &ticket).await;
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Err(error) = ended
                        && told.is_none_or(|at| at.elapsed() > TOLD)
                    {
                        *told = Some(Instant::now());
                        crate::report!("a connection of {address} to the replicas' port is refused: {error}");
                    }
                };
                places.spawn(serving).await;
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// One connection. An error before the hello is told; later ones are the end of a replica.
async fn run<S: Service>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    service: Arc<S>,
    ticket: &Ticket,
) -> io::Result<()> {
    super::prepare(&stream)?;
    let mut buffer = BytesMut::with_capacity(8 << 10);
    let begin = async {
        let mut stream = acceptor.accept(stream).await?;
        let me = service.hello();
        let hello = read_hello(&mut stream, &mut buffer, &me.group).await?;
        let mut out = BytesMut::new();
        frame::put(&mut out, Kind::Hello, 0, &me.encode());
        stream.write_all(&out).await?;
        stream.flush().await?;
        service.meets(&hello)?;
        io::Result::Ok((stream, hello))
    };
    let greeted = tokio::time::timeout(HANDSHAKE, begin).await;
    let (stream, hello) = greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    ticket.spoke();
    let hello = Arc::new(hello);
    let (mut reader, writer) = tokio::io::split(stream);
    let (sender, receiver) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write(writer, receiver));
    let calls = Arc::new(Semaphore::new(MAX_CALLS));
    'connection: loop {
        loop {
            match frame::take(&mut buffer) {
                Ok(Some(Frame { kind, call: 0, body })) => service.notice(&hello, kind, body),
                Ok(Some(Frame { kind, call, body })) => {
                    let permit = calls.clone().acquire_owned().await;
                    let (answer, sender) = (service.call(hello.clone(), kind, body), sender.clone());
                    tokio::spawn(async move {
                        drop(sender.send(answer.await.map(|body| (call, body))));
                        drop(permit);
                    });
                }
                Ok(None) => break,
                Err(error) => {
                    crate::report!("replica {} is cut off: {error}", hello.slot);
                    break 'connection;
                }
            }
        }
        if writing.is_finished() || !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
            break;
        }
    }
    writing.abort();
    Ok(())
}

/// Writes answers until there are no more, or one is none.
async fn write(
    mut writer: impl AsyncWriteExt + Unpin,
    mut receiver: mpsc::UnboundedReceiver<Option<(u64, Bytes)>>,
) {
    let mut out = BytesMut::new();
    while let Some(Some((call, body))) = receiver.recv().await {
        frame::put(&mut out, Kind::Answer, call, &body);
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        out.clear();
    }
    drop(writer.shutdown().await);
}
