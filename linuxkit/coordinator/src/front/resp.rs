//! Redis' protocol, version 2: arrays of bulk strings and inline commands from clients, any value from the application. What
//! stands between MULTI and EXEC is one command of the order.

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::resp_commands::{Class, class, is_own};
use super::resp_words::words;
use super::types::{
    Inbound, Kind, Outcome, Progress, Refusal, Reply, ReplyError, ReplyProgress, Request, Shape,
};

/// The longest line of a client: an inline command, or a length.
const MAX_LINE: usize = 64 << 10;

/// The most words of a command; Redis' own limit.
const MAX_WORDS: usize = 1 << 20;

/// How a transaction begins in the log, whatever the client wrote.
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";

const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// Takes the next command from the front of `buffer`; none while it is not whole. `most` is the longest.
pub(super) fn request(
    progress: &mut Progress,
    buffer: &mut BytesMut,
    most: usize,
) -> Result<Option<Inbound>, Refusal> {
    loop {
        let found = match buffer.first() {
            None => return Ok(None),
            Some(b'*') => array(progress, buffer, most)?,
            Some(_) => inline(buffer)?,
        };
        let Some(found) = found else { return Ok(None) };
        progress.restart();
        // An empty line or array is no command.
        if !found.is_empty() {
            return take(progress, found, most).map(Some);
        }
    }
}

/// An array of bulk strings as it came; empty for an array of nothing.
fn array(progress: &mut Progress, buffer: &mut BytesMut, most: usize) -> Result<Option<Bytes>, Refusal> {
    if progress.head == 0 {
        let Some((count, length)) = number(buffer, b'*')? else { return Ok(None) };
        let count = usize::try_from(count).unwrap_or(0);
        if count > MAX_WORDS {
            return Err(broken("ERR Protocol error: invalid multibulk length"));
        }
        (progress.head, progress.seen, progress.body) = (length, length, count);
    }
    while progress.body > 0 {
        let Some((size, line)) = number(&buffer[progress.seen..], b'$')? else { break };
        let size = usize::try_from(size).map_err(|_| broken("ERR Protocol error: invalid bulk length"))?;
        let end = progress.seen.saturating_add(line).saturating_add(size).saturating_add(2);
        if end > most {
            return Err(broken("ERR the command is longer than the group takes"));
        }
        progress.wanted = end;
        match buffer.get(end - 2..end) {
            None => break,
            Some(b"\r\n") => (progress.seen, progress.body) = (end, progress.body - 1),
            Some(_) => return Err(broken("ERR Protocol error: a bulk string does not end where it says")),
        }
    }
    if progress.body > 0 {
        return Ok(None);
    }
    let bytes = buffer.split_to(progress.seen).freeze();
    Ok(Some(if progress.seen == progress.head { Bytes::new() } else { bytes }))
}

/// An inline command as the array that it stands for; empty for an empty line.
fn inline(buffer: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
    let Some(end) = buffer.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if buffer.len() >= MAX_LINE {
            Err(broken("ERR Protocol error: too big inline request"))
        } else {
            Ok(None)
        };
    };
    let line = buffer.split_to(end + 1);
    let words = words(&line).ok_or(broken("ERR Protocol error: unbalanced quotes in request"))?;
    let Some(name) = words.first() else { return Ok(Some(Bytes::new())) };
    // A page that a browser shows can make it send these, with commands in the body.
    if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:") {
        return Err(broken("ERR this port speaks Redis' protocol, not HTTP"));
    }
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(&word);
        out.extend_from_slice(b"\r\n");
    }
    Ok(Some(out.into()))
}

/// The words of a command that [`array()`] or [`inline`] gave.
fn words_of(command: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = number(command, b'*').ok().flatten().map_or(&[][..], |(_, line)| &command[line..]);
    std::iter::from_fn(move || {
        let (size, line) = number(rest, b'$').ok()??;
        let end = line.checked_add(usize::try_from(size).ok()?)?;
        let word = rest.get(line..end)?;
        rest = rest.get(end + 2..)?;
        Some(word)
    })
}

/// What becomes of a whole command.
fn take(progress: &mut Progress, command: Bytes, most: usize) -> Result<Inbound, Refusal> {
    let class = class(words_of(&command));
    let is_inside = !progress.transaction.is_empty();
    let answer = |text: &'static [u8]| Ok(Inbound::Answer(Bytes::from_static(text)));
    match class {
        Class::Quit => Err(Refusal { reply: Bytes::from_static(b"+OK\r\n"), close: true, reason: "QUIT" }),
        Class::Refused(reason) => {
            progress.is_broken |= is_inside;
            Err(Refusal { close: false, ..broken(reason) })
        }
        Class::Multi if is_inside => {
            progress.is_broken = true;
            answer(b"-ERR MULTI calls can not be nested\r\n")
        }
        Class::Multi => {
            progress.held = MULTI.len() + EXEC.len();
            progress.transaction.push(Bytes::from_static(MULTI));
            answer(b"+OK\r\n")
        }
        Class::Exec if !is_inside => answer(b"-ERR EXEC without MULTI\r\n"),
        Class::Discard if !is_inside => answer(b"-ERR DISCARD without MULTI\r\n"),
        Class::Discard => {
            leave(progress);
            answer(b"+OK\r\n")
        }
        Class::Exec if progress.is_broken => {
            leave(progress);
            answer(b"-EXECABORT Transaction discarded because of previous errors.\r\n")
        }
        Class::Exec => {
            let mut parts = leave(progress);
            parts.push(Bytes::from_static(EXEC));
            Ok(whole(parts.concat().into(), Kind::Write))
        }
        Class::Read if is_inside && words_of(&command).next().is_some_and(is_own) => {
            progress.is_broken = true;
            answer(b"-ERR each replica would answer this in its own way: ask it outside of MULTI\r\n")
        }
        Class::Read | Class::Write | Class::Nothing if is_inside => {
            progress.held = progress.held.saturating_add(command.len());
            if progress.held > most {
                return Err(broken("ERR the transaction is longer than the group takes"));
            }
            progress.transaction.push(command);
            answer(b"+QUEUED\r\n")
        }
        Class::Nothing => answer(b"+OK\r\n"),
        Class::Read => Ok(whole(command, Kind::Read)),
        Class::Write => Ok(whole(command, Kind::Write)),
    }
}

/// Ends the transaction, and gives its commands.
fn leave(progress: &mut Progress) -> Vec<Bytes> {
    (progress.held, progress.is_broken) = (0, false);
    std::mem::take(&mut progress.transaction)
}

fn whole(bytes: Bytes, kind: Kind) -> Inbound {
    // The front's limit of a body is far below 4 GiB.
    let head = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Inbound::Request(Request { bytes, head, kind, key: None, close: false })
}

/// What the reply to a request that [`request`] gave looks like.
pub(super) fn shape(request: &[u8]) -> Shape {
    if !request.starts_with(MULTI) {
        return Shape::Plain;
    }
    let mut replies = 0;
    let mut rest = request;
    loop {
        let mut progress = ReplyProgress { left: 1, ..ReplyProgress::default() };
        if !matches!(value(&mut progress, rest), Ok(true)) {
            return Shape::Transaction(replies);
        }
        rest = &rest[progress.seen..];
        replies += 1;
    }
}

/// Takes the next reply from the front of `buffer`; none while it is not whole. `most` is the longest.
pub(super) fn reply(
    progress: &mut ReplyProgress,
    buffer: &mut BytesMut,
    shape: Shape,
    most: usize,
) -> Result<Option<Reply>, ReplyError> {
    let values = match shape {
        Shape::Transaction(replies) => replies.max(1),
        Shape::Plain | Shape::Head => 1,
    };
    while progress.values < values {
        if progress.left == 0 {
            (progress.left, progress.last) = (1, progress.seen);
        }
        if !value(progress, buffer)? {
            return if buffer.len() > most { Err(ReplyError::TooLong) } else { Ok(None) };
        }
        progress.values += 1;
    }
    if progress.seen > most {
        return Err(ReplyError::TooLong);
    }
    let bytes = buffer.split_to(progress.seen).freeze();
    let digest = xxh3_64(&bytes);
    Ok(Some(Reply { bytes: bytes.slice(progress.last..), digest, close: false }))
}

/// Goes on with the value that `progress` is in, and says whether it is whole.
fn value(progress: &mut ReplyProgress, bytes: &[u8]) -> Result<bool, ReplyError> {
    let malformed = |_| ReplyError::Malformed("a length of RESP is none");
    if bytes.len() < progress.wanted {
        return Ok(false);
    }
    while progress.left > 0 {
        let rest = bytes.get(progress.seen..).unwrap_or_default();
        let (length, items) = match rest.first() {
            None => return Ok(false),
            Some(b'+' | b'-' | b':') => {
                let length = line(rest, progress.line);
                // The first half of its end may be the last byte.
                progress.line = if length.is_some() { 0 } else { rest.len() - 1 };
                (length, 0)
            }
            Some(b'$') => match number(rest, b'$').map_err(malformed)? {
                None => (None, 0),
                Some((size, line)) => {
                    let whole = |size: usize| size.saturating_add(line + 2);
                    (Some(usize::try_from(size).map_or(line, whole)), 0)
                }
            },
            Some(b'*') => {
                let number = number(rest, b'*').map_err(malformed)?;
                let items = number.map_or(0, |(items, _)| usize::try_from(items).unwrap_or(0));
                (number.map(|(_, line)| line), items)
            }
            Some(_) => return Err(ReplyError::Malformed("a value of RESP2 begins with + - : $ or *")),
        };
        let Some(length) = length else { return Ok(false) };
        let end = progress.seen.saturating_add(length);
        if end > bytes.len() {
            progress.wanted = end;
            return Ok(false);
        }
        progress.seen = end;
        progress.left = (progress.left - 1).saturating_add(items);
    }
    Ok(true)
}

/// Bytes of a line with its end, of which the first `from` were looked at.
fn line(bytes: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.windows(2).position(|pair| pair == b"\r\n").map(|end| from + end + 2)
}

/// The number of a line that begins with `sign`, at least -1, and the bytes of the line; none while it is not whole.
fn number(bytes: &[u8], sign: u8) -> Result<Option<(i64, usize)>, Refusal> {
    let wrong = || broken("ERR Protocol error: expected an array of bulk strings");
    match bytes.first() {
        None => return Ok(None),
        Some(first) if *first != sign => return Err(wrong()),
        Some(_) => {}
    }
    // A number of 64 bits has at most 20 signs.
    let Some(end) = bytes.iter().take(24).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= 24 { Err(wrong()) } else { Ok(None) };
    };
    let digits = bytes[1..end].strip_suffix(b"\r").ok_or_else(wrong)?;
    let is_number = digits == b"-1" || (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number).ok_or_else(wrong)?;
    Ok(Some((text.parse().map_err(|_| wrong())?, end + 1)))
}

/// What a client gets in place of a reply.
pub(super) fn error(outcome: Outcome, reason: &str) -> Bytes {
    let reason = reason.replace(['\r', '\n'], " ");
    format!("-I2KIT {}: {reason}\r\n", outcome.word()).into()
}

/// An error after which nothing of the stream can be understood.
fn broken(reason: &'static str) -> Refusal {
    Refusal { reply: format!("-{reason}\r\n").into(), close: true, reason }
}
