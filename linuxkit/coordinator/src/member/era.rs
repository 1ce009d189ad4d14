//! The era of a group: how often it was recovered from the loss of a majority, and by which recovery last.
//!
//! A recovery lets one replica go on alone, without asking the others. What keeps those from going on as well is that replicas of
//! different eras do not talk to each other about the order: whoever hears of a later era is out of the group, with all that its log
//! has. The file `era` beside the log is: `I2KE`, version u8, number u64, id u64, pending u8, CRC-32C u32, all little-endian. A group that was
//! never recovered has none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::log::{Entry, EntryId, Log, Members, Payload, Vote};

/// The name of the file.
const NAME: &str = "era";

/// Its beginning.
const MAGIC: &[u8; 5] = b"I2KE\x01";

/// Bytes of the file.
const LEN: usize = MAGIC.len() + 17 + 4;

/// An era.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Era {
    /// How often the group was recovered.
    pub(crate) number: u64,
    /// A number by chance, of the last recovery; 0 without one. Two recoveries of the same number are two groups.
    pub(crate) id: u64,
}

/// What a replica does that hears of another's era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// It is the same: they talk.
    Same,
    /// The other's is earlier: the other is out, or it is empty and takes this one's on.
    Earlier,
    /// The other's is later, and this one has nothing to lose: it takes that on.
    TakeOn,
    /// The other's is later: this one is out.
    Out,
    /// Both were recovered by themselves.
    Two,
}

impl Era {
    /// What comes of hearing that another replica has the era `other`; `is_empty`: whether this one's log has nothing.
    pub(crate) fn meets(self, is_empty: bool, other: Self) -> Meeting {
        match self.number.cmp(&other.number) {
            _ if self == other => Meeting::Same,
            std::cmp::Ordering::Greater => Meeting::Earlier,
            std::cmp::Ordering::Equal => Meeting::Two,
            std::cmp::Ordering::Less if is_empty => Meeting::TakeOn,
            std::cmp::Ordering::Less => Meeting::Out,
        }
    }
}

/// The file's content: the era, and whether the log is still to be made the log of a group of one.
fn encode(era: Era, is_pending: bool) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&era.number.to_le_bytes());
    bytes.extend_from_slice(&era.id.to_le_bytes());
    bytes.push(u8::from(is_pending));
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Era, bool)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return None;
    }
    let (number, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let is_pending = match rest {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    Some((Era { number: u64::from_le_bytes(*number), id: u64::from_le_bytes(*id) }, is_pending))
}

/// Writes the file, so that it is there as a whole or not at all.
pub(crate) fn save(folder: &Path, era: Era, is_pending: bool) -> io::Result<()> {
    let new = folder.join("era.new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
    file.write_all(&encode(era, is_pending))?;
    file.sync_all()?;
    fs::rename(new, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

fn load(folder: &Path) -> io::Result<(Era, bool)> {
    let mut bytes = Vec::new();
    match File::open(folder.join(NAME)) {
        Ok(file) => file.take(2 * LEN as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Era::default(), false)),
        Err(error) => return Err(error),
    };
    decode(&bytes).ok_or_else(|| {
        let text = "the file `era` is damaged: replace this slot's disk, the replica joins anew";
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// The era of the log in `folder`. Where a recovery was asked for, the log becomes that of a group of which `slot` is the only member
/// first: an entry that says so is written behind the last one. All that the log has is committed by it.
///
/// # Errors
/// The file is damaged, or the disk does not take it.
pub(crate) async fn open(folder: &Path, log: &Log, slot: u32) -> io::Result<Era> {
    let (era, is_pending) = load(folder)?;
    if !is_pending {
        return Ok(era);
    }
    let alone = Members { configs: vec![vec![log.id()]], nodes: vec![(log.id(), slot)] };
    let last = log.last().unwrap_or_default();
    let newest = log.fetch(last.index, last.index + 1, 1).await.map_err(io::Error::other)?;
    let is_written = newest
        .last()
        .is_some_and(|entry| matches!(&entry.payload, Payload::Members(members) if *members == alone));
    if !is_written {
        let term = log.vote().map_or(0, |vote| vote.term).max(last.term) + 1;
        log.save_vote(Vote { term, node: log.id(), committed: true }).await?;
        let id = EntryId { term, leader: log.id(), index: last.index + 1 };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let entry = Entry { id, payload: Payload::Members(alone) };
        let done = Box::new(move || {
            let _ = sender.send(());
        });
        log.append(vec![entry], done).map_err(io::Error::other)?;
        receiver.await.map_err(io::Error::other)?;
    }
    save(folder, era, false)?;
    crate::report!(
        "the group was recovered from this replica, for the {}. time: its log up to entry {} is the state, and it is the only member",
        era.number,
        last.index
    );
    Ok(era)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::log::Options;
    use crate::metrics::Metrics;

    #[test]
    fn who_hears_of_a_later_era_is_out_unless_it_is_empty() {
        let era = |number, id| Era { number, id };
        let cases = [
            (era(0, 0), false, era(0, 0), Meeting::Same),
            (era(1, 7), true, era(1, 7), Meeting::Same),
            (era(1, 7), false, era(0, 0), Meeting::Earlier),
            (era(1, 7), true, era(0, 0), Meeting::Earlier),
            (era(0, 0), true, era(1, 7), Meeting::TakeOn),
            (era(1, 7), true, era(2, 8), Meeting::TakeOn),
            (era(0, 0), false, era(1, 7), Meeting::Out),
            (era(1, 7), false, era(1, 8), Meeting::Two),
            (era(1, 7), true, era(1, 8), Meeting::Two),
        ];
        for (mine, is_empty, other, wanted) in cases {
            assert_eq!(mine.meets(is_empty, other), wanted, "{mine:?} {is_empty} {other:?}");
        }
    }

    #[tokio::test]
    async fn a_log_becomes_that_of_a_group_of_one_once() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 << 10, direct: false };
        let log = || Log::open(folder.path(), 5, options, Arc::new(Metrics::new())).unwrap();
        let first = log();
        assert_eq!(open(folder.path(), &first, 2).await.unwrap(), Era::default());
        first.save_vote(Vote { term: 9, node: 8, committed: true }).await.unwrap();
        let entry = |index, payload| Entry { id: EntryId { term: 4, leader: 8, index }, payload };
        let members = Members { configs: vec![vec![5, 8, 9]], nodes: vec![(5, 2), (8, 0), (9, 1)] };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let entries = vec![entry(0, Payload::Members(members)), entry(1, Payload::Blank)];
        first.append(entries, Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.await.unwrap();
        drop(first);
        let era = Era { number: 3, id: 77 };
        save(folder.path(), era, true).unwrap();
        // A start that is broken off behind the entry writes it no second time.
        for _ in 0..2 {
            let log = log();
            assert_eq!(open(folder.path(), &log, 2).await.unwrap(), era);
            assert_eq!(log.last(), Some(EntryId { term: 10, leader: 5, index: 2 }));
            assert_eq!(log.vote(), Some(Vote { term: 10, node: 5, committed: true }));
            let last = log.fetch(2, 3, 1).await.unwrap().remove(0);
            let alone = Members { configs: vec![vec![5]], nodes: vec![(5, 2)] };
            assert_eq!(last.payload, Payload::Members(alone));
            assert_eq!(load(folder.path()).unwrap(), (era, false));
            save(folder.path(), era, true).unwrap();
        }
    }

    proptest! {
        #[test]
        fn an_era_comes_back_and_a_changed_one_does_not(number: u64, id: u64, is_pending: bool, at in 0..LEN, flip in 1..=u8::MAX) {
            let era = Era { number, id };
            let mut bytes = encode(era, is_pending);
            prop_assert_eq!(bytes.len(), LEN);
            prop_assert_eq!(decode(&bytes), Some((era, is_pending)));
            for len in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..len]), None);
            }
            bytes[at] ^= flip;
            prop_assert_eq!(decode(&bytes), None);
        }
    }
}
