//! The templates of the frame, as AWS' own linter sees them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use i2kit::cloud::aws::plan::ingress;
use i2kit::cloud::aws::plan::packing::{BalancerSlot, Scheme};
use i2kit::cloud::aws::plan::role::{self, InstanceProfile};
use i2kit::cloud::aws::plan::stack_templates::{self, Balancer, EnvironmentPlace, Frame, Network};
use i2kit::manifest::api::{Name, Protocol, ServiceType, Tls};
use i2kit::plan::fleet::{BalancerSpec, HttpBackend, HttpRule, HttpSpec, Listener, TargetGroup};

use crate::support::tools;

#[test]
fn the_linter_finds_nothing_in_the_templates() {
    if !tools() {
        return;
    }
    let network =
        Network { vpc: "vpc-0123456789abcdef0".into(), subnets: vec!["subnet-0123456789abcdef0".into(); 2] };
    let made = Frame {
        vpc: network.vpc.clone(),
        subnets: vec!["subnet-0123456789abcdef0".into(), "subnet-0123456789abcdef1".into()],
        machines: "sg-0123456789abcdef0".into(),
        zone: "Z0123456789ABCDEFGHIJ".into(),
        profile: "profile".into(),
    };
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
        certificates: vec![],
        hosts: vec![],
        all_hosts: false,
        secrets: vec![],
        acme: None,
        plain: false,
        backends: vec![backend],
        rules: vec![rule("/", Some("*.example.com")), rule("/api", None)],
        default: Some(0),
    };
    let routed = BalancerSpec { http: Some(http.clone()), ..spec.clone() };
    let place = |network| EnvironmentPlace { environment: "production".into(), network };
    let profile = InstanceProfile { account: spec.name.clone(), role: None, secrets: BTreeSet::new() };
    let plans = [
        stack_templates::environment(&place(None)),
        stack_templates::environment(&place(Some(network))),
        stack_templates::balancer("production", placement, &made),
        stack_templates::service("production", &spec, placement, (&made, &balancer)).unwrap(),
        stack_templates::service("production", &tls, placement, (&made, &balancer)).unwrap(),
        ingress::stack("production", (&routed, &http), &[certificate("a"), certificate("b")], &made).unwrap(),
        ingress::stack("production", (&routed, &http), &[], &made).unwrap(),
        stack_templates::alias("production", &spec, "db.example.com", &made),
        role::stack("production", &profile),
        role::stack("production", &InstanceProfile { secrets: ["db".to_owned()].into(), ..profile.clone() }),
        role::stack("production", &InstanceProfile { role: Some("reader".into()), ..profile.clone() }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = plans
        .iter()
        .enumerate()
        .map(|(index, plan)| {
            let file = folder.path().join(format!("{index}.yml"));
            fs::write(&file, &plan.template).unwrap();
            file
        })
        .collect();
    let setup = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws/setup")).output().unwrap();
    let python = String::from_utf8(setup.stdout).unwrap();
    let lint = Path::new(python.trim()).with_file_name("cfn-lint");
    let found = Command::new(lint).args(["--regions", "eu-west-1", "--"]).args(&files).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}
