//! The templates of the frame, as AWS' own linter sees them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use i2kit::cloud::aws::plan::ingress::{self, Standing};
use i2kit::cloud::aws::plan::packing::{BalancerSlot, Scheme};
use i2kit::cloud::aws::plan::priority::Priorities;
use i2kit::cloud::aws::plan::role::{self, InstanceProfile};
use i2kit::cloud::aws::plan::stack_templates::{self, Balancer, EnvironmentPlace, Frame, Network, Placed};
use i2kit::manifest::api::{Name, Protocol, ServiceType, Tls};
use i2kit::plan::fleet::{BalancerSpec, HttpBackend, HttpRule, HttpSpec, Listener, TargetGroup};

use crate::support::tools;

/// What the stack of an environment in that network made.
fn frame(network: &Network) -> Frame {
    Frame {
        vpc: network.vpc.clone(),
        subnets: vec!["subnet-0123456789abcdef0".into(), "subnet-0123456789abcdef1".into()],
        balancer_subnets: vec!["subnet-0123456789abcdef2".into(), "subnet-0123456789abcdef3".into()],
        machines: "sg-0123456789abcdef0".into(),
        zone: "Z0123456789ABCDEFGHIJ".into(),
        profile: "profile".into(),
    }
}

/// Has AWS' own linter look at templates.
fn lint(templates: &[String]) {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = templates
        .iter()
        .enumerate()
        .map(|(index, template)| {
            let file = folder.path().join(format!("{index}.yml"));
            fs::write(&file, template).unwrap();
            file
        })
        .collect();
    let setup = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws/setup")).output().unwrap();
    let python = String::from_utf8(setup.stdout).unwrap();
    let lint = Path::new(python.trim()).with_file_name("cfn-lint");
    // W3010: zones are chosen once, by what they offer, and must never follow another order of the region's list.
    let checks = ["--regions", "eu-west-1", "--ignore-checks", "W3010", "--"];
    let found = Command::new(lint).args(checks).args(&files).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}

#[test]
fn the_linter_finds_nothing_in_the_templates() {
    if !tools() {
        return;
    }
    let network = Network {
        vpc: "vpc-0123456789abcdef0".into(),
        subnets: vec!["subnet-0123456789abcdef0".into(); 2],
        balancer_subnets: vec![],
    };
    let made = frame(&network);
    let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/net/b/0123456789abcdef";
    let balancer = Balancer {
        arn: arn.into(),
        dns_name: "b.elb.eu-west-1.amazonaws.com".into(),
        dns_zone: "Z2IFOLAFXWLO4F".into(),
        clients: "sg-0123456789abcdef1".into(),
    };
    let name = Name { namespace: "default".into(), name: "web".into() };
    let targets = vec![TargetGroup { group: name.clone(), port: 80 }];
    let listener = |port, protocol| Listener::new(port, protocol, targets.clone());
    let listeners = vec![listener(80, Protocol::Tcp), listener(53, Protocol::Udp)];
    let spec = BalancerSpec::new(name, ServiceType::LoadBalancer, listeners);
    let placement = BalancerSlot { scheme: Scheme::Public, index: 0 };
    let placed = |spec| Placed { spec, placement, balancer: &balancer };
    let mut moved = spec.clone();
    moved.listeners[0].targets[0].port = 8080;
    let mut tls = spec.clone();
    tls.source_ranges = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
    let certificate = |id: &str| format!("arn:aws:acm:eu-west-1:123456789012:certificate/{id}");
    tls.listeners[0].tls =
        Some(Tls { certificates: vec![certificate("a"), certificate("b")], policy: None, to_pods: true });
    let rule = |path: &str, host: Option<&str>| HttpRule {
        host: host.map(str::to_owned),
        path: path.into(),
        exact: false,
        backend: 0,
    };
    let backend = HttpBackend {
        service: "web".into(),
        port: 80,
        http2: false,
        targets: spec.listeners[0].targets.clone(),
    };
    let http = HttpSpec {
        backends: vec![backend],
        rules: vec![rule("/", Some("*.example.com")), rule("/api", None)],
        default: Some(0),
        ..HttpSpec::default()
    };
    let routed = BalancerSpec { http: Some(http.clone()), ..spec.clone() };
    let place = |network| EnvironmentPlace {
        environment: "production".into(),
        network,
        boundary: None,
        zones: vec!["eu-west-1a".into(), "eu-west-1b".into()],
    };
    let priorities = Priorities::new();
    let standing = |certificates| Standing { certificates, priorities: &priorities };
    let profile =
        InstanceProfile { account: spec.name.clone(), role: None, secrets: BTreeSet::new(), job: None };
    let plans = [
        stack_templates::environment(&place(None)),
        stack_templates::environment(&place(Some(network))),
        stack_templates::balancer("production", placement, &made),
        stack_templates::service("production", placed(&spec), &made),
        stack_templates::service("production", placed(&tls), &made),
        stack_templates::bridge("production", (placed(&spec), placed(&moved)), false, &made).unwrap(),
        ingress::stack(
            "production",
            (&routed, &http),
            standing(&[certificate("a"), certificate("b")]),
            &made,
        )
        .unwrap(),
        ingress::stack("production", (&routed, &http), standing(&[]), &made).unwrap(),
        stack_templates::alias("production", &spec, "db.example.com", &made),
        role::stack("production", &profile, Some("arn:aws:iam::123456789012:policy/machines")),
        role::stack(
            "production",
            &InstanceProfile { secrets: ["db".to_owned()].into(), ..profile.clone() },
            None,
        ),
        role::stack("production", &InstanceProfile { role: Some("reader".into()), ..profile.clone() }, None),
        role::stack("production", &InstanceProfile { job: Some(spec.name.clone()), ..profile.clone() }, None),
    ];
    lint(&plans.map(|plan| plan.template));
}
