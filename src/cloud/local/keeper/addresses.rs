//! Addresses of machines in their environment's network: which one a new machine gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::cloud::engine::environment::Environment;
use crate::cloud::local::network::wanted;
use crate::manifest::api::IpFamily;
use crate::plan::fleet::InstanceState;

/// How long an address is nobody's once its machine is gone: clients and caches of names may still have it. A process that
/// was started since does not know of it.
const REST: Duration = Duration::from_mins(10);

/// Whether machines get addresses, and which ones were in use just now.
#[derive(Debug, Default)]
pub(in crate::cloud::local) struct Addresses {
    /// Whether this host gives environments a network.
    pub(in crate::cloud::local) are_given: bool,
    /// Whether a new network has IPv6.
    pub(in crate::cloud::local) have_ipv6: bool,
    /// Whether each network that is there has it, by environment.
    pub(super) networks_have_ipv6: BTreeMap<String, bool>,
    /// Why it does not, and what to do about it.
    pub(in crate::cloud::local) refusal: Option<String>,
    freed: BTreeMap<(String, Ipv4Addr), Instant>,
}

impl Addresses {
    /// Whether machines of this environment have addresses. It stays what it is as long as it has machines, or records of
    /// some that others take the place of: all may have been killed at once. One that needs addresses gets them with its
    /// next machines.
    pub(in crate::cloud::local) fn are_in(&self, environment: &Environment) -> bool {
        let records = || environment.groups.values().flat_map(|group| group.instances.values());
        let mut there = records().filter(|record| record.state != InstanceState::Ended).peekable();
        if there.peek().is_some() {
            return there.any(|record| record.address.is_some());
        }
        // Runs of Jobs stay for as long as their history does, and nothing takes their place.
        let mut replaced = records().filter(|record| record.run.is_none()).peekable();
        let had = replaced.peek().is_none() || replaced.any(|record| record.address.is_some());
        self.are_given && (needs_network(environment) || had)
    }

    /// The families of addresses of the machines of this environment, of that name; none where they have no addresses. They
    /// stay what they are as long as it has machines, or a network.
    pub(in crate::cloud::local) fn families(&self, name: &str, environment: &Environment) -> Vec<IpFamily> {
        if !self.are_in(environment) {
            return Vec::new();
        }
        let records = environment.groups.values().flat_map(|group| group.instances.values());
        let mut there = records.filter(|record| record.state != InstanceState::Ended).peekable();
        let has_ipv6 = match there.peek() {
            None => self.networks_have_ipv6.get(name).copied().unwrap_or(self.have_ipv6),
            Some(_) => there.any(|record| record.address6.is_some()),
        };
        [Some(IpFamily::V4), has_ipv6.then_some(IpFamily::V6)].into_iter().flatten().collect()
    }

    /// The address of IPv6 of a new machine of this environment that gets this one of IPv4.
    pub(super) fn choose6(
        &self,
        name: &str,
        environment: &Environment,
        address: Ipv4Addr,
    ) -> Option<Ipv6Addr> {
        self.families(name, environment).contains(&IpFamily::V6).then(|| wanted::machine_address6(address))
    }

    /// The address of a new machine of this environment: the lowest one that neither has nor had a machine just now. None
    /// where machines get no addresses.
    ///
    /// # Errors
    /// Why a machine must not be started: without an address it would be open to everybody, in an environment that has
    /// policies, and out of reach of its siblings.
    pub(super) fn choose(&self, name: &str, environment: &Environment) -> Result<Option<Ipv4Addr>, String> {
        if !self.are_in(environment) {
            return if needs_network(environment) { Err(self.refused(environment)) } else { Ok(None) };
        }
        let records = environment.groups.values().flat_map(|group| group.instances.values());
        let mut taken: BTreeSet<Ipv4Addr> = records.filter_map(|record| record.address).collect();
        let rests = |since: &Instant| since.elapsed() < REST;
        let freed = self.freed.iter().filter(|((of, _), since)| of == name && rests(since));
        taken.extend(freed.map(|((_, address), _)| *address));
        let free = wanted::free_address(&taken);
        free.map(Some).ok_or_else(|| "all addresses of the environment's network are taken".to_owned())
    }

    /// Why an environment that needs a network has none.
    fn refused(&self, environment: &Environment) -> String {
        let has_some = environment
            .groups
            .values()
            .flat_map(|group| group.instances.values())
            .any(|record| record.state != InstanceState::Ended);
        let reason = match &self.refusal {
            Some(reason) if !self.are_given => reason.as_str(),
            _ if has_some => {
                "others of its machines run without one; `i2kit destroy --all`, then deploy again"
            }
            _ => "this host gives none",
        };
        format!(
            "it is not started without a network of its environment's own, which a NetworkPolicy or a headless Service \
             needs: {reason}"
        )
    }

    /// Takes note that an address of this environment has no machine any more.
    pub(super) fn free(&mut self, environment: &str, address: Ipv4Addr) {
        self.freed.retain(|_, since| since.elapsed() < REST);
        self.freed.insert((environment.to_owned(), address), Instant::now());
    }
}

/// Whether something of the environment holds or works only where its machines have addresses: a policy, or a headless
/// Service. Its other machines are peers of those.
pub(super) fn needs_network(environment: &Environment) -> bool {
    environment.groups.values().any(|group| group.settings.policy.is_some())
        || environment.balancers.values().any(|balancer| balancer.spec.headless.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::RunMember;

    #[test]
    fn machines_of_an_environment_have_ipv6_or_none_has() {
        let mut environment = crate::cloud::local::store::sample().remove("local").unwrap();
        for group in environment.groups.values_mut() {
            group
                .instances
                .values_mut()
                .for_each(|record| record.address = Some(Ipv4Addr::new(10, 78, 1, 1)));
        }
        let mut addresses = Addresses { are_given: true, have_ipv6: true, ..Addresses::default() };
        let other = Ipv4Addr::new(10, 78, 1, 2);
        // Those that are there have none, whatever this host gives now.
        assert_eq!(addresses.families("local", &environment), [IpFamily::V4]);
        assert_eq!(addresses.choose6("local", &environment, other), None);
        let empty = Environment::default();
        assert_eq!(addresses.families("local", &empty), [IpFamily::V4, IpFamily::V6]);
        assert_eq!(
            addresses.choose6("local", &empty, other),
            Some("fd69:326b:6974:78::102".parse().unwrap())
        );
        // A network that is there has what it has, whatever this host would give a new one.
        addresses.networks_have_ipv6.insert("local".into(), false);
        assert_eq!(addresses.families("local", &empty), [IpFamily::V4]);
        assert_eq!(addresses.choose6("local", &empty, other), None);
        assert_eq!(addresses.families("other", &empty), [IpFamily::V4, IpFamily::V6]);
        addresses.networks_have_ipv6.insert("local".into(), true);
        addresses.have_ipv6 = false;
        assert_eq!(addresses.families("local", &empty), [IpFamily::V4, IpFamily::V6]);
        assert_eq!(addresses.families("other", &empty), [IpFamily::V4]);
        addresses.networks_have_ipv6.clear();
        assert_eq!(addresses.families("local", &empty), [IpFamily::V4]);
        addresses.are_given = false;
        assert_eq!(addresses.families("local", &empty), []);
    }

    #[test]
    fn an_environment_whose_machines_are_all_killed_keeps_its_kind_of_network() {
        let mut environment = crate::cloud::local::store::sample().remove("local").unwrap();
        for group in environment.groups.values_mut() {
            group.instances.values_mut().for_each(|record| {
                (record.state, record.address) = (InstanceState::Ended, None);
            });
            group.settings.policy = None;
        }
        environment.balancers.clear();
        let mut addresses = Addresses { are_given: true, ..Addresses::default() };
        assert!(!addresses.are_in(&environment), "they had none");
        let group = environment.groups.values_mut().find(|group| !group.instances.is_empty()).unwrap();
        group.instances.values_mut().next().unwrap().address = Some(Ipv4Addr::new(10, 78, 1, 1));
        assert!(addresses.are_in(&environment), "one had");
        addresses.are_given = false;
        assert!(!addresses.are_in(&environment), "this host gives none any more");
        addresses.are_given = true;
        for group in environment.groups.values_mut() {
            group.instances.values_mut().for_each(|record| {
                (record.address, record.run) = (None, Some(RunMember { number: 1, index: None }));
            });
        }
        assert!(addresses.are_in(&environment), "they were runs of Jobs");
        for group in environment.groups.values_mut() {
            group.instances.clear();
        }
        assert!(addresses.are_in(&environment), "there were none");
    }

    #[test]
    fn an_address_is_given_again_only_after_a_while_and_each_environment_has_its_own() {
        let environment = Environment::default();
        let mut addresses = Addresses::default();
        assert_eq!(addresses.choose("local", &environment), Ok(None));
        addresses.are_given = true;
        let first = addresses.choose("local", &environment).unwrap().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 78, 1, 1));
        addresses.free("local", first);
        assert_eq!(addresses.choose("local", &environment), Ok(Some(Ipv4Addr::new(10, 78, 1, 2))));
        assert_eq!(addresses.choose("other", &environment), Ok(Some(first)));
        addresses.freed.insert(("local".into(), first), Instant::now().checked_sub(REST).unwrap());
        assert_eq!(addresses.choose("local", &environment), Ok(Some(first)));
    }
}
