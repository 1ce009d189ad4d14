//! The one connection on which the application gets commands in order.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use i2kit_spec::replica::Limits;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::listeners::Listeners;
use crate::front::{Framer, Reply, ReplyError, ReplyProgress, Shape};

/// Commands that are written at once take at most about this.
const GATHERED: usize = 256 << 10;

/// An application that ends one connection after the other, without a command, is connected again after such pauses: the first and
/// the longest. They only spare the processor.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

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
    progress: ReplyProgress,
    /// Who listened when the application began, unless it did not begin yet.
    life: Option<Listeners>,
    /// Whether the application ended the last connection while nothing was under way, so that the next one is only made to whoever
    /// listened from the beginning.
    is_ended: bool,
    /// Whether the application said something on a connection on which nothing was under way.
    is_spoken: bool,
    /// The pause before the next connection.
    pause: Duration,
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
            progress: ReplyProgress::default(),
            life: None,
            is_ended: false,
            is_spoken: false,
            pause: Duration::ZERO,
        }
    }

    /// Forgets the connection: the application begins anew.
    pub(super) fn reset(&mut self) {
        self.forget();
        (self.life, self.is_ended, self.pause) = (None, false, Duration::ZERO);
    }

    fn forget(&mut self) {
        self.stream = None;
        self.buffer = BytesMut::new();
        self.progress = ReplyProgress::default();
        self.is_spoken = false;
    }

    /// Makes the connection, unless there is one: it is held at all times, so that the end of the application is noticed. The first
    /// one notes who listens, and one that is made because the application ended the last is only made to the same.
    pub(super) async fn connect(&mut self) -> Result<(), Broken> {
        if self.stream.is_some() {
            return Ok(());
        }
        let is_checked = self.is_ended || self.life.is_none();
        let before = if is_checked { Some(self.listeners()?) } else { None };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
        let stream =
            stream.map_err(|error| Broken(format!("the application takes no connection: {error}")))?;
        stream.set_nodelay(true).map_err(|error| Broken(error.to_string()))?;
        if let Some(before) = before {
            // Who listened before and after it was made has taken it.
            let after = self.listeners()?;
            let both = before.and(&after);
            if both.is_empty() || !self.life.as_ref().is_none_or(|life| life.are_among(&both)) {
                return Err(Broken("the application ended, or was started by another hand".into()));
            }
            self.life.get_or_insert(both);
        }
        self.forget();
        (self.stream, self.is_ended) = (Some(stream), false);
        Ok(())
    }

    fn listeners(&self) -> Result<Listeners, Broken> {
        Listeners::of(self.port)
            .map_err(|error| Broken(format!("it cannot be told whether the application goes on: {error}")))
    }

    /// Returns with an error when the application is gone, or never. Connections on which nothing is under way and which the
    /// application ended are made again as long as it listens. Whoever waits may be called away at any time.
    pub(super) async fn rests(&mut self) -> Result<(), Broken> {
        loop {
            if let Some(stream) = &mut self.stream {
                // Some servers say why they end a connection that rested, such as HTTP's 408: what they say is no reply to anything.
                while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {
                    self.is_spoken = true;
                }
                self.ended();
            } else if !self.is_ended {
                return std::future::pending().await;
            }
            // One that is gone is known at once, and the pause is for one that goes on.
            let now = self.listeners()?;
            if !self.life.as_ref().is_some_and(|life| life.are_among(&now)) {
                return Err(Broken("the application ended".into()));
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
            self.connect().await?;
        }
    }

    /// The application ended the connection, on which nothing was under way.
    fn ended(&mut self) {
        self.forget();
        self.is_ended = true;
    }

    /// Leaves a connection that the application ended while it rested, so that a new one is made. One on which it speaks and which it
    /// does not end is of no use: what it says would be taken for the reply to the next command.
    fn look(&mut self) -> Result<(), Broken> {
        let Some(stream) = &self.stream else { return Ok(()) };
        loop {
            // The kernel is asked: the runtime may not have noticed yet.
            match recv(stream, &mut [0_u8; 1024], RecvFlags::DONTWAIT) {
                Ok((1.., _)) => self.is_spoken = true,
                Err(Errno::AGAIN) => {
                    let wrong = || Broken("the application speaks without being asked".into());
                    return if self.is_spoken { Err(wrong()) } else { Ok(()) };
                }
                Ok(_) | Err(_) => {
                    self.ended();
                    return Ok(());
                }
            }
        }
    }

    /// Has `commands` executed one after the other, with at most `depth` under way, and gives `done` each reply in order.
    pub(super) async fn run(
        &mut self,
        commands: &[Prepared],
        mut done: impl FnMut(Result<Reply, ReplyError>),
    ) -> Result<(), Broken> {
        self.look()?;
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
                let shape = commands[answered].shape;
                let reply = match self.framer.reply(&mut self.progress, &mut self.buffer, shape, &self.limits)
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
                self.pause = Duration::ZERO;
                done(reply);
                if ends {
                    self.forget();
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
        let mut streams = Vec::new();
        let server = async {
            // Each is ended without a command, as a server with a time-out does while nobody asks.
            for _ in 0..4 {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
            }
            streams.push(listener.accept().await.unwrap());
            drop(listener);
            streams.clear();
        };
        let ((), gone) = tokio::join!(server, connection.rests());
        assert!(gone.unwrap_err().to_string().contains("ended"));
    }

    #[tokio::test]
    async fn an_application_that_was_started_by_another_hand_is_not_taken_for_the_one_before() {
        let (listener, mut connection) = connection().await;
        let address = listener.local_addr().unwrap();
        connection.connect().await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        // It ends, and another one listens before anybody looks.
        drop((stream, listener));
        let again = TcpListener::bind(address).await.unwrap();
        let broken = connection.run(&command(), |_| panic!("it is asked")).await.unwrap_err();
        assert!(broken.to_string().contains("by another hand"), "{broken}");
        assert!(connection.rests().await.is_err());
        connection.reset();
        connection.connect().await.unwrap();
        drop(again);
    }

    #[tokio::test]
    async fn an_application_that_speaks_first_is_broken() {
        let (listener, mut connection) = connection().await;
        connection.connect().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let what_it_says = connection.stream.as_ref().unwrap().readable();
        what_it_says.await.unwrap();
        let broken = connection.run(&command(), |_| panic!("it is asked")).await.unwrap_err();
        assert!(broken.to_string().contains("without being asked"), "{broken}");
    }
}
