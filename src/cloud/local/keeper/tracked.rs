//! Records of which it is known, without a look at them, whether somebody may have written to them since.

use std::ops::{Deref, DerefMut};

use crate::cloud::local::store::Environments;

/// How often records were lent to be written to. Two that are equal are of the same records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edition(u64);

/// The records of all environments. Whoever borrows them to write, whether he does or not, makes another edition of them:
/// so none is missed, whoever it is.
#[derive(Debug)]
pub(in crate::cloud::local) struct Tracked {
    records: Environments,
    lent: u64,
}

impl Tracked {
    /// These records, in their first edition.
    pub(super) fn new(records: Environments) -> Self {
        Self { records, lent: 0 }
    }

    /// Which edition they are.
    pub(super) fn edition(&self) -> Edition {
        Edition(self.lent)
    }

    /// Makes them these records. Equal ones stay of their edition.
    pub(super) fn replace(&mut self, records: Environments) {
        if self.records != records {
            **self = records;
        }
    }
}

impl Deref for Tracked {
    type Target = Environments;

    fn deref(&self) -> &Environments {
        &self.records
    }
}

impl DerefMut for Tracked {
    fn deref_mut(&mut self) -> &mut Environments {
        self.lent += 1;
        &mut self.records
    }
}

impl<'t> IntoIterator for &'t Tracked {
    type Item = <&'t Environments as IntoIterator>::Item;
    type IntoIter = <&'t Environments as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::local::store;

    #[test]
    fn whoever_may_write_makes_another_edition_and_whoever_reads_does_not() {
        let mut tracked = Tracked::new(store::sample());
        let first = tracked.edition();
        assert!(tracked.contains_key("local") && tracked.values().count() == 1);
        assert_eq!((&tracked).into_iter().count(), 1);
        tracked.replace(store::sample());
        assert_eq!(tracked.edition(), first, "they are the same");
        let second = {
            tracked.get_mut("local").unwrap().groups.clear();
            tracked.edition()
        };
        assert_ne!(second, first);
        tracked.replace(store::sample());
        assert_ne!(tracked.edition(), second);
        assert_eq!(*tracked, store::sample());
    }
}
