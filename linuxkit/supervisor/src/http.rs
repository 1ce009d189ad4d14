//! HTTP/1.1 as a health endpoint needs it: small requests and small answers. A connection ends with its first answer, unless
//! the client asks to keep it (`Connection: keep-alive`). The first request stays in the socket until its answer is out, so
//! that another supervisor can take a client over; one that has had an answer connects again, as HTTP has it.
//!
//! A request may wait for another answer than its client has ([`wait`]). It stays in the socket meanwhile, and costs its place
//! among the clients and nothing else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use i2kit_spec::status::wait;
use rustix::event::PollFlags;

/// The largest request; health checks send a few hundred bytes.
const MAX_REQUEST: usize = 8 * 1024;

/// How long a client may take for a request and its answer, and a connection that is kept may be silent.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The first line of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Without its query.
    pub(crate) path: &'a str,
}

impl<'a> Request<'a> {
    /// Reads the first line of a request's head.
    fn parse(head: &'a str) -> Option<Self> {
        let mut words = head.lines().next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let valid = words.next().is_none() && version.starts_with("HTTP/1.") && target.starts_with('/');
        let path = target.split('?').next()?;
        valid.then_some(Self { method, path })
    }
}

/// Whether a request with this head leaves its connection to another one: the client asks for that, and no body follows.
fn is_kept(head: &str) -> bool {
    let mut keeps = false;
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" | "transfer-encoding" => return false,
            "connection" => {
                keeps |= value.split(',').any(|option| option.trim().eq_ignore_ascii_case("keep-alive"));
            }
            _ => {}
        }
    }
    keeps
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Response {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
    /// What tells this answer from a later one to the same request, where a client may wait for that.
    tag: Option<String>,
}

impl Response {
    /// An answer in plain text.
    pub(crate) fn text(status: u16, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", headers: vec![], body, tag: None }
    }

    /// A document.
    pub(crate) fn json(document: &impl serde::Serialize) -> Self {
        match serde_json::to_string(document) {
            Ok(body) => Self { content_type: "application/json", ..Self::text(200, body) },
            Err(error) => Self::text(503, format!("the document cannot be written: {error}\n")),
        }
    }

    /// Metrics in Prometheus' text format.
    pub(crate) fn metrics(body: String) -> Self {
        Self { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Self::text(200, body) }
    }

    /// The same with one more header.
    pub(crate) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with a tag: a client that knows it may wait for another one.
    pub(crate) fn with_tag(self, tag: String) -> Self {
        Self { tag: Some(tag.clone()), ..self.with_header(wait::TAG, tag) }
    }

    fn render(&self, with_body: bool, is_kept: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: {}\r\n",
            self.status,
            self.content_type,
            self.body.len(),
            if is_kept { "keep-alive" } else { "close" }
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

/// An answer, and what becomes of the connection.
#[derive(Debug, Default)]
struct Answer {
    bytes: Vec<u8>,
    /// The length of the request, where the connection is kept for another one.
    kept: Option<usize>,
    /// How long the client would rather wait for another answer.
    wait: Duration,
}

/// What gives a client its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occasion {
    pub(crate) now: Instant,
    /// Whether there is something to read, or room to write.
    pub(crate) is_ready: bool,
    /// Whether its request may wait.
    pub(crate) may_wait: bool,
}

/// Where a connection is after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The client or the network has to go on.
    Waits,
    /// An answer is out, and another request may come.
    Answered,
    /// It is over.
    Ended,
}

/// A client and how far it is.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) stream: TcpStream,
    pub(crate) deadline: Instant,
    /// How many bytes the request has; they stay in the socket until they are answered.
    request: usize,
    /// Without bytes until the request is complete.
    response: Answer,
    written: usize,
    /// Until when the request waits for another answer, while it does.
    held: Option<Instant>,
}

impl Connection {
    /// A client that was not answered yet. An error when there is nothing to do for it.
    pub(crate) fn new(id: u64, stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        i2kit_sys::set_low_water(&stream, 1)?;
        let response = Answer::default();
        let deadline = now + TIMEOUT;
        let connection = Self { id, stream, deadline, request: 0, response, written: 0, held: None };
        if i2kit_sys::bytes_written(&connection.stream)? > 0 {
            // The supervisor that answered died before it could report it.
            connection.finish()?;
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(connection)
    }

    /// What to poll its socket for.
    pub(crate) fn wants(&self) -> PollFlags {
        if self.response.bytes.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// Whether its request waits for another answer.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// When it is to have a turn, whatever its client does.
    pub(crate) fn due(&self) -> Instant {
        self.held.unwrap_or(self.deadline)
    }

    /// Reads or writes what can be without waiting.
    pub(crate) fn advance(&mut self, occasion: Occasion, answer: &impl Fn(&Request<'_>) -> Response) -> Turn {
        self.try_advance(occasion, answer).unwrap_or(Turn::Ended)
    }

    fn try_advance(
        &mut self,
        occasion: Occasion,
        answer: &impl Fn(&Request<'_>) -> Response,
    ) -> io::Result<Turn> {
        if self.response.bytes.is_empty() && !self.read_request(occasion, answer)? {
            return Ok(Turn::Ended);
        }
        while self.written < self.response.bytes.len() {
            match self.stream.write(&self.response.bytes[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) => return Err(error),
            }
        }
        if self.response.bytes.is_empty() {
            return Ok(Turn::Waits);
        }
        let Some(length) = self.response.kept else {
            self.finish()?;
            return Ok(Turn::Ended);
        };
        // What was looked at is there.
        self.stream.read_exact(&mut [0; MAX_REQUEST][..length])?;
        i2kit_sys::set_low_water(&self.stream, 1)?;
        (self.request, self.response, self.written) = (0, Answer::default(), 0);
        self.deadline = occasion.now + TIMEOUT;
        Ok(Turn::Answered)
    }

    /// Looks at what the client sent, without taking it: until the answer is out, another supervisor may need it.
    /// Returns whether the client still talks.
    fn read_request(
        &mut self,
        Occasion { now, is_ready, may_wait }: Occasion,
        answer: &impl Fn(&Request<'_>) -> Response,
    ) -> io::Result<bool> {
        let mut buffer = [0; MAX_REQUEST];
        match self.stream.peek(&mut buffer) {
            // Nothing more came and nothing will, unless it is looked at because its time has come.
            Ok(length) if length == self.request && (is_ready || !self.is_held()) => return Ok(false),
            Ok(length) => self.request = length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        let answered = respond(&buffer[..self.request], answer);
        let until = answered.as_ref().filter(|answer| may_wait && !answer.wait.is_zero());
        let until = until.map(|answer| self.held.unwrap_or(now + answer.wait)).filter(|until| now < *until);
        match answered {
            Some(response) if until.is_none() => (self.response, self.held) = (response, None),
            // What is there would be reported again and again; only more of it is of interest.
            _ => i2kit_sys::set_low_water(&self.stream, self.request + 1)?,
        }
        if let Some(until) = until {
            (self.held, self.deadline) = (Some(until), until + TIMEOUT);
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
fn respond(bytes: &[u8], answer: &impl Fn(&Request<'_>) -> Response) -> Option<Answer> {
    let last = |response: &Response| Answer { bytes: response.render(true, false), ..Answer::default() };
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        let too_long = bytes.len() == MAX_REQUEST;
        return too_long.then(|| last(&Response::text(431, "the request is too long\n".into())));
    };
    let length = end + 4;
    let head = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
    Some(match Request::parse(head) {
        Some(request) => {
            let is_kept = is_kept(head);
            let response = answer(&request);
            let wait = response.tag.as_deref().map_or(Duration::ZERO, |tag| wait::granted(head, tag).into());
            let bytes = response.render(request.method != "HEAD", is_kept);
            Answer { bytes, kept: is_kept.then_some(length), wait }
        }
        None => last(&Response::text(400, "this is no HTTP/1.1 request\n".into())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::survive;

    fn responded(bytes: &str) -> Option<String> {
        let answer = |request: &Request<'_>| {
            Response::text(200, format!("{}\n", request.path)).with_header("X-Test", "yes".into())
        };
        respond(bytes.as_bytes(), &answer).map(|answer| String::from_utf8(answer.bytes).unwrap())
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

    #[test]
    fn a_connection_is_kept_for_a_client_that_asks_and_sends_no_body() {
        for (headers, is_kept) in [
            ("Connection: keep-alive\r\n", true),
            ("host: x\r\nCONNECTION: TE, Keep-Alive\r\n", true),
            ("Host: keep-alive\r\n", false),
            ("Connection: close\r\n", false),
            ("Connection: keep-alive\r\nContent-Length: 3\r\n", false),
            ("Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", false),
        ] {
            let request = format!("GET / HTTP/1.1\r\n{headers}\r\n");
            let answer =
                respond(format!("{request}GET /next").as_bytes(), &|_| Response::text(200, "ok".into()));
            let answer = answer.unwrap();
            assert_eq!(answer.kept, is_kept.then_some(request.len()), "{headers}");
            let text = String::from_utf8(answer.bytes).unwrap();
            let said = if is_kept { "\r\nConnection: keep-alive\r\n" } else { "\r\nConnection: close\r\n" };
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn whatever_a_client_sends_is_answered_or_waited_for() {
        let seeds = [
            "GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            format!(
                "GET /status HTTP/1.1\r\nConnection: keep-alive\r\n{}\r\nGET /next",
                wait::headers("a1", i2kit_spec::Seconds(4))
            ),
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nConnection: TE, Keep-Alive\r\n\r\nabc".to_owned(),
        ];
        let answer = |_: &Request<'_>| Response::text(200, "ok\n".into()).with_tag("a1".into());
        survive(&seeds.map(String::into_bytes), 4000, |bytes| {
            let Some(answered) = respond(bytes, &answer) else {
                assert!(!bytes.windows(4).any(|window| window == b"\r\n\r\n"), "a whole head is answered");
                return;
            };
            assert!(answered.bytes.starts_with(b"HTTP/1.1 "));
            assert!(answered.kept.is_none_or(|length| length <= bytes.len()));
            assert!(answered.wait <= Duration::from(wait::LONGEST));
        });
    }
}
