//! How the guest asks containers for their health, and what it does at their start and before their end: Kubernetes'
//! three probes and two hooks.

use serde::{Deserialize, Serialize};

/// The probes of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// Until it succeeds the others wait; when it fails the container is restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// When it fails the container is restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// `/readyz` answers 200 only while it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
}

impl Probes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One probe, with Kubernetes' defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// What is asked.
    pub action: ProbeAction,
    /// Seconds to wait after the container's start.
    pub initial_delay_seconds: u32,
    /// Seconds between two questions.
    pub period_seconds: u32,
    /// Seconds that an answer may take.
    pub timeout_seconds: u32,
    /// Answers in a row that make it healthy.
    pub success_threshold: u32,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: u32,
    /// Replaces the pod's grace period when this probe fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u64>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum ProbeAction {
    /// An HTTP request; a status of 200 to 399 is success.
    HttpGet {
        /// Host name or address; without one, the VM's own address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port.
        port: u16,
        /// Whether it is asked over TLS, without a look at whom the certificate is for or who signed it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tls: bool,
        /// Path with its query.
        path: String,
        /// Headers in their order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// The gRPC health protocol, without TLS.
    Grpc {
        /// Port.
        port: u16,
        /// The service to ask for; empty for the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
    /// A connection.
    Tcp {
        /// Host name or address; without one, the VM's own address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// A command in the container; exit code 0 is success.
    Exec {
        /// Program and arguments; no shell.
        command: Vec<String>,
    },
}

/// What is done at the start or before the end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Hook {
    /// A question is asked; its answer says whether the hook succeeded.
    Ask(ProbeAction),
    /// Nothing, for this time.
    Sleep {
        /// Its length.
        seconds: u64,
    },
}
