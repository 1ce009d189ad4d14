//! A table of nftables as a value, as text ([`text`]) and as messages ([`messages`], with [`expressions`] for rules). Pure.

mod expressions;
mod messages;
mod text;

use std::net::{IpAddr, SocketAddr};

pub(super) use self::messages::{hooked_table, is_hooked_in, list_chains};
use super::wanted::{Block, Range};
use crate::manifest::api::{IpFamily, Protocol};

/// The seed of the hash by which clients with affinity are spread: any number will do, as long as it stays.
const SEED: u32 = 0x6932;

/// The names of tables, of which one is there: a new table has the other one's while it is written.
const NAMES: [&str; 2] = ["i2kit", "i2kit-2"];

/// The packets that a table is for, by their numbers in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packets {
    /// `inet`: those of both families.
    Both = 1,
    /// `ip`.
    V4 = 2,
    /// `netdev`: frames of an interface as they come, before the kernel cuts off what is behind a packet.
    Frames = 5,
    /// `ip6`.
    V6 = 10,
}

impl From<IpFamily> for Packets {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::V4,
            IpFamily::V6 => Self::V6,
        }
    }
}

impl Packets {
    /// Its number, as messages and expressions have it.
    pub(super) fn number(self) -> u8 {
        self as u8
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) packets: Packets,
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
}

/// A set, or a map from keys to verdicts or backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) key: Vec<Key>,
    pub(super) elements: Elements,
}

/// The elements of a set; each key has the values of [`Set::key`], in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Elements {
    /// Keys alone.
    Members(Vec<Vec<Value>>),
    /// Ranges of keys of one address, in order and apart.
    Ranges(Vec<Range>),
    /// Keys that packets add, at most so many, each with what is counted of it.
    Counted(u32),
    /// The chain that each key leads to.
    Chains(Vec<(Vec<Value>, Verdict)>),
    /// The backend of each key.
    Backends(IpFamily, Vec<(Vec<Value>, SocketAddr)>),
}

/// What a key is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// `iifname`.
    Interface,
    /// `ip saddr`, or `ip6 saddr`.
    Source(IpFamily),
    /// `ip daddr`, or `ip6 daddr`.
    Destination(IpFamily),
    /// `ct original saddr`, or `ct reply saddr`: an end of the packet's connection. For tables of one family.
    End(IpFamily, Way),
    /// `meta l4proto`.
    Protocol,
    /// `th dport`.
    Port,
    /// A number: of a backend.
    Index,
}

/// A direction of a connection (`enum ip_conntrack_dir`), by its number in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// That of the packet that opened it.
    Original = 0,
    /// The other one.
    Reply = 1,
}

/// A part of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Interface(String),
    Address(IpAddr),
    Protocol(Protocol),
    Port(u16),
    Index(u32),
}

/// A chain, with where it is hooked, unless others lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Vec<Statement>>,
}

/// Where a chain is hooked. Its policy is to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) is_nat: bool,
    /// The interface, of [`Packets::Frames`] alone.
    pub(super) device: Option<String>,
    pub(super) point: Point,
    pub(super) priority: i32,
}

/// The points of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Of frames alone: they come in.
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Point {
    /// Its number in the kernel (`enum nf_inet_hooks`, `enum nf_dev_hooks`).
    fn number(self) -> u32 {
        match self {
            Self::Ingress | Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// The refusal of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A reset, of TCP.
    Reset,
    /// ICMP's "host unreachable": nobody has the address.
    Host,
    /// ICMP's "administratively prohibited": a policy.
    Prohibited,
}

/// A statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// `iifname "PREFIX*"`.
    FromPrefix(String),
    /// `iifname "NAME"`.
    From(&'static str),
    /// `oifname "NAME"`.
    To(&'static str),
    /// `meta l4proto PROTOCOL`.
    Protocol(Protocol),
    /// `meta protocol ip`, or `ip6`: packets of a family, in a table of several.
    Family(IpFamily),
    /// A part of a packet: `ip frag-off & 0x3fff != 0`, or `exthdr frag exists`.
    Part(IpFamily),
    /// `meta length > BYTES`.
    LongerThan(u32),
    /// `meta l4proto icmp`, or `ipv6-icmp`.
    Icmp(IpFamily),
    /// `icmpv6 type 133-137`: the discovery of neighbours and routers.
    Discovery,
    /// `ip daddr BLOCK`, or `ip6 daddr BLOCK`.
    Destination(Block),
    /// `th dport FIRST-LAST`.
    Ports(u16, u16),
    /// `tcp flags & (fin | syn | rst | ack) == syn`: the first packet of a connection.
    Opens,
    /// `ct state established,related`.
    Established,
    /// `ct state new`.
    New,
    /// `ct state related`: an error about a connection.
    Related,
    /// `ct state invalid`: about no connection that is known.
    Unrelated,
    /// `add @SET { KEY ct count over COUNT }`.
    Over(Key, &'static str, u32),
    /// `add @SET { KEY limit rate over COUNT/second burst COUNT packets }`.
    Faster(Key, &'static str, u32),
    /// `socket transparent 1`.
    Transparent,
    /// `meta mark MARK`.
    Marked(u32),
    /// `ct mark MARK`.
    ConnectionMarked(u32),
    /// `meta mark set MARK`.
    Mark(u32),
    /// `ct mark set meta mark`.
    MarkConnection,
    /// `KEYS @SET`, or `KEYS != @SET`.
    In(Vec<Key>, String, bool),
    /// `KEYS vmap @MAP`.
    Lead(Vec<Key>, &'static str),
    /// `dnat to numgen inc mod COUNT map @MAP`, or by a hash of the source.
    Balance { family: IpFamily, map: String, count: u32, has_affinity: bool },
    /// `snat to ADDRESS`.
    SourceNat(IpAddr),
    /// `tproxy to :PORT`.
    Proxy(IpFamily, u16),
    /// `counter`.
    Count,
    /// `notrack`.
    Untracked,
    /// `reject with …`.
    Reject(Packets, Refusal),
    /// A verdict.
    Then(Verdict),
}

/// Statements that many rules have.
pub(super) const ACCEPT: Statement = Statement::Then(Verdict::Accept);
pub(super) const TCP: Statement = Statement::Protocol(Protocol::Tcp);

/// The refusal of packets of a family.
pub(super) fn refuse(family: IpFamily, refusal: Refusal) -> Statement {
    Statement::Reject(family.into(), refusal)
}

impl Key {
    /// Its type as nft names it, its number there, and its bytes.
    fn kind(self) -> (&'static str, u32, u32) {
        match self {
            Self::Interface => ("ifname", 41, 16),
            Self::Source(family) | Self::Destination(family) | Self::End(family, _) => match family {
                IpFamily::V4 => ("ipv4_addr", 7, 4),
                IpFamily::V6 => ("ipv6_addr", 8, 16),
            },
            Self::Protocol => ("inet_proto", 12, 1),
            Self::Port => ("inet_service", 13, 2),
            Self::Index => ("mark", 19, 4),
        }
    }

    fn type_name(self) -> &'static str {
        self.kind().0
    }

    /// The bytes that it takes in a concatenation: whole registers.
    fn room(self) -> u32 {
        self.kind().2.next_multiple_of(4)
    }
}

/// Texts with something between each two of them.
fn joined<T: ToString>(items: &[T], between: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}
