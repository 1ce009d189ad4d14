//! Replies of HTTP/1.1, RFC 9112: their ends, what of them the client gets, and their digest.

use bytes::{Buf, Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, Status};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::chunked;
use super::http::{
    Http, MAX_HEAD, MAX_HEADERS, OF_CONNECTION, decimal, head_end, is, is_named, put_header, tokens,
};
use super::types::{Coding, Reply, ReplyError, ReplyProgress, Shape};

/// Headers that are never part of the digest: they differ between replicas by their nature, or the body tells them.
const VOLATILE: &[&str] = &["age", "date", "server"];

/// Where a reply ends.
struct End {
    /// Bytes of the body, or of its chunks.
    coded: usize,
    /// Bytes of the body.
    body: usize,
    is_chunked: bool,
}

/// Takes the next reply from the front of `buffer`; none while it is not whole. `most` is the longest body.
pub(super) fn reply(
    http: &Http,
    progress: &mut ReplyProgress,
    buffer: &mut BytesMut,
    shape: Shape,
    most: usize,
) -> Result<Option<Reply>, ReplyError> {
    loop {
        if progress.coding == Coding::Unknown {
            let from = progress.seen;
            let Some(head) = head_end(buffer.get(from..buffer.len().min(MAX_HEAD)).unwrap_or_default())
            else {
                // Its end may begin with the last two bytes.
                progress.seen = buffer.len().saturating_sub(2);
                return if buffer.len() >= MAX_HEAD { Err(ReplyError::TooLong) } else { Ok(None) };
            };
            let head = from + head;
            match coding(&buffer[..head], shape, most)? {
                // What is said before the reply is for nobody: the request was sent whole.
                None => buffer.advance(head),
                Some(coding) => (progress.head, progress.coding) = (head, coding),
            }
            progress.seen = 0;
            continue;
        }
        let Some(end) = end(progress, &buffer[progress.head..], most)? else { return Ok(None) };
        return take(http, buffer, progress.head, &end, shape).map(Some);
    }
}

/// Reads a whole head: where its body ends; none of what comes before a reply.
fn coding(head: &[u8], shape: Shape, most: usize) -> Result<Option<Coding>, ReplyError> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let parsed = parsed(head, &mut headers)?;
    let code = parsed.code.unwrap_or_default();
    if code == 101 {
        return Err(ReplyError::Malformed("it changes the protocol"));
    }
    if code < 200 {
        return Ok(None);
    }
    if is_empty(code, shape) {
        return Ok(Some(Coding::Length(0)));
    }
    let mut codings = parsed.headers.iter().filter(|header| is(header, "transfer-encoding"));
    if let Some(coding) = codings.next() {
        if !coding.value.trim_ascii().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(ReplyError::Malformed("its transfer coding is not chunked alone"));
        }
        return Ok(Some(Coding::Chunked));
    }
    let mut lengths = parsed.headers.iter().filter(|header| is(header, "content-length"));
    let length = lengths.next().ok_or(ReplyError::Endless)?;
    let length = decimal(length.value).filter(|_| lengths.next().is_none());
    let length = length.ok_or(ReplyError::Malformed("its Content-Length is no number"))?;
    if length > most { Err(ReplyError::TooLong) } else { Ok(Some(Coding::Length(length))) }
}

fn parsed<'h, 'b>(
    head: &'b [u8],
    headers: &'h mut [Header<'b>],
) -> Result<httparse::Response<'h, 'b>, ReplyError> {
    let mut parsed = httparse::Response::new(headers);
    match parsed.parse(head) {
        Ok(Status::Complete(_)) => Ok(parsed),
        _ => Err(ReplyError::Malformed("its head is not one of HTTP/1.1")),
    }
}

/// Whether a reply has no body, whatever its head says.
fn is_empty(code: u16, shape: Shape) -> bool {
    shape == Shape::Head || code == 204 || code == 304
}

/// Where the body ends; none while it is not whole.
fn end(progress: &mut ReplyProgress, coded: &[u8], most: usize) -> Result<Option<End>, ReplyError> {
    match progress.coding {
        Coding::Unknown => Ok(None),
        Coding::Length(length) => {
            Ok((coded.len() >= length).then_some(End { coded: length, body: length, is_chunked: false }))
        }
        Coding::Chunked => {
            let chunks = chunked::look(coded, progress.seen, progress.body, most)?;
            (progress.seen, progress.body) = (chunks.seen, chunks.body);
            let end = End { coded: chunks.seen, body: chunks.body, is_chunked: true };
            Ok(chunks.is_whole.then_some(end))
        }
    }
}

/// Takes a reply with a head of so many bytes, whose end is known.
fn take(
    http: &Http,
    buffer: &mut BytesMut,
    head: usize,
    end: &End,
    shape: Shape,
) -> Result<Reply, ReplyError> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let parsed = parsed(&buffer[..head], &mut headers)?;
    let code = parsed.code.unwrap_or_default();
    let is_old = parsed.version == Some(0);
    let headers = &*parsed.headers;
    let has_token = |token: &[u8]| {
        let lists = headers.iter().filter(|header| is(header, "connection"));
        lists.flat_map(|header| tokens(header.value)).any(|found| found.eq_ignore_ascii_case(token))
    };
    let close = has_token(b"close") || (is_old && !has_token(b"keep-alive"));
    let of_head = digest_of_head(http, code, headers);
    let is_as_it_came = !end.is_chunked && !is_old && headers.iter().all(|header| is_passed(headers, header));
    let written = (!is_as_it_came).then(|| {
        let reason = parsed.reason.unwrap_or_default();
        write(code, reason, headers, &buffer[head..], end, is_empty(code, shape))
    });
    let (bytes, at) = match written {
        Some(written) => {
            buffer.advance(head + end.coded);
            written
        }
        None => (buffer.split_to(head + end.coded).freeze(), head),
    };
    let digest = xxh3_64_with_seed(&bytes[at..], of_head);
    Ok(Reply { bytes, digest, close })
}

/// Whether the client gets a header.
fn is_passed(headers: &[Header<'_>], header: &Header<'_>) -> bool {
    is(header, "content-length")
        || (!OF_CONNECTION.iter().any(|name| is(header, name)) && !is_named(headers, header.name))
}

/// Writes a reply anew, without what is for the connection to the application; and the bytes of its head.
fn write(
    code: u16,
    reason: &str,
    headers: &[Header<'_>],
    coded: &[u8],
    end: &End,
    is_empty: bool,
) -> (Bytes, usize) {
    let mut out = BytesMut::with_capacity(512 + end.body);
    out.extend_from_slice(format!("HTTP/1.1 {code} {reason}\r\n").as_bytes());
    for header in headers.iter().filter(|header| is_passed(headers, header)) {
        if is(header, "content-length") && !is_empty {
            continue;
        }
        put_header(&mut out, header);
    }
    if !is_empty {
        out.extend_from_slice(format!("Content-Length: {}\r\n", end.body).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    let at = out.len();
    if end.is_chunked {
        chunked::data(coded, |piece| out.extend_from_slice(piece));
    } else {
        out.extend_from_slice(&coded[..end.coded]);
    }
    (out.freeze(), at)
}

/// The digest of status and headers. Servers that keep headers in hash tables send them in any order, so that the order does
/// not count.
fn digest_of_head(http: &Http, code: u16, headers: &[Header<'_>]) -> u64 {
    let is_left_out = |header: &Header<'_>| {
        let own = VOLATILE.iter().chain(OF_CONNECTION).any(|name| is(header, name));
        own || is_named(headers, header.name) || http.volatile.iter().any(|name| is(header, name))
    };
    let mut digest = xxh3_64(&code.to_le_bytes());
    for header in headers.iter().filter(|header| !is_left_out(header)) {
        let name = xxh3_64(header.name.to_ascii_lowercase().as_bytes());
        digest = digest.wrapping_add(xxh3_64_with_seed(header.value, name));
    }
    digest
}
