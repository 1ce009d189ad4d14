//! What policies close.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use rustix::io::Errno;

use super::super::wanted::{self, Addresses, Allow, Block, NODE, NODE6, Policy, Ports, Range, Wanted};
use super::{Standin, VIP, VIP6, block, get, network, runs, service, service6, there};
use crate::manifest::api::{IpFamily, Protocol};

#[test]
fn a_policy_allows_what_it_names_by_address_and_by_service() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    for standin in [&a, &b, &c] {
        standin.serve(8080);
        standin.serve(9090);
    }
    let tcp = |first, last| Some(vec![Ports { protocol: Protocol::Tcp, range: (first, last) }]);
    let allow = |ranges: Vec<Range>, ports| Allow { peers: Addresses::of(ranges), ports };
    let machine = |address: Ipv4Addr| vec![block(address, 32).range()];
    let mut state = Wanted {
        machines: there(&[a.address, b.address, c.address]),
        services: vec![service(&[a.address])],
        policies: vec![Policy {
            machines: vec![a.address.into()],
            ingress: Some(vec![allow(machine(b.address), tcp(8000, 8999))]),
            egress: None,
        }],
    };
    network.write(&state);
    let answer = Ok("10.78.1.1 from 10.78.1.2".to_owned());
    assert_eq!((b.get(a.address, 8080), b.get(VIP, 80)), (answer.clone(), answer));
    let refused = Err(Errno::CONNREFUSED);
    assert_eq!(
        (b.get(a.address, 9090), c.get(a.address, 8080), c.get(VIP, 80)),
        (refused.clone(), refused.clone(), refused.clone())
    );
    // The node and the machine itself are never cut off, and what is not selected is not restricted.
    let host = a.address;
    assert!(
        network.inside.run(move || get(host, 8080)).is_ok()
            && a.get(VIP, 80).is_ok()
            && a.get(c.address, 9090).is_ok()
    );
    // Both sides must allow: exceptions in a range, and no egress but to one machine.
    let mut except = vec![block(c.address, 32)];
    except.extend((0..200).map(|number| block(Ipv4Addr::new(10, 78, 2, number), 32)));
    let all = allow(block(NODE, 16).without(&except), None);
    let egress = Some(vec![allow(machine(c.address), None)]);
    state.policies = vec![
        Policy { machines: vec![a.address.into()], ingress: Some(vec![all]), egress: None },
        Policy { machines: vec![b.address.into()], ingress: None, egress },
    ];
    network.write(&state);
    assert_eq!((c.get(a.address, 8080), b.get(a.address, 8080)), (refused.clone(), refused));
    assert!(b.get(c.address, 9090).is_ok() && c.get(b.address, 9090).is_ok());
    state.policies.truncate(1);
    network.write(&state);
    assert!(b.get(a.address, 8080).is_ok());
}

#[test]
fn a_policy_closes_over_ipv6_what_it_closes_over_ipv4() {
    if !runs() {
        return;
    }
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    for standin in [&a, &b, &c] {
        standin.serve(8080);
    }
    let both = |standin: &Standin| [IpAddr::V4(standin.address), IpAddr::V6(standin.address6())];
    let alone = |address: IpAddr| (address, address);
    let allow = |ranges: Vec<Range>| Some(vec![Allow { peers: Addresses::of(ranges), ports: None }]);
    let policy = |ingress, egress| Policy { machines: both(&a).into(), ingress, egress };
    let write = |policies| {
        network.write(&Wanted {
            machines: there(&[a.address, b.address, c.address]),
            services: vec![service(&[a.address]), service6(&[a.address])],
            policies,
        });
    };
    // By both addresses, and both Services.
    let reaches = |from: &Standin| {
        [(a.address.into(), 8080), (VIP.into(), 80), (a.address6().into(), 8080), (VIP6.into(), 80)]
            .map(|(address, port): (IpAddr, u16)| from.get(address, port).is_ok())
    };
    let refused = |from: &Standin, address: Ipv6Addr| from.get(address, 8080) == Err(Errno::CONNREFUSED);
    write(vec![]);
    assert_eq!(reaches(&b), [true; 4]);
    write(vec![policy(Some(vec![]), Some(vec![]))]);
    assert_eq!(reaches(&b), [false; 4]);
    assert!(refused(&b, a.address6()) && refused(&a, b.address6()));
    // Itself and this host are never kept out.
    let own = a.address6();
    assert!(a.get(own, 8080).is_ok() && network.inside.run(move || get(own, 8080)).is_ok());
    write(vec![policy(allow(both(&b).map(alone).into()), None)]);
    assert_eq!((reaches(&b), reaches(&c)), ([true; 4], [false; 4]));
    // What is allowed over one family is not over the other one.
    write(vec![policy(allow(vec![block(c.address, 32).range()]), None)]);
    assert_eq!(reaches(&c), [true, true, false, false]);
    write(vec![policy(allow(vec![block(c.address6(), 128).range()]), None)]);
    assert_eq!(reaches(&c), [false, false, true, true]);
    let other = block(NODE6, 64).without(&[block(c.address6(), 128)]);
    write(vec![policy(allow(other), None)]);
    assert_eq!((reaches(&b), reaches(&c)), ([false, false, true, true], [false; 4]));
    write(vec![policy(None, allow(vec![wanted::everything(IpFamily::V4)]))]);
    assert!(a.get(b.address, 8080).is_ok() && refused(&a, b.address6()));
}

#[test]
fn datagrams_on_their_way_are_refused_by_a_policy_that_comes_later() {
    if !runs() {
        return;
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        a_later_policy(family);
    }
}

/// The same with addresses of this family.
fn a_later_policy(family: IpFamily) {
    let of_family = |standin: &Standin| match family {
        IpFamily::V4 => IpAddr::V4(standin.address),
        IpFamily::V6 => IpAddr::V6(standin.address6()),
    };
    let everybody = wanted::everything(family).0;
    let network = network();
    let (a, b, c) = (network.standin(1), network.standin(2), network.standin(3));
    let server = a.inside.run(move || UdpSocket::bind((everybody, 5000)).unwrap());
    std::thread::spawn(move || {
        let mut question = [0; 16];
        while let Ok((length, client)) = server.recv_from(&mut question) {
            let _ = server.send_to(&question[..length], client);
        }
    });
    let to = of_family(&a);
    let client = |standin: &Standin| {
        standin.inside.run(move || {
            let socket = UdpSocket::bind((everybody, 0)).unwrap();
            socket.connect((to, 5000)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        })
    };
    let ask = |client: &UdpSocket| client.send(b"who").and_then(|_| client.recv(&mut [0; 16]));
    let mut state = Wanted { machines: there(&[a.address, b.address, c.address]), ..Wanted::default() };
    let write = |state: &Wanted| {
        network.write(state);
        super::super::conntrack::forget(&network.handles.conntrack, state).unwrap();
    };
    write(&state);
    let (of_b, of_c) = (client(&b), client(&c));
    assert!(ask(&of_b).is_ok() && ask(&of_c).is_ok());
    let allowed = Allow { peers: Addresses::of(vec![Block::one(of_family(&c)).range()]), ports: None };
    let policy = Policy { machines: vec![of_family(&a)], ingress: Some(vec![allowed]), egress: None };
    state.policies = vec![policy.clone()];
    // The rules alone do not look at a flow that is on its way.
    network.write(&state);
    assert!(ask(&of_b).is_ok());
    write(&state);
    assert!(ask(&of_b).is_err(), "the policy does not allow it");
    assert!(ask(&of_c).is_ok(), "what it allows goes on");
    state.policies = vec![Policy { ingress: None, egress: Some(vec![]), machines: vec![of_family(&c)] }];
    write(&state);
    assert!(ask(&of_c).is_err() && ask(&of_b).is_ok());
}
