//! What PID 1 holds, and the loop in which it waits: for ended processes, output, signals, and the time to start
//! something again. One thread, no waiting outside `turn`.
//!
//! `wait` says what woke it, `children` and `requests` deal with who ended and who asks, `output` with what is said,
//! `stop` with the pod's end, and `account` tells what became of it all.

mod account;
mod children;
mod output;
mod requests;
mod stop;
mod wait;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use i2kit_spec::PodBoot;
use i2kit_spec::console::END;
use i2kit_spec::end::LOST;

use self::stop::Stopping;
use self::wait::Source;
use crate::clock;
use crate::cmdline::Parameters;
use crate::console::Console;
use crate::container::Machine;
use crate::error::{Doing, Error};
use crate::exec::Exec;
use crate::hooks::{Hooks, When};
use crate::journal::Journals;
use crate::lifecycle::{Container, Life, Role};
use crate::power::PowerButton;
use crate::record::{PhaseTime, Stage};
use crate::session::Sessions;
use crate::supervised::Supervised;

/// How long the host may take for the last lines before the VM ends without it.
const LAST_LINES: Duration = Duration::from_secs(3);

/// All that PID 1 knows. The early phases fill it.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) console: Console,
    pub(crate) signals: OwnedFd,
    pub(crate) power: Option<PowerButton>,
    pub(crate) parameters: Parameters,
    pub(crate) pod: PodBoot,
    pub(crate) machine: Machine,
    pub(crate) boot_id: String,
    pub(crate) phases: Vec<PhaseTime>,
    pub(crate) containers: Vec<Container>,
    pub(crate) supervisor: Option<Supervised>,
    pub(crate) execs: Vec<Exec>,
    pub(crate) hooks: Hooks,
    /// Where lines go when the VM has a control channel; otherwise they go to the console.
    pub(crate) journals: Option<Journals>,
    /// Whether containers' lines go to the console beside the journals, because nobody reads these on the host.
    pub(crate) console_too: bool,
    pub(crate) sessions: Sessions,
    pub(crate) stage: Stage,
    /// Set once the pod is asked to stop.
    pub(crate) stopping: Option<Stopping>,
    /// Why the pod ended, where that is not its containers' doing.
    end: Option<(&'static str, String)>,
    /// Why PID 1 cannot go on.
    lost: Option<String>,
    /// When the guest came to know its pod, or near enough.
    born: Instant,
    /// When nothing more is waited for, once the pod has ended.
    leaving: Option<Instant>,
    /// Whether the record on file is older than what is known.
    changed: bool,
}

/// The pod before the disk was read: it has no containers.
pub(crate) fn no_pod() -> PodBoot {
    PodBoot { version: i2kit_spec::POD_BOOT_VERSION, ..PodBoot::default() }
}

impl Guest {
    /// A guest that knows nothing yet.
    pub(crate) fn new(console: Console, signals: OwnedFd) -> Self {
        Self {
            console,
            signals,
            power: None,
            parameters: Parameters::default(),
            pod: no_pod(),
            machine: Machine::default(),
            boot_id: String::new(),
            phases: vec![],
            containers: vec![],
            supervisor: None,
            execs: vec![],
            journals: None,
            console_too: false,
            sessions: Sessions::default(),
            stage: Stage::Booting,
            stopping: None,
            leaving: None,
            hooks: Hooks::default(),
            end: None,
            lost: None,
            born: Instant::now(),
            changed: false,
        }
    }

    /// Starts the container of this index.
    pub(crate) fn start(&mut self, index: usize) {
        let container = &mut self.containers[index];
        if matches!(container.life, Life::Waiting(_)) {
            container.restarts += 1;
        }
        container.start(&self.machine, self.pod.restart_policy, clock::since_boot());
        self.changed = true;
        if container.process().is_none() {
            self.tell_end(index);
        }
    }

    /// Starts the sidecar of this index and waits until it has started, so that the next container finds it there.
    pub(crate) fn run_sidecar(&mut self, index: usize) -> Result<(), Error> {
        self.start(index);
        while !self.containers[index].has_started() && self.stopping.is_none() {
            self.turn()?;
        }
        Ok(())
    }

    /// Runs the init container of this index until it succeeded, failed for good, or the pod is to stop.
    pub(crate) fn run_onboot(&mut self, index: usize) -> Result<(), Error> {
        self.start(index);
        while !self.containers[index].is_over() && self.stopping.is_none() {
            self.turn()?;
        }
        if self.stopping.is_none() && !self.containers[index].succeeded() {
            let name = self.containers[index].name();
            self.fail("InitError", format!("init container {name} failed and is not started again"));
        }
        Ok(())
    }

    /// Runs the services until the pod has ended, by itself or because it was asked to.
    pub(crate) fn supervise(&mut self) -> Result<(), Error> {
        while !self.all_are_over() {
            if self.stopping.is_none() && self.services_are_over() {
                // What the services need until their end is left, and nobody needs it any more.
                self.begin_stop(false);
            }
            self.turn()?;
        }
        // What the containers said last may still be in their pipes.
        for container in 0..self.containers.len() {
            for stream in (0..self.containers[container].streams.len()).rev() {
                while self.read_stream(container, stream) {}
            }
        }
        self.say_end();
        self.say("the pod has ended");
        self.deliver(LAST_LINES)
    }

    /// Tells the host how the pod ended.
    fn say_end(&mut self) {
        let end = serde_json::to_string(&self.ended()).unwrap_or_default();
        self.say(&format!("{END}{end}"));
    }

    /// PID 1 cannot go on, and ends the VM: says why, to whoever asks now and to whoever looks for it afterwards.
    pub(crate) fn lose(&mut self, error: &Error) {
        let reason = error.to_string();
        self.lost = Some(reason.clone());
        self.end.get_or_insert((LOST, reason));
        // What was lost may be the record's file itself.
        if self.record().write().is_ok() {
            self.supervisor.iter_mut().for_each(Supervised::changed);
        }
        self.say_end();
    }

    /// Waits for the next thing to happen and deals with it.
    pub(crate) fn turn(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.do_what_is_due(now);
        if self.changed {
            self.changed = false;
            self.record().write().doing(|| "write the state record".into())?;
            self.supervisor.iter_mut().for_each(Supervised::changed);
        }
        for source in self.wait(now)? {
            match source {
                Source::Signals => self.take_signals()?,
                Source::Power => {
                    if self.power.as_ref().is_some_and(PowerButton::pressed) {
                        self.say("the power button was pressed");
                        self.stop(false);
                    }
                }
                Source::Console => self.console.write(),
                Source::Clients => self.supervisor.iter_mut().for_each(Supervised::accept),
                Source::Supervisor => {
                    let requests = self.supervisor.as_mut().map(Supervised::talk).unwrap_or_default();
                    self.serve_all(requests);
                }
                Source::Exec(index) => {
                    if let Some(exec) = self.execs.get_mut(index) {
                        exec.read();
                    }
                }
                Source::Setup(index) => {
                    if self.containers[index].read_setup(clock::since_boot()) {
                        self.changed = true;
                        self.run_hook(index, When::PostStart);
                    }
                }
                Source::Stream(container, stream) => {
                    self.read_stream(container, stream);
                }
                Source::Session(index, output) => self.sessions.ready(index, output),
            }
        }
        if let Some(supervisor) = &self.supervisor {
            self.sessions.tell(|message| supervisor.forward(message));
        }
        if let (Some(program), Some(supervisor)) = (self.sessions.arrived(), &mut self.supervisor) {
            supervisor.replace(&program);
        }
        self.console.write();
        Ok(())
    }

    /// Starts the supervisor if that is due.
    pub(crate) fn start_supervisor(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            self.changed |= supervisor.start_if_due(Instant::now(), || self.sessions.states());
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        for index in 0..self.containers.len() {
            if matches!(self.containers[index].life, Life::Waiting(due) if due <= now) {
                self.start(index);
            }
        }
        self.containers.iter_mut().for_each(|container| container.check(now));
        self.execs.iter_mut().for_each(|exec| exec.check(now));
        self.check_hooks(now);
        self.start_supervisor();
        if self.stopping.is_none() && self.active_until().is_some_and(|end| end <= now) {
            let seconds = self.pod.active_deadline_seconds.unwrap_or_default();
            self.fail("DeadlineExceeded", format!("the pod was active for longer than {seconds} s"));
        }
        self.go_on_stopping(now);
    }

    /// Marks the record as outdated.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }
}

/// The indexes of the containers of a role.
pub(crate) fn of_role(containers: &[Container], role: Role) -> Vec<usize> {
    (0..containers.len()).filter(|index| containers[*index].role == role).collect()
}
