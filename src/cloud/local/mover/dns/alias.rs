//! Names that stand for others (`type: ExternalName`): the chain of them in an answer, the question of the last one, and an
//! answer to it as bytes of a server elsewhere, made one to the question that was asked. Pure.

use super::format::{
    self, A, ANY, ASKED, CNAME, HEADER, INTERNET, LARGEST_ANSWER, NAME_BYTES, Question, TRUNCATED, TTL,
    datagram, edns, encoded, failure, head, put_edns, put_record,
};
use super::zone::{NameRecord, Zone};

/// Names of a chain at most; a longer one is taken for a circle.
pub(super) const LONGEST: usize = 8;

/// Records of an answer that are read at most.
const RECORDS: u16 = 128;

/// References that are followed in one name at most.
const REFERENCES: usize = 32;

/// Types whose data has no names, or has them whole: TXT, AAAA, SRV, SVCB, HTTPS.
const WHOLE: [u16; 5] = [16, 28, 33, 64, 65];

/// The names that the name of a question stands for, one after the other. None where it stands for itself, or the question is
/// about the alias.
pub(super) fn chain(question: &Question, zone: &Zone) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    if question.class != INTERNET || matches!(question.kind, CNAME | ANY) {
        return chain;
    }
    while chain.len() < LONGEST {
        let name = chain.last().unwrap_or(&question.name);
        let Some([NameRecord::Alias(target), ..]) = zone.find(name) else { break };
        chain.push(target.clone());
    }
    chain
}

/// The question of `name` in the place of that of a message; none for a name that a message cannot hold.
pub(super) fn question(message: &[u8], asked: &Question, name: &str) -> Option<Vec<u8>> {
    let mut question = message.get(..HEADER)?.to_vec();
    // One question and nothing behind it.
    question[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    question.extend(encoded(name)?);
    question.extend([asked.kind, asked.class].map(u16::to_be_bytes).as_flattened());
    Some(question)
}

/// Appends the records of a chain to an answer. Returns the name of the last one, as the next record has it.
pub(super) fn put_chain(answer: &mut Vec<u8>, chain: &[String], limit: usize) -> Vec<u8> {
    let mut owner = ASKED.to_vec();
    for name in chain {
        let Some(target) = encoded(name) else { break };
        if !put_record(answer, (&owner, CNAME, TTL), &target, limit) {
            break;
        }
        owner = target;
    }
    owner
}

/// The answer to `message`, whose name stands for others in `zone`, from the answer `found` of a server elsewhere about the
/// last one of these. `by_datagram`: it is to fit into a datagram to who asked.
pub fn followed(message: &[u8], zone: &Zone, found: &[u8], by_datagram: bool) -> Vec<u8> {
    let Some(question) = format::question(message) else { return failure(message) };
    let edns = edns(message, question.end);
    let limit = if by_datagram { datagram(edns.as_ref()) } else { LARGEST_ANSWER };
    let Some(flags) = found.first_chunk::<HEADER>() else { return failure(message) };
    let mut answer = head(message, question.end, flags[3] & 0x0f);
    answer[2] |= flags[2] & TRUNCATED;
    put_chain(&mut answer, &chain(&question, zone), limit);
    if copy_records(found, &mut answer, limit).is_none() {
        // What cannot be read to its end is no answer.
        return failure(message);
    }
    if edns.is_some() {
        put_edns(&mut answer, 0);
    }
    answer
}

/// Appends the records of an answer that have an address or another name. None where it cannot be read.
fn copy_records(found: &[u8], answer: &mut Vec<u8>, limit: usize) -> Option<()> {
    let number = |at: usize| Some(u16::from_be_bytes([*found.get(at)?, *found.get(at + 1)?]));
    let mut at = HEADER;
    for _ in 0..number(4)?.min(RECORDS) {
        at = name(found, at)?.1 + 4;
    }
    for _ in 0..number(6)?.min(RECORDS) {
        let (owner, end) = name(found, at)?;
        let (kind, class) = (number(end)?, number(end + 2)?);
        let ttl = u32::from(number(end + 4)?) << 16 | u32::from(number(end + 6)?);
        let start = end + 10;
        let data = found.get(start..start + usize::from(number(end + 8)?))?;
        at = start + data.len();
        let data = match kind {
            _ if class != INTERNET => continue,
            A => data.to_vec(),
            CNAME => name(found, start)?.0,
            kind if WHOLE.contains(&kind) => data.to_vec(),
            _ => continue,
        };
        if !put_record(answer, (&owner, kind, ttl), &data, limit) {
            break;
        }
    }
    Some(())
}

/// The name at a place of a message, without references, and where it ends there.
fn name(message: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let (mut bytes, mut at, mut end) = (Vec::new(), start, None);
    for _ in 0..REFERENCES {
        loop {
            let length = *message.get(at)?;
            match length {
                0 => {
                    bytes.push(0);
                    return Some((bytes, end.unwrap_or(at + 1)));
                }
                1..64 => {
                    let next = at + 1 + usize::from(length);
                    bytes.extend(message.get(at..next)?);
                    if bytes.len() >= NAME_BYTES {
                        return None;
                    }
                    at = next;
                }
                0xc0.. => {
                    let low = *message.get(at + 1)?;
                    end = end.or(Some(at + 2));
                    at = usize::from(length & 0x3f) << 8 | usize::from(low);
                    break;
                }
                _ => return None,
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::super::message::{Reply, example_question, reply, reply_to_datagram};
    use super::*;

    const ALIAS: &str = "db.default.svc.cluster.local";
    const AAAA: u16 = 28;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let mut alias = |name: &str, target: &str| {
            zone.add(format!("{name}.default.svc.cluster.local"), NameRecord::Alias(target.into()));
        };
        alias("db", "db.example.com");
        alias("inner", "web.default.svc.cluster.local");
        alias("two", ALIAS);
        alias("none", "gone.default.svc.cluster.local");
        alias("a", "b.default.svc.cluster.local");
        alias("b", "a.default.svc.cluster.local");
        zone.add("web.default.svc.cluster.local", NameRecord::Address(Ipv4Addr::new(10, 77, 1, 2).into()));
        zone
    }

    fn answered(name: &str, kind: u16) -> Vec<u8> {
        match reply(&example_question(&format!("{name}.default.svc.cluster.local"), kind), &zone()) {
            Some(Reply::Answer(answer)) => answer,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// A record as it stands in an answer.
    fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [owner, [kind, INTERNET].map(u16::to_be_bytes).as_flattened()].concat();
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn an_alias_for_a_name_of_the_environment_is_answered_with_its_address() {
        let web = encoded("web.default.svc.cluster.local").unwrap();
        let found = answered("inner", A);
        let expected = [record(&ASKED, CNAME, TTL, &web), record(&web, A, TTL, &[10, 77, 1, 2])].concat();
        assert_eq!((found[6..8].to_vec(), found[3] & 0x0f), (vec![0, 2], 0));
        assert!(found.ends_with(&expected), "{found:?}");
        // Its alias alone where that is what is asked for, and where the other name has nothing of the kind.
        for (kind, count) in [(CNAME, 1), (ANY, 1), (AAAA, 1)] {
            let found = answered("inner", kind);
            assert_eq!(found[7], count, "{kind}");
            assert!(found.ends_with(&record(&ASKED, CNAME, TTL, &web)), "{kind}");
        }
        // The other name is none; and two that stand for each other.
        assert_eq!((answered("none", A)[3] & 0x0f, answered("none", A)[7]), (3, 1));
        assert_eq!((answered("a", A)[3] & 0x0f, answered("a", A)[7]), (2, 0));
    }

    #[test]
    fn an_alias_for_a_name_elsewhere_is_asked_for_there() {
        let elsewhere = |name: &str, kind| {
            let asked = example_question(&format!("{name}.default.svc.cluster.local"), kind);
            match reply_to_datagram(&asked, &zone()) {
                Some(Reply::Alias(question)) => question,
                other => panic!("{name}: {other:?}"),
            }
        };
        for name in ["db", "two"] {
            assert_eq!(elsewhere(name, A), example_question("db.example.com", A));
            assert_eq!(elsewhere(name, AAAA), example_question("db.example.com", AAAA));
        }
    }

    /// An answer about `db.example.com`, which stands for `host.example.com` there; names are references.
    fn found(code: u8) -> Vec<u8> {
        let mut found = example_question("db.example.com", A);
        found[2..8].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, 3]);
        let host = [b"\x04host".as_slice(), &[0xc0, 15]].concat();
        let at = u8::try_from(found.len() + 12).unwrap();
        found.extend(record(&[0xc0, 12], CNAME, 300, &host));
        found.extend(record(&[0xc0, at], A, 60, &[192, 0, 2, 1]));
        // A type that may have references in its data.
        found.extend(record(&[0xc0, at], 15, 60, &[0, 1, 0xc0, at]));
        found
    }

    #[test]
    fn what_is_answered_elsewhere_follows_the_alias() {
        let asked = example_question("two.default.svc.cluster.local", A);
        let [db, example, host] =
            [ALIAS, "db.example.com", "host.example.com"].map(|name| encoded(name).unwrap());
        let answer = followed(&asked, &zone(), &found(0), true);
        let records = [
            record(&ASKED, CNAME, TTL, &db),
            record(&db, CNAME, TTL, &example),
            record(&example, CNAME, 300, &host),
            record(&host, A, 60, &[192, 0, 2, 1]),
        ];
        assert_eq!(answer[..2], asked[..2]);
        assert_eq!(answer[2..8], [0x85, 0x80, 0, 1, 0, 4]);
        assert_eq!(answer[asked.len()..], records.concat());
        // Its code goes along, and that it was cut.
        assert_eq!(followed(&asked, &zone(), &found(3), true)[3] & 0x0f, 3);
        let mut cut = found(0);
        cut[2] |= TRUNCATED;
        assert_ne!(followed(&asked, &zone(), &cut, true)[2] & TRUNCATED, 0);
        // What cannot be read is a failure.
        for cut in 1..found(0).len() {
            let answer = followed(&asked, &zone(), &found(0)[..cut], true);
            assert_eq!((answer[3] & 0x0f, answer[7]), (2, 0), "{cut}");
        }
    }

    #[test]
    fn an_answer_over_a_datagram_is_cut_to_what_its_client_takes() {
        let asked = example_question(ALIAS, A);
        let mut many = example_question("db.example.com", A);
        many[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 60]);
        (0..60).for_each(|last| many.extend(record(&[0xc0, 12], A, 60, &[192, 0, 2, last])));
        let answer = followed(&asked, &zone(), &many, true);
        assert!(answer.len() <= 512 && answer[2] & TRUNCATED != 0, "{}", answer.len());
        let answer = followed(&asked, &zone(), &many, false);
        assert_eq!((answer[7], answer[2] & TRUNCATED), (61, 0));
    }

    #[test]
    fn references_that_go_in_a_circle_end() {
        let asked = example_question(ALIAS, A);
        let mut found = example_question("db.example.com", A);
        found[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        let at = u8::try_from(found.len()).unwrap();
        found.extend(record(&[0xc0, at], A, 60, &[192, 0, 2, 1]));
        assert_eq!(followed(&asked, &zone(), &found, true)[3] & 0x0f, 2);
    }

    proptest! {
        #[test]
        fn whatever_is_answered_elsewhere_does_no_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            counts in 0_u8..4,
        ) {
            if bytes.len() > HEADER {
                bytes[4..8].copy_from_slice(&[0, counts & 1, 0, counts]);
            }
            let asked = example_question(ALIAS, A);
            let answer = followed(&asked, &zone(), &bytes, true);
            prop_assert!(answer.len() <= 512 && answer[HEADER..asked.len()] == asked[HEADER..]);
        }
    }
}
