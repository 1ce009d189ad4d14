//! Balancers: what they should be, and as they were found.

use i2kit_spec::{DEFAULT_GRACE_PERIOD, Seconds};
use serde::{Deserialize, Serialize};

use super::http::HttpSpec;
use super::instance::InstanceId;
use super::target::TargetGroup;
use super::traffic::{HttpTraffic, Traffic};
use crate::manifest::api::{IpFamilies, Name, Protocol, ServiceType, Tls};

/// A balancer in front of groups: what a Service becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerSpec {
    /// The Service's name.
    pub name: Name,
    /// How far it is seen.
    pub kind: ServiceType,
    /// Its ports.
    pub listeners: Vec<Listener>,
    /// Addresses that may connect; everybody who reaches it when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// Whether pods see the client's address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_client_address: bool,
    /// Whether a client stays with one VM for as long as that is healthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky_clients: bool,
    /// How long a client that does not come again is remembered for that.
    #[serde(default = "default_sticky", skip_serializing_if = "is_default_sticky")]
    pub sticky_seconds: Seconds,
    /// The families of its addresses.
    #[serde(default, skip_serializing_if = "IpFamilies::is_default")]
    pub families: IpFamilies,
    /// Time that open connections get when a VM leaves: the longest grace period of the groups behind it.
    #[serde(default = "default_drain", skip_serializing_if = "is_default_drain")]
    pub drain_seconds: Seconds,
    /// Of an alias: the DNS name that it stands for. It has no listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Of a headless Service: whose addresses its name gives. Its ports have no balancer; clients connect to machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headless: Option<Headless>,
    /// Of an Ingress: it routes requests, and has no listeners of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSpec>,
}

/// `timeoutSeconds` where a manifest does not say: three hours, as in Kubernetes.
pub const STICKY: Seconds = Seconds(10_800);

fn default_sticky() -> Seconds {
    STICKY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_default_sticky(sticky: &Seconds) -> bool {
    *sticky == STICKY
}

fn default_drain() -> Seconds {
    DEFAULT_GRACE_PERIOD
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_default_drain(drain: &Seconds) -> bool {
    *drain == DEFAULT_GRACE_PERIOD
}

impl BalancerSpec {
    /// Every group that it leads to, as often as it does.
    pub fn targets(&self) -> impl Iterator<Item = &TargetGroup> {
        self.ports().map(|(target, _)| target)
    }

    /// Every port of a group that it leads to, with its transport.
    pub fn ports(&self) -> impl Iterator<Item = (&TargetGroup, Protocol)> {
        let backends = self.http.iter().flat_map(|http| &http.backends).flat_map(|backend| &backend.targets);
        let listeners = self
            .listeners
            .iter()
            .flat_map(|listener| listener.targets.iter().map(|target| (target, listener.protocol)));
        listeners.chain(backends.map(|target| (target, Protocol::Tcp)))
    }

    /// A balancer that everybody who reaches it may use.
    pub fn new(name: Name, kind: ServiceType, listeners: Vec<Listener>) -> Self {
        Self {
            name,
            kind,
            listeners,
            source_ranges: vec![],
            keep_client_address: false,
            sticky_clients: false,
            sticky_seconds: STICKY,
            families: IpFamilies::default(),
            drain_seconds: DEFAULT_GRACE_PERIOD,
            external_name: None,
            headless: None,
            http: None,
        }
    }
}

/// Who has an address below the name of a headless Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Headless {
    /// The groups that it selects.
    pub groups: Vec<HeadlessGroup>,
    /// Whether machines that are not ready have one too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_ready: bool,
}

/// A group behind a headless Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadlessGroup {
    /// The group.
    pub group: Name,
    /// The name of its machines below that of the Service: `hostname` of pods whose `subdomain` is the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// One port of a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The port that clients connect to.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Its name in the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where connections go: a Service may select several groups, each with a port number of its own.
    pub targets: Vec<TargetGroup>,
    /// TLS that ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Listener {
    /// A port that passes connections on as they come.
    pub fn new(port: u16, protocol: Protocol, targets: Vec<TargetGroup>) -> Self {
        Self { port, protocol, name: None, targets, tls: None }
    }
}

/// A balancer as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// What it was asked to be.
    pub spec: BalancerSpec,
    /// The host that clients connect to: an address or a DNS name.
    pub host: String,
    /// The port that is really listened on for each listener, in the order of the spec: another one than asked for
    /// when this user may not bind that one, `None` when it could not be bound at all.
    pub bound: Vec<Option<u16>>,
    /// VMs behind it.
    pub targets: Vec<BalancerTarget>,
    /// The certificates that it serves, where the cloud tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<ServedCertificate>,
    /// What was counted at each listener, in the order of the spec, where the cloud counts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Option<Traffic>>,
    /// Of an Ingress: what was counted of its requests, by Service, where the cloud counts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<HttpTraffic>,
}

impl LoadBalancer {
    /// `HOST:PORT` of each listener that is bound.
    pub fn addresses(&self) -> Vec<String> {
        self.bound.iter().flatten().map(|port| format!("{}:{port}", self.host)).collect()
    }

    /// How many of the VMs behind it get new connections.
    pub fn healthy(&self) -> usize {
        self.targets.iter().filter(|target| target.healthy).count()
    }

    /// The ports that are served on another port than the Service asks for, each with that other one.
    pub fn moved_ports(&self) -> impl Iterator<Item = (u16, u16)> {
        let wanted = self.spec.listeners.iter().map(|listener| listener.port);
        wanted
            .zip(&self.bound)
            .filter_map(|(wanted, bound)| Some((wanted, (*bound)?)))
            .filter(|(a, b)| a != b)
    }
}

/// [`ServedCertificate::source`] of those that the local authority signed.
pub const LOCAL_AUTHORITY: &str = "local authority";

/// A certificate that a balancer serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedCertificate {
    /// The hosts that it is for.
    pub hosts: Vec<String>,
    /// Where it is from, such as `Secret shop-tls`, [`LOCAL_AUTHORITY`] or the host of a CA's directory.
    pub source: String,
    /// Its last second, since the Unix epoch.
    pub expires: u64,
    /// What becomes of it, and what another one is waited for for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A VM behind a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerTarget {
    /// The VM.
    pub instance: InstanceId,
    /// The port of the VM.
    pub port: u16,
    /// Whether new connections go to it.
    pub healthy: bool,
}
