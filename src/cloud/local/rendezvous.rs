//! Rendezvous hashing: which server a client stays with. Every process that has the same servers finds the same one, without
//! a record of clients; a server that goes leaves the clients of others where they are, and a new one takes over its share.

use std::net::{IpAddr, SocketAddr};

/// The server of this client: the one with the greatest weight. Nothing without servers.
pub(crate) fn choose(client: u64, servers: impl IntoIterator<Item = SocketAddr>) -> Option<SocketAddr> {
    servers.into_iter().max_by_key(|server| (weight(client, *server), *server))
}

/// A client as [`choose`] has it, by its address.
pub(crate) fn client(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => folded(address.into()),
    }
}

fn folded(number: u128) -> u64 {
    let [high, low] =
        [number >> 64, number & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    mixed(high) ^ low
}

fn weight(client: u64, server: SocketAddr) -> u64 {
    let address = match server.ip() {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => folded(address.into()),
    };
    mixed(mixed(client) ^ mixed(address << 16 | u64::from(server.port())))
}

/// The finaliser of `SplitMix64`: each bit of the result depends on all bits of the number.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([10, 78, 1, last], 80))).collect()
    }

    #[test]
    fn clients_are_spread_and_move_only_with_their_server() {
        let before = servers(4);
        let of = |servers: &[SocketAddr]| -> Vec<SocketAddr> {
            (0..4000).map(|client| choose(client, servers.iter().copied()).unwrap()).collect()
        };
        let found = of(&before);
        for server in &before {
            let count = found.iter().filter(|found| *found == server).count();
            assert!((850..1150).contains(&count), "{server}: {count} of 4000");
        }
        // One that goes: only its clients move. One that comes: a fifth of all do, to it alone.
        for (was, is) in found.iter().zip(of(&before[1..])) {
            assert!(*was == before[0] || *was == is, "{was} became {is}");
        }
        let more = servers(5);
        let moved = found.iter().zip(of(&more)).filter(|(was, is)| *was != is);
        let to: Vec<SocketAddr> = moved.map(|(_, is)| is).collect();
        assert!(to.iter().all(|server| *server == more[4]) && (650..950).contains(&to.len()), "{}", to.len());
        assert_eq!(choose(1, []), None);
    }

    #[test]
    fn addresses_of_both_families_are_clients() {
        let four = client("10.0.0.1".parse().unwrap());
        let six = ["fd00::1", "fd01::1", "fd00::2"].map(|text| client(text.parse().unwrap()));
        assert!(six.iter().all(|client| *client != four) && six[0] != six[1] && six[0] != six[2]);
    }
}
