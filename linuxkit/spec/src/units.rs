//! Quantities that carry their unit in the type. Each serialises as its bare number.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl Seconds {
    /// The same span in milliseconds, at most the longest that there is.
    #[must_use]
    pub const fn millis(self) -> Millis {
        Millis(self.0.saturating_mul(1000))
    }
}

impl From<Seconds> for Duration {
    fn from(span: Seconds) -> Self {
        Self::from_secs(span.0)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// A span of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment that is this span after `moment`, in milliseconds of the same clock; at most the last one that there is.
    #[must_use]
    pub const fn after(self, moment: u64) -> u64 {
        moment.saturating_add(self.0)
    }

    /// This span and another one, at most the longest that there is.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// This span so many times, at most the longest that there is.
    #[must_use]
    pub const fn saturating_mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// A size in MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_written_as_its_number() {
        assert_eq!(
            serde_json::to_string(&(Seconds(30), Millis(5), Bytes::mib(1))).unwrap(),
            "[30,5,1048576]"
        );
        assert_eq!(serde_json::from_str::<Seconds>("30").unwrap(), Seconds(30));
        assert!(serde_json::from_str::<Seconds>("-1").is_err());
        assert_eq!(Seconds(30).millis(), Millis(30_000));
        assert_eq!(Seconds(u64::MAX).millis(), Millis(u64::MAX));
        assert_eq!((Millis(5).after(7), Millis(5).after(u64::MAX)), (12, u64::MAX));
        assert_eq!(Millis(5).saturating_add(Millis(7)).saturating_mul(2), Millis(24));
    }
}
