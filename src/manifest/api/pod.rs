//! Pod templates.

use std::collections::BTreeMap;

use i2kit_spec::{DEFAULT_GRACE_PERIOD, HostAlias, RestartPolicy, Seconds};

use super::container::Container;
use super::volume::Volume;

/// `spec.template` of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodTemplate {
    /// Labels that Services and the workload select.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The pod itself.
    pub spec: PodSpec,
}

/// `spec.template.spec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Run one by one before the containers; sidecars among them keep running.
    pub init_containers: Vec<Container>,
    /// Run side by side; at least one.
    pub containers: Vec<Container>,
    /// What containers can mount; each name once.
    pub volumes: Vec<Volume>,
    /// When a container that ended is started again.
    pub restart_policy: RestartPolicy,
    /// Time between SIGTERM and SIGKILL.
    pub termination_grace_period_seconds: Seconds,
    /// The machine's role; `None` is `default`.
    pub service_account: Option<String>,
    /// Secrets with registry credentials for the build.
    pub image_pull_secrets: Vec<String>,
    /// Group that volumes belong to.
    pub fs_group: Option<u32>,
    /// Whether disks whose top folder is the group's already are left as they are.
    pub fs_group_on_mismatch: bool,
    /// More groups of all processes.
    pub supplemental_groups: Vec<u32>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Lines of `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// Host name; by default the instance's name.
    pub hostname: Option<String>,
    /// Name of the headless Service below which the pod has a DNS name.
    pub subdomain: Option<String>,
    /// Who answers DNS questions.
    pub dns: Dns,
    /// Whether the users of containers are those of the machine; by default they are.
    pub host_users: bool,
    /// Whether containers see each other's processes.
    pub share_process_namespace: bool,
    /// Time after which a pod that should end is stopped.
    pub active_deadline_seconds: Option<Seconds>,
    /// Where its machines run, and on what.
    pub placement: Placement,
}

impl PodSpec {
    /// All that runs for as long as the pod: sidecars in their order, then the containers.
    pub fn long_running(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().filter(|container| container.sidecar).chain(&self.containers)
    }
}

/// Where machines run, and on what, as far as a manifest decides it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Zones; all when empty.
    pub zones: Vec<String>,
    /// Whether no zone may have two machines more than another.
    pub balanced: bool,
    /// Types of machines in the order of preference; by size when empty.
    pub machine_types: Vec<String>,
    /// Share of Spot machines among those above the base, in percent.
    pub spot_percent: u8,
    /// Number of machines that are on-demand in any case.
    pub on_demand_base: u32,
    /// Whether each machine boots, where others of its kind could start from a snapshot.
    pub no_snapshot: bool,
}

impl Default for PodSpec {
    /// A pod without containers and with Kubernetes' defaults.
    fn default() -> Self {
        Self {
            init_containers: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
            restart_policy: RestartPolicy::Always,
            termination_grace_period_seconds: DEFAULT_GRACE_PERIOD,
            service_account: None,
            image_pull_secrets: Vec::new(),
            fs_group: None,
            fs_group_on_mismatch: false,
            supplemental_groups: Vec::new(),
            sysctls: BTreeMap::new(),
            host_aliases: Vec::new(),
            hostname: None,
            subdomain: None,
            dns: Dns::default(),
            host_users: true,
            share_process_namespace: false,
            active_deadline_seconds: None,
            placement: Placement::default(),
        }
    }
}

/// `dnsPolicy` and `dnsConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Where the answers come from.
    pub policy: DnsPolicy,
    /// Servers to ask, beside those of the policy.
    pub nameservers: Vec<String>,
    /// Domains to search, beside those of the policy.
    pub searches: Vec<String>,
    /// Options of the resolver, such as `ndots:2`.
    pub options: Vec<String>,
}

/// `dnsPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsPolicy {
    /// The environment's private zone first.
    #[default]
    ClusterFirst,
    /// What the cloud's network offers.
    Default,
    /// `dnsConfig` alone.
    None,
}
