//! The status of a pod, as its guest reports it on the health port: the document of [`PATH`], as JSON.
//!
//! It keeps three questions apart. Still starting: what does the pod wait for? Ready: may a balancer send traffic to it?
//! Alive: is the VM of any more use? A host routes by the second and replaces by the third; whether a start takes too
//! long is decided by the rollout's own deadline.

pub mod wait;

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};

use serde::{Deserialize, Deserializer, Serialize};

use crate::replica::ReplicaReport;

/// Where the health port answers it.
pub const PATH: &str = "/status";

/// The version of the document.
pub const VERSION: u32 = 1;

/// The longest text in it, in bytes: longer ones are cut. A probe's output and a program's path are a line or two, and
/// what comes from a container is read by people.
pub const TEXT_BYTES: usize = 1024;

/// The status of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Always [`VERSION`].
    pub version: u32,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// How far the pod is.
    pub phase: PodPhase,
    /// Init containers in their order, then services.
    pub containers: Vec<ContainerStatus>,
    /// What the whole machine uses; `None` of a guest that does not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What its replica says of itself; `None` of a pod that is not replicated, and before its coordinator has said anything.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub replica: Option<ReplicaReport>,
}

impl PodStatus {
    /// A short text that is another one whenever something of the status is but what is used and how far its replica is, which
    /// change without end: the tag of [`wait`]. It is the same in every process of one build.
    pub fn tag(&self) -> String {
        let mut decides = self.clone();
        decides.usage = None;
        decides.containers.iter_mut().for_each(|container| container.usage = None);
        if let Some(replica) = &mut decides.replica {
            replica.progress = None;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&serde_json::to_vec(&decides).unwrap_or_default());
        format!("{:016x}", hasher.finish())
    }
}

/// What something uses of the machine, as the kubelet measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Usage {
    /// Processor time since the start, in nanoseconds: `usage_usec` of the group's `cpu.stat`.
    pub cpu_nanoseconds: u64,
    /// Memory that cannot be reclaimed easily, in bytes: `memory.current` without `inactive_file`.
    pub working_set_bytes: u64,
}

/// How far a pod is. All but [`Self::Lost`] are of a VM that is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum PodPhase {
    /// On its way up, and nothing has gone wrong.
    Starting {
        /// What it waits for.
        waits: Vec<Wait>,
    },
    /// Init containers have succeeded, services run, and their probes succeed.
    Ready,
    /// Not ready: a container fails, a probe does not succeed, or the pod is being stopped.
    NotReady {
        /// Why, one a container.
        reasons: Vec<String>,
    },
    /// PID 1 cannot go on: this VM will not be ready again.
    Lost {
        /// Why.
        reason: String,
    },
}

/// What a starting pod waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "for")]
pub enum Wait {
    /// The boot's own phases: disks, network, volumes.
    Boot,
    /// The end of an init container, which runs.
    InitContainer {
        /// Its name.
        container: String,
    },
    /// The start of a container's program, and of its `postStart` hook.
    Start {
        /// Its name.
        container: String,
    },
    /// The first success of a startup probe.
    StartupProbe {
        /// Whose.
        container: String,
        /// Why it did not succeed the last time it was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// The first success of a readiness probe, in its container's first run.
    ReadinessProbe {
        /// Whose.
        container: String,
        /// Why it did not succeed the last time it was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let probe = |f: &mut fmt::Formatter<'_>, container: &str, kind, failure: &Option<String>| {
            let failure = failure.as_deref().unwrap_or("no answer yet");
            write!(f, "{container}: {kind} probe: {failure}")
        };
        match self {
            Self::Boot => f.write_str("the guest boots"),
            Self::InitContainer { container } => write!(f, "{container}: init container is running"),
            Self::Start { container } => write!(f, "{container}: ContainerCreating"),
            Self::StartupProbe { container, failure } => probe(f, container, "startup", failure),
            Self::ReadinessProbe { container, failure } => probe(f, container, "readiness", failure),
        }
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Whether it counts as ready, by Kubernetes' rule.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// What it does: `Running`, Kubernetes' word for why it waits, or how it ended for good.
    pub state: String,
    /// How it ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// What its probes complained of last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// What it uses, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Cuts the text of a replica's report to [`TEXT_BYTES`].
pub fn cut_report(report: &mut ReplicaReport) {
    report.waits_for.iter_mut().for_each(cut);
}

/// Reads a replica's report; one that cannot be read, such as one of another version, is none: the pod's status is worth more.
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ReplicaReport>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// Cuts a text to [`TEXT_BYTES`], between characters.
pub fn cut(text: &mut String) {
    cut_to(text, TEXT_BYTES);
}

/// Cuts a text to this many bytes, between characters.
pub(crate) fn cut_to(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes.saturating_sub('…'.len_utf8()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{Progress, Role};

    #[test]
    fn the_document_reads_back_and_says_what_is_waited_for() {
        let container = || "web".to_owned();
        let waits = vec![
            Wait::Boot,
            Wait::InitContainer { container: "migrate".into() },
            Wait::Start { container: container() },
            Wait::StartupProbe { container: container(), failure: Some("connection refused".into()) },
            Wait::ReadinessProbe { container: container(), failure: None },
        ];
        let words: Vec<String> = waits.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "the guest boots",
                "migrate: init container is running",
                "web: ContainerCreating",
                "web: startup probe: connection refused",
                "web: readiness probe: no answer yet"
            ]
        );
        let status = PodStatus {
            version: VERSION,
            boot_id: "b".into(),
            phase: PodPhase::Starting { waits },
            containers: vec![ContainerStatus {
                name: container(),
                ready: false,
                restarts: 2,
                state: "Running".into(),
                last: Some("Error, exit code 1".into()),
                probe: None,
                usage: Some(Usage { cpu_nanoseconds: 2_500_000_000, working_set_bytes: 4096 }),
            }],
            usage: None,
            replica: None,
        };
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.contains(r#""phase":{"name":"starting","waits":[{"for":"boot"},"#), "{json}");
        assert_eq!(serde_json::from_str::<PodStatus>(&json).unwrap(), status);

        // A guest of before has no usage; one that reports what is none is not read at all.
        let usage = r#""usage":{"cpuNanoseconds":2500000000,"workingSetBytes":4096}"#;
        assert!(json.contains(usage), "{json}");
        let without = json.replace(&format!(",{usage}"), "");
        assert_eq!(serde_json::from_str::<PodStatus>(&without).unwrap().containers[0].usage, None);
        for wrong in ["-1", "1.5", "1e3", "\"7\"", "18446744073709551616", "null"] {
            let hostile = json.replace("2500000000", wrong);
            assert!(serde_json::from_str::<PodStatus>(&hostile).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tag_is_of_what_decides_and_not_of_what_is_used() {
        let container = ContainerStatus {
            name: "web".into(),
            ready: true,
            restarts: 0,
            state: "Running".into(),
            last: None,
            probe: None,
            usage: None,
        };
        let before = PodStatus {
            version: VERSION,
            boot_id: "b".into(),
            phase: PodPhase::Ready,
            containers: vec![container],
            usage: None,
            replica: None,
        };
        let tag = before.tag();
        assert!(wait::is_tag(&tag), "{tag}");
        let change = |change: &dyn Fn(&mut PodStatus)| {
            let mut after = before.clone();
            change(&mut after);
            after.tag()
        };
        let usage = Some(Usage { cpu_nanoseconds: 7, working_set_bytes: 8 });
        assert_eq!(change(&|after| (after.usage, after.containers[0].usage) = (usage, usage)), tag);
        assert_ne!(change(&|after| after.phase = PodPhase::NotReady { reasons: vec![] }), tag);
        assert_ne!(change(&|after| after.boot_id.push('c')), tag);
        assert_ne!(change(&|after| after.containers[0].restarts = 1), tag);
        assert_ne!(change(&|after| after.containers[0].probe = Some("refused".into())), tag);
        let report = |role, applied| ReplicaReport {
            role,
            term: 3,
            leader: Some(0),
            has_quorum: true,
            recoveries: 0,
            diverged_at: None,
            waits_for: None,
            progress: Some(Progress { committed: applied, applied }),
        };
        let of = |role, applied| change(&|after| after.replica = Some(report(role, applied)));
        assert_eq!(of(Role::Follower, 1), of(Role::Follower, 9));
        assert!(of(Role::Follower, 1) != tag && of(Role::Leader, 1) != of(Role::Follower, 1));
    }

    #[test]
    fn a_report_of_a_replica_that_cannot_be_read_costs_no_status() {
        let json = |replica: &str| {
            format!(r#"{{"version":1,"bootId":"b","phase":{{"name":"ready"}},"containers":[]{replica}}}"#)
        };
        let read = |replica: &str| serde_json::from_str::<PodStatus>(&json(replica)).unwrap().replica;
        let whole =
            r#","replica":{"role":"leader","term":3,"leader":0,"hasQuorum":true,"recoveries":0,"more":1}"#;
        assert_eq!(read(whole).map(|report| (report.role, report.term)), Some((Role::Leader, 3)));
        for none in ["", r#","replica":null"#, r#","replica":7"#, r#","replica":{"role":"king","term":3}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut text = "é".repeat(TEXT_BYTES);
        cut(&mut text);
        assert!(text.len() <= TEXT_BYTES && text.ends_with("é…"), "{}", text.len());
        let mut short = "x".repeat(TEXT_BYTES);
        cut(&mut short);
        assert_eq!(short.len(), TEXT_BYTES);
        let json = r#"{"role":"leader","term":3,"leader":0,"hasQuorum":true,"recoveries":0}"#;
        let mut report: ReplicaReport = serde_json::from_str(json).unwrap();
        report.waits_for = Some("x".repeat(100_000));
        cut_report(&mut report);
        assert!(report.waits_for.unwrap().len() <= TEXT_BYTES);
    }
}
