//! The control channel: what a host and the guest say to each other over one byte pipe, the virtio-serial port
//! [`PORT`]. Terminals, commands and files are streams; the containers' output is shipped and acknowledged.
//!
//! The pipe outlives whoever talks at its ends, so a reader may begin in the middle of a frame. Each frame therefore
//! has a magic number, a length and a checksum; a reader that finds something else skips bytes until it finds a frame.
//! [`Decoder`] does that; [`Message::encode`] is the other direction. The page "control channel" of `docs/formats.md`
//! has the bytes.

pub(crate) mod checksum;
mod frame;
mod message;

use std::collections::VecDeque;

use self::checksum::crc32;
use self::frame::{CHECKSUM, Frame, HEADER, MAGIC};
pub use self::frame::{MAX_PAYLOAD, TooLong};
pub use self::message::{
    Clock, End, Ended, GuestHello, HostHello, LogHead, Logged, Message, Open, StreamState, Target, VERSION,
};

/// The name of the port.
pub const PORT: &str = "i2kit.control";

/// How many bytes of a stream's channel may be under way before the reader has said that it took them.
pub const WINDOW: usize = 64 * 1024;

/// How many bytes a reader sums in vain, beyond twice what it skips: four of the longest frames. A writer that died leaves
/// one; whoever writes headers without frames gets no more work out of a reader than this, see [`Decoder`].
const VAIN_BYTES: usize = 4 * MAX_PAYLOAD;

/// How many bytes of output may be under way before the host has said that it has them.
pub const LOG_WINDOW: usize = 512 * 1024;

/// Finds messages in what arrives, with work that is linear in it: what looks like a frame and has a wrong checksum costs
/// its length of an allowance, which grows by twice the bytes that are skipped. A frame that is longer than what is left of
/// the allowance is passed over unread.
#[derive(Debug)]
pub struct Decoder {
    bytes: VecDeque<u8>,
    skipped: u64,
    /// How many bytes may be summed in vain.
    vain: usize,
    examined: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { bytes: VecDeque::new(), skipped: 0, vain: VAIN_BYTES, examined: 0 }
    }
}

impl Decoder {
    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// How many bytes wait for the rest of their frame.
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes were looked at so far, each time counted: what the work is in proportion to.
    pub fn examined(&self) -> u64 {
        self.examined
    }

    /// How many bytes belonged to no message that this version knows.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Forgets what arrived but is not a whole frame yet: the writer has begun anew.
    pub fn reset(&mut self) {
        self.bytes.clear();
    }

    fn skip(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.skipped += count as u64;
        // By what is behind us, so that a frame behind a long stretch of other bytes is always read.
        self.vain = self.vain.saturating_add(count.saturating_mul(2)).min(VAIN_BYTES);
    }

    fn frame(&mut self) -> Option<Frame> {
        loop {
            let bytes = self.bytes.make_contiguous();
            let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
            // A magic number may have begun at the very end.
            let start = start.unwrap_or_else(|| bytes.len().saturating_sub(MAGIC.len() - 1));
            self.examined += (start + MAGIC.len()) as u64;
            if start > 0 {
                self.skip(start);
                continue;
            }
            let (head, rest) = bytes.split_at_checked(HEADER)?;
            let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let length = usize::try_from(number(12)).unwrap_or(usize::MAX);
            if length > MAX_PAYLOAD || head[6..8] != [0, 0] {
                self.skip(1);
                continue;
            }
            let payload = rest.get(..length)?;
            if length > self.vain {
                self.skip(1);
                continue;
            }
            self.examined += length as u64;
            if crc32(&[&head[MAGIC.len()..CHECKSUM], payload]) != number(CHECKSUM) {
                self.vain -= length;
                self.skip(1);
                continue;
            }
            let frame =
                Frame { kind: head[4], channel: head[5], stream: number(8), payload: payload.to_vec() };
            self.bytes.drain(..HEADER + length);
            return Some(frame);
        }
    }
}

/// The message in a whole frame, for pipes that keep frames apart.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    decoder.next()
}

impl Iterator for Decoder {
    type Item = Message;

    /// The next whole message. Frames that this version does not know are skipped: a newer writer may send them.
    fn next(&mut self) -> Option<Message> {
        loop {
            let frame = self.frame()?;
            match Message::parse(&frame) {
                Some(message) => return Some(message),
                None => self.skipped += (HEADER + frame.payload.len()) as u64,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        vec![
            Message::Data {
                stream: 7,
                end: End::Output,
                offset: 1 << 40,
                bytes: b"i2k\xc1 in the data".to_vec(),
            },
            Message::Close { stream: 7 },
            Message::Resize { stream: 8, rows: 24, columns: 80 },
            Message::Credit { stream: 8, end: End::Input, taken: 9 },
        ]
    }

    fn encoded(messages: &[Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(&mut bytes).unwrap();
        }
        bytes
    }

    /// Headers that promise a long frame and have no frame behind them, one right after the other.
    fn headers_without_frames(count: usize) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        header.extend(65_000_u32.to_le_bytes());
        header.extend([0; 4]);
        header.repeat(count)
    }

    #[test]
    fn headers_without_frames_cost_as_much_as_other_bytes() {
        let mut decoder = Decoder::default();
        let mut pushed = 0;
        for part in headers_without_frames(200_000).chunks(64 * 1024) {
            decoder.push(part);
            pushed += part.len() as u64;
            assert_eq!(decoder.by_ref().count(), 0);
            assert!(decoder.pending() <= MAX_PAYLOAD + HEADER);
        }
        let most = 4 * pushed + VAIN_BYTES as u64;
        assert!(decoder.examined() <= most, "{} bytes of work for {pushed} bytes", decoder.examined());
        // Whoever speaks afterwards is understood.
        decoder.push(&vec![0; MAX_PAYLOAD]);
        decoder.push(&encoded(&messages()));
        assert_eq!(decoder.collect::<Vec<_>>(), messages());
    }

    #[test]
    fn what_no_reader_would_take_is_not_written() {
        let open = |bytes| Message::Open {
            stream: 1,
            open: Open { command: vec!["x".repeat(bytes)], ..Open::default() },
        };
        let mut bytes = b"before".to_vec();
        let refused = open(70 * 1024).encode(&mut bytes).unwrap_err();
        assert!(refused.bytes > 70 * 1024 && refused.to_string().contains("65536"), "{refused}");
        assert_eq!(bytes, b"before");
        bytes.clear();
        open(60 * 1024).encode(&mut bytes).unwrap();
        assert_eq!(decode(&bytes), Some(open(60 * 1024)));
    }

    #[test]
    fn messages_survive_any_cut() {
        let bytes = encoded(&messages());
        for cut in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.push(part);
                found.extend(decoder.by_ref());
            }
            assert_eq!(found, messages(), "in pieces of {cut}");
            assert_eq!(decoder.skipped(), 0);
        }
    }

    #[test]
    fn a_reader_finds_the_next_frame_after_a_writer_died() {
        let bytes = encoded(&messages());
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            // The first writer died in the middle of a frame, the next one says everything again, and more.
            decoder.push(&bytes[..cut]);
            let before = decoder.by_ref().count();
            decoder.push(&bytes);
            decoder.push(&vec![0; MAX_PAYLOAD]);
            let found: Vec<Message> = decoder.collect();
            assert_eq!(found, messages(), "after {cut} bytes and {before} messages");
        }
    }

    #[test]
    fn a_broken_byte_costs_one_frame() {
        let bytes = encoded(&messages());
        for broken in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[broken] ^= 0x55;
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            decoder.push(&vec![0; MAX_PAYLOAD + HEADER]);
            assert_eq!(decoder.count(), messages().len() - 1, "byte {broken}");
        }
    }
}
