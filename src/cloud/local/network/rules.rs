//! The rules of an environment's network: [`Wanted`] becomes a table of nftables for each family of addresses. Pure.
//!
//! A packet of a machine passes the chains in this order: `spoof` (its source is the machine's own) and `parts` (it has not too
//! many in parts) before the kernel puts parts together, `discovery`, `errors` (one about a connection comes from an end of it),
//! `divert` (what leaves or returns is taken from its way), `services` (a Service's address becomes a backend's), then `forward`
//! (policies) towards another machine or outside, or `input` (the name server). Nothing is rewritten but a Service's address,
//! so that both sides see each other's own.

mod policies;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use self::policies::{POLICY_IN, POLICY_OUT};
use super::nftables::{
    ACCEPT, Chain, Elements, Hook, Key, Packets, Point, Refusal, Set, Statement, TCP, Table, Value, Verdict,
    Way, refuse,
};
use super::wanted::{
    self, Block, GATEWAY, MACHINES, MACHINES6, NAMES, NODE, NODE6, SERVICES, SERVICES6, Wanted,
};
use crate::cloud::local::rendezvous;
use crate::manifest::api::{IpFamily, Protocol};
use crate::plan::pod::HEALTH_PORT;

/// The interface by which packets leave the network.
pub(super) const OUTSIDE: &str = "tun0";

/// The port on which connections to outside are taken from their way.
pub(super) const PROXY_PORT: u16 = 15001;

/// Marks of packets: what is delivered here whatever its address, what connections are not tracked for, and what is sent in
/// a client's name.
pub(super) const HERE: u32 = 1;
pub(super) const UNTRACKED: u32 = 77;
const AS_CLIENT: u32 = 78;

/// Names of sets.
const SERVICE_PORTS: &str = "services";
const HOMES: &str = "homes";
const HAIRPIN: &str = "hairpin";

/// The name of the table of [`limits`], and of its sets.
pub(super) const LIMITS: &str = "i2kit-limits";
const FLOWS: &str = "flows";
const PARTS_OF: &str = "parts";

/// Where the kernel puts the parts of a packet together (`NF_IP_PRI_CONNTRACK_DEFRAG`): a packet is from where its last part
/// came, hence every part is looked at before.
const WHOLE: i32 = -400;

/// Connections and flows of one machine to others and to outside that the kernel tracks at once: it tracks 262,144 in a
/// network, and takes no further ones of anybody then, health checks among them.
pub(super) const TRACKED: u32 = 16_384;

/// Parts of packets that a machine sends in a second, and at once: the kernel keeps those of packets that are not whole in a
/// room that all machines of a network share.
pub(super) const PARTS: u32 = 512;

/// The longest part, in bytes: a machine's interface sends none that is longer.
const PART: u32 = 1500;

/// The table for what is wanted, of one family: packets of the other one are none of its matter.
pub(super) fn table(wanted: &Wanted, family: IpFamily) -> Table {
    let (service_sets, service_chains) = services(wanted, family);
    let (policy_sets, policy_chains) = policies::policies(wanted, family);
    let mut sets = machines(wanted, family);
    sets.extend(service_sets);
    sets.extend(policy_sets);
    let mut chains = vec![spoof(family), untracked(), errors(family), note(), divert(family)];
    chains.extend((family == IpFamily::V6).then(discovery));
    chains.extend(nat(family));
    chains.extend([input(family), forward(family), gone(family)]);
    chains.extend(service_chains);
    chains.extend(policy_chains);
    Table { packets: family.into(), sets, chains }
}

/// The table that bounds what the kernel keeps of each machine, of both families together: its connections, to `tracked`, and
/// parts of packets. It stays when the other ones are replaced: its counts begin with it.
pub(super) fn limits(tracked: u32, packets: Packets) -> Table {
    let set = |name: &str| Set {
        name: name.into(),
        key: vec![Key::Interface],
        elements: Elements::Counted(u16::MAX.into()),
    };
    let rule = vec![
        from_machine(),
        Statement::New,
        Statement::Over(Key::Interface, FLOWS, tracked),
        Statement::Reject(packets, Refusal::Prohibited),
    ];
    // What goes to the network's own addresses, the name server and Services among them, is tracked like all else.
    let chains = [("limit", Point::Forward), ("limit-in", Point::Input)];
    let mut chains = chains.map(|(name, point)| hooked(name, point, -1, vec![rule.clone()])).to_vec();
    let families = [IpFamily::V4, IpFamily::V6];
    let families =
        families.into_iter().filter(|family| [Packets::Both, Packets::from(*family)].contains(&packets));
    chains.push(hooked("parts", Point::Prerouting, WHOLE - 40, families.map(parts).collect()));
    Table { packets, sets: vec![set(FLOWS), set(PARTS_OF)], chains }
}

/// Drops parts of packets of a family that are too many.
fn parts(family: IpFamily) -> Vec<Statement> {
    vec![
        from_machine(),
        Statement::Family(family),
        Statement::Part(family),
        Statement::Faster(Key::Interface, PARTS_OF, PARTS),
        Statement::Then(Verdict::Drop),
    ]
}

/// The table of a machine's interface: it drops parts of packets in frames that are too long. What is behind a packet in its
/// frame takes memory as long as the part is kept, and no other table sees it.
pub(super) fn frames(machine: Ipv4Addr) -> Table {
    let rule = |family| {
        let long = Statement::LongerThan(PART);
        vec![Statement::Family(family), Statement::Part(family), long, Statement::Then(Verdict::Drop)]
    };
    let device = Some(wanted::tap(machine));
    let hook = Some(Hook { is_nat: false, device, point: Point::Ingress, priority: 0 });
    let rules = [IpFamily::V4, IpFamily::V6].map(rule).into();
    let chains = vec![Chain { name: "parts".into(), hook, rules }];
    Table { packets: Packets::Frames, sets: Vec::new(), chains }
}

fn hooked(name: &str, point: Point, priority: i32, rules: Vec<Vec<Statement>>) -> Chain {
    Chain { name: name.to_owned(), hook: Some(Hook { is_nat: false, device: None, point, priority }), rules }
}

/// The addresses of machines, and of Services.
fn blocks(family: IpFamily) -> (Block, Block) {
    match family {
        IpFamily::V4 => (MACHINES, SERVICES),
        IpFamily::V6 => (MACHINES6, SERVICES6),
    }
}

/// The key of who talks to whom.
fn pair(family: IpFamily) -> Vec<Key> {
    vec![Key::Source(family), Key::Destination(family)]
}

fn from_machine() -> Statement {
    Statement::FromPrefix(wanted::tap_prefix())
}

/// Where each machine is, and each machine with itself.
fn machines(wanted: &Wanted, family: IpFamily) -> Vec<Set> {
    let there: Vec<(Ipv4Addr, IpAddr)> = match family {
        IpFamily::V4 => wanted.machines.keys().map(|machine| (*machine, IpAddr::V4(*machine))).collect(),
        IpFamily::V6 => wanted
            .machines
            .iter()
            .filter_map(|(machine, address)| Some((*machine, IpAddr::V6((*address)?))))
            .collect(),
    };
    let home = |(machine, address): &(Ipv4Addr, IpAddr)| {
        vec![Value::Interface(wanted::tap(*machine)), Value::Address(*address)]
    };
    let itself = |(_, address): &(Ipv4Addr, IpAddr)| vec![Value::Address(*address), Value::Address(*address)];
    vec![
        Set {
            name: HOMES.into(),
            key: vec![Key::Interface, Key::Source(family)],
            elements: Elements::Members(there.iter().map(home).collect()),
        },
        Set {
            name: HAIRPIN.into(),
            key: pair(family),
            elements: Elements::Members(there.iter().map(itself).collect()),
        },
    ]
}

/// A machine has its own address alone, in every part of a packet.
fn spoof(family: IpFamily) -> Chain {
    let forged = Statement::In(vec![Key::Interface, Key::Source(family)], HOMES.into(), true);
    let rule = vec![from_machine(), forged, Statement::Then(Verdict::Drop)];
    hooked("spoof", Point::Prerouting, WHOLE - 50, vec![rule])
}

/// Over IPv6 a machine neither asks for neighbours and routers nor is one for others: the ways to and from it are set on both
/// sides, and no packet changes them. It is the whole packet that tells what it is.
fn discovery() -> Chain {
    let rule = vec![from_machine(), Statement::Discovery, Statement::Then(Verdict::Drop)];
    hooked("discovery", Point::Prerouting, -300, vec![rule])
}

/// An error of ICMP about a connection comes from one of its ends, or from the network itself: no machine is a router of
/// others. It is looked at before it is taken for a part of that connection.
fn errors(family: IpFamily) -> Chain {
    let of_end = |way| {
        let ends = vec![Key::End(family, way), Key::Source(family)];
        vec![from_machine(), Statement::Related, Statement::In(ends, HAIRPIN.into(), false), ACCEPT]
    };
    let drop = || Statement::Then(Verdict::Drop);
    let rules = vec![
        of_end(Way::Reply),
        of_end(Way::Original),
        vec![from_machine(), Statement::Related, drop()],
        // About a connection as only its end knows it, a Service's address in it.
        vec![from_machine(), Statement::Icmp(family), Statement::Unrelated, drop()],
    ];
    hooked("errors", Point::Prerouting, -170, rules)
}

/// Crafted packets belong to no connection.
fn untracked() -> Chain {
    let rule = vec![Statement::Marked(UNTRACKED), Statement::Untracked];
    hooked("untracked", Point::Output, -300, vec![rule])
}

/// Connections in a client's name are noted, so that their answers are found again.
fn note() -> Chain {
    hooked("note", Point::Output, -150, vec![vec![Statement::Marked(AS_CLIENT), Statement::MarkConnection]])
}

/// TPROXY: a SYN that egress wrote back to `tun0` goes to the egress listener, and packets of its connections are delivered
/// locally. A SYN from a tap is accepted before that: the listener has every address.
fn divert(family: IpFamily) -> Chain {
    let here = Statement::Mark(HERE);
    let opens = vec![
        Statement::From(OUTSIDE),
        TCP,
        Statement::Opens,
        Statement::Proxy(family, PROXY_PORT),
        here.clone(),
        ACCEPT,
    ];
    let begins = vec![from_machine(), TCP, Statement::Opens, ACCEPT];
    let carried = vec![TCP, Statement::Transparent, here.clone(), ACCEPT];
    let as_client = vec![Statement::ConnectionMarked(AS_CLIENT), here, ACCEPT];
    hooked("divert", Point::Prerouting, -150, vec![opens, begins, carried, as_client])
}

/// Services become backends, for machines and for this host. A machine that is its own backend talks to the node, for it
/// would not take its own address as a source.
fn nat(family: IpFamily) -> Vec<Chain> {
    let chain = |name: &str, point, priority, rule| Chain {
        name: name.to_owned(),
        hook: Some(Hook { is_nat: true, device: None, point, priority }),
        rules: vec![rule],
    };
    let keys = || vec![Key::Destination(family), Key::Protocol, Key::Port];
    let (_, block) = blocks(family);
    let services = || vec![Statement::Destination(block), Statement::Lead(keys(), SERVICE_PORTS)];
    let itself = Statement::In(pair(family), HAIRPIN.into(), false);
    let node = match family {
        IpFamily::V4 => IpAddr::V4(NODE),
        IpFamily::V6 => IpAddr::V6(NODE6),
    };
    vec![
        chain("services-in", Point::Prerouting, -100, services()),
        chain("services-out", Point::Output, -100, services()),
        chain("hairpin-out", Point::Postrouting, 100, vec![itself, Statement::SourceNat(node)]),
    ]
}

/// What machines reach of this network's own addresses: the name server, ping, and what is on its way to outside. Ports of
/// a Service that it does not have are refused. Names are answered over IPv4 alone, those of addresses of IPv6 too.
fn input(family: IpFamily) -> Chain {
    let names = |protocol| {
        vec![
            from_machine(),
            Statement::Destination(Block::one(GATEWAY.into())),
            Statement::Protocol(protocol),
            Statement::Ports(NAMES, NAMES),
            ACCEPT,
        ]
    };
    let mut rules =
        vec![vec![Statement::Marked(HERE), ACCEPT], vec![from_machine(), Statement::Established, ACCEPT]];
    if family == IpFamily::V4 {
        rules.extend([names(Protocol::Udp), names(Protocol::Tcp)]);
    }
    rules.extend([
        vec![from_machine(), Statement::Icmp(family), ACCEPT],
        vec![from_machine(), TCP, refuse(family, Refusal::Reset)],
        vec![from_machine(), refuse(family, Refusal::Prohibited)],
    ]);
    hooked("input", Point::Input, 0, rules)
}

/// Refuses packets to a machine's address that no machine has: without its tap's route they would leave by `tun0`.
fn nobody(family: IpFamily) -> Vec<Vec<Statement>> {
    let (machines, _) = blocks(family);
    let to_nobody = || vec![Statement::To(OUTSIDE), Statement::Destination(machines)];
    let with = |mut rule: Vec<Statement>, further: &[Statement]| {
        rule.extend_from_slice(further);
        rule
    };
    vec![
        with(to_nobody(), &[TCP, refuse(family, Refusal::Reset)]),
        with(to_nobody(), &[refuse(family, Refusal::Host)]),
    ]
}

/// What is on its way to another machine or outside. The health port is this host's alone, which does not come this way.
fn forward(family: IpFamily) -> Chain {
    let (machines, _) = blocks(family);
    let mut rules = nobody(family);
    rules.extend([
        vec![Statement::Established, ACCEPT],
        vec![
            Statement::Destination(machines),
            TCP,
            Statement::Ports(HEALTH_PORT, HEALTH_PORT),
            refuse(family, Refusal::Reset),
        ],
        // A machine always reaches itself.
        vec![Statement::In(pair(family), HAIRPIN.into(), false), ACCEPT],
        vec![Statement::Lead(vec![Key::Source(family)], POLICY_OUT)],
        vec![Statement::Lead(vec![Key::Destination(family)], POLICY_IN)],
    ]);
    hooked("forward", Point::Forward, 0, rules)
}

/// The same for this host's own connections.
fn gone(family: IpFamily) -> Chain {
    hooked("gone", Point::Output, 0, nobody(family))
}

/// A chain for each port of a Service, and a map of its backends. A port without backends is in no map, so that it is
/// refused as one that the Service does not have.
fn services(wanted: &Wanted, family: IpFamily) -> (Vec<Set>, Vec<Chain>) {
    let (mut maps, mut chains, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    let served = wanted
        .services
        .iter()
        .filter(|service| IpFamily::of(service.address) == family && !service.backends.is_empty());
    for (number, service) in served.enumerate() {
        let (chain, map) = (format!("svc-{number}"), format!("backends-{number}"));
        let key = vec![
            Value::Address(service.address),
            Value::Protocol(service.protocol),
            Value::Port(service.port),
        ];
        ports.push((key, Verdict::Goto(chain.clone())));
        let backends: Vec<(Vec<Value>, _)> = (0..)
            .zip(if service.has_affinity { shares(&service.backends) } else { service.backends.clone() })
            .map(|(index, backend)| (vec![Value::Index(index)], backend))
            .collect();
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let balance =
            Statement::Balance { family, map: map.clone(), count, has_affinity: service.has_affinity };
        maps.push(Set { name: map, key: vec![Key::Index], elements: Elements::Backends(family, backends) });
        chains.push(Chain { name: chain, hook: None, rules: vec![vec![balance]] });
    }
    let key = vec![Key::Destination(family), Key::Protocol, Key::Port];
    maps.push(Set { name: SERVICE_PORTS.into(), key, elements: Elements::Chains(ports) });
    (maps, chains)
}

/// Shares of clients at least, of a Service with affinity.
const SHARES: usize = 256;

/// Shares of each backend at least, on average.
const SHARES_OF_BACKEND: usize = 8;

/// The backend of each share of clients: the kernel makes a share of a client's address. A backend that goes leaves the
/// shares of others as they are.
fn shares(backends: &[SocketAddr]) -> Vec<SocketAddr> {
    if backends.len() < 2 {
        return backends.to_vec();
    }
    let count = (backends.len() * SHARES_OF_BACKEND).next_power_of_two().max(SHARES);
    let share = |number| rendezvous::choose(number, backends.iter().copied());
    (0..count as u64).filter_map(share).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cloud::local::network::wanted::{
        Addresses, Allow, Policy, Ports, Range, WantedService, machine_address6,
    };

    /// Two machines with addresses of both families, a Service of both, one of UDP with affinity, one without backends, and
    /// policies of both directions.
    pub(in crate::cloud::local::network) fn sample() -> Wanted {
        let (a, b) = (Ipv4Addr::new(10, 78, 1, 1), Ipv4Addr::new(10, 78, 1, 2));
        let service = |last, protocol, port, has_affinity, backends: &[(Ipv4Addr, u16)]| {
            [IpFamily::V4, IpFamily::V6].map(|family| WantedService {
                address: wanted::service_address(Ipv4Addr::new(127, 77, 3, last), family),
                protocol,
                port,
                has_affinity,
                backends: backends
                    .iter()
                    .map(|(address, port)| SocketAddr::new(of_family(*address, family), *port))
                    .collect(),
            })
        };
        let block = |text: &str| text.parse::<Block>().unwrap();
        let range = [
            block("10.0.0.0/8").without(&[block("10.1.0.0/16")]),
            block("fd00::/8").without(&[block("fdff::/16")]),
        ];
        let port = |protocol, first, last| Some(vec![Ports { protocol, range: (first, last) }]);
        let allow = |ranges, ports| Allow { peers: Addresses::of(ranges), ports };
        Wanted {
            machines: [a, b].map(|machine| (machine, Some(machine_address6(machine)))).into(),
            services: [
                service(4, Protocol::Tcp, 80, false, &[(a, 8080), (b, 8080)]),
                service(4, Protocol::Udp, 53, true, &[(a, 53), (b, 53)]),
                service(5, Protocol::Tcp, 80, false, &[]),
            ]
            .concat(),
            policies: vec![Policy {
                machines: both(a).into(),
                ingress: Some(vec![
                    allow(both(b).map(alone).into(), port(Protocol::Tcp, 8080, 8080)),
                    allow(range.concat(), port(Protocol::Tcp, 9000, 9100)),
                    // Of one family alone: over the other one nobody is allowed.
                    allow(vec![block("192.0.2.0/24").range()], port(Protocol::Tcp, 9200, 9200)),
                    allow(vec![], None),
                ]),
                egress: Some(vec![allow(
                    [IpFamily::V4, IpFamily::V6].map(wanted::everything).into(),
                    port(Protocol::Udp, 53, 53),
                )]),
            }],
        }
    }

    /// An address of a machine.
    fn of_family(machine: Ipv4Addr, family: IpFamily) -> IpAddr {
        match family {
            IpFamily::V4 => machine.into(),
            IpFamily::V6 => machine_address6(machine).into(),
        }
    }

    /// Both addresses of a machine.
    fn both(machine: Ipv4Addr) -> [IpAddr; 2] {
        [IpFamily::V4, IpFamily::V6].map(|family| of_family(machine, family))
    }

    fn alone(address: IpAddr) -> Range {
        (address, address)
    }

    /// So many groups of so many machines, each of which all others reach on a port of its own, and which reach the others
    /// and all but many ranges of the outside.
    pub(in crate::cloud::local::network) fn large(groups: u16, members: u32) -> Wanted {
        let mut machines = (u32::from(Ipv4Addr::new(10, 78, 1, 1))..).map(Ipv4Addr::from);
        let groups: Vec<Vec<Ipv4Addr>> =
            (0..groups).map(|_| (&mut machines).take(usize::try_from(members).unwrap()).collect()).collect();
        let all: Vec<_> = groups.iter().flatten().flat_map(|machine| both(*machine).map(alone)).collect();
        let outside = Block::everything(IpFamily::V4);
        let except: Vec<Block> = (0..200)
            .map(|number| Block { address: Ipv4Addr::new(20, number, 0, 0).into(), bits: 24 })
            .collect();
        let allow = |ranges: Vec<_>, port| Allow {
            peers: Addresses::of(ranges),
            ports: Some(vec![Ports { protocol: Protocol::Tcp, range: (port, port) }]),
        };
        let policy = |(number, machines): (u16, &Vec<Ipv4Addr>)| Policy {
            machines: machines.iter().flat_map(|machine| both(*machine)).collect(),
            ingress: Some(vec![allow(all.clone(), 1000 + number)]),
            egress: Some(vec![allow(all.clone(), 80), allow(outside.without(&except), 443)]),
        };
        Wanted {
            machines: groups
                .iter()
                .flatten()
                .map(|machine| (*machine, Some(machine_address6(*machine))))
                .collect(),
            services: (0..)
                .zip(&groups)
                .map(|(number, machines): (u16, _)| WantedService {
                    address: Ipv4Addr::new(10, 77, 3, 4).into(),
                    protocol: Protocol::Tcp,
                    port: 1000 + number,
                    has_affinity: false,
                    backends: machines.iter().map(|machine| SocketAddr::from((*machine, 80))).collect(),
                })
                .collect(),
            policies: (0..).zip(&groups).map(policy).collect(),
        }
    }

    #[test]
    fn a_table_grows_with_machines_and_rules_and_fits_into_what_every_user_may_send() {
        let sizes = |wanted: &Wanted| -> Vec<usize> {
            let transactions = table(wanted, IpFamily::V4).transactions(Some("i2kit"));
            transactions.iter().map(|(batch, _)| batch.length()).collect()
        };
        let total = |groups, members| sizes(&large(groups, members)).iter().sum::<usize>();
        // net.core.wmem_default, less what netlink takes of it.
        assert!(sizes(&large(1000, 1)).iter().all(|size| *size < 212_992 - 32));
        let (one_group, more) = (total(1, 300), total(1, 600));
        assert!(more < one_group * 2 && total(1, 1000) < 256 << 10, "{one_group} {more}");
        assert!(total(600, 1) < total(300, 1) * 2 + 4096);
    }

    #[test]
    fn a_backend_that_goes_leaves_the_clients_of_others_where_they_are() {
        let backends = |count: u8| -> Vec<SocketAddr> {
            (1..=count).map(|last| SocketAddr::from(([10, 78, 1, last], 80))).collect()
        };
        let (three, all) = (backends(3), shares(&backends(4)));
        assert_eq!(all.len(), SHARES);
        for (before, after) in all.iter().zip(shares(&three)) {
            assert!(*before == after || !three.contains(before), "{before} became {after}");
        }
        for count in [2, 32, 33, 250] {
            let (backends, shares) = (backends(count), shares(&backends(count)));
            assert!(shares.len().is_power_of_two() && shares.len() >= SHARES_OF_BACKEND * backends.len());
            let idle = backends.iter().filter(|backend| !shares.contains(backend)).count();
            assert!(idle * 50 <= backends.len(), "{idle} of {count} have no clients");
        }
        assert_eq!((shares(&backends(1)), shares(&[])), (backends(1), vec![]));
    }

    #[test]
    fn an_environment_without_machines_has_these_rules() {
        insta::assert_snapshot!("empty", table(&Wanted::default(), IpFamily::V4));
        insta::assert_snapshot!("empty6", table(&Wanted::default(), IpFamily::V6));
    }

    #[test]
    fn connections_of_a_machine_are_bounded_by_these_rules() {
        insta::assert_snapshot!("limits", limits(TRACKED, Packets::Both));
        insta::assert_snapshot!("frames", frames(Ipv4Addr::new(10, 78, 1, 1)));
    }

    #[test]
    fn machines_services_and_policies_are_these_rules() {
        insta::assert_snapshot!("sample", table(&sample(), IpFamily::V4));
        insta::assert_snapshot!("sample6", table(&sample(), IpFamily::V6));
    }
}
