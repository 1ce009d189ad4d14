//! The one connection on which the application gets commands in order.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use i2kit_spec::replica::Limits;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::front::{Framer, Reply, ReplyError, Shape};

/// Commands that are written at once take at most about this.
const GATHERED: usize = 256 << 10;

/// An application whose process ended closes its port together with its connections; one that only ended a connection that
/// rested goes on listening. After so long the two are told apart.
const SETTLES: Duration = Duration::from_millis(20);

/// A command as the application gets it.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) bytes: Bytes,
    pub(super) shape: Shape,
}

/// The place of the application in the order is not known any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) String);

/// The connection.
#[derive(Debug)]
pub(super) struct Connection {
    port: u16,
    framer: Framer,
    limits: Limits,
    depth: usize,
    stream: Option<TcpStream>,
    buffer: BytesMut,
    /// Whether the application ended the last connection while nothing was under way, and it is not sure yet that it goes on.
    is_unsettled: bool,
}

impl Connection {
    /// To the application's port on the loopback.
    pub(super) fn new(port: u16, framer: Framer, limits: Limits, depth: u16) -> Self {
        Self {
            port,
            framer,
            limits,
            depth: usize::from(depth.max(1)),
            stream: None,
            buffer: BytesMut::new(),
            is_unsettled: false,
        }
    }

    /// Forgets the connection: the application begins anew.
    pub(super) fn reset(&mut self) {
        self.stream = None;
        self.buffer = BytesMut::new();
        self.is_unsettled = false;
    }

    /// Makes the connection, unless there is one: it is held at all times, so that the end of the application is noticed.
    pub(super) async fn connect(&mut self) -> Result<(), Broken> {
        if self.stream.is_none() {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
            let stream =
                stream.map_err(|error| Broken(format!("the application takes no connection: {error}")))?;
            stream.set_nodelay(true).map_err(|error| Broken(error.to_string()))?;
            self.stream = Some(stream);
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns when the connection, on which nothing is under way, was ended by the application and it is sure that the application
    /// itself goes on, or never.
    pub(super) async fn rests(&mut self) -> Result<(), Broken> {
        let Some(stream) = &mut self.stream else { return std::future::pending().await };
        // Some servers say why they end a connection that rested, such as HTTP's 408: what they say is no reply to anything.
        let _ = stream.peek(&mut [0]).await;
        self.forget();
        self.settle().await
    }

    /// Leaves a connection on which nothing was under way. Whoever waits may be called away; what is left is done before the next
    /// command.
    fn forget(&mut self) {
        self.is_unsettled = true;
        self.stream = None;
    }

    /// Whether the connection, on which nothing is under way, has something to read or was ended.
    fn is_spoken_to(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let is_quiet = |stream| matches!(recv(stream, &mut [0_u8; 1], flags), Err(Errno::AGAIN));
        self.stream.as_ref().is_some_and(|stream| !is_quiet(stream))
    }

    /// Makes the connection again that rested and was ended.
    async fn settle(&mut self) -> Result<(), Broken> {
        self.connect().await?;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut byte = [0];
        match tokio::time::timeout(SETTLES, stream.peek(&mut byte)).await {
            Err(_) => {
                self.is_unsettled = false;
                Ok(())
            }
            Ok(Ok(1..)) => {
                Err(Broken("the application speaks without being asked, on each connection".into()))
            }
            Ok(_) => Err(Broken("the application ended its connection, and the next one as well".into())),
        }
    }

    /// Has `commands` executed one after the other, with at most `depth` under way, and gives `done` each reply in order.
    pub(super) async fn run(
        &mut self,
        commands: &[Prepared],
        mut done: impl FnMut(Result<Reply, ReplyError>),
    ) -> Result<(), Broken> {
        if self.is_spoken_to() {
            // It would be taken for the reply to the first command.
            self.forget();
        }
        if self.is_unsettled {
            self.settle().await?;
        }
        let (mut sent, mut answered) = (0, 0);
        let mut out = BytesMut::new();
        while answered < commands.len() {
            self.connect().await?;
            let Some(stream) = &mut self.stream else { continue };
            while sent < commands.len() && sent - answered < self.depth && out.len() < GATHERED {
                out.extend_from_slice(&commands[sent].bytes);
                sent += 1;
            }
            let (mut reader, mut writer) = stream.split();
            let broken = tokio::select! {
                written = writer.write_buf(&mut out), if !out.is_empty() => written.map(|_| ()).err().map(|error| error.to_string()),
                read = reader.read_buf(&mut self.buffer) => match read {
                    Ok(0) => Some("it closed it".to_owned()),
                    Ok(_) => None,
                    Err(error) => Some(error.to_string()),
                },
            };
            if let Some(error) = broken {
                return Err(Broken(format!("the connection to the application broke: {error}")));
            }
            while answered < sent {
                let reply = match self.framer.reply(&mut self.buffer, commands[answered].shape, &self.limits)
                {
                    Ok(None) => break,
                    Ok(Some(reply)) => Ok(reply),
                    Err(error) => Err(error),
                };
                let ends = reply.as_ref().map_or(true, |reply| reply.close);
                if ends && sent - answered > 1 {
                    // What was sent behind it may have been executed or not. One by one it is never in doubt.
                    self.depth = 1;
                    return Err(Broken("the application ended the connection with commands under way; from now on it gets them one by one".into()));
                }
                answered += 1;
                done(reply);
                if ends {
                    self.stream = None;
                    self.buffer.clear();
                }
            }
            if answered == sent && !self.buffer.is_empty() {
                return Err(Broken("the application sent more than a reply".into()));
            }
        }
        if self.buffer.capacity() > 4 * GATHERED {
            self.buffer = BytesMut::new();
        }
        self.connect().await
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::replica::Framing;
    use tokio::net::TcpListener;

    use super::*;

    const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7";

    async fn connection() -> (TcpListener, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let framer = Framer::new(Framing::Http, &[]);
        (listener, Connection::new(port, framer, Limits::default(), 1))
    }

    fn command() -> [Prepared; 1] {
        let bytes = Bytes::from_static(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        [Prepared { bytes, shape: Shape::Plain }]
    }

    /// Takes one command on a new connection, and replies.
    async fn serve(listener: &TcpListener) -> TcpStream {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A connection that was only looked at has nothing.
            if stream.read(&mut [0; 1024]).await.is_ok_and(|len| len > 0) {
                stream.write_all(REPLY).await.unwrap();
                return stream;
            }
        }
    }

    #[tokio::test]
    async fn an_application_that_ends_a_connection_that_rested_goes_on_whatever_it_says() {
        let (listener, mut connection) = connection().await;
        let server = async {
            let mut first = serve(&listener).await;
            // The client has the reply, and rests.
            tokio::time::sleep(Duration::from_millis(20)).await;
            first.write_all(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n").await.unwrap();
            drop(first);
            let _second = serve(&listener).await;
        };
        let client = async {
            let mut replies = Vec::new();
            for _ in 0..2 {
                connection.run(&command(), |reply| replies.push(reply.unwrap().bytes)).await.unwrap();
                // It is noticed, or it is there when the next command comes.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(replies, [REPLY, REPLY]);
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn what_rests_is_connected_again_and_what_is_gone_is_broken() {
        let (listener, mut connection) = connection().await;
        connection.connect().await.unwrap();
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        connection.rests().await.unwrap();
        let (second, _) = listener.accept().await.unwrap();
        drop((first, second, listener));
        assert!(connection.rests().await.is_err());
    }

    #[tokio::test]
    async fn an_application_that_speaks_first_is_broken() {
        let (listener, mut connection) = connection().await;
        let server = async {
            let mut streams = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"220 ready\r\n").await.unwrap();
                streams.push(stream);
            }
            streams
        };
        let client = async {
            connection.connect().await.unwrap();
            assert!(connection.rests().await.unwrap_err().to_string().contains("without being asked"));
        };
        tokio::join!(server, client);
    }
}
