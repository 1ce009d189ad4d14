//! The life of the pod: the parts of PID 1 together, and the loop in which it waits for them. One thread; nothing waits
//! outside of `wait`.
//!
//! Each part owns its own state and knows no other part. This file alone knows all of them: what one part gives back is
//! handed to the next one here.

mod ending;
mod ordered;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_container::Sandbox;
use i2kit_spec::end::LOST;
use i2kit_spec::{InstanceField, PodBoot, PodEnd};
use i2kit_supervisor::link::{Any, ProbeKind, ToInit, When};
use i2kit_supervisor::record::{PhaseTime, Record, Stage, VERSION};
use i2kit_sys::clock;
use rustix::event::PollFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::boot::Booted;
use crate::boot::phase::{self, Phase};
use crate::commands::{Commands, Purpose};
use crate::container::{Container, Life, Role};
use crate::containers::Containers;
use crate::error::{Doing, Error};
use crate::hooks::{Begun, Hooks, LEAST_GRACE};
use crate::orders::Orders;
use crate::output::Output;
use crate::power::PowerButton;
use crate::sessions::Sessions;
use crate::shutdown::Shutdown;
use crate::status::in_words;
use crate::supervisor::Supervisor;
use crate::wait::{Source, Wanted, wait};

/// How long the host may take for the last lines before the VM ends without it.
const LAST_LINES: Duration = Duration::from_secs(3);

/// The parts of PID 1.
#[derive(Debug)]
pub(crate) struct Guest<'output> {
    output: &'output mut Output,
    signals: OwnedFd,
    power: Option<PowerButton>,
    pod: PodBoot,
    containers: Containers,
    commands: Commands,
    hooks: Hooks,
    sessions: Sessions,
    orders: Orders,
    supervisor: Supervisor,
    shutdown: Shutdown,
    /// How long each phase took so far.
    phases: Vec<PhaseTime>,
    /// Whether all services were started.
    started: bool,
    /// The coordinator of a replicated pod, when it is being stopped before the others are.
    parting: Option<usize>,
    /// Why PID 1 cannot go on.
    lost: Option<String>,
    /// When the last lines are waited for no longer, once the pod has ended.
    leaving: Option<Instant>,
    /// Whether the record on file is outdated.
    changed: bool,
}

impl<'output> Guest<'output> {
    /// A pod none of whose containers has started. `signals` delivers those of PID 1.
    pub(crate) fn new(booted: Booted, output: &'output mut Output, signals: OwnedFd) -> Self {
        let Booted { pod, containers, sandbox, supervisor, power, phases } = booted;
        Self {
            output,
            signals,
            power,
            containers: Containers::new(containers, sandbox, pod.restart_policy),
            commands: Commands::default(),
            hooks: Hooks::default(),
            sessions: Sessions::default(),
            orders: Orders::default(),
            supervisor,
            shutdown: Shutdown::new(&pod),
            phases,
            pod,
            started: false,
            parting: None,
            lost: None,
            leaving: None,
            changed: true,
        }
    }

    /// Runs the pod until it has ended, by itself or because it was asked to, and reports its end. Returns whether the VM is
    /// to start again.
    pub(crate) fn run(mut self) -> bool {
        let ended = self.start_pod().and_then(|()| self.supervise());
        if let Err(error) = &ended {
            self.lose(error);
        }
        ended.is_ok() && self.shutdown.restarts()
    }

    /// Starts the containers phase by phase, up to the one in which the pod is asked to stop.
    fn start_pod(&mut self) -> Result<(), Error> {
        self.start_supervisor();
        self.hold_for_coordinator();
        for phase in phase::of_pod(&self.pod.onboot) {
            if self.shutdown.is_under_way() {
                break;
            }
            let start = clock::since_boot();
            match phase {
                Phase::Onboot(index, _) if self.containers.get(index).role == Role::Sidecar => {
                    self.run_sidecar(index)?;
                }
                Phase::Onboot(index, _) => self.run_onboot(index)?,
                _ => {
                    self.started = true;
                    for index in self.containers.of_role(Role::Service) {
                        if matches!(self.containers.get(index).life, Life::Pending) {
                            self.start(index);
                        }
                    }
                }
            }
            self.phases.push(self.output.phase(phase.to_string(), start));
            self.changed = true;
        }
        Ok(())
    }

    /// Starts a sidecar and waits until it has started, so that the next container finds it there.
    fn run_sidecar(&mut self, index: usize) -> Result<(), Error> {
        self.start(index);
        while !self.containers.get(index).has_started() && !self.shutdown.is_under_way() {
            self.turn()?;
        }
        Ok(())
    }

    /// Runs an init container until it succeeded, failed for good, or the pod is to stop.
    fn run_onboot(&mut self, index: usize) -> Result<(), Error> {
        self.start(index);
        while !self.containers.get(index).is_over() && !self.shutdown.is_under_way() {
            self.turn()?;
        }
        let container = self.containers.get(index);
        if !self.shutdown.is_under_way() && !container.succeeded() {
            let message = format!("init container {} failed and is not started again", container.name());
            self.fail("InitError", message);
        }
        Ok(())
    }

    fn supervise(&mut self) -> Result<(), Error> {
        while !self.containers.all_are_over() {
            if self.containers.services_are_over() && self.shutdown.begin(false) {
                // The sidecars are left, and nobody needs them any more.
                self.changed = true;
            }
            self.turn()?;
        }
        // What the containers wrote last may still be in their pipes.
        for index in 0..self.containers.list().len() {
            for stream in (0..self.containers.get(index).streams.len()).rev() {
                while self.read_stream(index, stream) {}
            }
        }
        let end = self.end();
        self.output.log_end(&end);
        self.shutdown.set_reported();
        self.output.log("the pod has ended");
        let deadline = Instant::now() + LAST_LINES;
        self.leaving = Some(deadline);
        while self.output.is_behind() && Instant::now() < deadline {
            self.turn()?;
        }
        Ok(())
    }

    /// Reports that PID 1 cannot go on: in the record, for who asks the supervisor now, and in the end of the pod.
    fn lose(&mut self, error: &Error) {
        let reason = error.to_string();
        self.output.log(&format!("fatal: {reason}"));
        self.lost = Some(reason.clone());
        self.shutdown.set_reason(LOST, reason);
        // What was lost may be the record's file itself.
        if self.record().write().is_ok() {
            self.supervisor.record_changed();
        }
        let end = self.end();
        self.output.log_end(&end);
    }

    /// One turn of the loop: does what is due, waits for something to happen, and deals with it.
    fn turn(&mut self) -> Result<(), Error> {
        self.do_what_is_due(Instant::now());
        if self.changed {
            self.changed = false;
            self.record().write().doing(|| "write the state record".into())?;
            self.supervisor.record_changed();
        }
        for source in wait(&self.wanted(), self.due())? {
            self.advance(source)?;
        }
        let Self { sessions, supervisor, .. } = self;
        sessions.send_pending(|message| supervisor.forward(message));
        if let Some(program) = sessions.take_program() {
            supervisor.replace(&program);
        }
        self.output.console.write();
        Ok(())
    }

    fn do_what_is_due(&mut self, now: Instant) {
        self.containers.to_start(now).into_iter().for_each(|index| self.start(index));
        self.containers.kill_due(now);
        self.commands.kill_overdue(now);
        for (number, failure) in self.hooks.over(now) {
            self.supervisor.answered(number);
            self.end_hook(number, failure);
        }
        self.answer_orders(now);
        self.start_supervisor();
        if self.shutdown.is_overdue(now) {
            let limit = self.pod.active_deadline_seconds.unwrap_or_default();
            self.fail("DeadlineExceeded", format!("the pod was active for longer than {limit}"));
        }
        self.go_on_stopping(now);
    }

    /// The next time at which something is due.
    fn due(&self) -> Option<Instant> {
        // The grace period of a pod that is over concerns nobody.
        let end = self.shutdown.due().filter(|_| !self.containers.all_are_over());
        let parts = [
            self.containers.due(),
            self.commands.due(),
            self.hooks.due(),
            self.orders.due(),
            self.supervisor.due(),
            end,
            self.leaving,
        ];
        parts.into_iter().flatten().min()
    }

    /// Every descriptor to wait for.
    fn wanted(&self) -> Vec<Wanted<'_>> {
        let mut wanted = vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        wanted.extend(self.power.iter().map(|power| (Source::Power, power.as_fd(), PollFlags::IN)));
        let console = self.output.console.wants_room();
        wanted.extend(console.map(|console| (Source::Console, console, PollFlags::OUT)));
        let clients = self.supervisor.accepting();
        wanted.extend(clients.map(|listener| (Source::Clients, listener, PollFlags::IN)));
        if let Some((link, pending)) = self.supervisor.link() {
            let pending = pending || self.sessions.has_pending();
            let room = if pending { PollFlags::OUT } else { PollFlags::empty() };
            wanted.push((Source::Supervisor, link, PollFlags::IN | room));
        }
        let outputs = self.commands.outputs().enumerate();
        wanted.extend(outputs.map(|(index, output)| (Source::Command(index), output, PollFlags::IN)));
        for (index, container) in self.containers.list().iter().enumerate() {
            if let Life::Starting(process) = &container.life {
                wanted.push((Source::Setup(index), process.setup.as_fd(), PollFlags::IN));
            }
            // From the last to the first, because a stream that ended is removed.
            for (number, stream) in container.streams.iter().enumerate().rev() {
                wanted.push((Source::Stream(index, number), stream.pipe.as_fd(), PollFlags::IN));
            }
        }
        for (index, fd, output) in self.sessions.descriptors() {
            let flags = if output { PollFlags::IN } else { PollFlags::OUT };
            wanted.push((Source::Session(index, output), fd, flags));
        }
        wanted
    }

    fn advance(&mut self, source: Source) -> Result<(), Error> {
        match source {
            Source::Signals => self.take_signals()?,
            Source::Power => {
                if self.power.as_ref().is_some_and(PowerButton::pressed) {
                    self.output.log("the power button was pressed");
                    self.asked_to_stop(false);
                }
            }
            Source::Console => self.output.console.write(),
            Source::Clients => self.supervisor.accept(),
            Source::Supervisor => {
                let requests = self.supervisor.exchange();
                self.serve(requests);
            }
            Source::Command(index) => self.commands.read(index),
            Source::Setup(index) => {
                if self.containers.get_mut(index).read_setup(clock::since_boot()) {
                    self.changed = true;
                    self.run_hook(index, When::PostStart);
                }
            }
            Source::Stream(container, stream) => {
                self.read_stream(container, stream);
            }
            Source::Session(index, output) => self.sessions.advance(index, output),
        }
        Ok(())
    }

    /// Reads once from a stream of a container. Returns whether there may be more.
    fn read_stream(&mut self, index: usize, stream: usize) -> bool {
        let container = self.containers.get_mut(index);
        let name = &container.spec.boot.name;
        let Some(open) = container.streams.get_mut(stream) else { return false };
        let more = self.output.read(name, open);
        if more.is_none() {
            container.streams.remove(stream);
        }
        more.unwrap_or(false)
    }
}

/// Signals, and processes that ended: containers, commands in them, the supervisor, and orphans of all of these.
impl Guest<'_> {
    fn take_signals(&mut self) -> Result<(), Error> {
        // An array of struct signalfd_siginfo, 128 bytes each, that begins with the signal's number.
        let mut buffer = [0; 128 * 8];
        let length = match rustix::io::read(&self.signals, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).doing(|| "read signals".into()),
        };
        for info in buffer[..length].chunks_exact(128) {
            match i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) {
                libc::SIGTERM | libc::SIGPWR => self.asked_to_stop(false),
                // What the kernel sends on Ctrl-Alt-Del.
                libc::SIGINT => self.asked_to_stop(true),
                _ => {}
            }
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.reaped(pid, status);
        }
        Ok(())
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        if let Some(requests) = self.supervisor.reaped(pid) {
            return self.supervisor_ended(requests, status);
        }
        if self.sessions.reaped(pid, status) {
            return;
        }
        if let Some((id, code)) = self.orders.reaped(pid, status) {
            return self.supervisor.ran(id, code);
        }
        if let Some((purpose, failure)) = self.commands.reaped(pid, status) {
            return match purpose {
                Purpose::Hook { number } => self.end_hook(number, failure),
                Purpose::Probe { id, run } => self.supervisor.executed(id, run, failure),
            };
        }
        if let Some(index) = self.containers.reaped(pid, status) {
            // Its next process is not to stand.
            self.thaw(index);
            if self.shutdown.is_under_way() {
                self.containers.get_mut(index).cancel();
            }
            self.log_container_end(index);
        }
    }

    fn supervisor_ended(&mut self, requests: Vec<Any<ToInit>>, status: WaitStatus) {
        // Its successor asks for commands of probes again; all else that it asked for last counts.
        let counts = |request: &Any<ToInit>| !matches!(request, Any::Own(ToInit::Execute { .. }));
        self.serve(requests.into_iter().filter(counts).collect());
        self.sessions.rewind();
        self.orders.forget();
        self.output.log(&format!("the supervisor {}; it is started again", in_words(status)));
        self.commands.kill_probes();
        self.changed = true;
    }

    fn log_container_end(&mut self, index: usize) {
        self.changed = true;
        if let Some(text) = self.containers.get(index).end_text() {
            self.output.log(&text);
        }
    }
}

/// The supervisor and what it asks for.
impl Guest<'_> {
    fn start_supervisor(&mut self) {
        self.changed |= self.supervisor.start_if_due(Instant::now(), || self.sessions.states());
    }

    fn serve(&mut self, requests: Vec<Any<ToInit>>) {
        for request in requests {
            match request {
                Any::Own(request) => self.serve_one(request),
                Any::Control(message) => self.sessions.handle(message, &self.containers),
            }
        }
    }

    fn serve_one(&mut self, request: ToInit) {
        match request {
            ToInit::Done { .. } => {}
            ToInit::Attached => {
                self.supervisor.attached();
                self.changed = true;
            }
            ToInit::Host { epoch } => self.sessions.set_host(epoch),
            ToInit::Logged { container, next, dropped } => {
                if let Some(journals) = &mut self.output.journals {
                    journals.taken(&container, next, dropped);
                    self.changed |= dropped > 0;
                }
            }
            ToInit::Execute { id, container, run, kind } => {
                if let Err(error) = self.run_probe(id, container, (run, kind)) {
                    self.supervisor.executed(id, run, Some(error.to_string()));
                }
            }
            ToInit::Order { id, order, containers } => self.take_order(id, order, containers),
            ToInit::Run { id, container, command, env } => self.run_program(id, &container, command, env),
            ToInit::Kill { id } => self.orders.kill(id),
            ToInit::Answered { number, failure } => {
                self.supervisor.answered(number);
                self.end_hook(number, failure);
            }
            ToInit::Probed { container, run, kind, verdict, message } => {
                let Some(index) = self.containers.named(&container) else { return };
                // Who stands still cannot answer.
                let stands = kind != ProbeKind::Readiness && self.orders.stands(&container);
                if self.shutdown.is_under_way() || stands {
                    return;
                }
                self.changed = true;
                let failed = self.containers.get_mut(index).apply_verdict(run, (kind, verdict), &message);
                if let Some((reason, grace)) = failed {
                    let grace = grace.map_or(self.shutdown.grace(), Duration::from);
                    self.output.log(&format!("{container}: {reason}"));
                    self.stop_container(index, Some(reason), grace);
                }
            }
        }
    }
}

/// Containers: their starts, probes' commands, hooks and stops.
impl Guest<'_> {
    fn start(&mut self, index: usize) {
        self.changed = true;
        if !self.containers.start(index) {
            self.log_container_end(index);
        }
    }

    /// Runs the command of a probe, in this run of its container.
    fn run_probe(&mut self, id: u64, container: String, (run, kind): (u64, ProbeKind)) -> Result<(), Error> {
        let found = self.containers.named(&container).map(|index| self.containers.get(index));
        let found = found.filter(|container| container.run == run);
        let found = found.ok_or(Error::NotRunning { container })?;
        let Some((command, limit)) = found.probe_command(kind) else {
            return Err(Error::Unknown { what: "command of a probe", value: format!("{kind:?}") });
        };
        let target = (found, self.containers.sandbox());
        self.commands.start(target, Purpose::Probe { id, run }, command, limit)
    }

    /// Runs the hook of a container, if it has one. Returns whether it does.
    fn run_hook(&mut self, index: usize, when: When) -> bool {
        let container = self.containers.get(index);
        match self.hooks.begin(index, container, when) {
            Begun::None => return false,
            Begun::Pause => {}
            Begun::Command { number, command, limit } => {
                let target = (container, self.containers.sandbox());
                let started = self.commands.start(target, Purpose::Hook { number }, &command, limit);
                if let Err(error) = started {
                    self.end_hook(number, Some(error.to_string()));
                }
            }
            Begun::Request { number, limit } => {
                self.supervisor.request(number, (container.name(), when), limit);
            }
        }
        true
    }

    /// Ends a hook, well or with this failure, and goes on with its container.
    fn end_hook(&mut self, number: u64, failure: Option<String>) {
        let Some(hook) = self.hooks.end(number) else { return };
        let container = self.containers.get_mut(hook.container);
        if container.run != hook.run || container.process().is_none() {
            return;
        }
        let word = if hook.when == When::PostStart { "postStart" } else { "preStop" };
        let failure = failure.map(|failure| format!("{word} hook failed: {failure}"));
        if let Some(failure) = &failure {
            self.output.log(&format!("{}: {failure}", container.name()));
        }
        match (hook.when, failure) {
            (When::PostStart, None) => container.set_hooked(),
            (When::PostStart, Some(failure)) => {
                self.stop_container(hook.container, Some(failure), self.shutdown.grace());
            }
            (When::PreStop, _) => {
                container.hook_over(LEAST_GRACE);
                container.send_stop_signal();
            }
        }
        self.changed = true;
    }

    /// Stops one container: its hook first, then its stop signal, and SIGKILL after the grace period. The reason goes into
    /// its record; there is none when the whole pod is stopped.
    fn stop_container(&mut self, index: usize, reason: Option<String>, grace: Duration) {
        self.thaw(index);
        let container = self.containers.get_mut(index);
        let runs = matches!(container.life, Life::Running(_));
        let has_hook = runs && !grace.is_zero() && container.spec.boot.pre_stop.is_some();
        // A hook may take all of the grace period, and the container still gets its signal.
        let least = if has_hook { LEAST_GRACE } else { Duration::ZERO };
        if !container.begin_stop(reason, clock::after(Instant::now(), grace.saturating_add(least))) {
            return;
        }
        if !has_hook || !self.run_hook(index, When::PreStop) {
            self.containers.get(index).send_stop_signal();
        }
        self.changed = true;
    }
}

/// The end of the pod.
impl Guest<'_> {
    /// How the pod ended: what the host keeps of it.
    fn end(&self) -> PodEnd {
        let reason = self.shutdown.reason();
        let succeeded = reason.is_none() && self.containers.succeeded();
        let (reason, message) = reason.unwrap_or_default();
        let containers = self.containers.list().iter().filter_map(Container::last_end).collect();
        let mut end = PodEnd { succeeded, reason: reason.into(), message, containers };
        end.cut();
        end
    }

    /// What the supervisor reads of the pod.
    fn record(&self) -> Record {
        let stage = if self.shutdown.is_under_way() {
            Stage::Stopping
        } else if self.started {
            Stage::Running
        } else {
            Stage::Booting
        };
        let containers = self.containers.list();
        let Sandbox { hostname, instance, .. } = self.containers.sandbox();
        let journals = self.output.journals.iter();
        let dropped = journals.flat_map(|journals| {
            containers.iter().map(move |it| (it.name().to_owned(), journals.dropped(it.name())))
        });
        Record {
            version: VERSION,
            boot_id: instance.uid.clone(),
            hostname: hostname.clone(),
            address: instance.value(InstanceField::Ip),
            pod: format!("{}/{}", self.pod.pod.namespace, self.pod.pod.name),
            stage,
            lost: self.lost.clone(),
            phases: self.phases.clone(),
            containers: containers.iter().map(|it| it.record(stage == Stage::Booting)).collect(),
            supervisor_restarts: self.supervisor.restarts,
            console_dropped: self.output.console.dropped(),
            supervisor_attach: self.supervisor.attach,
            log_dropped: dropped.collect(),
            program: i2kit_supervisor::version::program().into(),
        }
    }
}
