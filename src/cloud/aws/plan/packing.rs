//! Which network load balancer a Service shares: as few as their ports allow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::manifest::api::{Name, ServiceType};
use crate::plan::fleet::{BalancerSpec, TargetGroup};
use crate::plan::rollout::GroupSpec;

/// Listeners of one network load balancer, a quota of AWS.
pub const MOST_LISTENERS: usize = 50;

/// Inbound rules of a security group for ranges of IPv4, and as many for those of IPv6: a quota of AWS (L-0EA8095F).
pub const MOST_RULES: usize = 60;

/// Certificates of a load balancer beside those that are its listeners' first: a quota of AWS.
pub const MOST_CERTIFICATES: usize = 25;

/// Targets of one network load balancer that balances over its zones, as all do here: a machine counts once for each target
/// group that it is in. A quota of AWS by default, <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html>.
pub const MOST_TARGETS: usize = 500;

/// The most machines that there may be at once of each group; of one that is not known there is none.
pub type Sizes = BTreeMap<Name, u32>;

/// The sizes of groups as a deployment is to have them.
pub fn sizes_of(groups: &[GroupSpec]) -> impl Iterator<Item = (Name, u32)> {
    groups.iter().map(|group| (group.name.clone(), group.settings.most_machines(group.replicas)))
}

/// Who reaches a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// The environment's network alone.
    Internal,
    /// Everybody that its security group lets in.
    Public,
}

impl Scheme {
    /// The scheme that a type of Service asks for.
    pub fn of(kind: ServiceType) -> Self {
        if kind == ServiceType::LoadBalancer { Self::Public } else { Self::Internal }
    }

    /// Ranges of a Service's clients: those of the manifest, or all that the scheme admits.
    pub fn clients(self, spec: &BalancerSpec) -> Vec<String> {
        let default: &[&str] = match self {
            _ if !spec.source_ranges.is_empty() => return spec.source_ranges.clone(),
            Self::Public => &["0.0.0.0/0"],
            // Networks of providers have addresses that are shared between them, and VPCs may have these, too.
            Self::Internal => &["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"],
        };
        default.iter().map(ToString::to_string).collect()
    }
}

/// One load balancer of an environment: `internal-0`, `public-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BalancerSlot {
    /// Who reaches it.
    pub scheme: Scheme,
    /// Its number among those of the scheme.
    pub index: u32,
}

impl BalancerSlot {
    /// The slot in a name of CloudFormation, which has letters and digits only.
    pub fn in_template(self) -> String {
        let scheme = self.scheme.in_template();
        format!("{scheme}{}", self.index)
    }
}

impl Scheme {
    /// The scheme in a name of CloudFormation.
    pub fn in_template(self) -> &'static str {
        match self {
            Self::Internal => "Internal",
            Self::Public => "Public",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal => "internal",
            Self::Public => "public",
        })
    }
}

impl fmt::Display for BalancerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.scheme, self.index)
    }
}

impl FromStr for BalancerSlot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (scheme, index) = text.split_once('-').ok_or(())?;
        let scheme = match scheme {
            "internal" => Scheme::Internal,
            "public" => Scheme::Public,
            _ => return Err(()),
        };
        Ok(Self { scheme, index: index.parse().map_err(drop)? })
    }
}

/// What Services take of a load balancer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Listeners.
    pub listeners: usize,
    /// Rules of its security group for ranges of IPv4.
    pub ipv4_rules: usize,
    /// The same for ranges of IPv6.
    pub ipv6_rules: usize,
    /// Certificates in the lists of its listeners; one that is a listener's only one is in none.
    pub certificates: BTreeSet<String>,
    /// Machines behind its target groups, each as often as it is in one.
    pub targets: usize,
}

impl Load {
    /// What a Service takes: a rule for each port and range, a target for each port and machine that there may be. A port that
    /// leads nowhere has neither listener nor rules yet, and counts: it gets them where the Service is.
    pub fn of(spec: &BalancerSpec, sizes: &Sizes) -> Self {
        let ranges = Scheme::of(spec.kind).clients(spec);
        let ipv6 = ranges.iter().filter(|range| range.contains(':')).count();
        let listeners = spec.listeners.len();
        Self {
            listeners,
            ipv4_rules: listeners * (ranges.len() - ipv6),
            ipv6_rules: listeners * ipv6,
            certificates: all_listed(spec).cloned().collect(),
            targets: spec.listeners.iter().map(|listener| machines(&listener.targets, sizes)).sum(),
        }
    }

    /// What a Service takes while it changes where it is: what is new is made before what is gone is deleted, and a port that
    /// leads to other machines' ports has a listener for each until they are healthy.
    fn of_change(old: &BalancerSpec, new: &BalancerSpec, sizes: &Sizes) -> Self {
        let (mut listeners, mut rules) = (BTreeSet::new(), BTreeSet::new());
        // Of a target group that stays, the groups may be others.
        let mut targets: BTreeMap<_, usize> = BTreeMap::new();
        for spec in [old, new] {
            let ranges = Scheme::of(spec.kind).clients(spec);
            for listener in &spec.listeners {
                let port = format!("{}/{}", listener.port, listener.protocol);
                rules.extend(ranges.iter().map(|range| (port.clone(), range.clone())));
                let target_group = (port, listener.targets.first().map(|target| target.port));
                let most = targets.entry(target_group.clone()).or_default();
                *most = machines(&listener.targets, sizes).max(*most);
                listeners.insert(target_group);
            }
        }
        let ipv6_rules = rules.iter().filter(|(_, range)| range.contains(':')).count();
        Self {
            listeners: listeners.len(),
            ipv4_rules: rules.len() - ipv6_rules,
            ipv6_rules,
            certificates: all_listed(old).chain(all_listed(new)).cloned().collect(),
            targets: targets.into_values().sum(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            listeners: self.listeners + other.listeners,
            ipv4_rules: self.ipv4_rules + other.ipv4_rules,
            ipv6_rules: self.ipv6_rules + other.ipv6_rules,
            certificates: self.certificates.into_iter().chain(other.certificates).collect(),
            targets: self.targets + other.targets,
        }
    }

    fn at_least(self, other: Self) -> Self {
        Self {
            listeners: self.listeners.max(other.listeners),
            ipv4_rules: self.ipv4_rules.max(other.ipv4_rules),
            ipv6_rules: self.ipv6_rules.max(other.ipv6_rules),
            // No room is kept for others: a Service that gets too many moves.
            certificates: self.certificates.into_iter().chain(other.certificates).collect(),
            targets: 0,
        }
    }

    /// Rules of the family that has more of them.
    pub fn rules(&self) -> usize {
        self.ipv4_rules.max(self.ipv6_rules)
    }

    /// Whether one load balancer can have it.
    fn fits(&self) -> bool {
        self.listeners <= MOST_LISTENERS
            && self.rules() <= MOST_RULES
            && self.certificates.len() <= MOST_CERTIFICATES
            && self.targets <= MOST_TARGETS
    }
}

/// The most machines that there may be behind a target group of these groups.
pub fn machines(targets: &[TargetGroup], sizes: &Sizes) -> usize {
    let most = |target: &TargetGroup| sizes.get(&target.group).copied().unwrap_or_default();
    targets
        .iter()
        .map(|target| usize::try_from(most(target)).unwrap_or(usize::MAX))
        .fold(0, usize::saturating_add)
}

/// The certificates that a listener has in its list. Where it has several the first is among them, too; its only one is not.
pub fn listed(certificates: &[String]) -> &[String] {
    if certificates.len() > 1 { certificates } else { &[] }
}

/// Those of all listeners of a Service.
fn all_listed(spec: &BalancerSpec) -> impl Iterator<Item = &String> {
    let with_tls = spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    with_tls.flat_map(|tls| listed(&tls.certificates))
}

/// Whether a Service gives one of its ports another protocol. That is another listener, which CloudFormation makes before it
/// deletes the one that has the port: the Service has to move.
fn trades_protocol(old: &BalancerSpec, new: &BalancerSpec) -> bool {
    let mut coming = new.listeners.iter();
    coming.any(|to| old.listeners.iter().any(|from| from.port == to.port && from.protocol != to.protocol))
}

/// Where `spec` goes, given where it is `now` and as what, where all others are, and the `sizes` of all groups. A Service that has
/// a place keeps it for as long as it can be made what it is to be there: clients know the load balancer's name.
pub fn place(
    spec: &BalancerSpec,
    now: Option<(BalancerSlot, &BalancerSpec)>,
    others: &[(BalancerSlot, BalancerSpec)],
    sizes: &Sizes,
) -> BalancerSlot {
    let scheme = Scheme::of(spec.kind);
    let on = |slot: BalancerSlot| {
        let there = others.iter().filter(move |(other, _)| *other == slot);
        there.map(|(_, spec)| spec).collect::<Vec<_>>()
    };
    let is_free = |there: &[&BalancerSpec]| {
        // TCP and UDP of one port could share a listener of the kind TCP_UDP only, with one target group.
        let ports: BTreeSet<u16> =
            there.iter().flat_map(|spec| &spec.listeners).map(|listener| listener.port).collect();
        spec.listeners.iter().all(|listener| !ports.contains(&listener.port))
    };
    if let Some((slot, old)) = now
        && slot.scheme == scheme
        && !trades_protocol(old, spec)
    {
        let there = on(slot);
        let all =
            there.iter().fold(Load::of_change(old, spec, sizes), |sum, spec| sum.and(Load::of(spec, sizes)));
        if is_free(&there) && all.fits() {
            return slot;
        }
    }
    let own = Load::of(spec, sizes);
    let fits = |slot: BalancerSlot| {
        let there = on(slot);
        // A Service that changes has its old listeners and its new ones for minutes, and so it is with its rules: one that
        // comes leaves that room to the largest. What is too large to share a load balancer has one alone.
        let largest = there.iter().fold(own.clone(), |most, spec| most.at_least(Load::of(spec, sizes)));
        let all = there.iter().fold(own.clone(), |sum, spec| sum.and(Load::of(spec, sizes)));
        there.is_empty() || (is_free(&there) && all.and(largest).fits())
    };
    let left = now.map(|(slot, _)| slot);
    // Every load balancer holds a Service, so that one of two more than there are others is free.
    let most = u32::try_from(others.len()).unwrap_or(u32::MAX).saturating_add(1);
    let slots = (0..=most).map(|index| BalancerSlot { scheme, index });
    let found = slots.filter(|slot| Some(*slot) != left).find(|slot| fits(*slot));
    found.unwrap_or(BalancerSlot { scheme, index: most })
}

/// The load balancers that so many Services need in front of groups of these sizes, put one after the other. Ingresses and aliases
/// share none.
pub fn needed<'a>(
    specs: impl IntoIterator<Item = &'a BalancerSpec>,
    sizes: &Sizes,
) -> BTreeSet<BalancerSlot> {
    let mut placed: Vec<(BalancerSlot, BalancerSpec)> = Vec::new();
    let sharing = specs.into_iter().filter(|spec| spec.http.is_none() && spec.external_name.is_none());
    for spec in sharing {
        placed.push((place(spec, None, &placed, sizes), spec.clone()));
    }
    placed.into_iter().map(|(slot, _)| slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Protocol, Tls};
    use crate::plan::fleet::Listener;

    fn spec(kind: ServiceType, ports: &[u16]) -> BalancerSpec {
        let listener = |port: &u16| Listener::new(*port, Protocol::Tcp, vec![]);
        let name = Name { namespace: "default".into(), name: "a".into() };
        BalancerSpec::new(name, kind, ports.iter().map(listener).collect())
    }

    #[test]
    fn services_share_a_balancer_until_their_ports_collide() {
        use ServiceType::{ClusterIP, LoadBalancer};
        let mut placed = Vec::new();
        let mut put = |spec: BalancerSpec| {
            let placement = place(&spec, None, &placed, &Sizes::new());
            placed.push((placement, spec));
            placement.to_string()
        };
        assert_eq!(put(spec(ClusterIP, &[80])), "internal-0");
        assert_eq!(put(spec(ClusterIP, &[81, 82])), "internal-0");
        assert_eq!(put(spec(ClusterIP, &[82, 83])), "internal-1");
        assert_eq!(put(spec(LoadBalancer, &[80])), "public-0");
        assert_eq!(put(spec(ClusterIP, &[84])), "internal-0");
        // No room for it and for its change.
        let many: Vec<u16> = (1000..1012).collect();
        assert_eq!(put(spec(ClusterIP, &many)), "internal-2");
        assert_eq!(put(spec(ClusterIP, &[5000])), "internal-0");
    }

    /// Puts a Service of each list of ports, one after the other; what each load balancer has then.
    fn loads(kind: ServiceType, services: &[Vec<u16>]) -> Vec<Load> {
        let mut placed: Vec<(BalancerSlot, BalancerSpec)> = Vec::new();
        for ports in services {
            let spec = spec(kind, ports);
            placed.push((place(&spec, None, &placed, &Sizes::new()), spec));
        }
        let slots: BTreeSet<BalancerSlot> = placed.iter().map(|(slot, _)| *slot).collect();
        let on = |slot: BalancerSlot| {
            let there = placed.iter().filter(move |(other, _)| *other == slot);
            there.fold(Load::default(), |sum, (_, spec)| sum.and(Load::of(spec, &Sizes::new())))
        };
        slots.into_iter().map(on).collect()
    }

    #[test]
    fn no_balancer_has_more_rules_or_listeners_than_aws_allows() {
        let single = |count: u16| (1..=count).map(|port| vec![port]).collect::<Vec<_>>();
        // Four ranges of clients each, and room for one that changes.
        let internal = loads(ServiceType::ClusterIP, &single(20));
        assert_eq!(internal.iter().map(|load| load.listeners).collect::<Vec<_>>(), [14, 6]);
        assert_eq!(internal.iter().map(Load::rules).collect::<Vec<_>>(), [56, 24]);
        let public = loads(ServiceType::LoadBalancer, &single(50));
        assert_eq!(public.iter().map(|load| load.listeners).collect::<Vec<_>>(), [49, 1]);
        // As many listeners as the largest Service has stay free.
        let large: Vec<u16> = (100..120).collect();
        let mixed: Vec<Vec<u16>> = [vec![large], single(20)].concat();
        let mixed = loads(ServiceType::LoadBalancer, &mixed);
        assert_eq!(mixed.iter().map(|load| load.listeners).collect::<Vec<_>>(), [30, 10]);
    }

    #[test]
    fn load_balancers_are_counted_that_services_share() {
        use ServiceType::{ClusterIP, LoadBalancer};
        let mut alias = spec(ClusterIP, &[]);
        alias.external_name = Some("db.example.com".into());
        let specs = [spec(ClusterIP, &[80]), spec(ClusterIP, &[81]), alias, spec(ClusterIP, &[80])];
        let slots: Vec<String> = needed(&specs, &Sizes::new()).iter().map(ToString::to_string).collect();
        assert_eq!(slots, ["internal-0", "internal-1"]);
        assert_eq!(needed(&[spec(LoadBalancer, &[80])], &Sizes::new()).len(), 1);
    }

    #[test]
    fn rules_are_counted_by_family() {
        let mut both = spec(ServiceType::LoadBalancer, &[80, 81]);
        both.source_ranges = vec!["192.0.2.0/24".into(), "2001:db8::/32".into(), "198.51.100.0/24".into()];
        let load = Load { listeners: 2, ipv4_rules: 4, ipv6_rules: 2, ..Load::default() };
        assert_eq!(Load::of(&both, &Sizes::new()), load);
        assert_eq!(load.rules(), 4);
    }

    #[test]
    fn a_service_moves_where_it_cannot_be_made_what_it_is_to_be() {
        let there = BalancerSlot { scheme: Scheme::Internal, index: 0 };
        let service = |ports: &[u16]| spec(ServiceType::ClusterIP, ports);
        let single = |count: u16| (1..=count).map(|port| (there, service(&[port]))).collect::<Vec<_>>();
        let index = |new: &BalancerSpec, old: &BalancerSpec, others: &[(BalancerSlot, BalancerSpec)]| {
            place(new, Some((there, old)), others, &Sizes::new()).index
        };
        let one = service(&[80]);
        assert_eq!(index(&one, &one, &single(13)), 0);
        assert_eq!(index(&service(&[80, 81]), &one, &single(13)), 0, "60 rules");
        assert_eq!(index(&service(&[80, 81]), &one, &single(14)), 1, "64 rules");
        // Where nothing of it changes, it stays however full it is there.
        assert_eq!(index(&one, &one, &single(14)), 0);
        let large = service(&[100, 101, 102, 103, 104, 105]);
        assert_eq!(index(&large, &large, &single(9)), 0);
        // Other ranges are there beside the old ones.
        let alone = service(&(1..=15).collect::<Vec<_>>());
        let narrow = BalancerSpec { source_ranges: vec!["10.1.0.0/16".into()], ..alone.clone() };
        assert_eq!((index(&alone, &alone, &[]), index(&narrow, &alone, &[])), (0, 1));
        // And so is a listener of machines' other ports.
        let public = BalancerSlot { scheme: Scheme::Public, index: 0 };
        let leads = |port: u16| {
            let mut spec = spec(ServiceType::LoadBalancer, &(1..=50).collect::<Vec<_>>());
            let group = spec.name.clone();
            spec.listeners[0].targets = vec![TargetGroup { group, port }];
            spec
        };
        let moved = |to: u16| place(&leads(to), Some((public, &leads(8080))), &[], &Sizes::new()).index;
        assert_eq!([moved(8080), moved(8081)], [0, 1]);
    }

    #[test]
    fn certificates_are_counted_over_all_services_of_a_load_balancer() {
        let service = |port: u16, numbers: std::ops::Range<u16>| {
            let mut spec = spec(ServiceType::LoadBalancer, &[port]);
            let certificates = numbers.map(|number| format!("arn:{number}")).collect();
            spec.listeners[0].tls = Some(Tls { certificates, policy: None, to_pods: false });
            spec
        };
        let there = BalancerSlot { scheme: Scheme::Public, index: 0 };
        let others = [(there, service(1, 0..20))];
        let index = |spec: &BalancerSpec, now| place(spec, now, &others, &Sizes::new()).index;
        assert_eq!(index(&service(2, 20..25), None), 0, "25 certificates");
        assert_eq!(index(&service(2, 20..26), None), 1, "26 certificates");
        // The same one counts once, and one alone is its listener's first.
        assert_eq!(index(&service(2, 0..20), None), 0);
        assert_eq!(index(&service(2, 90..91), None), 0);
        // Those that come are there beside those that go.
        let small = service(2, 20..22);
        assert_eq!(index(&service(2, 22..25), Some((there, &small))), 0);
        assert_eq!(index(&service(2, 22..26), Some((there, &small))), 1);
    }

    /// A Service of these ports in front of a group, each of which leads to the machines' port.
    fn leading(ports: &[u16], group: &str, to: u16) -> BalancerSpec {
        let mut spec = spec(ServiceType::LoadBalancer, ports);
        let group = Name { namespace: "default".into(), name: group.into() };
        for listener in &mut spec.listeners {
            listener.targets = vec![TargetGroup { group: group.clone(), port: to }];
        }
        spec
    }

    fn sizes(all: &[(&str, u32)]) -> Sizes {
        let one = |(group, most): &(&str, u32)| {
            (Name { namespace: "default".into(), name: (*group).into() }, *most)
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn no_balancer_has_more_targets_than_aws_allows() {
        let all = sizes(&[("a", 200), ("b", 100), ("c", 1)]);
        let (a, b) = (leading(&[80, 443], "a", 8080), leading(&[90], "b", 8080));
        // A machine counts once for each port that leads to it; a group that is not known has none.
        assert_eq!(Load::of(&a, &all).targets, 400);
        assert_eq!(Load::of(&leading(&[80], "d", 8080), &all).targets, 0);
        let both = BalancerSpec {
            listeners: vec![Listener {
                targets: [&a, &b].map(|spec| spec.listeners[0].targets[0].clone()).into(),
                ..a.listeners[0].clone()
            }],
            ..a.clone()
        };
        assert_eq!(Load::of(&both, &all).targets, 300);
        let there = BalancerSlot { scheme: Scheme::Public, index: 0 };
        let others = [(there, a.clone())];
        assert_eq!(place(&b, None, &others, &all).index, 0, "500 targets");
        assert_eq!(place(&b, None, &others, &sizes(&[("a", 200), ("b", 101)])).index, 1, "501 targets");
        let slots = needed([&a, &b, &leading(&[91], "c", 8080)], &all);
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn a_service_whose_group_grows_stays_while_its_targets_fit() {
        let (a, b) = (leading(&[80], "a", 8080), leading(&[90], "b", 8080));
        let there = BalancerSlot { scheme: Scheme::Public, index: 0 };
        let index = |spec: &BalancerSpec, most| {
            let others = [(there, b.clone())];
            place(spec, Some((there, &a)), &others, &sizes(&[("a", most), ("b", 300)])).index
        };
        assert_eq!((index(&a, 200), index(&a, 201)), (0, 1));
        // What leads to another port of the machines has both target groups for minutes.
        let moved = leading(&[80], "a", 8081);
        assert_eq!((index(&moved, 100), index(&moved, 101)), (0, 1));
        // A group that takes the place of another one behind a port is there instead of it.
        let other = leading(&[80], "b", 8080);
        assert_eq!(index(&other, 100), 1, "300 of each Service");
        assert_eq!(Load::of_change(&a, &other, &sizes(&[("a", 7), ("b", 5)])).targets, 7);
        // Alone it has room for its own targets.
        assert_eq!(place(&a, Some((there, &a)), &[], &sizes(&[("a", 500)])).index, 0);
    }

    #[test]
    fn a_port_of_another_protocol_is_another_listener() {
        let tcp = spec(ServiceType::ClusterIP, &[53, 80]);
        let mut udp = tcp.clone();
        udp.listeners[0].protocol = Protocol::Udp;
        assert!(trades_protocol(&tcp, &udp) && !trades_protocol(&tcp, &tcp));
        assert!(!trades_protocol(&tcp, &spec(ServiceType::ClusterIP, &[54])));
        let there = BalancerSlot { scheme: Scheme::Internal, index: 0 };
        let index = |spec: &BalancerSpec| place(spec, Some((there, &tcp)), &[], &Sizes::new()).index;
        assert_eq!((index(&tcp), index(&udp)), (0, 1), "it moves");
    }

    #[test]
    fn a_place_is_kept_while_it_fits_and_reads_back() {
        let there = BalancerSlot { scheme: Scheme::Internal, index: 3 };
        let others = [(there, spec(ServiceType::ClusterIP, &[80]))];
        let placed = |kind, ports: &[u16]| {
            let now = spec(ServiceType::ClusterIP, &[81]);
            place(&spec(kind, ports), Some((there, &now)), &others, &Sizes::new())
        };
        assert_eq!(placed(ServiceType::ClusterIP, &[81]), there);
        assert_eq!(placed(ServiceType::ClusterIP, &[80]).index, 0);
        assert_eq!(placed(ServiceType::LoadBalancer, &[81]).scheme, Scheme::Public);
        assert_eq!("internal-3".parse(), Ok(there));
        assert_eq!("internal-x".parse::<BalancerSlot>(), Err(()));
    }
}
