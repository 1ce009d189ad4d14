//! What is remembered of templates while the local cloud's process runs: which are to be made, and when, and which have failed. Pure:
//! times are given.
//!
//! Making one costs a boot, so that whatever goes wrong is not tried again at once, and never without end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::oci::Digest;
use crate::plan::fleet::LaunchSpec;

/// How many templates of a kind may be at fault before no other one is made. Those that gave way or were pruned are none of them.
const MOST_FAULTS: u32 = 3;

/// How many machines of a template may end, or fall silent for good, before one has answered: then the template is at fault.
const MOST_STRIKES: u32 = 2;

/// After an attempt to make one that failed, or for which there was no room; twice as long after each further one.
const AGAIN: Duration = Duration::from_mins(10);

/// How often [`AGAIN`] is doubled at most.
const DOUBLINGS: u32 = 5;

/// For how long one that had to give way is not made again.
const GAVE_WAY: Duration = Duration::from_hours(1);

/// How many kinds are remembered.
const MOST_KINDS: usize = 512;

/// A template that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What its machines are started from.
    pub(crate) spec: LaunchSpec,
    /// Whether they are in a network of their environment's own.
    pub(crate) own_network: bool,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    /// What to make, and not before when.
    wanted: Option<(Wanted, Instant)>,
    /// Not before when it may be wanted.
    rests: Option<Instant>,
    /// How many were at fault.
    faults: u32,
    /// How often it was not, in a row.
    failures: u32,
    /// Machines that never answered, in a row.
    strikes: u32,
    /// The template that they started from.
    struck: Option<Digest>,
}

/// The kinds of machines, by the key of their template.
#[derive(Debug, Default)]
pub(crate) struct Table {
    kinds: BTreeMap<Digest, Known>,
}

impl Table {
    /// The template is wanted from `now` on. Whether it is going to be made.
    pub(crate) fn want(&mut self, key: Digest, wanted: Wanted, now: Instant) -> bool {
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&key) {
            self.kinds.retain(|_, known| known.wanted.is_some() || known.faults >= MOST_FAULTS);
            if self.kinds.len() >= MOST_KINDS {
                return false;
            }
        }
        let known = self.kinds.entry(key).or_default();
        if known.faults >= MOST_FAULTS {
            return false;
        }
        if known.wanted.is_none() {
            let due = known.rests.map_or(now, |rests| rests.max(now));
            known.wanted = Some((wanted, due));
        }
        true
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.kinds.values().filter_map(|known| Some(known.wanted.as_ref()?.1)).min()
    }

    /// One that is due, the earliest first. It is wanted no more.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Digest, Wanted)> {
        let due = |(key, known): (&Digest, &Known)| Some((known.wanted.as_ref()?.1, *key));
        let (_, key) = self.kinds.iter().filter_map(due).filter(|(due, _)| *due <= now).min()?;
        let (wanted, _) = self.kinds.get_mut(&key)?.wanted.take()?;
        Some((key, wanted))
    }

    /// It was made.
    pub(crate) fn made(&mut self, key: Digest) {
        let known = self.kinds.entry(key).or_default();
        (known.failures, known.strikes, known.rests) = (0, 0, None);
    }

    /// It was not made, whyever: it is tried again later.
    pub(crate) fn put_off(&mut self, key: Digest, wanted: Wanted, now: Instant) {
        let known = self.kinds.entry(key).or_default();
        let due = now + AGAIN * 2_u32.pow(known.failures.min(DOUBLINGS));
        known.failures = known.failures.saturating_add(1);
        known.rests = Some(due);
        known.wanted = Some((wanted, due));
    }

    /// It gave way to others, and is not made again at once.
    pub(crate) fn gave_way(&mut self, key: Digest, now: Instant) {
        let known = self.kinds.entry(key).or_default();
        known.rests = Some(now + GAVE_WAY);
    }

    /// A machine that started from the template with this mark answered.
    pub(crate) fn worked(&mut self, key: Digest, mark: Digest) {
        if let Some(known) = self.kinds.get_mut(&key).filter(|known| known.struck == Some(mark)) {
            known.strikes = 0;
        }
    }

    /// A machine that started from the template with this mark never answered. Whether that one counts as bad.
    pub(crate) fn struck(&mut self, key: Digest, mark: Digest) -> bool {
        let known = self.kinds.entry(key).or_default();
        if known.struck.replace(mark) != Some(mark) {
            known.strikes = 0;
        }
        known.strikes += 1;
        let is_bad = known.strikes >= MOST_STRIKES;
        if is_bad {
            known.strikes = 0;
        }
        is_bad
    }

    /// A template was at fault, and is removed. Whether another one may be made.
    pub(crate) fn spoiled(&mut self, key: Digest) -> bool {
        let known = self.kinds.entry(key).or_default();
        known.faults = known.faults.saturating_add(1);
        known.faults < MOST_FAULTS
    }
}

#[cfg(test)]
pub(in crate::cloud::local) mod tests {
    use super::*;
    use crate::plan::example;
    use crate::plan::image::ImageId;

    fn key(number: u8) -> Digest {
        Digest::of(&[number])
    }

    pub(in crate::cloud::local) fn wanted() -> Wanted {
        Wanted { spec: example::launch(ImageId(Digest::of(b"image"))), own_network: true }
    }

    #[test]
    fn what_is_wanted_is_made_once_and_the_earliest_first() {
        let (mut table, start) = (Table::default(), Instant::now());
        assert_eq!((table.due(), table.take(start)), (None, None));
        let later = start + Duration::from_secs(1);
        assert!(table.want(key(1), wanted(), later) && table.want(key(2), wanted(), start));
        assert!(table.want(key(2), wanted(), later), "it is wanted already");
        assert_eq!(table.due(), Some(start));
        assert_eq!(table.take(start), Some((key(2), wanted())));
        assert_eq!(table.take(start), None);
        assert_eq!(table.take(later), Some((key(1), wanted())));
        assert_eq!(table.due(), None);
    }

    #[test]
    fn what_fails_is_tried_later_and_later() {
        let (mut table, start) = (Table::default(), Instant::now());
        for minutes in [10, 20, 40, 80, 160, 320, 320] {
            table.put_off(key(1), wanted(), start);
            let due = start + Duration::from_mins(minutes);
            assert_eq!(table.due(), Some(due));
            // Another machine of its kind does not make it earlier.
            assert!(table.want(key(1), wanted(), start));
            assert_eq!(table.due(), Some(due));
            assert!(table.take(due).is_some());
            assert!(table.want(key(1), wanted(), start));
            assert_eq!(table.due(), Some(due), "it rests");
        }
        table.made(key(1));
        table.take(start + Duration::from_hours(9)).unwrap();
        table.put_off(key(1), wanted(), start);
        assert_eq!(table.due(), Some(start + Duration::from_mins(10)), "it worked in between");
    }

    #[test]
    fn a_template_that_gave_way_is_not_made_again_at_once() {
        let (mut table, start) = (Table::default(), Instant::now());
        table.gave_way(key(1), start);
        assert!(table.want(key(1), wanted(), start));
        assert_eq!(table.due(), Some(start + GAVE_WAY));
    }

    #[test]
    fn a_template_whose_machines_do_not_answer_is_bad_and_is_made_anew_so_often() {
        let (mut table, start) = (Table::default(), Instant::now());
        for fault in 1..=MOST_FAULTS {
            // One that gave way, or was pruned, was at no fault.
            for _ in 0..=MOST_FAULTS {
                assert!(table.want(key(1), wanted(), start));
                table.take(start).unwrap();
                table.made(key(1));
            }
            let mark = Digest::of(&fault.to_le_bytes());
            assert!(!table.struck(key(1), mark));
            table.worked(key(1), mark);
            assert!(!table.struck(key(1), mark), "one has answered in between");
            assert!(!table.struck(key(1), key(0)), "one of another template");
            assert!(!table.struck(key(1), mark));
            assert!(table.struck(key(1), mark));
            assert_eq!(table.spoiled(key(1)), fault < MOST_FAULTS);
        }
        assert!(!table.want(key(1), wanted(), start));
        assert_eq!(table.due(), None);
        assert!(table.want(key(2), wanted(), start), "others are made");
    }

    #[test]
    fn so_many_kinds_are_remembered() {
        let (mut table, start) = (Table::default(), Instant::now());
        let many = |number: usize| Digest::of(&number.to_le_bytes());
        for number in 0..MOST_KINDS {
            table.made(many(number));
        }
        assert!(table.want(many(MOST_KINDS), wanted(), start), "those that are not wanted are forgotten");
        assert_eq!(table.kinds.len(), 1);
    }
}
