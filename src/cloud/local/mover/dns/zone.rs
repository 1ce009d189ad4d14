//! What a name server answers itself: names with their records. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The domain that is answered here. All other names but those of [`Zone::reverse`] are relayed.
pub(crate) const DOMAIN: &str = "cluster.local";

/// The domains of reverse names: of IPv4, whose labels are bytes, and of IPv6, whose labels are half ones.
const REVERSE: &str = "in-addr.arpa";
const REVERSE6: &str = "ip6.arpa";

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
    /// `A` or `AAAA`: an address.
    Address(IpAddr),
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
    pub fn add_reverse(&mut self, address: impl Into<IpAddr>, name: String) {
        let records = self.records.entry(reverse(address.into(), u8::MAX)).or_default();
        if records.is_empty() {
            records.push(NameRecord::Name(name));
        }
    }

    /// Has the names of all addresses that begin with these bits be answered here: as many as whole labels have.
    pub fn own_reverse(&mut self, address: impl Into<IpAddr>, bits: u8) {
        self.reverse.insert(reverse(address.into(), bits));
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

impl<const N: usize, A: Into<IpAddr>> From<[(String, A); N]> for Zone {
    fn from(addresses: [(String, A); N]) -> Self {
        let mut zone = Self::default();
        for (name, address) in addresses {
            zone.add(name, NameRecord::Address(address.into()));
        }
        zone
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// The reverse name of all addresses that begin with these bits, as far as they make whole labels; of one address with all
/// of its bits or more. RFC 1035, section 3.5, and RFC 3596, section 2.5.
fn reverse(address: IpAddr, bits: u8) -> String {
    let bits = usize::from(bits);
    let (labels, domain): (Vec<String>, _) = match address {
        IpAddr::V4(address) => (address.octets().iter().take(bits / 8).map(u8::to_string).collect(), REVERSE),
        IpAddr::V6(address) => {
            let halves = address.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
            (halves.take(bits / 4).map(|half| format!("{half:x}")).collect(), REVERSE6)
        }
    };
    labels.into_iter().rev().chain([domain.to_owned()]).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn addresses_of_ipv6_have_labels_of_half_bytes() {
        let mut zone = Zone::default();
        let address = Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0x78, 0, 0, 0, 0x107);
        zone.own_reverse(address, 64);
        zone.add_reverse(address, "a".into());
        let range = "8.7.0.0.4.7.9.6.b.6.2.3.9.6.d.f.ip6.arpa";
        let name = format!("7.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.{range}");
        assert_eq!(zone.find(&name), Some(&[NameRecord::Name("a".into())][..]));
        assert!(zone.has(&name) && zone.has(range) && !zone.has("7.0.0.4.7.9.6.b.6.2.3.9.6.d.f.ip6.arpa"));
        assert_eq!(zone.find(&name.replacen('7', "8", 1)), None);
    }

    #[test]
    fn addresses_have_one_name_each_and_their_range_is_answered_here() {
        let mut zone = Zone::default();
        zone.own_reverse(Ipv4Addr::new(10, 78, 0, 0), 16);
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
