//! Services: stable names and balancers in front of pods.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use i2kit_spec::{Protocol, Seconds};
use serde::{Deserialize, Serialize};

use super::meta::ObjectMeta;

/// `v1` Service with a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// How far the Service is seen.
    pub kind: ServiceType,
    /// Labels that a pod template must have to be a target; not empty.
    pub selector: BTreeMap<String, String>,
    /// Ports; at least one, unless headless.
    pub ports: Vec<ServicePort>,
    /// Whether the name gives the addresses of the machines instead of a balancer's.
    pub headless: bool,
    /// The DNS name that this one is an alias for; only with [`ServiceType::ExternalName`].
    pub external_name: Option<String>,
    /// Time for which a client stays with one machine; `None` for any machine at any time.
    pub session_affinity_seconds: Option<Seconds>,
    /// Addresses that may connect; everybody when empty.
    pub source_ranges: Vec<String>,
    /// Whether a headless name gives unhealthy machines too.
    pub publish_not_ready: bool,
    /// Whether pods see the client's address.
    pub keep_client_address: bool,
    /// The families of its addresses.
    pub families: IpFamilies,
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// In Kubernetes' words.
impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The families of a Service's addresses: `spec.ipFamilies` and `spec.ipFamilyPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpFamilies {
    /// The families, the first one first.
    pub list: Vec<IpFamily>,
    /// Whether it must have all of them, and not only those that there are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// IPv4 alone.
impl Default for IpFamilies {
    fn default() -> Self {
        Self { list: vec![IpFamily::V4], required: false }
    }
}

impl IpFamilies {
    /// Whether it is IPv4 alone, which every machine has.
    pub fn is_default(&self) -> bool {
        self.list == [IpFamily::V4]
    }

    /// Whether it cannot be where machines have no IPv6.
    pub fn requires_ipv6(&self) -> bool {
        self.required && self.list.contains(&IpFamily::V6)
    }

    /// Those that there are where machines have IPv6 or not. IPv4 alone where none of them is there.
    pub fn there(&self, has_ipv6: bool) -> Vec<IpFamily> {
        let there: Vec<IpFamily> =
            self.list.iter().copied().filter(|family| has_ipv6 || *family == IpFamily::V4).collect();
        if there.is_empty() { vec![IpFamily::V4] } else { there }
    }
}

/// `spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the environment only.
    ClusterIP,
    /// As `ClusterIP`; the node port itself has no meaning without nodes.
    NodePort,
    /// Public.
    LoadBalancer,
    /// An alias for another DNS name.
    ExternalName,
}

/// In Kubernetes' words, as they are written here.
impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// `spec.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; required when there are several.
    pub name: Option<String>,
    /// The port that clients connect to.
    pub port: u16,
    /// The port that pods listen on.
    pub target_port: TargetPort,
    /// Transport.
    pub protocol: Protocol,
    /// Where the balancer ends TLS, how.
    pub tls: Option<Tls>,
    /// Whether pods speak HTTP/2 without TLS there, to the balancer of an Ingress.
    pub http2: bool,
}

/// TLS that ends at the balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificates in the cloud's store, of which the first is for clients that name no host.
    pub certificates: Vec<String>,
    /// Which versions and ciphers, by the cloud's name for them; its default otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Whether the balancer speaks TLS to the pods as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_pods: bool,
}

/// A container port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container port, which may have another number in each pod template.
    Name(String),
}

/// `networking.k8s.io/v1` Ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the manifest")]
pub struct Ingress {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// Rules in the order written.
    pub routes: Vec<IngressPath>,
    /// Where everything else leads.
    pub default_backend: Option<IngressBackend>,
    /// Hosts that are served over TLS.
    pub tls_hosts: Vec<String>,
    /// Whether hosts that nothing names are served over TLS: an entry of `tls` has no hosts, and no rule has one.
    pub tls_for_all: bool,
    /// Secrets that have certificates.
    pub tls_secrets: Vec<TlsSecret>,
    /// Whether requests without TLS are answered although there is TLS; otherwise they are sent to it.
    pub plain: bool,
    /// Whether all pods speak HTTP/2 without TLS.
    pub http2: bool,
    /// Certificates that an annotation or the environment names.
    pub certificates: Vec<String>,
    /// The CA that gives certificates to hosts that no Secret has one for.
    pub acme: Option<AcmeIssuer>,
    /// Whether it is reachable inside the environment only.
    pub internal: bool,
    /// Ranges of addresses that may connect; all when empty.
    pub source_ranges: Vec<String>,
}

/// A certificate authority that is asked by ACME (RFC 8555), as an environment file names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcmeIssuer {
    /// The URL of its directory.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// Where it may write to about the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Certificates, as PEM, that its server is trusted by beside those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

/// The directory of Let's Encrypt.
fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".into()
}

/// A Secret that has a certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSecret {
    /// Its name, in the namespace of the Ingress.
    pub secret: String,
    /// The hosts that it is for; all of the Ingress when empty.
    pub hosts: Vec<String>,
}

/// A host and path, and where they lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressPath {
    /// The host; all hosts when `None`.
    pub host: Option<String>,
    /// The path.
    pub path: String,
    /// Whether only this very path is meant, and not what lies below it.
    pub exact: bool,
    /// Where it leads.
    pub backend: IngressBackend,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressBackend {
    /// Name of the Service, in the namespace of the Ingress.
    pub service: String,
    /// Its port.
    pub port: BackendPort,
}

/// A port of a Service by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}
