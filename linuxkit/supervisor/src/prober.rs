//! Runs the probes of all containers: requests over the network by itself, commands in containers by PID 1. Verdicts go to
//! PID 1, which keeps them: a supervisor that is started anew goes on from there.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use i2kit_spec::{Hook, POD_BOOT_PATH, POD_MOUNT, PodBoot, ProbeAction, Seconds, status};
use i2kit_sys::clock;
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use crate::link::{Link, ProbeKind, ToInit, When};
use crate::probe_state::{ProbeState, Subject};
use crate::record::{ContainerState, Record};
use crate::request::{self, Get};

/// A probe without an outcome so long after its time limit has lost it. PID 1 and the requests themselves keep to the limit;
/// this is for what neither of them reported.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// The probes, and the link on which their threads report.
#[derive(Debug)]
pub(crate) struct Prober {
    states: Vec<ProbeState>,
    subjects: Vec<Subject>,
    names: Vec<String>,
    /// The requests of hooks.
    hooks: Vec<(String, When, ProbeAction)>,
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
        let hooks = pod.onboot.iter().chain(&pod.services).flat_map(|container| {
            let both = [(When::PostStart, &container.post_start), (When::PreStop, &container.pre_stop)];
            both.into_iter().filter_map(|(when, hook)| match hook {
                Some(Hook::Handler(action)) => Some((container.name.clone(), when, action.clone())),
                Some(Hook::Sleep { .. }) | None => None,
            })
        });
        let (hooks, sender) = (hooks.collect(), Link::over(sender));
        let (subjects, names, address) = (vec![], vec![], String::new());
        Ok(Self { states, subjects, names, hooks, address, results, sender })
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
        let due = self.states.iter().filter_map(|state| {
            let started = self.subjects.get(state.container)?.started;
            state.due(started).into_iter().chain(state.lost_at()).reduce(f64::min)
        });
        due.reduce(f64::min).map(|due| Duration::from_secs_f64((due - now).max(0.0)))
    }

    /// Starts the probes that are due, and gives up those whose outcome is lost. Returns what PID 1 is to know: the commands
    /// that it is to run, and verdicts.
    pub(crate) fn start_due(&mut self) -> Vec<ToInit> {
        let now = clock::since_boot();
        let mut requests = vec![];
        for number in 0..self.states.len() {
            if let Some(run) = self.states[number].lost(now) {
                requests.extend(self.conclude(number, Some(run), Some("the outcome of the probe was lost")));
            }
            let state = &mut self.states[number];
            let Some(subject) = self.subjects.get(state.container) else { continue };
            if state.due(subject.started).is_none_or(|due| due > now) {
                continue;
            }
            let limit = Duration::from(state.probe.timeout_seconds.max(Seconds(1)));
            let run = state.begin(now, (limit + LOST_AFTER).as_secs_f64());
            if let ProbeAction::Exec { .. } = &state.probe.action {
                requests.push(ToInit::Execute {
                    id: number as u64,
                    container: self.names[state.container].clone(),
                    run: run.unwrap_or_default(),
                    kind: state.kind,
                });
                continue;
            }
            let action = state.probe.action.clone();
            let outcome = move |failure| Outcome::Probe { state: number, run, failure };
            if let Err(error) = self.spawn(action, limit, outcome) {
                requests.extend(self.conclude(number, run, Some(&error.to_string())));
            }
        }
        requests
    }

    /// Makes the request of a container's hook. Returns its end where it cannot be made.
    pub(crate) fn request_for_hook(
        &self,
        number: u64,
        (container, when): (&str, When),
        limit: Duration,
    ) -> Option<ToInit> {
        let found = self.hooks.iter().find(|(name, at, _)| name == container && *at == when);
        let Some((_, _, action)) = found else {
            return Some(ToInit::Answered { number, failure: Some("the pod has no such hook".into()) });
        };
        let outcome = move |failure| Outcome::Hook { number, failure };
        let error = self.spawn(action.clone(), limit, outcome).err()?;
        Some(ToInit::Answered { number, failure: Some(error.to_string()) })
    }

    /// Makes a request over the network, on a thread of its own.
    fn spawn(
        &self,
        action: ProbeAction,
        limit: Duration,
        outcome: impl FnOnce(Option<String>) -> Outcome + Send + 'static,
    ) -> io::Result<()> {
        let address = self.address.clone();
        // The thread's end of the link is its own copy, so that a late answer finds it.
        let sender = self.sender.try_clone()?;
        let work = move || {
            let mut failure = over_network(&action, &address, limit).err();
            // It may repeat what the manifest asks for, which has no bound.
            failure.iter_mut().for_each(status::cut);
            let outcome = outcome(failure);
            while sender.send(&outcome, None).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
                // The loop reads as soon as it can; errors are interruptions.
                let _ = rustix::event::poll(&mut [PollFd::new(&sender, PollFlags::OUT)], None);
            }
        };
        std::thread::Builder::new().spawn(work).map(drop)
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

#[cfg(test)]
mod tests {
    use i2kit_spec::{ContainerBoot, Probe, Probes};

    use super::*;
    use crate::record::ContainerRecord;

    fn prober(action: ProbeAction) -> Prober {
        let probe = Probe {
            action: action.clone(),
            initial_delay_seconds: Seconds(0),
            period_seconds: Seconds(10),
            timeout_seconds: Seconds(1),
            success_threshold: 1,
            failure_threshold: 1,
            termination_grace_period_seconds: None,
        };
        let probes = Probes { liveness: Some(probe), ..Probes::default() };
        let pre_stop = Some(Hook::Handler(action));
        let web = ContainerBoot { name: "web".into(), probes, pre_stop, ..ContainerBoot::default() };
        let mut made = Prober::of(&PodBoot { services: vec![web], ..PodBoot::default() }).unwrap();
        let record = ContainerRecord {
            name: "web".into(),
            init: false,
            state: ContainerState::Running { since: 0.0, pid: 7 },
            last: None,
            restarts: 0,
            run: 3,
            started: true,
            ready: true,
            was_ready: true,
            probe_failure: None,
        };
        made.names = vec!["web".into()];
        made.subjects = vec![subject(&record)];
        made.states[0].observe(made.subjects[0]);
        made
    }

    #[test]
    fn a_command_of_any_length_is_asked_for_by_its_probe() {
        let mut made = prober(ProbeAction::Exec { command: vec!["test".into(), "x".repeat(300_000)] });
        let requests = made.start_due();
        let kind = ProbeKind::Liveness;
        assert_eq!(requests, [ToInit::Execute { id: 0, container: "web".into(), run: 3, kind }]);
        let (link, _theirs) = Link::pair().unwrap();
        link.send(&requests[0], None).unwrap();
    }

    #[test]
    fn a_failure_that_repeats_the_manifest_is_cut() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = Some("127.0.0.1".to_owned());
        let path = format!("/{}", "x".repeat(300_000));
        // The server of nobody: the failure is of the connection; a name that cannot be one is repeated in full.
        let action = ProbeAction::HttpGet { host, port: closed, tls: false, path, headers: vec![] };
        let name = ProbeAction::Tcp { host: Some("x".repeat(300_000)), port: 1 };
        for action in [action, name] {
            let mut made = prober(action);
            assert_eq!(made.start_due(), []);
            rustix::event::poll(&mut [PollFd::from_borrowed_fd(made.fd(), PollFlags::IN)], None).unwrap();
            let verdicts = made.collect().unwrap();
            let [ToInit::Probed { message, .. }] = &verdicts[..] else { panic!("{verdicts:?}") };
            assert!(message.len() <= status::TEXT_BYTES, "{}", message.len());
        }
    }

    #[test]
    fn the_request_of_a_hook_is_found_in_the_pod() {
        let made = prober(ProbeAction::Tcp { host: Some("127.0.0.1".into()), port: 1 });
        let unknown = made.request_for_hook(5, ("web", When::PostStart), Duration::from_secs(1));
        assert!(matches!(unknown, Some(ToInit::Answered { number: 5, failure: Some(_) })));
        assert_eq!(made.request_for_hook(6, ("web", When::PreStop), Duration::from_secs(1)), None);
    }

    #[test]
    fn a_probe_whose_outcome_is_lost_has_failed() {
        let mut made = prober(ProbeAction::Exec { command: vec!["true".into()] });
        assert_eq!(made.start_due().len(), 1);
        assert!(made.timeout().is_some(), "its end is waited for no longer than this");
        made.states[0].expire();
        let lost = made.start_due();
        assert!(
            matches!(&lost[..], [ToInit::Probed { run: 3, message, .. }] if message.contains("lost")),
            "{lost:?}"
        );
        assert!(made.states[0].due(true).is_some(), "it is asked again");
    }
}
