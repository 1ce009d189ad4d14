//! Indexes of an Indexed Job as Kubernetes writes them: `0-2,5`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most completions of an Indexed Job. Source: Kubernetes' validation of Jobs.
pub const MAX_INDEXES: u32 = 100_000;

/// A set of indexes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Indexes(BTreeSet<u32>);

impl Indexes {
    /// Adds one; whether it was not there.
    pub fn insert(&mut self, index: u32) -> bool {
        self.0.insert(index)
    }

    /// Whether it has the index.
    pub fn contains(&self, index: u32) -> bool {
        self.0.contains(&index)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them `other` has too.
    pub fn common(&self, other: &Self) -> u32 {
        u32::try_from(self.0.intersection(&other.0).count()).unwrap_or(u32::MAX)
    }

    /// The largest one.
    pub fn last(&self) -> Option<u32> {
        self.0.last().copied()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Kubernetes writes two neighbours as two.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for Indexes {
    type Err = String;

    /// # Errors
    /// What the text must be.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("indexes below {MAX_INDEXES} such as `0,3-5`");
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let number =
                |text: &str| text.parse::<u32>().ok().filter(|index| *index < MAX_INDEXES).ok_or_else(wrong);
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            set.extend(first..=last);
        }
        Ok(Self(set))
    }
}

impl From<Indexes> for String {
    fn from(indexes: Indexes) -> Self {
        indexes.to_string()
    }
}

impl TryFrom<String> for Indexes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indexes_are_written_as_kubernetes_does() {
        for text in ["", "0", "0,1", "0-2,5", "1,3-6,8,9"] {
            assert_eq!(text.parse::<Indexes>().unwrap().to_string(), text);
        }
        for bad in [",", "a", "2-1", "0-100000", "1-2-3", "-1", "99999999999"] {
            assert!(bad.parse::<Indexes>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(set in prop::collection::btree_set(0_u32..200, 0..60)) {
            let indexes = Indexes(set);
            prop_assert_eq!(indexes.to_string().parse::<Indexes>().unwrap(), indexes);
        }
    }
}
