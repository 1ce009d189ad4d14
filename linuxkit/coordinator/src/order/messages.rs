//! What replicas say to each other about the order, in the project's own encoding.
//!
//! All numbers are little-endian; ids, votes and entries are as in the log, and what may be missing has a byte before it that is 0 or 1.
//! An append is: vote, id before, committed id, number of entries u32, each as length u32 and entry. Its answer is: kind u8 (0 success, 1 a part and
//! the id of its last, 2 conflict and nothing, 3 a higher vote and it). A vote is: vote, last id, transfer u8; its answer: vote, granted u8, last id.
//! A transfer is: vote, node u64, last id; its answer: done u8. A part of a snapshot is: vote, last id, length u64, checksum u32, place u64, bytes;
//! its answer: 0 and the place u64 from which on it is wanted, or 1 and the vote of who installed it. A join is: id u64, slot u64; its answer: kind u8 (0 done, 1 ask
//! another and its slot, which may be missing, 2 refused and the reason). A claim is: revision u64, index u64, digest u64.
//! The answer to a survey: leads u8, last id.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::log::record::{RecordError, put_bytes, take_bool, take_bytes};
use crate::log::{Entry, EntryId, Vote};
use crate::machine::digests::Claim;

/// Entries for a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Append {
    pub(crate) vote: Vote,
    pub(crate) before: Option<EntryId>,
    pub(crate) committed: Option<EntryId>,
    pub(crate) entries: Vec<Entry>,
}

/// What a follower says to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Appended {
    Success,
    Partial(Option<EntryId>),
    Conflict,
    HigherVote(Vote),
}

/// A question for a vote, and, with `granted`, the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub(crate) vote: Vote,
    /// In a question: whether the leader hands over. In an answer: whether it is granted.
    pub(crate) flag: bool,
    pub(crate) last: Option<EntryId>,
}

/// A leader hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) vote: Vote,
    pub(crate) node: u64,
    pub(crate) last: Option<EntryId>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) vote: Vote,
    pub(crate) id: EntryId,
    pub(crate) len: u64,
    pub(crate) crc: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

/// What is said to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PartAnswer {
    Continue(u64),
    Installed(Vote),
}

/// What is said to a replica that wants to be a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Joined {
    Done,
    Ask(Option<u32>),
    Refused(String),
}

/// What a replica says of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surveyed {
    pub(crate) leads: bool,
    pub(crate) last: Option<EntryId>,
}

/// Something that is sent.
pub(crate) trait Message: Sized {
    /// Writes it behind `out`.
    fn put(&self, out: &mut BytesMut);

    /// Takes it from the front of `bytes`.
    fn take(bytes: &mut Bytes) -> Result<Self, RecordError>;

    /// Its encoding.
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.put(&mut out);
        out.freeze()
    }

    /// Reads what [`Message::encode`] wrote.
    fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        let message = Self::take(&mut bytes)?;
        if bytes.is_empty() { Ok(message) } else { Err(RecordError) }
    }
}

impl Message for Append {
    fn put(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        EntryId::encode_option(self.before, out);
        EntryId::encode_option(self.committed, out);
        out.put_u32_le(u32::try_from(self.entries.len()).expect("an append is below 16 MiB"));
        for entry in &self.entries {
            let start = out.len();
            out.put_u32_le(0);
            entry.encode(out);
            let len = u32::try_from(out.len() - start - 4).expect("an append is below 16 MiB");
            out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        }
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let vote = Vote::decode(bytes)?;
        let (before, committed) = (EntryId::decode_option(bytes)?, EntryId::decode_option(bytes)?);
        let mut entries = Vec::new();
        for _ in 0..bytes.try_get_u32_le()? {
            entries.push(Entry::decode(take_bytes(bytes)?)?);
        }
        Ok(Self { vote, before, committed, entries })
    }
}

impl Message for Appended {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Success => out.put_u8(0),
            Self::Partial(id) => {
                out.put_u8(1);
                EntryId::encode_option(*id, out);
            }
            Self::Conflict => out.put_u8(2),
            Self::HigherVote(vote) => {
                out.put_u8(3);
                vote.encode(out);
            }
        }
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        match bytes.try_get_u8()? {
            0 => Ok(Self::Success),
            1 => EntryId::decode_option(bytes).map(Self::Partial),
            2 => Ok(Self::Conflict),
            3 => Vote::decode(bytes).map(Self::HigherVote),
            _ => Err(RecordError),
        }
    }
}

impl Message for Ballot {
    fn put(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        out.put_u8(u8::from(self.flag));
        EntryId::encode_option(self.last, out);
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok(Self { vote: Vote::decode(bytes)?, flag: take_bool(bytes)?, last: EntryId::decode_option(bytes)? })
    }
}

impl Message for Transfer {
    fn put(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        out.put_u64_le(self.node);
        EntryId::encode_option(self.last, out);
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok(Self {
            vote: Vote::decode(bytes)?,
            node: bytes.try_get_u64_le()?,
            last: EntryId::decode_option(bytes)?,
        })
    }
}

impl Message for Part {
    fn put(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        self.id.encode(out);
        out.put_u64_le(self.len);
        out.put_u32_le(self.crc);
        out.put_u64_le(self.offset);
        put_bytes(out, &self.bytes);
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok(Self {
            vote: Vote::decode(bytes)?,
            id: EntryId::decode(bytes)?,
            len: bytes.try_get_u64_le()?,
            crc: bytes.try_get_u32_le()?,
            offset: bytes.try_get_u64_le()?,
            bytes: take_bytes(bytes)?,
        })
    }
}

impl Message for PartAnswer {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Continue(offset) => {
                out.put_u8(0);
                out.put_u64_le(*offset);
            }
            Self::Installed(vote) => {
                out.put_u8(1);
                vote.encode(out);
            }
        }
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        if take_bool(bytes)? {
            Vote::decode(bytes).map(Self::Installed)
        } else {
            Ok(Self::Continue(bytes.try_get_u64_le()?))
        }
    }
}

impl Message for Joined {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Done => out.put_u8(0),
            Self::Ask(slot) => {
                out.put_u8(1);
                out.put_u8(u8::from(slot.is_some()));
                out.put_u32_le(slot.unwrap_or(0));
            }
            Self::Refused(reason) => {
                out.put_u8(2);
                put_bytes(out, reason.as_bytes());
            }
        }
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        match bytes.try_get_u8()? {
            0 => Ok(Self::Done),
            1 => {
                let (is_some, slot) = (take_bool(bytes)?, bytes.try_get_u32_le()?);
                Ok(Self::Ask(is_some.then_some(slot)))
            }
            2 => Ok(Self::Refused(String::from_utf8_lossy(&take_bytes(bytes)?).into_owned())),
            _ => Err(RecordError),
        }
    }
}

impl Message for Surveyed {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.leads));
        EntryId::encode_option(self.last, out);
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok(Self { leads: take_bool(bytes)?, last: EntryId::decode_option(bytes)? })
    }
}

/// Two numbers.
impl Message for (u64, u64) {
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.0);
        out.put_u64_le(self.1);
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok((bytes.try_get_u64_le()?, bytes.try_get_u64_le()?))
    }
}

impl Message for Claim {
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.revision);
        out.put_u64_le(self.index);
        out.put_u64_le(self.digest);
    }

    fn take(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let (revision, index) = <(u64, u64)>::take(bytes)?;
        Ok(Self { revision, index, digest: bytes.try_get_u64_le()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::record::tests::entry;

    /// It comes back, a cut one does not, and a changed one does no harm.
    fn check<M: Message + PartialEq + std::fmt::Debug>(message: &M, flip: (u16, u8)) {
        let bytes = message.encode();
        for len in 0..bytes.len() {
            assert!(M::decode(bytes.slice(..len)).is_err(), "{message:?} cut at {len}");
        }
        let mut changed = BytesMut::from(&bytes[..]);
        assert_eq!(M::decode(bytes).as_ref(), Ok(message));
        let at = usize::from(flip.0) % changed.len();
        changed[at] ^= flip.1;
        drop(M::decode(changed.freeze()));
    }

    proptest! {
        #[test]
        fn messages_come_back(
            entries in proptest::collection::vec(entry(), 1..4),
            (term, node, flag) in any::<(u64, u64, bool)>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            flip in any::<(u16, u8)>(),
        ) {
            let vote = Vote { term, node, committed: flag };
            let id = entries[0].id;
            let last = flag.then_some(id);
            check(&Append { vote, before: last, committed: Some(id), entries }, flip);
            check(&Ballot { vote, flag, last }, flip);
            check(&Transfer { vote, node, last }, flip);
            check(&Claim { revision: term, index: node, digest: id.index }, flip);
            check(&Part { vote, id, len: term, crc: 7, offset: node, bytes: bytes.into() }, flip);
            for appended in [Appended::Success, Appended::Partial(last), Appended::Conflict, Appended::HigherVote(vote)] {
                check(&appended, flip);
            }
            check(&PartAnswer::Continue(term), flip);
            check(&PartAnswer::Installed(vote), flip);
            check(&Joined::Ask(flag.then_some(7)), flip);
            check(&Joined::Refused("because".into()), flip);
            check(&Joined::Done, flip);
            check(&(term, node), flip);
            check(&Surveyed { leads: flag, last }, flip);
        }
    }
}
