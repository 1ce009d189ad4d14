//! Runs the probes of all containers: requests over the network by itself, commands in containers by PID 1. Verdicts go to
//! PID 1, which keeps them: a supervisor that is started anew goes on from there.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use i2kit_spec::{POD_BOOT_PATH, POD_MOUNT, PodBoot, ProbeAction, Seconds};
use i2kit_sys::clock;
use serde::{Deserialize, Serialize};

use crate::link::{Link, ProbeKind, ToInit};
use crate::probe_state::{ProbeState, Subject};
use crate::record::{ContainerState, Record};
use crate::request::{self, Get};

/// The probes, and the link on which their threads report.
#[derive(Debug)]
pub(crate) struct Prober {
    states: Vec<ProbeState>,
    subjects: Vec<Subject>,
    names: Vec<String>,
    /// The VM's own address.
    address: String,
    results: Link,
    sender: Link,
}

/// What came of a request.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// Of a probe.
    Probe { state: usize, run: Option<u64>, failure: Option<String> },
    /// Of a hook's request.
    Hook { number: u64, failure: Option<String> },
}

impl Prober {
    /// The probes of the pod that this VM booted.
    pub(crate) fn new() -> io::Result<Self> {
        let path = format!("{POD_MOUNT}/{POD_BOOT_PATH}");
        Self::of(&serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// The probes of a pod.
    pub(crate) fn of(pod: &PodBoot) -> io::Result<Self> {
        let (results, sender) = Link::pair()?;
        let mut states = vec![];
        for (index, container) in pod.onboot.iter().chain(&pod.services).enumerate() {
            let probes = &container.probes;
            for (kind, probe) in [
                (ProbeKind::Startup, &probes.startup),
                (ProbeKind::Liveness, &probes.liveness),
                (ProbeKind::Readiness, &probes.readiness),
            ] {
                states.extend(probe.iter().map(|probe| ProbeState::new(index, kind, probe.clone())));
            }
        }
        let sender = Link::over(sender);
        Ok(Self { states, subjects: vec![], names: vec![], address: String::new(), results, sender })
    }

    /// The descriptor on which outcomes arrive.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.results.as_fd()
    }

    /// Takes note of a new record.
    pub(crate) fn observe(&mut self, record: &Record) {
        self.address.clone_from(&record.address);
        self.names = record.containers.iter().map(|container| container.name.clone()).collect();
        self.subjects = record.containers.iter().map(subject).collect();
        for state in &mut self.states {
            if let Some(subject) = self.subjects.get(state.container) {
                state.observe(*subject);
            }
        }
    }

    /// How long until a probe is due.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let now = clock::since_boot();
        let due =
            self.states.iter().filter_map(|state| state.due(self.subjects.get(state.container)?.started));
        due.reduce(f64::min).map(|due| Duration::from_secs_f64((due - now).max(0.0)))
    }

    /// Starts the probes that are due. Returns the commands that PID 1 is to run.
    pub(crate) fn start_due(&mut self) -> Vec<ToInit> {
        let now = clock::since_boot();
        let mut requests = vec![];
        for number in 0..self.states.len() {
            let state = &mut self.states[number];
            let Some(subject) = self.subjects.get(state.container) else { continue };
            if state.due(subject.started).is_none_or(|due| due > now) {
                continue;
            }
            let run = state.begin(now);
            let limit = Duration::from(state.probe.timeout_seconds.max(Seconds(1)));
            if let ProbeAction::Exec { command } = &state.probe.action {
                requests.push(ToInit::Execute {
                    id: number as u64,
                    container: self.names[state.container].clone(),
                    run: run.unwrap_or_default(),
                    command: command.clone(),
                    seconds: limit.as_secs(),
                });
                continue;
            }
            let action = state.probe.action.clone();
            self.spawn(action, limit, move |failure| Outcome::Probe { state: number, run, failure });
        }
        requests
    }

    /// Makes one request, for a hook.
    pub(crate) fn request_for_hook(&self, number: u64, action: ProbeAction, limit: Duration) {
        self.spawn(action, limit, move |failure| Outcome::Hook { number, failure });
    }

    /// Makes a request over the network, on a thread of its own.
    fn spawn(
        &self,
        action: ProbeAction,
        limit: Duration,
        outcome: impl FnOnce(Option<String>) -> Outcome + Send + 'static,
    ) {
        let address = self.address.clone();
        // The thread's end of the link is its own copy, so that a late answer finds it.
        let Ok(sender) = self.sender.try_clone() else { return };
        std::thread::spawn(move || {
            let failure = over_network(&action, &address, limit).err();
            // The other end goes away only with the whole process.
            let _ = sender.send(&outcome(failure), None);
        });
    }

    /// Reads the outcomes that arrived. Returns the messages for PID 1.
    pub(crate) fn collect(&mut self) -> io::Result<Vec<ToInit>> {
        let mut verdicts = vec![];
        loop {
            match self.results.receive::<Outcome>() {
                Ok((Outcome::Probe { state, run, failure }, _)) => {
                    verdicts.extend(self.conclude(state, run, failure.as_deref()));
                }
                Ok((Outcome::Hook { number, failure }, _)) => {
                    verdicts.push(ToInit::Answered { number, failure });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(verdicts),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the end of a command that PID 1 ran, or could not run.
    pub(crate) fn executed(&mut self, id: u64, run: u64, failure: Option<&str>) -> Option<ToInit> {
        self.conclude(usize::try_from(id).ok()?, Some(run), failure)
    }

    fn conclude(&mut self, number: usize, run: Option<u64>, failure: Option<&str>) -> Option<ToInit> {
        let state = self.states.get_mut(number)?;
        let verdict = state.finish(run, failure)?;
        Some(ToInit::Probed {
            container: self.names.get(state.container)?.clone(),
            run: run?,
            kind: state.kind,
            verdict,
            message: failure.unwrap_or_default().to_owned(),
        })
    }
}

fn subject(container: &crate::record::ContainerRecord) -> Subject {
    let (run, since) = match container.state {
        ContainerState::Running { since, .. } => (Some(container.run), since),
        _ => (None, 0.0),
    };
    Subject { run, since, started: container.started, ready: container.ready }
}

fn over_network(action: &ProbeAction, address: &str, limit: Duration) -> Result<(), String> {
    match action {
        ProbeAction::HttpGet { host, port, tls, path, headers } => {
            let host = host.as_deref().unwrap_or(address);
            request::http(&Get { tls: *tls, host, port: *port, path, headers }, limit)
        }
        ProbeAction::Tcp { host, port } => request::tcp(host.as_deref().unwrap_or(address), *port, limit),
        ProbeAction::Grpc { port, service } => request::grpc(address, *port, service, limit),
        ProbeAction::Exec { .. } => unreachable!("commands are run by PID 1"),
    }
}
