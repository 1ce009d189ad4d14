//! The names of an environment, as its name server answers them: those of Services, of the machines behind headless ones,
//! of ports, and of addresses. Pure; the forms are those of Kubernetes' DNS specification.

use std::net::Ipv4Addr;

use crate::cloud::engine::environment::{BalancerRecord, Environment, InstanceRecord};
use crate::cloud::local::mover::dns::service_name;
use crate::cloud::local::mover::dns::zone::{DOMAIN, NameRecord, Zone};
use crate::cloud::local::network::wanted::{self, MACHINES, SERVICES};
use crate::manifest::api::Name;
use crate::plan::fleet::{Headless, HeadlessGroup, InstanceState, Listener, member_name};

/// The names of an environment; `is_inside` says whether it has a network of its own, in which Services and machines have
/// addresses.
pub(super) fn zone(environment: &Environment, is_inside: bool) -> Zone {
    let mut zone = Zone::default();
    zone.know(format!("svc.{DOMAIN}"));
    if is_inside {
        for range in [MACHINES, SERVICES] {
            zone.own_reverse(&range.address.octets()[..usize::from(range.bits / 8)]);
        }
    }
    for (name, balancer) in &environment.balancers {
        match &balancer.spec.headless {
            Some(headless) => {
                headless_service(&mut zone, environment, name, (headless, &balancer.spec.listeners));
            }
            None => service(&mut zone, name, balancer, is_inside),
        }
    }
    // After those of Services, so that the name by which a member is known is the one of its address.
    for (name, group) in &environment.groups {
        for address in
            group.instances.values().filter(|record| is_there(record)).filter_map(|record| record.address)
        {
            let own = format!("{}.{}.pod.{DOMAIN}", dashed(address), name.namespace);
            zone.add(&own, NameRecord::Address(address));
            zone.add_reverse(address, own);
        }
    }
    zone
}

/// A Service with an address of its own, or an alias.
fn service(zone: &mut Zone, name: &Name, balancer: &BalancerRecord, is_inside: bool) {
    if let Some(target) = &balancer.spec.external_name {
        let target = target.trim_end_matches('.').to_ascii_lowercase();
        zone.add(service_name(name), NameRecord::Alias(target));
        return;
    }
    let Ok(host) = balancer.host.parse::<Ipv4Addr>() else { return };
    if balancer.spec.listeners.is_empty() {
        return;
    }
    let address = if is_inside { wanted::service_address(host) } else { host };
    let full = service_name(name);
    for listener in &balancer.spec.listeners {
        if let Some(port) = port_name(listener, &full) {
            zone.add(port, NameRecord::Port { port: listener.port, host: full.clone() });
        }
    }
    zone.add(&full, NameRecord::Address(address));
    if is_inside {
        zone.add_reverse(address, full);
    }
}

/// A headless Service: its name has the addresses of its members, and each member has a name below it.
fn headless_service(
    zone: &mut Zone,
    environment: &Environment,
    name: &Name,
    (headless, listeners): (&Headless, &[Listener]),
) {
    let full = service_name(name);
    // A Service without members exists.
    zone.know(&full);
    for HeadlessGroup { group, hostname } in &headless.groups {
        let records = environment.groups.get(group).map(|group| group.instances.values());
        for record in records.into_iter().flatten() {
            let is_named = record.serves() || headless.not_ready && is_there(record);
            let Some(address) = record.address.filter(|_| is_named) else { continue };
            zone.add(&full, NameRecord::Address(address));
            let own = record.ordinal.map(|ordinal| member_name(group, ordinal)).or_else(|| hostname.clone());
            let member = format!("{}.{full}", own.unwrap_or_else(|| dashed(address)));
            zone.add(&member, NameRecord::Address(address));
            for listener in listeners {
                let target = listener.targets.iter().find(|target| target.group == *group);
                if let Some((port, target)) = port_name(listener, &full).zip(target) {
                    zone.add(port, NameRecord::Port { port: target.port, host: member.clone() });
                }
            }
            zone.add_reverse(address, member);
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

/// An address as a label.
fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloud::engine::moment::Moment;
    use crate::plan::fleet::{BalancerSpec, Health, InstanceId};

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
            NameRecord::Address(address) => address.octets()[3],
            other => panic!("{other:?}"),
        };
        zone.find(name).unwrap_or_else(|| panic!("no {name}")).iter().map(last).collect()
    }

    #[test]
    fn a_service_has_an_address_ports_and_a_reverse_name() {
        let (mut environment, name) = environment();
        environment.balancers = [(name.clone(), balancer(&name, &json!(null)))].into();
        let zone = zone(&environment, true);
        let full = "web.default.svc.cluster.local";
        assert_eq!(zone.find(full), Some(&[NameRecord::Address(Ipv4Addr::new(10, 77, 3, 4))][..]));
        let port = NameRecord::Port { port: 80, host: full.into() };
        assert_eq!(zone.find("_http._tcp.web.default.svc.cluster.local"), Some(&[port][..]));
        assert_eq!(zone.find("4.3.77.10.in-addr.arpa"), Some(&[NameRecord::Name(full.into())][..]));
        assert_eq!(addresses(&zone, "10-78-1-2.default.pod.cluster.local"), [2]);
        assert!(zone.has("9.9.78.10.in-addr.arpa"));
        // With the user network nobody has the addresses of another one.
        let zone = super::zone(&environment, false);
        assert_eq!(zone.find(full), Some(&[NameRecord::Address(Ipv4Addr::new(127, 77, 3, 4))][..]));
        assert!(!zone.has("4.3.77.10.in-addr.arpa"));
    }

    #[test]
    fn an_alias_has_the_name_that_it_stands_for_and_no_address() {
        let (mut environment, name) = environment();
        let mut record = balancer(&name, &json!(null));
        record.spec.listeners.clear();
        record.spec.external_name = Some("DB.example.com.".into());
        environment.balancers = [(name.clone(), record)].into();
        for is_inside in [true, false] {
            let zone = zone(&environment, is_inside);
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
            zone(environment, true)
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
