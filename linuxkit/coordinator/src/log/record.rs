//! Records of the log and their encoding, which the wire uses as well: entries, votes and members, free of the consensus
//! library's types.
//!
//! All numbers are little-endian. A record is: kind u8, length u32, body. The id of an entry is: term u64, leader u64, index u64.
//! A vote is: term u64, node u64, committed u8. Members are: number of configurations u8, each as number u8 and ids u64; number of
//! nodes u8, each as id u64 and slot u32. An entry is: id, kind u8 (0 blank, 1 batch, 2 members), body.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The id of an entry: no two entries of one group have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(crate) struct EntryId {
    /// Raft's term of the leader that made it.
    pub(crate) term: u64,
    /// That leader.
    pub(crate) leader: u64,
    /// Its place in the log.
    pub(crate) index: u64,
}

/// What a replica promised to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vote {
    /// Raft's term.
    pub(crate) term: u64,
    /// The candidate or leader.
    pub(crate) node: u64,
    /// Whether a quorum gave it its votes.
    pub(crate) committed: bool,
}

/// The members of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    /// The ids of the voters; two sets while they change.
    pub(crate) configs: Vec<Vec<u64>>,
    /// All members with their slots, those without a vote among them.
    pub(crate) nodes: Vec<(u64, u32)>,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Nothing: a leader's first.
    Blank,
    /// A [`crate::command::Batch`] in its encoding.
    Batch(Bytes),
    /// Who is a member from here on.
    Members(Members),
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its id.
    pub(crate) id: EntryId,
    /// What it says.
    pub(crate) payload: Payload,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// An entry at the end.
    Entry(Entry),
    /// The vote from here on.
    Vote(Vote),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to this one are gone.
    Purge(EntryId),
    /// Entries up to this one are known to be committed.
    Committed(EntryId),
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no record of this version; give all replicas the newer image")]
pub(crate) struct RecordError;

impl From<bytes::TryGetError> for RecordError {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

impl EntryId {
    /// Writes it behind `out`.
    pub(crate) fn encode(self, out: &mut BytesMut) {
        out.put_u64_le(self.term);
        out.put_u64_le(self.leader);
        out.put_u64_le(self.index);
    }

    /// Takes one from the front of `bytes`.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok(Self {
            term: bytes.try_get_u64_le()?,
            leader: bytes.try_get_u64_le()?,
            index: bytes.try_get_u64_le()?,
        })
    }

    /// Writes whether there is one, and it.
    pub(crate) fn encode_option(id: Option<Self>, out: &mut BytesMut) {
        out.put_u8(u8::from(id.is_some()));
        if let Some(id) = id {
            id.encode(out);
        }
    }

    /// Takes what [`EntryId::encode_option`] wrote.
    pub(crate) fn decode_option(bytes: &mut Bytes) -> Result<Option<Self>, RecordError> {
        if take_bool(bytes)? { Self::decode(bytes).map(Some) } else { Ok(None) }
    }
}

impl Vote {
    /// Writes it behind `out`.
    pub(crate) fn encode(self, out: &mut BytesMut) {
        out.put_u64_le(self.term);
        out.put_u64_le(self.node);
        out.put_u8(u8::from(self.committed));
    }

    /// Takes one from the front of `bytes`.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        Ok(Self {
            term: bytes.try_get_u64_le()?,
            node: bytes.try_get_u64_le()?,
            committed: take_bool(bytes)?,
        })
    }
}

impl Members {
    /// The slot of `id`, when it is a member.
    pub(crate) fn slot(&self, id: u64) -> Option<u32> {
        self.nodes.iter().find(|node| node.0 == id).map(|node| node.1)
    }

    /// Writes them behind `out`. There are at most a few: one a slot, and one that takes another's place.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let count = |count: usize| u8::try_from(count).expect("a group has at most 255 members");
        out.put_u8(count(self.configs.len()));
        for config in &self.configs {
            out.put_u8(count(config.len()));
            for id in config {
                out.put_u64_le(*id);
            }
        }
        out.put_u8(count(self.nodes.len()));
        for (id, slot) in &self.nodes {
            out.put_u64_le(*id);
            out.put_u32_le(*slot);
        }
    }

    /// Takes them from the front of `bytes`.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let mut members = Self::default();
        for _ in 0..bytes.try_get_u8()? {
            let mut config = Vec::new();
            for _ in 0..bytes.try_get_u8()? {
                config.push(bytes.try_get_u64_le()?);
            }
            members.configs.push(config);
        }
        for _ in 0..bytes.try_get_u8()? {
            members.nodes.push((bytes.try_get_u64_le()?, bytes.try_get_u32_le()?));
        }
        Ok(members)
    }
}

impl Entry {
    /// Bytes of its encoding, or a little more.
    pub(crate) fn weight(&self) -> usize {
        32 + match &self.payload {
            Payload::Blank => 0,
            Payload::Batch(bytes) => bytes.len(),
            Payload::Members(members) => 16 + members.nodes.len() * 32,
        }
    }

    /// Writes it behind `out`.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        match &self.payload {
            Payload::Blank => out.put_u8(0),
            Payload::Batch(bytes) => {
                out.put_u8(1);
                out.put_slice(bytes);
            }
            Payload::Members(members) => {
                out.put_u8(2);
                members.encode(out);
            }
        }
    }

    /// Reads what [`Entry::encode`] wrote, to the end of `bytes`.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        let id = EntryId::decode(&mut bytes)?;
        let payload = match bytes.try_get_u8()? {
            0 => Payload::Blank,
            1 => Payload::Batch(bytes.split_off(0)),
            2 => Payload::Members(Members::decode(&mut bytes)?),
            _ => return Err(RecordError),
        };
        if matches!(payload, Payload::Batch(_)) || bytes.is_empty() {
            Ok(Self { id, payload })
        } else {
            Err(RecordError)
        }
    }
}

impl Record {
    /// Writes it behind `out`.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u8(match self {
            Self::Entry(_) => 1,
            Self::Vote(_) => 2,
            Self::Truncate(_) => 3,
            Self::Purge(_) => 4,
            Self::Committed(_) => 5,
        });
        out.put_u32_le(0);
        match self {
            Self::Entry(entry) => entry.encode(out),
            Self::Vote(vote) => vote.encode(out),
            Self::Truncate(index) => out.put_u64_le(*index),
            Self::Purge(id) | Self::Committed(id) => id.encode(out),
        }
        let len = u32::try_from(out.len() - start - 5).expect("a record is below 16 MiB");
        out[start + 1..start + 5].copy_from_slice(&len.to_le_bytes());
    }

    /// Takes one from the front of `bytes`, without a copy.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let kind = bytes.try_get_u8()?;
        let mut body = take_bytes(bytes)?;
        let record = match kind {
            1 => return Entry::decode(body).map(Self::Entry),
            2 => Self::Vote(Vote::decode(&mut body)?),
            3 => Self::Truncate(body.try_get_u64_le()?),
            4 => Self::Purge(EntryId::decode(&mut body)?),
            5 => Self::Committed(EntryId::decode(&mut body)?),
            _ => return Err(RecordError),
        };
        if body.is_empty() { Ok(record) } else { Err(RecordError) }
    }
}

/// Writes the length of `bytes` and them.
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a part is below 4 GiB"));
    out.put_slice(bytes);
}

/// Takes what [`put_bytes`] wrote.
pub(crate) fn take_bytes(bytes: &mut Bytes) -> Result<Bytes, RecordError> {
    let len = usize::try_from(bytes.try_get_u32_le()?).map_err(|_| RecordError)?;
    if bytes.len() < len { Err(RecordError) } else { Ok(bytes.split_to(len)) }
}

/// Takes a byte that is 0 or 1.
pub(crate) fn take_bool(bytes: &mut Bytes) -> Result<bool, RecordError> {
    match bytes.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(RecordError),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = EntryId> {
        any::<(u64, u64, u64)>().prop_map(|(term, leader, index)| EntryId { term, leader, index })
    }

    /// Any entry.
    pub(crate) fn entry() -> impl Strategy<Value = Entry> {
        let members = (
            proptest::collection::vec(proptest::collection::vec(any::<u64>(), 0..5), 0..3),
            proptest::collection::vec(any::<(u64, u32)>(), 0..8),
        );
        let payload = prop_oneof![
            Just(Payload::Blank),
            proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Payload::Batch(bytes.into())),
            members.prop_map(|(configs, nodes)| Payload::Members(Members { configs, nodes })),
        ];
        (id(), payload).prop_map(|(id, payload)| Entry { id, payload })
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            entry().prop_map(Record::Entry),
            any::<(u64, u64, bool)>().prop_map(|(term, node, committed)| Record::Vote(Vote {
                term,
                node,
                committed
            })),
            any::<u64>().prop_map(Record::Truncate),
            id().prop_map(Record::Purge),
            id().prop_map(Record::Committed),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(records in proptest::collection::vec(record(), 0..6)) {
            let mut out = BytesMut::new();
            for record in &records {
                record.encode(&mut out);
            }
            let mut bytes = out.freeze();
            for record in records {
                prop_assert_eq!(Record::decode(&mut bytes), Ok(record));
            }
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn a_cut_record_is_refused_and_a_changed_one_does_no_harm(record in record(), flip in any::<(u16, u8)>()) {
            let mut out = BytesMut::new();
            record.encode(&mut out);
            for len in 0..out.len() {
                prop_assert_eq!(Record::decode(&mut Bytes::copy_from_slice(&out[..len])), Err(RecordError));
            }
            let at = usize::from(flip.0) % out.len();
            out[at] ^= flip.1;
            let changed = out.clone().freeze();
            if let Ok(read) = Record::decode(&mut changed.clone()) {
                let mut again = BytesMut::new();
                read.encode(&mut again);
                prop_assert_eq!(&again[..], &changed[..again.len()]);
            }
        }
    }
}
