//! Which processes go first when the machine is out of memory: the kernel's `oom_score_adj`, as the kubelet sets it. What
//! limits bind goes in its own group; this is about a machine that is too small for what its pod takes.

use std::fs;

use crate::error::{Doing, Error};

/// The guest's own processes beside PID 1, which the kernel never kills: as the kubelet's own.
pub const GUEST: i32 = -999;

/// The first process of a shared PID namespace: as that of a sandbox.
pub const PAUSE: i32 = -998;

/// The score of a container that always goes, which nothing with a request has.
const BEST_EFFORT: u64 = 1000;

/// The lowest score of a container with a request: above all that is guaranteed.
const LOWEST: u64 = 3;

/// The score of a container that requests this much of the machine's memory: the larger its share, the later it goes. A
/// process that takes more than its container requested comes out at the top.
pub(crate) fn score(request: u64, memory: u64) -> i32 {
    let share = u128::from(request) * u128::from(BEST_EFFORT) / u128::from(memory.max(1));
    let score = BEST_EFFORT.saturating_sub(u64::try_from(share).unwrap_or(u64::MAX));
    i32::try_from(score.clamp(LOWEST, BEST_EFFORT - 1)).unwrap_or(i32::MAX)
}

/// Sets the score of a process, by its id or `self`.
pub fn set(process: &str, score: i32) -> Result<(), Error> {
    let path = format!("/proc/{process}/oom_score_adj");
    fs::write(&path, score.to_string()).doing(|| format!("write {score} to {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_kubelets() {
        // A fifth, a tenth, all, nothing, and more than there is.
        assert_eq!([200, 100, 1000, 0, 5000].map(|request| score(request, 1000)), [800, 900, 3, 999, 3]);
        assert_eq!(score(u64::MAX, 0), 3);
    }
}
