//! Commands and values of RESP2.

use i2kit_spec::replica::Framing;

use super::super::types::{Inbound, Kind, Outcome, ReplyError, Shape};
use super::{framer, inbound, replies, reply, request};

/// Streams of clients that are taken, at least in part.
pub(super) const STREAMS: &[&[u8]] = &[
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"PING\r\nset a \"b c\"\r\n\r\n*0\r\n*-1\r\nget a\n",
    b"*1\r\n$5\r\nmulti\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\nget a\r\n*1\r\n$4\r\nEXEC\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n",
    b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*1\r\n$4\r\nQUIT\r\n",
];

/// Streams of applications.
pub(super) const REPLIES: &[&[u8]] = &[
    b"+OK\r\n$3\r\nabc\r\n$-1\r\n:12\r\n-ERR no\r\n*-1\r\n*0\r\n",
    b"*3\r\n*2\r\n:1\r\n$0\r\n\r\n+a\r\n*1\r\n*1\r\n$2\r\n\r\n\r\n",
];

fn answers(stream: &str) -> Vec<String> {
    let answer = |found: Result<Inbound, super::Refusal>| match found {
        Ok(Inbound::Answer(bytes)) => bytes,
        Ok(Inbound::Request(request)) => request.bytes,
        Err(refusal) => refusal.reply,
    };
    let found = inbound(&framer(Framing::Resp), stream.as_bytes(), &[]);
    found.into_iter().map(|found| String::from_utf8(answer(found).to_vec()).unwrap()).collect()
}

#[test]
fn commands_are_whole_arrays_whatever_is_in_them() {
    let resp = framer(Framing::Resp);
    let set = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n\r\n\r\n";
    let found = request(&resp, set);
    assert_eq!((&found.bytes[..], found.kind, found.key), (&set[..], Kind::Write, None));
    let inline = request(&resp, b"  get 'a b'\r\n");
    assert_eq!((&inline.bytes[..], inline.kind), (&b"*2\r\n$3\r\nget\r\n$3\r\na b\r\n"[..], Kind::Read));
    assert!(inbound(&resp, b"\r\n*0\r\n*-1\r\n", &[]).is_empty());
}

#[test]
fn a_transaction_is_one_command() {
    let resp = framer(Framing::Resp);
    let found = answers("MULTI\r\nincr a\r\nget a\r\nSELECT 0\r\nEXEC\r\nget b\r\n");
    let whole = "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nincr\r\n$1\r\na\r\n*2\r\n$3\r\nget\r\n$1\r\na\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$4\r\nEXEC\r\n";
    let queued = "+QUEUED\r\n";
    assert_eq!(found, ["+OK\r\n", queued, queued, queued, whole, "*2\r\n$3\r\nget\r\n$1\r\nb\r\n"]);
    assert_eq!(resp.shape(whole.as_bytes()), Shape::Transaction(5));
    let stream = b"+OK\r\n+QUEUED\r\n-ERR x\r\n+QUEUED\r\n*2\r\n:1\r\n$1\r\n1\r\n+NEXT\r\n";
    let found = replies(&resp, &stream[..stream.len() - 7], Shape::Transaction(5), &[20]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].as_ref().unwrap().bytes, &b"*2\r\n:1\r\n$1\r\n1\r\n"[..]);
    // What was queued counts too: a replica that refused a command differs.
    let other = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n$1\r\n1\r\n";
    assert_ne!(reply(&resp, other, Shape::Transaction(5)).digest, found[0].as_ref().unwrap().digest);
}

#[test]
fn transactions_are_left_and_broken_as_in_redis() {
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(answers("EXEC\r\n"), ["-ERR EXEC without MULTI\r\n"]);
    assert_eq!(answers("DISCARD\r\n"), ["-ERR DISCARD without MULTI\r\n"]);
    let found = answers("MULTI\r\nset a b\r\nDISCARD\r\nping\r\n");
    assert_eq!(found, ["+OK\r\n", "+QUEUED\r\n", "+OK\r\n", "*1\r\n$4\r\nping\r\n"]);
    let found = answers("MULTI\r\nBLPOP a 0\r\nEXEC\r\nping\r\n");
    assert_eq!((found[2].as_str(), found.len()), (aborted, 4));
    let found = answers("MULTI\r\ntime\r\nEXEC\r\nTIME\r\n");
    assert!(
        found[1].starts_with("-ERR each replica would answer") && found[2].starts_with("-EXECABORT"),
        "{found:?}"
    );
    assert_eq!(found.len(), 4, "alone it is a read of one replica");
    let found = answers("MULTI\r\nMULTI\r\nEXEC\r\n");
    assert_eq!(found[2], aborted);
    let long = format!("MULTI\r\n{}", "set a 0123456789012345678901234567890123456789\r\n".repeat(20));
    let found = answers(&long);
    assert_eq!(found.last().unwrap(), "-ERR the transaction is longer than the group takes\r\n");
}

#[test]
fn commands_that_a_group_has_not_are_errors_and_the_connection_goes_on() {
    for command in ["WATCH a", "SUBSCRIBE a", "MONITOR", "BLPOP a 0", "CLIENT LIST", "SELECT 3", "AUTH x"] {
        let found = answers(&format!("{command}\r\nget a\r\n"));
        assert!(found[0].starts_with("-ERR a replicated group") && found.len() == 2, "{command}: {found:?}");
    }
    assert_eq!(answers("HELLO 3\r\n"), ["-NOPROTO a replicated group speaks RESP2\r\n"]);
    assert_eq!(answers("SELECT 0\r\n"), ["+OK\r\n"]);
    assert_eq!(answers("QUIT\r\nget a\r\n"), ["+OK\r\n"]);
}

#[test]
fn broken_and_long_streams_end_the_connection() {
    let inline = "a".repeat(70_000);
    for stream in [
        "*2000000\r\n",
        "*x\r\n",
        "*1\n$4\r\nPING\r\n",
        "*1\r\n+PING\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$4\r\nPINGxx",
        "*1\r\n$1001\r\n",
        "*1\r\n$9223372036854775807\r\n",
        "*99999999999999999999999",
        "set \"a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n",
        &inline,
    ] {
        let found = inbound(&framer(Framing::Resp), stream.as_bytes(), &[]);
        let [Err(refusal)] = found.as_slice() else { panic!("{stream:?} gives {found:?}") };
        assert!(refusal.close && refusal.reply.starts_with(b"-ERR "), "{stream:?}");
    }
}

#[test]
fn any_value_is_a_reply() {
    let resp = framer(Framing::Resp);
    let found = replies(&resp, REPLIES[0], Shape::Plain, &[]);
    let bytes: Vec<_> = found.iter().map(|found| found.as_ref().unwrap().bytes.len()).collect();
    assert_eq!(bytes, [5, 9, 5, 5, 9, 5, 4]);
    assert_eq!(replies(&resp, REPLIES[1], Shape::Plain, &[]).len(), 1);
    let too_long = format!("$3000\r\n{}", "a".repeat(2100));
    assert_eq!(replies(&resp, too_long.as_bytes(), Shape::Plain, &[]), [Err(ReplyError::TooLong)]);
    for stream in ["%1\r\n", "$x\r\n", "*1\r\n$99999999999999999999\r\n"] {
        let found = replies(&resp, stream.as_bytes(), Shape::Plain, &[]);
        assert!(matches!(found.as_slice(), [Err(ReplyError::Malformed(_))]), "{stream:?}: {found:?}");
    }
    let error = resp.error(Outcome::Unknown, "no\r\nquorum");
    assert_eq!(error, &b"-I2KIT unknown: no  quorum\r\n"[..]);
    assert_eq!(reply(&resp, &error, Shape::Plain).bytes, error);
}
