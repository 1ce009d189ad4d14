//! Hooks under way: what is done when a container's program has started, and before it gets its stop signal. Counts the
//! time of pauses itself; commands and requests are its caller's to run.

use std::time::{Duration, Instant};

use i2kit_spec::{Hook, ProbeAction};
use i2kit_sys::clock;

use crate::container::Container;

/// How long a hook after the start may take. Kubernetes sets no limit, and a container whose hook never ends would be
/// neither up nor down; nothing that works comes near this.
const POST_START_LIMIT: Duration = Duration::from_hours(1);

/// The time between a container's stop signal and SIGKILL, however long its hook took: the kubelet's least grace.
pub(crate) const LEAST_GRACE: Duration = Duration::from_secs(2);

/// When in a container's life a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Its program has started.
    PostStart,
    /// It is being stopped.
    PreStop,
}

/// A hook under way.
#[derive(Debug)]
pub(crate) struct Running {
    number: u64,
    /// The container's index.
    pub(crate) container: usize,
    /// The run of the container.
    pub(crate) run: u64,
    pub(crate) when: When,
    /// When a pause is over.
    until: Option<Instant>,
}

/// What the caller has to do for a hook that was begun.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The container has no such hook.
    None,
    /// Nothing: it is a pause.
    Pause,
    /// Carry out the action within the limit, and end the hook of this number.
    Action { number: u64, action: ProbeAction, limit: Duration },
}

/// All hooks under way.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    running: Vec<Running>,
    next: u64,
}

impl Hooks {
    /// Begins the hook of a container, if it has one.
    pub(crate) fn begin(&mut self, index: usize, container: &Container, when: When) -> Begun {
        let boot = &container.spec.boot;
        let hook = match when {
            When::PostStart => &boot.post_start,
            When::PreStop => &boot.pre_stop,
        };
        let Some(hook) = hook else { return Begun::None };
        let now = Instant::now();
        let limit = match when {
            When::PostStart => POST_START_LIMIT,
            When::PreStop => container
                .kill_at()
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(now).saturating_sub(LEAST_GRACE)),
        };
        let number = self.next;
        self.next += 1;
        let (until, begun) = match hook {
            Hook::Sleep { seconds } => {
                let pause = Duration::from(*seconds).min(limit);
                (Some(clock::after(now, pause)), Begun::Pause)
            }
            Hook::Ask(action) => (None, Begun::Action { number, action: action.clone(), limit }),
        };
        self.running.push(Running { number, container: index, run: container.run, when, until });
        begun
    }

    /// Ends the hook of this number.
    pub(crate) fn end(&mut self, number: u64) -> Option<Running> {
        let position = self.running.iter().position(|hook| hook.number == number)?;
        Some(self.running.remove(position))
    }

    /// The numbers of pauses that are over.
    pub(crate) fn over(&self, now: Instant) -> Vec<u64> {
        let over = |hook: &&Running| hook.until.is_some_and(|until| until <= now);
        self.running.iter().filter(over).map(|hook| hook.number).collect()
    }

    /// The next time at which a pause is over.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.running.iter().filter_map(|hook| hook.until).min()
    }
}
