//! What the coordinator of a replicated pod has PID 1 do: its containers end, start, stand still and go on, and programs run
//! in them. It knows the place of its application in the order of requests only when it has started that itself.

use std::collections::BTreeMap;
use std::time::Instant;

use i2kit_container::cgroup;
use i2kit_spec::control::Open;
use i2kit_supervisor::link::Order;

use super::Guest;
use crate::boot;
use crate::container::{Life, Role, Stream};
use crate::error::Error;
use crate::lines::Lines;
use crate::orders::Until;

impl Guest<'_> {
    /// The coordinator, when the pod has one that runs.
    pub(super) fn coordinator(&self) -> Option<usize> {
        self.containers.list().iter().position(|it| boot::asks_the_pod(&it.spec) && it.process().is_some())
    }

    /// Does what is asked of containers, or begins it.
    pub(super) fn take_order(&mut self, id: u64, order: Order, containers: Vec<String>) {
        if let Err(failure) = self.carry_out(id, order, containers) {
            self.supervisor.ordered(id, Some(failure));
        }
    }

    fn carry_out(&mut self, id: u64, order: Order, names: Vec<String>) -> Result<(), String> {
        if self.shutdown.is_under_way() {
            return Err("the pod is being stopped".into());
        }
        if !self.orders.has_room() {
            return Err("too many orders are under way; wait for one of them".into());
        }
        let indexes = names.iter().map(|name| self.ordered(name)).collect::<Result<Vec<_>, _>>()?;
        self.changed = true;
        let until = match order {
            Order::Stop => {
                for index in indexes {
                    self.containers.get_mut(index).hold();
                    self.thaw(index);
                }
                Some(Until::Ended)
            }
            Order::Start => {
                for index in indexes {
                    self.thaw(index);
                    // Before the others start it starts with them.
                    if self.containers.get_mut(index).release() && self.started {
                        self.start(index);
                    }
                }
                None
            }
            Order::Freeze => {
                if let Err(error) = names.iter().try_for_each(|name| cgroup::freeze(name, true)) {
                    for index in indexes {
                        self.thaw(index);
                    }
                    return Err(error.to_string());
                }
                self.orders.stand(&names);
                Some(Until::Frozen)
            }
            Order::Thaw => {
                let went_on: Vec<&String> = names.iter().filter(|name| !self.orders.goes_on(name)).collect();
                for name in &names {
                    cgroup::freeze(name, false).map_err(|error| error.to_string())?;
                }
                if let Some(name) = went_on.first() {
                    return Err(format!("{name} did not stand all the time since it was frozen"));
                }
                None
            }
        };
        match until {
            Some(until) => self.orders.wait(id, until, names, Instant::now()),
            None => self.supervisor.ordered(id, None),
        }
        Ok(())
    }

    /// The container of this name, when orders may be about it.
    fn ordered(&self, name: &str) -> Result<usize, String> {
        let found =
            self.containers.named(name).filter(|index| self.containers.get(*index).role == Role::Service);
        found.ok_or_else(|| format!("the pod has no container `{name}` that orders may be about"))
    }

    /// Lets a container go on that stands still, or is about to, so that its processes see their signals.
    pub(super) fn thaw(&mut self, index: usize) {
        if self.coordinator_is_there() {
            let name = self.containers.get(index).name();
            self.orders.goes_on(name);
            // Without a cgroup there is no process.
            let _ = cgroup::freeze(name, false);
        }
    }

    /// Keeps the application from starting by itself: what it did before its coordinator started it would be in no order, and
    /// erased while it runs.
    pub(super) fn hold_for_coordinator(&mut self) {
        if self.coordinator_is_there() {
            for index in self.containers.of_role(Role::Service) {
                self.containers.get_mut(index).hold();
            }
        }
    }

    fn coordinator_is_there(&self) -> bool {
        self.containers.list().iter().any(|container| boot::asks_the_pod(&container.spec))
    }

    /// Runs a program in a container that runs, and hands its ends to the supervisor. What it says on its standard error is
    /// in the container's log.
    pub(super) fn run_program(
        &mut self,
        id: u64,
        container: &str,
        command: Vec<String>,
        env: BTreeMap<String, String>,
    ) {
        if let Err(error) = self.begin_program(id, container, command, env) {
            self.supervisor.ordered(id, Some(error.to_string()));
        }
    }

    fn begin_program(
        &mut self,
        id: u64,
        name: &str,
        command: Vec<String>,
        env: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let not_running = || Error::NotRunning { container: name.to_owned() };
        let index = self.containers.named(name).ok_or_else(not_running)?;
        if !self.orders.has_room() {
            return Err(Error::TooMany { limit: crate::orders::MAX_ORDERS });
        }
        let found = self.containers.get(index);
        let Life::Running(process) = &found.life else { return Err(not_running()) };
        let mut spec = found.spec.clone();
        match &mut spec.boot.late {
            Some(late) => {
                late.env.extend(env.into_iter().map(|(name, value)| i2kit_spec::EnvVar {
                    name,
                    value: i2kit_spec::EnvValue::Fixed(value),
                }));
            }
            None => spec.config.process.env.extend(env.iter().map(|(name, value)| format!("{name}={value}"))),
        }
        let open = Open { container: name.to_owned(), command, input: true, ..Open::default() };
        let target = (process.pid, process.pidfd());
        let started = i2kit_container::execute_attached(&spec, self.containers.sandbox(), target, &open)?;
        let container = self.containers.get_mut(index);
        let run = container.run - 1;
        container.streams.extend(started.stderr.map(|pipe| Stream {
            pipe,
            name: "stderr",
            run,
            lines: Lines::default(),
        }));
        self.orders.keep(id, started.pid, started.pidfd);
        if let (Some(input), Some(output)) = (started.stdin, started.stdout) {
            self.supervisor.piped(id, input, output);
        }
        Ok(())
    }

    /// Answers orders that are carried out.
    pub(super) fn answer_orders(&mut self, now: Instant) {
        for (id, failure) in self.orders.over(now) {
            self.supervisor.ordered(id, failure);
        }
    }
}
