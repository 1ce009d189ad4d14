//! An Ingress as a balancer: its backends resolved to the groups that their Services select.

use std::collections::{BTreeMap, BTreeSet};

use super::fleet::{BalancerSpec, HttpAcme, HttpBackend, HttpRule, HttpSecret, HttpSpec, TargetGroup};
use super::service::{number, selected};
use crate::manifest::api::{BackendPort, Ingress, IngressBackend, Name, ObjectSet, Service, ServiceType};

/// What stands before an Ingress' name among the names of balancers: Services may have the same one.
pub(super) const PREFIX: &str = "ingress/";

/// The name of an Ingress' balancer. It has a slash, which no object's name has, so that a Service may have the same name.
pub fn name(ingress: &Name) -> Name {
    Name { namespace: ingress.namespace.clone(), name: format!("{PREFIX}{}", ingress.name) }
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
    let secrets = versions(ingress, secrets);
    let kind = if ingress.internal { ServiceType::ClusterIP } else { ServiceType::LoadBalancer };
    BalancerSpec {
        source_ranges: ingress.source_ranges.clone(),
        http: Some(HttpSpec {
            certificates: ingress.certificates.clone(),
            hosts: ingress.tls_hosts.clone(),
            all_hosts: ingress.tls_for_all,
            acme: acme(ingress, &secrets),
            secrets,
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

/// The hosts that the CA is asked for.
fn acme(ingress: &Ingress, secrets: &[HttpSecret]) -> Option<HttpAcme> {
    let issuer = ingress.acme.clone()?;
    let has_own = |host: &String| secrets.iter().any(|secret| secret.hosts.contains(host));
    let asked = ingress.tls_hosts.iter().filter(|host| !has_own(host) && is_public(host));
    let hosts: BTreeSet<String> = asked.map(|host| host.to_ascii_lowercase()).collect();
    (!hosts.is_empty()).then(|| HttpAcme { issuer, hosts: hosts.into_iter().collect() })
}

/// Names that are nobody's in the public DNS: those that RFC 6761, RFC 6762, RFC 8375, RFC 9476 and ICANN's resolution on
/// `.internal` set aside, and those that routers and clusters use.
const PRIVATE: [&str; 14] = [
    "localhost",
    "local",
    "internal",
    "test",
    "example",
    "invalid",
    "onion",
    "alt",
    "arpa",
    "lan",
    "home",
    "corp",
    "svc",
    "localdomain",
];

/// Whether a CA may be asked for a host: a name with a dot, in the public DNS, without `*`, which ACME wants another proof for.
pub fn is_public(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let Some((_, last)) = host.rsplit_once('.') else { return false };
    // What ends in a number is an address.
    let is_name = last.starts_with(|c: char| c.is_ascii_alphabetic()) && !host.contains(['*', ':']);
    is_name && !PRIVATE.contains(&last)
}

/// A backend that no Service of the set has leads nowhere, and so does one whose Service leads to no pods.
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
        for (group, template) in selected(service, set) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Options, SourceFile, read};

    #[test]
    fn a_backend_leads_to_what_its_service_selects_and_an_alias_to_nobody() {
        let text = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: c, image: nginx, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec: {defaultBackend: {service: {name: shop, port: {number: 80}}}}
";
        let files = [SourceFile { name: "x.yaml".into(), bytes: text.into() }];
        let mut set = read(&files, &Options::default()).set;
        let targets = |set: &ObjectSet| {
            let ingress = balancer(&set.ingresses[0], set, &BTreeMap::new()).http.unwrap();
            let service = super::super::service::balancer(&set.services[0], set);
            let of_service = service.listeners.iter().map(|listener| listener.targets.len()).sum::<usize>();
            (ingress.backends[0].targets.len(), of_service)
        };
        assert_eq!(targets(&set), (1, 1));
        // What `check` refuses leads nowhere either.
        let selector = std::mem::take(&mut set.services[0].selector);
        assert_eq!(targets(&set), (0, 0));
        set.services[0].kind = ServiceType::ExternalName;
        set.services[0].external_name = Some("shop.example.com".into());
        assert_eq!(targets(&set), (0, 0));
        set.services[0].selector = selector;
        assert_eq!(targets(&set), (0, 0));
    }

    #[test]
    fn a_public_host_is_a_name_of_the_public_dns() {
        for host in ["shop.dev", "a.b.example.com", "SHOP.Example.ORG", "xn--bcher-kva.example.net"] {
            assert!(is_public(host), "{host}");
        }
        for host in [
            "",
            "localhost",
            "shop",
            "shop.test",
            "Shop.TEST",
            "a.localhost",
            "printer.local",
            "db.internal",
            "shop.example",
            "192.0.2.1",
            "2001:db8::1",
            "*.example.com",
            "nas.home.arpa",
            "router.lan",
            "a.invalid",
            "shop.test.",
        ] {
            assert!(!is_public(host), "{host}");
        }
    }
}
