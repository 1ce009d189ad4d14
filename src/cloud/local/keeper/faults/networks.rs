//! Machines that need a network of their environment, on a host that gives none any more.

use super::{REPLICAS, Sim, launch, name};
use crate::manifest::api::{ServiceType, Strategy};
use crate::plan::act::Act;
use crate::plan::example;
use crate::plan::fleet::{BalancerSpec, GroupPolicy, GroupSettings, Headless, Health, InstanceState};

/// A host that gave a network is restarted and gives none; later it does again.
fn comes_back_in_its_network(settings: &GroupSettings, balancer: Option<&BalancerSpec>) {
    let mut sim = Sim::new(None);
    sim.state.addresses.are_given = true;
    sim.command(|sim| {
        sim.apply(Act::PutImage { image: super::image(1) })?;
        balancer.into_iter().try_for_each(|spec| sim.apply(Act::PutBalancer { spec: spec.clone() }))?;
        sim.roll_out(settings.clone(), launch(1), 1)
    });
    sim.until("two machines", |sim| sim.converged(REPLICAS));
    sim.world().alive.clear();
    sim.restart();
    sim.state.addresses.refusal = Some("modprobe tun".to_owned());
    for _ in 0..1000 {
        sim.tick();
        assert!(sim.world().alive.is_empty(), "a machine was started without its network");
    }
    let says_why = |sim: &Sim| {
        sim.group().unwrap().instances.values().any(|record| match &record.health {
            Health::Unhealthy { reason } | Health::Lost { reason } => reason.contains("modprobe tun"),
            Health::Starting { .. } | Health::Healthy => false,
        })
    };
    assert!(says_why(&sim), "{:#?}", sim.group());
    sim.state.addresses.are_given = true;
    sim.until("two machines", |sim| sim.converged(REPLICAS));
    let records = sim.group().unwrap().instances.values();
    let mut running = records.filter(|record| record.state == InstanceState::Running);
    assert!(running.all(|record| record.address.is_some()));
}

#[test]
fn a_machine_with_a_policy_is_never_started_without_an_address() {
    let policy = GroupPolicy { ingress: Some(vec![]), egress: None };
    let open = example::settings(Strategy::Recreate);
    comes_back_in_its_network(&GroupSettings { policy: Some(policy.into()), ..open.clone() }, None);
    // The group itself has no policy: another one of its environment works only in the network.
    let headless = BalancerSpec {
        headless: Some(Headless { groups: Vec::new(), not_ready: false }),
        ..BalancerSpec::new(name(), ServiceType::ClusterIP, vec![])
    };
    comes_back_in_its_network(&open, Some(&headless));
}
