//! The bounds of AWS, and that what is within them fits.

use super::*;
use crate::cloud::aws::plan::record::PARAMETER_BYTES;
use crate::manifest::api::{Protocol, ServiceType};
use crate::plan::fleet::{HttpBackend, HttpRule, Listener, TargetGroup};

/// Values in the conditions of a rule, a quota of AWS.
const MOST_VALUES: usize = 5;

fn name(namespace: &str, name: &str) -> Name {
    Name { namespace: namespace.into(), name: name.into() }
}

fn target(group: &str, port: u16) -> TargetGroup {
    TargetGroup { group: name("shop", group), port }
}

/// An Ingress with a hundred rules, each for a host of its own, before so many Services.
fn ingress(host: &str, path: &str, backends: usize) -> (BalancerSpec, HttpSpec) {
    let rule = |number: usize| HttpRule {
        host: Some(format!("{number:03}{host}")),
        path: path.into(),
        exact: false,
        backend: number % backends,
    };
    let backend = |number: usize| HttpBackend {
        service: format!("service-{number:02}"),
        port: 80,
        http2: false,
        targets: vec![target(&format!("service-{number:02}"), 8080)],
    };
    let http = HttpSpec {
        backends: (0..backends).map(backend).collect(),
        rules: (0..100).map(rule).collect(),
        ..HttpSpec::default()
    };
    let mut spec = BalancerSpec::new(name("shop", "ingress/web"), ServiceType::LoadBalancer, vec![]);
    spec.http = Some(http.clone());
    (spec, http)
}

/// A Service with so many ports of five digits.
fn with_ports(count: u16, own: Name) -> BalancerSpec {
    let listener =
        |port: u16| Listener::new(port, Protocol::Tcp, vec![target("the-shop-s-web-servers", port)]);
    BalancerSpec::new(own, ServiceType::LoadBalancer, (30_000..30_000 + count).map(listener).collect())
}

fn said(spec: &BalancerSpec) -> String {
    refuse("production", spec).map_err(|error| error.to_string()).err().unwrap_or_default()
}

#[test]
fn an_ingress_of_as_many_rules_as_a_load_balancer_takes_fits() {
    let certified = |(mut spec, mut http): (BalancerSpec, HttpSpec)| {
        http.certificates = vec![CERTIFICATE.to_owned()];
        spec.http = Some(http.clone());
        (spec, http)
    };
    // Each path is two patterns, but for the last one.
    for (host, path, backends, patterns) in [
        (".tenants.shop.example.com", "/api/v1/orders", 10, 2),
        (".an-uncommonly-long-name-of-a-tenant.shop.example.com", "/a/path/of/letters/here", 1, 2),
        (".tenants.shop.example.com", "/", 15, 1),
    ] {
        let (spec, http) = certified(ingress(host, path, backends));
        assert_eq!(said(&spec), "", "{host} {path} {backends}");
        let priorities = priority::Priorities::new();
        let standing = Standing { certificates: &http.certificates, priorities: &priorities };
        let plan = ingress::stack("production", (&spec, &http), standing, &frame()).unwrap();
        assert_eq!(plan.template.matches("::ListenerRule").count(), 100);
        assert!(plan.template.matches("Type: ").count() < 500, "{}", plan.template);
        let values = plan.template.lines().filter(|line| line.contains("::ListenerRule")).map(|line| {
            let conditions = line.split("\"Values\":[").skip(1).filter_map(|rest| rest.split(']').next());
            conditions.map(|values| values.split(',').count()).sum::<usize>()
        });
        // Beside those of the path there is the host.
        let values: Vec<usize> = values.collect();
        assert_eq!(values, [1 + patterns; 100], "{}", plan.template);
        assert!(patterns < MOST_VALUES);
        // Its record takes several parameters.
        let largest = plan.parameters.iter().map(|(_, value)| value.len()).max();
        assert!(plan.parameters.iter().any(|(key, _)| key == "Spec1") && largest <= Some(PARAMETER_BYTES));
    }
}

#[test]
fn an_ingress_that_does_not_fit_is_refused_with_what_to_do() {
    for (spec, _) in [
        ingress(&"h".repeat(125), &format!("/{}", "p".repeat(125)), 1),
        ingress(".tenants.shop.example.com", "/api/v1/orders", 20),
    ] {
        let error = said(&spec);
        assert!(error.starts_with("shop/ingress/web takes a template of "), "{error}");
        assert!(error.contains("CloudFormation takes 51200 with a call; split it"), "{error}");
    }
}

#[test]
fn certificates_that_are_found_later_count_too() {
    let (mut spec, mut http) = ingress(".tenants.shop.example.com", "/api/v1/orders", 6);
    http.hosts = http.rules.iter().filter_map(|rule| rule.host.clone()).collect();
    spec.http = Some(http.clone());
    // One may be for all of them.
    assert_eq!(said(&spec), "");
    let found = |count: usize| {
        let certificates: Vec<String> = (0..count).map(|number| format!("{CERTIFICATE}{number}")).collect();
        refuse_certified("production", (&spec, &http), &certificates)
    };
    assert_eq!(found(1), Ok(()));
    let error = found(25).unwrap_err().to_string();
    assert!(error.contains("CloudFormation takes 51200 with a call"), "{error}");
}

#[test]
fn a_service_of_forty_ports_fits_whatever_its_name() {
    let long = name(&"n".repeat(63), &"s".repeat(63));
    assert_eq!(refuse(&"e".repeat(32), &with_ports(40, long.clone())), Ok(()));
    assert!(record::write(&with_ports(40, long)).len() > 1);
    let error = said(&with_ports(50, name("shop", "web")));
    assert!(error.starts_with("shop/web takes a template of "), "{error}");
    assert!(error.contains("split it, so that each part has fewer ports"), "{error}");
    assert!(said(&with_ports(51, name("shop", "web"))).contains("has 51 ports"));
}

#[test]
fn what_a_stack_cannot_keep_is_refused() {
    let (mut spec, mut http) = ingress(".example.com", "/", 1);
    let groups =
        |count: usize| (0..count).map(|number| target(&format!("{number:03}{}", "g".repeat(60)), 80));
    http.backends[0].targets = groups(100).collect();
    spec.http = Some(http.clone());
    assert_eq!(said(&spec), "");
    http.backends[0].targets = groups(500).collect();
    spec.http = Some(http);
    let error = said(&spec);
    assert!(error.contains("its stack keeps 40960 of them; split it"), "{error}");
}
