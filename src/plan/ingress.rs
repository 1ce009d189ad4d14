//! An Ingress as a balancer: its backends resolved to the groups that their Services select.

use std::collections::BTreeMap;

use super::fleet::{BalancerSpec, HttpBackend, HttpRule, HttpSecret, HttpSpec, TargetGroup};
use super::service::{number, selects};
use crate::manifest::api::{BackendPort, Ingress, IngressBackend, Name, ObjectSet, Service, ServiceType};

/// The name of an Ingress' balancer. It has a slash, which no object's name has, so that a Service may have the same name.
pub fn name(ingress: &Name) -> Name {
    Name { namespace: ingress.namespace.clone(), name: format!("ingress/{}", ingress.name) }
}

/// The balancer of `ingress`; `secrets` has the versions of the Secrets' values.
pub(super) fn balancer(ingress: &Ingress, set: &ObjectSet, secrets: &BTreeMap<Name, String>) -> BalancerSpec {
    let name = &ingress.meta.name;
    let mut backends: Vec<HttpBackend> = Vec::new();
    let mut place = |backend: &IngressBackend| {
        let found = resolve(backend, ingress, set);
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
            all_hosts: ingress.tls_for_all,
            secrets: versions(ingress, secrets),
            plain: ingress.plain,
            backends,
            rules,
            default,
        }),
        ..BalancerSpec::new(self::name(name), kind, vec![])
    }
}

/// The certificates that Secrets have, where the cloud reads them.
fn versions(ingress: &Ingress, secrets: &BTreeMap<Name, String>) -> Vec<HttpSecret> {
    let namespace = &ingress.meta.name.namespace;
    let known = ingress.tls_secrets.iter().filter_map(|tls| {
        let name = Name { namespace: namespace.clone(), name: tls.secret.clone() };
        let version = secrets.get(&name)?.clone();
        Some(HttpSecret { secret: tls.secret.clone(), version, hosts: tls.hosts.clone() })
    });
    known.collect()
}

/// A backend that no Service of the set has leads nowhere.
fn resolve(backend: &IngressBackend, ingress: &Ingress, set: &ObjectSet) -> HttpBackend {
    let namespace = ingress.meta.name.namespace.as_str();
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
    let http2 = ingress.http2 || port.is_some_and(|port| port.http2);
    HttpBackend { service: backend.service.clone(), port: number, http2, targets }
}
