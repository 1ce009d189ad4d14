//! The timers of the order, and what they depend on.

use std::time::Duration;

/// Timers of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Between two heartbeats of a leader.
    pub(crate) heartbeat: Duration,
    /// The shortest and the longest silence after which another leader is looked for.
    pub(crate) election: (Duration, Duration),
}

impl Timing {
    /// The timers of a machine whose `/proc/cpuinfo` is `cpuinfo`: four times as long where the processor is emulated, since a machine
    /// beside others gets no processor for longer there.
    pub(crate) fn new(cpuinfo: &str) -> Self {
        let factor = if cpuinfo.contains("QEMU TCG") { 4 } else { 1 };
        let millis = |millis: u64| Duration::from_millis(millis * factor);
        Self { heartbeat: millis(50), election: (millis(150), millis(300)) }
    }

    /// After so long a command is sent again that was not executed.
    pub(crate) fn resend(&self) -> Duration {
        self.election.1 * 2
    }

    /// How long a replica that starts waits for others to say who they are.
    pub(crate) fn greeting(&self) -> Duration {
        self.election.1 * 4
    }

    /// A leader that no majority answers for so long is silent for as long, so that others find another leader.
    pub(crate) fn deaf(&self) -> Duration {
        self.election.1 * 4
    }

    /// How long a round of questions to other replicas may take.
    pub(crate) fn round(&self) -> Duration {
        self.election.1 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_processor_has_more_time() {
        let native = Timing::new("model name\t: Intel(R) Xeon(R) Processor\n");
        let emulated = Timing::new("model name\t: QEMU TCG CPU version 2.5+\n");
        assert_eq!(native.election, (Duration::from_millis(150), Duration::from_millis(300)));
        assert_eq!(emulated.heartbeat, native.heartbeat * 4);
    }
}
