//! What PID 1 holds, and the loop in which it waits: for ended processes, output, signals, and the time to start
//! something again. One thread, no waiting outside `turn`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_spec::console::END;
use i2kit_spec::control::Target;
use i2kit_spec::{ContainerEnd, PodBoot, PodEnd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitOptions};

use crate::clock;
use crate::cmdline::Parameters;
use crate::console::Console;
use crate::container::Machine;
use crate::error::{Doing, Error};
use crate::exec::{Asker, Exec};
use crate::hooks::{Hooks, When};
use crate::journal::{GUEST, Journals};
use crate::lifecycle::{Container, Life, Role};
use crate::link::{Any, ToInit};
use crate::power::PowerButton;
use crate::record::{PhaseTime, Record, Stage, VERSION};
use crate::resume::{self, Descriptors as _};
use crate::session::{Replace, Sessions};
use crate::supervised::Supervised;

/// How much of a container's output is read at once; other containers get their turn in between.
const READ_BYTES: usize = 64 * 1024;

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
    /// When the guest came to know its pod, or near enough.
    born: Instant,
    /// When nothing more is waited for, once the pod has ended.
    leaving: Option<Instant>,
    /// How often PID 1 was replaced.
    pub(crate) replacements: u64,
    /// Whether the record on file is older than what is known.
    changed: bool,
}

/// A stop under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopping {
    /// What ends the VM.
    pub(crate) restart: bool,
    /// When patience ends.
    deadline: Instant,
    /// Whether patience has ended and everything was killed.
    killed: bool,
}

/// What a ready descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Power,
    Console,
    Clients,
    Supervisor,
    Exec(usize),
    Setup(usize),
    Stream(usize, usize),
    /// A command's input, or its output.
    Session(usize, bool),
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
            replacements: 0,
            hooks: Hooks::default(),
            end: None,
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
        let end = serde_json::to_string(&self.ended()).unwrap_or_default();
        self.say(&format!("{END}{end}"));
        self.say("the pod has ended");
        self.deliver(LAST_LINES)
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
        if let Some(replace) = self.sessions.arrived() {
            self.replace(replace);
        }
        self.console.write();
        Ok(())
    }

    /// Puts a program that arrived in the place of one of ours.
    fn replace(&mut self, Replace { target, program }: Replace) {
        if target == Target::Supervisor {
            self.supervisor.iter_mut().for_each(|supervisor| supervisor.replace(&program));
            return;
        }
        let Err(error) = resume::replace(self, &program);
        self.say(&error.to_string());
        self.sessions.failed(&error);
    }

    /// Whether nothing is under way that another PID 1 could not go on with.
    pub(crate) fn is_calm(&self) -> bool {
        self.hooks.is_empty() && !self.containers.iter().any(Container::is_in_between)
    }

    /// How long the pod has been active.
    pub(crate) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Goes on with a pod that has been active for so long under another PID 1.
    pub(crate) fn go_on(&mut self, age: Duration) {
        self.born = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        self.stage = Stage::Running;
        self.changed = true;
        self.say("PID 1 was replaced");
        // What ended meanwhile told the program that is gone.
        self.reap();
    }

    /// Ends the supervisor and does what it asked for last.
    pub(crate) fn end_supervisor(&mut self) {
        let requests = self.supervisor.as_mut().map(Supervised::end).unwrap_or_default();
        let counts = |request: &Any<ToInit>| !matches!(request, Any::Own(ToInit::Execute { .. }));
        self.serve_all(requests.into_iter().filter(counts).collect());
        self.sessions.rewind();
        self.execs.drain(..).for_each(|exec| exec.kill());
    }

    /// All that another program needs under the same numbers.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let supervisor = self.supervisor.iter().flat_map(Supervised::descriptors);
        self.containers.iter().flat_map(Container::descriptors).chain(supervisor).collect()
    }

    fn all_are_over(&self) -> bool {
        self.containers.iter().all(Container::is_over)
    }

    /// Whether all that keeps the pod alive has ended: everything but the sidecars.
    fn services_are_over(&self) -> bool {
        self.containers.iter().filter(|container| container.role != Role::Sidecar).all(Container::is_over)
    }

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
    fn fail(&mut self, reason: &'static str, message: String) {
        self.say(&format!("{reason}: {message}"));
        self.end.get_or_insert((reason, message));
        self.stop(false);
    }

    fn begin_stop(&mut self, restart: bool) {
        let deadline = Instant::now() + Duration::from_secs(self.pod.grace_period_seconds);
        self.stopping = Some(Stopping { restart, deadline, killed: false });
        self.stage = Stage::Stopping;
        self.changed = true;
    }

    /// How much of the grace period is left.
    fn patience(&self) -> Duration {
        let left = |stopping: Stopping| stopping.deadline.saturating_duration_since(Instant::now());
        self.stopping.map_or(Duration::from_secs(self.pod.grace_period_seconds), left)
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

    /// Stops the sidecars once the services are over, and kills what is left when patience ends.
    fn go_on_stopping(&mut self, now: Instant) {
        let Some(stopping) = self.stopping.filter(|_| !self.all_are_over()) else { return };
        if stopping.deadline <= now && !stopping.killed {
            self.stopping = Some(Stopping { killed: true, ..stopping });
            self.say("the grace period is over: killing what still runs");
            for container in &self.containers {
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

    /// When the pod has been active for too long.
    fn active_until(&self) -> Option<Instant> {
        self.pod.active_deadline_seconds.map(|seconds| self.born + Duration::from_secs(seconds))
    }

    /// The next time at which something is due.
    fn next_due(&self) -> Option<Instant> {
        let restarts = self.containers.iter().filter_map(|container| match container.life {
            Life::Waiting(due) => Some(due),
            _ => None,
        });
        let supervisor = self.supervisor.as_ref().and_then(Supervised::due);
        let execs = self.execs.iter().filter_map(Exec::deadline);
        let kills = self.containers.iter().filter_map(Container::kill_at);
        let end = match self.stopping {
            Some(stopping) => (!stopping.killed && !self.all_are_over()).then_some(stopping.deadline),
            None => self.active_until(),
        };
        restarts
            .chain(supervisor)
            .chain(execs)
            .chain(kills)
            .chain(self.hooks.due())
            .chain(end)
            .chain(self.leaving)
            .min()
    }

    fn wait(&self, now: Instant) -> Result<Vec<Source>, Error> {
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if let Some(power) = &self.power {
            add(Source::Power, power.as_fd(), PollFlags::IN);
        }
        if let Some(console) = self.console.wants_room() {
            add(Source::Console, console, PollFlags::OUT);
        }
        if let Some(supervisor) = &self.supervisor {
            if let Some(listener) = supervisor.wants_clients() {
                add(Source::Clients, listener, PollFlags::IN);
            }
            if let Some((link, unsent)) = supervisor.link() {
                let unsent = unsent || self.sessions.has_news();
                let room = if unsent { PollFlags::OUT } else { PollFlags::empty() };
                add(Source::Supervisor, link, PollFlags::IN | room);
            }
        }
        for (index, exec) in self.execs.iter().enumerate() {
            add(Source::Exec(index), exec.output.as_fd(), PollFlags::IN);
        }
        for (index, container) in self.containers.iter().enumerate() {
            if let Life::Starting(process) = &container.life {
                add(Source::Setup(index), process.setup.as_fd(), PollFlags::IN);
            }
            // From the last to the first, because a stream that ended is removed.
            for (number, stream) in container.streams.iter().enumerate().rev() {
                add(Source::Stream(index, number), stream.pipe.as_fd(), PollFlags::IN);
            }
        }
        for (index, fd, output) in self.sessions.wants() {
            add(Source::Session(index, output), fd, if output { PollFlags::IN } else { PollFlags::OUT });
        }
        let timeout = self.next_due().map(|due| Timespec::try_from(due.saturating_duration_since(now)));
        let timeout = timeout.transpose().expect("back-off and grace periods fit the kernel's time");
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait".into()),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }

    fn take_signals(&mut self) -> Result<(), Error> {
        // An array of struct signalfd_siginfo, 128 bytes each, that begins with the signal's number.
        let mut buffer = [0; 128 * 8];
        let length = match rustix::io::read(&self.signals, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).doing(|| "read signals".into()),
        };
        for info in buffer[..length].chunks_exact(128) {
            let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            match number {
                libc::SIGTERM | libc::SIGPWR => self.stop(false),
                // What the kernel sends on Ctrl-Alt-Del.
                libc::SIGINT => self.stop(true),
                _ => {}
            }
        }
        self.reap();
        Ok(())
    }

    /// Collects every ended child, adopted orphans among them.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let now = clock::since_boot();
            if let Some(requests) = self.supervisor.as_mut().and_then(|supervisor| supervisor.reaped(pid)) {
                // What it asked to be told, the next one will ask for again; the rest counts.
                let counts = |request: &Any<ToInit>| !matches!(request, Any::Own(ToInit::Execute { .. }));
                self.serve_all(requests.into_iter().filter(counts).collect());
                self.sessions.rewind();
                self.say(&format!("the supervisor ended ({status:?}) and is started again"));
                // Nobody waits for its commands any more; their ends are reaped and forgotten.
                let asked = |exec: &mut Exec| matches!(exec.asker, Asker::Supervisor { .. });
                self.execs.extract_if(.., asked).for_each(|exec| exec.kill());
                self.changed = true;
                continue;
            }
            if self.sessions.reaped(pid, status) {
                continue;
            }
            if let Some(index) = self.execs.iter().position(|exec| exec.is(pid)) {
                let mut exec = self.execs.remove(index);
                let failure = exec.failure(status);
                match (exec.asker, &mut self.supervisor) {
                    (Asker::Hook { number }, _) => self.hook_ended(number, failure),
                    (Asker::Supervisor { id, run }, Some(supervisor)) => {
                        supervisor.executed(id, run, failure);
                    }
                    (Asker::Supervisor { .. }, None) => {}
                }
                continue;
            }
            let owner =
                self.containers.iter().position(|c| c.process().is_some_and(|process| process.pid == pid));
            if let Some(index) = owner {
                self.containers[index].reaped(status, self.pod.restart_policy, now);
                if self.stopping.is_some() {
                    self.containers[index].cancel();
                }
                self.tell_end(index);
                self.changed = true;
            }
        }
    }

    fn serve_all(&mut self, requests: Vec<Any<ToInit>>) {
        for request in requests {
            match request {
                Any::Own(request) => self.serve(request),
                Any::Control(message) => self.sessions.hear(message, &self.containers, &self.machine),
            }
        }
    }

    /// Does what the supervisor asks for.
    fn serve(&mut self, request: ToInit) {
        match request {
            ToInit::Done { .. } => {}
            ToInit::Attached => {
                self.supervisor.iter_mut().for_each(Supervised::attached);
                self.changed = true;
            }
            ToInit::Host { epoch } => self.sessions.host(epoch),
            ToInit::Logged { container, next, dropped } => {
                if let Some(journals) = &mut self.journals {
                    journals.taken(&container, next, dropped);
                    self.changed |= dropped > 0;
                }
            }
            ToInit::Execute { id, container, run, command, seconds } => {
                let found = self.containers.iter().find(|c| c.name() == container && c.run == run);
                let limit = Duration::from_secs(seconds);
                let started = found.ok_or(Error::NotRunning { container }).and_then(|found| {
                    Exec::start(found, &self.machine, Asker::Supervisor { id, run }, &command, limit)
                });
                match (started, &mut self.supervisor) {
                    (Ok(exec), _) => self.execs.push(exec),
                    (Err(error), Some(supervisor)) => supervisor.executed(id, run, Some(error.to_string())),
                    (Err(_), None) => {}
                }
            }
            ToInit::Asked { number, failure } => {
                self.supervisor.iter_mut().for_each(|supervisor| supervisor.answered(number));
                self.hook_ended(number, failure);
            }
            ToInit::Probed { container, run, kind, verdict, message } => {
                let found = self.containers.iter().position(|c| c.name() == container);
                if self.stopping.is_none()
                    && let Some(index) = found
                {
                    self.changed = true;
                    let failed = self.containers[index].probed(run, (kind, verdict), &message);
                    if let Some((reason, grace)) = failed {
                        let grace = Duration::from_secs(grace.unwrap_or(self.pod.grace_period_seconds));
                        self.say(&format!("{container}: {reason}"));
                        self.stop_container(index, Some(reason), grace);
                    }
                }
            }
        }
    }

    fn tell_end(&mut self, index: usize) {
        let container = &self.containers[index];
        let Some(ended) = &container.last else { return };
        let next = match container.life {
            Life::Waiting(due) => {
                let delay = due.saturating_duration_since(Instant::now()).as_secs_f64();
                format!(", to be started again in {delay:.0} s")
            }
            _ => String::new(),
        };
        let text = format!("{}: {ended}{next}", container.name());
        self.say(&text);
    }

    /// Reads once from a stream. Returns whether there may be more; a stream that ended is removed.
    fn read_stream(&mut self, container: usize, stream: usize) -> bool {
        let container = &mut self.containers[container];
        let name = container.spec.boot.name.clone();
        let Some(output) = container.streams.get_mut(stream) else { return false };
        let run = output.run;
        let console = self.journals.is_none() || self.console_too;
        let mut take = |line: &[u8], whole| {
            if let Some(journals) = &mut self.journals {
                journals.line(&name, run, (output.name, line, whole));
            }
            if console {
                self.console.container_line(&name, line);
            }
        };
        let mut buffer = vec![0; READ_BYTES];
        let more = match rustix::io::read(&output.pipe, &mut buffer) {
            Ok(0) => {
                output.lines.finish(|line| take(line, true));
                container.streams.remove(stream);
                false
            }
            Ok(length) => {
                output.lines.push(&buffer[..length], take);
                true
            }
            Err(_) => false,
        };
        if let Some(journals) = &mut self.journals {
            journals.flush(&name, run);
        }
        more
    }

    /// Says something: on the console, and to whoever reads the containers' lines.
    pub(crate) fn say(&mut self, text: &str) {
        self.console.say(text);
        if let Some(journals) = &mut self.journals {
            text.lines().for_each(|line| journals.line(GUEST, 0, ("stdout", line.as_bytes(), true)));
            journals.flush(GUEST, 0);
        }
    }

    /// Waits until the host has all lines, for a bounded time.
    fn deliver(&mut self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        self.leaving = Some(deadline);
        let missing = |journals: &Journals| !journals.all_taken();
        while self.journals.as_ref().is_some_and(missing) && Instant::now() < deadline {
            self.turn()?;
        }
        Ok(())
    }

    /// Marks the record as outdated.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }

    fn log_dropped(&self) -> BTreeMap<String, u64> {
        let Some(journals) = &self.journals else { return BTreeMap::new() };
        let names = self.containers.iter().map(|container| container.name().to_owned());
        names.map(|name| (name.clone(), journals.dropped(&name))).collect()
    }

    /// How the pod ended: what the host keeps of it.
    pub(crate) fn ended(&self) -> PodEnd {
        let containers: Vec<ContainerEnd> = self.containers.iter().filter_map(Container::ended).collect();
        let failed = |container: &Container| container.role != Role::Sidecar && !container.succeeded();
        let succeeded = self.end.is_none() && !self.containers.iter().any(failed);
        let (reason, message) = self.end.clone().unwrap_or_default();
        PodEnd { succeeded, reason: reason.into(), message, containers }
    }

    fn record(&self) -> Record {
        let booting = self.stage == Stage::Booting;
        let network = self.parameters.network.as_ref();
        Record {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            hostname: self.machine.hostname.clone(),
            address: network.map_or(Ipv4Addr::LOCALHOST, |network| network.address).to_string(),
            pod: format!("{}/{}", self.pod.pod.namespace, self.pod.pod.name),
            stage: self.stage,
            phases: self.phases.clone(),
            containers: self.containers.iter().map(|container| container.record(booting)).collect(),
            supervisor_restarts: self.supervisor.as_ref().map_or(0, |supervisor| supervisor.restarts),
            console_dropped: self.console.dropped(),
            supervisor_attach: self.supervisor.as_ref().map_or((0.0, 0.0), |supervisor| supervisor.attach),
            init_replacements: self.replacements,
            log_dropped: self.log_dropped(),
            program: crate::program_version().into(),
        }
    }
}

/// The indexes of the containers of a role.
pub(crate) fn of_role(containers: &[Container], role: Role) -> Vec<usize> {
    (0..containers.len()).filter(|index| containers[*index].role == role).collect()
}
