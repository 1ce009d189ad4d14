//! The life of one container: started, running, ended, waiting to be started again. Decides nothing about the pod.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_container::{START_FAILED, Sandbox, Spec, Started, cgroup, pod_files};
use i2kit_spec::{ContainerEnd, ProbeAction, RestartPolicy, Seconds};
use i2kit_supervisor::link::{ProbeKind, Verdict};
use i2kit_supervisor::record::{ContainerRecord, ContainerState, Ended};
use i2kit_sys::clock;
use rustix::process::{Pid, Signal, WaitStatus};

use crate::backoff::Backoff;
use crate::lines::Lines;

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before anything after it starts.
    Onboot,
    /// Started in the order of the init containers, and then kept running; stopped last.
    Sidecar,
    /// Runs as long as the pod.
    Service,
}

/// A container and where it is in its life.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) spec: Spec,
    pub(crate) role: Role,
    pub(crate) life: Life,
    /// Its output, which may outlive its process: what it wrote last is read after it ended.
    pub(crate) streams: Vec<Stream>,
    last: Option<Ended>,
    restarts: u64,
    /// Counts its starts.
    pub(crate) run: u64,
    /// Of this run.
    health: Health,
    backoff: Backoff,
    oom_kills: u64,
    /// Whether it is being ended to be kept so.
    to_hold: bool,
}

/// What the hook after the start and the probes of a container have come to.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a container")]
struct Health {
    /// Whether its hook after the start has succeeded, or it has none.
    hooked: bool,
    started: bool,
    ready: bool,
    /// Whether it was ready at any time of this run.
    was_ready: bool,
    failure: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug)]
pub(crate) enum Life {
    /// Not started yet.
    Pending,
    /// Cloned; not known yet whether its program runs.
    Starting(Process),
    /// Its program runs.
    Running(Process),
    /// Ended, to be started again at this time.
    Waiting(Instant),
    /// Ended, or not started yet, and kept so until somebody asks for its start.
    Held,
    /// Ended for good.
    Over,
}

/// The first process of a container.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
    /// Ends without a byte when the program runs, else carries the reason.
    pub(crate) setup: OwnedFd,
    /// The reason, as far as it was read.
    failure: Vec<u8>,
    started: Instant,
    /// When the program began to run, in seconds since the kernel started.
    since: f64,
    /// Whether it is being stopped.
    stopping: bool,
    /// Why it is, unless the whole pod is.
    reason: Option<String>,
    /// When it is killed, once it is being stopped.
    kill_at: Option<Instant>,
}

impl Process {
    /// The process as a descriptor.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// One of the container's output pipes.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) pipe: OwnedFd,
    /// `stdout` or `stderr`.
    pub(crate) name: &'static str,
    /// How often the container was started before the run that writes here.
    pub(crate) run: u64,
    pub(crate) lines: Lines,
}

impl Container {
    /// A container that was never started.
    pub(crate) fn new(spec: Spec, role: Role) -> Self {
        let backoff = Backoff::default();
        Self {
            spec,
            role,
            life: Life::Pending,
            streams: vec![],
            last: None,
            restarts: 0,
            run: 0,
            health: Health::default(),
            backoff,
            oom_kills: 0,
            to_hold: false,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.spec.boot.name
    }

    /// Counts that it is started again, when it ended by itself.
    fn count_end(&mut self) {
        self.restarts += u64::from(matches!(self.life, Life::Waiting(_)));
    }

    /// Starts it. A failure counts as its end.
    pub(crate) fn start(&mut self, sandbox: &Sandbox, policy: RestartPolicy, now: f64) {
        self.count_end();
        self.oom_kills = cgroup::oom_kills(self.name());
        self.run += 1;
        let boot = &self.spec.boot;
        self.health = Health {
            hooked: boot.post_start.is_none(),
            started: boot.probes.startup.is_none(),
            ready: boot.probes.readiness.is_none(),
            was_ready: false,
            failure: None,
        };
        match i2kit_container::start(&self.spec, sandbox) {
            Ok(Started { pid, pidfd, setup, stdout, stderr }) => {
                let run = self.run - 1;
                let stream = |(name, pipe)| Stream { pipe, name, run, lines: Lines::default() };
                self.streams.extend([("stdout", stdout), ("stderr", stderr)].map(stream));
                let started = Instant::now();
                self.life = Life::Starting(Process {
                    pid,
                    pidfd,
                    setup,
                    failure: vec![],
                    started,
                    since: now,
                    stopping: false,
                    reason: None,
                    kill_at: None,
                });
            }
            Err(error) => self.end(failed_start(&error.to_string(), now), Duration::ZERO, policy),
        }
    }

    /// Reads the setup pipe. Returns whether the program has begun to run.
    pub(crate) fn read_setup(&mut self, now: f64) -> bool {
        let Life::Starting(process) = &mut self.life else { return false };
        let mut buffer = [0; 1024];
        match rustix::io::read(&process.setup, &mut buffer) {
            Ok(0) if process.failure.is_empty() => {
                let Life::Starting(mut process) = std::mem::replace(&mut self.life, Life::Pending) else {
                    unreachable!("the match above holds a starting process")
                };
                process.since = now;
                self.life = Life::Running(process);
                true
            }
            Ok(length) => {
                process.failure.extend_from_slice(&buffer[..length]);
                false
            }
            Err(_) => false,
        }
    }

    /// The process, when it has one.
    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.life {
            Life::Starting(process) | Life::Running(process) => Some(process),
            _ => None,
        }
    }

    /// Sends its stop signal, which its image or its manifest may choose.
    pub(crate) fn send_stop_signal(&self) {
        self.signal(self.spec.boot.stop_signal.and_then(i2kit_sys::signal).unwrap_or(Signal::TERM));
    }

    /// Sends a signal to its first process, if there is one.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = self.process() {
            // It may have ended meanwhile, which is what was wanted.
            let _ = rustix::process::pidfd_send_signal(&process.pidfd, signal);
        }
    }

    /// The command of a probe and its time limit, when the container has such a probe and it is a command.
    pub(crate) fn probe_command(&self, kind: ProbeKind) -> Option<(&[String], Duration)> {
        let probes = &self.spec.boot.probes;
        let probe = match kind {
            ProbeKind::Startup => &probes.startup,
            ProbeKind::Liveness => &probes.liveness,
            ProbeKind::Readiness => &probes.readiness,
        };
        let probe = probe.as_ref()?;
        let ProbeAction::Exec { command } = &probe.action else { return None };
        Some((command, probe.timeout_seconds.max(Seconds(1)).into()))
    }

    /// Takes the verdict of a probe on a run of the container. When the container is to be stopped for it, returns the
    /// reason, and the probe's own grace period if it has one.
    pub(crate) fn apply_verdict(
        &mut self,
        run: u64,
        (kind, verdict): (ProbeKind, Verdict),
        failure: &str,
    ) -> Option<(String, Option<Seconds>)> {
        let Life::Running(process) = &mut self.life else { return None };
        if run != self.run {
            return None;
        }
        let healthy = verdict == Verdict::Healthy;
        match kind {
            ProbeKind::Startup => self.health.started = healthy,
            ProbeKind::Readiness => {
                self.health.ready = healthy;
                self.health.was_ready |= healthy;
            }
            ProbeKind::Liveness => {}
        }
        self.health.failure = (!healthy).then(|| failure.to_owned());
        if kind == ProbeKind::Readiness || verdict != Verdict::Unhealthy || process.stopping {
            return None;
        }
        let probes = &self.spec.boot.probes;
        let (word, probe) = match kind {
            ProbeKind::Startup => ("startup", &probes.startup),
            _ => ("liveness", &probes.liveness),
        };
        let grace = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
        Some((format!("{word} probe failed: {failure}"), grace))
    }

    /// Takes note that the hook after the start has succeeded.
    pub(crate) fn set_hooked(&mut self) {
        self.health.hooked = true;
    }

    /// Whether the container after it may start: it runs, its hook has succeeded, and so has its startup probe.
    pub(crate) fn has_started(&self) -> bool {
        matches!(self.life, Life::Running(_)) && self.health.hooked && self.health.started
    }

    /// Takes note that it is to end, and of the time of SIGKILL. Returns whether it runs and was not being stopped before.
    pub(crate) fn begin_stop(&mut self, reason: Option<String>, kill_at: Instant) -> bool {
        let (Life::Starting(process) | Life::Running(process)) = &mut self.life else { return false };
        process.kill_at = Some(process.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        if process.stopping {
            return false;
        }
        process.stopping = true;
        process.reason = reason;
        true
    }

    /// Moves SIGKILL, for which `least` was added to the grace period, when the hook before the end is over: it comes no
    /// sooner than `least` from now, and else when the grace period itself ends.
    pub(crate) fn hook_over(&mut self, least: Duration) {
        if let Life::Starting(process) | Life::Running(process) = &mut self.life
            && let Some(at) = &mut process.kill_at
        {
            *at = clock::after(Instant::now(), least).max(at.checked_sub(least).unwrap_or(*at));
        }
    }

    /// When a container that is being stopped is to be killed.
    pub(crate) fn kill_at(&self) -> Option<Instant> {
        self.process().and_then(|process| process.kill_at)
    }

    /// Sends SIGKILL when its time has come.
    pub(crate) fn kill_if_due(&mut self, now: Instant) {
        if let Life::Starting(process) | Life::Running(process) = &mut self.life
            && process.kill_at.is_some_and(|due| due <= now)
        {
            process.kill_at = None;
            self.signal(Signal::KILL);
        }
    }

    /// Ends all of its processes at once, and keeps it ended: it is no failure, and no start is planned.
    pub(crate) fn hold(&mut self) {
        match &mut self.life {
            Life::Starting(process) | Life::Running(process) => {
                process.stopping = true;
                process.reason = Some("its coordinator has it start anew".into());
                self.to_hold = true;
                // What stands still is killed too. It may have ended meanwhile.
                let _ = cgroup::kill(self.name());
                self.signal(Signal::KILL);
            }
            Life::Pending | Life::Waiting(_) => {
                self.count_end();
                self.life = Life::Held;
            }
            Life::Held | Life::Over => {}
        }
    }

    /// Lets a container that is kept ended, or waits for its next start, start at once. Returns whether its caller is to start it.
    pub(crate) fn release(&mut self) -> bool {
        self.to_hold = false;
        let starts = matches!(self.life, Life::Held | Life::Waiting(_));
        if starts {
            self.count_end();
            self.life = Life::Pending;
        }
        starts
    }

    /// Takes the end of its first process.
    pub(crate) fn reaped(&mut self, status: WaitStatus, policy: RestartPolicy, now: f64) {
        // After the process's end nothing more comes through the setup pipe.
        while let Life::Starting(process) = &self.life {
            let before = process.failure.len();
            self.read_setup(now);
            if let Life::Starting(process) = &self.life
                && process.failure.len() == before
            {
                break;
            }
        }
        let (Life::Starting(process) | Life::Running(process)) =
            std::mem::replace(&mut self.life, Life::Over)
        else {
            return;
        };
        // Processes of the container that its first one left behind, where they share a PID namespace.
        let _ = cgroup::kill(self.name());
        let ended = if process.failure.is_empty() {
            let mut ended = ended(status, cgroup::oom_kills(self.name()) > self.oom_kills, now);
            // The reason of a stop is worth more than its signal.
            let why = process.reason.unwrap_or(ended.message);
            let parts = [why, pod_files::termination_message(self.name())];
            ended.message = parts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
            ended
        } else {
            failed_start(&String::from_utf8_lossy(&process.failure), now)
        };
        if std::mem::take(&mut self.to_hold) {
            let ended = Ended { reason: "Stopped".into(), ..ended };
            (self.last, self.life) = (Some(ended), Life::Held);
            return;
        }
        self.end(ended, process.started.elapsed(), policy);
    }

    fn end(&mut self, ended: Ended, ran: Duration, policy: RestartPolicy) {
        let again = match (policy, self.role) {
            (_, Role::Sidecar) | (RestartPolicy::Always, Role::Service) => true,
            (RestartPolicy::Never, _) => false,
            // An init container that succeeded is done, whatever the policy.
            (RestartPolicy::OnFailure, _) | (RestartPolicy::Always, Role::Onboot) => ended.exit_code != 0,
        };
        self.last = Some(ended);
        self.life = if again { Life::Waiting(Instant::now() + self.backoff.delay(ran)) } else { Life::Over };
    }

    /// Gives up a restart that was planned.
    pub(crate) fn cancel(&mut self) {
        if matches!(self.life, Life::Waiting(_) | Life::Pending | Life::Held) {
            self.life = Life::Over;
        }
    }

    /// Whether it ended for good, with success.
    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.life, Life::Over) && self.last.as_ref().is_some_and(|ended| ended.exit_code == 0)
    }

    /// Its last end, for the host.
    pub(crate) fn last_end(&self) -> Option<ContainerEnd> {
        self.last.as_ref().map(|last| ContainerEnd {
            name: self.name().to_owned(),
            exit_code: last.exit_code,
            reason: last.reason.clone(),
            message: last.message.clone(),
            restarts: self.restarts,
        })
    }

    /// A line about its last end, and about its next start when one is planned.
    pub(crate) fn end_text(&self) -> Option<String> {
        let ended = self.last.as_ref()?;
        let next = match self.life {
            Life::Waiting(due) => {
                let delay = due.saturating_duration_since(Instant::now()).as_secs_f64();
                format!(", to be started again in {delay:.0} s")
            }
            _ => String::new(),
        };
        Some(format!("{}: {ended}{next}", self.name()))
    }

    /// Whether it ended for good.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    /// Its part of the record.
    pub(crate) fn record(&self, booting: bool) -> ContainerRecord {
        let waiting = |reason: &str| ContainerState::Waiting { reason: reason.to_owned() };
        let state = match (&self.life, &self.last) {
            (Life::Pending, _) if booting => waiting("PodInitializing"),
            (Life::Pending | Life::Starting(_), _) => waiting("ContainerCreating"),
            (Life::Running(_), _) if !self.health.hooked => waiting("PostStartHook"),
            (Life::Running(process), _) => {
                ContainerState::Running { since: process.since, pid: process.pid.as_raw_nonzero().get() }
            }
            (Life::Held, _) => waiting("Held"),
            (Life::Waiting(_), _) => waiting("CrashLoopBackOff"),
            (Life::Over, Some(ended)) => ContainerState::Terminated(ended.clone()),
            (Life::Over, None) => waiting("NeverStarted"),
        };
        ContainerRecord {
            name: self.name().to_owned(),
            init: self.role == Role::Onboot,
            state,
            last: self.last.clone(),
            restarts: self.restarts,
            run: self.run,
            started: self.health.started,
            ready: self.health.ready,
            was_ready: self.health.was_ready,
            probe_failure: self.health.failure.clone(),
        }
    }
}

fn failed_start(message: &str, at: f64) -> Ended {
    let message = i2kit_container::one_line(message);
    Ended { exit_code: START_FAILED, reason: "StartError".into(), message, at }
}

fn ended(status: WaitStatus, out_of_memory: bool, at: f64) -> Ended {
    let signal = status.terminating_signal();
    let exit_code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(255);
    let (reason, message) = match (exit_code, signal) {
        _ if out_of_memory => ("OOMKilled", String::new()),
        (0, _) => ("Completed", String::new()),
        (_, Some(signal)) => ("Error", format!("killed by signal {signal}")),
        (_, None) => ("Error", String::new()),
    };
    Ended { exit_code, reason: reason.into(), message, at }
}
