//! Replies of HTTP/1.1, RFC 9112: their ends, what of them the client gets, and their digest.

use bytes::{Buf, Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, Status};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::chunked;
use super::http::{
    Http, MAX_HEAD, MAX_HEADERS, OF_CONNECTION, decimal, head_end, is, is_named, put_header, tokens,
};
use super::types::{Reply, ReplyError, Shape};

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
    buffer: &mut BytesMut,
    shape: Shape,
    most: usize,
) -> Result<Option<Reply>, ReplyError> {
    loop {
        let Some(head) = head_end(&buffer[..buffer.len().min(MAX_HEAD)]) else {
            return if buffer.len() >= MAX_HEAD { Err(ReplyError::TooLong) } else { Ok(None) };
        };
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let status = parsed.parse(&buffer[..head]);
        let Ok(Status::Complete(_)) = status else {
            return Err(ReplyError::Malformed("its head is not one of HTTP/1.1"));
        };
        let code = parsed.code.unwrap_or_default();
        if code == 101 {
            return Err(ReplyError::Malformed("it changes the protocol"));
        }
        if code < 200 {
            // What is said before the reply is for nobody: the request was sent whole.
            buffer.advance(head);
            continue;
        }
        let is_old = parsed.version == Some(0);
        let headers = &*parsed.headers;
        let is_empty = shape == Shape::Head || code == 204 || code == 304;
        let Some(end) = end(headers, is_empty, &buffer[head..], most)? else { return Ok(None) };
        let has_token = |token: &[u8]| {
            let lists = headers.iter().filter(|header| is(header, "connection"));
            lists.flat_map(|header| tokens(header.value)).any(|found| found.eq_ignore_ascii_case(token))
        };
        let close = has_token(b"close") || (is_old && !has_token(b"keep-alive"));
        let of_head = digest_of_head(http, code, headers);
        let is_as_it_came =
            !end.is_chunked && !is_old && headers.iter().all(|header| is_passed(headers, header));
        let (bytes, at) = if is_as_it_came {
            (None, head)
        } else {
            let out =
                write(code, parsed.reason.unwrap_or_default(), headers, &buffer[head..], &end, is_empty);
            (Some(out.0), out.1)
        };
        let bytes = match bytes {
            Some(bytes) => {
                buffer.advance(head + end.coded);
                bytes
            }
            None => buffer.split_to(head + end.coded).freeze(),
        };
        let digest = xxh3_64_with_seed(&bytes[at..], of_head);
        return Ok(Some(Reply { bytes, digest, close }));
    }
}

/// Where the body ends; none while it is not whole.
fn end(headers: &[Header<'_>], is_empty: bool, coded: &[u8], most: usize) -> Result<Option<End>, ReplyError> {
    if is_empty {
        return Ok(Some(End { coded: 0, body: 0, is_chunked: false }));
    }
    let mut codings = headers.iter().filter(|header| is(header, "transfer-encoding"));
    if let Some(coding) = codings.next() {
        if !coding.value.trim_ascii().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(ReplyError::Malformed("its transfer coding is not chunked alone"));
        }
        let chunks = chunked::look(coded, 0, 0, most)?;
        let end = End { coded: chunks.seen, body: chunks.body, is_chunked: true };
        return Ok(chunks.is_whole.then_some(end));
    }
    let mut lengths = headers.iter().filter(|header| is(header, "content-length"));
    let length = lengths.next().ok_or(ReplyError::Endless)?;
    let length = decimal(length.value).filter(|_| lengths.next().is_none());
    let length = length.ok_or(ReplyError::Malformed("its Content-Length is no number"))?;
    if length > most {
        return Err(ReplyError::TooLong);
    }
    Ok((coded.len() >= length).then_some(End { coded: length, body: length, is_chunked: false }))
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
