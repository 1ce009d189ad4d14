//! The leader's queue: what gathers while a batch is under way is the next batch.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::command::Command;

/// Commands that wait take at most about this; what is beyond is dropped, and sent again by the replica that has its client.
const MAX_QUEUED: usize = 8 << 20;

/// Commands of one batch take at most about this. A single one may be longer.
const MAX_BATCH: usize = 1 << 20;

/// Commands of one batch.
const MAX_COMMANDS: usize = 4096;

#[derive(Debug, Default)]
struct State {
    /// Each with the moment of its arrival.
    commands: VecDeque<(Command, Instant)>,
    /// Those that wait by origin and number: one that is sent again waits once.
    known: HashSet<(u64, u64)>,
    bytes: usize,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a command, unless it waits already or there is no room.
    pub(crate) fn push(&self, command: Command) {
        let mut state = self.lock();
        let len = command.encoded_len();
        if (state.bytes > 0 && state.bytes + len > MAX_QUEUED)
            || !state.known.insert((command.origin, command.seq))
        {
            return;
        }
        state.bytes += len;
        state.commands.push_back((command, Instant::now()));
        drop(state);
        self.filled.notify_one();
    }

    /// The commands of the next batch; waits until there is one. Those that have waited here for `deadline` are left out: nobody
    /// waits for them any more, and they must not be done later, whatever the clocks of the machines say.
    pub(crate) async fn next(&self, deadline: Duration) -> Vec<Command> {
        loop {
            let batch = self.take(deadline);
            if !batch.is_empty() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self, deadline: Duration) -> Vec<Command> {
        let mut state = self.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((command, arrival)) = state.commands.front() {
            let len = command.encoded_len();
            let is_late = arrival.elapsed() >= deadline;
            if !is_late && !batch.is_empty() && (bytes + len > MAX_BATCH || batch.len() == MAX_COMMANDS) {
                break;
            }
            let Some((command, _)) = state.commands.pop_front() else { break };
            state.known.remove(&(command.origin, command.seq));
            state.bytes -= len;
            if !is_late {
                bytes += len;
                batch.push(command);
            }
        }
        batch
    }

    /// Forgets all: another replica leads, and who waits sends again.
    pub(crate) fn clear(&self) {
        *self.lock() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn command(seq: u64, len: usize) -> Command {
        let payload = Bytes::from(vec![0; len]);
        Command { origin: 1, seq, low: 1, not_after: 0, key: Bytes::new(), head: 0, payload }
    }

    #[test]
    fn batches_are_bounded_and_a_command_waits_once() {
        let queue = Queue::default();
        queue.push(command(1, 10));
        queue.push(command(1, 10));
        queue.push(command(2, 2 << 20));
        queue.push(command(3, 10));
        let take = || queue.take(Duration::from_hours(1));
        let seqs = |batch: Vec<Command>| batch.into_iter().map(|command| command.seq).collect::<Vec<_>>();
        assert_eq!(seqs(take()), [1]);
        assert_eq!(seqs(take()), [2]);
        assert_eq!(seqs(take()), [3]);
        assert_eq!(queue.lock().bytes, 0);
        (0..100).for_each(|seq| queue.push(command(seq, 1 << 20)));
        assert!(queue.lock().bytes <= MAX_QUEUED);
        queue.clear();
        (0..5000).for_each(|seq| queue.push(command(seq, 0)));
        assert_eq!(take().len(), MAX_COMMANDS);
        assert_eq!(take().len(), 5000 - MAX_COMMANDS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_for_the_deadline_is_not_proposed() {
        let queue = Queue::default();
        let deadline = Duration::from_secs(5);
        queue.push(command(1, 10));
        tokio::time::advance(Duration::from_secs(3)).await;
        // Sent again: it is the first arrival that counts.
        queue.push(command(1, 10));
        queue.push(command(2, 10));
        tokio::time::advance(Duration::from_secs(2)).await;
        let batch = queue.take(deadline);
        assert_eq!(batch.iter().map(|command| command.seq).collect::<Vec<_>>(), [2]);
        let state = queue.lock();
        assert_eq!((state.bytes, state.known.len()), (0, 0));
    }
}
