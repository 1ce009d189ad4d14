//! The generation of an environment: what tells a plan that it is out of date.

use serde::{Deserialize, Serialize};

/// Which state of an environment's definitions a plan was made on. Acts of clients move it, and nothing else does: no
/// refresh that goes on, no VM that is replaced. An environment that holds nothing has the generation 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that follows. It is no smaller than the time in milliseconds, so that an environment that was
    /// destroyed and made again never has a generation that it had before.
    #[must_use]
    pub fn next(self, wall_ms: u64) -> Self {
        Self(self.0.saturating_add(1).max(wall_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_generation_comes_again() {
        assert_eq!(Generation(0).next(5000), Generation(5000));
        assert_eq!(Generation(5000).next(5000), Generation(5001));
        // The clock was set back.
        assert_eq!(Generation(5001).next(40), Generation(5002));
    }
}
