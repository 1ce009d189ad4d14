//! The names of an environment, as its name server answers them: those of Services, of the machines behind headless ones,
//! of ports, and of addresses. Pure; the forms are those of Kubernetes' DNS specification.

use std::net::{IpAddr, Ipv4Addr};

use crate::cloud::engine::environment::{BalancerRecord, Environment, InstanceRecord};
use crate::cloud::local::mover::dns::service_name;
use crate::cloud::local::mover::dns::zone::{DOMAIN, NameRecord, Zone};
use crate::cloud::local::network::wanted::{self, Block, MACHINES, MACHINES6, SERVICES, SERVICES6};
use crate::manifest::api::{IpFamily, Name};
use crate::plan::fleet::{BalancerSpec, Headless, HeadlessGroup, InstanceState, Listener, member_name};

/// The names of an environment; `families` are those of its machines' addresses, none where it has no network of its own, in
/// which Services and machines have addresses.
pub(super) fn zone(environment: &Environment, families: &[IpFamily]) -> Zone {
    let mut zone = Zone::default();
    zone.know(format!("svc.{DOMAIN}"));
    for family in families {
        let blocks = match family {
            IpFamily::V4 => [MACHINES, SERVICES],
            IpFamily::V6 => [MACHINES6, SERVICES6],
        };
        for Block { address, bits } in blocks {
            zone.own_reverse(address, bits);
        }
    }
    for (name, balancer) in &environment.balancers {
        match &balancer.spec.headless {
            Some(headless) => {
                let own = balancer.spec.families.there(families.contains(&IpFamily::V6));
                headless_service(&mut zone, environment, (name, &own), (headless, &balancer.spec));
            }
            None => service(&mut zone, name, balancer, families),
        }
    }
    // After those of Services, so that the name by which a member is known is the one of its address.
    for (name, group) in &environment.groups {
        let there = group.instances.values().filter(|record| is_there(record));
        for address in there.flat_map(|record| addresses(record, &[IpFamily::V4, IpFamily::V6])) {
            let own = format!("{}.{}.pod.{DOMAIN}", dashed(address), name.namespace);
            zone.add(&own, NameRecord::Address(address));
            zone.add_reverse(address, own);
        }
    }
    zone
}

/// A Service with an address of its own, or an alias.
fn service(zone: &mut Zone, name: &Name, balancer: &BalancerRecord, families: &[IpFamily]) {
    if let Some(target) = &balancer.spec.external_name {
        let target = target.trim_end_matches('.').to_ascii_lowercase();
        zone.add(service_name(name), NameRecord::Alias(target));
        return;
    }
    let Ok(host) = balancer.host.parse::<Ipv4Addr>() else { return };
    if balancer.spec.listeners.is_empty() {
        return;
    }
    let full = service_name(name);
    for listener in &balancer.spec.listeners {
        if let Some(port) = port_name(listener, &full) {
            zone.add(port, NameRecord::Port { port: listener.port, host: full.clone() });
        }
    }
    if families.is_empty() {
        return zone.add(full, NameRecord::Address(host.into()));
    }
    for family in balancer.spec.families.there(families.contains(&IpFamily::V6)) {
        let address = wanted::service_address(host, family);
        zone.add(&full, NameRecord::Address(address));
        zone.add_reverse(address, full.clone());
    }
}

/// A headless Service: its name has the addresses of its members, those of its families, and each member has a name below it.
fn headless_service(
    zone: &mut Zone,
    environment: &Environment,
    (name, families): (&Name, &[IpFamily]),
    (headless, spec): (&Headless, &BalancerSpec),
) {
    let full = service_name(name);
    // A Service without members exists.
    zone.know(&full);
    for HeadlessGroup { group, hostname } in &headless.groups {
        let records = environment.groups.get(group).map(|group| group.instances.values());
        for record in records.into_iter().flatten() {
            let is_named = record.serves() || headless.not_ready && is_there(record);
            let own = record.ordinal.map(|ordinal| member_name(group, ordinal)).or_else(|| hostname.clone());
            let named = addresses(record, families).filter(|_| is_named);
            let mut members: Vec<String> = Vec::new();
            for address in named {
                zone.add(&full, NameRecord::Address(address));
                let label = own.clone().unwrap_or_else(|| dashed(address));
                let member = format!("{label}.{full}");
                zone.add(&member, NameRecord::Address(address));
                zone.add_reverse(address, member.clone());
                members.push(member);
            }
            members.dedup();
            for (listener, member) in spec
                .listeners
                .iter()
                .flat_map(|listener| members.iter().map(move |member| (listener, member)))
            {
                let target = listener.targets.iter().find(|target| target.group == *group);
                if let Some((port, target)) = port_name(listener, &full).zip(target) {
                    zone.add(port, NameRecord::Port { port: target.port, host: member.clone() });
                }
            }
        }
    }
}

/// The name that a port has where it has one.
fn port_name(listener: &Listener, service: &str) -> Option<String> {
    let protocol = listener.protocol.word();
    listener.name.as_ref().map(|name| format!("_{name}._{protocol}.{service}"))
}

fn is_there(record: &InstanceRecord) -> bool {
    record.state == InstanceState::Running
}

/// The addresses of a machine of these families.
fn addresses(record: &InstanceRecord, families: &[IpFamily]) -> impl Iterator<Item = IpAddr> {
    let both = [record.address.map(IpAddr::V4), record.address6.map(IpAddr::V6)];
    both.into_iter().flatten().filter(move |address| families.contains(&IpFamily::of(*address)))
}

/// An address as a label.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloud::engine::moment::Moment;
    use crate::plan::fleet::{Health, InstanceId};

    /// The environment of the store's tests with one ready machine and one that is not.
    fn environment() -> (Environment, Name) {
        let mut environment = crate::cloud::local::store::sample().remove("local").unwrap();
        let name = Name { namespace: "default".into(), name: "web".into() };
        let group = environment.groups.get_mut(&name).unwrap();
        group.instances.clear();
        for last in [1, 2] {
            let new =
                InstanceRecord::new(InstanceId(format!("web-{last}")), 1, Moment { steady: 0, wall: 0 });
            let health = if last == 1 { Health::Healthy } else { new.health.clone() };
            let address = Some(Ipv4Addr::new(10, 78, 1, last));
            group.instances.insert(new.id.clone(), InstanceRecord { health, address, ..new });
        }
        (environment, name)
    }

    fn balancer(name: &Name, headless: &serde_json::Value) -> BalancerRecord {
        let spec: BalancerSpec = serde_json::from_value(json!({
            "name": name,
            "kind": "ClusterIP",
            "listeners": [{
                "port": 80, "protocol": "TCP", "name": "http", "targets": [{"group": name, "port": 8080}],
            }],
            "headless": headless,
        }))
        .unwrap();
        BalancerRecord { spec, host: "127.77.3.4".into() }
    }

    fn addresses(zone: &Zone, name: &str) -> Vec<u8> {
        let last = |record: &NameRecord| match record {
            NameRecord::Address(address) => wanted::octets(*address).pop().unwrap(),
            other => panic!("{other:?}"),
        };
        zone.find(name).unwrap_or_else(|| panic!("no {name}")).iter().map(last).collect()
    }

    #[test]
    fn a_service_has_an_address_ports_and_a_reverse_name() {
        let (mut environment, name) = environment();
        environment.balancers = [(name.clone(), balancer(&name, &json!(null)))].into();
        let zone = zone(&environment, &[IpFamily::V4]);
        let full = "web.default.svc.cluster.local";
        assert_eq!(zone.find(full), Some(&[NameRecord::Address(Ipv4Addr::new(10, 77, 3, 4).into())][..]));
        let port = NameRecord::Port { port: 80, host: full.into() };
        assert_eq!(zone.find("_http._tcp.web.default.svc.cluster.local"), Some(&[port][..]));
        assert_eq!(zone.find("4.3.77.10.in-addr.arpa"), Some(&[NameRecord::Name(full.into())][..]));
        assert_eq!(addresses(&zone, "10-78-1-2.default.pod.cluster.local"), [2]);
        assert!(zone.has("9.9.78.10.in-addr.arpa"));
        // With the user network nobody has the addresses of another one.
        let zone = super::zone(&environment, &[]);
        assert_eq!(zone.find(full), Some(&[NameRecord::Address(Ipv4Addr::new(127, 77, 3, 4).into())][..]));
        assert!(!zone.has("4.3.77.10.in-addr.arpa"));
    }

    /// The records of a name of each family.
    fn counted(zone: &Zone, name: &str) -> [usize; 2] {
        let found = zone.find(name).unwrap_or_else(|| panic!("no {name}"));
        [IpFamily::V4, IpFamily::V6].map(|family| {
            let is = |record: &&NameRecord| matches!(record, NameRecord::Address(found) if IpFamily::of(*found) == family);
            found.iter().filter(is).count()
        })
    }

    #[test]
    fn names_have_the_addresses_of_the_families_that_a_service_asks_for() {
        let (mut environment, name) = environment();
        for record in environment.groups.get_mut(&name).unwrap().instances.values_mut() {
            record.address6 = record.address.map(wanted::machine_address6);
        }
        let both = [IpFamily::V4, IpFamily::V6];
        let mut of = |list: &[IpFamily], headless: &serde_json::Value, families: &[IpFamily]| {
            let mut record = balancer(&name, headless);
            record.spec.families.list = list.to_vec();
            environment.balancers = [(name.clone(), record)].into();
            zone(&environment, families)
        };
        let full = "web.default.svc.cluster.local";
        let headless = json!({"groups": [{"group": name}]});
        for (list, has, expected) in [
            (&both[..1], &both[..], [1, 0]),
            (&both[..], &both[..], [1, 1]),
            (&both[1..], &both[..], [0, 1]),
            // Where there is none, those that prefer both have IPv4.
            (&both[..], &both[..1], [1, 0]),
            (&both[1..], &both[..1], [1, 0]),
        ] {
            assert_eq!(counted(&of(list, &json!(null), has), full), expected, "{list:?} {has:?}");
        }
        assert_eq!(counted(&of(&both[..1], &headless, &both), full), [1, 0]);
        assert_eq!(counted(&of(&both[1..], &headless, &both), full), [0, 1]);
        assert_eq!(counted(&of(&both[1..], &headless, &both[..1]), full), [1, 0]);
        let zone = of(&both, &headless, &both);
        assert_eq!(counted(&zone, full), [1, 1]);
        let member = "fd69-326b-6974-78--101.web.default.svc.cluster.local";
        assert_eq!(counted(&zone, member), [0, 1]);
        let reverse =
            format!("1.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.{}", "8.7.0.0.4.7.9.6.b.6.2.3.9.6.d.f.ip6.arpa");
        assert_eq!(zone.find(&reverse), Some(&[NameRecord::Name(member.into())][..]));
        // One port a name, and a pod has a name by each address.
        assert_eq!(zone.find("_http._tcp.web.default.svc.cluster.local").unwrap().len(), 2);
        assert_eq!(counted(&zone, "fd69-326b-6974-78--102.default.pod.cluster.local"), [0, 1]);
        // Members of a StatefulSet have both by one name.
        let named = json!({"groups": [{"group": name, "hostname": "db"}]});
        let zone = of(&both, &named, &both);
        assert_eq!(counted(&zone, "db.web.default.svc.cluster.local"), [1, 1]);
        assert_eq!(zone.find("_http._tcp.web.default.svc.cluster.local").unwrap().len(), 1);
    }

    #[test]
    fn an_alias_has_the_name_that_it_stands_for_and_no_address() {
        let (mut environment, name) = environment();
        let mut record = balancer(&name, &json!(null));
        record.spec.listeners.clear();
        record.spec.external_name = Some("DB.example.com.".into());
        environment.balancers = [(name.clone(), record)].into();
        for families in [&[IpFamily::V4][..], &[]] {
            let zone = zone(&environment, families);
            let alias = NameRecord::Alias("db.example.com".into());
            assert_eq!(zone.find("web.default.svc.cluster.local"), Some(&[alias][..]));
            assert_eq!(zone.find("4.3.77.10.in-addr.arpa"), None);
        }
    }

    #[test]
    fn a_headless_service_has_its_ready_machines_with_names_of_their_own() {
        let (mut environment, name) = environment();
        let group = json!({"group": name});
        let of = |environment: &mut Environment, headless: &serde_json::Value| {
            environment.balancers = [(name.clone(), balancer(&name, headless))].into();
            zone(environment, &[IpFamily::V4])
        };
        let found = of(&mut environment, &json!({"groups": [group]}));
        let full = "web.default.svc.cluster.local";
        assert_eq!(addresses(&found, full), [1]);
        let member = "10-78-1-1.web.default.svc.cluster.local";
        assert_eq!(addresses(&found, member), [1]);
        let port = NameRecord::Port { port: 8080, host: member.into() };
        assert_eq!(found.find("_http._tcp.web.default.svc.cluster.local"), Some(&[port][..]));
        assert_eq!(found.find("1.1.78.10.in-addr.arpa"), Some(&[NameRecord::Name(member.into())][..]));
        assert_eq!(found.find("4.3.77.10.in-addr.arpa"), None, "it has no address of its own");
        // Those that are not ready too, and by one name: that of their pods.
        let named = json!({"groups": [{"group": name, "hostname": "db"}], "notReady": true});
        let found = of(&mut environment, &named);
        assert_eq!(addresses(&found, full), [1, 2]);
        assert_eq!(addresses(&found, "db.web.default.svc.cluster.local"), [1, 2]);
        // Members of a StatefulSet go by their index.
        let members = environment.groups.get_mut(&name).unwrap().instances.values_mut();
        members.for_each(|record| record.ordinal = Some(u32::from(record.health != Health::Healthy)));
        let found = of(&mut environment, &json!({"groups": [{"group": name}]}));
        assert_eq!(addresses(&found, "web-0.web.default.svc.cluster.local"), [1]);
        // One whose machines are gone exists, and has no address.
        environment.groups.clear();
        let found = of(&mut environment, &json!({"groups": [group]}));
        assert_eq!(found.find(full), Some(&[][..]));
    }
}
