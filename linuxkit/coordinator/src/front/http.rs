//! Requests of HTTP/1.1, RFC 9112, whole in memory and written anew: what reaches the application has one length, told in one
//! way, so that no two servers can see different ends in it.

use bytes::{Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, Status};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::chunked::{self, ChunkError};
use super::types::{Agreed, Inbound, Kind, Outcome, Progress, Refusal, Request, Word};

/// The longest head of a request or reply, in bytes.
pub(super) const MAX_HEAD: usize = 64 << 10;

/// The most headers of a request or reply.
pub(super) const MAX_HEADERS: usize = 100;

/// The longest `Idempotency-Key`, in bytes: replicas keep 100,000 of them.
const MAX_KEY: usize = 255;

/// Headers for the connection alone (RFC 9110 7.6.1), those that tell the length of the body, which is told anew, and `Expect`,
/// which the front itself answers.
pub(super) const OF_CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that all replicas agree on: a client's own ones of these names do not reach the application.
const AGREED: &[&str] = &["i2kit-time", "i2kit-index", "i2kit-seed"];

/// The options of a group that has HTTP.
#[derive(Debug, Clone, Default)]
pub(crate) struct Http {
    /// Names of headers, in lower case, that are left out of the digest of a reply.
    pub(super) volatile: Vec<String>,
}

impl Http {
    pub(super) fn new(volatile: &[String]) -> Self {
        Self { volatile: volatile.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
}

/// The head of a request.
struct Head<'h, 'b> {
    method: &'b str,
    target: &'b str,
    headers: &'h [Header<'b>],
    body: Body,
    has_host: bool,
    /// The number behind `HTTP/1.`.
    version: u8,
    key: Option<&'b [u8]>,
    close: bool,
    waits_for_continue: bool,
}

/// Takes the next request from the front of `buffer`; none while it is not whole. `most` is the longest body.
pub(super) fn request(
    progress: &mut Progress,
    buffer: &mut BytesMut,
    most: usize,
) -> Result<Option<Inbound>, Refusal> {
    if progress.head == 0 {
        let empty = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if progress.seen == 0 && empty > 0 {
            let _ = buffer.split_to(empty);
        }
        if buffer.first() == Some(&0x16) {
            return Err(refusal(400, "this port speaks HTTP without TLS"));
        }
        if !find_head(progress, buffer)? {
            return Ok(None);
        }
    }
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let head = progress.head;
    if progress.wanted == 0 {
        let parsed = parse(&buffer[..head], &mut headers)?;
        begin_body(progress, &parsed, most)?;
    }
    let coded = &buffer[head..];
    if progress.is_chunked {
        let chunks =
            chunked::look(coded, progress.seen, progress.body, most).map_err(|error| match error {
                ChunkError::Malformed => refusal(400, "the chunks of the body are not those of RFC 9112"),
                ChunkError::TooLong => refusal(413, "the body is longer than the group takes"),
            })?;
        (progress.seen, progress.body) = (chunks.seen, chunks.body);
        if !chunks.is_whole {
            offer_continue(progress, coded.is_empty());
            return Ok(None);
        }
    } else if coded.len() < progress.body {
        offer_continue(progress, coded.is_empty());
        return Ok(None);
    } else {
        progress.seen = progress.body;
    }
    let coded = &coded[..progress.seen];
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let parsed = parse(&buffer[..head], &mut headers)?;
    let request = write(&parsed, coded, progress);
    let _ = buffer.split_to(head + progress.seen);
    progress.restart();
    Ok(Some(Inbound::Request(request)))
}

/// Looks for the end of the head, and whether it is there.
fn find_head(progress: &mut Progress, buffer: &BytesMut) -> Result<bool, Refusal> {
    let from = progress.seen.saturating_sub(3);
    if let Some(end) = head_end(&buffer[from..]) {
        progress.head = from + end;
        progress.seen = 0;
    } else {
        progress.seen = buffer.len();
    }
    if progress.head.max(progress.seen) > MAX_HEAD {
        return Err(refusal(431, "the head of the request is longer than 64 KiB"));
    }
    Ok(progress.head > 0)
}

/// Bytes up to the end of a head, with its empty line.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.find_map(|at| match bytes.get(at..) {
        Some([b'\n', ..]) => Some(at + 1),
        Some([b'\r', b'\n', ..]) => Some(at + 2),
        _ => None,
    })
}

/// Notes how long the body is.
fn begin_body(progress: &mut Progress, head: &Head<'_, '_>, most: usize) -> Result<(), Refusal> {
    let length = match head.body {
        Body::Length(length) if length > most => {
            return Err(refusal(413, "the body is longer than the group takes"));
        }
        Body::Length(length) => {
            progress.body = length;
            length
        }
        Body::Chunked => {
            progress.is_chunked = true;
            most
        }
    };
    progress.wanted = progress.head.saturating_add(length);
    progress.word = if head.waits_for_continue { Word::Asked } else { Word::None };
    Ok(())
}

/// A client that waits for a word before its body gets it once, unless the body is on its way.
fn offer_continue(progress: &mut Progress, is_silent: bool) {
    if progress.word == Word::Asked {
        progress.word = if is_silent { Word::Due } else { Word::None };
    }
}

/// Reads a head, and refuses what has two meanings or none here.
fn parse<'h, 'b>(bytes: &'b [u8], headers: &'h mut [Header<'b>]) -> Result<Head<'h, 'b>, Refusal> {
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        return Err(refusal(501, "a replicated group speaks HTTP/1.1, not HTTP/2"));
    }
    let mut parsed = httparse::Request::new(headers);
    let status = parsed.parse(bytes).map_err(|error| match error {
        httparse::Error::TooManyHeaders => refusal(431, "the request has more than 100 headers"),
        httparse::Error::Version => refusal(505, "a replicated group speaks HTTP/1.1"),
        _ => refusal(400, "this is no request of HTTP/1.1"),
    })?;
    let (Status::Complete(_), Some(method), Some(target)) = (status, parsed.method, parsed.path) else {
        return Err(refusal(400, "this is no request of HTTP/1.1"));
    };
    let is_old = parsed.version == Some(0);
    let headers = &*parsed.headers;
    let mut head = Head {
        method,
        target,
        headers,
        body: Body::Length(0),
        has_host: false,
        version: parsed.version.unwrap_or_default(),
        key: None,
        close: is_old,
        waits_for_continue: false,
    };
    if method == "CONNECT" {
        return Err(refusal(501, "a replicated group has no CONNECT"));
    }
    let mut lengths = headers.iter().filter(|header| is(header, "content-length"));
    let length = lengths.next();
    let codings = headers.iter().filter(|header| is(header, "transfer-encoding")).count();
    if lengths.next().is_some() || codings > 1 || (codings == 1 && (length.is_some() || is_old)) {
        return Err(refusal(400, "the length of the body is told twice"));
    }
    if let Some(length) = length {
        head.body = Body::Length(decimal(length.value).ok_or(refusal(400, "Content-Length is no number"))?);
    }
    for header in headers {
        read_header(&mut head, header)?;
    }
    if !head.has_host && !is_old {
        return Err(refusal(400, "a request of HTTP/1.1 has one Host"));
    }
    Ok(head)
}

/// Takes what one header says about the request.
fn read_header<'b>(head: &mut Head<'_, 'b>, header: &Header<'b>) -> Result<(), Refusal> {
    let value = header.value.trim_ascii();
    if is(header, "transfer-encoding") {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(refusal(501, "a replicated group takes no transfer coding but chunked"));
        }
        head.body = Body::Chunked;
    } else if is(header, "connection") {
        head.close |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"close"));
    } else if is(header, "upgrade") {
        return Err(refusal(501, "a replicated group has no Upgrade: no WebSocket and no HTTP/2"));
    } else if is(header, "expect") {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(refusal(417, "the only expectation is 100-continue"));
        }
        head.waits_for_continue = head.version > 0;
    } else if is(header, "host") {
        if head.has_host {
            return Err(refusal(400, "a request of HTTP/1.1 has one Host"));
        }
        head.has_host = true;
    } else if is(header, "content-type") && is_grpc(value) {
        return Err(refusal(501, "a replicated group has no gRPC"));
    } else if is(header, "idempotency-key") {
        if value.is_empty() || value.len() > MAX_KEY || head.key.is_some() {
            return Err(refusal(400, "there is one Idempotency-Key, of 1 to 255 bytes"));
        }
        head.key = Some(value);
    }
    Ok(())
}

fn is_grpc(value: &[u8]) -> bool {
    value.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"))
}

pub(super) fn is(header: &Header<'_>, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// The elements of a header that is a list.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// A number of digits alone: a sign or a list is none.
pub(super) fn decimal(value: &[u8]) -> Option<usize> {
    let value = value.trim_ascii();
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// Whether a `Connection` header names this header as one of the connection.
pub(super) fn is_named(headers: &[Header<'_>], name: &str) -> bool {
    let lists = headers.iter().filter(|header| is(header, "connection"));
    lists.flat_map(|header| tokens(header.value)).any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether the application may see a header. CGI makes `_` of `-`, so that both must go.
fn is_passed(head: &Head<'_, '_>, header: &Header<'_>) -> bool {
    let same = |name: &&str| {
        let bytes =
            header.name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
        bytes.eq(name.bytes())
    };
    let is_kept = is(header, "host") || is(header, "idempotency-key");
    !OF_CONNECTION.iter().any(|name| is(header, name))
        && !AGREED.iter().any(same)
        && (is_kept || !is_named(head.headers, header.name))
}

/// Writes the request anew.
fn write(head: &Head<'_, '_>, coded: &[u8], progress: &Progress) -> Request {
    let kind = match head.method {
        "GET" | "HEAD" | "OPTIONS" | "TRACE" => Kind::Read,
        _ => Kind::Write,
    };
    let mut out = BytesMut::with_capacity(progress.head + progress.body + 64);
    for part in [head.method, " ", head.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if !head.has_host {
        out.extend_from_slice(b"Host: \r\n");
    }
    for header in head.headers.iter().filter(|header| is_passed(head, header)) {
        put_header(&mut out, header);
    }
    if kind == Kind::Write || progress.body > 0 {
        out.extend_from_slice(format!("Content-Length: {}\r\n", progress.body).as_bytes());
    }
    // A head has at most `MAX_HEAD` bytes, and a few more of the length.
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(b"\r\n");
    if progress.is_chunked {
        chunked::data(coded, |piece| out.extend_from_slice(piece));
    } else {
        out.extend_from_slice(coded);
    }
    let key = head.key.filter(|_| kind == Kind::Write).map(Bytes::copy_from_slice);
    Request { bytes: out.freeze(), head: length, kind, key, close: head.close }
}

/// Writes a header as it came.
pub(super) fn put_header(out: &mut BytesMut, header: &Header<'_>) {
    for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// xxh3 of a request's first line and body. Its headers may be others when it is sent again, such as those of traces.
pub(super) fn fingerprint(request: &[u8]) -> u64 {
    let line = request.iter().position(|byte| *byte == b'\n').unwrap_or(request.len());
    let body = head_end(request).unwrap_or(request.len());
    xxh3_64_with_seed(&request[body..], xxh3_64(&request[..line]))
}

/// Adds `I2kit-Time`, `I2kit-Index` (of the entry, and the place in it) and `I2kit-Seed` behind the other headers.
pub(super) fn stamp(bytes: &Bytes, head: u32, agreed: &Agreed) -> Bytes {
    let at = usize::try_from(head).map_or(bytes.len(), |at| at.min(bytes.len()));
    let Agreed { time_ms, index, position, seed } = agreed;
    let headers =
        format!("I2kit-Time: {time_ms}\r\nI2kit-Index: {index}.{position}\r\nI2kit-Seed: {seed:016x}\r\n");
    [&bytes[..at], headers.as_bytes(), &bytes[at..]].concat().into()
}

/// What a client gets in place of a reply: 503, or 502 for a request that was executed.
pub(super) fn error(outcome: Outcome, reason: &str) -> Bytes {
    let (status, more) = match outcome {
        Outcome::Unknown | Outcome::NotDone => (503, "Retry-After: 1\r\n"),
        Outcome::Executed => (502, ""),
        Outcome::Another => (422, ""),
    };
    answer(status, outcome, more, reason)
}

/// The answer to a request that is not taken; the connection ends after it.
fn refusal(status: u16, reason: &'static str) -> Refusal {
    let reply = answer(status, Outcome::NotDone, "Connection: close\r\n", reason);
    Refusal { reply, close: true, reason }
}

fn answer(status: u16, outcome: Outcome, more: &str, reason: &str) -> Bytes {
    let phrase = match status {
        400 => "Bad Request",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        505 => "HTTP Version Not Supported",
        _ => "Service Unavailable",
    };
    let (length, outcome) = (reason.len() + 1, outcome.word());
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         I2kit-Outcome: {outcome}\r\n{more}\r\n{reason}\n"
    )
    .into()
}
