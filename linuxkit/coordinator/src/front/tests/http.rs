//! Requests and replies of HTTP/1.1.

use bytes::Bytes;
use i2kit_spec::replica::Framing;
use proptest::prelude::*;

use super::super::types::{Agreed, Inbound, Kind, Outcome, Refusal, ReplyError, Shape};
use super::{framer, inbound, replies, reply, request};

/// Streams of clients that are taken, at least in part.
pub(super) const STREAMS: &[&[u8]] = &[
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\nConnection: close, X-Own\r\nX-Own: 1\r\n\r\n",
    b"\r\nPUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nIdempotency-Key: 7\r\n\r\nhelloHEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nTrailer: T\r\n\r\n5;e=\"x\"\r\nhello\r\n0a\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
    b"DELETE /x HTTP/1.0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nI2kit-Time: 1\r\nI2KIT_SEED: 2\r\n\r\nabc",
    b"PATCH /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n",
];

/// Streams of applications.
pub(super) const REPLIES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\n\r\nhelloHTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\nContent-Length: 9\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nwithout end",
];

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_request_is_written_anew_with_one_length() {
    let http = framer(Framing::Http);
    let cases = [
        (
            "GET /a HTTP/1.1\r\nHost: b\r\nKeep-Alive: 5\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nAccept: */*\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: b\r\nAccept: */*\r\n\r\n",
        ),
        (
            "PUT /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nTE: x\r\n\r\n3\r\nabc\r\n002\r\nde\r\n0\r\nT: 1\r\n\r\n",
            "PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nabcde",
        ),
        ("POST /a HTTP/1.1\r\nHost: b\r\n\r\n", "POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"),
        (
            "GET /a HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nhi",
            "GET /a HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nhi",
        ),
        ("GET /a HTTP/1.0\nAccept: x\n\n", "GET /a HTTP/1.1\r\nHost: \r\nAccept: x\r\n\r\n"),
        (
            "GET /a HTTP/1.1\r\nHost: b\r\nI2kit-Index: 9\r\ni2kit_time: 9\r\nI2KIT-SEED: 9\r\nI2kit-Other: 1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: b\r\nI2kit-Other: 1\r\n\r\n",
        ),
        // A client cannot take Host or its key away by naming them as headers of the connection.
        (
            "POST /a HTTP/1.1\r\nHost: b\r\nConnection: host, idempotency-key\r\nIdempotency-Key: k\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: b\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    for (stream, wanted) in cases {
        assert_eq!(text(&request(&http, stream.as_bytes()).bytes), wanted);
    }
}

#[test]
fn methods_keys_and_ends_are_told() {
    let http = framer(Framing::Http);
    let of = |line: &str, headers: &str| {
        let found = request(&http, format!("{line}\r\nHost: a\r\n{headers}\r\n").as_bytes());
        (found.kind, found.key, found.close)
    };
    for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
        let found = of(&format!("{method} / HTTP/1.1"), "Idempotency-Key: a\r\n");
        assert_eq!(found, (Kind::Read, None, false), "{method}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "get"] {
        let found = of(&format!("{method} / HTTP/1.1"), "Idempotency-Key:  a b \r\n");
        assert_eq!(found, (Kind::Write, Some(Bytes::from_static(b"a b")), false), "{method}");
    }
    assert!(of("GET / HTTP/1.1", "Connection: Close\r\n").2);
    assert!(of("GET / HTTP/1.0", "").2);
    let key = "k".repeat(255);
    assert_eq!(of("PUT / HTTP/1.1", &format!("Idempotency-Key: {key}\r\n")).1, Some(Bytes::from(key)));
}

#[test]
fn requests_with_two_meanings_or_none_here_are_refused() {
    let http = framer(Framing::Http);
    let long_key = format!("POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {}\r\n\r\n", "k".repeat(256));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(100));
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "b".repeat(70_000));
    let chunks =
        |chunks: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let cases = [
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".to_owned()),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
        ),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned()),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nA: b\rContent-Length: 4\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (400, "\x16\x03\x01\x02\0\x01".to_owned()),
        (400, "SSH-2.0-x\r\n\r\n".to_owned()),
        (413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n".to_owned()),
        (413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_owned()),
        (413, chunks("3e9\r\n")),
        (413, chunks("fffffffffffffff\r\n")),
        (400, chunks("ffffffffffffffff1\r\n")),
        (400, chunks("5\nhello\r\n0\r\n\r\n")),
        (400, chunks("5\r\nhelloX0\r\n\r\n")),
        (400, chunks("5;a\rb\r\nhello\r\n")),
        (400, chunks("-1\r\n")),
        (400, chunks(" 5\r\nhello\r\n")),
        (413, chunks(&"1\r\na\r\n".repeat(1001))),
        (431, many),
        (431, endless),
        (400, long_key),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \r\n\r\n".to_owned()),
        (417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n".to_owned()),
        (501, "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (501, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned()),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc+proto\r\n\r\n".to_owned()),
        (501, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (505, "GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned()),
    ];
    for (status, stream) in cases {
        let found = inbound(&http, stream.as_bytes(), &[]);
        let [Err(Refusal { reply, close: true, reason })] = found.as_slice() else {
            panic!("{stream:?} gives {found:?}");
        };
        assert!(reply.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{stream:?}: {}", text(reply));
        assert!(text(reply).contains("\r\nI2kit-Outcome: not-done\r\n") && text(reply).contains(reason));
        // What is said in place of a reply is one itself.
        assert!(super::reply(&http, reply, Shape::Plain).close);
    }
}

#[test]
fn what_is_agreed_stands_behind_the_other_headers() {
    let http = framer(Framing::Http);
    let request =
        request(&http, b"PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nI2kit-Time: 1\r\n\r\nhi");
    let agreed = Agreed { time_ms: 1_700_000_000_123, index: 1299, position: 3, seed: 0xabc };
    let stamped = http.stamp(&request.bytes, request.head, &agreed);
    let wanted = "PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nI2kit-Time: 1700000000123\r\nI2kit-Index: 1299.3\r\n\
                  I2kit-Seed: 0000000000000abc\r\n\r\nhi";
    assert_eq!(text(&stamped), wanted);
    // A head beyond the request, from a log that another program wrote, must not end this one.
    assert!(http.stamp(&request.bytes, u32::MAX, &agreed).starts_with(&request.bytes));
}

#[test]
fn errors_say_what_became_of_the_request() {
    let http = framer(Framing::Http);
    for (outcome, status, word) in [
        (Outcome::Unknown, 503, "unknown"),
        (Outcome::NotDone, 503, "not-done"),
        (Outcome::Executed, 502, "executed"),
    ] {
        let error = http.error(outcome, "no quorum");
        let found = reply(&http, &error, Shape::Plain);
        assert!(!found.close && found.bytes == error);
        assert!(error.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
        assert!(
            text(&error).contains(&format!("\r\nI2kit-Outcome: {word}\r\n"))
                && error.ends_with(b"\r\n\r\nno quorum\n")
        );
    }
}

#[test]
fn a_reply_is_cut_out_and_loses_what_is_for_its_connection() {
    let http = framer(Framing::Http);
    let found = replies(&http, REPLIES[1], Shape::Plain, &[]);
    assert_eq!(found.len(), 1);
    let created = found[0].as_ref().unwrap();
    assert_eq!(text(&created.bytes), "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nabcde");
    let found = replies(&http, REPLIES[3], Shape::Plain, &[]);
    let heads = [
        "HTTP/1.1 304 Not Modified\r\nETag: 1\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ];
    let texts: Vec<&str> = found.iter().map(|found| text(&found.as_ref().unwrap().bytes)).collect();
    assert_eq!(texts, heads);
    assert!(found[1].as_ref().unwrap().close);
    let to_head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
    assert_eq!(reply(&http, to_head, Shape::Head).bytes, &to_head[..]);
    assert_eq!(http.shape(b"HEAD / HTTP/1.1\r\n\r\n"), Shape::Head);
    assert_eq!(http.shape(b"GET /HEAD / HTTP/1.1\r\n\r\n"), Shape::Plain);
    let old = reply(&http, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", Shape::Plain);
    assert!(old.close && old.bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn replies_without_an_end_or_beyond_the_limit_are_errors() {
    let http = framer(Framing::Http);
    let cases: [(&[u8], ReplyError); 5] = [
        (b"HTTP/1.1 200 OK\r\n\r\nx", ReplyError::Endless),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2001\r\n\r\nx", ReplyError::TooLong),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d1\r\n", ReplyError::TooLong),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", ReplyError::Malformed("it changes the protocol")),
        (b"+OK\r\n\r\n\r\n", ReplyError::Malformed("its head is not one of HTTP/1.1")),
    ];
    for (stream, error) in cases {
        assert_eq!(replies(&http, stream, Shape::Plain, &[]), [Err(error)], "{}", stream.escape_ascii());
    }
}

#[test]
fn the_digest_is_of_what_must_be_the_same() {
    let http = framer(Framing::Http);
    let of = |stream: &str| reply(&http, stream.as_bytes(), Shape::Plain).digest;
    let first = of(
        "HTTP/1.1 200 OK\r\nDate: 1\r\nServer: a\r\nA: 1\r\nB: 2\r\nX-Trace: 1\r\nContent-Length: 5\r\n\r\nhello",
    );
    let same = [
        "HTTP/1.1 200 OK\r\nb: 2\r\na: 1\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 Fine\r\nDate: 2\r\nAge: 3\r\nA: 1\r\nB: 2\r\nx-trace: 9\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nConnection: C\r\nC: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ];
    for stream in same {
        assert_eq!(of(stream), first, "{stream}");
    }
    let other = [
        "HTTP/1.1 201 OK\r\nA: 1\r\nB: 2\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nContent-Length: 5\r\n\r\nhellp",
        "HTTP/1.1 200 OK\r\nA: 2\r\nB: 1\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 5\r\n\r\nhello",
    ];
    for stream in other {
        assert_ne!(of(stream), first, "{stream}");
    }
}

proptest! {
    #[test]
    fn a_body_is_the_same_in_any_chunks(body in proptest::collection::vec(any::<u8>(), 0..900), sizes in proptest::collection::vec(1_usize..400, 1..20)) {
        let http = framer(Framing::Http);
        let (mut coded, mut rest, mut sizes) = (Vec::new(), &body[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            coded.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            coded.extend_from_slice(&[chunk, b"\r\n"].concat());
            rest = after;
        }
        coded.extend_from_slice(b"0\r\n\r\n");
        let head = "PUT / HTTP/1.1\r\nHost: a\r\n";
        let chunked = [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &coded].concat();
        let plain = [format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        prop_assert_eq!(request(&http, &chunked), request(&http, &plain));
        let answer = [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &coded].concat();
        let plain = [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        prop_assert_eq!(reply(&http, &answer, Shape::Plain), reply(&http, &plain, Shape::Plain));
    }
}

#[test]
fn pipelined_requests_come_one_after_the_other() {
    let http = framer(Framing::Http);
    let found = inbound(&http, STREAMS[1], &[]);
    let methods: Vec<&[u8]> = found
        .iter()
        .map(|found| match found {
            Ok(Inbound::Request(request)) => request.bytes.split(|byte| *byte == b' ').next().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(methods, [b"PUT".as_slice(), b"HEAD"]);
}
