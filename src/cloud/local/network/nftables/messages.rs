//! A table as transactions that replace the whole table, and the question which table is at work.
//! [`netlink`](super::super::netlink) has the form of messages, [`expressions`](super::expressions) that of rules.

use std::net::SocketAddr;

use super::super::netlink::{Batch, Body, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, find};
use super::expressions::ACCEPT;
use super::{Chain, Elements, Hook, Key, NAMES, Packets, Set, Table, Value, joined};
use crate::cloud::local::network::wanted::{behind, octets};
use crate::manifest::api::IpFamily;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type, and alone as the subsystem of a transaction.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Messages of `nf_tables`.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;

/// `NFTA_CHAIN_TABLE` and `NFTA_CHAIN_HOOK`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_HOOK: u16 = 4;

/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// The type of a backend by nft's numbers of types, an address and a port, and its bytes.
fn backend_type(family: IpFamily) -> (u32, u32) {
    let (address, port) = (Key::Destination(family), Key::Port);
    (address.kind().1 << 6 | port.kind().1, address.room() + port.room())
}

/// Elements of a set in one message: its attribute holds 64 KiB, and an element at most 100 bytes.
const ELEMENTS: usize = 500;

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
        name: &str,
        before: Option<&str>,
    ) -> Vec<(Batch, usize)> {
        let mut writer = Writer::new(name, self.packets);
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
struct Writer<'n> {
    name: &'n str,
    packets: Packets,
    batch: Batch,
    done: Vec<(Batch, usize)>,
    /// Whether what follows belongs together.
    is_last: bool,
}

impl<'n> Writer<'n> {
    fn new(name: &'n str, packets: Packets) -> Self {
        Self { name, packets, batch: begun(), done: Vec::new(), is_last: false }
    }

    fn message(&mut self, (kind, flags): (u16, u16), purpose: String, fill: impl FnOnce(&mut Body)) {
        if self.batch.length() > BATCH_BYTES && !self.is_last {
            self.end();
        }
        let packets = self.packets.number();
        self.batch.message((SUBSYSTEM << 8 | kind, flags), purpose, |body| {
            body.put(&[packets, 0, 0, 0]);
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
    fn encode(&self, writer: &mut Writer<'_>, id: u32) {
        let key_type = self.key.iter().fold(0, |sum, key| sum << 6 | key.kind().1);
        let key_bytes: u32 = self.key.iter().map(|key| key.room()).sum();
        let table = writer.name;
        writer.message((NEW_SET, NLM_F_CREATE), format!("set {}", self.name), |body| {
            body.text(1, table).text(2, &self.name);
            let flags = match self.elements {
                Elements::Members(_) => 0,
                Elements::Ranges(_) => SET_INTERVAL,
                Elements::Counted(_) => SET_EVAL,
                Elements::Chains(_) | Elements::Backends(..) => SET_MAP,
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
                Elements::Backends(family, _) => {
                    let (kind, length) = backend_type(family);
                    body.be32(6, kind).be32(7, length);
                }
            }
            body.be32(10, id);
        });
    }

    fn encode_elements(&self, writer: &mut Writer<'_>) {
        let key = |values: &[Value]| -> Vec<u8> { values.iter().flat_map(Value::bytes).collect() };
        let elements: Vec<(Vec<u8>, Data)> = match &self.elements {
            Elements::Members(keys) => keys.iter().map(|values| (key(values), Data::None)).collect(),
            Elements::Counted(_) => Vec::new(),
            Elements::Ranges(all) => {
                let ends = all.iter().flat_map(|(first, last)| {
                    let behind = behind(*last).map(|behind| (behind, Data::End));
                    [Some((*first, Data::None)), behind].into_iter().flatten()
                });
                ends.map(|(address, data)| (octets(address), data)).collect()
            }
            Elements::Chains(all) => {
                all.iter().map(|(values, verdict)| (key(values), Data::Of(verdict.data()))).collect()
            }
            Elements::Backends(_, all) => {
                let backend = |(values, backend): &(Vec<Value>, SocketAddr)| {
                    let mut bytes = octets(backend.ip());
                    bytes.extend(backend.port().to_be_bytes());
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
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
    fn encode(&self, writer: &mut Writer<'_>) {
        let table = writer.name;
        writer.message((NEW_CHAIN, NLM_F_CREATE), format!("chain {}", self.name), |body| {
            body.text(1, table).text(3, &self.name);
            if let Some(Hook { is_nat, device, point, priority }) = &self.hook {
                body.nest(4, |hook| {
                    hook.be32(1, point.number()).be32(2, priority.cast_unsigned());
                    if let Some(device) = device {
                        hook.text(3, device);
                    }
                });
                body.be32(5, ACCEPT.cast_unsigned()).text(7, if *is_nat { "nat" } else { "filter" });
            }
        });
    }

    fn encode_rules(&self, writer: &mut Writer<'_>) {
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

/// Asks for the list of chains of these packets' tables.
pub(in crate::cloud::local::network) fn list_chains(packets: Packets) -> Batch {
    let mut batch = Batch::default();
    batch.message((SUBSYSTEM << 8 | GET_CHAIN, NLM_F_DUMP), "list of chains", |body| {
        body.put(&[packets.number(), 0, 0, 0]);
    });
    batch
}

/// Whether a chain in the list is hooked, in the table of that name.
pub(in crate::cloud::local::network) fn is_hooked_in(body: &[u8], name: &str) -> bool {
    let chain = body.get(HEADER..).unwrap_or_default();
    let table = find(chain, &[CHAIN_TABLE]).and_then(|table| table.strip_suffix(&[0]));
    find(chain, &[CHAIN_HOOK]).is_some() && table == Some(name.as_bytes())
}

/// Of a chain in the list, the table, where that is one of [`NAMES`] and the chain is hooked: it is at work.
pub(in crate::cloud::local::network) fn hooked_table(body: &[u8]) -> Option<&'static str> {
    let chain = body.get(HEADER..)?;
    find(chain, &[CHAIN_HOOK])?;
    let table = find(chain, &[CHAIN_TABLE])?.strip_suffix(&[0])?;
    NAMES.into_iter().find(|name| table == name.as_bytes())
}
