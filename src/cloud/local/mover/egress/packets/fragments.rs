//! Reassembly: parts of datagrams are kept until the datagram is whole, and no longer than a few seconds. A sender
//! has room for few, so that no one takes the memory of others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::build;
use super::parse::{Fragment, FragmentKey};

/// Datagrams of one sender that are kept. An application that sends large ones has a few under way.
const DATAGRAMS: usize = 32;

/// Datagrams of all senders of an environment: 16 MiB at most.
const ALL_DATAGRAMS: usize = 256;

/// Parts of a datagram. The longest one has 120 where the link carries 576 bytes.
const PARTS: usize = 128;

/// How long parts wait for the others. They are sent at once, and the path to us is one link long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A datagram of which parts are there.
#[derive(Debug)]
struct Partial {
    since: Instant,
    hops: u8,
    /// The protocol that the first part names.
    protocol: u8,
    /// Length of the whole, once the last part is there.
    len: Option<usize>,
    /// Bytes that are there.
    have: usize,
    parts: BTreeMap<usize, Vec<u8>>,
}

/// The datagrams of an environment that are not whole.
#[derive(Debug, Default)]
pub struct Fragments {
    partial: HashMap<FragmentKey, Partial>,
    /// Number of datagrams that were given up: parts that overlap, too many, or too late.
    pub dropped: u64,
}

impl Fragments {
    /// Takes a part; gives the whole packet when it was the last one missing.
    pub fn add(&mut self, fragment: &Fragment<'_>, now: Instant) -> Option<Vec<u8>> {
        let key = FragmentKey {
            // With IPv6 the protocol of later parts does not count; that of the first is taken when it comes.
            protocol: if fragment.key.source.is_ipv6() { 0 } else { fragment.key.protocol },
            ..fragment.key
        };
        if !self.partial.contains_key(&key) {
            self.make_room(key.source, now);
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            since: now,
            hops: fragment.hops,
            protocol: fragment.key.protocol,
            len: None,
            have: 0,
            parts: BTreeMap::new(),
        });
        let end = fragment.offset + fragment.data.len();
        if partial.parts.get(&fragment.offset).is_some_and(|known| known == fragment.data) {
            return None; // the same part again
        }
        if !fits(partial, fragment, end) {
            // Parts that overlap are an attack on who looks at the first ones alone (RFC 5722): all of it goes.
            self.partial.remove(&key);
            self.dropped += 1;
            return None;
        }
        if !fragment.more {
            partial.len = Some(end);
        }
        if fragment.offset == 0 {
            (partial.hops, partial.protocol) = (fragment.hops, fragment.key.protocol);
        }
        partial.have += fragment.data.len();
        partial.parts.insert(fragment.offset, fragment.data.to_vec());
        if partial.len != Some(partial.have) {
            return None;
        }
        let partial = self.partial.remove(&key)?;
        let payload: Vec<u8> = partial.parts.into_values().flatten().collect();
        build::ip(key.source, key.destination, partial.protocol, partial.hops, 0, &payload)
    }

    /// Gives up what waits for too long.
    pub fn expire(&mut self, now: Instant) {
        let before = self.partial.len();
        self.partial.retain(|_, partial| now.duration_since(partial.since) < PATIENCE);
        self.dropped += (before - self.partial.len()) as u64;
    }

    /// Number of datagrams of which parts are kept.
    pub fn len(&self) -> usize {
        self.partial.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.partial.values().map(|partial| partial.have).sum()
    }

    /// Room for one more datagram of `source`: its oldest goes, or the oldest of all.
    fn make_room(&mut self, source: IpAddr, now: Instant) {
        let own = self.partial.keys().filter(|key| key.source == source).count();
        if own < DATAGRAMS && self.partial.len() < ALL_DATAGRAMS {
            return;
        }
        self.expire(now);
        let candidates = self.partial.iter().filter(|(key, _)| own < DATAGRAMS || key.source == source);
        if let Some(key) = candidates.min_by_key(|(_, partial)| partial.since).map(|(key, _)| *key) {
            self.partial.remove(&key);
            self.dropped += 1;
        }
    }
}

/// Whether a part that ends at `end` overlaps none, and agrees with the length of the whole.
fn fits(partial: &Partial, fragment: &Fragment<'_>, end: usize) -> bool {
    let before = partial.parts.range(..=fragment.offset).next_back();
    let after = partial.parts.range(fragment.offset..).next();
    let last = partial.parts.last_key_value().map_or(0, |(offset, data)| offset + data.len());
    partial.parts.len() < PARTS
        && before.is_none_or(|(offset, data)| offset + data.len() <= fragment.offset)
        && after.is_none_or(|(offset, _)| end <= *offset)
        && partial.len.is_none_or(|len| fragment.more && end <= len)
        && (fragment.more || last <= end)
}
