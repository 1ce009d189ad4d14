//! A table as `nft list table` prints it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Chain, Elements, Key, NAMES, Refusal, SEED, Set, Statement, Table, Value, Verdict, joined};
use crate::cloud::local::network::wanted::Range;
use crate::manifest::api::Protocol;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table ip {} {{", NAMES[0])?;
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
            Elements::Backends(all) => {
                let element = |(key, backend): &(Vec<Value>, SocketAddrV4)| {
                    format!("{} : {} . {}", joined(key, " . "), backend.ip(), backend.port())
                };
                ("map", " : ipv4_addr . inet_service", all.iter().map(element).collect())
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
    let [first, last] = [first, last].map(Ipv4Addr::from);
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    chain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            let kind = if hook.is_nat { "nat" } else { "filter" };
            let point = format!("{:?}", hook.point).to_lowercase();
            writeln!(f, "        type {kind} hook {point} priority {}; policy accept;", hook.priority)?;
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
            Self::Source => "ip saddr",
            Self::Destination => "ip daddr",
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
            Self::Icmp => f.write_str("meta l4proto icmp"),
            Self::Destination(block, negated) => write!(f, "ip daddr {}{block}", unless(*negated)),
            Self::Ports(first, last) if first == last => write!(f, "th dport {first}"),
            Self::Ports(first, last) => write!(f, "th dport {first}-{last}"),
            Self::Opens => f.write_str("tcp flags & (fin | syn | rst | ack) == syn"),
            Self::Established => f.write_str("ct state established,related"),
            Self::New => f.write_str("ct state new"),
            Self::Over(key, set, count) => write!(f, "add @{set} {{ {key} ct count over {count} }}"),
            Self::Transparent => f.write_str("socket transparent 1"),
            Self::Marked(mark) => write!(f, "meta mark {mark}"),
            Self::ConnectionMarked(mark) => write!(f, "ct mark {mark}"),
            Self::Mark(mark) => write!(f, "meta mark set {mark}"),
            Self::MarkConnection => f.write_str("ct mark set meta mark"),
            Self::In(keys, set, negated) => write!(f, "{} {}@{set}", joined(keys, " . "), unless(*negated)),
            Self::Lead(keys, map) => write!(f, "{} vmap @{map}", joined(keys, " . ")),
            Self::Balance { map, count, has_affinity: false } => {
                write!(f, "dnat to numgen inc mod {count} map @{map}")
            }
            Self::Balance { map, count, has_affinity: true } => {
                write!(f, "dnat to jhash ip saddr mod {count} seed {SEED:#x} map @{map}")
            }
            Self::SourceNat(address) => write!(f, "snat to {address}"),
            Self::Proxy(port) => write!(f, "tproxy to :{port}"),
            Self::Count => f.write_str("counter"),
            Self::Untracked => f.write_str("notrack"),
            Self::Reject(Refusal::Reset) => f.write_str("reject with tcp reset"),
            Self::Reject(Refusal::Host) => f.write_str("reject with icmp host-unreachable"),
            Self::Reject(Refusal::Prohibited) => f.write_str("reject with icmp admin-prohibited"),
            Self::Then(verdict) => write!(f, "{verdict}"),
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
