//! A table as transactions that replace the whole table; [`netlink`](super::super::netlink) has the form of messages.
//!
//! Every statement that compares loads what it compares into a register of its own and leaves nothing for the next one.

use std::net::SocketAddrV4;

use super::super::netlink::{Batch, Body, NLM_F_APPEND, NLM_F_CREATE};
use super::super::wanted::Block;
use super::{
    Chain, Elements, Hook, Key, NAMES, Refusal, SEED, Set, Statement, Table, Value, Verdict, joined,
};
use crate::manifest::api::Protocol;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type, and alone as the subsystem of a transaction.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Messages of `nf_tables`.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;

/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;

/// The first of the registers of four bytes, and the one of verdicts.
const R0: u32 = 8;
const VERDICT: u32 = 0;

/// The type of a backend, by nft's numbers of types: an address (7) and a port (13).
const BACKEND: u32 = 0x7 << 6 | 0xd;

/// Elements of a set in one message: its attribute holds 64 KiB, and an element at most 100 bytes.
const ELEMENTS: usize = 500;

/// The bytes of an interface's name in a register.
const NAME_BYTES: usize = 16;

/// `NF_ACCEPT`, `NF_DROP`, and the verdicts of chains.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// Bytes after which a batch is ended. With a message more it is below `net.core.wmem_default`, the most that a socket sends
/// at once for a user who is not root.
const BATCH_BYTES: usize = 96 << 10;

impl Table {
    /// Transactions, to be sent one after the other, that put this table in the place of that named `before`, each with the
    /// sequence number of the message that is answered. Packets meet the new table with the last one, which hooks its
    /// chains and deletes the table before.
    pub(in crate::cloud::local::network) fn transactions(&self, before: Option<&str>) -> Vec<(Batch, usize)> {
        let [first, second] = NAMES;
        self.written(if before == Some(first) { second } else { first }, before)
    }

    /// The same for a table of that name, which no other one replaces.
    pub(in crate::cloud::local::network) fn written(
        &self,
        name: &'static str,
        before: Option<&str>,
    ) -> Vec<(Batch, usize)> {
        let mut writer = Writer::new(name);
        // What an attempt that failed has left.
        writer.delete(name);
        writer.table(NEW_TABLE, name);
        for (id, set) in (1..).zip(&self.sets) {
            set.encode(&mut writer, id);
        }
        let (hooked, others): (Vec<&Chain>, Vec<&Chain>) =
            self.chains.iter().partition(|chain| chain.hook.is_some());
        for chain in &others {
            chain.encode(&mut writer);
        }
        for set in &self.sets {
            set.encode_elements(&mut writer);
        }
        for chain in &others {
            chain.encode_rules(&mut writer);
        }
        writer.is_last = true;
        if let Some(before) = before {
            writer.delete(before);
        }
        for chain in &hooked {
            chain.encode(&mut writer);
        }
        for chain in &hooked {
            chain.encode_rules(&mut writer);
        }
        writer.end();
        writer.done
    }
}

/// Transactions that are written for a table.
struct Writer {
    name: &'static str,
    batch: Batch,
    done: Vec<(Batch, usize)>,
    /// Whether what follows belongs together.
    is_last: bool,
}

impl Writer {
    fn new(name: &'static str) -> Self {
        Self { name, batch: begun(), done: Vec::new(), is_last: false }
    }

    fn message(&mut self, (kind, flags): (u16, u16), purpose: String, fill: impl FnOnce(&mut Body)) {
        if self.batch.length() > BATCH_BYTES && !self.is_last {
            self.end();
        }
        self.batch.message((SUBSYSTEM << 8 | kind, flags), purpose, |body| {
            body.put(&[IPV4, 0, 0, 0]);
            fill(body);
        });
    }

    /// Ends a transaction. Its last message is the one that is answered.
    fn end(&mut self) {
        let mut batch = std::mem::replace(&mut self.batch, begun());
        batch.ask();
        let answered = batch.len();
        edge(&mut batch, BATCH_END);
        self.done.push((batch, answered));
    }

    fn table(&mut self, kind: u16, name: &str) {
        self.message((kind, NLM_F_CREATE), format!("table {name}"), |body| {
            body.text(1, name);
        });
    }

    /// Deletes a table, which is made before: there may be none.
    fn delete(&mut self, name: &str) {
        self.table(NEW_TABLE, name);
        self.table(DELETE_TABLE, name);
    }
}

fn begun() -> Batch {
    let mut batch = Batch::default();
    edge(&mut batch, BATCH_BEGIN);
    batch
}

/// The first or last message of a transaction.
fn edge(batch: &mut Batch, kind: u16) {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    batch.message((kind, 0), "transaction", |body| {
        body.put(&[0, 0, high, low]);
    });
}

impl Key {
    /// Loads it into the register.
    fn load(self, list: &mut Body, register: u32) {
        match self {
            Self::Interface => meta(list, META_IIFNAME, register),
            Self::Source => payload(list, (NETWORK, 12, 4), register),
            Self::Destination => payload(list, (NETWORK, 16, 4), register),
            Self::Protocol => meta(list, META_L4PROTO, register),
            Self::Port => payload(list, (TRANSPORT, 2, 2), register),
            Self::Index => {}
        }
    }
}

impl Value {
    /// Its bytes in a key, in whole registers.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Interface(name) => interface(name),
            Self::Address(address) => address.octets().to_vec(),
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

/// Flags of sets: `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_EVAL`.
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_EVAL: u32 = 0x20;

/// What an element has beside its key.
enum Data {
    None,
    /// It is the first address behind a range.
    End,
    /// What the key leads to.
    Of(Body),
}

impl Set {
    fn encode(&self, writer: &mut Writer, id: u32) {
        let key_type = self.key.iter().fold(0, |sum, key| sum << 6 | key.kind().1);
        let key_bytes: u32 = self.key.iter().map(|key| key.room()).sum();
        let table = writer.name;
        writer.message((NEW_SET, NLM_F_CREATE), format!("set {}", self.name), |body| {
            body.text(1, table).text(2, &self.name);
            let flags = match self.elements {
                Elements::Members(_) => 0,
                Elements::Ranges(_) => SET_INTERVAL,
                Elements::Counted(_) => SET_EVAL,
                Elements::Chains(_) | Elements::Backends(_) => SET_MAP,
            };
            body.be32(3, flags).be32(4, key_type).be32(5, key_bytes);
            match self.elements {
                Elements::Members(_) | Elements::Ranges(_) => {}
                // NFTA_SET_DESC_SIZE.
                Elements::Counted(size) => {
                    body.nest(9, |desc| {
                        desc.be32(1, size);
                    });
                }
                Elements::Chains(_) => {
                    body.be32(6, 0xffff_ff00);
                }
                Elements::Backends(_) => {
                    body.be32(6, BACKEND).be32(7, 8);
                }
            }
            body.be32(10, id);
        });
    }

    fn encode_elements(&self, writer: &mut Writer) {
        let key = |values: &[Value]| -> Vec<u8> { values.iter().flat_map(Value::bytes).collect() };
        let elements: Vec<(Vec<u8>, Data)> = match &self.elements {
            Elements::Members(keys) => keys.iter().map(|values| (key(values), Data::None)).collect(),
            Elements::Counted(_) => Vec::new(),
            Elements::Ranges(all) => {
                let ends = all.iter().flat_map(|(first, last)| {
                    let behind = last.checked_add(1).map(|behind| (behind, Data::End));
                    [Some((*first, Data::None)), behind].into_iter().flatten()
                });
                ends.map(|(address, data)| (address.to_be_bytes().to_vec(), data)).collect()
            }
            Elements::Chains(all) => {
                all.iter().map(|(values, verdict)| (key(values), Data::Of(verdict.data()))).collect()
            }
            Elements::Backends(all) => {
                let backend = |(values, backend): &(Vec<Value>, SocketAddrV4)| {
                    let mut bytes = backend.ip().octets().to_vec();
                    bytes.extend(backend.port().to_be_bytes());
                    bytes.resize(8, 0);
                    let mut data = Body::default();
                    data.attribute(1, &bytes);
                    (key(values), Data::Of(data))
                };
                all.iter().map(backend).collect()
            }
        };
        for part in elements.chunks(ELEMENTS) {
            let table = writer.name;
            writer.message((NEW_ELEMENT, NLM_F_CREATE), format!("elements of {}", self.name), |body| {
                body.text(1, table).text(2, &self.name).nest(3, |list| {
                    for (key, data) in part {
                        list.nest(1, |element| {
                            element.nest(1, |value| {
                                value.attribute(1, key);
                            });
                            match data {
                                Data::None => {}
                                // NFT_SET_ELEM_INTERVAL_END.
                                Data::End => {
                                    element.be32(3, 1);
                                }
                                Data::Of(data) => {
                                    element.nested(2, data);
                                }
                            }
                        });
                    }
                });
            });
        }
    }
}

impl Chain {
    fn encode(&self, writer: &mut Writer) {
        let table = writer.name;
        writer.message((NEW_CHAIN, NLM_F_CREATE), format!("chain {}", self.name), |body| {
            body.text(1, table).text(3, &self.name);
            if let Some(Hook { is_nat, point, priority }) = self.hook {
                body.nest(4, |hook| {
                    hook.be32(1, point as u32).be32(2, priority.cast_unsigned());
                });
                body.be32(5, ACCEPT.cast_unsigned()).text(7, if is_nat { "nat" } else { "filter" });
            }
        });
    }

    fn encode_rules(&self, writer: &mut Writer) {
        let table = writer.name;
        for rule in &self.rules {
            let purpose = format!("chain {}, rule `{}`", self.name, joined(rule, " "));
            writer.message((NEW_RULE, NLM_F_CREATE | NLM_F_APPEND), purpose, |body| {
                body.text(1, table).text(2, &self.name);
                body.nest(4, |list| rule.iter().for_each(|statement| statement.encode(list)));
            });
        }
    }
}

impl Verdict {
    /// It as data of an element or an expression: `NFTA_DATA_VERDICT`.
    fn data(&self) -> Body {
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
const AT_LEAST: u32 = 5;

/// Keys of the expression `ct`.
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;

/// `IP_CT_ESTABLISHED` and `IP_CT_RELATED` as bits of a state.
const ESTABLISHED_RELATED: u32 = 2 | 4;

/// `IP_CT_NEW` in the same way.
const NEW: u32 = 8;

/// Bits of TCP's flags: fin, syn, rst and ack; syn.
const TCP_OPENING: u8 = 0x17;
const TCP_SYN: u8 = 0x02;

impl Statement {
    fn encode(&self, list: &mut Body) {
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
            Self::Icmp => is_protocol(list, 1),
            Self::Destination(block, negated) => within(list, Key::Destination, *block, *negated),
            Self::Ports(from, to) => ports(list, *from, *to),
            Self::Opens => {
                payload(list, (TRANSPORT, 13, 1), R0);
                mask(list, &[TCP_OPENING]);
                compare(list, R0, EQUAL, &[TCP_SYN]);
            }
            Self::Established => state(list, ESTABLISHED_RELATED),
            Self::New => state(list, NEW),
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
            Self::Balance { map, count, has_affinity } => balance(list, map, *count, *has_affinity),
            Self::SourceNat(address) => {
                load(list, R0, &address.octets());
                // NFT_NAT_SNAT, of IPv4.
                expression(list, "nat", |nat| {
                    nat.be32(1, 0).be32(2, IPV4.into()).be32(3, R0);
                });
            }
            Self::Proxy(port) => {
                load(list, R0, &port.to_be_bytes());
                expression(list, "tproxy", |proxy| {
                    proxy.be32(1, IPV4.into()).be32(3, R0);
                });
            }
            Self::Count => expression(list, "counter", |_| {}),
            Self::Over(key, set, count) => {
                key.load(list, R0);
                expression(list, "dynset", |add| {
                    // NFT_DYNSET_OP_ADD; NFT_CONNLIMIT_F_INV: those above.
                    add.text(1, set).be32(3, 0).be32(4, R0).nest(7, |limit| {
                        limit.text(1, "connlimit").nest(2, |limit| {
                            limit.be32(1, *count).be32(2, 1);
                        });
                    });
                });
            }
            Self::Untracked => expression(list, "notrack", |_| {}),
            Self::Reject(refusal) => {
                // NFT_REJECT_ICMP_UNREACH with a code of ICMP, or NFT_REJECT_TCP_RST.
                let (kind, code) = match refusal {
                    Refusal::Reset => (1, 0),
                    Refusal::Host => (0, 1),
                    Refusal::Prohibited => (0, 13),
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

/// Masks the first register.
fn mask(list: &mut Body, mask: &[u8]) {
    // At most a register.
    let length = u32::try_from(mask.len()).unwrap_or(4);
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

fn is_protocol(list: &mut Body, number: u8) {
    meta(list, META_L4PROTO, R0);
    compare(list, R0, EQUAL, &[number]);
}

fn within(list: &mut Body, address: Key, block: Block, negated: bool) {
    address.load(list, R0);
    let bits = block.mask();
    mask(list, &bits.to_be_bytes());
    let operator = if negated { UNEQUAL } else { EQUAL };
    compare(list, R0, operator, &(u32::from(block.address) & bits).to_be_bytes());
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
fn balance(list: &mut Body, map: &str, count: u32, has_affinity: bool) {
    let (index, backend) = (R0 + 1, R0 + 2);
    if has_affinity {
        Key::Source.load(list, R0);
        expression(list, "hash", |hash| {
            hash.be32(1, R0).be32(2, index).be32(3, 4).be32(4, count).be32(5, SEED).be32(7, 0);
        });
    } else {
        expression(list, "numgen", |numgen| {
            numgen.be32(1, index).be32(2, count).be32(3, 0);
        });
    }
    expression(list, "lookup", |lookup| {
        lookup.text(1, map).be32(2, index).be32(3, backend);
    });
    // NFT_NAT_DNAT, of IPv4: address and port.
    expression(list, "nat", |nat| {
        nat.be32(1, 1).be32(2, IPV4.into()).be32(3, backend).be32(5, backend + 1);
    });
}

/// The number of a transport in IP's header.
fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}
