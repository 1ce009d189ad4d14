//! What is wrong with a network, and what may be.

use aws_sdk_ec2::types::State;

use super::*;

fn network(machines: &[&str], balancers: &[&str]) -> Network {
    let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
    Network { vpc: "vpc-1".into(), subnets: ids(machines), balancer_subnets: ids(balancers) }
}

fn subnet(id: &str, zone: &str, free: i32) -> Subnet {
    let subnet = Subnet::builder().subnet_id(id).vpc_id("vpc-1").availability_zone(zone);
    subnet.available_ip_address_count(free).build()
}

fn has(findings: &[String], words: &[&str]) -> bool {
    findings.iter().any(|finding| words.iter().all(|word| finding.contains(word)))
}

#[test]
fn load_balancers_take_one_subnet_of_each_zone() {
    let all = [subnet("a", "z1", 99), subnet("b", "z2", 99), subnet("c", "z2", 99), subnet("d", "z1", 99)];
    let wrong = |machines: &[&str], balancers: &[&str]| {
        of_subnets(&network(machines, balancers), &all, Prospect::Surely).wrong
    };
    assert_eq!(wrong(&["a", "b"], &[]), Vec::<String>::new());
    let same = wrong(&["a", "b", "c"], &[]);
    assert!(same.len() == 1 && has(&same, &["b and c", "z2", "provider.balancerSubnets"]), "{same:?}");
    // Machines alone may have several in a zone.
    assert_eq!(wrong(&["a", "b", "c"], &["a", "b"]), Vec::<String>::new());
    assert!(has(&wrong(&["a", "b"], &["b", "c"]), &["subnets of load balancers lie in one zone"]));
    assert!(has(&wrong(&["b", "c"], &["a", "b"]), &["subnets of machines lie in one zone"]));
    let elsewhere = Subnet::builder().subnet_id("a").vpc_id("vpc-2").availability_zone("z1").build();
    let found = of_subnets(&network(&["a", "b"], &[]), &[elsewhere, subnet("b", "z2", 99)], Prospect::No);
    assert!(has(&found.wrong, &["a is not in vpc-1"]), "{found:?}");
}

#[test]
fn a_new_load_balancer_needs_free_addresses_and_one_that_is_there_none() {
    let all = [subnet("a", "z1", 7), subnet("b", "z2", 8), subnet("m", "z1", 3), subnet("n", "z2", 99)];
    let found = |machines: &[&str], balancers: &[&str], prospect| {
        of_subnets(&network(machines, balancers), &all, prospect)
    };
    let few = found(&["a", "b"], &[], Prospect::Surely).wrong;
    assert!(few.len() == 1 && has(&few, &["a has 7 free addresses", "needs 8"]), "{few:?}");
    assert_eq!(found(&["a", "b"], &[], Prospect::No), NetworkFindings::default());
    // What comes may have room on one that is there.
    let perhaps = found(&["a", "b"], &[], Prospect::Perhaps);
    assert!(perhaps.wrong.is_empty() && perhaps.doubts.len() == 1, "{perhaps:?}");
    assert!(has(&perhaps.doubts, &["a has 7 free addresses", "unless there is room"]), "{perhaps:?}");
    // Subnets of machines alone are not a load balancer's.
    assert!(!has(&found(&["m", "n"], &["a", "b"], Prospect::Surely).wrong, &["m has"]));
}

#[test]
fn what_is_made_says_what_the_network_must_have() {
    use crate::manifest::api::{Name, Protocol, ServiceType};
    use crate::plan::fleet::{HttpSpec, Listener};
    let spec = |kind| {
        let name = Name { namespace: "default".into(), name: "web".into() };
        BalancerSpec::new(name, kind, vec![Listener::new(80, Protocol::Tcp, vec![])])
    };
    let made_beside = |specs: &[BalancerSpec], there: &[Scheme]| {
        let to_make = ToMake::of(specs.iter(), &there.iter().copied().collect());
        (to_make.balancers, to_make.is_public)
    };
    let made = |specs: &[BalancerSpec]| made_beside(specs, &[]);
    let (internal, public) = (spec(ServiceType::ClusterIP), spec(ServiceType::LoadBalancer));
    assert_eq!(made(&[]), (Prospect::No, false));
    assert_eq!(made(std::slice::from_ref(&internal)), (Prospect::Surely, false));
    assert_eq!(made(&[internal.clone(), public.clone()]), (Prospect::Surely, true));
    // It may share one of its scheme; of another scheme it needs one, and an Ingress has its own.
    let both = [internal.clone(), public];
    assert_eq!(made_beside(&both, &[Scheme::Internal, Scheme::Public]), (Prospect::Perhaps, true));
    assert_eq!(made_beside(&both, &[Scheme::Internal]), (Prospect::Surely, true));
    let ingress = BalancerSpec { http: Some(HttpSpec::default()), ..internal };
    assert_eq!(made_beside(&[ingress], &[Scheme::Internal]), (Prospect::Surely, false));
    let alias = BalancerSpec { external_name: Some("db.example".into()), ..spec(ServiceType::LoadBalancer) };
    assert_eq!(made(&[alias]), (Prospect::No, false));
}

fn resolver(servers: Option<&[&str]>) -> NetworkFindings {
    let vpc = Vpc::builder().vpc_id("vpc-1").cidr_block("10.1.0.0/16").build();
    let options = servers.map(|servers| {
        let values = servers.iter().map(|server| AttributeValue::builder().value(*server).build());
        let configuration = DhcpConfiguration::builder()
            .key("domain-name-servers")
            .set_values(Some(values.collect()))
            .build();
        DhcpOptions::builder().dhcp_options_id("dopt-1").dhcp_configurations(configuration).build()
    });
    of_resolver(&vpc, options.as_ref())
}

#[test]
fn private_zones_need_amazons_name_server() {
    for good in ["AmazonProvidedDNS", "169.254.169.253", "fd00:ec2::253", "10.1.0.2"] {
        assert_eq!(resolver(Some(&[good, "10.9.9.9"])), NetworkFindings::default(), "{good}");
        // Whoever is asked first and knows no such name is believed.
        assert!(has(&resolver(Some(&["10.9.9.9", good])).doubts, &["name 10.9.9.9 first"]), "{good}");
    }
    let other = resolver(Some(&["10.9.9.9"]));
    assert!(other.wrong.is_empty(), "{other:?}");
    assert!(has(&other.doubts, &["10.9.9.9", "cluster.local", "domain-name-servers=AmazonProvidedDNS"]));
    let empty: &[&str] = &[];
    for none in [None, Some(empty)] {
        assert!(has(&resolver(none).wrong, &["name no name server", "AmazonProvidedDNS"]));
    }
}

#[test]
fn a_right_that_an_older_policy_lacks_is_a_doubt() {
    let denied = |operation: &str, code: &str| {
        let error = CloudError::Api {
            operation: operation.into(),
            code: code.into(),
            message: String::new(),
            advice: "".into(),
            transient: false,
        };
        unless_denied("ec2:DescribeDhcpOptions", Err(error))
    };
    let found = denied("DescribeDhcpOptions", "UnauthorizedOperation").unwrap();
    assert!(found.wrong.is_empty(), "{found:?}");
    assert!(has(&found.doubts, &["lack ec2:DescribeDhcpOptions", "`i2kit iam-policy`"]), "{found:?}");
    assert!(denied("DescribeDhcpOptions", "ExpiredToken").is_err());
    // Without the others nothing can be made anyway.
    assert!(denied("DescribeStacks", "AccessDenied").is_err());
}

fn stack(name: String, part: &str, status: &str) -> Stack {
    let (outputs, parameters) = (BTreeMap::new(), BTreeMap::new());
    Stack { name, status: status.into(), part: part.into(), outputs, parameters, changed: 0 }
}

#[test]
fn what_somebody_changes_or_nobody_can_read_has_its_load_balancer() {
    use crate::cloud::aws::plan::packing::BalancerSlot;
    use crate::cloud::aws::plan::record;
    use crate::manifest::api::{Name, ServiceType};
    let name = Name { namespace: "default".into(), name: "ingress/web".into() };
    let spec = |kind| BalancerSpec::new(name.clone(), kind, vec![]);
    let own = name::service_stack("test", &name);
    let mut service = stack(own, "service", "CREATE_COMPLETE");
    service.parameters.extend(record::write(&spec(ServiceType::LoadBalancer)));
    let has = |service: &Stack, kind| has_its_balancer("test", std::slice::from_ref(service), &spec(kind));
    assert!(has(&service, ServiceType::LoadBalancer) && !has(&service, ServiceType::ClusterIP));
    let slot = BalancerSlot { scheme: Scheme::Public, index: 1 };
    let balancer = |status| [stack(name::balancer_stack("test", slot), "balancer", status)];
    let there = |status| !schemes_there("test", &balancer(status)).is_empty();
    let here = ["CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"];
    for status in here {
        service.status = status.into();
        assert!(has(&service, ServiceType::LoadBalancer), "{status}");
        assert!(there(status), "{status}");
    }
    service.parameters.insert("Spec0".into(), "{}".into());
    // That of an Ingress says nothing else; that of a Service says on which load balancer it is.
    assert!(has(&service, ServiceType::LoadBalancer) && has(&service, ServiceType::ClusterIP));
    service.parameters.insert("Placement".into(), slot.to_string());
    assert!(has(&service, ServiceType::LoadBalancer) && !has(&service, ServiceType::ClusterIP));
    let gone = [
        "ROLLBACK_COMPLETE",
        "ROLLBACK_IN_PROGRESS",
        "CREATE_FAILED",
        "DELETE_IN_PROGRESS",
        "REVIEW_IN_PROGRESS",
    ];
    for status in gone {
        service.status = status.into();
        assert!(!has(&service, ServiceType::LoadBalancer), "{status}");
        assert!(!there(status), "{status}");
    }
    let other = Name { namespace: "default".into(), name: "ingress/api".into() };
    let other = BalancerSpec { name: other, ..spec(ServiceType::LoadBalancer) };
    service.status = "CREATE_COMPLETE".into();
    assert!(!has_its_balancer("test", std::slice::from_ref(&service), &other));
    // Nothing is to be made for what has its load balancer, and for the other one a load balancer is.
    let own = spec(ServiceType::LoadBalancer);
    assert_eq!(to_make("test", std::slice::from_ref(&service), std::slice::from_ref(&own)), None);
    let both = to_make("test", &[service], &[own, other]);
    assert_eq!(both, Some(ToMake { balancers: Prospect::Surely, is_public: true }));
    assert_eq!(schemes_there("test", &balancer("CREATE_COMPLETE")), BTreeSet::from([Scheme::Public]));
    assert!(schemes_there("other", &balancer("CREATE_COMPLETE")).is_empty());
}

#[test]
fn a_stack_that_never_came_to_be_hides_its_zone() {
    let hides = |status: &str| hides_its_zone(&stack("i2kit-test".into(), "environment", status));
    for status in ["CREATE_IN_PROGRESS", "CREATE_FAILED", "ROLLBACK_FAILED", "DELETE_FAILED"] {
        assert!(hides(status), "{status}");
    }
    assert!(!hides("CREATE_COMPLETE") && !hides("ROLLBACK_COMPLETE"));
}

#[test]
fn a_network_has_one_private_zone_of_a_name() {
    let zones = |all: &[(&str, &str)], own| {
        let all: Vec<(String, String)> =
            all.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect();
        of_other_zones("vpc-1", &all, own).wrong
    };
    let here = [("Z1", "example.com."), ("Z2", "cluster.local.")];
    let found = zones(&here, None);
    assert!(has(&found, &["vpc-1", "cluster.local", "Z2", "network of its own"]), "{found:?}");
    assert_eq!(zones(&here, Some("Z2")), Vec::<String>::new());
    assert!(has(&zones(&here, Some("Z1")), &["Z2"]));
    assert_eq!(zones(&[("/hostedzone/Z2", "cluster.local")], Some("Z2")), Vec::<String>::new());
    assert_eq!(zones(&[("Z3", "db.cluster.local.")], None), Vec::<String>::new());
}

#[test]
fn machines_without_a_way_out_need_endpoints() {
    let endpoint = |service: &str, is_private: bool| {
        let endpoint = VpcEndpoint::builder().service_name(format!("com.amazonaws.eu-west-1.{service}"));
        endpoint.state(State::from("available")).private_dns_enabled(is_private).build()
    };
    let doubts =
        |endpoints: &[VpcEndpoint]| of_endpoints(("vpc-1", "eu-west-1"), &["a", "b"], endpoints).doubts;
    let none = doubts(&[]);
    assert!(has(&none, &["machines in a, b", "NAT gateway", "no Secrets"]), "{none:?}");
    assert!(has(
        &none,
        &["private DNS of com.amazonaws.eu-west-1.secretsmanager, com.amazonaws.eu-west-1.logs:"]
    ));
    let one = doubts(&[endpoint("logs", true)]);
    assert!(has(&one, &["private DNS of com.amazonaws.eu-west-1.secretsmanager:"]), "{one:?}");
    // Without private DNS machines ask the public address.
    assert!(!doubts(&[endpoint("logs", true), endpoint("secretsmanager", false)]).is_empty());
    assert_eq!(doubts(&[endpoint("logs", true), endpoint("secretsmanager", true)]), Vec::<String>::new());
}
