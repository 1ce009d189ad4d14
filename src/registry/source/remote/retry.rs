//! When to ask again, and how long to wait before.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::registry::error::Error;
use crate::registry::settings::Patience;

/// Attempts on an endpoint when no other is left: about three seconds of waiting, as long as a registry needs to
/// restart behind its balancer.
const LAST_ATTEMPTS: u32 = 5;

/// Attempts on a mirror while others remain: another one answers sooner than this one heals.
const MIRROR_ATTEMPTS: u32 = 2;

/// Attempts when nothing listens: a wrong address or port should be reported quickly.
const CONNECT_ATTEMPTS: u32 = 3;

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How an attempt failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) retry: Retry,
}

/// Whether the same request may do better later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The same answer will come.
    Never,
    /// No connection was made.
    Connect,
    /// An overloaded server, a broken connection.
    Transient,
}

impl Failure {
    /// A failure that no repetition mends.
    pub(super) fn final_(error: Error) -> Self {
        Self { error, retry: Retry::Never }
    }

    /// Whether to try again after `failed` attempts without progress.
    pub(super) fn is_worth_retry(&self, failed: u32, is_last_endpoint: bool) -> bool {
        let attempts = match self.retry {
            Retry::Never => 1,
            Retry::Connect => CONNECT_ATTEMPTS,
            Retry::Transient => LAST_ATTEMPTS,
        };
        failed < if is_last_endpoint { attempts } else { attempts.min(MIRROR_ATTEMPTS) }
    }
}

/// Runs `attempt` until it works or is not worth repeating.
pub(super) async fn retrying<T, F: Future<Output = Result<T, Failure>>>(
    (is_last_endpoint, patience): (bool, Patience),
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut failed = 0;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => {
                failed += 1;
                if !failure.is_worth_retry(failed, is_last_endpoint) {
                    return Err(failure.error);
                }
                tracing::debug!(error = %failure.error, failed, "retry");
                tokio::time::sleep(wait(failed, patience.first_wait)).await;
            }
        }
    }
}

/// How long to wait after `failed` attempts: exponential from `first` on, and between half and all of it, so that many clients that
/// failed together do not come back together.
pub(super) fn wait(failed: u32, first: Duration) -> Duration {
    let full = first.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    // A fresh hasher's keys are the randomness that std has to offer.
    let part = u32::try_from(RandomState::new().hash_one(failed) % 1024).unwrap_or(0);
    full / 2 + full / 2 * part / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        for failed in 1..40 {
            let first = Patience::default().first_wait;
            let full = (first * 2_u32.pow((failed - 1).min(10))).min(LONGEST_WAIT);
            let wait = wait(failed, first);
            assert!(wait >= full / 2 && wait <= full, "{failed}: {wait:?}");
        }
    }

    #[test]
    fn a_mirror_is_left_sooner_than_the_last_endpoint() {
        let error = || Error::Client(String::new());
        let transient = Failure { error: error(), retry: Retry::Transient };
        assert!(transient.is_worth_retry(4, true) && !transient.is_worth_retry(5, true));
        assert!(transient.is_worth_retry(1, false) && !transient.is_worth_retry(2, false));
        assert!(!Failure::final_(error()).is_worth_retry(1, true));
    }
}
