//! Runs the probes of all containers: asks over the network by itself, and by PID 1 where a command must run inside a
//! container. Verdicts go to PID 1, which keeps them: a supervisor that is started anew goes on from there.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use i2kit_spec::{POD_BOOT_PATH, POD_MOUNT, PodBoot, ProbeAction};
use serde::{Deserialize, Serialize};

use super::ask::{self, Get};
use super::track::{Subject, Track};
use crate::clock;
use crate::link::{Link, ProbeKind, ToInit};
use crate::record::{ContainerState, Record};

/// The probes and what their threads say.
#[derive(Debug)]
pub(super) struct Prober {
    tracks: Vec<Track>,
    subjects: Vec<Subject>,
    names: Vec<String>,
    /// The VM's own address.
    address: String,
    results: Link,
    sender: Link,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// To a probe.
    Probe { track: usize, run: Option<u64>, failure: Option<String> },
    /// To what a hook asked.
    Hook { number: u64, failure: Option<String> },
}

impl Prober {
    /// The probes of the pod that this VM booted.
    pub(super) fn new() -> io::Result<Self> {
        let path = format!("{POD_MOUNT}/{POD_BOOT_PATH}");
        Self::of(&serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// The probes of a pod.
    pub(super) fn of(pod: &PodBoot) -> io::Result<Self> {
        let (results, sender) = Link::pair()?;
        let mut tracks = vec![];
        for (index, container) in pod.onboot.iter().chain(&pod.services).enumerate() {
            let probes = &container.probes;
            for (kind, probe) in [
                (ProbeKind::Startup, &probes.startup),
                (ProbeKind::Liveness, &probes.liveness),
                (ProbeKind::Readiness, &probes.readiness),
            ] {
                tracks.extend(probe.iter().map(|probe| Track::new(index, kind, probe.clone())));
            }
        }
        let sender = Link::over(sender);
        Ok(Self { tracks, subjects: vec![], names: vec![], address: String::new(), results, sender })
    }

    /// Where answers arrive.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.results.as_fd()
    }

    /// Takes note of a new record.
    pub(super) fn observe(&mut self, record: &Record) {
        self.address.clone_from(&record.address);
        self.names = record.containers.iter().map(|container| container.name.clone()).collect();
        self.subjects = record.containers.iter().map(subject).collect();
        for track in &mut self.tracks {
            if let Some(subject) = self.subjects.get(track.container) {
                track.observe(*subject);
            }
        }
    }

    /// How long until a probe is due.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let now = clock::since_boot();
        let due =
            self.tracks.iter().filter_map(|track| track.due(self.subjects.get(track.container)?.started));
        due.reduce(f64::min).map(|due| Duration::from_secs_f64((due - now).max(0.0)))
    }

    /// Asks what is due. Returns what PID 1 must do for it.
    pub(super) fn ask(&mut self) -> Vec<ToInit> {
        let now = clock::since_boot();
        let mut requests = vec![];
        for number in 0..self.tracks.len() {
            let track = &mut self.tracks[number];
            let Some(subject) = self.subjects.get(track.container) else { continue };
            if track.due(subject.started).is_none_or(|due| due > now) {
                continue;
            }
            let run = track.ask(now);
            let limit = Duration::from_secs(u64::from(track.probe.timeout_seconds.max(1)));
            if let ProbeAction::Exec { command } = &track.probe.action {
                requests.push(ToInit::Execute {
                    id: number as u64,
                    container: self.names[track.container].clone(),
                    run: run.unwrap_or_default(),
                    command: command.clone(),
                    seconds: limit.as_secs(),
                });
                continue;
            }
            let action = track.probe.action.clone();
            self.spawn(action, limit, move |failure| Outcome::Probe { track: number, run, failure });
        }
        requests
    }

    /// Asks once, for a hook.
    pub(super) fn ask_for_hook(&self, number: u64, action: ProbeAction, limit: Duration) {
        self.spawn(action, limit, move |failure| Outcome::Hook { number, failure });
    }

    /// Asks over the network, on a thread of its own.
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

    /// Reads the answers that arrived. Returns what PID 1 must hear.
    pub(super) fn collect(&mut self) -> io::Result<Vec<ToInit>> {
        let mut verdicts = vec![];
        loop {
            match self.results.receive::<Outcome>() {
                Ok((Outcome::Probe { track, run, failure }, _)) => {
                    verdicts.extend(self.conclude(track, run, failure.as_deref()));
                }
                Ok((Outcome::Hook { number, failure }, _)) => {
                    verdicts.push(ToInit::Asked { number, failure });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(verdicts),
                Err(error) => return Err(error),
            }
        }
    }

    /// A command that PID 1 was asked to run has ended, or could not be run.
    pub(super) fn executed(&mut self, id: u64, run: u64, failure: Option<&str>) -> Option<ToInit> {
        self.conclude(usize::try_from(id).ok()?, Some(run), failure)
    }

    fn conclude(&mut self, number: usize, run: Option<u64>, failure: Option<&str>) -> Option<ToInit> {
        let track = self.tracks.get_mut(number)?;
        let verdict = track.answer(run, failure)?;
        Some(ToInit::Probed {
            container: self.names.get(track.container)?.clone(),
            run: run?,
            kind: track.kind,
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
            ask::http(&Get { tls: *tls, host, port: *port, path, headers }, limit)
        }
        ProbeAction::Tcp { host, port } => ask::tcp(host.as_deref().unwrap_or(address), *port, limit),
        ProbeAction::Grpc { port, service } => ask::grpc(address, *port, service, limit),
        ProbeAction::Exec { .. } => unreachable!("commands are run by PID 1"),
    }
}
