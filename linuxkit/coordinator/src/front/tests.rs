//! The framers' tests: what each protocol's requests and replies become, that no split of the stream changes it, and that no bytes
//! make a parser panic or give two meanings to one request.

#[path = "tests/http.rs"]
mod http;
#[path = "../../../../tests/support/mutations.rs"]
pub(crate) mod mutations;
#[path = "tests/resp.rs"]
mod resp;
#[path = "tests/serving.rs"]
mod serving;

use bytes::BytesMut;
use i2kit_spec::replica::{Framing, Limits};
use i2kit_spec::units::Bytes as Size;
use proptest::prelude::*;
use proptest::sample::Index;

use super::Framer;
use super::types::{Inbound, Kind, Progress, Refusal, Reply, ReplyError, ReplyProgress, Request, Shape};

/// Limits that a test meets without effort.
fn limits() -> Limits {
    Limits { body_bytes: Size(1000), reply_bytes: Size(2000), ..Limits::default() }
}

fn framer(framing: Framing) -> Framer {
    Framer::new(framing, &["X-Trace".to_owned()])
}

/// All that a stream of a client is, given to the framer in pieces that end at `cuts`, up to a refusal that ends it.
fn inbound(framer: &Framer, stream: &[u8], cuts: &[usize]) -> Vec<Result<Inbound, Refusal>> {
    let (mut progress, mut buffer, mut found) = (Progress::default(), BytesMut::new(), Vec::new());
    let mut at = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        buffer.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            match framer.request(&mut progress, &mut buffer, &limits()) {
                Ok(None) => break,
                Ok(Some(inbound)) => found.push(Ok(inbound)),
                Err(refusal) => {
                    let close = refusal.close;
                    found.push(Err(refusal));
                    if close {
                        return found;
                    }
                }
            }
        }
    }
    found
}

/// The only request of a stream.
fn request(framer: &Framer, stream: &[u8]) -> Request {
    match inbound(framer, stream, &[]).as_slice() {
        [Ok(Inbound::Request(request))] => request.clone(),
        other => panic!("{} is not one request: {other:?}", stream.escape_ascii()),
    }
}

/// All replies of a stream of the application, in pieces that end at `cuts`.
fn replies(framer: &Framer, stream: &[u8], shape: Shape, cuts: &[usize]) -> Vec<Result<Reply, ReplyError>> {
    let (mut buffer, mut found, mut at) = (BytesMut::new(), Vec::new(), 0);
    let mut progress = ReplyProgress::default();
    for end in cuts.iter().copied().chain([stream.len()]) {
        buffer.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            match framer.reply(&mut progress, &mut buffer, shape, &limits()) {
                Ok(None) => break,
                Ok(Some(reply)) => found.push(Ok(reply)),
                Err(error) => {
                    found.push(Err(error));
                    return found;
                }
            }
        }
    }
    found
}

/// The only reply of a stream.
fn reply(framer: &Framer, stream: &[u8], shape: Shape) -> Reply {
    match replies(framer, stream, shape, &[]).as_slice() {
        [Ok(reply)] => reply.clone(),
        other => panic!("{} is not one reply: {other:?}", stream.escape_ascii()),
    }
}

/// Streams of clients, of all protocols.
fn client_streams() -> Vec<(Framing, &'static [u8])> {
    let http = http::STREAMS.iter().map(|stream| (Framing::Http, *stream));
    let resp = resp::STREAMS.iter().map(|stream| (Framing::Resp, *stream));
    let plain: [(Framing, &[u8]); 2] = [
        (Framing::Lines, b"one\ntwo\r\n\nlast\n"),
        (Framing::FramesU32be, b"\0\0\0\x03one\0\0\0\0\0\0\0\x01x"),
    ];
    http.chain(resp).chain(plain).collect()
}

/// Streams of applications, of all protocols.
fn application_streams() -> Vec<(Framing, &'static [u8])> {
    let http = http::REPLIES.iter().map(|stream| (Framing::Http, *stream));
    let resp = resp::REPLIES.iter().map(|stream| (Framing::Resp, *stream));
    let plain: [(Framing, &[u8]); 2] = [
        (Framing::Lines, b"one\ntwo\r\n\nlast\n"),
        (Framing::FramesU32be, b"\0\0\0\x03one\0\0\0\0\0\0\0\x01x"),
    ];
    http.chain(resp).chain(plain).collect()
}

proptest! {
    #[test]
    fn a_stream_means_the_same_however_it_is_cut(cuts in proptest::collection::vec(any::<Index>(), 0..12)) {
        for (framing, stream) in client_streams() {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let framer = framer(framing);
            let whole = inbound(&framer, stream, &[]);
            prop_assert!(!whole.is_empty());
            prop_assert_eq!(inbound(&framer, stream, &cuts), whole);
        }
        for (framing, stream) in application_streams() {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let framer = framer(framing);
            let whole = replies(&framer, stream, Shape::Plain, &[]);
            prop_assert!(!whole.is_empty());
            prop_assert_eq!(replies(&framer, stream, Shape::Plain, &cuts), whole);
        }
    }

    #[test]
    fn any_bytes_are_requests_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in any::<Index>()) {
        for framing in [Framing::Http, Framing::Resp, Framing::Lines, Framing::FramesU32be] {
            let framer = framer(framing);
            let cut = cut.index(bytes.len() + 1);
            prop_assert_eq!(inbound(&framer, &bytes, &[cut]), inbound(&framer, &bytes, &[]));
            prop_assert_eq!(replies(&framer, &bytes, Shape::Plain, &[cut]), replies(&framer, &bytes, Shape::Plain, &[]));
        }
    }
}

/// What a request becomes is a request of one meaning: read again, it is itself and nothing is left.
#[test]
fn changed_streams_are_refused_or_become_requests_of_one_meaning() {
    for framing in [Framing::Http, Framing::Resp, Framing::Lines, Framing::FramesU32be] {
        let framer = framer(framing);
        let of = |(this, stream): (Framing, &'static [u8])| (this == framing).then(|| stream.to_vec());
        let seeds: Vec<Vec<u8>> = client_streams().into_iter().filter_map(of).collect();
        let mut requests = 0;
        mutations::survive(&seeds, 20_000, |stream| {
            for found in inbound(&framer, stream, &[]) {
                let Ok(Inbound::Request(first)) = found else { continue };
                requests += 1;
                assert!(usize::try_from(first.head).unwrap() <= first.bytes.len());
                if framer.shape(&first.bytes) != Shape::Plain && framing == Framing::Resp {
                    continue;
                }
                let again = request(&framer, &first.bytes);
                assert_eq!((&again.bytes, again.head, again.kind), (&first.bytes, first.head, first.kind));
            }
        });
        assert!(requests > 1000, "{framing:?}: only {requests} changed streams were requests");
    }
}

#[test]
fn changed_replies_never_make_it_panic() {
    for framing in [Framing::Http, Framing::Resp, Framing::Lines, Framing::FramesU32be] {
        let framer = framer(framing);
        let of = |(this, stream): (Framing, &'static [u8])| (this == framing).then(|| stream.to_vec());
        let seeds: Vec<Vec<u8>> = application_streams().into_iter().filter_map(of).collect();
        let mut whole = 0;
        mutations::survive(&seeds, 20_000, |stream| {
            for shape in [Shape::Plain, Shape::Head, Shape::Transaction(3)] {
                whole += replies(&framer, stream, shape, &[]).iter().filter(|reply| reply.is_ok()).count();
            }
        });
        assert!(whole > 1000, "{framing:?}: only {whole} changed streams were replies");
    }
}

/// A reply of some megabytes that comes in small pieces: looked at from its beginning with each piece, it would take hours.
#[test]
fn a_long_reply_in_many_pieces_is_looked_at_once() {
    const BYTES: usize = 4 << 20;
    let limits = Limits { reply_bytes: Size(16 << 20), ..Limits::default() };
    let body = vec![b'a'; BYTES];
    let chunks = b"4\r\naaaa\r\n".repeat(BYTES / 8);
    let items = b"$4\r\naaaa\r\n".repeat(BYTES / 8);
    let head = |header: &str| format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").into_bytes();
    let streams = [
        (Framing::Http, [head(&format!("Content-Length: {BYTES}")), body.clone()].concat()),
        (Framing::Http, [head("Transfer-Encoding: chunked"), chunks, b"0\r\n\r\n".to_vec()].concat()),
        (Framing::Resp, [format!("${BYTES}\r\n").into_bytes(), body.clone(), b"\r\n".to_vec()].concat()),
        (Framing::Resp, [format!("*{}\r\n", BYTES / 8).into_bytes(), items].concat()),
        (Framing::Resp, [b"+".to_vec(), body.clone(), b"\r\n".to_vec()].concat()),
        (Framing::Lines, [body.clone(), b"\n".to_vec()].concat()),
        (Framing::FramesU32be, [&u32::try_from(BYTES).unwrap().to_be_bytes(), &body[..]].concat()),
    ];
    for (framing, stream) in streams {
        let (framer, mut progress, mut buffer) = (framer(framing), ReplyProgress::default(), BytesMut::new());
        let mut found = Vec::new();
        for piece in stream.chunks(7) {
            buffer.extend_from_slice(piece);
            found.extend(framer.reply(&mut progress, &mut buffer, Shape::Plain, &limits).unwrap());
        }
        assert_eq!((found.len(), buffer.len(), progress), (1, 0, ReplyProgress::default()), "{framing:?}");
        assert!(found[0].bytes.len() >= BYTES / 2, "{framing:?}");
    }
}

#[test]
fn lines_and_frames_are_writes_within_the_limit() {
    let lines = framer(Framing::Lines);
    let found = inbound(&lines, b"one\r\ntwo\nthr", &[4]);
    let bytes = |found: &Result<Inbound, Refusal>| match found {
        Ok(Inbound::Request(request)) if request.kind == Kind::Write => request.bytes.to_vec(),
        other => panic!("no write: {other:?}"),
    };
    assert_eq!(found.iter().map(bytes).collect::<Vec<_>>(), [b"one\r\n".to_vec(), b"two\n".to_vec()]);
    let at_limit = [vec![b'a'; 1000], b"\n".to_vec()].concat();
    assert_eq!(request(&lines, &at_limit).bytes, at_limit);
    let beyond = [vec![b'a'; 1001], b"\n".to_vec()].concat();
    for (framing, stream) in
        [(Framing::Lines, beyond), (Framing::FramesU32be, 1001_u32.to_be_bytes().to_vec())]
    {
        let found = inbound(&framer(framing), &stream, &[]);
        assert!(matches!(found.as_slice(), [Err(Refusal { close: true, .. })]), "{found:?}");
    }
    let too_long = replies(&framer(Framing::FramesU32be), &2001_u32.to_be_bytes(), Shape::Plain, &[]);
    assert_eq!(too_long, [Err(ReplyError::TooLong)]);
    let (one, two) = (reply(&lines, b"1\n", Shape::Plain), reply(&lines, b"2\n", Shape::Plain));
    assert_ne!(one.digest, two.digest);
}
