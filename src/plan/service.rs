//! From a Service to a balancer: which workloads it selects, and which of their ports it leads to.

use std::collections::BTreeMap;

use i2kit_spec::DEFAULT_GRACE_PERIOD;

use super::fleet::{BalancerSpec, Headless, HeadlessGroup, Listener, STICKY, TargetGroup};
use crate::manifest::api::{
    Name, ObjectSet, PodTemplate, Protocol, Service, ServicePort, ServiceType, TargetPort,
};

/// The balancer that `service` asks for, in front of every workload of its namespace that it selects.
pub(super) fn balancer(service: &Service, set: &ObjectSet) -> BalancerSpec {
    if let (ServiceType::ExternalName, Some(name)) = (service.kind, &service.external_name) {
        let alias = BalancerSpec::new(service.meta.name.clone(), service.kind, vec![]);
        return BalancerSpec { external_name: Some(name.clone()), ..alias };
    }
    let selected: Vec<(&Name, &PodTemplate)> = selected(service, set).collect();
    let listener = |port: &ServicePort| Listener {
        port: port.port,
        protocol: port.protocol,
        name: port.name.clone(),
        targets: selected
            .iter()
            .filter_map(|(group, template)| {
                let target = number(port, template)?;
                Some(TargetGroup { group: (*group).clone(), port: target })
            })
            .collect(),
        tls: port.tls.clone(),
    };
    let member = |(group, template): &(&Name, &PodTemplate)| {
        let is_below = template.spec.subdomain.as_ref() == Some(&service.meta.name.name);
        HeadlessGroup {
            group: (*group).clone(),
            hostname: template.spec.hostname.clone().filter(|_| is_below),
        }
    };
    let headless = service.headless.then(|| Headless {
        groups: selected.iter().map(member).collect(),
        not_ready: service.publish_not_ready,
    });
    BalancerSpec {
        name: service.meta.name.clone(),
        kind: service.kind,
        listeners: service.ports.iter().map(listener).collect(),
        source_ranges: service.source_ranges.clone(),
        keep_client_address: service.keep_client_address,
        sticky_clients: service.session_affinity_seconds.is_some(),
        sticky_seconds: service.session_affinity_seconds.unwrap_or(STICKY),
        families: service.families.clone(),
        drain_seconds: DEFAULT_GRACE_PERIOD,
        external_name: None,
        headless,
        http: None,
    }
}

/// The pod templates that a Service leads to, each with its workload's name. An alias leads to none, and neither does a
/// Service without a selector, whose endpoints are written by hand in a cluster: it is not one that selects everything.
pub(super) fn selected<'s>(
    service: &'s Service,
    set: &'s ObjectSet,
) -> impl Iterator<Item = (&'s Name, &'s PodTemplate)> {
    let leads = service.kind != ServiceType::ExternalName && !service.selector.is_empty();
    set.kept().filter(move |(group, template)| {
        leads
            && group.namespace == service.meta.name.namespace
            && selects(&service.selector, &template.labels)
    })
}

/// Whether every label of `selector` is on the pod.
pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The number of the port that `service` leads to in this pod template; `None` when it has no port of that name and
/// protocol: the same name may stand for another protocol in another container.
pub(super) fn number(service: &ServicePort, template: &PodTemplate) -> Option<u16> {
    match &service.target_port {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => port_named(template, name, service.protocol),
    }
}

/// The number of the port of that name and protocol.
pub(super) fn port_named(template: &PodTemplate, name: &str, protocol: Protocol) -> Option<u16> {
    let mut ports = template.spec.long_running().flat_map(|container| &container.ports);
    let found = ports.find(|port| port.name.as_deref() == Some(name) && port.protocol == protocol);
    found.map(|port| port.container_port)
}
