//! DNS messages as bytes: RFC 1035, section 4, SRV, RFC 2782, and EDNS, RFC 6891. Pure. What an alias stands for is in
//! `alias.rs`.

use std::net::IpAddr;

use super::alias;
pub use super::alias::followed;
#[cfg(test)]
pub(in crate::cloud::local::mover) use super::format::example_question;
use super::format::{
    A, AAAA, ANY, BAD_VERSION, CNAME, Edns, INTERNET, LARGEST_ANSWER, NO_ERROR, NO_SUCH_NAME, PTR,
    SERVER_FAILURE, SRV, TTL, datagram, edns, encoded, head, put_edns, put_record, question,
};
pub use super::format::{failure, fitting, is_refusal};
pub use super::zone::{NameRecord, Zone};

/// The result of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The answer of the zone.
    Answer(Vec<u8>),
    /// The name is outside the domain: the question is to be relayed.
    Elsewhere,
    /// The name stands for one outside the domain: this question is to be relayed, and its answer to be made one to the
    /// question that was asked, by [`followed`].
    Alias(Vec<u8>),
}

/// Answers a message from `zone`; nothing if it is no question.
pub fn reply(message: &[u8], zone: &Zone) -> Option<Reply> {
    answer(message, zone, |_| LARGEST_ANSWER)
}

/// The same over UDP: as many records as its sender takes in a datagram. Where there are more, the answer says so, and is
/// requested again over TCP.
pub fn reply_to_datagram(message: &[u8], zone: &Zone) -> Option<Reply> {
    answer(message, zone, datagram)
}

/// Answers a message in so many bytes as `limit` says, without EDNS' own.
fn answer(message: &[u8], zone: &Zone, limit: impl FnOnce(Option<&Edns>) -> usize) -> Option<Reply> {
    let question = question(message)?;
    if !zone.has(&question.name) {
        return Some(Reply::Elsewhere);
    }
    let edns = edns(message, question.end);
    if let Some(Edns { version: 1.., .. }) = edns {
        let mut answer = head(message, question.end, NO_ERROR);
        put_edns(&mut answer, BAD_VERSION);
        return Some(Reply::Answer(answer));
    }
    let chain = alias::chain(&question, zone);
    let name = chain.last().unwrap_or(&question.name);
    if !zone.has(name) {
        return alias::question(message, &question, name).map(Reply::Alias);
    }
    let found = zone.find(name);
    // One that still stands for another goes in a circle.
    let is_endless = chain.len() == alias::LONGEST;
    let code = match found {
        _ if is_endless => SERVER_FAILURE,
        Some(_) => NO_ERROR,
        None => NO_SUCH_NAME,
    };
    let mut answer = head(message, question.end, code);
    if question.class == INTERNET && !is_endless {
        let limit = limit(edns.as_ref());
        let owner = alias::put_chain(&mut answer, &chain, limit);
        put_records(&mut answer, (&owner, question.kind), found.unwrap_or_default(), limit);
    }
    if edns.is_some() {
        put_edns(&mut answer, 0);
    }
    Some(Reply::Answer(answer))
}

/// Appends the records of the kind that is asked for. Each question begins with another one, by its id, so that clients
/// that take the first one are spread.
fn put_records(answer: &mut Vec<u8>, (owner, kind): (&[u8], u16), records: &[NameRecord], limit: usize) {
    let data: Vec<(u16, Vec<u8>)> =
        records.iter().filter_map(data).filter(|(found, _)| kind == ANY || kind == *found).collect();
    let Some(first) = usize::from(u16::from_be_bytes([answer[0], answer[1]])).checked_rem(data.len()) else {
        return;
    };
    let (before, from) = data.split_at(first);
    for (kind, data) in from.iter().chain(before) {
        if !put_record(answer, (owner, *kind, TTL), data, limit) {
            break;
        }
    }
}

/// The type of a record and its data; none for a name that a message cannot hold.
fn data(record: &NameRecord) -> Option<(u16, Vec<u8>)> {
    match record {
        NameRecord::Address(IpAddr::V4(address)) => Some((A, address.octets().to_vec())),
        NameRecord::Address(IpAddr::V6(address)) => Some((AAAA, address.octets().to_vec())),
        NameRecord::Name(name) => Some((PTR, encoded(name)?)),
        NameRecord::Alias(name) => Some((CNAME, encoded(name)?)),
        NameRecord::Port { port, host } => {
            // Of one priority and weight: any of them will do.
            let mut data = [0, 1, *port].map(u16::to_be_bytes).as_flattened().to_vec();
            data.extend(encoded(host)?);
            Some((SRV, data))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::cloud::local::mover::dns::format::{ANSWER, DATAGRAM, EDNS_BYTES, HEADER, OPT, TRUNCATED};

    fn zone() -> Zone {
        Zone::from([("web.default.svc.cluster.local".to_owned(), Ipv4Addr::new(127, 77, 3, 4))])
    }

    fn answer(name: &str, kind: u16) -> Vec<u8> {
        match reply(&example_question(name, kind), &zone()) {
            Some(Reply::Answer(answer)) => answer,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_service_has_its_address() {
        for name in ["web.default.svc.cluster.local", "WEB.default.svc.Cluster.Local"] {
            let found = answer(name, A);
            let mut expected = example_question(name, A);
            expected[2..8].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 1]);
            expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 77, 3, 4]);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_question_gets_the_addresses_of_its_family() {
        let name = "web.default.svc.cluster.local";
        let mut zone = zone();
        zone.add(name, NameRecord::Address("fd69:326b:6974:77::304".parse().unwrap()));
        let answers = |kind| {
            let Some(Reply::Answer(found)) = reply(&example_question(name, kind), &zone) else {
                panic!("{kind}")
            };
            (u16::from_be_bytes([found[6], found[7]]), found)
        };
        let (count, found) = answers(AAAA);
        let address = [0xfd, 0x69, 0x32, 0x6b, 0x69, 0x74, 0, 0x77, 0, 0, 0, 0, 0, 0, 3, 4];
        assert_eq!(count, 1);
        assert!(
            found.ends_with(&[&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16][..], &address].concat()),
            "{found:?}"
        );
        assert_eq!((answers(A).0, answers(ANY).0, answers(PTR).0), (1, 2, 0));
    }

    #[test]
    fn a_service_has_no_other_records_and_others_are_none() {
        let code = |name, kind| {
            let found = answer(name, kind);
            assert_eq!(found[6..8], [0, 0], "{name} has no record");
            found[3] & 0x0f
        };
        // An address of IPv6: there is none, but the name exists, and so do the names above it.
        assert_eq!(code("web.default.svc.cluster.local", AAAA), NO_ERROR);
        assert_eq!(code("default.svc.cluster.local", A), NO_ERROR);
        assert_eq!(code("cluster.local", A), NO_ERROR);
        assert_eq!(code("redis.default.svc.cluster.local", A), NO_SUCH_NAME);
        // What a search path makes of a name that has one already.
        assert_eq!(code("web.default.svc.cluster.local.default.svc.cluster.local", A), NO_SUCH_NAME);
    }

    #[test]
    fn ports_and_addresses_have_names_and_several_addresses_are_turned() {
        let mut zone = Zone::default();
        let members = [Ipv4Addr::new(10, 78, 1, 1), Ipv4Addr::new(10, 78, 1, 2)];
        for address in members {
            zone.add("db.default.svc.cluster.local", NameRecord::Address(address.into()));
        }
        let host = "db-0.db.default.svc.cluster.local";
        zone.add(
            "_sql._tcp.db.default.svc.cluster.local",
            NameRecord::Port { port: 5432, host: host.into() },
        );
        zone.own_reverse(Ipv4Addr::new(10, 78, 0, 0), 16);
        zone.add_reverse(members[0], host.to_owned());
        let ask = |id: u8, name: &str, kind| {
            let mut question = example_question(name, kind);
            question[1] = id;
            match reply(&question, &zone) {
                Some(Reply::Answer(answer)) => answer,
                other => panic!("{name}: {other:?}"),
            }
        };
        let addresses = |id| {
            let found = ask(id, "db.default.svc.cluster.local", A);
            assert_eq!(found[6..8], [0, 2]);
            let record = |end: usize| found[found.len() - end..][..4].to_vec();
            [record(20), record(4)]
        };
        let [a, b] = members.map(|member| member.octets().to_vec());
        // The upper byte of the id adds an even number.
        assert_eq!(addresses(4), [a.clone(), b.clone()]);
        assert_eq!(addresses(5), [b, a]);
        let name = b"\x04db-0\x02db\x07default\x03svc\x07cluster\x05local\0";
        let found = ask(1, "_sql._tcp.db.default.svc.cluster.local", SRV);
        let length = u8::try_from(name.len()).unwrap();
        let mut expected = vec![0, SRV.to_be_bytes()[1], 0, 1, 0, 0, 0, 5, 0, length + 6, 0, 0, 0, 1, 21, 56];
        expected.extend(name);
        assert!(found.ends_with(&expected), "{found:?}");
        let found = ask(1, "1.1.78.10.in-addr.arpa", PTR);
        let mut expected = vec![0, 12, 0, 1, 0, 0, 0, 5, 0, length];
        expected.extend(name);
        assert!(found.ends_with(&expected), "{found:?}");
        let none = ask(1, "9.1.78.10.in-addr.arpa", PTR);
        assert_eq!((none[3] & 0x0f, &none[6..8]), (NO_SUCH_NAME, &[0, 0][..]));
        let others = example_question("1.2.0.192.in-addr.arpa", PTR);
        assert_eq!(reply(&others, &zone), Some(Reply::Elsewhere));
    }

    #[test]
    fn more_records_than_a_message_holds_are_cut() {
        let mut zone = Zone::default();
        for number in 0..5000_u32 {
            zone.add("all.cluster.local", NameRecord::Address(Ipv4Addr::from(number).into()));
        }
        let Some(Reply::Answer(found)) = reply(&example_question("all.cluster.local", A), &zone) else {
            panic!("no answer")
        };
        let count = u16::from_be_bytes([found[6], found[7]]);
        assert!(u16::try_from(found.len()).is_ok() && count > 4000, "{count} in {} bytes", found.len());
    }

    #[test]
    fn other_domains_are_elsewhere() {
        for name in ["example.com", "web", "notcluster.local", "local"] {
            assert_eq!(reply(&example_question(name, A), &zone()), Some(Reply::Elsewhere), "{name}");
        }
        let failed = failure(&example_question("example.com", A));
        assert_eq!((failed[3] & 0x0f, &failed[..2]), (SERVER_FAILURE, &[7, 9][..]));
    }

    /// The question with EDNS' record: a size and a version.
    fn with_edns(mut question: Vec<u8>, size: u16, version: u8) -> Vec<u8> {
        question[11] = 1;
        question.push(0);
        question.extend([OPT, size].map(u16::to_be_bytes).as_flattened());
        question.extend([0, version, 0, 0, 0, 0]);
        question
    }

    #[test]
    fn edns_is_answered_with_edns() {
        let plain = example_question("web.default.svc.cluster.local", A);
        let Some(Reply::Answer(found)) = reply(&with_edns(plain.clone(), 1232, 0), &zone()) else {
            panic!("no answer")
        };
        let mut expected = answer("web.default.svc.cluster.local", A);
        expected[11] = 1;
        expected.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(found, expected);
        // A version that does not exist yet: no answer, and the code 16 in two places.
        let Some(Reply::Answer(found)) = reply(&with_edns(plain.clone(), 1232, 9), &zone()) else {
            panic!("no answer")
        };
        assert_eq!((found[3] & 0x0f, found[7], found[11]), (0, 0, 1));
        assert_eq!(found[plain.len()..], [0, 0, 41, 0x10, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_datagram_has_as_many_records_as_fit_and_says_that_there_are_more() {
        let mut zone = Zone::default();
        (1..=60).for_each(|low| {
            zone.add(
                "web.default.svc.cluster.local",
                NameRecord::Address(Ipv4Addr::new(10, 78, 1, low).into()),
            );
        });
        let plain = example_question("web.default.svc.cluster.local", A);
        let answered = |reply: Option<Reply>| {
            let Some(Reply::Answer(answer)) = reply else { panic!("no answer") };
            (answer.len(), usize::from(answer[7]), answer[2] & TRUNCATED != 0)
        };
        let all = plain.len() + 60 * 16;
        assert_eq!(answered(reply(&plain, &zone)), (all, 60, false));
        let fit = (DATAGRAM - plain.len()) / 16;
        assert_eq!(answered(reply_to_datagram(&plain, &zone)), (plain.len() + fit * 16, fit, true));
        let larger = with_edns(plain.clone(), 1232, 0);
        assert_eq!(answered(reply_to_datagram(&larger, &zone)), (all + EDNS_BYTES, 60, false));
        let exact = with_edns(plain, u16::try_from(all + EDNS_BYTES - 1).unwrap(), 0);
        assert_eq!(answered(reply_to_datagram(&exact, &zone)), (all - 16 + EDNS_BYTES, 59, true));
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so() {
        let plain = example_question("example.com", A);
        let long = |length: usize| {
            let mut long = head(&plain, plain.len(), NO_ERROR);
            long.resize(length, 1);
            long
        };
        let is_cut = |question: &[u8], length| {
            let found = fitting(question, long(length));
            assert!(found == long(length) || found.len() == plain.len(), "{found:?}");
            found[2] & TRUNCATED != 0
        };
        assert!(!is_cut(&plain, 512) && is_cut(&plain, 513));
        let larger = with_edns(plain.clone(), 1232, 0);
        assert!(!is_cut(&larger, 1232) && is_cut(&larger, 1233));
        // Less than what every resolver takes is not asked for.
        assert!(!is_cut(&with_edns(plain.clone(), 0, 0), 512));
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let mut said = example_question("web.default.svc.cluster.local", A);
        said[2] |= ANSWER;
        assert_eq!(reply(&said, &zone()), None);
        assert_eq!(reply(&[], &zone()), None);
        let long = vec!["a"; 128].join(".");
        assert_eq!(reply(&example_question(&long, A), &zone()), None, "a name of 256 bytes");
        assert!(reply(&example_question(&vec!["a"; 127].join("."), A), &zone()).is_some());
    }

    proptest! {
        #[test]
        fn whatever_is_sent_does_no_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            query: bool,
        ) {
            if query && bytes.len() > HEADER {
                bytes[2..HEADER].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            let fits = fitting(&bytes, vec![0; 600]);
            prop_assert!(fits.len() == 600 || fits.len() <= bytes.len());
            if reply(&bytes, &zone()).is_some() {
                let failed = failure(&bytes);
                prop_assert!(failed.len() >= HEADER && failed.len() <= bytes.len());
            }
        }
    }
}
