//! What the proxy is given and what it reports, as values. They cross its control socket as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use crate::cloud::local::wire::Hello;
use crate::manifest::api::Name;
use crate::plan::fleet::{HttpRule, HttpTraffic, Traffic};

/// Everything that the proxy is to serve: a front for each Ingress, by [`Front::id`], and for each port of a Service that
/// ends TLS, by [`Front::port_id`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Wanted(pub(crate) BTreeMap<String, Front>);

/// An Ingress: an address, rules, and where they lead; or a port of a Service that ends TLS, with one pool and no rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Front {
    /// The environment, for warnings.
    pub(crate) environment: String,
    /// The address on this host. Requests come on port 80, and on 443 with TLS; connections of a port of a Service on that.
    pub(crate) host: Ipv4Addr,
    /// Ranges of clients; everybody when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) source_ranges: Vec<String>,
    /// Certificates, the first one for clients that name no host.
    pub(crate) certificates: Vec<Certificate>,
    /// Hosts that have TLS, whether or not there is a certificate now; `None` is every host. Without any, and without
    /// certificates, there is no port for TLS.
    #[serde(default)]
    pub(crate) tls: Vec<Option<String>>,
    /// Whether requests without TLS for hosts that have it are sent to the port with TLS, and never answered.
    pub(crate) redirect: bool,
    /// Hosts and paths; [`HttpRule::backend`] counts in [`Self::pools`].
    pub(crate) rules: Vec<HttpRule>,
    /// The pool of what no rule matches.
    pub(crate) default: Option<usize>,
    /// Where requests go.
    pub(crate) pools: Vec<Pool>,
    /// What proves to a CA that hosts lead here, whichever of its connections arrives at which front.
    #[serde(default)]
    pub(crate) challenges: Vec<Challenge>,
    /// Of a port of a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_port: Option<TlsPort>,
}

/// A port of a Service that ends TLS: bytes pass between clients and machines as they come, whatever they speak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TlsPort {
    /// The port that is wanted.
    pub(crate) port: u16,
    /// Whether machines are spoken TLS to as well.
    pub(crate) to_pods: bool,
    /// How long a client that does not come again stays with its machine; `None`: clients do not stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) affinity_seconds: Option<Seconds>,
}

/// The answer to a CA that wants to see that a host leads here (RFC 8555, 8.3; RFC 8737).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Challenge {
    /// The host.
    pub(crate) host: String,
    /// The CA's name for it.
    pub(crate) token: String,
    /// The answer.
    pub(crate) proof: Proof,
}

/// How a challenge is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Proof {
    /// `http-01`: the key authorization, at a path of requests without TLS.
    Http(String),
    /// `tls-alpn-01`: a certificate, to clients that speak the protocol `acme-tls/1`.
    Tls(Certificate),
}

impl Front {
    /// The name of an Ingress' front in [`Wanted`].
    pub(crate) fn id(environment: &str, ingress: &Name) -> String {
        format!("{environment}/{}/{}", ingress.namespace, ingress.name)
    }

    /// The name of the front of a port of a Service in [`Wanted`].
    pub(crate) fn port_id(environment: &str, service: &Name, port: u16) -> String {
        format!("{environment}/{}/{}:{port}", service.namespace, service.name)
    }

    /// The ports that it is to have, each with whether there is TLS.
    pub(super) fn ports(&self) -> Vec<(bool, u16)> {
        match &self.tls_port {
            Some(wanted) => vec![(true, wanted.port)],
            None if self.has_tls() => vec![(false, 80), (true, 443)],
            None => vec![(false, 80)],
        }
    }

    /// Whether it has a port for TLS.
    pub(crate) fn has_tls(&self) -> bool {
        !self.certificates.is_empty() || !self.tls.is_empty()
    }
}

impl Wanted {
    /// The machines that requests may go to.
    pub(crate) fn machines(&self) -> BTreeSet<String> {
        let pools = self.0.values().flat_map(|front| &front.pools);
        pools.flat_map(|pool| &pool.servers).map(|server| server.machine.clone()).collect()
    }

    /// Takes certificates over from what was served `before`, for hosts with TLS that none is given for now: where no new
    /// one can be read or signed, the one of before is still good.
    pub(crate) fn keep_certificates(&mut self, before: &Self) {
        for (id, Front { certificates, tls, host: address, .. }) in &mut self.0 {
            let Some(before) = before.0.get(id) else { continue };
            for host in tls.iter() {
                let is_for = |certificate: &&Certificate| match host {
                    Some(host) => certificate.hosts.contains(host),
                    None => certificate.hosts.is_empty() || certificate.hosts == [address.to_string()],
                };
                if !certificates.iter().any(|certificate| is_for(&certificate)) {
                    certificates.extend(before.certificates.iter().find(is_for).cloned());
                }
            }
        }
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
    /// The tokens of challenges that are answered: by every front that has a port for them, and by one at least.
    #[serde(default)]
    pub(crate) challenges: BTreeSet<String>,
    /// What was counted, by front; only in the answer to [`Call::Count`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) counted: BTreeMap<String, Vec<HttpTraffic>>,
    /// The same of ports of Services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) carried: BTreeMap<String, Traffic>,
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
    /// Report, with what was counted.
    Count,
    /// Go on as this program: sockets are kept, requests under way are answered by the old process. Where the program
    /// does not take over, the old one goes on.
    Replace(std::path::PathBuf),
    /// From a process that another one has taken over from: the requests that are under way in it, by machine. They
    /// count until its connection ends.
    Leaving(BTreeMap<String, u32>),
    /// Close everything and end.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_new_certificate_keeps_that_of_before() {
        let certificate = |host: &str, chain: &str| Certificate {
            hosts: vec![host.to_owned(), "127.77.1.2".into()],
            chain: chain.into(),
            key: PrivateKey(String::new()),
        };
        let front = |hosts: &[&str], certificates: Vec<Certificate>| {
            let front = Front {
                environment: "e".into(),
                host: Ipv4Addr::LOCALHOST,
                source_ranges: vec![],
                certificates,
                tls: hosts.iter().map(|host| Some((*host).to_owned())).collect(),
                redirect: true,
                rules: vec![],
                default: None,
                pools: vec![],
                challenges: vec![],
                tls_port: None,
            };
            Wanted(BTreeMap::from([("e/d/n".to_owned(), front)]))
        };
        let before = front(
            &["a", "b", "c"],
            vec![certificate("a", "old"), certificate("b", "old"), certificate("c", "old")],
        );
        let mut next = front(&["a", "b"], vec![certificate("b", "new")]);
        next.keep_certificates(&before);
        let served = |wanted: &Wanted| -> Vec<(String, String)> {
            let all = wanted.0["e/d/n"].certificates.iter();
            all.map(|certificate| (certificate.hosts[0].clone(), certificate.chain.clone())).collect()
        };
        assert_eq!(served(&next), [("b".into(), "new".into()), ("a".into(), "old".into())]);
        next.keep_certificates(&Wanted::default());
        assert_eq!(served(&next).len(), 2);
    }

    #[test]
    fn no_message_shows_a_key() {
        let key = PrivateKey("-----BEGIN".into());
        let certificate = Certificate { hosts: vec!["a".into()], chain: String::new(), key };
        assert!(!format!("{certificate:?}").contains("BEGIN"));
        let text = serde_json::to_string(&Call::Apply(Wanted::default())).unwrap();
        assert_eq!(serde_json::from_str::<Call>(&text).unwrap(), Call::Apply(Wanted::default()));
    }
}
