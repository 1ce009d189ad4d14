//! The rules of policies: a chain for each list of what is allowed, and maps that lead to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::nftables::{
    ACCEPT, Chain, Elements, Key, Refusal, Set, Statement, TCP, Value, Verdict, refuse,
};
use super::super::wanted::{Addresses, Allow, Wanted};
use crate::manifest::api::IpFamily;

/// The maps from machines to what is allowed them, by where packets come in and where they go.
pub(super) const POLICY_IN: &str = "policy-in";
pub(super) const POLICY_OUT: &str = "policy-out";

/// Which way a policy looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// Peers of policies: one set for those of several rules.
#[derive(Default)]
struct Peers<'w>(BTreeMap<&'w Addresses, String>);

impl<'w> Peers<'w> {
    /// The name of the set of these addresses.
    fn name(&mut self, peers: &'w Addresses) -> String {
        let number = self.0.len();
        self.0.entry(peers).or_insert_with(|| format!("peers-{number}")).clone()
    }

    fn sets(self, family: IpFamily) -> impl Iterator<Item = Set> {
        let set = move |(peers, name): (&Addresses, String)| Set {
            name,
            key: vec![Key::Source(family)],
            elements: Elements::Ranges(peers.ranges(family).collect()),
        };
        self.0.into_iter().map(set)
    }
}

/// A chain for each list of what is allowed, and maps from the machines that it restricts.
pub(super) fn policies(wanted: &Wanted, family: IpFamily) -> (Vec<Set>, Vec<Chain>) {
    let (mut peers, mut sets, mut chains) = (Peers::default(), Vec::new(), Vec::new());
    for direction in [Direction::In, Direction::Out] {
        let (word, map, key) = match direction {
            Direction::In => ("in", POLICY_IN, Key::Destination(family)),
            Direction::Out => ("out", POLICY_OUT, Key::Source(family)),
        };
        let mut machines = Vec::new();
        for (number, policy) in wanted.policies.iter().enumerate() {
            let allowed = match direction {
                Direction::In => &policy.ingress,
                Direction::Out => &policy.egress,
            };
            let Some(allowed) = allowed else { continue };
            let name = format!("{word}-{number}");
            let restricts = |address: &IpAddr| (vec![Value::Address(*address)], Verdict::Jump(name.clone()));
            let own = policy.machines.iter().filter(|address| IpFamily::of(**address) == family);
            machines.extend(own.map(restricts));
            let rules = restricted(allowed, (direction, family), &mut peers);
            chains.push(Chain { name, hook: None, rules });
        }
        sets.push(Set { name: map.to_owned(), key: vec![key], elements: Elements::Chains(machines) });
    }
    sets.extend(peers.sets(family));
    (sets, chains)
}

/// What is allowed, and the refusal of the rest. Both sides of a connection must allow it: what a machine may reach is looked
/// at by the other side's policy next.
fn restricted<'w>(
    allowed: &'w [Allow],
    (direction, family): (Direction, IpFamily),
    peers: &mut Peers<'w>,
) -> Vec<Vec<Statement>> {
    let (key, verdict) = match direction {
        Direction::In => (Key::Source(family), ACCEPT),
        Direction::Out => (Key::Destination(family), Statement::Then(Verdict::Return)),
    };
    let mut rules: Vec<Vec<Statement>> = Vec::new();
    for allow in allowed.iter().filter(|allow| allow.peers.has_any(family)) {
        let mut start = Vec::new();
        if !allow.peers.is_everything(family) {
            start.push(Statement::In(vec![key], peers.name(&allow.peers), false));
        }
        let rule =
            |further: &[Statement]| [start.as_slice(), further, std::slice::from_ref(&verdict)].concat();
        match &allow.ports {
            None => rules.push(rule(&[])),
            Some(ports) => rules.extend(ports.iter().map(|ports| {
                let (first, last) = ports.range;
                rule(&[Statement::Protocol(ports.protocol), Statement::Ports(first, last)])
            })),
        }
    }
    rules.push(vec![TCP, Statement::Count, refuse(family, Refusal::Reset)]);
    rules.push(vec![Statement::Count, refuse(family, Refusal::Prohibited)]);
    rules
}
