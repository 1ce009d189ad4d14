//! The pod's end: who is asked to end in which order, and when patience is over.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Guest;
use crate::clock;
use crate::lifecycle::{Container, Role};
use crate::record::Stage;

/// A stop under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopping {
    /// What ends the VM.
    pub(crate) restart: bool,
    /// When patience ends.
    pub(super) deadline: Instant,
    /// Whether patience has ended and everything was killed.
    pub(super) killed: bool,
}

impl Guest {
    /// Asks everything to end: readiness is off with the next record, then each service's hook and SIGTERM, then the
    /// sidecars from the last to the first, and SIGKILL after the grace period.
    pub(crate) fn stop(&mut self, restart: bool) {
        if self.stopping.is_some() {
            return;
        }
        self.say(&format!("stopping the pod, grace period {} s", self.pod.grace_period_seconds));
        self.begin_stop(restart);
        for index in 0..self.containers.len() {
            self.containers[index].cancel();
            if self.containers[index].role != Role::Sidecar {
                self.stop_container(index, None, self.patience());
            }
        }
    }

    /// The same for a reason that the pod's end is told with.
    pub(super) fn fail(&mut self, reason: &'static str, message: String) {
        self.say(&format!("{reason}: {message}"));
        self.end.get_or_insert((reason, message));
        self.stop(false);
    }

    pub(super) fn begin_stop(&mut self, restart: bool) {
        let deadline = clock::after(Instant::now(), Duration::from_secs(self.pod.grace_period_seconds));
        self.stopping = Some(Stopping { restart, deadline, killed: false });
        self.stage = Stage::Stopping;
        self.changed = true;
    }

    /// Stops the sidecars once the services are over, and kills what is left when patience ends.
    pub(super) fn go_on_stopping(&mut self, now: Instant) {
        let Some(stopping) = self.stopping.filter(|_| !self.all_are_over()) else { return };
        if stopping.deadline <= now && !stopping.killed {
            self.stopping = Some(Stopping { killed: true, ..stopping });
            self.say("the grace period is over: killing what still runs");
            // A container whose hook took long has a moment of its own.
            for container in self.containers.iter().filter(|c| c.kill_at().is_none_or(|at| at <= now)) {
                container.signal(Signal::KILL);
            }
        } else if self.services_are_over() {
            let last = self.containers.iter().rposition(|c| c.role == Role::Sidecar && !c.is_over());
            if let Some(index) = last {
                self.containers[index].cancel();
                self.stop_container(index, None, self.patience());
            }
        }
    }

    /// How much of the grace period is left.
    pub(super) fn patience(&self) -> Duration {
        let left = |stopping: Stopping| stopping.deadline.saturating_duration_since(Instant::now());
        self.stopping.map_or(Duration::from_secs(self.pod.grace_period_seconds), left)
    }

    pub(super) fn all_are_over(&self) -> bool {
        self.containers.iter().all(Container::is_over)
    }

    /// Whether all that keeps the pod alive has ended: everything but the sidecars.
    pub(super) fn services_are_over(&self) -> bool {
        self.containers.iter().filter(|container| container.role != Role::Sidecar).all(Container::is_over)
    }
}
