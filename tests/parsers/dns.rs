//! Any bytes as a question to the local cloud's name server: an answer repeats the question and has at most one record. The
//! same bytes as another server's answer about the name of an alias: what is made of it is no longer than it may be.

use std::net::Ipv4Addr;

use i2kit::cloud::local::dns::{NameRecord, Reply, Zone, failure, followed, reply};

/// `c.svc.cluster.local`, its address.
const ASKED: &[u8] = b"\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x01c\x03svc\x07cluster\x05local\0\0\x01\0\x01";

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let mut aliases = Zone::default();
    aliases.add("c.svc.cluster.local", NameRecord::Alias("db.example.com".to_owned()));
    let answer = followed(ASKED, &aliases, data, true);
    assert!(answer.len() <= 512 && answer[12..ASKED.len()] == ASKED[12..]);
    let zone = Zone::from([("a.b.svc.cluster.local".to_owned(), Ipv4Addr::LOCALHOST)]);
    if let Some(found) = reply(data, &zone) {
        let failed = failure(data);
        assert_eq!(failed[..2], data[..2]);
        assert_eq!(failed[12..], data[12..failed.len()]);
        if let Reply::Answer(answer) = found {
            assert_eq!(answer[12..failed.len()], failed[12..]);
            // A record of an address, one of EDNS, both, or none.
            assert!([0, 11, 16, 27].contains(&(answer.len() - failed.len())));
        }
    }
}
