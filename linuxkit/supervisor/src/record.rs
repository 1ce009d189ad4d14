//! The state record: what PID 1 knows of the pod, written to a file that the supervisor reads.
//!
//! The file is replaced as a whole, so that a reader sees one state or the next and never a mixture, and a supervisor
//! that was just started knows as much as one that ran since boot.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use i2kit_spec::status::{self, PodPhase, PodStatus, Wait};
use serde::{Deserialize, Serialize};

/// Where the record lies in the VM.
pub const PATH: &str = "/run/i2kit/state.json";

/// The version of the record; supervisor and PID 1 may be of different builds.
pub const VERSION: u32 = 1;

/// The whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Always [`VERSION`].
    pub version: u32,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The VM's host name.
    pub hostname: String,
    /// The VM's own address.
    pub address: String,
    /// The pod's namespace and name.
    pub pod: String,
    /// How far the pod is.
    pub stage: Stage,
    /// Why PID 1 cannot go on.
    #[serde(default)]
    pub lost: Option<String>,
    /// The boot's phases so far.
    pub phases: Vec<PhaseTime>,
    /// Init containers in their order, then services.
    pub containers: Vec<ContainerRecord>,
    /// How often the supervisor was started again.
    pub supervisor_restarts: u64,
    /// Lines that the console was too slow for.
    pub console_dropped: u64,
    /// How long the running supervisor took to take over, and the slowest of all, in seconds.
    #[serde(default)]
    pub supervisor_attach: (f64, f64),
    /// Lines of each container that were dropped because nobody took them.
    #[serde(default)]
    pub log_dropped: BTreeMap<String, u64>,
    /// The version of PID 1.
    #[serde(default)]
    pub program: String,
}

/// How far the pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Phases are being run, init containers among them.
    Booting,
    /// All services were started.
    Running,
    /// The pod is being stopped.
    Stopping,
}

/// When a phase of the boot ran, in seconds since the kernel started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// The phase.
    pub name: String,
    /// When it began.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a container")]
pub struct ContainerRecord {
    /// Its name in the pod.
    pub name: String,
    /// Whether it is an init container.
    pub init: bool,
    /// Its state.
    pub state: ContainerState,
    /// How it ended the last time, if it ever did.
    pub last: Option<Ended>,
    /// How often it was started again.
    pub restarts: u64,
    /// The number of its run; each start counts.
    pub run: u64,
    /// Whether its startup probe succeeded in this run, or it has none.
    pub started: bool,
    /// Whether its readiness probe succeeds, or it has none.
    pub ready: bool,
    /// Whether it was ready at any time of this run.
    #[serde(default)]
    pub was_ready: bool,
    /// The last failure of a probe in this run.
    pub probe_failure: Option<String>,
}

/// Kubernetes' three states of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// Not running, but it will.
    Waiting {
        /// Kubernetes' word for why: `PodInitializing`, `ContainerCreating`, `CrashLoopBackOff`.
        reason: String,
    },
    /// Its program runs.
    Running {
        /// Seconds since the kernel started.
        since: f64,
        /// Its process in the VM.
        pid: i32,
    },
    /// It ended and is not started again.
    Terminated(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Its exit code; 128 plus the signal when one killed it.
    pub exit_code: i32,
    /// Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// More words, for instance why it did not start.
    pub message: String,
    /// Seconds since the kernel started.
    pub at: f64,
}

impl Record {
    /// Replaces the file.
    pub fn write(&self) -> io::Result<()> {
        let new = format!("{PATH}.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, PATH)
    }

    /// Reads the file.
    pub fn read() -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(PATH)?)?)
    }

    /// Why the pod is not ready, a line a reason; empty when it is.
    pub fn unready(&self) -> Vec<String> {
        if let Some(reason) = &self.lost {
            return vec![format!("PID 1 cannot go on: {reason}")];
        }
        let stage = match self.stage {
            Stage::Booting => Some("the pod is booting".to_owned()),
            Stage::Running => None,
            Stage::Stopping => Some("the pod is being stopped".to_owned()),
        };
        stage.into_iter().chain(self.containers.iter().filter_map(ContainerRecord::unready)).collect()
    }

    /// The pod's status for the host, with bounded texts and without what it uses.
    pub fn status(&self) -> PodStatus {
        let mut status = PodStatus {
            version: status::VERSION,
            boot_id: self.boot_id.clone(),
            phase: self.phase(),
            containers: self.containers.iter().map(ContainerRecord::status).collect(),
            usage: None,
            replica: None,
        };
        let phase: Vec<&mut String> = match &mut status.phase {
            PodPhase::Starting { waits } => waits.iter_mut().filter_map(failure_of).collect(),
            PodPhase::NotReady { reasons } => reasons.iter_mut().collect(),
            PodPhase::Lost { reason } => vec![reason],
            PodPhase::Ready => vec![],
        };
        let containers = status.containers.iter_mut();
        let texts = containers.flat_map(|c| [Some(&mut c.state), c.last.as_mut(), c.probe.as_mut()]);
        phase.into_iter().chain(texts.flatten()).for_each(status::cut);
        status
    }

    fn phase(&self) -> PodPhase {
        if let Some(reason) = &self.lost {
            return PodPhase::Lost { reason: reason.clone() };
        }
        if self.stage == Stage::Stopping {
            return PodPhase::NotReady { reasons: vec!["the pod is being stopped".into()] };
        }
        let unready = || self.containers.iter().filter(|container| container.unready().is_some());
        let reasons: Vec<String> =
            unready().filter(|container| container.fails()).filter_map(ContainerRecord::unready).collect();
        if !reasons.is_empty() {
            return PodPhase::NotReady { reasons };
        }
        let mut waits: Vec<Wait> = unready().filter_map(ContainerRecord::wait).collect();
        if self.stage == Stage::Booting && waits.is_empty() {
            waits.push(Wait::Boot);
        }
        if waits.is_empty() { PodPhase::Ready } else { PodPhase::Starting { waits } }
    }
}

fn failure_of(wait: &mut Wait) -> Option<&mut String> {
    match wait {
        Wait::StartupProbe { failure, .. } | Wait::ReadinessProbe { failure, .. } => failure.as_mut(),
        Wait::Boot | Wait::InitContainer { .. } | Wait::Start { .. } => None,
    }
}

impl ContainerRecord {
    /// Whether it counts as ready.
    pub fn is_ready(&self) -> bool {
        match &self.state {
            ContainerState::Running { .. } => self.started && self.ready,
            // As in Kubernetes, an init container that is done is ready.
            ContainerState::Terminated(ended) => self.init && ended.exit_code == 0,
            ContainerState::Waiting { .. } => false,
        }
    }

    /// What it does, in a word or two.
    pub fn state_text(&self) -> String {
        match &self.state {
            ContainerState::Waiting { reason } => reason.clone(),
            ContainerState::Running { .. } => "Running".to_owned(),
            ContainerState::Terminated(ended) => ended.to_string(),
        }
    }

    fn status(&self) -> status::ContainerStatus {
        status::ContainerStatus {
            name: self.name.clone(),
            ready: self.is_ready(),
            restarts: self.restarts,
            state: self.state_text(),
            last: self.last.as_ref().map(ToString::to_string),
            probe: self.probe_failure.clone(),
            usage: None,
        }
    }

    /// Whether it is not ready because something went wrong: it ended, or it was ready in this run and no longer is. One
    /// that has just been started for the first time has until its probes say otherwise.
    fn fails(&self) -> bool {
        match &self.state {
            ContainerState::Running { .. } => self.restarts > 0 || self.was_ready,
            ContainerState::Waiting { reason } => reason == "CrashLoopBackOff" || self.restarts > 0,
            ContainerState::Terminated(_) => true,
        }
    }

    /// What it waits for while nothing has gone wrong; nothing of its own while the boot has not come to it.
    fn wait(&self) -> Option<Wait> {
        let (container, failure) = (self.name.clone(), self.probe_failure.clone());
        match &self.state {
            ContainerState::Running { .. } if self.init => Some(Wait::InitContainer { container }),
            ContainerState::Running { .. } if !self.started => {
                Some(Wait::StartupProbe { container, failure })
            }
            ContainerState::Running { .. } => Some(Wait::ReadinessProbe { container, failure }),
            ContainerState::Waiting { reason } if reason == "PodInitializing" => None,
            ContainerState::Waiting { .. } | ContainerState::Terminated(_) => Some(Wait::Start { container }),
        }
    }

    fn unready(&self) -> Option<String> {
        let last = self.last.as_ref().map(|ended| format!(", last: {ended}")).unwrap_or_default();
        match &self.state {
            ContainerState::Running { .. } if !self.init && self.started && self.ready => None,
            ContainerState::Running { .. } if !self.init => {
                let probe = if self.started { "readiness" } else { "startup" };
                let failure = self.probe_failure.as_deref().unwrap_or("no answer yet");
                Some(format!("{}: {probe} probe: {failure}", self.name))
            }
            ContainerState::Terminated(ended) if self.init && ended.exit_code == 0 => None,
            ContainerState::Running { .. } => Some(format!("{}: init container is running", self.name)),
            ContainerState::Waiting { reason } => Some(format!("{}: {reason}{last}", self.name)),
            ContainerState::Terminated(ended) => Some(format!("{}: {ended}", self.name)),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, exit code {}", self.reason, self.exit_code)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, " ({})", self.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, init: bool, state: ContainerState) -> ContainerRecord {
        ContainerRecord {
            name: name.into(),
            init,
            state,
            last: None,
            restarts: 0,
            run: 1,
            started: true,
            ready: true,
            was_ready: true,
            probe_failure: None,
        }
    }

    fn ended(exit_code: i32, reason: &str) -> Ended {
        Ended { exit_code, reason: reason.into(), message: String::new(), at: 1.0 }
    }

    fn record(stage: Stage, containers: Vec<ContainerRecord>) -> Record {
        Record {
            version: VERSION,
            boot_id: String::new(),
            hostname: String::new(),
            address: String::new(),
            pod: String::new(),
            stage,
            lost: None,
            phases: vec![],
            containers,
            supervisor_restarts: 0,
            console_dropped: 0,
            supervisor_attach: (0.0, 0.0),
            log_dropped: BTreeMap::new(),
            program: String::new(),
        }
    }

    #[test]
    fn ready_when_init_containers_succeeded_and_services_run() {
        let init = container("migrate", true, ContainerState::Terminated(ended(0, "Completed")));
        let web = container("web", false, ContainerState::Running { since: 1.0, pid: 7 });
        let containers = vec![init, web];
        assert!(record(Stage::Running, containers.clone()).unready().is_empty());
        assert_eq!(record(Stage::Stopping, containers).unready(), ["the pod is being stopped"]);
    }

    #[test]
    fn probes_keep_a_running_container_unready() {
        let mut web = container("web", false, ContainerState::Running { since: 1.0, pid: 7 });
        web.ready = false;
        assert_eq!(
            record(Stage::Running, vec![web.clone()]).unready(),
            ["web: readiness probe: no answer yet"]
        );
        web.started = false;
        web.probe_failure = Some("status 503".into());
        assert_eq!(record(Stage::Running, vec![web]).unready(), ["web: startup probe: status 503"]);
    }

    #[test]
    fn reasons_name_the_container_and_its_end() {
        let mut web = container("web", false, ContainerState::Waiting { reason: "CrashLoopBackOff".into() });
        web.last = Some(Ended { message: "\"ngnix\" is not found".into(), ..ended(128, "StartError") });
        assert_eq!(
            record(Stage::Running, vec![web]).unready(),
            ["web: CrashLoopBackOff, last: StartError, exit code 128 (\"ngnix\" is not found)"]
        );
    }

    #[test]
    fn a_pod_that_starts_is_told_apart_from_one_that_fails() {
        let running = || ContainerState::Running { since: 1.0, pid: 7 };
        let waiting = |reason: &str| ContainerState::Waiting { reason: reason.into() };
        let young = |name, init, state| ContainerRecord {
            started: false,
            ready: false,
            was_ready: false,
            ..container(name, init, state)
        };
        let phase = |stage, containers: &[ContainerRecord]| record(stage, containers.to_vec()).status().phase;
        let starting = |waits| PodPhase::Starting { waits };
        let fails = |reason: &str| PodPhase::NotReady { reasons: vec![reason.into()] };
        let name = || "web".to_owned();

        let mut web = young("web", false, waiting("PodInitializing"));
        assert_eq!(phase(Stage::Booting, std::slice::from_ref(&web)), starting(vec![Wait::Boot]));
        let mut init = young("migrate", true, running());
        let wait = Wait::InitContainer { container: "migrate".into() };
        assert_eq!(phase(Stage::Booting, &[init.clone(), web.clone()]), starting(vec![wait]));
        init.restarts = 1;
        assert_eq!(
            phase(Stage::Booting, &[init.clone(), web.clone()]),
            fails("migrate: init container is running")
        );
        init = container("migrate", true, ContainerState::Terminated(ended(0, "Completed")));

        web.state = running();
        let wait = Wait::StartupProbe { container: name(), failure: None };
        assert_eq!(phase(Stage::Running, &[init.clone(), web.clone()]), starting(vec![wait]));
        web.started = true;
        web.probe_failure = Some("status 503".into());
        let wait = Wait::ReadinessProbe { container: name(), failure: Some("status 503".into()) };
        assert_eq!(phase(Stage::Running, &[init.clone(), web.clone()]), starting(vec![wait]));
        (web.ready, web.was_ready, web.probe_failure) = (true, true, None);
        assert_eq!(phase(Stage::Running, &[init.clone(), web.clone()]), PodPhase::Ready);
        web.ready = false;
        assert_eq!(phase(Stage::Running, &[init, web.clone()]), fails("web: readiness probe: no answer yet"));

        web.state = waiting("CrashLoopBackOff");
        web.last = Some(ended(1, "Error"));
        let crashed = record(Stage::Running, vec![web]);
        assert_eq!(crashed.status().phase, fails("web: CrashLoopBackOff, last: Error, exit code 1"));
        let lost = Record { lost: Some("no disk".into()), ..crashed };
        assert_eq!(lost.status().phase, PodPhase::Lost { reason: "no disk".into() });
        assert_eq!(lost.unready(), ["PID 1 cannot go on: no disk"]);
    }

    #[test]
    fn the_status_has_bounded_texts() {
        let mut web = container("web", false, ContainerState::Running { since: 1.0, pid: 7 });
        web.ready = false;
        web.probe_failure = Some("x".repeat(100_000));
        let status = record(Stage::Running, vec![web]).status();
        assert!(serde_json::to_vec(&status).unwrap().len() < 4 * status::TEXT_BYTES);
        assert_eq!((status.containers[0].ready, status.containers[0].state.as_str()), (false, "Running"));
    }
}
