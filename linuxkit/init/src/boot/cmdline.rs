//! The kernel command line: what differs between two VMs of one image. Knows nothing of where the text comes from.

use std::net::{Ipv4Addr, Ipv6Addr};

use i2kit_spec::cmdline;

use crate::error::Error;

/// The parameters that are ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Parameters {
    /// The VM's name; empty when the host gave none.
    pub(crate) instance: String,
    /// Its index, when it is one of an Indexed Job.
    pub(crate) index: Option<u32>,
    /// The static address of the first interface; without it the guest asks by DHCP.
    pub(crate) network: Option<StaticNetwork>,
    /// The address of IPv6 beside that one.
    pub(crate) network6: Option<StaticNetwork6>,
    /// Loopback addresses that lie behind the gateway.
    pub(crate) services: Option<Range>,
    /// Whether all of this comes over a port of the host's instead, and is waited for.
    pub(crate) awaited: bool,
    /// The Ethernet address of the first interface, where that is not the device's own. Never on the command line.
    pub(crate) hardware: Option<[u8; 6]>,
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first one.
    pub(crate) address: Ipv4Addr,
    /// How many leading bits they share.
    pub(crate) prefix: u8,
}

/// An IPv4 set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaticNetwork {
    /// The interface's address.
    pub(crate) address: Ipv4Addr,
    /// Length of its network prefix.
    pub(crate) prefix: u8,
    /// The default route, if there is one.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub(crate) dns: Vec<Ipv4Addr>,
}

/// An IPv6 set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StaticNetwork6 {
    /// The interface's address.
    pub(crate) address: Ipv6Addr,
    /// Length of its network prefix.
    pub(crate) prefix: u8,
    /// The default route: an address on the link.
    pub(crate) gateway: Ipv6Addr,
    /// The gateway's Ethernet address.
    pub(crate) hardware: [u8; 6],
}

/// Reads the parameters out of the text of `/proc/cmdline`. Later ones win, as in the kernel; others are not ours.
pub(crate) fn parse(text: &str) -> Result<Parameters, Error> {
    let mut parameters = Parameters::default();
    for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
        match name {
            cmdline::INSTANCE => parameters.instance = instance(value)?,
            cmdline::INDEX => parameters.index = Some(index(value)?),
            cmdline::NET => parameters.network = Some(network(value)?),
            cmdline::NET6 => parameters.network6 = Some(network6(value)?),
            cmdline::SERVICES => parameters.services = Some(services(value)?),
            // Another value says what the guest of the image can do, which it knows.
            cmdline::IDENTITY => parameters.awaited = value == cmdline::IDENTITY_AWAITED,
            _ => {}
        }
    }
    Ok(parameters)
}

/// Checks the name of a VM.
pub(crate) fn instance(value: &str) -> Result<String, Error> {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if value.is_empty() || value.len() > 63 || !value.chars().all(known) {
        let reason = "a host name of at most 63 letters, digits, dots and dashes is needed";
        return Err(Error::Parameter { parameter: cmdline::INSTANCE, value: value.to_owned(), reason });
    }
    Ok(value.to_owned())
}

/// Reads the index of a VM.
pub(crate) fn index(value: &str) -> Result<u32, Error> {
    value.parse().map_err(|_| Error::Parameter {
        parameter: cmdline::INDEX,
        value: value.to_owned(),
        reason: "a number is needed",
    })
}

fn services(value: &str) -> Result<Range, Error> {
    let range = value.split_once('/').and_then(|(address, prefix)| {
        let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
        // No more than loopback addresses, and no bits behind the prefix.
        let behind = address.to_bits().trailing_zeros() + u32::from(prefix) >= u32::BITS;
        let whole = (8..=32).contains(&prefix) && behind;
        (whole && address.is_loopback()).then_some(Range { address, prefix })
    });
    range.ok_or_else(|| Error::Parameter {
        parameter: cmdline::SERVICES,
        value: value.to_owned(),
        reason: "a range ADDRESS/PREFIX of loopback addresses is needed",
    })
}

fn network(value: &str) -> Result<StaticNetwork, Error> {
    let wrong = |reason| Error::Parameter { parameter: cmdline::NET, value: value.to_owned(), reason };
    let mut fields = value.split(',');
    let (address, prefix) = fields
        .next()
        .and_then(|field| field.split_once('/'))
        .ok_or_else(|| wrong("ADDRESS/PREFIX is missing"))?;
    let address = address.parse().map_err(|_| wrong("the address is no IPv4 address"))?;
    let prefix =
        prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(|| wrong("the prefix is not 0 to 32"))?;
    let mut addresses = fields.map(|field| match field {
        "" => Ok(None),
        field => field.parse().map(Some).map_err(|_| wrong("a gateway or name server is no IPv4 address")),
    });
    let gateway = addresses.next().transpose()?.flatten();
    let dns = addresses.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    Ok(StaticNetwork { address, prefix, gateway, dns })
}

/// Reads an Ethernet address.
pub(crate) fn hardware(text: &str) -> Option<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes.ok()?.try_into().ok()
}

fn network6(value: &str) -> Result<StaticNetwork6, Error> {
    let wrong = |reason| Error::Parameter { parameter: cmdline::NET6, value: value.to_owned(), reason };
    let fields: Vec<&str> = value.split(',').collect();
    let [address, gateway, hardware] = fields[..] else {
        return Err(wrong("ADDRESS/PREFIX,GATEWAY,HARDWARE is needed"));
    };
    let (address, prefix) = address.split_once('/').ok_or_else(|| wrong("ADDRESS/PREFIX is missing"))?;
    Ok(StaticNetwork6 {
        address: address.parse().map_err(|_| wrong("the address is no IPv6 address"))?,
        prefix: prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= 128)
            .ok_or_else(|| wrong("the prefix is not 0 to 128"))?,
        gateway: gateway
            .parse()
            .ok()
            .filter(Ipv6Addr::is_unicast_link_local)
            .ok_or_else(|| wrong("the gateway is no link-local IPv6 address"))?,
        hardware: self::hardware(hardware).ok_or_else(|| wrong("the gateway has no Ethernet address"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_parameters_among_the_kernels() {
        let parsed = parse(
            "console=ttyS0 quiet i2kit.instance=web-1 i2kit.index=3 i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3 \
             i2kit.net6=fd69::107/128,fe80::1,ee:ee:ee:ee:ee:0f i2kit.services=127.76.0.0/14\n",
        )
        .unwrap();
        assert_eq!(
            parsed,
            Parameters {
                instance: "web-1".into(),
                index: Some(3),
                network: Some(StaticNetwork {
                    address: Ipv4Addr::new(10, 0, 2, 15),
                    prefix: 24,
                    gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
                    dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
                }),
                network6: Some(StaticNetwork6 {
                    address: Ipv6Addr::new(0xfd69, 0, 0, 0, 0, 0, 0, 0x107),
                    prefix: 128,
                    gateway: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
                    hardware: [0xee, 0xee, 0xee, 0xee, 0xee, 0x0f],
                }),
                services: Some(Range { address: Ipv4Addr::new(127, 76, 0, 0), prefix: 14 }),
                awaited: false,
                hardware: None,
            }
        );
        assert!(parse("i2kit.identity=1 quiet i2kit.identity=port").unwrap().awaited);
        assert!(!parse("i2kit.identity=1").unwrap().awaited);
        assert_eq!(parse("quiet").unwrap(), Parameters::default());
    }

    #[test]
    fn gateway_and_dns_may_be_missing() {
        let net = |text: &str| parse(&format!("i2kit.net={text}")).unwrap().network.unwrap();
        assert_eq!(net("192.0.2.1/32").gateway, None);
        assert_eq!(net("192.0.2.1/24,,192.0.2.53").dns, [Ipv4Addr::new(192, 0, 2, 53)]);
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for text in [
            "i2kit.net=10.0.2.15",
            "i2kit.net=10.0.2.15/33",
            "i2kit.net=10.0.2/24",
            "i2kit.net=10.0.2.1/24,x",
            "i2kit.net6=fd69::1/128",
            "i2kit.net6=fd69::1/129,fe80::1,ee:ee:ee:ee:ee:ee",
            "i2kit.net6=fd69::1,fe80::1,ee:ee:ee:ee:ee:ee",
            "i2kit.net6=10.0.2.1/32,fe80::1,ee:ee:ee:ee:ee:ee",
            "i2kit.net6=fd69::1/128,fd69::2,ee:ee:ee:ee:ee:ee",
            "i2kit.net6=fd69::1/128,fe80::1,ee:ee:ee",
            "i2kit.net6=fd69::1/128,fe80::1,ee:ee:ee:ee:ee:ee,x",
            "i2kit.index=-1",
            "i2kit.services=10.0.0.0/8",
            "i2kit.services=127.77.0.0/14",
            "i2kit.services=127.0.0.0/7",
            "i2kit.services=127.76.0.0",
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("kernel command line: {text}")), "{message}");
        }
        assert!(parse("i2kit.instance=a_b").is_err());
        assert!(parse("i2kit.instance=").is_err());
    }
}
