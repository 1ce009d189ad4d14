//! Replicated pods: the port of the application, which Services decide.

use crate::manifest::api::{ObjectSet, PodTemplate, Protocol, Service, ServiceType, TargetPort};

/// Finds the port of the application of each replicated StatefulSet: that which its Services lead to, those with a balancer
/// first; without any the first port that a container declares. The checker has seen that there is one.
pub(super) fn find_ports(set: &mut ObjectSet) {
    let services = &set.services;
    for each in &mut set.stateful_sets {
        let Some(replicated) = &mut each.replicated else { continue };
        let leads = |service: &&Service| {
            service.meta.name.namespace == each.meta.name.namespace
                && service.kind != ServiceType::ExternalName
                && !service.selector.is_empty()
                && service.selector.iter().all(|(key, value)| each.template.labels.get(key) == Some(value))
        };
        let of = |headless: bool| {
            let services = services.iter().filter(leads).filter(move |service| service.headless == headless);
            services.flat_map(|service| &service.ports)
        };
        let mut targets = of(false).chain(of(true)).filter(|port| port.protocol == Protocol::Tcp);
        let target = targets.find_map(|port| match &port.target_port {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => declared(&each.template, Some(name)),
        });
        replicated.app_port = target.or_else(|| declared(&each.template, None)).unwrap_or_default();
    }
}

/// The first TCP port that a container declares, of this name or of any.
fn declared(template: &PodTemplate, name: Option<&str>) -> Option<u16> {
    let ports = template.spec.containers.iter().flat_map(|container| &container.ports);
    let mut tcp = ports.filter(|port| port.protocol == Protocol::Tcp);
    let found = tcp.find(|port| name.is_none_or(|name| port.name.as_deref() == Some(name)));
    found.map(|port| port.container_port)
}
