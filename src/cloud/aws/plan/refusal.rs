//! What AWS cannot have of the language, and why. `fit` says it before anything is made: to `preflight`, to each verb that
//! plans, and to whoever puts a Service.

use std::collections::BTreeSet;

use super::packing::{
    self, Load, MOST_CERTIFICATES, MOST_LISTENERS, MOST_RULES, MOST_TARGETS, Scheme, Sizes,
};
use super::rules::{self, MOST_ROUTES};
use crate::manifest::api::{Name, Tls};
use crate::plan::fleet::{BalancerSpec, HttpRule, HttpSpec, Listener, TargetGroup};

/// The longest pattern of a host or of a path, in characters.
const LONGEST_PATTERN: usize = 128;

/// Letters that a pattern takes as they are, beside letters and digits; `*` and `?` stand for others.
const LITERAL: &str = "_-.$/~\"'@:+&";

/// Why a Service cannot be put on AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A target group has one port.
    #[error(
        "port {port} of Service {service} leads to different ports of its pods; on AWS it must be the same port in all"
    )]
    Ports {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// TLS needs a certificate.
    #[error(
        "port {port} of Service {service} ends TLS and names no certificate; name one in its annotation `service.beta.kubernetes.io/aws-load-balancer-ssl-cert`"
    )]
    Certificate {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// TLS of an Ingress needs a certificate.
    #[error(
        "Ingress {ingress} has `tls` and no certificate: name its hosts, for which the certificate manager is searched, or name \
         a certificate in its annotation `alb.ingress.kubernetes.io/certificate-arn`"
    )]
    Tls {
        /// The Ingress' balancer.
        ingress: Name,
    },
    /// A network load balancer that ends TLS cannot keep a client with a machine.
    #[error(
        "port {port} of Service {service} ends TLS, and AWS keeps no client with a machine there; remove `sessionAffinity`, or let the pods end TLS"
    )]
    Sticky {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// A path that no pattern can be made of.
    #[error(
        "Ingress {ingress} has the path `{path}`, which AWS cannot match: at most 126 letters, digits and _-.$/~\"'@:+&"
    )]
    Path {
        /// The Ingress.
        ingress: Name,
        /// The path.
        path: String,
    },
    /// A host that no pattern can be made of.
    #[error(
        "Ingress {ingress} has the host `{host}`, and AWS matches hosts of at most {most} characters; give it a shorter one"
    )]
    LongHost {
        /// The Ingress.
        ingress: Name,
        /// The host.
        host: String,
        /// The most characters that it may have.
        most: usize,
    },
    /// A host without a certificate.
    #[error(
        "no certificate of the region covers `{host}` of Ingress {ingress}; request one in ACM, or name one in its annotation `alb.ingress.kubernetes.io/certificate-arn`"
    )]
    Host {
        /// The Ingress.
        ingress: Name,
        /// The host.
        host: String,
    },
    /// A load balancer has one listener a port.
    #[error(
        "port {port} of Service {service} is one of TCP and one of UDP, and a port of a load balancer of AWS has one protocol; give \
         one of them another port, or put it into a Service of its own"
    )]
    Protocols {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// A security group has so many rules.
    #[error(
        "Service {service} needs {needed} rules of a security group, one for each port and range of clients, and AWS allows {most} \
         by default (quota L-0EA8095F); split it, or name its clients in fewer ranges with `loadBalancerSourceRanges`"
    )]
    Rules {
        /// The Service.
        service: Name,
        /// Its rules.
        needed: usize,
        /// The most that there may be.
        most: usize,
    },
    /// A network load balancer has so many targets.
    #[error(
        "Service {service} leads to at most {machines} machines at once by {ports} ports, which are {needed} targets of a load balancer, \
         and AWS takes {most} by default (quota `Targets per Availability Zone per Network Load Balancer`); lower `replicas`, `maxReplicas` or \
         `maxSurge` of what it selects, or split its ports between Services. Machines that run now are counted as well: for fewer \
         machines and more ports, deploy the fewer machines first"
    )]
    Targets {
        /// The Service.
        service: Name,
        /// Machines that there may be behind a port.
        machines: usize,
        /// Its ports.
        ports: usize,
        /// Its targets.
        needed: usize,
        /// The most that there may be.
        most: usize,
    },
    /// The same of an Ingress, which has a load balancer of its own.
    #[error(
        "Ingress {ingress} has {ranges} ranges of clients at {ports} ports, which are {needed} rules of a security group, and AWS \
         allows {most} by default (quota L-0EA8095F); name its clients in fewer ranges with `alb.ingress.kubernetes.io/inbound-cidrs`"
    )]
    Clients {
        /// The Ingress' balancer.
        ingress: Name,
        /// Its ranges, of the family that has more of them.
        ranges: usize,
        /// Its ports.
        ports: usize,
        /// Its rules.
        needed: usize,
        /// The most that there may be.
        most: usize,
    },
    /// A load balancer has so many certificates.
    #[error(
        "{what} needs {count} certificates, and a load balancer of AWS takes {most} by default; have one for several of its hosts, or \
         split it"
    )]
    Certificates {
        /// The Service or the Ingress' balancer.
        what: Name,
        /// Its certificates.
        count: usize,
        /// The most that there may be.
        most: usize,
    },
    /// A load balancer has so many rules.
    #[error(
        "Ingress {ingress} has {count} rules, over all its ports, and a load balancer of AWS takes {most}; split it"
    )]
    Routes {
        /// The Ingress' balancer.
        ingress: Name,
        /// Its rules.
        count: usize,
        /// The most that there may be.
        most: usize,
    },
    /// Its rules cannot become others beside those that it has.
    #[error(
        "Ingress {ingress} cannot be changed to these rules: AWS makes new ones before it deletes old ones, which would be {count} \
         together, and a load balancer takes {most}; leave some of them out in a deployment before, and add them in the next one"
    )]
    Crowded {
        /// The Ingress' balancer.
        ingress: Name,
        /// The rules that there would be.
        count: usize,
        /// The most that there may be.
        most: usize,
    },
    /// Its certificates cannot become others beside those that it has.
    #[error(
        "Ingress {ingress} cannot be changed to these certificates: AWS adds new ones before it takes old ones away, which would be \
         {count} together, and a load balancer takes {most} by default; exchange them in two deployments: leave out those that go, \
         then add those that come"
    )]
    CrowdedCertificates {
        /// The Ingress' balancer.
        ingress: Name,
        /// The certificates that there would be.
        count: usize,
        /// The most that there may be.
        most: usize,
    },
    /// A load balancer has so many listeners.
    #[error("Service {service} has {count} ports, and a load balancer of AWS takes {most}; split it")]
    Listeners {
        /// The Service.
        service: Name,
        /// Its ports.
        count: usize,
        /// The most that there may be.
        most: usize,
    },
    /// A template comes with its call, which bounds it.
    #[error(
        "{what} takes a template of {bytes} bytes, and CloudFormation takes {most} with a call; split it, so that each part has fewer \
         ports, rules and Services behind them"
    )]
    Template {
        /// The Service or the Ingress' balancer.
        what: Name,
        /// The template's bytes at most: ids of AWS in it are as long as they get.
        bytes: usize,
        /// The most that there may be.
        most: usize,
    },
    /// What a stack cannot keep in its parameters.
    #[error(
        "{what} has a record of {bytes} bytes, and its stack keeps {most} of them; split it, so that each part leads to fewer \
         Services and groups"
    )]
    Record {
        /// The Service or the Ingress' balancer.
        what: Name,
        /// The bytes of its record.
        bytes: usize,
        /// The most that there may be.
        most: usize,
    },
}

/// Refuses a Service or an Ingress that no load balancer can have, also one that has nothing else.
///
/// # Errors
/// The first reason.
pub fn refuse(spec: &BalancerSpec) -> Result<(), FrameError> {
    match &spec.http {
        Some(http) => refuse_ingress(spec, http),
        None => refuse_service(spec),
    }
}

/// Refuses a Service that alone has more targets than a network load balancer takes, in front of groups of these sizes.
///
/// # Errors
/// The reason, and what to do.
pub fn refuse_targets(spec: &BalancerSpec, sizes: &Sizes) -> Result<(), FrameError> {
    let needed = Load::of(spec, sizes).targets;
    if needed <= MOST_TARGETS {
        return Ok(());
    }
    let behind = spec.listeners.iter().map(|listener| packing::machines(&listener.targets, sizes));
    Err(FrameError::Targets {
        service: spec.name.clone(),
        machines: behind.max().unwrap_or_default(),
        ports: spec.listeners.len(),
        needed,
        most: MOST_TARGETS,
    })
}

fn refuse_service(spec: &BalancerSpec) -> Result<(), FrameError> {
    let service = &spec.name;
    let mut ports = BTreeSet::new();
    if let Some(twice) = spec.listeners.iter().find(|listener| !ports.insert(listener.port)) {
        return Err(FrameError::Protocols { service: service.clone(), port: twice.port });
    }
    for listener in &spec.listeners {
        refuse_listener(spec, listener)?;
    }
    let load = Load::of(spec, &Sizes::new());
    refuse_certificates(service, load.certificates.len())?;
    if load.rules() > MOST_RULES {
        return Err(FrameError::Rules { service: service.clone(), needed: load.rules(), most: MOST_RULES });
    }
    let (count, most) = (load.listeners, MOST_LISTENERS);
    if count > most {
        return Err(FrameError::Listeners { service: service.clone(), count, most });
    }
    Ok(())
}

fn refuse_listener(spec: &BalancerSpec, listener: &Listener) -> Result<(), FrameError> {
    let (service, port) = (spec.name.clone(), listener.port);
    if !is_one_port(&listener.targets) {
        return Err(FrameError::Ports { service, port });
    }
    match &listener.tls {
        Some(_) if spec.sticky_clients => Err(FrameError::Sticky { service, port }),
        Some(Tls { certificates, .. }) if certificates.is_empty() => {
            Err(FrameError::Certificate { service, port })
        }
        _ => Ok(()),
    }
}

fn refuse_ingress(spec: &BalancerSpec, http: &HttpSpec) -> Result<(), FrameError> {
    let ingress = &spec.name;
    if let Some(backend) = http.backends.iter().find(|backend| !is_one_port(&backend.targets)) {
        let service = Name { namespace: ingress.namespace.clone(), name: backend.service.clone() };
        return Err(FrameError::Ports { service, port: backend.port });
    }
    // Where hosts are named, certificates are found by them.
    if http.all_hosts && http.hosts.is_empty() && http.certificates.is_empty() {
        return Err(FrameError::Tls { ingress: ingress.clone() });
    }
    if let Some(rule) = http.rules.iter().find(|rule| !has_pattern(rule)) {
        return Err(FrameError::Path { ingress: ingress.clone(), path: rule.path.clone() });
    }
    let is_long = |host: &&String| host.len() > LONGEST_PATTERN;
    if let Some(host) = http.rules.iter().filter_map(|rule| rule.host.as_ref()).find(is_long) {
        let (ingress, host) = (ingress.clone(), host.clone());
        return Err(FrameError::LongHost { ingress, host, most: LONGEST_PATTERN });
    }
    refuse_certificates(ingress, http.certificates.iter().collect::<BTreeSet<_>>().len())?;
    let ports = if http.has_tls() { 2 } else { 1 };
    let all = Scheme::of(spec.kind).clients(spec);
    let ipv6 = all.iter().filter(|range| range.contains(':')).count();
    let ranges = ipv6.max(all.len() - ipv6);
    let (needed, most) = (ports * ranges, MOST_RULES);
    if needed > most {
        return Err(FrameError::Clients { ingress: ingress.clone(), ranges, ports, needed, most });
    }
    let (count, most) = (http.rules.len() * rules::serving(http).len(), MOST_ROUTES);
    if count > most {
        return Err(FrameError::Routes { ingress: ingress.clone(), count, most });
    }
    Ok(())
}

/// Refuses more certificates than a load balancer takes.
pub(super) fn refuse_certificates(what: &Name, count: usize) -> Result<(), FrameError> {
    if count > MOST_CERTIFICATES {
        return Err(FrameError::Certificates { what: what.clone(), count, most: MOST_CERTIFICATES });
    }
    Ok(())
}

/// Whether all lead to the same port of their machines.
fn is_one_port(targets: &[TargetGroup]) -> bool {
    targets.windows(2).all(|pair| pair[0].port == pair[1].port)
}

/// Whether a pattern can be made of the path.
fn has_pattern(rule: &HttpRule) -> bool {
    let literal = |c: char| c.is_ascii_alphanumeric() || LITERAL.contains(c);
    rule.path.len() + 2 <= LONGEST_PATTERN && rule.path.chars().all(literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Protocol, ServiceType};
    use crate::plan::fleet::HttpBackend;

    fn name(name: &str) -> Name {
        Name { namespace: "shop".into(), name: name.into() }
    }

    fn targets(ports: &[u16]) -> Vec<TargetGroup> {
        ports.iter().map(|port| TargetGroup { group: name("web"), port: *port }).collect()
    }

    fn service(kind: ServiceType, count: u16) -> BalancerSpec {
        let listeners = (1..=count).map(|port| Listener::new(port, Protocol::Tcp, vec![])).collect();
        BalancerSpec::new(name("web"), kind, listeners)
    }

    fn said(spec: &BalancerSpec) -> String {
        refuse(spec).unwrap_err().to_string()
    }

    #[test]
    fn what_aws_cannot_do_is_said() {
        let mut spec = service(ServiceType::LoadBalancer, 2);
        spec.listeners[0].targets = targets(&[8080, 8081]);
        assert!(said(&spec).contains("different ports"), "{}", said(&spec));
        spec.listeners[0].targets = targets(&[8080, 8080]);
        assert_eq!(refuse(&spec), Ok(()));
        let tls = |certificates| Some(Tls { certificates, policy: None, to_pods: false });
        spec.listeners[0].tls = tls(vec![]);
        assert!(said(&spec).contains("names no certificate"), "{}", said(&spec));
        spec.listeners[0].tls = tls(vec!["arn:a".into()]);
        assert_eq!(refuse(&spec), Ok(()));
        spec.sticky_clients = true;
        assert!(said(&spec).contains("remove `sessionAffinity`"), "{}", said(&spec));
        spec.sticky_clients = false;
        spec.listeners[0].tls = tls((0..26).map(|number| format!("arn:{number}")).collect());
        assert!(said(&spec).contains("needs 26 certificates"), "{}", said(&spec));
        spec.listeners[0].tls = None;
        (spec.listeners[1].port, spec.listeners[1].protocol) = (1, Protocol::Udp);
        assert!(said(&spec).contains("port 1 of Service shop/web is one of TCP and one of UDP"));
        assert!(said(&spec).contains("give one of them another port"), "{}", said(&spec));
    }

    #[test]
    fn a_service_that_no_balancer_has_room_for_is_refused() {
        assert_eq!(refuse(&service(ServiceType::ClusterIP, 15)), Ok(()));
        let error = said(&service(ServiceType::ClusterIP, 16));
        assert!(
            error.starts_with("Service shop/web needs 64 rules") && error.contains("allows 60"),
            "{error}"
        );
        assert!(error.contains("split it"), "{error}");
        let error = said(&service(ServiceType::LoadBalancer, 51));
        assert!(error.contains("has 51 ports") && error.contains("takes 50"), "{error}");
        // Of IPv4 and of IPv6 there may be so many each.
        let mut spec = service(ServiceType::LoadBalancer, 50);
        spec.source_ranges = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
        assert_eq!(refuse(&spec), Ok(()));
    }

    #[test]
    fn a_service_with_more_targets_than_a_load_balancer_takes_is_refused() {
        let mut spec = service(ServiceType::LoadBalancer, 2);
        spec.listeners.iter_mut().for_each(|listener| listener.targets = targets(&[8080]));
        let refused = |most| refuse_targets(&spec, &Sizes::from([(name("web"), most)]));
        assert_eq!(refused(250), Ok(()));
        let error = refused(251).unwrap_err().to_string();
        assert!(error.contains("shop/web leads to at most 251 machines at once by 2 ports"), "{error}");
        assert!(error.contains("502 targets") && error.contains("AWS takes 500"), "{error}");
        assert!(error.contains("lower `replicas`, `maxReplicas` or `maxSurge`"), "{error}");
        // Of groups that are not known, and of what is no Service, there is nothing to say.
        assert_eq!(refuse_targets(&spec, &Sizes::new()), Ok(()));
    }

    fn ingress() -> (BalancerSpec, HttpSpec) {
        let backend = HttpBackend { service: "web".into(), port: 80, http2: false, targets: targets(&[80]) };
        let rule = HttpRule { host: None, path: "/".into(), exact: false, backend: 0 };
        let http = HttpSpec { backends: vec![backend], rules: vec![rule], ..HttpSpec::default() };
        (BalancerSpec::new(name("ingress/web"), ServiceType::LoadBalancer, vec![]), http)
    }

    #[test]
    fn an_ingress_that_no_balancer_can_have_is_refused() {
        let (mut spec, mut http) = ingress();
        let said = |spec: &BalancerSpec, http: &HttpSpec| {
            let spec = BalancerSpec { http: Some(http.clone()), ..spec.clone() };
            refuse(&spec).map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(said(&spec, &http), "");
        // A rule of the security group for each port and range: with TLS there are two ports.
        spec.source_ranges = (0..31).map(|number| format!("192.0.2.{number}/32")).collect();
        assert_eq!(said(&spec, &http), "");
        http.certificates = vec!["arn:a".into()];
        let error = said(&spec, &http);
        assert!(error.contains("31 ranges of clients at 2 ports, which are 62 rules"), "{error}");
        assert!(error.contains("allows 60") && error.contains("inbound-cidrs"), "{error}");
        spec.source_ranges.truncate(30);
        spec.source_ranges.extend((0..30).map(|number| format!("2001:db8::{number}/128")));
        assert_eq!(said(&spec, &http), "");
        spec.source_ranges.clear();

        http.backends[0].targets = targets(&[80, 81]);
        assert!(
            said(&spec, &http).contains("port 80 of Service shop/web leads to different ports"),
            "{}",
            said(&spec, &http)
        );
        http.backends[0].targets.clear();
        (http.certificates, http.all_hosts) = (vec![], true);
        assert!(said(&spec, &http).contains("has `tls` and no certificate"));
        http.all_hosts = false;
        for bad in ["/a*", "/b?", &format!("/{}", "x".repeat(130))] {
            http.rules[0].path = bad.into();
            assert!(said(&spec, &http).contains("has the path `/"), "{bad}");
        }
        http.rules[0].path = "/".into();
        http.rules = vec![http.rules[0].clone(); 101];
        assert!(said(&spec, &http).contains("has 101 rules, over all its ports"), "{}", said(&spec, &http));
        http.rules.truncate(100);
        assert_eq!(said(&spec, &http), "");
        (http.certificates, http.plain) = (vec!["arn:a".into()], true);
        assert!(said(&spec, &http).contains("has 200 rules"), "{}", said(&spec, &http));
        (http.certificates, http.plain) = (vec![], false);
        http.rules[0].host = Some("h".repeat(128));
        assert_eq!(said(&spec, &http), "");
        http.rules[0].host = Some("h".repeat(129));
        assert!(said(&spec, &http).contains("hosts of at most 128 characters"), "{}", said(&spec, &http));
    }
}
