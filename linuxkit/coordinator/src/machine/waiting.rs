//! The commands of this replica's clients: they wait here until they are executed, and are sent again from here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::command::Command;
use crate::front::Request;

/// Commands that wait at a time.
const MAX_WAITING: usize = 4096;

/// Bytes of all of them.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// The application's reply.
    Reply(Bytes),
    /// It was skipped: its deadline was past when it was due.
    Late,
    /// It was never executed: its `Idempotency-Key` is of another request.
    Another,
    /// It was executed, and its reply cannot be given, for this reason.
    Lost(&'static str),
}

struct Waiter {
    command: Command,
    sender: oneshot::Sender<Done>,
    sent: Instant,
    /// How long until it is sent again.
    pause: Duration,
}

/// A reply that waits until a majority has the same digest.
struct Held {
    index: u64,
    seq: u64,
    done: Done,
}

#[derive(Default)]
struct State {
    next: u64,
    bytes: usize,
    waiters: BTreeMap<u64, Waiter>,
    held: VecDeque<Held>,
    /// Agreed time that was seen last, and when.
    clock: Option<(u64, Instant)>,
}

/// The commands that wait.
pub(crate) struct Waiting {
    origin: u64,
    first_pause: Duration,
    state: Mutex<State>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Waiting {
    /// For the run `origin` of a coordinator; commands are sent again after `first_pause`, and then more and more seldom.
    pub(crate) fn new(origin: u64, first_pause: Duration) -> Self {
        Self { origin, first_pause, state: Mutex::new(State { next: 1, ..State::default() }) }
    }

    /// The run.
    pub(crate) fn origin(&self) -> u64 {
        self.origin
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a request in, to be done within `deadline`; `now_ms` is this machine's clock. None
    /// when too many wait.
    pub(crate) fn add(
        &self,
        request: Request,
        deadline: Duration,
        now_ms: u64,
    ) -> Option<(Command, oneshot::Receiver<Done>)> {
        let mut state = self.lock();
        if state.waiters.len() >= MAX_WAITING || state.bytes + request.bytes.len() > MAX_WAITING_BYTES {
            return None;
        }
        let seq = state.next;
        state.next += 1;
        // The last batch may be old when it is executed, after a rest or a new start: then the machine's own clock is ahead of it.
        let now_ms = state.time(now_ms);
        let low = state.waiters.first_key_value().map_or(seq, |(low, _)| *low);
        let command = Command {
            origin: self.origin,
            seq,
            low,
            not_after: now_ms.saturating_add(millis(deadline)),
            key: request.key.unwrap_or_default(),
            head: request.head,
            payload: request.bytes,
        };
        let (sender, receiver) = oneshot::channel();
        state.bytes += command.payload.len();
        let waiter =
            Waiter { command: command.clone(), sender, sent: Instant::now(), pause: self.first_pause };
        state.waiters.insert(seq, waiter);
        Some((command, receiver))
    }

    /// Nobody waits for `seq` any more.
    pub(crate) fn remove(&self, seq: u64) {
        self.lock().take(seq);
    }

    /// The command `seq` of entry `index` is done. With `hold` the client gets it by [`Waiting::release`].
    pub(crate) fn done(&self, index: u64, seq: u64, done: Done, hold: bool) {
        let mut state = self.lock();
        if hold {
            if state.waiters.contains_key(&seq) {
                state.held.push_back(Held { index, seq, done });
            }
        } else if let Some(waiter) = state.take(seq) {
            drop(waiter.sender.send(done));
        }
    }

    /// Replies of entries up to `index` may leave.
    pub(crate) fn release(&self, index: u64) {
        let mut state = self.lock();
        while state.held.front().is_some_and(|held| held.index <= index) {
            let Some(Held { seq, done, .. }) = state.held.pop_front() else { return };
            if let Some(waiter) = state.take(seq) {
                drop(waiter.sender.send(done));
            }
        }
    }

    /// The application begins anew: what was held is executed again.
    pub(crate) fn drop_held(&self) {
        self.lock().held.clear();
    }

    /// Agreed time is `time_ms`, or later: that of an old entry, which is executed again, sets it not back.
    pub(crate) fn agreed(&self, time_ms: u64) {
        let mut state = self.lock();
        state.clock = Some((state.time(time_ms), Instant::now()));
    }

    /// What a leader proposes as agreed time, when its own clock says `now_ms`: agreed time goes on while no batch is executed, though
    /// this machine's clock may be behind those of the leaders before.
    pub(crate) fn time(&self, now_ms: u64) -> u64 {
        self.lock().time(now_ms)
    }

    /// The commands that were not executed for long, or all, with the lowest number that still waits.
    pub(crate) fn due(&self, all: bool) -> Vec<Command> {
        let mut state = self.lock();
        let Some(low) = state.waiters.first_key_value().map(|(low, _)| *low) else { return Vec::new() };
        let now = Instant::now();
        let mut commands = Vec::new();
        for waiter in state.waiters.values_mut() {
            if all || now.duration_since(waiter.sent) >= waiter.pause {
                waiter.pause =
                    if all { self.first_pause } else { (waiter.pause * 2).min(Duration::from_secs(2)) };
                waiter.sent = now;
                waiter.command.low = low;
                commands.push(waiter.command.clone());
            }
        }
        commands
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl State {
    /// Agreed time as it goes on by this machine's steady clock, or `now_ms` where that is later.
    fn time(&self, now_ms: u64) -> u64 {
        let agreed = self.clock.map_or(0, |(agreed, seen)| agreed.saturating_add(millis(seen.elapsed())));
        now_ms.max(agreed)
    }

    fn take(&mut self, seq: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&seq)?;
        self.bytes -= waiter.command.payload.len();
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::Kind;

    fn request(bytes: &[u8]) -> Request {
        Request { bytes: Bytes::copy_from_slice(bytes), head: 0, kind: Kind::Write, key: None, close: false }
    }

    #[test]
    fn commands_are_sent_again_until_they_are_done() {
        let waiting = Waiting::new(7, Duration::ZERO);
        let (first, mut reply) = waiting.add(request(b"a"), Duration::from_secs(5), 1000).unwrap();
        let (second, _) = waiting.add(request(b"b"), Duration::from_secs(5), 1000).unwrap();
        assert_eq!((first.seq, first.low, second.seq, second.low), (1, 1, 2, 1));
        assert_eq!(first.not_after, 6000);
        assert_eq!(waiting.due(false).len(), 2);
        waiting.done(9, 1, Done::Reply(Bytes::from_static(b"x")), false);
        assert_eq!(reply.try_recv(), Ok(Done::Reply(Bytes::from_static(b"x"))));
        let due = waiting.due(true);
        assert_eq!(due.iter().map(|command| (command.seq, command.low)).collect::<Vec<_>>(), [(2, 2)]);
        waiting.remove(2);
        assert_eq!((waiting.due(true).len(), waiting.lock().bytes), (0, 0));
    }

    #[test]
    fn held_replies_leave_in_order_and_agreed_time_goes_before_the_clock() {
        let waiting = Waiting::new(7, Duration::from_mins(1));
        waiting.agreed(50_000);
        let (command, mut reply) = waiting.add(request(b"a"), Duration::from_secs(5), 1).unwrap();
        assert!(command.not_after >= 55_000);
        waiting.done(9, 1, Done::Late, true);
        waiting.release(8);
        assert!(reply.try_recv().is_err());
        waiting.release(9);
        assert_eq!(reply.try_recv(), Ok(Done::Late));
    }

    #[test]
    fn agreed_time_goes_on_and_an_old_entry_sets_it_not_back() {
        let waiting = Waiting::new(7, Duration::ZERO);
        assert_eq!(waiting.time(1000), 1000);
        waiting.agreed(50_000);
        waiting.agreed(20_000);
        // The machine's clock is behind: agreed time goes on without it.
        assert!(waiting.time(1000) >= 50_000);
        std::thread::sleep(Duration::from_millis(20));
        assert!(waiting.time(1000) >= 50_020);
        assert_eq!(waiting.time(u64::MAX), u64::MAX);
    }

    #[test]
    fn too_many_are_refused() {
        let waiting = Waiting::new(7, Duration::ZERO);
        for _ in 0..MAX_WAITING {
            assert!(waiting.add(request(b"a"), Duration::ZERO, 0).is_some());
        }
        assert!(waiting.add(request(b"a"), Duration::ZERO, 0).is_none());
        let large = Waiting::new(7, Duration::ZERO);
        assert!(large.add(request(&vec![0; MAX_WAITING_BYTES]), Duration::ZERO, 0).is_some());
        assert!(large.add(request(b"a"), Duration::ZERO, 0).is_none());
    }
}
