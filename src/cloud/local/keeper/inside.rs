//! Networks of environments as the records want them: their rules, who carries in them, and connections of machines that are
//! drained.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::Keeper;
use super::state::blocking;
use crate::cloud::CloudError;
use crate::cloud::engine::environment::{BalancerRecord, Environment, InstanceRecord};
use crate::cloud::local::mover::ListenerId;
use crate::cloud::local::network::addresses;
use crate::cloud::local::network::wanted::{self, Allow, Block, Policy, Ports, Service, Wanted};
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{GroupPolicy, InstanceState, Peer, Reachable, TargetGroup};

/// After so many rounds a network that is not carried in is opened again.
const REOPEN_ROUNDS: u64 = 10;

/// Gives the front door the networks that it does not have yet.
/// `missing` has for how many rounds each was not carried in.
pub(super) async fn join(keeper: &Keeper, missing: &mut BTreeMap<String, u64>) -> Result<(), CloudError> {
    let failed = |name: &str, error: &dyn std::fmt::Display| CloudError::Program {
        program: "the network".into(),
        message: format!("the front door does not carry in the network of {name}: {error}"),
    };
    let carried = keeper.mover.report().networks;
    missing.retain(|name, _| !carried.contains(name));
    for (name, network) in keeper.networks.all() {
        if let Some(given) = network.to_give().map_err(|error| failed(&name, &error))? {
            keeper.mover.give(&name, &given).await.map_err(|error| failed(&name, &error))?;
            network.given();
        } else if !carried.contains(&name) {
            // A process that was killed is there again soon; a front door that was ended has left what it had.
            let rounds = missing.entry(name.clone()).or_default();
            *rounds += 1;
            if rounds.is_multiple_of(REOPEN_ROUNDS) {
                blocking(|| network.reopen()).map_err(|error| failed(&name, &error))?;
            }
        }
    }
    Ok(())
}

/// The number of connections of each machine that is drained: those of others cost a look that nobody needs.
pub(super) fn connections(keeper: &Keeper) -> BTreeMap<String, u32> {
    let drained: Vec<(String, String, Ipv4Addr)> = {
        let state = keeper.state();
        let records = state.environments.iter().flat_map(|(name, environment)| {
            let instances = environment.groups.values().flat_map(|group| group.instances.values());
            instances.map(move |record| (name, record))
        });
        let drained = records.filter(|(_, record)| record.state == InstanceState::Draining);
        drained
            .filter_map(|(name, record)| Some((name.clone(), record.id.to_string(), record.address?)))
            .collect()
    };
    let mut counts = BTreeMap::new();
    for (environment, id, address) in drained {
        // What cannot be counted is waited for until the grace period is over.
        let network = keeper.networks.find(&environment);
        let found = network.and_then(|network| network.connections().ok());
        let count = found.map_or(1, |found| found.get(&address).copied().unwrap_or(0));
        counts.insert(id, count);
    }
    counts
}

/// Makes the rules of each environment's network what is wanted.
pub(super) fn rule(keeper: &Keeper) -> Result<(), CloudError> {
    let wanted: BTreeMap<String, Wanted> = {
        let state = keeper.state();
        let wanted = |(name, environment): (&String, &Environment)| (name.clone(), wanted(environment));
        // One that has disks alone needs no network.
        state.environments.iter().filter(|(_, environment)| !environment.is_idle()).map(wanted).collect()
    };
    keeper.networks.keep(&wanted.keys().cloned().collect());
    for (name, wanted) in wanted {
        let Some(network) = keeper.networks.find(&name) else { continue };
        network.apply(&wanted).map_err(|error| CloudError::Program {
            program: "the network".into(),
            message: format!("the rules of {name} cannot be written: {error}"),
        })?;
    }
    Ok(())
}

/// What the network of an environment is to be.
fn wanted(environment: &Environment) -> Wanted {
    let mut services = Vec::new();
    for (_, balancer) in balanced(environment) {
        let Ok(host) = balancer.host.parse() else { continue };
        for listener in &balancer.spec.listeners {
            let backends =
                listener.targets.iter().flat_map(|target| serving(environment, &target.group, target.port));
            services.push(Service {
                address: wanted::service_address(host),
                protocol: listener.protocol,
                port: listener.port,
                has_affinity: balancer.spec.sticky_clients,
                backends: backends.collect(),
            });
        }
    }
    Wanted { machines: machines(environment), services, policies: policies(environment) }
}

/// What is kept from machines, and machines from, by the policies of their groups.
fn policies(environment: &Environment) -> Vec<Policy> {
    let mut policies = Vec::new();
    for group in environment.groups.values() {
        let Some(GroupPolicy { ingress, egress }) = group.settings.policy.as_deref() else { continue };
        let allowed = |rules: &Option<Vec<Reachable>>| {
            rules
                .as_ref()
                .map(|rules| rules.iter().flat_map(|rule| allowed(environment, rule)).collect::<Vec<_>>())
        };
        let (ingress, egress) = (allowed(ingress), allowed(egress));
        let there = group.instances.values().filter(|record| record.state != InstanceState::Ended);
        policies.extend(there.filter_map(|record| record.address).map(|machine| Policy {
            machine,
            ingress: ingress.clone(),
            egress: egress.clone(),
        }));
    }
    policies
}

/// A rule by addresses: each other side on each of the ports.
fn allowed(environment: &Environment, rule: &Reachable) -> Vec<Allow> {
    let ports: Vec<Option<Ports>> = match &rule.ports {
        None => vec![None],
        Some(ports) => ports
            .iter()
            .map(|port| Some(Ports { protocol: port.protocol, range: (port.first, port.last) }))
            .collect(),
    };
    let blocks = |peer: &Peer| -> Vec<(Block, Vec<Block>)> {
        match peer {
            Peer::Everybody => vec![(Block { address: Ipv4Addr::UNSPECIFIED, bits: 0 }, vec![])],
            Peer::Group(name) => {
                let records = environment.groups.get(name).map(|group| group.instances.values());
                let there =
                    records.into_iter().flatten().filter(|record| record.state != InstanceState::Ended);
                let one = |address| (Block { address, bits: 32 }, vec![]);
                there.filter_map(|record| record.address).map(one).collect()
            }
            // There is nobody with an address of IPv6.
            Peer::Block { cidr, except } => {
                let except = except.iter().filter_map(|block| block.parse().ok()).collect();
                cidr.parse().ok().map(|block| (block, except)).into_iter().collect()
            }
        }
    };
    let sides = rule.peers.iter().flat_map(blocks);
    sides
        .flat_map(|(peer, except)| {
            ports
                .iter()
                .map(move |ports| Allow { peer, except: except.clone(), ports: *ports })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A port of a machine behind an Ingress, with the listener of the front door by which the HTTP proxy reaches it: the proxy is
/// in no environment's network.
#[derive(Debug)]
pub(super) struct Proxied {
    /// The listener. Its name has a slash, which no Service's has.
    pub(super) id: ListenerId,
    /// Its address on this host.
    pub(super) host: Ipv4Addr,
    /// The machine.
    pub(super) machine: String,
    /// Its port in the environment's network.
    pub(super) inside: SocketAddrV4,
    /// Whether it serves.
    pub(super) serves: bool,
}

/// The machines behind a target of an Ingress of the environment `name`. Those that are drained finish what they have.
pub(super) fn proxied(name: &str, environment: &Environment, target: &TargetGroup) -> Vec<Proxied> {
    let records = environment.groups.get(&target.group).map(|group| group.instances.values());
    let there = records.into_iter().flatten().filter(|record| record.state != InstanceState::Ended);
    let proxied = |record: &InstanceRecord| {
        let address = record.address?;
        let service =
            Name { namespace: target.group.namespace.clone(), name: format!("machine/{}", record.id) };
        let environment = name.to_owned();
        Some(Proxied {
            id: ListenerId { environment, service, port: target.port, protocol: Protocol::Tcp },
            host: addresses::machine(address),
            machine: record.id.to_string(),
            inside: SocketAddrV4::new(address, target.port),
            serves: record.serves(),
        })
    };
    there.filter_map(proxied).collect()
}

/// Services whose connections are balanced: those of headless ones go to machines.
pub(super) fn balanced(environment: &Environment) -> impl Iterator<Item = (&Name, &BalancerRecord)> {
    environment.balancers.iter().filter(|(_, balancer)| balancer.spec.headless.is_none())
}

/// The addresses of all VMs of an environment that are there.
fn machines(environment: &Environment) -> BTreeSet<Ipv4Addr> {
    let records = environment.groups.values().flat_map(|group| group.instances.values());
    let there = records.filter(|record| record.state != InstanceState::Ended);
    there.filter_map(|record| record.address).collect()
}

/// VMs of a group that serve, with a port of theirs.
fn serving(environment: &Environment, group: &Name, port: u16) -> Vec<SocketAddrV4> {
    let Some(group) = environment.groups.get(group) else { return Vec::new() };
    let serving = group.instances.values().filter(|record| record.serves());
    serving.filter_map(|record| Some(SocketAddrV4::new(record.address?, port))).collect()
}
