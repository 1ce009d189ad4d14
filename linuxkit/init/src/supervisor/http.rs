//! HTTP/1.1 as a health endpoint needs it: one small request a connection, one small answer, then the end. All
//! connections are served by one thread, so that a client that says nothing keeps nobody waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::link::{Link, ToInit, ToSupervisor};
use crate::sys;

/// How many clients are served at once; the one that waited longest makes room for another.
const MAX_CONNECTIONS: usize = 64;

/// The largest request; health checks send a few hundred bytes.
const MAX_REQUEST: usize = 8 * 1024;

/// How long a client may take for everything.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The first line of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Without its query.
    pub(super) path: &'a str,
}

impl<'a> Request<'a> {
    /// Reads the head of a request; its other lines mean nothing to us.
    fn parse(head: &'a str) -> Option<Self> {
        let mut words = head.lines().next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let valid = words.next().is_none() && version.starts_with("HTTP/1.") && target.starts_with('/');
        let path = target.split('?').next()?;
        valid.then_some(Self { method, path })
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Response {
    /// An answer in plain text.
    pub(super) fn text(status: u16, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", headers: vec![], body }
    }

    /// Metrics in Prometheus' text format.
    pub(super) fn metrics(body: String) -> Self {
        Self { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Self::text(200, body) }
    }

    /// The same with one more header.
    pub(super) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn render(&self, with_body: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        for (name, value) in &self.headers {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        if with_body {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

/// A client and how far it is.
#[derive(Debug)]
struct Connection {
    id: u64,
    stream: TcpStream,
    deadline: Instant,
    /// How many bytes the request has; they stay in the socket until they are answered.
    request: usize,
    /// Empty until the request is complete.
    response: Vec<u8>,
    written: usize,
}

/// The clients that are being served, and what PID 1 must be told.
#[derive(Debug)]
pub(super) struct Server {
    link: Link,
    connections: VecDeque<Connection>,
    done: VecDeque<u64>,
}

impl Server {
    /// Serves the clients that PID 1 sends over this link.
    pub(super) fn new(link: Link) -> Self {
        Self { link, connections: VecDeque::new(), done: VecDeque::new() }
    }

    /// Serves requests for ever; returns only when PID 1 is gone.
    pub(super) fn serve(mut self, answer: impl Fn(&Request<'_>) -> Response) -> io::Result<Infallible> {
        loop {
            let now = Instant::now();
            let ready = self.wait(now)?;
            let mut number = 0;
            self.connections.retain_mut(|connection| {
                number += 1;
                let goes_on = connection.deadline > now
                    && (!ready[number] || connection.advance(&answer).unwrap_or(false));
                if !goes_on {
                    self.done.push_back(connection.id);
                }
                goes_on
            });
            if ready[0] {
                self.take_clients(now)?;
            }
            self.tell_done()?;
        }
    }

    fn wait(&self, now: Instant) -> io::Result<Vec<bool>> {
        let room = if self.done.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds = vec![PollFd::new(&self.link, PollFlags::IN | room)];
        fds.extend(self.connections.iter().map(|connection| {
            let flags = if connection.response.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            PollFd::new(&connection.stream, flags)
        }));
        let oldest = self.connections.front().map(|oldest| oldest.deadline.saturating_duration_since(now));
        let timeout = oldest.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    fn take_clients(&mut self, now: Instant) -> io::Result<()> {
        loop {
            match self.link.receive() {
                Ok((ToSupervisor::Client { id }, Some(fd))) => {
                    if self.connections.len() == MAX_CONNECTIONS
                        && let Some(oldest) = self.connections.pop_front()
                    {
                        self.done.push_back(oldest.id);
                    }
                    match Connection::new(id, fd.into(), now) {
                        Ok(connection) => self.connections.push_back(connection),
                        // The client is gone, or was answered by an earlier supervisor.
                        Err(_) => self.done.push_back(id),
                    }
                }
                // A message that this supervisor does not know.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::InvalidData => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn tell_done(&mut self) -> io::Result<()> {
        while let Some(id) = self.done.front() {
            match self.link.send(&ToInit::Done { id: *id }, None) {
                Ok(()) => self.done.pop_front(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

impl Connection {
    /// A client that was not answered yet. An error when there is nothing to do for it.
    fn new(id: u64, stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        sys::set_low_water(&stream, 1)?;
        let connection =
            Self { id, stream, deadline: now + TIMEOUT, request: 0, response: vec![], written: 0 };
        if sys::bytes_written(&connection.stream)? > 0 {
            // The supervisor that answered died before it could say so.
            connection.finish()?;
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(connection)
    }

    /// Reads or writes what can be without waiting. Returns whether the connection goes on.
    fn advance(&mut self, answer: &impl Fn(&Request<'_>) -> Response) -> io::Result<bool> {
        if self.response.is_empty() && !self.read_request(answer)? {
            return Ok(false);
        }
        while self.written < self.response.len() {
            match self.stream.write(&self.response[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        if self.response.is_empty() {
            return Ok(true);
        }
        self.finish()?;
        Ok(false)
    }

    /// Looks at what the client sent, without taking it: until the answer is out, another supervisor may need it.
    /// Returns whether the client still talks.
    fn read_request(&mut self, answer: &impl Fn(&Request<'_>) -> Response) -> io::Result<bool> {
        let mut buffer = [0; MAX_REQUEST];
        match self.stream.peek(&mut buffer) {
            Ok(length) if length == self.request => return Ok(false),
            Ok(length) => self.request = length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        match respond(&buffer[..self.request], answer) {
            Some(response) => self.response = response,
            // What is there would be reported again and again; only more of it is of interest.
            None => sys::set_low_water(&self.stream, self.request + 1)?,
        }
        Ok(true)
    }

    /// Takes what the client sent, because closing a socket with unread bytes resets the connection, and says that no
    /// more comes. PID 1's copy of the socket closes it.
    fn finish(&self) -> io::Result<()> {
        let mut buffer = [0; MAX_REQUEST];
        while (&self.stream).read(&mut buffer).is_ok_and(|length| length > 0) {}
        self.stream.shutdown(Shutdown::Write)
    }
}

/// The answer to the bytes that a client sent, once they are enough for one.
fn respond(bytes: &[u8], answer: &impl Fn(&Request<'_>) -> Response) -> Option<Vec<u8>> {
    if !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let too_long = bytes.len() == MAX_REQUEST;
        return too_long.then(|| Response::text(431, "the request is too long\n".into()).render(true));
    }
    let request = std::str::from_utf8(bytes).ok().and_then(Request::parse);
    Some(match request {
        Some(request) => answer(&request).render(request.method != "HEAD"),
        None => Response::text(400, "this is no HTTP/1.1 request\n".into()).render(true),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    fn responded(bytes: &str) -> Option<String> {
        let answer = |request: &Request<'_>| {
            Response::text(200, format!("{}\n", request.path)).with_header("X-Test", "yes".into())
        };
        respond(bytes.as_bytes(), &answer).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn answers_a_whole_request_only() {
        assert_eq!(responded("GET /readyz HTTP/1.1\r\nHost: x\r\n"), None);
        let text = responded("GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 8\r\nCache-Control: no-store\r\nConnection: close\r\nX-Test: yes\r\n\r\n/readyz\n"), "{text}");
        let head = responded("HEAD / HTTP/1.0\r\n\r\n").unwrap();
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn refuses_what_is_no_request() {
        for bytes in
            ["\r\n\r\n", "GET /\r\n\r\n", "GET x HTTP/1.1\r\n\r\n", "GET / HTTP/2\r\n\r\n", "a b c d\r\n\r\n"]
        {
            assert!(responded(bytes).unwrap().starts_with("HTTP/1.1 400 "), "{bytes:?}");
        }
        assert!(responded(&"x".repeat(MAX_REQUEST)).unwrap().starts_with("HTTP/1.1 431 "));
    }

    /// A served client, and PID 1's end of the link and copy of the client's socket.
    struct Served {
        link: Link,
        ours: TcpStream,
        client: TcpStream,
        /// Another client, which says nothing.
        silent: (TcpStream, TcpStream),
    }

    fn socket() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    fn served(prepare: impl FnOnce(&mut TcpStream, &mut TcpStream)) -> Served {
        let (link, theirs) = Link::pair().unwrap();
        let (mut ours, mut client) = socket();
        prepare(&mut ours, &mut client);
        let server = Server::new(Link::over(theirs));
        std::thread::spawn(move || server.serve(|_| Response::text(200, "ok\n".into())));
        let silent = socket();
        link.send(&ToSupervisor::Client { id: 1 }, Some(silent.0.as_fd())).unwrap();
        link.send(&ToSupervisor::Client { id: 2 }, Some(ours.as_fd())).unwrap();
        Served { link, ours, client, silent }
    }

    fn wait_done(link: &Link) -> ToInit {
        rustix::event::poll(&mut [PollFd::new(link, PollFlags::IN)], None).unwrap();
        link.receive().unwrap().0
    }

    fn read_all(mut client: TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_client_is_answered_while_another_is_silent() {
        let Served { link, ours, mut client, silent: _silent } = served(|_, _| {});
        for part in [&b"GET / HT"[..], b"TP/1.1\r\n", b"\r\n"] {
            client.write_all(part).unwrap();
        }
        assert_eq!(wait_done(&link), ToInit::Done { id: 2 });
        drop(ours);
        let text = read_all(client);
        assert!(text.ends_with("\r\n\r\nok\n"), "{text}");
    }

    #[test]
    fn what_an_earlier_supervisor_answered_is_not_answered_again() {
        let answered = "HTTP/1.1 200 OK\r\n\r\nearlier";
        let Served { link, ours, client, silent: _silent } = served(|ours, client| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            ours.write_all(answered.as_bytes()).unwrap();
        });
        assert_eq!(wait_done(&link), ToInit::Done { id: 2 });
        drop(ours);
        // Neither a second answer nor a reset.
        assert_eq!(read_all(client), answered);
    }
}
