//! The tables of rules as the kernel takes them.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::super::namespace::{self, Join};
use super::super::netlink::{self, Batch, NLM_F_DUMP};
use super::super::nftables::Packets;
use super::super::rules;
use super::super::wanted::Wanted;
use super::{Inside, network, runs, there};
use crate::manifest::api::IpFamily;

/// The number of entries that the kernel lists of nftables, by a request's type.
fn listed(socket: &OwnedFd, packets: Packets, request: u16) -> usize {
    let mut batch = Batch::default();
    batch.message((10 << 8 | request, NLM_F_DUMP), "list", |body| {
        body.put(&[packets.number(), 0, 0, 0]);
    });
    let mut count = 0;
    netlink::dump(socket, &batch, |_, _| count += 1).unwrap();
    count
}

#[test]
fn the_kernel_takes_the_rules_and_each_table_replaces_the_one_before() {
    if !runs() {
        return;
    }
    let network = network();
    let socket = &network.handles.rules;
    for wanted in [rules::tests::sample(), Wanted::default(), rules::tests::sample()] {
        network.write(&wanted);
        for family in [IpFamily::V4, IpFamily::V6] {
            let table = rules::table(&wanted, family);
            let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
            // NFT_MSG_GETTABLE, GETCHAIN, GETRULE, GETSET.
            let found = [1, 4, 7, 10].map(|request| listed(socket, family.into(), request));
            assert_eq!(found, [1, table.chains.len(), rules, table.sets.len()]);
        }
    }
    // The table of limits: two chains of connections with a rule each, and one of parts with a rule a family.
    assert_eq!([1, 4, 7, 10].map(|request| listed(socket, Packets::Both, request)), [1, 3, 4, 2]);
}

#[test]
fn the_kernel_takes_a_large_table_in_parts() {
    if !runs() {
        return;
    }
    let network = network();
    let socket = &network.handles.rules;
    for wanted in [rules::tests::large(600, 1), rules::tests::large(20, 50), Wanted::default()] {
        network.write(&wanted);
        for family in [IpFamily::V4, IpFamily::V6] {
            let table = rules::table(&wanted, family);
            let found = [1, 4, 10].map(|request| listed(socket, family.into(), request));
            assert_eq!(found, [1, table.chains.len(), table.sets.len()]);
        }
    }
}

/// How long the kernel keeps parts of packets of each family.
const PARTS_TIMES: [&str; 2] =
    ["/proc/sys/net/ipv4/ipfrag_time", "/proc/sys/net/netfilter/nf_conntrack_frag6_timeout"];

fn kept_for() -> [String; 2] {
    PARTS_TIMES.map(|path| std::fs::read_to_string(path).unwrap().trim().to_owned())
}

#[test]
fn a_network_that_is_joined_gets_the_limits_that_it_lacks() {
    if !runs() {
        return;
    }
    let network = network();
    let socket = &network.handles.rules;
    let hooked = || {
        let mut found = 0;
        netlink::dump(socket, &super::super::nftables::list_chains(Packets::Both), |_, body| {
            found += usize::from(super::super::nftables::is_hooked_in(body, rules::LIMITS));
        })
        .unwrap();
        found
    };
    assert_eq!(hooked(), 3);
    // As a program made it that had fewer chains, or none.
    let mut older = rules::limits(20, Packets::Both);
    for chains in [2, 0] {
        older.chains.truncate(chains);
        namespace::write(socket, older.written(rules::LIMITS, None)).unwrap();
        assert_eq!(hooked(), chains);
        network.inside.run(|| PARTS_TIMES.iter().for_each(|path| std::fs::write(path, "30").unwrap()));
        let join = Join {
            user: None,
            net: Some(
                format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&network.handles.net)).into(),
            ),
        };
        let (_inside, joined) = Inside::new(move || namespace::open(&join).map(drop));
        joined.unwrap();
        assert_eq!(hooked(), 3);
        assert_eq!(network.inside.run(kept_for), ["2", "2"]);
    }
    // One that is there keeps its counts.
    let few = rules::limits(20, Packets::Both).written(rules::LIMITS, None);
    namespace::write(socket, few).unwrap();
    namespace::write_limits(socket, true).unwrap();
    let (a, b) = (network.standin(1), network.standin(2));
    network.write(&Wanted { machines: there(&[a.address, b.address]), ..Wanted::default() });
    let to = b.address;
    a.inside.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1..=200 {
            socket.send_to(b"flow", (to, port)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    b.serve(8080);
    assert!(a.get(to, 8080).is_err(), "the table of twenty was replaced");
}
