//! Which addresses answer after a deployment: as URLs where a port speaks HTTP, as host and port otherwise.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use crate::manifest::api::{ObjectSet, Protocol, ServicePort};
use crate::plan::fleet::{BalancerSpec, Fleet, LOCAL_AUTHORITY, Listener, LoadBalancer, ServedCertificate};
use crate::text;

/// Ports on which clients expect HTTP, where the name of the port is no protocol.
const HTTP_PORTS: [u16; 5] = [80, 8000, 8008, 8080, 8888];
/// The same for HTTPS.
const HTTPS_PORTS: [u16; 2] = [443, 8443];

/// A Service or an Ingress, and where it answers.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Answering {
    /// The name, with its namespace where that is not the default one.
    service: String,
    /// URLs, or `HOST:PORT/PROTOCOL`.
    addresses: Vec<String>,
}

impl fmt::Display for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.addresses.join(" "))
    }
}

/// The balancers of `wanted`, as they are in `fleet`; `set` knows the names of their ports.
pub(super) fn answering(set: &ObjectSet, wanted: &[BalancerSpec], fleet: &Fleet) -> Vec<Answering> {
    let is_wanted = |balancer: &&LoadBalancer| wanted.iter().any(|spec| spec.name == balancer.spec.name);
    // Clients of a headless Service connect to machines.
    let balanced = fleet.balancers.iter().filter(|balancer| balancer.spec.headless.is_none());
    let found = balanced.filter(is_wanted).map(|balancer| {
        let service = set.services.iter().find(|service| service.meta.name == balancer.spec.name);
        let ports = service.map_or(&[][..], |service| &service.ports);
        Answering { service: balancer.spec.name.to_string(), addresses: of(balancer, ports) }
    });
    found.collect()
}

/// A site of this computer as its clients name it: of an Ingress, or of a Service whose balancer ends TLS.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Whether the local authority signs its certificate.
    is_signed: bool,
    /// The URL.
    pub(super) url: String,
    /// What resolves the host, in curl's form; not for an address.
    resolve: Option<String>,
}

impl Site {
    /// A command that asks it; `authority` is the certificate that is to be trusted for it.
    pub(super) fn curl(&self, authority: Option<&Path>) -> String {
        let authority = authority.filter(|_| self.is_signed);
        let trust = |path: &Path| format!("--cacert {} ", text::word(&path.to_string_lossy()));
        let trust = authority.map_or_else(String::new, trust);
        let resolve = self.resolve.as_ref().map_or_else(String::new, |host| format!("--resolve {host} "));
        format!("curl {trust}{resolve}{}", self.url)
    }
}

/// The ports of a Service of this computer at which HTTP is spoken over TLS that its balancer ends.
pub(super) fn secured(balancer: &LoadBalancer) -> Vec<Site> {
    let is_of_authority = |certificate: &ServedCertificate| certificate.source == LOCAL_AUTHORITY;
    let is_signed = balancer.certificates.iter().any(is_of_authority);
    let ports = balancer.spec.listeners.iter().zip(&balancer.bound);
    let site = |(listener, bound): (&Listener, &Option<u16>)| {
        let speaks = scheme(listener, listener.name.as_deref());
        let is_site = is_signed && listener.tls.is_some() && speaks == Some("https");
        let url = shown(&balancer.host, (*bound)?, speaks, Protocol::Tcp);
        is_site.then_some(Site { is_signed, url, resolve: None })
    };
    ports.filter_map(site).collect()
}

/// The sites of an Ingress whose balancer is an address of this computer: nothing resolves their hosts to it.
pub(super) fn sites(balancer: &LoadBalancer) -> Vec<Site> {
    let (Some(http), Ok(address)) = (&balancer.spec.http, balancer.host.parse::<IpAddr>()) else {
        return Vec::new();
    };
    let port = |index: usize| balancer.bound.get(index).copied().flatten();
    let mut hosts: Vec<&String> = Vec::new();
    for host in http.rules.iter().filter_map(|rule| rule.host.as_ref()).chain(&http.hosts) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let site = |host: &String| {
        let is_for = |known: &String| covers(known, host);
        let of_secret =
            http.secrets.iter().any(|secret| secret.hosts.is_empty() || secret.hosts.iter().any(is_for));
        let is_tls = of_secret || http.all_hosts || http.hosts.iter().any(is_for);
        let port = if is_tls { port(1)? } else { port(0)? };
        // A label in the place of the star.
        let host = host.replacen('*', "any", 1);
        let scheme = if is_tls { "https" } else { "http" };
        let url = shown(&host, port, Some(scheme), Protocol::Tcp);
        let resolve = Some(format!("{host}:{port}:{address}"));
        let is_other = |certificate: &&ServedCertificate| certificate.source != LOCAL_AUTHORITY;
        let mut others = balancer.certificates.iter().filter(is_other);
        let of_other = of_secret || others.any(|certificate| certificate.hosts.contains(&host));
        Some(Site { is_signed: is_tls && !of_other, url, resolve })
    };
    hosts.into_iter().filter_map(site).collect()
}

/// Whether a host of `tls` is for the host of a rule: `*.` takes one label in its place.
fn covers(known: &str, host: &str) -> bool {
    let suffix = || host.find('.').map(|dot| &host[dot..]);
    known.eq_ignore_ascii_case(host)
        || known
            .strip_prefix('*')
            .is_some_and(|known| suffix().is_some_and(|suffix| suffix.eq_ignore_ascii_case(known)))
}

/// Where a balancer answers; `ports` are those of its Service, where that is at hand.
pub(super) fn of(balancer: &LoadBalancer, ports: &[ServicePort]) -> Vec<String> {
    let sites = sites(balancer);
    if !sites.is_empty() {
        return sites.iter().map(|site| format!("{} (at {})", site.url, balancer.host)).collect();
    }
    let bound = balancer.bound.iter().enumerate().filter_map(|(index, port)| Some((index, (*port)?)));
    let address = |(index, bound): (usize, u16)| {
        let Some(listener) = balancer.spec.listeners.get(index) else {
            // The ports of a balancer that routes requests are no listeners of a Service.
            let scheme = if HTTPS_PORTS.contains(&bound) { "https" } else { "http" };
            return shown(&balancer.host, bound, Some(scheme), Protocol::Tcp);
        };
        let is_own = |port: &&ServicePort| (port.port, port.protocol) == (listener.port, listener.protocol);
        let name = ports.iter().find(is_own).and_then(|port| port.name.as_deref());
        let name = name.or(listener.name.as_deref());
        shown(&balancer.host, bound, scheme(listener, name), listener.protocol)
    };
    bound.map(address).collect()
}

fn shown(host: &str, port: u16, scheme: Option<&str>, protocol: Protocol) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match (scheme, port, protocol) {
        (Some(scheme @ "http"), 80, _) | (Some(scheme @ "https"), 443, _) => format!("{scheme}://{host}/"),
        (Some(scheme), ..) => format!("{scheme}://{host}:{port}/"),
        (None, _, Protocol::Tcp) => format!("{host}:{port}/tcp"),
        (None, _, Protocol::Udp) => format!("{host}:{port}/udp"),
    }
}

/// What a port speaks: by TLS of the balancer, by the port's name, by its number.
fn scheme(listener: &Listener, name: Option<&str>) -> Option<&'static str> {
    if listener.protocol == Protocol::Udp {
        return None;
    }
    // `http-web` is the form in which meshes name ports by what they speak.
    let named = |scheme: &str| name.is_some_and(|name| name.split('-').next() == Some(scheme));
    let is_https = named("https") || HTTPS_PORTS.contains(&listener.port);
    let is_http = named("http") || HTTP_PORTS.contains(&listener.port);
    if named("http") && listener.tls.is_none() {
        return Some("http");
    }
    if is_https || listener.tls.is_some() && is_http {
        return Some("https");
    }
    is_http.then_some("http")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Name, ServiceType, TargetPort, Tls};

    #[test]
    fn ports_are_urls_where_they_speak_http() {
        let port = |name: Option<&str>, port, protocol| ServicePort {
            name: name.map(str::to_owned),
            port,
            target_port: TargetPort::Number(1),
            protocol,
            tls: None,
            http2: false,
        };
        let tls = Some(Tls { certificates: vec![], policy: None, to_pods: false });
        let shown = |port: ServicePort, bound: u16, tls: Option<&Tls>| {
            let mut listener = Listener::new(port.port, port.protocol, vec![]);
            listener.tls = tls.cloned();
            let name = Name { namespace: "default".into(), name: "web".into() };
            let balancer = LoadBalancer {
                spec: BalancerSpec::new(name, ServiceType::ClusterIP, vec![listener]),
                host: "127.77.1.2".into(),
                bound: vec![Some(bound)],
                targets: vec![],
                certificates: vec![],
                traffic: vec![],
                requests: vec![],
            };
            of(&balancer, &[port]).join(" ")
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        for (given, bound, tls, wanted) in [
            (port(None, 80, tcp), 80, None, "http://127.77.1.2/"),
            // It could not be bound as it was asked for.
            (port(None, 80, tcp), 8081, None, "http://127.77.1.2:8081/"),
            (port(Some("http"), 3000, tcp), 3000, None, "http://127.77.1.2:3000/"),
            (port(Some("http-metrics"), 9090, tcp), 9090, None, "http://127.77.1.2:9090/"),
            (port(Some("https"), 9443, tcp), 9443, None, "https://127.77.1.2:9443/"),
            (port(None, 443, tcp), 443, None, "https://127.77.1.2/"),
            (port(None, 443, tcp), 443, tls.as_ref(), "https://127.77.1.2/"),
            (port(Some("http"), 8000, tcp), 8000, tls.as_ref(), "https://127.77.1.2:8000/"),
            (port(Some("redis"), 6379, tcp), 6379, None, "127.77.1.2:6379/tcp"),
            (port(Some("https"), 443, udp), 443, None, "127.77.1.2:443/udp"),
            (port(Some("dns"), 53, udp), 53, None, "127.77.1.2:53/udp"),
        ] {
            assert_eq!(shown(given, bound, tls), wanted);
        }
    }

    #[test]
    fn an_ingress_of_this_computer_is_shown_by_its_hosts() {
        let spec: BalancerSpec = serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "ingress/shop"}, "kind": "LoadBalancer", "listeners": [],
            "http": {"hosts": ["shop.test", "*.wild.test", "own.test"], "backends": [],
                "secrets": [{"secret": "own", "version": "0", "hosts": ["own.test"]}], "rules": [
                {"host": "own.test", "path": "/", "backend": 0}, {"host": "a.wild.test", "path": "/", "backend": 0},
                {"host": "shop.test", "path": "/", "backend": 0}, {"host": "shop.test", "path": "/a", "backend": 0},
                {"host": "*.plain.test", "path": "/", "backend": 0}, {"path": "/", "backend": 0},
            ]},
        }))
        .unwrap();
        let bound = vec![Some(80), Some(8443)];
        let mut balancer = LoadBalancer {
            spec,
            host: "127.77.1.2".into(),
            bound,
            targets: vec![],
            certificates: vec![],
            traffic: vec![],
            requests: vec![],
        };
        let found = sites(&balancer);
        let urls: Vec<&str> = found.iter().map(|site| site.url.as_str()).collect();
        assert_eq!(
            urls,
            [
                "https://own.test:8443/",
                "https://a.wild.test:8443/",
                "https://shop.test:8443/",
                "http://any.plain.test/",
                "https://any.wild.test:8443/"
            ]
        );
        for (index, wanted) in [
            "curl --resolve own.test:8443:127.77.1.2 https://own.test:8443/",
            "curl --cacert '/a b/ca.crt' --resolve a.wild.test:8443:127.77.1.2 https://a.wild.test:8443/",
            "curl --cacert '/a b/ca.crt' --resolve shop.test:8443:127.77.1.2 https://shop.test:8443/",
            "curl --resolve any.plain.test:80:127.77.1.2 http://any.plain.test/",
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(found[index].curl(Some(Path::new("/a b/ca.crt"))), *wanted);
        }
        assert_eq!(of(&balancer, &[])[0], "https://own.test:8443/ (at 127.77.1.2)");
        // A name of a cloud resolves by itself.
        balancer.host = "lb.example.com".into();
        assert_eq!(sites(&balancer), []);
    }

    #[test]
    fn a_service_with_tls_of_the_local_authority_is_asked_by_its_address() {
        let listener = |port, name: Option<&str>, tls: bool| Listener {
            name: name.map(str::to_owned),
            tls: tls.then(|| Tls { certificates: vec![], policy: None, to_pods: false }),
            ..Listener::new(port, Protocol::Tcp, vec![])
        };
        let listeners = vec![
            listener(80, None, false),
            listener(443, Some("https"), true),
            listener(5432, Some("db"), true),
            listener(8443, None, false),
        ];
        let name = Name { namespace: "default".into(), name: "web".into() };
        let mut balancer = LoadBalancer {
            spec: BalancerSpec::new(name, ServiceType::LoadBalancer, listeners),
            host: "127.77.1.2".into(),
            bound: vec![Some(80), Some(8443), Some(5432), Some(40_000)],
            targets: vec![],
            certificates: vec![],
            traffic: vec![],
            requests: vec![],
        };
        // The certificate of a cloud is its own matter.
        assert_eq!(secured(&balancer), []);
        let hosts = vec!["web.default.svc.cluster.local".to_owned()];
        let source = LOCAL_AUTHORITY.to_owned();
        balancer.certificates = vec![ServedCertificate { hosts, source, expires: 0, state: None }];
        let curl = |authority| -> Vec<String> {
            secured(&balancer).iter().map(|site| site.curl(authority)).collect()
        };
        assert_eq!(curl(Some(Path::new("/ca.crt"))), ["curl --cacert /ca.crt https://127.77.1.2:8443/"]);
        assert_eq!(curl(None), ["curl https://127.77.1.2:8443/"]);
    }

    #[test]
    fn an_address_of_six_is_bracketed_and_what_is_not_bound_is_left_out() {
        assert_eq!(shown("fd00::1", 80, Some("http"), Protocol::Tcp), "http://[fd00::1]/");
        let listeners = [80, 6379].map(|port| Listener::new(port, Protocol::Tcp, vec![])).to_vec();
        let name = Name { namespace: "shop".into(), name: "web".into() };
        let spec = BalancerSpec::new(name, ServiceType::ClusterIP, listeners);
        let wanted = [spec.clone()];
        let balancer = LoadBalancer {
            spec,
            host: "h".into(),
            bound: vec![None, Some(6379)],
            targets: vec![],
            certificates: vec![],
            traffic: vec![],
            requests: vec![],
        };
        let fleet = Fleet { balancers: vec![balancer], ..Fleet::default() };
        let found = answering(&ObjectSet::default(), &wanted, &fleet);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/web h:6379/tcp"]);
        assert_eq!(answering(&ObjectSet::default(), &[], &fleet), []);
    }
}
