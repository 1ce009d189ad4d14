//! What the proxy is given and what it reports, as values. They cross its control socket as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::cloud::local::wire::Hello;
use crate::plan::fleet::HttpRule;

/// Everything that the proxy is to serve: a front for each Ingress, by [`Front::id`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Wanted(pub(crate) BTreeMap<String, Front>);

/// An Ingress: an address, rules, and where they lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Front {
    /// The environment, for warnings.
    pub(crate) environment: String,
    /// The address on this host. Requests come on port 80, and on 443 with TLS.
    pub(crate) host: Ipv4Addr,
    /// Certificates, the first one for clients that name no host; without any there is no port for TLS.
    pub(crate) certificates: Vec<Certificate>,
    /// Whether requests without TLS for hosts that have a certificate are sent to the port with TLS.
    pub(crate) redirect: bool,
    /// Hosts and paths; [`HttpRule::backend`] counts in [`Self::pools`].
    pub(crate) rules: Vec<HttpRule>,
    /// The pool of what no rule matches.
    pub(crate) default: Option<usize>,
    /// Where requests go.
    pub(crate) pools: Vec<Pool>,
}

impl Front {
    /// The name of a front in [`Wanted`].
    pub(crate) fn id(environment: &str, ingress: &crate::manifest::api::Name) -> String {
        format!("{environment}/{}/{}", ingress.namespace, ingress.name)
    }
}

/// The healthy machines behind a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pool {
    /// The Service, for answers.
    pub(crate) service: String,
    /// Whether the pods speak HTTP/2 without TLS, as gRPC servers do; HTTP/1.1 otherwise.
    pub(crate) http2: bool,
    /// The machines.
    pub(crate) servers: Vec<ServerAddress>,
}

/// A port of a healthy machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ServerAddress {
    /// The machine that requests are counted for.
    pub(crate) machine: String,
    /// Where its port is reached.
    pub(crate) address: SocketAddr,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    /// The hosts that it is for, `*.` at most in front.
    pub(crate) hosts: Vec<String>,
    /// The certificate and those between it and its authority, as PEM.
    pub(crate) chain: String,
    /// The private key, as PEM.
    pub(crate) key: PrivateKey,
}

/// A private key as PEM, which no message shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PrivateKey(pub(crate) String);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// What the proxy serves now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Ports that fronts are bound to.
    pub(crate) bound: BTreeMap<String, Bound>,
    /// Requests under way, by machine; machines without any may be missing.
    pub(crate) active: BTreeMap<String, u32>,
    /// What `status` warns of, by environment.
    pub(crate) warnings: BTreeMap<String, Vec<String>>,
    /// Requests that were answered since the process started.
    pub(crate) requests: u64,
    /// The process.
    pub(crate) pid: u32,
    /// The program that it runs.
    pub(crate) hello: Option<Hello>,
}

/// Ports of one front; one that could not be bound is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    /// Without TLS.
    pub(crate) http: Option<u16>,
    /// With TLS.
    pub(crate) https: Option<u16>,
}

/// What the local cloud asks of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "call", content = "value")]
pub(crate) enum Call {
    /// Serve this from now on, and nothing else. Answered by a [`Report`], as all of them.
    Apply(Wanted),
    /// Report.
    Report,
    /// Go on as this program: sockets are kept, requests under way are answered by the old process.
    Replace(std::path::PathBuf),
    /// Close everything and end.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_a_key() {
        let key = PrivateKey("-----BEGIN".into());
        let certificate = Certificate { hosts: vec!["a".into()], chain: String::new(), key };
        assert!(!format!("{certificate:?}").contains("BEGIN"));
        let text = serde_json::to_string(&Call::Apply(Wanted::default())).unwrap();
        assert_eq!(serde_json::from_str::<Call>(&text).unwrap(), Call::Apply(Wanted::default()));
    }
}
