//! Probes and hooks of a container: how the guest checks its health, and what runs after its start and before its end.

use serde::{Deserialize, Serialize};

use crate::units::Seconds;

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
    /// The check.
    pub action: ProbeAction,
    /// Time from the container's start to the first check.
    pub initial_delay_seconds: Seconds,
    /// Time between two checks.
    pub period_seconds: Seconds,
    /// Time after which a check without an answer has failed.
    pub timeout_seconds: Seconds,
    /// Successes in a row that make it healthy.
    pub success_threshold: u32,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: u32,
    /// Replaces the pod's grace period when this probe fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<Seconds>,
}

/// A check of a container, which succeeds or fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum ProbeAction {
    /// An HTTP request; a status of 200 to 399 is success.
    HttpGet {
        /// Host name or address; without one, the VM's own address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port; a name in the manifest is looked up among the container's ports.
        port: u16,
        /// Whether the request goes over TLS. The certificate is not verified, as in Kubernetes.
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
        /// Port; a name in the manifest is looked up among the container's ports.
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
        /// Port; a name in the manifest is looked up among the container's ports.
        port: u16,
    },
    /// A command in the container; exit code 0 is success.
    Exec {
        /// Program and arguments; no shell.
        command: Vec<String>,
    },
}

/// An act after the start or before the end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Hook {
    /// A command or a request; the hook fails with it.
    #[serde(rename = "ask")]
    Handler(ProbeAction),
    /// A pause.
    Sleep {
        /// Its length.
        seconds: Seconds,
    },
}
