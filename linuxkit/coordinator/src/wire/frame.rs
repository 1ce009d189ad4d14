//! Frames between replicas, and the hello that each connection begins with.
//!
//! A frame is: length u32, kind u8, call u64 (0: no answer is wanted), body. All numbers are little-endian. A hello is: version u8,
//! id u64, slot u32, empty u8, number of the era u64, id of the era u64, length of the group's name u32, and the name.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::log::record::{RecordError, put_bytes, take_bool, take_bytes};
use crate::member::era::Era;

/// The longest frame: an entry of the largest size and what is beside it.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// Bytes of kind and call.
const HEAD: usize = 9;

/// The version of all bodies. Replicas of different versions do not talk to each other.
const VERSION: u8 = 2;

/// The longest hello.
const MAX_HELLO: usize = 1024;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The answer to the call of the same number.
    Answer,
    /// Who speaks: the first frame each way.
    Hello,
    /// Entries for a follower.
    Append,
    /// A candidate asks for a vote.
    Vote,
    /// A replica asks whether it would get a vote.
    PreVote,
    /// The leader hands over.
    Transfer,
    /// Up to which index a read has to wait.
    ReadIndex,
    /// Commands for the leader.
    Forward,
    /// The digest after an index.
    Digest,
    /// A part of a snapshot.
    SnapshotPart,
    /// A replica wants to be a member.
    Join,
    /// How far a replica's log goes, and whether it leads.
    Survey,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Answer,
        Self::Hello,
        Self::Append,
        Self::Vote,
        Self::PreVote,
        Self::Transfer,
        Self::ReadIndex,
        Self::Forward,
        Self::Digest,
        Self::SnapshotPart,
        Self::Join,
        Self::Survey,
    ];
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What it is about.
    pub(crate) kind: Kind,
    /// The number of the call; 0 when no answer is wanted.
    pub(crate) call: u64,
    /// The rest.
    pub(crate) body: Bytes,
}

/// Why the other side's bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// It is longer than [`MAX_FRAME`], or shorter than its head.
    #[error("a frame of {0} bytes is not taken")]
    Length(u32),
    /// Its kind is unknown.
    #[error("a frame of kind {0} is not known; give all replicas the same image")]
    Kind(u8),
}

/// Writes a frame behind `out`.
pub(crate) fn put(out: &mut BytesMut, kind: Kind, call: u64, body: &[u8]) {
    out.reserve(4 + HEAD + body.len());
    out.put_u32_le(u32::try_from(HEAD + body.len()).expect("a body is below MAX_FRAME"));
    out.put_u8(kind as u8);
    out.put_u64_le(call);
    out.put_slice(body);
}

/// Takes a frame from the front of `buffer`; none while it is not whole.
pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(len) = buffer.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)) else { return Ok(None) };
    let size = usize::try_from(len).ok().filter(|size| (HEAD..=MAX_FRAME).contains(size));
    let size = size.ok_or(FrameError::Length(len))?;
    if let Some(kind) = buffer.get(4)
        && usize::from(*kind) >= Kind::ALL.len()
    {
        return Err(FrameError::Kind(*kind));
    }
    if buffer.len() < 4 + size {
        // A stranger gets memory for what he has sent, not for what he says that he will.
        buffer.reserve((4 + size - buffer.len()).min(64 << 10));
        return Ok(None);
    }
    buffer.advance(4);
    let mut body = buffer.split_to(size).freeze();
    let kind = Kind::ALL[usize::from(body.get_u8())];
    let call = body.get_u64_le();
    Ok(Some(Frame { kind, call, body }))
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// `NAMESPACE/NAME` of the group.
    pub(crate) group: String,
    /// The id of its log.
    pub(crate) id: u64,
    /// Its slot.
    pub(crate) slot: u32,
    /// Whether its log has nothing.
    pub(crate) empty: bool,
    /// The era of its log.
    pub(crate) era: Era,
}

impl Hello {
    /// Its encoding.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u64_le(self.id);
        out.put_u32_le(self.slot);
        out.put_u8(u8::from(self.empty));
        out.put_u64_le(self.era.number);
        out.put_u64_le(self.era.id);
        put_bytes(&mut out, self.group.as_bytes());
        out.freeze()
    }

    /// Reads what [`Hello::encode`] wrote.
    pub(crate) fn decode(mut body: Bytes) -> Result<Self, RecordError> {
        if body.len() > MAX_HELLO || body.try_get_u8()? != VERSION {
            return Err(RecordError);
        }
        let (id, slot, empty) = (body.try_get_u64_le()?, body.try_get_u32_le()?, take_bool(&mut body)?);
        let era = Era { number: body.try_get_u64_le()?, id: body.try_get_u64_le()? };
        let group = String::from_utf8(take_bytes(&mut body)?.to_vec()).map_err(|_| RecordError)?;
        if body.is_empty() { Ok(Self { group, id, slot, empty, era }) } else { Err(RecordError) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..5), part in 1usize..40) {
            let mut out = BytesMut::new();
            for (call, body) in (0..).zip(&bodies) {
                put(&mut out, Kind::Append, call, body);
            }
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for bytes in out.chunks(part) {
                buffer.extend_from_slice(bytes);
                while let Some(frame) = take(&mut buffer).unwrap() {
                    prop_assert_eq!(frame.call, found.len() as u64);
                    found.push(frame.body.to_vec());
                }
            }
            prop_assert_eq!(found, bodies);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn a_strangers_bytes_are_refused_or_wait(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = take(&mut buffer) {
                prop_assert!(frame.body.len() <= bytes.len());
            }
            prop_assert!(buffer.capacity() < 1 << 20);
            drop(Hello::decode(bytes.into()));
        }

        #[test]
        fn a_hello_comes_back_and_a_cut_one_does_not(group in "[a-z/]{0,40}", id: u64, slot: u32, empty: bool, era: (u64, u64)) {
            let era = Era { number: era.0, id: era.1 };
            let hello = Hello { group, id, slot, empty, era };
            let bytes = hello.encode();
            for len in 0..bytes.len() {
                prop_assert_eq!(Hello::decode(bytes.slice(..len)), Err(RecordError));
            }
            prop_assert_eq!(Hello::decode(bytes), Ok(hello));
        }
    }

    #[test]
    fn kinds_have_the_numbers_of_their_places() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    #[test]
    fn lengths_beyond_the_limit_and_below_the_head_are_refused() {
        for len in [0, 8, u32::try_from(MAX_FRAME).unwrap() + 1, u32::MAX] {
            assert_eq!(take(&mut BytesMut::from(&len.to_le_bytes()[..])), Err(FrameError::Length(len)));
        }
        assert_eq!(take(&mut BytesMut::from(&[9, 0, 0, 0, 77][..])), Err(FrameError::Kind(77)));
    }
}
