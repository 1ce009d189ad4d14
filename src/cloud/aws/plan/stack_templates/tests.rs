//! The templates as they are sent.

use super::*;
use crate::manifest::api::ServiceType;
use crate::plan::fleet::TargetGroup;

fn frame() -> Frame {
    Frame {
        vpc: "vpc-1".into(),
        subnets: vec!["subnet-1".into(), "subnet-2".into()],
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

fn put(spec: &BalancerSpec) -> Result<StackPlan, FrameError> {
    let balancer = Balancer {
        arn: "arn:balancer".into(),
        dns_name: "b.elb.amazonaws.com".into(),
        dns_zone: "Z2".into(),
        clients: "sg-2".into(),
    };
    let placement = BalancerSlot { scheme: Scheme::of(spec.kind), index: 0 };
    service("production", spec, placement, (&frame(), &balancer))
}

#[test]
fn an_environment_with_a_network_of_its_own() {
    let place = EnvironmentPlace { environment: "production".into(), network: None };
    insta::assert_snapshot!("environment", environment(&place).template);
}

#[test]
fn an_environment_in_a_network_that_exists() {
    let network = Network { vpc: "vpc-9".into(), subnets: vec!["subnet-8".into(), "subnet-9".into()] };
    let place = EnvironmentPlace { environment: "production".into(), network: Some(network) };
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
    let plan = put(&shop(&[("web", 8080), ("canary", 8080)])).unwrap();
    insta::assert_snapshot!("service", plan.template);
    assert_eq!(
        serde_json::from_str::<BalancerSpec>(&plan.parameters[0].1).unwrap(),
        shop(&[("web", 8080), ("canary", 8080)])
    );
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
    insta::assert_snapshot!("service_tls", put(&spec).unwrap().template);
    spec.listeners[0].tls = Some(Tls { certificates: vec![], policy: None, to_pods: true });
    assert!(put(&spec).unwrap_err().to_string().contains("names no certificate"));
}

#[test]
fn an_alias() {
    let mut spec = shop(&[]);
    spec.external_name = Some("db.example.com".into());
    let plan = alias("production", &spec, "db.example.com", &frame());
    insta::assert_snapshot!("alias", plan.template);
}

#[test]
fn what_aws_cannot_do_is_said() {
    let error = put(&shop(&[("web", 8080), ("canary", 8081)])).unwrap_err();
    assert!(error.to_string().contains("different ports"), "{error}");
    let mut sticky = shop(&[("web", 8080)]);
    sticky.sticky_clients = true;
    sticky.listeners[0].tls =
        Some(Tls { certificates: vec!["arn:certificate".into()], policy: None, to_pods: false });
    let error = put(&sticky).unwrap_err();
    assert!(error.to_string().contains("remove `sessionAffinity`"), "{error}");
}

#[test]
fn a_client_stays_with_its_machine_where_the_service_says_so() {
    let mut spec = shop(&[("web", 8080)]);
    let attribute = "{Key: stickiness.enabled, Value: \"true\"}";
    assert!(!put(&spec).unwrap().template.contains(attribute));
    spec.sticky_clients = true;
    let plan = put(&spec).unwrap();
    assert_eq!(plan.template.matches(attribute).count(), 2, "{}", plan.template);
}
