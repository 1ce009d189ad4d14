//! Replicated pods: a coordinator joins each machine of the group, the log of requests has a disk, and what led to the
//! application leads to the coordinator. Pure, and carried out once, before images are planned.

use std::collections::BTreeMap;

use i2kit_spec::replica::{
    ADMIN_PORT, CONFIG_VARIABLE, CONTROL_PORT, COORDINATOR, FRONT_PORT, IDENTITY_CERTIFICATE,
    IDENTITY_FOUNDED, IDENTITY_KEY, IDENTITY_MOUNT, IDENTITY_VOLUME, INSTANCE_VARIABLE, LOG_MOUNT,
    LOG_VOLUME, PEER_PORT, POD_SOCKET, ReplicaConfig, SOCKET_VOLUME, STATE_MOUNT, State,
};
use i2kit_spec::{
    Bytes, EnvValue, EnvVar, InstanceField, LateContent, Probe, ProbeAction, Probes, Protocol, Seconds,
    SecretKey,
};

use super::fleet::{GroupPolicy, Peer, PolicyPorts, Reachable};
use super::image::ImageId;
use super::service::{number, selects};
use crate::manifest::api::{
    ClaimSpec, ClaimTemplate, Container, ContainerPort, FileContent, Name, ObjectSet, PodTemplate,
    Replicated, ReplicatedState, ResourceRequirements, Security, Service, ServiceType, StatefulSet,
    TargetPort, Volume, VolumeFile, VolumeMount, VolumeSource,
};
use crate::oci::{
    ContainerConfig, Descriptor, DiffId, Digest, ImageConfig, Layer, Reference, ResolvedImage, RootFs,
};

/// The domain of Services.
const DOMAIN: &str = "svc.cluster.local";

/// Memory that the coordinator asks for, and what it may use at most.
const MEMORY: (Bytes, Bytes) = (Bytes::mib(32), Bytes::mib(64));

/// The file of the bundle with the coordinator, in the layer's root.
const PROGRAM: &str = "/i2kit-coordinator";

/// What the coordinator may do: read, write and give away files of the application's volumes, whoever owns them.
const CAPABILITIES: [&str; 4] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"];

/// Where a file is that only its owner reads.
const PRIVATE: u32 = 0o400;

/// Puts a coordinator into each machine of every replicated group of the set.
pub fn expand(mut set: ObjectSet) -> ObjectSet {
    for index in 0..set.stateful_sets.len() {
        let each = &mut set.stateful_sets[index];
        let Some(wish) = each.replicated.clone() else { continue };
        let ports = take_ports(each, wish.app_port);
        let config = config(each, &wish);
        add_volumes(each, &wish);
        let sidecar = coordinator(&config, ports);
        each.template.spec.init_containers.insert(0, sidecar);
        for service in set.services.iter_mut().filter(|service| leads_to(service, each)) {
            lead(service, each, wish.app_port);
        }
    }
    set
}

/// The Secrets with identities of the set's groups, each with its group's name.
pub fn identities(set: &ObjectSet) -> impl Iterator<Item = (Name, &Name)> {
    let replicated = set.stateful_sets.iter().filter(|each| each.replicated.is_some());
    replicated.map(|each| {
        let group = &each.meta.name;
        (Name { namespace: group.namespace.clone(), name: identity(&group.name) }, group)
    })
}

/// What the names of Secrets with groups' key pairs end with. None is a Secret of a manifest.
const IDENTITY_SUFFIX: &str = ".replica.i2kit.dev";

/// The name of the Secret with a group's key pair, in the group's namespace.
pub fn identity(group: &str) -> String {
    format!("{group}{IDENTITY_SUFFIX}")
}

/// Whether a Secret's name is that of a key pair which is not `group`'s own: no manifest may name it.
pub fn is_identity_of_another(secret: &str, group: &str) -> bool {
    secret.strip_suffix(IDENTITY_SUFFIX).is_some_and(|owner| owner != group)
}

/// The image that a coordinator's container names: no registry has it, it is a file of the guest bundle.
pub fn reference() -> Reference {
    Reference {
        registry: "guest.invalid".into(),
        repository: COORDINATOR.into(),
        tag: Some(i2kit_spec::guest::GUEST_VERSION.into()),
        digest: None,
    }
}

/// That image, when the bundle's file, a tar, has this digest and size.
pub fn image(layer: Digest, size: u64) -> ResolvedImage {
    let diff_id = DiffId(layer);
    let blob =
        Descriptor { media_type: "application/vnd.oci.image.layer.v1.tar".into(), digest: layer, size };
    ResolvedImage {
        reference: reference().with_digest(layer),
        manifest: layer,
        config: ImageConfig {
            architecture: String::new(),
            os: "linux".into(),
            config: ContainerConfig { entrypoint: vec![PROGRAM.into()], ..ContainerConfig::default() },
            rootfs: RootFs { diff_ids: vec![diff_id] },
        },
        layers: vec![Layer { blob, diff_id }],
    }
}

/// Whether any group of the set has coordinators.
pub fn is_needed(set: &ObjectSet) -> bool {
    set.stateful_sets.iter().any(|each| each.replicated.is_some())
}

/// What each coordinator of the group is told.
fn config(each: &StatefulSet, wish: &Replicated) -> ReplicaConfig {
    let Name { namespace, name } = &each.meta.name;
    let service = each.service_name.as_deref().unwrap_or_default();
    let last = each.first_ordinal.saturating_add(each.replicas);
    let member = |ordinal: u32| format!("{name}-{ordinal}.{service}.{namespace}.{DOMAIN}");
    let containers = &each.template.spec.containers;
    let application = containers
        .iter()
        .find(|container| container.ports.iter().any(|port| port.container_port == wish.app_port))
        .or(containers.first());
    let state = match &wish.state {
        ReplicatedState::Memory => State::Memory,
        ReplicatedState::Directory(volume) => State::Directory { volume: volume.clone() },
        ReplicatedState::Hooks { snapshot, restore } => State::Hooks {
            container: application.map(|container| container.name.clone()).unwrap_or_default(),
            snapshot: snapshot.clone(),
            restore: restore.clone(),
        },
    };
    ReplicaConfig {
        group: format!("{namespace}/{name}"),
        members: (each.first_ordinal..last).map(member).collect(),
        protocol: wish.protocol,
        app_port: wish.app_port,
        reads: wish.reads,
        depth: wish.depth,
        state,
        integrity: wish.integrity,
        volatile: wish.volatile.clone(),
        containers: containers.iter().map(|container| container.name.clone()).collect(),
        limits: wish.limits.clone(),
        // Known once the image is planned.
        revision: 0,
    }
}

/// The template with what its image is made from in its coordinator's configuration: a hash, so that replies of one revision are
/// compared with those of the same one alone. Nothing of a pod that is not replicated.
pub(super) fn with_revision(template: &PodTemplate, image: ImageId) -> Option<PodTemplate> {
    let mut template = template.clone();
    let own = reference();
    let coordinator = template.spec.init_containers.iter_mut().find(|container| container.image == own)?;
    let variable = coordinator.env.iter_mut().find(|variable| variable.name == CONFIG_VARIABLE)?;
    let EnvValue::Fixed(text) = &mut variable.value else { return None };
    let mut config: ReplicaConfig = serde_json::from_str(text).ok()?;
    config.revision = image.0.as_bytes().first_chunk().map_or(1, |bytes| u64::from_be_bytes(*bytes).max(1));
    *text = json(&config);
    Some(template)
}

fn json(config: &ReplicaConfig) -> String {
    serde_json::to_string(config).expect("a configuration has only string keys")
}

/// Takes the application's port from the containers that declare it: whoever means it by its name means the coordinator's.
fn take_ports(each: &mut StatefulSet, app_port: u16) -> Vec<ContainerPort> {
    let is_it = |port: &mut ContainerPort| port.container_port == app_port && port.protocol == Protocol::Tcp;
    let containers = &mut each.template.spec.containers;
    let taken =
        containers.iter_mut().flat_map(|container| container.ports.extract_if(.., is_it).collect::<Vec<_>>());
    let front = |port: ContainerPort| ContainerPort { container_port: FRONT_PORT, host_port: None, ..port };
    let mut ports: Vec<ContainerPort> = taken.map(front).collect();
    if ports.is_empty() {
        let protocol = Protocol::Tcp;
        ports.push(ContainerPort { name: None, container_port: FRONT_PORT, protocol, host_port: None });
    }
    ports
}

/// The disk of the log, the group's key pair, and the supervisor's socket.
fn add_volumes(each: &mut StatefulSet, wish: &Replicated) {
    each.claim_templates.push(ClaimTemplate {
        name: LOG_VOLUME.into(),
        labels: BTreeMap::new(),
        disk: ClaimSpec { size: wish.log, storage_class: None },
    });
    let secret = identity(&each.meta.name.name);
    let file = |key: &str| {
        let optional = key == IDENTITY_FOUNDED;
        let from = SecretKey { secret: secret.clone(), key: key.to_owned(), optional };
        VolumeFile {
            path: key.to_owned(),
            mode: PRIVATE,
            content: FileContent::Late(LateContent::Secret(from)),
        }
    };
    // The cloud adds the last one once the group has had a state.
    let files = [IDENTITY_CERTIFICATE, IDENTITY_KEY, IDENTITY_FOUNDED].map(file).into();
    let volume = |name: &str, source| Volume { name: name.to_owned(), source };
    each.template.spec.volumes.extend([
        volume(LOG_VOLUME, VolumeSource::Member),
        volume(IDENTITY_VOLUME, VolumeSource::Files(files)),
        volume(SOCKET_VOLUME, VolumeSource::PodSocket),
    ]);
}

/// The sidecar. It starts before the application, so that it is there when that ends for the first time.
fn coordinator(config: &ReplicaConfig, ports: Vec<ContainerPort>) -> Container {
    let text = json(config);
    let variable = |name: &str, value| EnvVar { name: name.to_owned(), value };
    let mount = |volume: &str, path: &str, read_only| VolumeMount {
        volume: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        sub_path: None,
        sub_path_expr: None,
    };
    let socket = POD_SOCKET.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let mut mounts = vec![
        mount(LOG_VOLUME, LOG_MOUNT, false),
        mount(IDENTITY_VOLUME, IDENTITY_MOUNT, true),
        mount(SOCKET_VOLUME, socket, true),
    ];
    if let State::Directory { volume } = &config.state {
        mounts.push(mount(volume, &format!("{STATE_MOUNT}/{volume}"), false));
    }
    Container {
        env: vec![
            variable(CONFIG_VARIABLE, EnvValue::Fixed(text)),
            variable(INSTANCE_VARIABLE, EnvValue::Instance(InstanceField::Name)),
        ],
        ports,
        resources: ResourceRequirements {
            request_memory_bytes: Some(MEMORY.0),
            limit_memory_bytes: Some(MEMORY.1),
            ..ResourceRequirements::default()
        },
        volume_mounts: mounts,
        security: Security {
            run_as_user: Some(0),
            run_as_group: Some(0),
            read_only_root_filesystem: true,
            forbid_privilege_escalation: true,
            capabilities_drop: vec!["ALL".into()],
            capabilities_add: CAPABILITIES.map(str::to_owned).into(),
            ..Security::default()
        },
        probes: Probes {
            startup: None,
            readiness: Some(probe("/readyz", 1, 2)),
            liveness: Some(probe("/livez", 10, 3)),
        },
        sidecar: true,
        ..Container::new(COORDINATOR, reference())
    }
}

/// A question to the coordinator, so many seconds apart, that may fail so often in a row.
fn probe(path: &str, period: u64, failures: u32) -> Probe {
    Probe {
        action: ProbeAction::HttpGet {
            host: None,
            port: ADMIN_PORT,
            tls: false,
            path: path.to_owned(),
            headers: vec![],
        },
        initial_delay_seconds: Seconds(0),
        period_seconds: Seconds(period),
        timeout_seconds: Seconds(5),
        success_threshold: 1,
        failure_threshold: failures,
        termination_grace_period_seconds: None,
    }
}

/// Whether a Service has the group's machines behind it.
fn leads_to(service: &Service, each: &StatefulSet) -> bool {
    service.kind != ServiceType::ExternalName
        && !service.selector.is_empty()
        && service.meta.name.namespace == each.meta.name.namespace
        && selects(&service.selector, &each.template.labels)
}

/// Has a Service lead to the coordinator instead of the application. The names of machines are there before these are ready:
/// replicas find each other by them.
fn lead(service: &mut Service, each: &StatefulSet, app_port: u16) {
    service.publish_not_ready |= service.headless;
    for port in &mut service.ports {
        if number(port, &each.template).is_some_and(|target| target == app_port || target == FRONT_PORT) {
            port.target_port = TargetPort::Number(FRONT_PORT);
        }
    }
}

/// What reaches the machines of a group, and what they reach, given what the set's own policies say of it. The machines of a
/// replicated group are reached at the coordinator's port and at that of its figures alone, and by each other; whoever may reach
/// the application of such a group may reach its coordinator.
pub(super) fn policy(set: &ObjectSet, name: &Name, found: Option<GroupPolicy>) -> Option<GroupPolicy> {
    let replicated = || {
        set.stateful_sets
            .iter()
            .filter_map(|each| Some((&each.meta.name, each.replicated.as_ref()?.app_port)))
    };
    let mut found = found;
    if let Some(egress) = found.as_mut().and_then(|policy| policy.egress.as_mut()) {
        let also = replicated()
            .filter(|(group, app_port)| egress.iter().any(|rule| reaches(rule, group, *app_port)));
        let also: Vec<Reachable> =
            also.map(|(group, _)| only(Peer::Group(group.clone()), FRONT_PORT)).collect();
        egress.extend(also);
    }
    let Some((group, app_port)) = replicated().find(|(group, _)| *group == name) else { return found };
    let mut policy = found.unwrap_or_default();
    let mut ingress: Vec<Reachable> = match policy.ingress.take() {
        None => {
            let ports = Some(vec![tcp(FRONT_PORT), tcp(ADMIN_PORT)]);
            vec![Reachable { peers: vec![Peer::Everybody], ports }]
        }
        Some(rules) => rules.into_iter().filter_map(|rule| restrict(rule, app_port)).collect(),
    };
    ingress.push(only(Peer::Group(group.clone()), PEER_PORT));
    policy.ingress = Some(ingress);
    if let Some(egress) = &mut policy.egress {
        egress.push(only(Peer::Group(group.clone()), PEER_PORT));
    }
    Some(policy)
}

fn only(peer: Peer, port: u16) -> Reachable {
    Reachable { peers: vec![peer], ports: Some(vec![tcp(port)]) }
}

fn tcp(port: u16) -> PolicyPorts {
    PolicyPorts { protocol: Protocol::Tcp, first: port, last: port }
}

fn has(ports: PolicyPorts, port: u16) -> bool {
    ports.protocol == Protocol::Tcp && (ports.first..=ports.last).contains(&port)
}

/// Whether a rule of egress allows connections to the application of a group.
fn reaches(rule: &Reachable, group: &Name, app_port: u16) -> bool {
    let is_meant = |peer: &Peer| *peer == Peer::Everybody || *peer == Peer::Group(group.clone());
    let ports = rule.ports.as_ref();
    rule.peers.iter().any(is_meant)
        && ports.is_some_and(|ports| ports.iter().any(|ports| has(*ports, app_port)))
}

/// A rule of ingress that a manifest gives: what it allows of the application is allowed of the coordinator, and neither the port
/// on which replicas talk to each other besides, nor the one that changes the group.
fn restrict(rule: Reachable, app_port: u16) -> Option<Reachable> {
    let Some(ports) = rule.ports else {
        return Some(Reachable { ports: Some(vec![tcp(FRONT_PORT), tcp(ADMIN_PORT)]), ..rule });
    };
    let mut kept = Vec::new();
    for ports in ports {
        let own = [
            (FRONT_PORT, has(ports, app_port) || has(ports, FRONT_PORT)),
            (ADMIN_PORT, has(ports, ADMIN_PORT)),
        ];
        let own: Vec<PolicyPorts> =
            own.into_iter().filter(|(_, is_meant)| *is_meant).map(|(port, _)| tcp(port)).collect();
        if own.is_empty() && !has(ports, PEER_PORT) && !has(ports, CONTROL_PORT) {
            kept.push(ports);
        }
        kept.extend(own);
    }
    (!kept.is_empty()).then_some(Reachable { ports: Some(kept), ..rule })
}

#[cfg(test)]
#[path = "replicated/tests.rs"]
mod tests;
