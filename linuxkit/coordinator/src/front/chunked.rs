//! HTTP's chunked coding, RFC 9112 7.1, of a body that may still be on its way.

use super::types::ReplyError;

/// The longest line before a chunk, with its extensions, and the longest trailer section.
const MAX_LINE: usize = 4096;

/// Why bytes are no chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkError {
    /// It breaks the coding's rules.
    Malformed,
    /// It is longer than is allowed.
    TooLong,
}

impl From<ChunkError> for ReplyError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Malformed => Self::Malformed("its chunks are not those of RFC 9112"),
            ChunkError::TooLong => Self::TooLong,
        }
    }
}

/// What has been found of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Bytes of the coding that were whole chunks.
    pub(super) seen: usize,
    /// Bytes of the body in them.
    pub(super) body: usize,
    /// Whether the last chunk and the trailers were among them.
    pub(super) is_whole: bool,
}

/// Looks at more of a chunked body: `coded` from its beginning, of which `seen` bytes with `body` bytes in them were looked at
/// before. Chunk extensions and trailers are passed over.
pub(super) fn look(coded: &[u8], seen: usize, body: usize, most: usize) -> Result<Chunks, ChunkError> {
    let mut found = Chunks { seen, body, is_whole: false };
    while let Some((size, line)) = size_line(&coded[found.seen..])? {
        if found.body.checked_add(size).is_none_or(|body| body > most) {
            return Err(ChunkError::TooLong);
        }
        let data = found.seen + line;
        if size == 0 {
            if let Some(trailers) = trailers(&coded[data..])? {
                return Ok(Chunks { seen: data + trailers, is_whole: true, ..found });
            }
            break;
        }
        let Some(end) = coded.get(data + size..data + size + 2) else { break };
        if end != b"\r\n" {
            return Err(ChunkError::Malformed);
        }
        found.seen = data + size + 2;
        found.body += size;
    }
    // A body of many small chunks may not take more of the buffer than twice what it is.
    if found.seen > (most.saturating_mul(2)).saturating_add(MAX_LINE) {
        return Err(ChunkError::TooLong);
    }
    Ok(found)
}

/// Gives the data of a whole chunked body to `take`, piece by piece.
pub(super) fn data(coded: &[u8], mut take: impl FnMut(&[u8])) {
    let mut at = 0;
    while let Ok(Some((size, line))) = size_line(&coded[at..]) {
        let Some(piece) = coded.get(at + line..at + line + size) else { break };
        if size == 0 {
            break;
        }
        take(piece);
        at += line + size + 2;
    }
}

/// A chunk's size, and the bytes of its line.
fn size_line(bytes: &[u8]) -> Result<Option<(usize, usize)>, ChunkError> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= MAX_LINE { Err(ChunkError::Malformed) } else { Ok(None) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(ChunkError::Malformed)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    let extension = extension.trim_ascii_start();
    // A carriage return inside an extension is a line's end to some servers, and none to others.
    let is_extension = extension.is_empty() || (extension[0] == b';' && !extension.contains(&b'\r'));
    if digits.is_empty() || digits.len() > 15 || !is_extension {
        return Err(ChunkError::Malformed);
    }
    let text = std::str::from_utf8(digits).map_err(|_| ChunkError::Malformed)?;
    let size = usize::from_str_radix(text, 16).map_err(|_| ChunkError::Malformed)?;
    Ok(Some((size, end + 1)))
}

/// Bytes of the trailer section with its empty line.
fn trailers(bytes: &[u8]) -> Result<Option<usize>, ChunkError> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
            return if rest.len() >= MAX_LINE { Err(ChunkError::Malformed) } else { Ok(None) };
        };
        let line = rest[..end].strip_suffix(b"\r").ok_or(ChunkError::Malformed)?;
        at += end + 1;
        if line.is_empty() {
            return Ok(Some(at));
        }
        if at > MAX_LINE {
            return Err(ChunkError::TooLong);
        }
    }
}
