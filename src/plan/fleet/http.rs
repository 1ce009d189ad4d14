//! What an Ingress asks of its balancer: rules that choose a backend by host and path.

use serde::{Deserialize, Serialize};

use super::target::TargetGroup;
use crate::manifest::api::AcmeIssuer;

/// Routing by host and path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpSpec {
    /// Certificates that the manifest or the environment names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    /// Hosts that are served over TLS; without certificates that are named, the cloud's store has them by these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Whether every host is served over TLS: there is an entry for TLS, and nothing names a host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_hosts: bool,
    /// Certificates from Secrets. Hosts that none of them is for have one of the cloud's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<HttpSecret>,
    /// Certificates that a CA gives by ACME, to public hosts among [`Self::hosts`] that no Secret has one for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<HttpAcme>,
    /// Whether requests without TLS are answered although there is TLS; otherwise they are sent to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Where requests may go, each once.
    pub backends: Vec<HttpBackend>,
    /// Rules as written; the most exact one that matches is taken.
    pub rules: Vec<HttpRule>,
    /// The backend of what no rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<usize>,
}

impl HttpSpec {
    /// Whether it ends TLS.
    pub fn has_tls(&self) -> bool {
        let is_named = !self.certificates.is_empty() || !self.secrets.is_empty();
        is_named || self.all_hosts || !self.hosts.is_empty()
    }
}

/// A certificate with its key, in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpSecret {
    /// The Secret, in the namespace of the Ingress.
    pub secret: String,
    /// The version of its values.
    pub version: String,
    /// The hosts that it is for; those that no other one is for when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// Hosts that a CA gives a certificate each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpAcme {
    /// The CA.
    pub issuer: AcmeIssuer,
    /// The hosts, in small letters, in alphabetical order.
    pub hosts: Vec<String>,
}

/// A port of a Service, as the target of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpBackend {
    /// The Service, in the namespace of the Ingress.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Whether pods speak HTTP/2 without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub http2: bool,
    /// The groups that it selects.
    pub targets: Vec<TargetGroup>,
}

/// A host, a path, and where they lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// The host, `*.` at most in front; all hosts when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The path.
    pub path: String,
    /// Whether only this very path is meant, and not what lies below it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// Number of the backend.
    pub backend: usize,
}
