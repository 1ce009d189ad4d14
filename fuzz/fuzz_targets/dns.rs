//! Any bytes as a question to the local cloud's name server: an answer repeats the question and has at most one record.

#![no_main]

use std::net::Ipv4Addr;

use i2kit::cloud::local::dns::{Reply, Zone, failure, reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
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
});
