//! Commands and batches: what a replica asks to have ordered, and what one entry of the log says. Their encoding is the
//! project's own and versioned, so that neither the consensus library nor a serializer decides what is on disk or on the wire.
//!
//! All numbers are little-endian. A batch is: version u8, agreed time u64, the proposer's claim (revision, index and digest, u64 each), proposer u64, number u64,
//! number of commands u32, and the commands. A command is: origin u64, seq u64, low u64, `not_after` u64, key u16 and as many
//! bytes, flags u8, head u32, payload u32 and as many bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::machine::digests::Claim;

/// The version of the encoding of a batch.
const VERSION: u8 = 1;

/// Bytes of a command without its key and its payload.
const FIXED: usize = 4 * 8 + 2 + 1 + 4 + 4;

/// The longest `Idempotency-Key` of a request, in bytes: replicas keep 100,000 of them.
pub(crate) const MAX_KEY_BYTES: usize = 255;

/// One request of a client, to be executed once by each replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The run of a coordinator that took the request: random, new at each of its starts.
    pub(crate) origin: u64,
    /// Its number within the origin: 1, 2, 3.
    pub(crate) seq: u64,
    /// The lowest number that the origin still waits for: lower ones are never sent again.
    pub(crate) low: u64,
    /// Agreed time, in milliseconds of Unix time, after which it is skipped.
    pub(crate) not_after: u64,
    /// The client's `Idempotency-Key`; empty without one.
    pub(crate) key: Bytes,
    /// Bytes of the payload before the place where headers may be added.
    pub(crate) head: u32,
    /// The request as the application gets it.
    pub(crate) payload: Bytes,
}

/// The commands of one entry of the log, and what its proposer knew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Batch {
    /// The proposer's clock, in milliseconds of Unix time. Agreed time is the highest of all batches so far.
    pub(crate) time: u64,
    /// What the proposer says of the last entry that it had executed.
    pub(crate) claim: Claim,
    /// Origin of the proposer.
    pub(crate) proposer: u64,
    /// Number of the batch within its proposer.
    pub(crate) number: u64,
    /// The commands, in order.
    pub(crate) commands: Vec<Command>,
}

/// Why bytes are no batch or no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// A newer program wrote it.
    #[error("version {0} of the batch is not known; give all replicas the newer image")]
    Version(u8),
    /// It ends before it should.
    #[error("the batch ends early")]
    Short,
    /// Bytes are left behind it.
    #[error("{0} bytes are left behind the batch")]
    Trailing(usize),
    /// Flags that this version does not know.
    #[error("flags {0:#04x} of a command are not known; give all replicas the newer image")]
    Flags(u8),
    /// The head is longer than the payload.
    #[error("the head of a command is longer than its payload")]
    Head,
}

impl Command {
    /// Bytes of its encoding.
    pub(crate) fn encoded_len(&self) -> usize {
        FIXED + self.key.len() + self.payload.len()
    }

    /// Writes it behind `out`. A key or payload that does not fit its length is a fault of the caller: the front refuses such
    /// requests.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_len());
        out.put_u64_le(self.origin);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.low);
        out.put_u64_le(self.not_after);
        out.put_u16_le(u16::try_from(self.key.len()).expect("a key has at most MAX_KEY_BYTES"));
        out.put_slice(&self.key);
        out.put_u8(0);
        out.put_u32_le(self.head);
        out.put_u32_le(u32::try_from(self.payload.len()).expect("a request is within its limit"));
        out.put_slice(&self.payload);
    }

    /// Takes one from the front of `bytes`, without a copy.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, CommandError> {
        let short = |_| CommandError::Short;
        let origin = bytes.try_get_u64_le().map_err(short)?;
        let seq = bytes.try_get_u64_le().map_err(short)?;
        let low = bytes.try_get_u64_le().map_err(short)?;
        let not_after = bytes.try_get_u64_le().map_err(short)?;
        let key_len = bytes.try_get_u16_le().map_err(short)?;
        let key = take(bytes, usize::from(key_len))?;
        let flags = bytes.try_get_u8().map_err(short)?;
        if flags != 0 {
            return Err(CommandError::Flags(flags));
        }
        let head = bytes.try_get_u32_le().map_err(short)?;
        let len = bytes.try_get_u32_le().map_err(short)?;
        let payload = take(bytes, usize::try_from(len).map_err(|_| CommandError::Short)?)?;
        if head > len {
            return Err(CommandError::Head);
        }
        Ok(Self { origin, seq, low, not_after, key, head, payload })
    }
}

impl Batch {
    /// Its encoding.
    pub(crate) fn encode(&self) -> Bytes {
        let commands: usize = self.commands.iter().map(Command::encoded_len).sum();
        let mut out = BytesMut::with_capacity(1 + 6 * 8 + 4 + commands);
        out.put_u8(VERSION);
        out.put_u64_le(self.time);
        for number in [self.claim.revision, self.claim.index, self.claim.digest] {
            out.put_u64_le(number);
        }
        out.put_u64_le(self.proposer);
        out.put_u64_le(self.number);
        out.put_u32_le(u32::try_from(self.commands.len()).expect("a batch is below 16 MiB"));
        for command in &self.commands {
            command.encode(&mut out);
        }
        out.freeze()
    }

    /// Reads what [`Batch::encode`] wrote; keys and payloads share the memory of `bytes`.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, CommandError> {
        let short = |_| CommandError::Short;
        let version = bytes.try_get_u8().map_err(short)?;
        if version != VERSION {
            return Err(CommandError::Version(version));
        }
        let time = bytes.try_get_u64_le().map_err(short)?;
        let revision = bytes.try_get_u64_le().map_err(short)?;
        let index = bytes.try_get_u64_le().map_err(short)?;
        let claim = Claim { revision, index, digest: bytes.try_get_u64_le().map_err(short)? };
        let proposer = bytes.try_get_u64_le().map_err(short)?;
        let number = bytes.try_get_u64_le().map_err(short)?;
        let count = bytes.try_get_u32_le().map_err(short)?;
        // Of memory no more is asked for than the bytes can stand for.
        let count = usize::try_from(count).ok().filter(|count| *count <= bytes.len() / FIXED);
        let mut commands = Vec::with_capacity(count.ok_or(CommandError::Short)?);
        for _ in 0..commands.capacity() {
            commands.push(Command::decode(&mut bytes)?);
        }
        if bytes.is_empty() {
            Ok(Self { time, claim, proposer, number, commands })
        } else {
            Err(CommandError::Trailing(bytes.len()))
        }
    }
}

/// The first `len` of `bytes`, which has fewer when it was cut.
fn take(bytes: &mut Bytes, len: usize) -> Result<Bytes, CommandError> {
    if bytes.len() < len { Err(CommandError::Short) } else { Ok(bytes.split_to(len)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn command()(
            (origin, seq, low, not_after) in any::<(u64, u64, u64, u64)>(),
            key in proptest::collection::vec(any::<u8>(), 0..MAX_KEY_BYTES),
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            part in 0.0..=1.0,
        ) -> Command {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of a small length")]
            let head = (payload.len() as f64 * part) as u32;
            Command { origin, seq, low, not_after, key: key.into(), head, payload: payload.into() }
        }
    }

    prop_compose! {
        fn batch()(
            (time, revision, index, digest) in any::<(u64, u64, u64, u64)>(),
            (proposer, number) in any::<(u64, u64)>(),
            commands in proptest::collection::vec(command(), 0..5),
        ) -> Batch {
            Batch { time, claim: Claim { revision, index, digest }, proposer, number, commands }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(batch in batch()) {
            prop_assert_eq!(Batch::decode(batch.encode()), Ok(batch));
        }

        #[test]
        fn what_is_cut_or_continued_is_refused(batch in batch(), more in 1usize..20) {
            let whole = batch.encode();
            for len in 0..whole.len() {
                prop_assert!(Batch::decode(whole.slice(..len)).is_err(), "cut at {}", len);
            }
            let mut longer = BytesMut::from(&whole[..]);
            longer.put_bytes(0, more);
            prop_assert_eq!(Batch::decode(longer.freeze()), Err(CommandError::Trailing(more)));
        }

        #[test]
        fn foreign_bytes_are_refused_or_are_a_batch(bytes in proptest::collection::vec(any::<u8>(), 0..400), flip in any::<(u16, u8)>(), batch in batch()) {
            if let Ok(read) = Batch::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
            }
            let mut changed = BytesMut::from(&batch.encode()[..]);
            let at = usize::from(flip.0) % changed.len();
            changed[at] ^= flip.1;
            let changed = changed.freeze();
            if let Ok(read) = Batch::decode(changed.clone()) {
                prop_assert_eq!(read.encode(), changed);
            }
        }
    }

    #[test]
    fn an_unknown_version_and_unknown_flags_are_told_as_such() {
        let mut bytes = BytesMut::from(&Batch::default().encode()[..]);
        bytes[0] = 9;
        assert_eq!(Batch::decode(bytes.freeze()), Err(CommandError::Version(9)));
        let mut out = BytesMut::new();
        let command = Command {
            origin: 1,
            seq: 2,
            low: 3,
            not_after: 4,
            key: Bytes::new(),
            head: 0,
            payload: Bytes::new(),
        };
        command.encode(&mut out);
        out[34] = 0x80;
        assert_eq!(Command::decode(&mut out.freeze()), Err(CommandError::Flags(0x80)));
    }

    #[test]
    fn a_count_beyond_the_bytes_asks_for_no_memory() {
        let mut bytes = BytesMut::from(&Batch::default().encode()[..]);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Batch::decode(bytes.freeze()), Err(CommandError::Short));
    }
}
