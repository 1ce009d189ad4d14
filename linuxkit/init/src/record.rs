//! The state record: what PID 1 knows of the pod, written to a file that the supervisor reads.
//!
//! The file is replaced as a whole, so that a reader sees one state or the next and never a mixture, and a supervisor
//! that was just started knows as much as one that ran since boot.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Where the record lies in the VM.
pub(crate) const PATH: &str = "/run/i2kit/state.json";

/// The version of the record; supervisor and PID 1 may be of different builds.
pub(crate) const VERSION: u32 = 1;

/// The whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Always [`VERSION`].
    pub(crate) version: u32,
    /// The kernel's id of this boot.
    pub(crate) boot_id: String,
    /// The VM's host name.
    pub(crate) hostname: String,
    /// The VM's own address.
    pub(crate) address: String,
    /// The pod's namespace and name.
    pub(crate) pod: String,
    /// How far the pod is.
    pub(crate) stage: Stage,
    /// The boot's phases so far.
    pub(crate) phases: Vec<PhaseTime>,
    /// Init containers in their order, then services.
    pub(crate) containers: Vec<ContainerRecord>,
    /// How often the supervisor was started again.
    pub(crate) supervisor_restarts: u64,
    /// Lines that the console was too slow for.
    pub(crate) console_dropped: u64,
    /// How long the running supervisor took to take over, and the slowest of all, in seconds.
    #[serde(default)]
    pub(crate) supervisor_attach: (f64, f64),
    /// How often PID 1 was replaced.
    #[serde(default)]
    pub(crate) init_replacements: u64,
    /// Lines of each container that were dropped because nobody took them.
    #[serde(default)]
    pub(crate) log_dropped: BTreeMap<String, u64>,
    /// The version of PID 1.
    #[serde(default)]
    pub(crate) program: String,
}

/// How far the pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stage {
    /// Phases are being run, init containers among them.
    Booting,
    /// All services were started.
    Running,
    /// The pod is being stopped.
    Stopping,
}

/// When a phase of the boot ran, in seconds since the kernel started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PhaseTime {
    pub(crate) name: String,
    pub(crate) start: f64,
    pub(crate) end: f64,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerRecord {
    pub(crate) name: String,
    /// Whether it is an init container.
    pub(crate) init: bool,
    pub(crate) state: ContainerState,
    /// How it ended the last time, if it ever did.
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: u64,
    /// The number of its run; each start counts.
    pub(crate) run: u64,
    /// Whether its startup probe succeeded in this run, or it has none.
    pub(crate) started: bool,
    /// Whether its readiness probe succeeds, or it has none.
    pub(crate) ready: bool,
    /// The last failure of a probe in this run.
    pub(crate) probe_failure: Option<String>,
}

/// Kubernetes' three states of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ContainerState {
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
pub(crate) struct Ended {
    /// Its exit code; 128 plus the signal when one killed it.
    pub(crate) exit_code: i32,
    /// Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub(crate) reason: String,
    /// More words, for instance why it did not start.
    pub(crate) message: String,
    /// Seconds since the kernel started.
    pub(crate) at: f64,
}

impl Record {
    /// Replaces the file.
    pub(crate) fn write(&self) -> io::Result<()> {
        let new = format!("{PATH}.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, PATH)
    }

    /// Reads the file.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(PATH)?)?)
    }

    /// Why the pod is not ready, a line a reason; empty when it is.
    pub(crate) fn unready(&self) -> Vec<String> {
        let stage = match self.stage {
            Stage::Booting => Some("the pod is booting".to_owned()),
            Stage::Running => None,
            Stage::Stopping => Some("the pod is being stopped".to_owned()),
        };
        stage.into_iter().chain(self.containers.iter().filter_map(ContainerRecord::unready)).collect()
    }
}

impl ContainerRecord {
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
            phases: vec![],
            containers,
            supervisor_restarts: 0,
            console_dropped: 0,
            supervisor_attach: (0.0, 0.0),
            init_replacements: 0,
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
}
