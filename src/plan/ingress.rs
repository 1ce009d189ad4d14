//! An Ingress as a balancer: its backends resolved to the groups that their Services select.

use super::fleet::{BalancerSpec, HttpBackend, HttpRule, HttpSpec, TargetGroup};
use super::service::{number, selects};
use crate::manifest::api::{Backend, BackendPort, Ingress, Name, ObjectSet, Service, ServiceType};

/// The name of an Ingress' balancer. It has a slash, which no object's name has, so that a Service may have the same name.
pub fn name(ingress: &Name) -> Name {
    Name { namespace: ingress.namespace.clone(), name: format!("ingress/{}", ingress.name) }
}

/// The balancer of `ingress`.
pub(super) fn balancer(ingress: &Ingress, set: &ObjectSet) -> BalancerSpec {
    let name = &ingress.meta.name;
    let mut backends: Vec<HttpBackend> = Vec::new();
    let mut place = |backend: &Backend| {
        let found = resolve(backend, &name.namespace, set);
        backends.iter().position(|known| *known == found).unwrap_or_else(|| {
            backends.push(found);
            backends.len() - 1
        })
    };
    let rules = ingress.routes.iter().map(|route| HttpRule {
        host: route.host.clone(),
        path: route.path.clone(),
        exact: route.exact,
        backend: place(&route.backend),
    });
    let rules: Vec<HttpRule> = rules.collect();
    let default = ingress.default_backend.as_ref().map(place);
    let kind = if ingress.internal { ServiceType::ClusterIP } else { ServiceType::LoadBalancer };
    BalancerSpec {
        source_ranges: ingress.source_ranges.clone(),
        http: Some(HttpSpec {
            certificates: ingress.certificates.clone(),
            hosts: ingress.tls_hosts.clone(),
            backends,
            rules,
            default,
        }),
        ..BalancerSpec::new(self::name(name), kind, vec![])
    }
}

/// A backend that no Service of the set has leads nowhere.
fn resolve(backend: &Backend, namespace: &str, set: &ObjectSet) -> HttpBackend {
    let own = |service: &&Service| {
        service.meta.name.namespace == namespace && service.meta.name.name == backend.service
    };
    let service = set.services.iter().find(own);
    let port = service.and_then(|service| {
        service.ports.iter().find(|port| match &backend.port {
            BackendPort::Number(number) => port.port == *number,
            BackendPort::Name(name) => port.name.as_ref() == Some(name),
        })
    });
    let mut targets = Vec::new();
    if let (Some(service), Some(port)) = (service, port) {
        let of_namespace = set.kept().filter(|(group, _)| group.namespace == namespace);
        for (group, template) in of_namespace.filter(|(_, each)| selects(&service.selector, &each.labels)) {
            if let Some(port) = number(port, template) {
                targets.push(TargetGroup { group: group.clone(), port });
            }
        }
    }
    let number = match (&backend.port, port) {
        (_, Some(port)) => port.port,
        (BackendPort::Number(number), None) => *number,
        (BackendPort::Name(_), None) => 0,
    };
    HttpBackend { service: backend.service.clone(), port: number, targets }
}
