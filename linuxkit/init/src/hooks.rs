//! Hooks: what is done when a container's program has started, and before it is asked to end. PID 1 runs commands in the
//! container itself and counts the time of pauses; questions over the network are asked by the supervisor.

use std::time::{Duration, Instant};

use i2kit_spec::{Hook, ProbeAction};

use crate::clock;
use crate::exec::{Asker, Exec};
use crate::guest::Guest;
use crate::lifecycle::Life;

/// How long a hook after the start may take. Kubernetes sets no limit, and a container whose hook never ends would be
/// neither up nor down; nothing that works comes near this.
const POST_START_LIMIT: Duration = Duration::from_hours(1);

/// How long a container has after its signal, however long its hook took: the kubelet's least grace.
const LEAST_GRACE: Duration = Duration::from_secs(2);

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
    container: usize,
    run: u64,
    when: When,
    /// When a pause is over.
    until: Option<Instant>,
}

/// All hooks under way.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    running: Vec<Running>,
    next: u64,
}

impl Hooks {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The next time at which a pause is over.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.running.iter().filter_map(|hook| hook.until).min()
    }
}

impl Guest {
    /// Runs the hook of a container, if it has one. Returns whether it does.
    pub(crate) fn run_hook(&mut self, index: usize, when: When) -> bool {
        let container = &self.containers[index];
        let boot = &container.spec.boot;
        let hook = match when {
            When::PostStart => &boot.post_start,
            When::PreStop => &boot.pre_stop,
        };
        let Some(hook) = hook.clone() else { return false };
        let now = Instant::now();
        let limit = match when {
            When::PostStart => POST_START_LIMIT,
            When::PreStop => container
                .kill_at()
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(now).saturating_sub(LEAST_GRACE)),
        };
        let number = self.hooks.next;
        self.hooks.next += 1;
        let mut running = Running { number, container: index, run: container.run, when, until: None };
        let mut failure = None;
        match hook {
            Hook::Sleep { seconds } => {
                running.until = Some(clock::after(now, Duration::from_secs(seconds).min(limit)));
            }
            Hook::Ask(ProbeAction::Exec { command }) => {
                match Exec::start(container, &self.machine, Asker::Hook { number }, &command, limit) {
                    Ok(exec) => self.execs.push(exec),
                    Err(error) => failure = Some(error.to_string()),
                }
            }
            Hook::Ask(action) => {
                self.supervisor.iter_mut().for_each(|supervisor| supervisor.ask(number, &action, limit));
            }
        }
        self.hooks.running.push(running);
        if failure.is_some() {
            self.hook_ended(number, failure);
        }
        true
    }

    /// A hook has ended, well or with this failure.
    pub(crate) fn hook_ended(&mut self, number: u64, failure: Option<String>) {
        let Some(position) = self.hooks.running.iter().position(|hook| hook.number == number) else { return };
        let Running { container: index, run, when, .. } = self.hooks.running.remove(position);
        let container = &self.containers[index];
        if container.run != run || container.process().is_none() {
            return;
        }
        let word = if when == When::PostStart { "postStart" } else { "preStop" };
        let failure = failure.map(|failure| format!("{word} hook failed: {failure}"));
        if let Some(failure) = &failure {
            let text = format!("{}: {failure}", container.name());
            self.say(&text);
        }
        let container = &mut self.containers[index];
        match (when, failure) {
            (When::PostStart, None) => container.is_up(),
            (When::PostStart, Some(failure)) => {
                let grace = Duration::from_secs(self.pod.grace_period_seconds);
                self.stop_container(index, Some(failure), grace);
            }
            (When::PreStop, _) => {
                container.allow(LEAST_GRACE);
                container.ask_to_end();
            }
        }
        self.touch();
    }

    /// Ends the pauses that are over, and takes the answers to questions.
    pub(crate) fn check_hooks(&mut self, now: Instant) {
        let over = |hook: &&Running| hook.until.is_some_and(|until| until <= now);
        let over: Vec<u64> = self.hooks.running.iter().filter(over).map(|hook| hook.number).collect();
        for number in over {
            self.hook_ended(number, None);
        }
    }

    /// Stops one container: its hook first, then its signal, and SIGKILL when the time is over. The reason is kept for
    /// its record; there is none when the whole pod is stopped.
    pub(crate) fn stop_container(&mut self, index: usize, reason: Option<String>, grace: Duration) {
        let container = &mut self.containers[index];
        let runs = matches!(container.life, Life::Running(_));
        let has_hook = runs && !grace.is_zero() && container.spec.boot.pre_stop.is_some();
        // A hook may take all of the grace period, and yet the container hears that it is to end.
        let least = if has_hook { LEAST_GRACE } else { Duration::ZERO };
        if !container.condemn(reason, clock::after(Instant::now(), grace.saturating_add(least))) {
            return;
        }
        if !has_hook || !self.run_hook(index, When::PreStop) {
            self.containers[index].ask_to_end();
        }
        self.touch();
    }
}
