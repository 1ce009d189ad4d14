//! All containers of the pod, and what they share.

use std::time::Instant;

use i2kit_container::{Sandbox, Spec};
use i2kit_spec::RestartPolicy;
use i2kit_sys::clock;
use rustix::process::{Pid, Signal, WaitStatus};

use crate::container::{Container, Life, Role};

/// The containers: init containers in their order, then services. A container is named by its index.
#[derive(Debug)]
pub(crate) struct Containers {
    list: Vec<Container>,
    sandbox: Sandbox,
    policy: RestartPolicy,
}

impl Containers {
    /// Containers that were never started.
    pub(crate) fn new(specs: Vec<(Spec, Role)>, sandbox: Sandbox, policy: RestartPolicy) -> Self {
        let list = specs.into_iter().map(|(spec, role)| Container::new(spec, role)).collect();
        Self { list, sandbox, policy }
    }

    /// All of them in their order.
    pub(crate) fn list(&self) -> &[Container] {
        &self.list
    }

    /// What they share.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn get(&self, index: usize) -> &Container {
        &self.list[index]
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> &mut Container {
        &mut self.list[index]
    }

    /// The index of the container of this name.
    pub(crate) fn named(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|container| container.name() == name)
    }

    /// Starts a container. Returns whether it has a process; else it ended at once.
    pub(crate) fn start(&mut self, index: usize) -> bool {
        let container = &mut self.list[index];
        container.start(&self.sandbox, self.policy, clock::since_boot());
        container.process().is_some()
    }

    /// Takes the end of a process. Returns the container whose first one it was.
    pub(crate) fn reaped(&mut self, pid: Pid, status: WaitStatus) -> Option<usize> {
        let owns = |container: &Container| container.process().is_some_and(|process| process.pid == pid);
        let index = self.list.iter().position(owns)?;
        self.list[index].reaped(status, self.policy, clock::since_boot());
        Some(index)
    }

    /// The containers whose restart is due.
    pub(crate) fn to_start(&self, now: Instant) -> Vec<usize> {
        let is_due = |index: &usize| matches!(self.list[*index].life, Life::Waiting(due) if due <= now);
        (0..self.list.len()).filter(is_due).collect()
    }

    /// Sends SIGKILL to those whose time has come.
    pub(crate) fn kill_due(&mut self, now: Instant) {
        self.list.iter_mut().for_each(|container| container.kill_if_due(now));
    }

    /// Sends SIGKILL to all but those that have a moment of their own, because their hook took long.
    pub(crate) fn kill_rest(&self, now: Instant) {
        let rest = self.list.iter().filter(|container| container.kill_at().is_none_or(|at| at <= now));
        rest.for_each(|container| container.signal(Signal::KILL));
    }

    /// The containers of a role.
    pub(crate) fn of_role(&self, role: Role) -> Vec<usize> {
        (0..self.list.len()).filter(|index| self.list[*index].role == role).collect()
    }

    /// The last sidecar that is not over: sidecars end in the reverse of their order.
    pub(crate) fn last_sidecar(&self) -> Option<usize> {
        self.list.iter().rposition(|container| container.role == Role::Sidecar && !container.is_over())
    }

    /// Whether all have ended for good.
    pub(crate) fn all_are_over(&self) -> bool {
        self.list.iter().all(Container::is_over)
    }

    /// Whether all that keeps the pod alive has ended for good: everything but the sidecars.
    pub(crate) fn services_are_over(&self) -> bool {
        self.list.iter().filter(|container| container.role != Role::Sidecar).all(Container::is_over)
    }

    /// Whether the pod's work is done: all but the sidecars have succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        self.list.iter().filter(|container| container.role != Role::Sidecar).all(Container::succeeded)
    }

    /// The next time at which one is to be started or killed.
    pub(crate) fn due(&self) -> Option<Instant> {
        let restarts = self.list.iter().filter_map(|container| match container.life {
            Life::Waiting(due) => Some(due),
            _ => None,
        });
        restarts.chain(self.list.iter().filter_map(Container::kill_at)).min()
    }
}
