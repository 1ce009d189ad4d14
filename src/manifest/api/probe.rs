//! Probes and hooks. Ports are numbers here: names were looked up in the container.

/// How the health of a container is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub action: Action,
    /// Seconds to wait after the start; 0 by default.
    pub initial_delay_seconds: u32,
    /// Seconds between two questions; 10 by default.
    pub period_seconds: u32,
    /// Seconds that an answer may take; 1 by default.
    pub timeout_seconds: u32,
    /// Answers in a row that make it healthy; 1 by default.
    pub success_threshold: u32,
    /// Failures in a row that make it unhealthy; 3 by default.
    pub failure_threshold: u32,
    /// Replaces the pod's grace period when this probe fails.
    pub termination_grace_period_seconds: Option<u64>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An HTTP request; 200 to 399 is success.
    HttpGet(HttpGet),
    /// A connection.
    Tcp {
        /// Host name; by default the pod itself.
        host: Option<String>,
        /// Port number.
        port: u16,
    },
    /// A command in the container; exit code 0 is success.
    Exec(Vec<String>),
    /// The gRPC health protocol.
    Grpc {
        /// Port number.
        port: u16,
        /// The service to ask for; empty for the server as a whole.
        service: String,
    },
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// Host name; by default the pod itself.
    pub host: Option<String>,
    /// Port number.
    pub port: u16,
    /// Path; `/` by default.
    pub path: String,
    /// Whether TLS is spoken; the certificate is not verified.
    pub tls: bool,
    /// Headers in the order written.
    pub headers: Vec<(String, String)>,
}

/// What runs at the start or before the end of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A request.
    HttpGet(HttpGet),
    /// A pause of this many seconds.
    Sleep(u64),
}
