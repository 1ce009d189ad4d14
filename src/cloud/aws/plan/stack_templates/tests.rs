//! The templates as they are sent.

use super::*;
use crate::manifest::api::ServiceType;
use crate::plan::fleet::TargetGroup;

fn frame() -> Frame {
    Frame {
        vpc: "vpc-1".into(),
        subnets: vec!["subnet-1".into(), "subnet-2".into()],
        balancer_subnets: vec!["subnet-3".into(), "subnet-4".into()],
        machines: "sg-1".into(),
        zone: "Z1".into(),
        profile: "profile".into(),
    }
}

fn shop(targets: &[(&str, u16)]) -> BalancerSpec {
    let name = |name: &str| Name { namespace: "shop".into(), name: name.into() };
    let target = |(group, port): &(&str, u16)| TargetGroup { group: name(group), port: *port };
    let targets: Vec<_> = targets.iter().map(target).collect();
    BalancerSpec::new(
        name("web"),
        ServiceType::LoadBalancer,
        vec![
            Listener::new(80, Protocol::Tcp, targets.clone()),
            Listener::new(53, Protocol::Udp, targets),
            Listener::new(81, Protocol::Tcp, vec![]),
        ],
    )
}

fn balancer_of(name: &str) -> Balancer {
    Balancer {
        arn: format!("arn:{name}"),
        dns_name: format!("{name}.elb.amazonaws.com"),
        dns_zone: "Z2".into(),
        clients: format!("sg-{name}"),
    }
}

fn put(spec: &BalancerSpec) -> StackPlan {
    let placement = BalancerSlot { scheme: Scheme::of(spec.kind), index: 0 };
    service("production", Placed { spec, placement, balancer: &balancer_of("balancer") }, &frame())
}

#[test]
fn an_environment_with_a_network_of_its_own() {
    let place = EnvironmentPlace {
        environment: "production".into(),
        network: None,
        boundary: None,
        zones: vec!["eu-west-1a".into(), "eu-west-1b".into()],
    };
    insta::assert_snapshot!("environment", environment(&place).template);
}

#[test]
fn an_environment_in_a_network_that_exists() {
    let network = Network {
        vpc: "vpc-9".into(),
        subnets: vec!["subnet-8".into(), "subnet-9".into()],
        balancer_subnets: vec![],
    };
    let place = EnvironmentPlace {
        environment: "production".into(),
        network: Some(network),
        boundary: None,
        zones: vec!["eu-west-1a".into(), "eu-west-1b".into()],
    };
    let template = environment(&place).template;
    assert!(!template.contains("AWS::EC2::VPC\n") && !template.contains("AWS::EC2::Subnet\n"), "{template}");
    assert!(template.contains(r#"Subnets: {Value: "subnet-8,subnet-9"}"#), "{template}");
}

#[test]
fn a_balancer() {
    let placement = BalancerSlot { scheme: Scheme::Internal, index: 0 };
    insta::assert_snapshot!("balancer", balancer("production", placement, &frame()).template);
}

#[test]
fn a_service() {
    let plan = put(&shop(&[("web", 8080), ("canary", 8080)]));
    insta::assert_snapshot!("service", plan.template);
    let parameters: BTreeMap<String, String> = plan.parameters.into_iter().collect();
    assert_eq!(record::read(&parameters), Ok(shop(&[("web", 8080), ("canary", 8080)])));
    assert_eq!(parameters["BalancerPublic0"], "arn:balancer");
    assert_eq!(parameters["Clients"], "i2kit: Service shop/web of environment production");
}

#[test]
fn a_service_that_ends_tls_for_some() {
    let certificate = |name: &str| format!("arn:aws:acm:eu-west-1:123456789012:certificate/{name}");
    let mut spec = shop(&[("web", 8080)]);
    spec.listeners.truncate(1);
    spec.listeners[0].tls =
        Some(Tls { certificates: vec![certificate("a"), certificate("b")], policy: None, to_pods: false });
    spec.source_ranges = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
    spec.keep_client_address = true;
    insta::assert_snapshot!("service_tls", put(&spec).template);
}

#[test]
fn an_alias() {
    let mut spec = shop(&[]);
    spec.external_name = Some("db.example.com".into());
    let plan = alias("production", &spec, "db.example.com", &frame());
    insta::assert_snapshot!("alias", plan.template);
}

#[test]
fn a_client_stays_with_its_machine_where_the_service_says_so() {
    let mut spec = shop(&[("web", 8080)]);
    let attribute = "{Key: stickiness.enabled, Value: \"true\"}";
    assert!(!put(&spec).template.contains(attribute));
    spec.sticky_clients = true;
    let plan = put(&spec);
    assert_eq!(plan.template.matches(attribute).count(), 2, "{}", plan.template);
}

/// Logical names of a template's resources of a type.
fn names(plan: &StackPlan, kind: &str) -> Vec<String> {
    let resources = plan.template.lines().filter_map(|line| line.split_once(": {Type: "));
    let wanted = resources.filter(|(_, rest)| rest.starts_with(&format!("\"AWS::{kind}\",")));
    wanted.map(|(name, _)| name.trim().to_owned()).collect()
}

#[test]
fn what_moves_within_a_list_keeps_its_name() {
    let mut spec = shop(&[("web", 8080)]);
    spec.source_ranges = vec!["192.0.2.0/24".into(), "198.51.100.0/24".into()];
    let rules = |spec: &BalancerSpec| names(&put(spec), "EC2::SecurityGroupIngress");
    let all = rules(&spec);
    spec.source_ranges.remove(0);
    let left = rules(&spec);
    assert!(left.len() == 2 && left.iter().all(|name| all.contains(name)), "{all:?} {left:?}");

    let mut spec = shop(&[("web", 8080)]);
    spec.listeners.truncate(1);
    let certificates = |spec: &mut BalancerSpec, arns: &[&str]| {
        let certificates = arns.iter().map(ToString::to_string).collect();
        spec.listeners[0].tls = Some(Tls { certificates, policy: None, to_pods: false });
        names(&put(spec), "ElasticLoadBalancingV2::ListenerCertificate")
    };
    let all = certificates(&mut spec, &["arn:a", "arn:b", "arn:c"]);
    assert_eq!(certificates(&mut spec, &["arn:c", "arn:a", "arn:b"]), all);
    let two = certificates(&mut spec, &["arn:c", "arn:b"]);
    assert!(two.len() == 2 && two.iter().all(|name| all.contains(name)), "{all:?} {two:?}");
}

#[test]
fn a_target_group_is_another_where_it_cannot_stay_the_same() {
    let name = |spec: &BalancerSpec, index| {
        let placement = BalancerSlot { scheme: Scheme::of(spec.kind), index };
        target_name(&spec.listeners[0], placement)
    };
    let spec = shop(&[("web", 8080)]);
    let first = name(&spec, 0);
    let mut tls = spec.clone();
    tls.listeners[0].tls = Some(Tls { certificates: vec!["arn:a".into()], policy: None, to_pods: true });
    let mut internal = spec.clone();
    internal.kind = ServiceType::ClusterIP;
    for other in [name(&spec, 1), name(&shop(&[("web", 8081)]), 0), name(&tls, 0), name(&internal, 0)] {
        assert_ne!(other, first);
    }
    assert_eq!(name(&shop(&[("api", 8080)]), 0), first);
}

#[test]
fn a_service_on_its_way_has_what_clients_use_and_what_comes() {
    let (old, mut new) = (shop(&[("web", 8080)]), shop(&[("web", 8081)]));
    let (here, there) = (balancer_of("here"), balancer_of("there"));
    let slot = |scheme| BalancerSlot { scheme, index: 0 };
    let from = Placed { spec: &old, placement: slot(Scheme::Public), balancer: &here };
    let targets = |plan: &StackPlan| names(plan, "ElasticLoadBalancingV2::TargetGroup");
    // Another port of the pods: its target groups are checked behind ports that nobody uses.
    let to = Placed { spec: &new, ..from };
    let plan = bridge("production", (from, to), false, &frame()).unwrap();
    assert_eq!(targets(&plan).len(), 4, "{}", plan.template);
    let rules = names(&plan, "EC2::SecurityGroupIngress");
    assert_eq!(rules, names(&put(&old), "EC2::SecurityGroupIngress"));
    assert_eq!(
        plan.parameters,
        service("production", from, &frame()).parameters,
        "until it is there it is what it was"
    );
    // Nothing new, nothing to wait for.
    assert_eq!(bridge("production", (from, from), false, &frame()), None);
    // Another load balancer: the Service's own ports there, then its name.
    new = old.clone();
    new.kind = ServiceType::ClusterIP;
    let to = Placed { spec: &new, placement: slot(Scheme::Internal), balancer: &there };
    let plan = bridge("production", (from, to), false, &frame()).unwrap();
    assert_eq!(names(&plan, "ElasticLoadBalancingV2::Listener").len(), 4);
    assert!(
        plan.template.contains("DNSName: \"here.elb") && !plan.template.contains("Warm"),
        "{}",
        plan.template
    );
    let named = bridge("production", (from, to), true, &frame()).unwrap();
    assert!(named.template.contains("DNSName: \"there.elb"), "{}", named.template);
    // Each listener is on the load balancer that it is for.
    let on =
        |slot: &str| named.template.matches(&format!("LoadBalancerArn: {{Ref: Balancer{slot}}}")).count();
    assert_eq!((on("Public0"), on("Internal0")), (2, 2), "{}", named.template);
    let arn = |name: &str| named.parameters.iter().find(|(key, _)| key == name).map(|(_, arn)| arn.as_str());
    let arns = ["BalancerPublic0", "BalancerInternal0"].map(arn);
    assert_eq!(arns, [Some("arn:here"), Some("arn:there")]);
}
