//! The wanted state of environments' networks, from the records: rules, holders, the hand-over to the front door, and
//! connection counts of drained machines.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Keeper;
use crate::cloud::CloudError;
use crate::cloud::engine::environment::{BalancerRecord, Environment, GroupRecord, InstanceRecord};
use crate::cloud::local::blocking::blocking;
use crate::cloud::local::mover::{Backend, ListenerId, Report};
use crate::cloud::local::network::addresses;
use crate::cloud::local::network::wanted::{
    self, Addresses, Allow, Block, Policy, Ports, Range, Wanted, WantedService,
};
use crate::cloud::local::supervise::supervise;
use crate::manifest::api::{IpFamily, Name, Protocol};
use crate::plan::fleet::{GroupPolicy, InstanceState, Peer, PolicyPorts, Reachable, TargetGroup};

/// After this time a network that is not carried in is opened again: a front door that was killed is back by then.
const REOPEN: Duration = Duration::from_secs(2);

/// Between two looks for holders that have ended; one that ends again and again is started no more often.
const HOLDERS: Duration = Duration::from_secs(2);

/// Networks that the front door does not carry in, each with the time since when, or when it was opened again last; and why
/// it could not be.
#[derive(Debug, Default)]
pub(super) struct Missing(BTreeMap<String, (Instant, Option<String>)>);

impl Missing {
    /// Whether the front door carries in all networks.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the network is to be opened again `now`. Rounds follow each other at once while there is something to do, so
    /// that they measure no time.
    fn is_due(&mut self, name: &str, now: Instant) -> bool {
        let (since, _) = self.0.entry(name.to_owned()).or_insert((now, None));
        let is_due = now.saturating_duration_since(*since) >= REOPEN;
        if is_due {
            *since = now;
        }
        is_due
    }

    /// Opens the network again where that is due `now`. Until the next time it failed as it did the last time.
    fn reopen(
        &mut self,
        name: &str,
        now: Instant,
        open: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), String> {
        let opened = self.is_due(name, now).then(open);
        let Some((_, reason)) = self.0.get_mut(name) else { return Ok(()) };
        if let Some(opened) = opened {
            *reason = opened.err().map(|error| error.to_string());
        }
        reason.clone().map_or(Ok(()), Err)
    }
}

/// Gives the front door the networks that it does not have yet.
pub(super) async fn join(keeper: &Keeper, missing: &mut Missing) -> Result<(), CloudError> {
    let failed = |name: &str, error: &dyn std::fmt::Display| CloudError::Program {
        program: "the network".into(),
        message: format!("the front door does not carry in the network of {name}: {error}"),
    };
    let carried = keeper.mover.report().networks;
    let networks = keeper.networks.all();
    // One that is gone is missed no more, nor is the next one of its name at once.
    missing.0.retain(|name, _| !carried.contains(name) && networks.iter().any(|(known, _)| known == name));
    let mut joined = Ok(());
    // Each has its turn, whatever becomes of another one.
    for (name, network) in networks {
        let done = match blocking(|| network.to_give()) {
            Err(error) => Err(failed(&name, &error)),
            Ok(Some(given)) => {
                let given = keeper.mover.give(&name, &given).await;
                if given.is_ok() {
                    // Ports are bound with it: the next round has them reported.
                    keeper.changed.notify_one();
                }
                given.map(|()| network.given()).map_err(|error| failed(&name, &error))
            }
            Ok(None) if !carried.contains(&name) => {
                // A process that was killed is there again soon; a front door that was ended has left what it had.
                let reopened = missing.reopen(&name, Instant::now(), || blocking(|| network.reopen()));
                reopened.map_err(|reason| failed(&name, &reason))
            }
            Ok(None) => Ok(()),
        };
        joined = joined.and(done);
    }
    joined
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
    // One that has disks alone needs no network.
    let needs = |(name, environment): (&String, &Environment)| (!environment.is_idle()).then(|| name.clone());
    let names: BTreeSet<String> = keeper.state().environments.iter().filter_map(needs).collect();
    keeper.networks.keep(&names);
    keeper.note_networks();
    each(&names, |name| rule_one(keeper, name))
}

/// Starts holders of networks that have ended again, until the process is to end: before somebody asks one, and waits.
pub(in crate::cloud::local) async fn keep_holders(keeper: Arc<Keeper>) {
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    let ending = keeper.ending.clone();
    let make = move || replace_holders(Arc::clone(&keeper));
    supervise(tasks, log, "look at holders of networks".to_owned(), ending, make).await;
}

/// Looks for holders that have ended, again and again.
async fn replace_holders(keeper: Arc<Keeper>) -> Result<(), String> {
    loop {
        tokio::time::sleep(HOLDERS).await;
        let mut failed = None;
        // Each has its turn, whatever becomes of another one.
        for (name, network) in keeper.networks.all() {
            let replaced = tokio::task::spawn_blocking(move || network.keep_holder()).await;
            match replaced.map_err(io::Error::other).flatten() {
                Ok(false) => {}
                Ok(true) => {
                    let log = &keeper.log;
                    log.write(format_args!(
                        "the holder of the network of {name} has ended; another one is there"
                    ));
                }
                Err(error) => failed = Some(format!("that of {name} cannot be started: {error}")),
            }
        }
        keeper.tasks.tell(&keeper.log, "holders of networks", failed.map_or(Ok(()), Err));
    }
}

impl Keeper {
    /// Has the network of an environment enforce what is wanted now. Blocks while the kernel takes the rules. A network in
    /// which machines run is found by them first, should this process not have done so yet.
    pub(in crate::cloud::local) fn enforce(&self, environment: &str) -> Result<(), CloudError> {
        let is_in_use = self.state().environments.get(environment).is_some_and(has_addresses);
        blocking(|| {
            if is_in_use {
                self.network(environment)?;
            }
            rule_one(self, environment)
        })
    }

    /// Whether the network of an environment comes with its first machine: until then the front door binds none of its ports.
    /// `carried` is what the front door reports.
    pub(in crate::cloud::local) fn awaits_network(&self, environment: &str, carried: &Report) -> bool {
        let state = self.state();
        let awaits = |found: &Environment| state.addresses.are_in(found) && !has_addresses(found);
        !carried.networks.contains(environment) && state.environments.get(environment).is_some_and(awaits)
    }
}

/// Whether it has machines with addresses: they run in the environment's network.
fn has_addresses(environment: &Environment) -> bool {
    environment.groups.values().any(|group| addresses_of(group).next().is_some())
}

/// Makes the rules of the network of an environment, if it has one, what is wanted now.
fn rule_one(keeper: &Keeper, name: &str) -> Result<(), CloudError> {
    let Some(network) = keeper.networks.find(name) else { return Ok(()) };
    let now = || {
        let state = keeper.state();
        let families = |environment| state.addresses.families(name, environment);
        let found = state.environments.get(name);
        found.map_or_else(Wanted::default, |environment| wanted(environment, &families(environment)))
    };
    network.apply(now).map_err(|error| CloudError::Program {
        program: "the network".into(),
        message: format!("the rules of {name} cannot be written: {error}"),
    })
}

/// Does something for each environment, whatever becomes of another one. The error is the first one.
fn each(
    names: &BTreeSet<String>,
    mut act: impl FnMut(&str) -> Result<(), CloudError>,
) -> Result<(), CloudError> {
    let mut done = Ok(());
    for name in names {
        let result = act(name);
        done = done.and(result);
    }
    done
}

/// What the network of an environment is to be, whose machines have addresses of these families.
fn wanted(environment: &Environment, families: &[IpFamily]) -> Wanted {
    let has_ipv6 = families.contains(&IpFamily::V6);
    let mut services = Vec::new();
    for (_, balancer) in balanced(environment) {
        let Ok(host) = balancer.host.parse() else { continue };
        // Those that its names have: without machines of a family nobody serves at the address.
        let families = balancer.spec.families.there(has_ipv6);
        for (listener, family) in balancer
            .spec
            .listeners
            .iter()
            .flat_map(|listener| families.iter().map(move |family| (listener, *family)))
        {
            let backends = listener
                .targets
                .iter()
                .flat_map(|target| serving(environment, &target.group, (family, target.port)));
            services.push(WantedService {
                address: wanted::service_address(host, family),
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
    let restricted = environment.groups.values().filter_map(|group| {
        let GroupPolicy { ingress, egress } = group.settings.policy.as_deref()?;
        let machines: Vec<IpAddr> = addresses_of(group).collect();
        let allowed =
            |rules: &Option<Vec<Reachable>>| rules.as_ref().map(|rules| allowed(environment, rules));
        (!machines.is_empty()).then(|| Policy {
            machines,
            ingress: allowed(ingress),
            egress: allowed(egress),
        })
    });
    restricted.collect()
}

/// The addresses of a group's machines that are there, of both families.
fn addresses_of(group: &GroupRecord) -> impl Iterator<Item = IpAddr> {
    let there = group.instances.values().filter(|record| record.state != InstanceState::Ended);
    there.flat_map(|record| {
        let both = [record.address.map(IpAddr::V4), record.address6.map(IpAddr::V6)];
        both.into_iter().flatten()
    })
}

/// Rules by addresses; those with the same ports are one.
fn allowed(environment: &Environment, rules: &[Reachable]) -> Vec<Allow> {
    let mut found: Vec<(&Option<Vec<PolicyPorts>>, Vec<Range>)> = Vec::new();
    for Reachable { peers, ports } in rules {
        let ranges = peers.iter().flat_map(|peer| ranges(environment, peer));
        match found.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, known)) => known.extend(ranges),
            None => found.push((ports, ranges.collect())),
        }
    }
    let port = |port: &PolicyPorts| Ports { protocol: port.protocol, range: (port.first, port.last) };
    let allow = |(ports, ranges): (&Option<Vec<PolicyPorts>>, _)| Allow {
        peers: Addresses::of(ranges),
        ports: ports.as_ref().map(|ports| ports.iter().map(port).collect()),
    };
    found.into_iter().map(allow).collect()
}

/// The addresses of the other side of a rule. A range that cannot be read, or whose exceptions cannot, allows nobody.
fn ranges(environment: &Environment, peer: &Peer) -> Vec<Range> {
    match peer {
        Peer::Everybody => [IpFamily::V4, IpFamily::V6].map(wanted::everything).into(),
        Peer::Group(name) => {
            let group = environment.groups.get(name);
            group.into_iter().flat_map(addresses_of).map(|address| (address, address)).collect()
        }
        Peer::Block { cidr, except } => {
            let Ok(block) = cidr.parse::<Block>() else { return Vec::new() };
            let except: Result<Vec<Block>, _> = except.iter().map(|block| block.parse()).collect();
            // An exception of the other family excepts nothing, and was not meant so.
            let except = except.ok().filter(|all| all.iter().all(|one| one.family() == block.family()));
            except.map(|except| block.without(&except)).unwrap_or_default()
        }
    }
}

/// What the HTTP proxy leads to: backends of Ingresses, and machines behind ports of Services that end TLS.
pub(super) fn proxy_targets(environment: &Environment) -> impl Iterator<Item = &TargetGroup> {
    let specs = || environment.balancers.values().map(|balancer| &balancer.spec);
    let ingresses = specs().filter_map(|spec| spec.http.as_ref()).flat_map(|http| &http.backends);
    let listeners = specs().filter(|spec| spec.headless.is_none()).flat_map(|spec| &spec.listeners);
    let ports = listeners.filter(|listener| listener.tls.is_some());
    ingresses.flat_map(|backend| &backend.targets).chain(ports.flat_map(|listener| &listener.targets))
}

/// A port of a machine behind the HTTP proxy, with the listener of the front door by which the HTTP proxy reaches it: the proxy is
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

/// The machines behind a target of the HTTP proxy in the environment `name`. Those that are drained finish what they have.
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
fn machines(environment: &Environment) -> BTreeMap<Ipv4Addr, Option<Ipv6Addr>> {
    let records = environment.groups.values().flat_map(|group| group.instances.values());
    let there = records.filter(|record| record.state != InstanceState::Ended);
    there.filter_map(|record| Some((record.address?, record.address6))).collect()
}

/// VMs behind a target that serve, as they are reached in the environment's network.
pub(super) fn backends(environment: &Environment, target: &TargetGroup) -> Vec<Backend> {
    let group = environment.groups.get(&target.group);
    let serving =
        group.into_iter().flat_map(|group| group.instances.values()).filter(|record| record.serves());
    let backend = |record: &InstanceRecord| {
        let address = SocketAddr::from((record.address?, target.port));
        Some(Backend { machine: record.id.to_string(), address })
    };
    serving.filter_map(backend).collect()
}

/// VMs of a group that serve, with a port of theirs, by their addresses of a family.
fn serving(environment: &Environment, group: &Name, (family, port): (IpFamily, u16)) -> Vec<SocketAddr> {
    let Some(group) = environment.groups.get(group) else { return Vec::new() };
    let serving = group.instances.values().filter(|record| record.serves());
    let address = |record: &InstanceRecord| match family {
        IpFamily::V4 => record.address.map(IpAddr::V4),
        IpFamily::V6 => record.address6.map(IpAddr::V6),
    };
    serving.filter_map(address).map(|address| SocketAddr::new(address, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;
    use crate::cloud::local::mover::dns::zone::NameRecord;
    use crate::manifest::api::{IpFamilies, ServiceType, Tls};
    use crate::plan::fleet::{BalancerSpec, Health, Listener};

    #[test]
    fn every_environment_has_its_turn_and_the_first_error_is_told() {
        let all: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let mut done = Vec::new();
        let result = each(&all, |name| {
            done.push(name.to_owned());
            if name == "c" { Ok(()) } else { Err(CloudError::Store { message: name.to_owned() }) }
        });
        assert_eq!(done, ["a", "b", "c"]);
        assert!(matches!(result, Err(CloudError::Store { message }) if message == "a"));
    }

    #[test]
    fn the_proxy_leads_to_ports_with_tls_and_to_backends_of_ingresses_alone() {
        let name = |name: &str| Name { namespace: "default".into(), name: name.into() };
        let spec = |spec| serde_json::from_value::<BalancerSpec>(spec).unwrap();
        let target = |port: u16| serde_json::json!([{"group": name("web"), "port": port}]);
        let tls = Tls { certificates: vec![], policy: None, to_pods: false };
        let service = spec(serde_json::json!({"name": name("web"), "kind": "LoadBalancer", "listeners": [
            {"port": 80, "protocol": "TCP", "targets": target(1)},
            {"port": 443, "protocol": "TCP", "targets": target(2), "tls": tls},
        ]}));
        let ingress =
            spec(serde_json::json!({"name": name("ingress/web"), "kind": "LoadBalancer", "listeners": [],
            "http": {"rules": [], "backends": [{"service": "web", "port": 80, "targets": target(3)}]}}));
        let record = |spec: BalancerSpec| (spec.name.clone(), BalancerRecord { spec, host: String::new() });
        let balancers = [record(service), record(ingress)].into();
        let environment = Environment { balancers, ..Environment::default() };
        let ports: BTreeSet<u16> = proxy_targets(&environment).map(|target| target.port).collect();
        assert_eq!(ports, BTreeSet::from([2, 3]));
    }

    #[test]
    fn a_service_is_served_at_the_addresses_that_its_names_have() {
        let mut environment = crate::cloud::local::store::sample().remove("local").unwrap();
        let name = Name { namespace: "default".into(), name: "web".into() };
        let families = |list: &[IpFamily]| IpFamilies { list: list.to_vec(), required: false };
        let listener = Listener {
            port: 80,
            protocol: Protocol::Tcp,
            name: None,
            targets: vec![TargetGroup { group: name.clone(), port: 8080 }],
            tls: None,
        };
        let [v4, v6] = [IpFamily::V4, IpFamily::V6];
        for has in [&[v4][..], &[v4, v6]] {
            for record in environment.groups.get_mut(&name).unwrap().instances.values_mut() {
                let address = Ipv4Addr::new(10, 78, 1, 1);
                record.address = Some(address);
                record.address6 = has.contains(&v6).then(|| wanted::machine_address6(address));
                record.health = Health::Healthy;
                record.state = InstanceState::Running;
            }
            for wants in [&[v4][..], &[v6], &[v4, v6], &[v6, v4]] {
                let spec = BalancerSpec {
                    families: families(wants),
                    ..BalancerSpec::new(name.clone(), ServiceType::ClusterIP, vec![listener.clone()])
                };
                let record = BalancerRecord { spec, host: "127.77.3.4".into() };
                environment.balancers = [(name.clone(), record)].into();
                let zone = names::zone(&environment, has);
                let named = zone.find("web.default.svc.cluster.local").unwrap();
                let served = super::wanted(&environment, has).services;
                assert_eq!(named.len(), served.len(), "{has:?} {wants:?}");
                for service in served {
                    assert!(named.contains(&NameRecord::Address(service.address)), "{has:?} {wants:?}");
                    assert!(!service.backends.is_empty(), "{has:?} {wants:?}: {service:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_of_a_policy_allows_nobody() {
        let environment = Environment::default();
        let block = |cidr: &str, except: &[&str]| Peer::Block {
            cidr: cidr.into(),
            except: except.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert_eq!(ranges(&environment, &block("10.0.0.0/8", &["10.0.0.0/9"])).len(), 1);
        assert_eq!(ranges(&environment, &block("fd00::/8", &["fd00::/9"])).len(), 1);
        assert_eq!(ranges(&environment, &Peer::Everybody).len(), 2);
        for unread in [
            block("10.0.0.0/x", &[]),
            block("10.0.0.0/8", &["10.1.0.0/x"]),
            block("fd00::/129", &[]),
            block("0.0.0.0/0", &["fd00::/8"]),
            block("::/0", &["10.0.0.0/8"]),
        ] {
            assert_eq!(ranges(&environment, &unread), [], "{unread:?}");
        }
        // Rules with the same ports are one, whoever they are about.
        let rule = |cidr: &str, ports| Reachable { peers: vec![block(cidr, &[])], ports };
        let rules = [rule("10.0.0.0/9", None), rule("10.128.0.0/9", None), rule("12.0.0.0/8", Some(vec![]))];
        let allowed = allowed(&environment, &rules);
        assert_eq!((allowed.len(), allowed[0].peers.ranges(IpFamily::V4).count()), (2, 1));
    }

    #[test]
    fn a_network_is_opened_again_after_a_time_however_many_rounds_there_are() {
        let mut missing = Missing::default();
        let start = Instant::now();
        let mut opened = 0;
        for millisecond in 0..=5000 {
            opened += u32::from(missing.is_due("e", start + Duration::from_millis(millisecond)));
        }
        assert_eq!(opened, 2);
        assert!(!missing.is_due("f", start + Duration::from_secs(9)));
    }

    #[test]
    fn a_network_that_could_not_be_opened_is_told_until_it_is() {
        let mut missing = Missing::default();
        let start = Instant::now();
        let mut at = |seconds, done: Result<(), &str>| {
            missing.reopen("e", start + Duration::from_secs(seconds), || done.map_err(io::Error::other))
        };
        assert_eq!(at(0, Err("it is not looked at yet")), Ok(()));
        assert_eq!(at(3, Err("no room")), Err("no room".to_owned()));
        // In the rounds between two tries as well.
        assert_eq!(at(4, Ok(())), Err("no room".to_owned()));
        assert_eq!(at(6, Ok(())), Ok(()));
        assert_eq!(at(7, Err("not due")), Ok(()));
    }
}
