//! The signals that end a verb which would go on by itself.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, the end of a job and, where that is listened for, the end of a terminal.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on neither Ctrl-C nor the end of a job ends the process by itself.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// Nor does the end of a terminal, which means nothing to a command that `nohup` starts.
    pub(super) fn with_hangup(self) -> io::Result<Self> {
        if ignores_hangup(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()) {
            return Ok(self);
        }
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..self })
    }

    /// Waits for the first of them.
    pub(super) async fn any(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }

    /// Waits for a Ctrl-C. A terminal that ends and a job that is cancelled send several signals, which mean the same.
    pub(super) async fn interrupt(&mut self) {
        self.interrupt.recv().await;
    }
}

/// Whether a process with this `/proc/PID/status` was started so that it ignores the end of its terminal: the first bit of the
/// set of ignored signals.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_starts_outlives_its_terminal() {
        assert!(ignores_hangup("Name:\ti2kit\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        for status in ["SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", "SigIgn:\tx\n", ""] {
            assert!(!ignores_hangup(status), "{status}");
        }
    }
}
