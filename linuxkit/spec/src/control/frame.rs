//! Frames of the control channel: header, checksum, payload.

use std::fmt;

use super::checksum::crc32;

/// The longest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What frames of this framing begin with. A framing that differs begins with something else.
pub(super) const MAGIC: [u8; 4] = *b"i2k\xc1";

/// Magic, kind, channel, two zero bytes, stream, length, checksum.
pub(super) const HEADER: usize = 20;

/// Where the checksum lies; it covers what is before it, without the magic, and the payload.
pub(super) const CHECKSUM: usize = 16;

/// A frame as it is on the pipe. [`Message`](super::Message) gives its fields their meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// A message that no reader would take: its payload is longer than [`MAX_PAYLOAD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// How many bytes the payload would have.
    pub bytes: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message of {} bytes does not fit into the {MAX_PAYLOAD} bytes of a frame", self.bytes)
    }
}

impl std::error::Error for TooLong {}

impl Frame {
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let too_long = TooLong { bytes: self.payload.len() };
        let length = u32::try_from(self.payload.len()).map_err(|_| too_long)?;
        if self.payload.len() > MAX_PAYLOAD {
            return Err(too_long);
        }
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind, self.channel, 0, 0]);
        out.extend_from_slice(&self.stream.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        let sum = crc32(&[&out[start + MAGIC.len()..], &self.payload]);
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&self.payload);
        Ok(())
    }
}
