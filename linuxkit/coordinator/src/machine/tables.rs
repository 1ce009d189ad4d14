//! What was done before: commands by origin and number, and requests by their `Idempotency-Key`. Every replica has the same tables after
//! the same entry, since what is forgotten follows from commands and agreed time alone. Only the stored replies are this
//! replica's own: how many are kept is bounded in bytes, and a reply may have other bytes elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::command::Command;
use crate::log::record::{RecordError, put_bytes, take_bool, take_bytes};

/// Keys that are known at a time.
const MAX_KEYS: usize = 100_000;

/// Bytes of all keys together, with what each costs beside its own: 100,000 of 36 bytes fit.
const MAX_KEYS_BYTES: usize = 16 << 20;

/// Bytes of memory that a key takes beside its own.
const KEY_OVERHEAD: usize = 128;

/// Agreed milliseconds for which a key is known.
const KEY_AGE_MS: u64 = 600_000;

/// Bytes of all replies that are kept for keys.
const MAX_REPLIES_BYTES: usize = 8 << 20;

/// Runs of coordinators that are known at a time. Each start of one is new.
const MAX_ORIGINS: usize = 256;

/// What is to be done with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is executed.
    Run,
    /// It was executed, under the same number: who waits for it had its reply then.
    Again,
    /// Its deadline is past.
    Late,
    /// Its key was seen: it gets the reply that is stored by the time that it is due.
    Stored,
    /// Its key was seen with another request: it is never executed.
    Another,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Origin {
    /// Numbers below are never executed any more.
    low: u64,
    /// Numbers from `low` on that were.
    done: BTreeSet<u64>,
    /// Agreed time of its last command.
    time_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    time_ms: u64,
    /// xxh3 of the request that came first with it.
    fingerprint: u64,
    reply: Option<Bytes>,
}

/// The tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    origins: BTreeMap<u64, Origin>,
    keys: HashMap<Bytes, Key>,
    /// Keys by age.
    order: VecDeque<Bytes>,
    keys_bytes: usize,
    /// Keys with replies, by age.
    replies: VecDeque<Bytes>,
    replies_bytes: usize,
}

impl Tables {
    /// Decides on `command`, which is due at agreed time `now_ms`, and notes it. `fingerprint` is that of its request, and only
    /// counts where it has a key. What was executed stays so, however late it is asked for again.
    pub(crate) fn admit(&mut self, command: &Command, fingerprint: u64, now_ms: u64) -> Verdict {
        let known = self.origins.get(&command.origin);
        if known.is_some_and(|origin| command.seq < origin.low || origin.done.contains(&command.seq)) {
            return Verdict::Again;
        }
        self.forget_keys(now_ms);
        let seen = self.keys.get(&command.key).filter(|_| !command.key.is_empty());
        let seen = seen
            .map(|known| if known.fingerprint == fingerprint { Verdict::Stored } else { Verdict::Another });
        if command.not_after < now_ms {
            return seen.unwrap_or(Verdict::Late);
        }
        let origin = self.origins.entry(command.origin).or_default();
        origin.done.insert(command.seq);
        origin.time_ms = now_ms;
        if command.low > origin.low {
            origin.low = command.low;
            origin.done = origin.done.split_off(&command.low);
        }
        self.forget_origins();
        if let Some(seen) = seen {
            return seen;
        }
        if !command.key.is_empty() {
            self.make_room();
            // A copy: the key would hold the memory of its whole batch.
            let key = Bytes::copy_from_slice(&command.key);
            self.keys_bytes += key.len() + KEY_OVERHEAD;
            self.order.push_back(key.clone());
            self.keys.insert(key, Key { time_ms: now_ms, fingerprint, reply: None });
        }
        Verdict::Run
    }

    /// Stores the reply of a command with a key.
    pub(crate) fn store(&mut self, key: &[u8], reply: &[u8]) {
        let Some((name, known)) = self.keys.get_key_value(key).map(|(name, known)| (name.clone(), known))
        else {
            return;
        };
        if known.reply.is_some() || reply.len() > MAX_REPLIES_BYTES {
            return;
        }
        let reply = Bytes::copy_from_slice(reply);
        self.replies_bytes += reply.len();
        if let Some(known) = self.keys.get_mut(&name) {
            known.reply = Some(reply);
        }
        self.replies.push_back(name);
        while self.replies_bytes > MAX_REPLIES_BYTES {
            let Some(oldest) = self.replies.pop_front() else { break };
            if let Some(reply) = self.keys.get_mut(&oldest).and_then(|known| known.reply.take()) {
                self.replies_bytes -= reply.len();
            }
        }
    }

    /// The reply of the command that came first with `key`; none when it is no longer kept.
    pub(crate) fn stored(&self, key: &[u8]) -> Option<Bytes> {
        self.keys.get(key)?.reply.clone()
    }

    /// Origins beyond the limit go, the one first that was silent for longest: it has ended, and its commands are past their
    /// deadlines.
    fn forget_origins(&mut self) {
        while self.origins.len() > MAX_ORIGINS {
            let oldest =
                self.origins.iter().min_by_key(|(id, origin)| (origin.time_ms, **id)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return };
            self.origins.remove(&oldest);
        }
    }

    /// Keys that are old go.
    fn forget_keys(&mut self, now_ms: u64) {
        let is_old = |known: &Key| known.time_ms.saturating_add(KEY_AGE_MS) < now_ms;
        while self.order.front().is_some_and(|oldest| self.keys.get(oldest).is_none_or(is_old)) {
            self.forget_oldest_key();
        }
    }

    /// The oldest keys go until there is room for one more.
    fn make_room(&mut self) {
        while self.order.len() >= MAX_KEYS || self.keys_bytes >= MAX_KEYS_BYTES {
            self.forget_oldest_key();
        }
    }

    fn forget_oldest_key(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.keys_bytes -= oldest.len() + KEY_OVERHEAD;
        if let Some(reply) = self.keys.remove(&oldest).and_then(|known| known.reply) {
            self.replies_bytes -= reply.len();
            // Keys and replies are nearly always in the same order.
            if self.replies.front() == Some(&oldest) {
                self.replies.pop_front();
            } else {
                self.replies.retain(|key| *key != oldest);
            }
        }
    }

    /// Writes them behind `out`: number of origins u32, each as id u64, low u64, time u64, number of done u32 and these u64; number of
    /// keys u32, each by age as key u32 and its bytes, time u64, fingerprint u64, whether it has a reply u8, reply u32 and its bytes.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let count = |count: usize| u32::try_from(count).expect("tables are bounded");
        out.put_u32_le(count(self.origins.len()));
        for (id, origin) in &self.origins {
            out.put_u64_le(*id);
            out.put_u64_le(origin.low);
            out.put_u64_le(origin.time_ms);
            out.put_u32_le(count(origin.done.len()));
            origin.done.iter().for_each(|seq| out.put_u64_le(*seq));
        }
        out.put_u32_le(count(self.order.len()));
        for key in &self.order {
            let known = self.keys.get(key);
            put_bytes(out, key);
            out.put_u64_le(known.map_or(0, |known| known.time_ms));
            out.put_u64_le(known.map_or(0, |known| known.fingerprint));
            let reply = known.and_then(|known| known.reply.as_ref());
            out.put_u8(u8::from(reply.is_some()));
            put_bytes(out, reply.map_or(&[][..], |reply| reply));
        }
    }

    /// Takes what [`Tables::encode`] wrote from the front of `bytes`.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let mut tables = Self::default();
        for _ in 0..bytes.try_get_u32_le()? {
            let id = bytes.try_get_u64_le()?;
            let (low, time_ms) = (bytes.try_get_u64_le()?, bytes.try_get_u64_le()?);
            let mut done = BTreeSet::new();
            for _ in 0..bytes.try_get_u32_le()? {
                done.insert(bytes.try_get_u64_le()?);
            }
            tables.origins.insert(id, Origin { low, done, time_ms });
        }
        for _ in 0..bytes.try_get_u32_le()? {
            let key = Bytes::copy_from_slice(&take_bytes(bytes)?);
            let (time_ms, fingerprint) = (bytes.try_get_u64_le()?, bytes.try_get_u64_le()?);
            let has_reply = take_bool(bytes)?;
            let reply = Bytes::copy_from_slice(&take_bytes(bytes)?);
            tables.keys_bytes += key.len() + KEY_OVERHEAD;
            tables.order.push_back(key.clone());
            if has_reply {
                tables.replies_bytes += reply.len();
                tables.replies.push_back(key.clone());
            }
            let known = Key { time_ms, fingerprint, reply: has_reply.then_some(reply) };
            if tables.keys.insert(key, known).is_some() {
                return Err(RecordError);
            }
        }
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request of the fingerprint 7.
    fn admit(tables: &mut Tables, command: &Command, now_ms: u64) -> Verdict {
        tables.admit(command, 7, now_ms)
    }

    fn command(origin: u64, seq: u64, low: u64, key: &str) -> Command {
        let key = Bytes::copy_from_slice(key.as_bytes());
        Command { origin, seq, low, not_after: 1_000_000_000, key, head: 0, payload: Bytes::new() }
    }

    #[test]
    fn a_number_is_executed_once_and_never_below_the_low() {
        let mut tables = Tables::default();
        assert_eq!(admit(&mut tables, &command(1, 5, 1, ""), 0), Verdict::Run);
        assert_eq!(admit(&mut tables, &command(1, 5, 1, ""), 0), Verdict::Again);
        assert_eq!(admit(&mut tables, &command(2, 5, 1, ""), 0), Verdict::Run);
        assert_eq!(admit(&mut tables, &command(1, 9, 8, ""), 0), Verdict::Run);
        assert_eq!(admit(&mut tables, &command(1, 7, 1, ""), 0), Verdict::Again);
        assert_eq!(admit(&mut tables, &command(1, 8, 1, ""), 0), Verdict::Run);
        assert_eq!(tables.origins[&1].done.len(), 2);
    }

    #[test]
    fn a_late_command_is_skipped_and_stays_so() {
        let mut tables = Tables::default();
        let late = Command { not_after: 10, ..command(1, 1, 1, "k") };
        assert_eq!(admit(&mut tables, &late, 11), Verdict::Late);
        assert_eq!(admit(&mut tables, &late, 10), Verdict::Run);
        // It was executed, whatever time it is when it comes again, alone or with its key.
        assert_eq!(admit(&mut tables, &late, 11), Verdict::Again);
        assert_eq!(admit(&mut tables, &Command { seq: 2, ..late.clone() }, 11), Verdict::Stored);
        assert_eq!(admit(&mut tables, &Command { seq: 2, key: Bytes::new(), ..late }, 11), Verdict::Late);
    }

    #[test]
    fn a_key_gives_the_first_reply_until_it_is_old() {
        let mut tables = Tables::default();
        assert_eq!(admit(&mut tables, &command(1, 1, 1, "k"), 1000), Verdict::Run);
        assert_eq!(admit(&mut tables, &command(2, 1, 1, "k"), 1001), Verdict::Stored);
        tables.store(b"k", b"first");
        tables.store(b"k", b"second");
        assert_eq!(tables.stored(b"k"), Some(Bytes::from_static(b"first")));
        assert_eq!(admit(&mut tables, &command(2, 2, 1, "k"), 1000 + KEY_AGE_MS), Verdict::Stored);
        assert_eq!(admit(&mut tables, &command(2, 3, 1, "k"), 1001 + KEY_AGE_MS), Verdict::Run);
        assert_eq!(tables.stored(b"k"), None);
        assert_eq!((tables.replies_bytes, tables.keys_bytes), (0, 1 + KEY_OVERHEAD));
    }

    #[test]
    fn a_key_of_another_request_is_told_so_and_nothing_is_executed() {
        let mut tables = Tables::default();
        assert_eq!(tables.admit(&command(1, 1, 1, "k"), 7, 0), Verdict::Run);
        tables.store(b"k", b"first");
        assert_eq!(tables.admit(&command(2, 1, 1, "k"), 8, 1), Verdict::Another);
        assert_eq!(tables.admit(&command(2, 2, 1, "k"), 7, 1), Verdict::Stored);
        // Without a key requests have nothing to do with each other.
        assert_eq!(tables.admit(&command(2, 3, 1, ""), 8, 1), Verdict::Run);
        assert_eq!(tables.admit(&command(2, 4, 1, ""), 9, 1), Verdict::Run);
        let mut out = BytesMut::new();
        tables.encode(&mut out);
        let mut back = Tables::decode(&mut out.freeze()).unwrap();
        assert_eq!(back.admit(&command(3, 1, 1, "k"), 8, 1), Verdict::Another);
    }

    #[test]
    fn tables_are_bounded_and_a_key_outlives_its_reply() {
        let mut tables = Tables::default();
        let reply = vec![1; 1 << 20];
        for seq in 1..=20 {
            let key = format!("key-{seq}");
            assert_eq!(admit(&mut tables, &command(1, seq, seq, &key), seq), Verdict::Run);
            tables.store(key.as_bytes(), &reply);
        }
        assert!(tables.replies_bytes <= MAX_REPLIES_BYTES);
        assert_eq!(tables.stored(b"key-1"), None);
        assert_eq!(admit(&mut tables, &command(1, 21, 21, "key-1"), 21), Verdict::Stored);
        for seq in 0..u64::try_from(MAX_KEYS).unwrap() + 100 {
            admit(&mut tables, &command(2, seq, seq, &format!("{seq:040}")), 30);
        }
        assert!(tables.keys.len() <= MAX_KEYS && tables.keys_bytes <= MAX_KEYS_BYTES + 40 + KEY_OVERHEAD);
        assert_eq!(tables.keys.len(), tables.order.len());
        for origin in 0..1000 {
            admit(&mut tables, &command(origin + 10, 1, 1, ""), 40 + origin);
        }
        assert_eq!(tables.origins.len(), MAX_ORIGINS);
        assert!(tables.origins.contains_key(&1009));
    }

    proptest! {
        #[test]
        fn tables_come_back_and_foreign_bytes_do_no_harm(
            commands in proptest::collection::vec((0u64..4, 0u64..30, 0u64..10, "[a-c]{0,2}"), 0..60),
            flip in any::<(u16, u8)>(),
        ) {
            let mut tables = Tables::default();
            for (time, (origin, seq, low, key)) in (0..).zip(&commands) {
                if admit(&mut tables, &command(*origin, *seq, *low, key), time) == Verdict::Run && time % 2 == 0 {
                    tables.store(key.as_bytes(), format!("reply {time}").as_bytes());
                }
            }
            let mut out = BytesMut::new();
            tables.encode(&mut out);
            let mut bytes = out.clone().freeze();
            prop_assert_eq!(Tables::decode(&mut bytes), Ok(tables));
            prop_assert!(bytes.is_empty());
            for len in 0..out.len() {
                prop_assert!(Tables::decode(&mut Bytes::copy_from_slice(&out[..len])).is_err());
            }
            let at = usize::from(flip.0) % out.len();
            out[at] ^= flip.1;
            drop(Tables::decode(&mut out.freeze()));
        }
    }
}
