//! HTTP/1.1 as a health endpoint needs it: one small request a connection, one small answer, then the end. All
//! connections are served by one thread, so that a client that says nothing keeps nobody waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

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
    stream: TcpStream,
    deadline: Instant,
    request: Vec<u8>,
    /// Empty until the request is complete.
    response: Vec<u8>,
    written: usize,
}

/// Serves requests for ever; returns only when the listening socket fails.
pub(super) fn serve(
    listener: &TcpListener,
    answer: impl Fn(&Request<'_>) -> Response,
) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let mut connections: VecDeque<Connection> = VecDeque::new();
    loop {
        let now = Instant::now();
        connections.retain(|connection| connection.deadline > now);
        let ready = wait(listener, &connections, now)?;
        let mut number = 0;
        connections.retain_mut(|connection| {
            number += 1;
            !ready[number] || connection.advance(&answer).unwrap_or(false)
        });
        if ready[0] {
            accept(listener, &mut connections, now)?;
        }
    }
}

fn wait(listener: &TcpListener, connections: &VecDeque<Connection>, now: Instant) -> io::Result<Vec<bool>> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(connections.iter().map(|connection| {
        let flags = if connection.response.is_empty() { PollFlags::IN } else { PollFlags::OUT };
        PollFd::new(&connection.stream, flags)
    }));
    let timeout = connections.front().map(|oldest| oldest.deadline.saturating_duration_since(now));
    let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn accept(listener: &TcpListener, connections: &mut VecDeque<Connection>, now: Instant) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                if connections.len() == MAX_CONNECTIONS {
                    connections.pop_front();
                }
                let deadline = now + TIMEOUT;
                connections.push_back(Connection {
                    stream,
                    deadline,
                    request: vec![],
                    response: vec![],
                    written: 0,
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The client gave up before it was accepted.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

impl Connection {
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
        self.stream.shutdown(Shutdown::Write)?;
        Ok(false)
    }

    /// Reads what is there and makes the response when the request is complete. Returns whether the client still talks.
    fn read_request(&mut self, answer: &impl Fn(&Request<'_>) -> Response) -> io::Result<bool> {
        let mut buffer = [0; 2048];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => self.request.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            if let Some(response) = respond(&self.request, answer) {
                self.response = response;
                return Ok(true);
            }
        }
    }
}

/// The answer to the bytes that a client sent, once they are enough for one.
fn respond(bytes: &[u8], answer: &impl Fn(&Request<'_>) -> Response) -> Option<Vec<u8>> {
    if !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let too_long = bytes.len() > MAX_REQUEST;
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
        assert!(responded(&"x".repeat(MAX_REQUEST + 1)).unwrap().starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn a_silent_client_does_not_hold_up_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, |_| Response::text(200, "ok\n".into())));
        let _silent = TcpStream::connect(address).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("\r\n\r\nok\n"), "{text}");
    }
}
