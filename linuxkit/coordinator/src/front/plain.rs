//! Lines, and frames with a length before them: one reply a request. Both are all writes, and neither has a form of an error.

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::types::{Inbound, Kind, Progress, Refusal, Reply, ReplyError, ReplyProgress, Request};

/// Bytes of a frame's length.
const PREFIX: usize = 4;

/// The next line with its line feed. `most` is the longest, without it.
pub(super) fn line(
    progress: &mut Progress,
    buffer: &mut BytesMut,
    most: usize,
) -> Result<Option<Inbound>, Refusal> {
    progress.wanted = most;
    let end = buffer[progress.seen..].iter().position(|byte| *byte == b'\n');
    let length = end.map_or(buffer.len(), |end| progress.seen + end);
    if length > most {
        return Err(refusal("the line is longer than the group takes"));
    }
    progress.seen = length;
    Ok(end.map(|_| whole(progress, buffer.split_to(length + 1))))
}

/// The next frame with its length. `most` is the longest, without it.
pub(super) fn frame(
    progress: &mut Progress,
    buffer: &mut BytesMut,
    most: usize,
) -> Result<Option<Inbound>, Refusal> {
    let Some(length) = frame_length(buffer) else { return Ok(None) };
    if length > most {
        return Err(refusal("the frame is longer than the group takes"));
    }
    progress.wanted = PREFIX + length;
    Ok((buffer.len() >= PREFIX + length).then(|| whole(progress, buffer.split_to(PREFIX + length))))
}

/// The application's next line.
pub(super) fn line_reply(
    progress: &mut ReplyProgress,
    buffer: &mut BytesMut,
    most: usize,
) -> Result<Option<Reply>, ReplyError> {
    let end = buffer[progress.seen..].iter().position(|byte| *byte == b'\n').map(|end| progress.seen + end);
    progress.seen = buffer.len();
    if end.unwrap_or(buffer.len()) > most {
        return Err(ReplyError::TooLong);
    }
    Ok(end.map(|end| answer(buffer.split_to(end + 1))))
}

/// The application's next frame.
pub(super) fn frame_reply(buffer: &mut BytesMut, most: usize) -> Result<Option<Reply>, ReplyError> {
    let Some(length) = frame_length(buffer) else { return Ok(None) };
    if length > most {
        return Err(ReplyError::TooLong);
    }
    Ok((buffer.len() >= PREFIX + length).then(|| answer(buffer.split_to(PREFIX + length))))
}

fn frame_length(buffer: &BytesMut) -> Option<usize> {
    let prefix = buffer.first_chunk::<PREFIX>()?;
    Some(usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX - PREFIX))
}

fn whole(progress: &mut Progress, bytes: BytesMut) -> Inbound {
    progress.restart();
    // The front's limit of a body is far below 4 GiB.
    let head = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Inbound::Request(Request { bytes: bytes.freeze(), head, kind: Kind::Write, key: None, close: false })
}

fn answer(bytes: BytesMut) -> Reply {
    let digest = xxh3_64(&bytes);
    Reply { bytes: bytes.freeze(), digest, close: false }
}

fn refusal(reason: &'static str) -> Refusal {
    Refusal { reply: Bytes::new(), close: true, reason }
}
