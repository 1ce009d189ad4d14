//! Statements of rules as expressions of `nf_tables`, which work on registers; what keys, values and verdicts are there.
//!
//! Every statement that compares loads what it compares into a register of its own and leaves nothing for the next one.

use super::super::netlink::Body;
use super::super::wanted::{Block, octets};
use super::{Key, Packets, Refusal, SEED, Statement, Value, Verdict};
use crate::manifest::api::{IpFamily, Protocol};

/// The first of the registers of four bytes, and the one of verdicts.
const R0: u32 = 8;
const VERDICT: u32 = 0;

/// The bytes of an interface's name in a register.
const NAME_BYTES: usize = 16;

/// `NF_ACCEPT`, `NF_DROP`, and the verdicts of chains.
const DROP: i32 = 0;
pub(super) const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

impl Key {
    /// Loads it into the register.
    fn load(self, list: &mut Body, register: u32) {
        match self {
            Self::Interface => meta(list, META_IIFNAME, register),
            Self::Source(IpFamily::V4) => payload(list, (NETWORK, 12, 4), register),
            Self::Source(IpFamily::V6) => payload(list, (NETWORK, 8, 16), register),
            Self::Destination(IpFamily::V4) => payload(list, (NETWORK, 16, 4), register),
            Self::Destination(IpFamily::V6) => payload(list, (NETWORK, 24, 16), register),
            Self::End(_, way) => expression(list, "ct", |ct| {
                ct.be32(1, register).be32(2, CT_SOURCE).attribute(3, &[way as u8]);
            }),
            Self::Protocol => meta(list, META_L4PROTO, register),
            Self::Port => payload(list, (TRANSPORT, 2, 2), register),
            Self::Index => {}
        }
    }
}

impl Value {
    /// Its bytes in a key, in whole registers.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Interface(name) => interface(name),
            Self::Address(address) => octets(*address),
            Self::Protocol(protocol) => vec![protocol_number(*protocol)],
            Self::Port(port) => port.to_be_bytes().to_vec(),
            Self::Index(index) => index.to_ne_bytes().to_vec(),
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_BYTES, 0);
    bytes
}

impl Verdict {
    /// It as data of an element or an expression: `NFTA_DATA_VERDICT`.
    pub(super) fn data(&self) -> Body {
        let (code, chain) = match self {
            Self::Accept => (ACCEPT, None),
            Self::Drop => (DROP, None),
            Self::Return => (RETURN, None),
            Self::Jump(chain) => (JUMP, Some(chain)),
            Self::Goto(chain) => (GOTO, Some(chain)),
        };
        let mut data = Body::default();
        data.nest(2, |verdict| {
            verdict.be32(1, code.cast_unsigned());
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
        data
    }
}

/// Keys of the expression `meta`.
const META_LENGTH: u32 = 0;
const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;

/// Where the expression `payload` begins to count: at the network's header, or at the transport's.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// Operators of the expression `cmp`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const ABOVE: u32 = 4;
const AT_LEAST: u32 = 5;

/// Keys of the expression `ct`.
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;
const CT_SOURCE: u32 = 8;

/// `IP_CT_ESTABLISHED` and `IP_CT_RELATED` as bits of a state.
const ESTABLISHED_RELATED: u32 = 2 | 4;

/// The latter alone, `IP_CT_NEW`, and what is of no connection, in the same way.
const RELATED: u32 = 4;
const NEW: u32 = 8;
const UNRELATED: u32 = 1;

/// The bits of IPv4's header that a part of a packet has: that more follow, or where it begins.
const PART: [u8; 2] = [0x3f, 0xff];

/// `NEXTHDR_FRAGMENT`, the header of a part of a packet of IPv6.
const FRAGMENT: u8 = 44;

/// `IPPROTO_ICMPV6`, and its types from the solicitation of routers to the redirect: the discovery of neighbours.
const ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;

/// Bits of TCP's flags: fin, syn, rst and ack; syn.
const TCP_OPENING: u8 = 0x17;
const TCP_SYN: u8 = 0x02;

impl Statement {
    pub(super) fn encode(&self, list: &mut Body) {
        match self {
            Self::FromPrefix(prefix) => {
                meta(list, META_IIFNAME, R0);
                compare(list, R0, EQUAL, prefix.as_bytes());
            }
            Self::From(name) => {
                meta(list, META_IIFNAME, R0);
                compare(list, R0, EQUAL, &interface(name));
            }
            Self::To(name) => {
                meta(list, META_OIFNAME, R0);
                compare(list, R0, EQUAL, &interface(name));
            }
            Self::Protocol(protocol) => is_protocol(list, protocol_number(*protocol)),
            Self::Family(family) => {
                meta(list, META_PROTOCOL, R0);
                compare(list, R0, EQUAL, ether_type(*family));
            }
            Self::Part(family) => part(list, *family),
            Self::LongerThan(bytes) => {
                meta(list, META_LENGTH, R0);
                // NFT_BYTEORDER_HTON: bytes are compared one after the other.
                expression(list, "byteorder", |order| {
                    order.be32(1, R0).be32(2, R0).be32(3, 1).be32(4, 4).be32(5, 4);
                });
                compare(list, R0, ABOVE, &bytes.to_be_bytes());
            }
            Self::Icmp(IpFamily::V4) => is_protocol(list, 1),
            Self::Icmp(IpFamily::V6) => is_protocol(list, ICMPV6),
            Self::Discovery => {
                is_protocol(list, ICMPV6);
                payload(list, (TRANSPORT, 0, 1), R0);
                compare(list, R0, AT_LEAST, &[ROUTER_SOLICITATION]);
                compare(list, R0, AT_MOST, &[REDIRECT]);
            }
            Self::Destination(block) => within(list, *block),
            Self::Ports(from, to) => ports(list, *from, *to),
            Self::Opens => {
                payload(list, (TRANSPORT, 13, 1), R0);
                mask(list, &[TCP_OPENING]);
                compare(list, R0, EQUAL, &[TCP_SYN]);
            }
            Self::Established => state(list, ESTABLISHED_RELATED),
            Self::New => state(list, NEW),
            Self::Related => state(list, RELATED),
            Self::Unrelated => state(list, UNRELATED),
            Self::Transparent => {
                expression(list, "socket", |socket| {
                    socket.be32(1, 0).be32(2, R0);
                });
                compare(list, R0, EQUAL, &[1]);
            }
            Self::Marked(mark) => {
                meta(list, META_MARK, R0);
                compare(list, R0, EQUAL, &mark.to_ne_bytes());
            }
            Self::ConnectionMarked(mark) => {
                expression(list, "ct", |ct| {
                    ct.be32(1, R0).be32(2, CT_MARK);
                });
                compare(list, R0, EQUAL, &mark.to_ne_bytes());
            }
            Self::In(keys, set, negated) => look_up(list, (keys, set), None, *negated),
            Self::Lead(keys, map) => look_up(list, (keys, map), Some(VERDICT), false),
            _ => self.encode_act(list),
        }
    }

    /// The statements that do something.
    fn encode_act(&self, list: &mut Body) {
        match self {
            Self::Mark(mark) => {
                load(list, R0, &mark.to_ne_bytes());
                expression(list, "meta", |meta| {
                    meta.be32(2, META_MARK).be32(3, R0);
                });
            }
            Self::MarkConnection => {
                meta(list, META_MARK, R0);
                expression(list, "ct", |ct| {
                    ct.be32(2, CT_MARK).be32(4, R0);
                });
            }
            Self::Balance { family, map, count, has_affinity } => {
                balance(list, *family, (map, *count), *has_affinity);
            }
            Self::SourceNat(address) => {
                load(list, R0, &octets(*address));
                // NFT_NAT_SNAT.
                expression(list, "nat", |nat| {
                    nat.be32(1, 0).be32(2, number(IpFamily::of(*address))).be32(3, R0);
                });
            }
            Self::Proxy(family, port) => {
                load(list, R0, &port.to_be_bytes());
                expression(list, "tproxy", |proxy| {
                    proxy.be32(1, number(*family)).be32(3, R0);
                });
            }
            Self::Count => expression(list, "counter", |_| {}),
            // NFT_CONNLIMIT_F_INV: those above.
            Self::Over(key, set, count) => add_counted(list, (*key, set), "connlimit", |limit| {
                limit.be32(1, *count).be32(2, 1);
            }),
            // So many in a second; NFT_LIMIT_PKTS; NFT_LIMIT_F_INV: those above.
            Self::Faster(key, set, rate) => add_counted(list, (*key, set), "limit", |limit| {
                limit.attribute(1, &u64::from(*rate).to_be_bytes()).attribute(2, &1_u64.to_be_bytes());
                limit.be32(3, *rate).be32(4, 0).be32(5, 1);
            }),
            Self::Untracked => expression(list, "notrack", |_| {}),
            Self::Reject(packets, refusal) => {
                // NFT_REJECT_ICMP_UNREACH with a code of ICMP or ICMPv6, NFT_REJECT_TCP_RST, or NFT_REJECT_ICMPX_UNREACH with
                // one of nftables' own codes.
                let (unreachable, host, prohibited) = match packets {
                    Packets::V4 => (0, 1, 13),
                    Packets::V6 => (0, 3, 1),
                    Packets::Both | Packets::Frames => (2, 2, 3),
                };
                let (kind, code) = match refusal {
                    Refusal::Reset => (1, 0),
                    Refusal::Host => (unreachable, host),
                    Refusal::Prohibited => (unreachable, prohibited),
                };
                expression(list, "reject", |reject| {
                    reject.be32(1, kind).attribute(2, &[code]);
                });
            }
            Self::Then(verdict) => {
                expression(list, "immediate", |now| {
                    now.be32(1, VERDICT).nested(2, &verdict.data());
                });
            }
            // Those that compare.
            _ => {}
        }
    }
}

/// Appends an expression with these attributes.
fn expression(list: &mut Body, name: &str, fill: impl FnOnce(&mut Body)) {
    list.nest(1, |one| {
        one.text(1, name).nest(2, fill);
    });
}

fn meta(list: &mut Body, key: u32, register: u32) {
    expression(list, "meta", |meta| {
        meta.be32(2, key).be32(1, register);
    });
}

fn payload(list: &mut Body, (base, offset, length): (u32, u32, u32), register: u32) {
    expression(list, "payload", |payload| {
        payload.be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
    });
}

fn compare(list: &mut Body, register: u32, operator: u32, with: &[u8]) {
    expression(list, "cmp", |cmp| {
        cmp.be32(1, register).be32(2, operator).nest(3, |value| {
            value.attribute(1, with);
        });
    });
}

/// Masks what the first registers hold.
fn mask(list: &mut Body, mask: &[u8]) {
    // At most an address.
    let length = u32::try_from(mask.len()).unwrap_or(16);
    expression(list, "bitwise", |bitwise| {
        bitwise.be32(1, R0).be32(2, R0).be32(3, length);
        bitwise.nest(4, |value| {
            value.attribute(1, mask);
        });
        bitwise.nest(5, |value| {
            value.attribute(1, &vec![0; mask.len()]);
        });
    });
}

fn load(list: &mut Body, register: u32, bytes: &[u8]) {
    expression(list, "immediate", |now| {
        now.be32(1, register).nest(2, |value| {
            value.attribute(1, bytes);
        });
    });
}

/// Whether the connection is in one of these states.
fn state(list: &mut Body, bits: u32) {
    expression(list, "ct", |ct| {
        ct.be32(1, R0).be32(2, CT_STATE);
    });
    mask(list, &bits.to_ne_bytes());
    compare(list, R0, UNEQUAL, &[0; 4]);
}

/// The type of frames (`ETH_P_IP`, `ETH_P_IPV6`).
fn ether_type(family: IpFamily) -> &'static [u8] {
    match family {
        IpFamily::V4 => &[8, 0],
        IpFamily::V6 => &[0x86, 0xdd],
    }
}

/// Whether it is a part of a packet. Of a packet in one part IPv4's header says so, and IPv6 has no header for it.
fn part(list: &mut Body, family: IpFamily) {
    match family {
        IpFamily::V4 => {
            payload(list, (NETWORK, 6, 2), R0);
            mask(list, &PART);
            compare(list, R0, UNEQUAL, &[0; 2]);
        }
        IpFamily::V6 => {
            // NFT_EXTHDR_F_PRESENT.
            expression(list, "exthdr", |header| {
                header.be32(1, R0).attribute(2, &[FRAGMENT]).be32(3, 0).be32(4, 1).be32(5, 1);
            });
            compare(list, R0, EQUAL, &[1]);
        }
    }
}

/// Adds a key to a set, with an expression that counts what comes with it (`NFT_DYNSET_OP_ADD`).
fn add_counted(list: &mut Body, (key, set): (Key, &str), name: &str, fill: impl FnOnce(&mut Body)) {
    key.load(list, R0);
    expression(list, "dynset", |add| {
        add.text(1, set).be32(3, 0).be32(4, R0).nest(7, |counted| {
            counted.text(1, name).nest(2, fill);
        });
    });
}

fn is_protocol(list: &mut Body, number: u8) {
    meta(list, META_L4PROTO, R0);
    compare(list, R0, EQUAL, &[number]);
}

fn within(list: &mut Body, block: Block) {
    Key::Destination(block.family()).load(list, R0);
    mask(list, &octets(block.mask()));
    compare(list, R0, EQUAL, &octets(block.range().0));
}

fn ports(list: &mut Body, from: u16, to: u16) {
    Key::Port.load(list, R0);
    if from == to {
        return compare(list, R0, EQUAL, &from.to_be_bytes());
    }
    compare(list, R0, AT_LEAST, &from.to_be_bytes());
    compare(list, R0, AT_MOST, &to.to_be_bytes());
}

fn look_up(list: &mut Body, (keys, set): (&[Key], &str), into: Option<u32>, negated: bool) {
    let mut register = R0;
    for key in keys {
        key.load(list, register);
        register += key.room() / 4;
    }
    expression(list, "lookup", |lookup| {
        lookup.text(1, set).be32(2, R0);
        if let Some(into) = into {
            lookup.be32(3, into);
        }
        if negated {
            lookup.be32(5, 1);
        }
    });
}

/// A backend in turn, or the same one for the same client.
fn balance(list: &mut Body, family: IpFamily, (map, count): (&str, u32), has_affinity: bool) {
    // A client's address has up to four registers.
    let (index, backend) = (R0 + 4, R0 + 5);
    let client = Key::Source(family);
    let port = backend + client.room() / 4;
    if has_affinity {
        client.load(list, R0);
        expression(list, "hash", |hash| {
            hash.be32(1, R0).be32(2, index).be32(3, client.room()).be32(4, count).be32(5, SEED).be32(7, 0);
        });
    } else {
        expression(list, "numgen", |numgen| {
            numgen.be32(1, index).be32(2, count).be32(3, 0);
        });
    }
    expression(list, "lookup", |lookup| {
        lookup.text(1, map).be32(2, index).be32(3, backend);
    });
    // NFT_NAT_DNAT: address and port.
    expression(list, "nat", |nat| {
        nat.be32(1, 1).be32(2, number(family)).be32(3, backend).be32(5, port);
    });
}

/// The number of a family, as expressions have it.
fn number(family: IpFamily) -> u32 {
    Packets::from(family).number().into()
}

/// The number of a transport in IP's header.
fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}
