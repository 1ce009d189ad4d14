//! What a name server answers itself: names with their records. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The domain that is answered here. All other names but those of [`Zone::reverse`] are relayed.
pub(crate) const DOMAIN: &str = "cluster.local";

/// The domain of reverse names.
const REVERSE: &str = "in-addr.arpa";

/// Names, in lower case, in full, without the last dot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    records: BTreeMap<String, Vec<NameRecord>>,
    /// Domains of addresses, all names of which are answered here.
    #[serde(default)]
    reverse: BTreeSet<String>,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NameRecord {
    /// `A`: an address.
    Address(Ipv4Addr),
    /// `SRV`: a port, and the name of who serves there.
    Port {
        /// The port.
        port: u16,
        /// The name.
        host: String,
    },
    /// `PTR`: the name of an address.
    Name(String),
    /// `CNAME`: the name that this one stands for, in lower case, without the last dot.
    Alias(String),
}

impl Zone {
    /// Adds a record.
    pub fn add(&mut self, name: impl Into<String>, record: NameRecord) {
        self.records.entry(name.into()).or_default().push(record);
    }

    /// Has a name be there, with or without records.
    pub fn know(&mut self, name: impl Into<String>) {
        self.records.entry(name.into()).or_default();
    }

    /// Adds the name of an address, unless that has one.
    pub fn add_reverse(&mut self, address: Ipv4Addr, name: String) {
        let records = self.records.entry(reverse(&address.octets())).or_default();
        if records.is_empty() {
            records.push(NameRecord::Name(name));
        }
    }

    /// Has all names of addresses that begin with these bytes be answered here.
    pub fn own_reverse(&mut self, first: &[u8]) {
        self.reverse.insert(reverse(first));
    }

    /// Whether a name is answered here, if only by saying that there is none.
    pub fn has(&self, name: &str) -> bool {
        let domains = std::iter::once(DOMAIN).chain(self.reverse.iter().map(String::as_str));
        domains.into_iter().any(|domain| name == domain || is_below(name, domain))
    }

    /// The records of a name. None where neither it nor a name below it exists.
    pub fn find(&self, name: &str) -> Option<&[NameRecord]> {
        let found = self.records.get(name).map(Vec::as_slice);
        found.or_else(|| self.records.keys().any(|known| is_below(known, name)).then_some(&[][..]))
    }
}

impl<const N: usize> From<[(String, Ipv4Addr); N]> for Zone {
    fn from(addresses: [(String, Ipv4Addr); N]) -> Self {
        let mut zone = Self::default();
        for (name, address) in addresses {
            zone.add(name, NameRecord::Address(address));
        }
        zone
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// The reverse name of an address, or of all that begin with these bytes.
fn reverse(bytes: &[u8]) -> String {
    let labels = bytes.iter().rev().map(u8::to_string);
    labels.chain([REVERSE.to_owned()]).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_name_each_and_their_range_is_answered_here() {
        let mut zone = Zone::default();
        zone.own_reverse(&[10, 78]);
        zone.add_reverse(Ipv4Addr::new(10, 78, 1, 2), "a".into());
        zone.add_reverse(Ipv4Addr::new(10, 78, 1, 2), "b".into());
        assert_eq!(zone.find("2.1.78.10.in-addr.arpa"), Some(&[NameRecord::Name("a".into())][..]));
        assert_eq!(zone.find("1.78.10.in-addr.arpa"), Some(&[][..]), "it is above a name");
        assert_eq!(zone.find("3.1.78.10.in-addr.arpa"), None);
        assert!(zone.has("3.1.78.10.in-addr.arpa") && zone.has("78.10.in-addr.arpa"));
        assert!(
            !zone.has("1.1.79.10.in-addr.arpa")
                && !zone.has("178.10.in-addr.arpa")
                && !zone.has("example.com")
        );
    }
}
