//! A table as `nft list table` prints it.

use std::fmt;
use std::net::SocketAddr;

use super::{
    Chain, Elements, Key, NAMES, Packets, Refusal, SEED, Set, Statement, Table, Value, Verdict, Way, joined,
};
use crate::cloud::local::network::wanted::Range;
use crate::manifest::api::{IpFamily, Protocol};

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets = match self.packets {
            Packets::Both => "inet",
            Packets::V4 => "ip",
            Packets::V6 => "ip6",
            Packets::Frames => "netdev",
        };
        writeln!(f, "table {packets} {} {{", NAMES[0])?;
        for set in &self.sets {
            writeln!(f, "{set}")?;
        }
        for chain in &self.chains {
            writeln!(f, "{chain}")?;
        }
        write!(f, "}}")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.iter().map(|key| key.type_name()).collect::<Vec<_>>().join(" . ");
        let (kind, data, elements): (_, _, Vec<String>) = match &self.elements {
            Elements::Members(keys) => ("set", "", keys.iter().map(|key| joined(key, " . ")).collect()),
            Elements::Counted(size) => {
                return write!(
                    f,
                    "    set {} {{\n        type {key}\n        size {size}\n        flags dynamic\n    }}",
                    self.name
                );
            }
            Elements::Ranges(all) => {
                ("set", "\n        flags interval", all.iter().copied().map(range).collect())
            }
            Elements::Chains(all) => {
                let element =
                    |(key, verdict): &(Vec<Value>, Verdict)| format!("{} : {verdict}", joined(key, " . "));
                ("map", " : verdict", all.iter().map(element).collect())
            }
            Elements::Backends(family, all) => {
                let element = |(key, backend): &(Vec<Value>, SocketAddr)| {
                    format!("{} : {} . {}", joined(key, " . "), backend.ip(), backend.port())
                };
                let data = match family {
                    IpFamily::V4 => " : ipv4_addr . inet_service",
                    IpFamily::V6 => " : ipv6_addr . inet_service",
                };
                ("map", data, all.iter().map(element).collect())
            }
        };
        writeln!(f, "    {kind} {} {{", self.name)?;
        writeln!(f, "        type {key}{data}")?;
        if !elements.is_empty() {
            writeln!(f, "        elements = {{ {} }}", elements.join(", "))?;
        }
        write!(f, "    }}")
    }
}

fn range((first, last): Range) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    chain {} {{", self.name)?;
        if let Some(hook) = &self.hook {
            let kind = if hook.is_nat { "nat" } else { "filter" };
            let point = format!("{:?}", hook.point).to_lowercase();
            let device =
                hook.device.as_ref().map(|device| format!(" device \"{device}\"")).unwrap_or_default();
            writeln!(
                f,
                "        type {kind} hook {point}{device} priority {}; policy accept;",
                hook.priority
            )?;
        }
        for rule in &self.rules {
            writeln!(f, "        {}", joined(rule, " "))?;
        }
        write!(f, "    }}")
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::Address(address) => write!(f, "{address}"),
            Self::Protocol(protocol) => write!(f, "{}", protocol_name(*protocol)),
            Self::Port(port) => write!(f, "{port}"),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interface => "iifname",
            Self::Source(IpFamily::V4) => "ip saddr",
            Self::Source(IpFamily::V6) => "ip6 saddr",
            Self::Destination(IpFamily::V4) => "ip daddr",
            Self::Destination(IpFamily::V6) => "ip6 daddr",
            Self::End(_, Way::Original) => "ct original saddr",
            Self::End(_, Way::Reply) => "ct reply saddr",
            Self::Protocol => "meta l4proto",
            Self::Port => "th dport",
            Self::Index => "mark",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unless = |negated: bool| if negated { "!= " } else { "" };
        match self {
            Self::FromPrefix(prefix) => write!(f, "iifname \"{prefix}*\""),
            Self::From(name) => write!(f, "iifname \"{name}\""),
            Self::To(name) => write!(f, "oifname \"{name}\""),
            Self::Protocol(protocol) => write!(f, "meta l4proto {}", protocol_name(*protocol)),
            Self::Family(IpFamily::V4) => f.write_str("meta protocol ip"),
            Self::Family(IpFamily::V6) => f.write_str("meta protocol ip6"),
            Self::Part(IpFamily::V4) => f.write_str("ip frag-off & 0x3fff != 0"),
            Self::Part(IpFamily::V6) => f.write_str("exthdr frag exists"),
            Self::LongerThan(bytes) => write!(f, "meta length > {bytes}"),
            Self::Icmp(IpFamily::V4) => f.write_str("meta l4proto icmp"),
            Self::Icmp(IpFamily::V6) => f.write_str("meta l4proto ipv6-icmp"),
            Self::Discovery => f.write_str("icmpv6 type 133-137"),
            Self::Destination(block) => write!(f, "{} {block}", Key::Destination(block.family())),
            Self::Ports(first, last) if first == last => write!(f, "th dport {first}"),
            Self::Ports(first, last) => write!(f, "th dport {first}-{last}"),
            Self::Opens => f.write_str("tcp flags & (fin | syn | rst | ack) == syn"),
            Self::Established => f.write_str("ct state established,related"),
            Self::New => f.write_str("ct state new"),
            Self::Related => f.write_str("ct state related"),
            Self::Unrelated => f.write_str("ct state invalid"),
            Self::Over(key, set, count) => write!(f, "add @{set} {{ {key} ct count over {count} }}"),
            Self::Faster(key, set, rate) => {
                write!(f, "add @{set} {{ {key} limit rate over {rate}/second burst {rate} packets }}")
            }
            Self::Transparent => f.write_str("socket transparent 1"),
            Self::Marked(mark) => write!(f, "meta mark {mark}"),
            Self::ConnectionMarked(mark) => write!(f, "ct mark {mark}"),
            Self::Mark(mark) => write!(f, "meta mark set {mark}"),
            Self::MarkConnection => f.write_str("ct mark set meta mark"),
            Self::In(keys, set, negated) => write!(f, "{} {}@{set}", joined(keys, " . "), unless(*negated)),
            Self::Lead(keys, map) => write!(f, "{} vmap @{map}", joined(keys, " . ")),
            Self::Balance { map, count, has_affinity: false, .. } => {
                write!(f, "dnat to numgen inc mod {count} map @{map}")
            }
            Self::Balance { family, map, count, has_affinity: true } => {
                let client = Key::Source(*family);
                write!(f, "dnat to jhash {client} mod {count} seed {SEED:#x} map @{map}")
            }
            Self::SourceNat(address) => write!(f, "snat to {address}"),
            Self::Proxy(_, port) => write!(f, "tproxy to :{port}"),
            Self::Count => f.write_str("counter"),
            Self::Untracked => f.write_str("notrack"),
            Self::Reject(packets, refusal) => write!(f, "reject with {}", refusal_name(*packets, *refusal)),
            Self::Then(verdict) => write!(f, "{verdict}"),
        }
    }
}

fn refusal_name(packets: Packets, refusal: Refusal) -> &'static str {
    match (refusal, packets) {
        (Refusal::Reset, _) => "tcp reset",
        (Refusal::Host, Packets::V4) => "icmp host-unreachable",
        (Refusal::Host, Packets::V6) => "icmpv6 addr-unreachable",
        (Refusal::Host, Packets::Both | Packets::Frames) => "icmpx host-unreachable",
        (Refusal::Prohibited, Packets::V4) => "icmp admin-prohibited",
        (Refusal::Prohibited, Packets::V6) => "icmpv6 admin-prohibited",
        (Refusal::Prohibited, Packets::Both | Packets::Frames) => "icmpx admin-prohibited",
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
