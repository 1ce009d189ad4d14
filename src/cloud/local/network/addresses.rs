//! Addresses of the local cloud on this host's loopback: those of balancers, of name servers, and of machines behind
//! Ingresses.

use std::net::Ipv4Addr;

use rustix::process::{Uid, geteuid};

use crate::manifest::api::Name;
use crate::oci::Digest;

/// Loopback addresses of this host that a machine reaches: those of balancers and of name servers.
pub(super) const REACHABLE: &str = "127.76.0.0/14";

/// The first two bytes of balancers' addresses.
const BALANCERS: [u8; 2] = [127, 77];

/// The first two bytes of name servers' addresses.
const NAME_SERVERS: [u8; 2] = [127, 78];

/// The first two bytes of the addresses by which the HTTP proxy reaches machines in a network; no machine reaches these.
const MACHINES: [u8; 2] = [127, 80];

/// The address of this host by which the HTTP proxy reaches a machine that has this one in its environment's network.
pub(crate) fn machine(inside: Ipv4Addr) -> Ipv4Addr {
    let ([a, b], [.., c, d]) = (MACHINES, inside.octets());
    Ipv4Addr::new(a, b, c, d)
}

/// An address for the balancer `name` of `environment` that is not in `taken`: the same one for the same name as far as
/// possible, so that bookmarks still work after a `destroy`. Another user of this host has another one.
pub(crate) fn balancer(environment: &str, name: &Name, taken: &[String]) -> Ipv4Addr {
    balancer_of(geteuid(), environment, name, taken)
}

fn balancer_of(user: Uid, environment: &str, name: &Name, taken: &[String]) -> Ipv4Addr {
    let [a, b] = BALANCERS;
    let digest = digest(user, &format!("{environment}/{}/{}", name.namespace, name.name));
    let bytes = digest.as_bytes();
    let first = u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    // The range without its first and last address.
    let candidates =
        (0..=0xffff_u32).map(|step| (first + step) & 0xffff).filter(|low| (1..0xffff).contains(low));
    let base = u32::from(Ipv4Addr::new(a, b, 0, 0));
    candidates
        .map(|low| Ipv4Addr::from(base + low))
        .find(|address| taken.iter().all(|taken| *taken != address.to_string()))
        .unwrap_or(Ipv4Addr::new(a, b, 0, 1))
}

/// The address of an environment's name server: always the same one, since running machines know it. Another user of
/// this host has another one.
pub(crate) fn name_server(environment: &str) -> Ipv4Addr {
    name_server_of(geteuid(), environment)
}

fn name_server_of(user: Uid, environment: &str) -> Ipv4Addr {
    let [a, b] = NAME_SERVERS;
    let digest = digest(user, environment);
    let bytes = digest.as_bytes();
    // Neither the first nor the last address of the range.
    Ipv4Addr::new(a, b, bytes[0], bytes[1].clamp(1, 254))
}

/// What the address of `what` is chosen by. All users of a host share its loopback.
fn digest(user: Uid, what: &str) -> Digest {
    if user.is_root() {
        return Digest::of(what.as_bytes());
    }
    Digest::of(format!("{}/{what}", user.as_raw()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether machines reach the address.
    fn is_reachable(address: Ipv4Addr) -> bool {
        let (range, prefix) = REACHABLE.split_once('/').unwrap();
        let shift = 32 - prefix.parse::<u32>().unwrap();
        u32::from(address) >> shift == u32::from(range.parse::<Ipv4Addr>().unwrap()) >> shift
    }

    #[test]
    fn addresses_are_stable_and_never_shared() {
        let name = Name { namespace: "default".into(), name: "web".into() };
        let first = balancer("local", &name, &[]);
        assert_eq!(balancer("local", &name, &[]), first);
        assert_eq!(first.octets()[..2], [127, 77]);
        assert_ne!(balancer("local", &name, &[first.to_string()]), first);
        assert!(is_reachable(first));
    }

    #[test]
    fn the_address_is_one_of_ours_and_always_the_same() {
        let found = name_server("local");
        assert_eq!(found, name_server("local"));
        assert_ne!(found, name_server("other"));
        assert_eq!(found.octets()[..2], [127, 78]);
        assert!(is_reachable(found));
    }

    #[test]
    fn users_of_one_host_have_addresses_of_their_own() {
        let name = Name { namespace: "default".into(), name: "web".into() };
        let users = [0, 1000, 1001].map(Uid::from_raw);
        let found = users.map(|user| balancer_of(user, "local", &name, &[]));
        assert!(found[0] != found[1] && found[0] != found[2] && found[1] != found[2], "{found:?}");
        let found = users.map(|user| name_server_of(user, "local"));
        assert!(found[0] != found[1] && found[0] != found[2] && found[1] != found[2], "{found:?}");
    }
}
