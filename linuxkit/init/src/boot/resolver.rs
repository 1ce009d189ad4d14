//! The files by which containers find names. Pure: the pod's settings and the network's, as text.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use i2kit_spec::Names;

use super::cmdline::{StaticNetwork, StaticNetwork6};

/// The text of `/etc/resolv.conf`: the network's settings, unless the pod wants its own alone, then the pod's.
pub(crate) fn resolv_conf(names: &Names, network: Option<&StaticNetwork>) -> String {
    let given = network.iter().flat_map(|network| &network.dns).map(ToString::to_string);
    let mut servers: Vec<String> = if names.own_resolvers_only { vec![] } else { given.collect() };
    servers.extend(names.nameservers.iter().cloned());
    let mut text = String::new();
    let mut line = |word: &str, values: &[String]| {
        let _ = writeln!(text, "{word} {}", values.join(" "));
    };
    servers.dedup();
    for server in servers {
        line("nameserver", &[server]);
    }
    if !names.searches.is_empty() {
        line("search", &names.searches);
    }
    if !names.options.is_empty() {
        line("options", &names.options);
    }
    text
}

/// The text of `/etc/hosts`, in the form that kubelet gives it: a line for each address of the pod.
pub(crate) fn hosts(
    hostname: &str,
    names: &Names,
    (network, network6): (Option<&StaticNetwork>, Option<&StaticNetwork6>),
) -> String {
    let own = network.map_or(Ipv4Addr::LOCALHOST, |network| network.address);
    let full = names.domain.as_ref().map(|domain| format!("{hostname}.{domain}\t")).unwrap_or_default();
    let mut text = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{own}\t{full}{hostname}\n"
    );
    if let Some(StaticNetwork6 { address, .. }) = network6 {
        let _ = writeln!(text, "{address}\t{full}{hostname}");
    }
    if !names.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in &names.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.names.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use i2kit_spec::HostAlias;

    use super::*;

    fn network() -> StaticNetwork {
        StaticNetwork {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: None,
            dns: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(1, 1, 1, 1)],
        }
    }

    #[test]
    fn without_a_word_of_the_pod_the_network_counts() {
        let names = Names::default();
        assert_eq!(resolv_conf(&names, Some(&network())), "nameserver 10.0.2.3\nnameserver 1.1.1.1\n");
        assert_eq!(resolv_conf(&names, None), "");
        assert!(hosts("web-1", &names, (Some(&network()), None)).ends_with("\n10.0.2.15\tweb-1\n"));
        let network6 = StaticNetwork6 {
            address: "fd69::107".parse().unwrap(),
            prefix: 128,
            gateway: "fe80::1".parse().unwrap(),
            hardware: [0xee; 6],
        };
        let text = hosts("web-1", &names, (Some(&network()), Some(&network6)));
        assert!(text.ends_with("\n10.0.2.15\tweb-1\nfd69::107\tweb-1\n"), "{text}");
    }

    #[test]
    fn the_pods_word_comes_after_the_networks_or_instead_of_it() {
        let mut names = Names {
            domain: Some("db.default.svc.cluster.local".into()),
            host_aliases: vec![HostAlias {
                ip: "192.0.2.7".into(),
                names: vec!["a".into(), "b.example".into()],
            }],
            nameservers: vec!["192.0.2.53".into()],
            searches: vec!["example".into(), "test".into()],
            options: vec!["ndots:2".into(), "edns0".into()],
            ..Names::default()
        };
        let own = "nameserver 192.0.2.53\nsearch example test\noptions ndots:2 edns0\n";
        assert_eq!(
            resolv_conf(&names, Some(&network())),
            format!("nameserver 10.0.2.3\nnameserver 1.1.1.1\n{own}")
        );
        names.own_resolvers_only = true;
        assert_eq!(resolv_conf(&names, Some(&network())), own);
        assert!(hosts("db-0", &names, (Some(&network()), None)).ends_with(
            "\n10.0.2.15\tdb-0.db.default.svc.cluster.local\tdb-0\n\n# Entries added by HostAliases.\n192.0.2.7\ta\tb.example\n"
        ));
    }
}
