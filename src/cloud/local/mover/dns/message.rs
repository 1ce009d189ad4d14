//! DNS messages as bytes: RFC 1035, section 4, SRV, RFC 2782, and EDNS, RFC 6891. Pure.

pub use super::zone::{NameRecord, Zone};

/// The largest answer, in bytes: what a message over TCP has room for, without the longest record and EDNS.
const LARGEST_ANSWER: usize = 65_000;

/// Id, flags and four counts of records.
const HEADER: usize = 12;

/// The largest name in bytes, with the lengths of its labels.
const NAME_BYTES: usize = 255;

/// How long resolvers may cache an answer, in seconds: a Service that moves is found soon.
const TTL: u32 = 5;

/// The largest answer over UDP, in bytes, when the question does not say.
const DATAGRAM: usize = 512;

/// The largest message over UDP that is read here, as EDNS reports it.
const LARGEST: u16 = 4096;

/// The number of records behind a question that are searched for EDNS: it is the first one in practice.
const FURTHER_RECORDS: u16 = 16;

/// Types and classes of records.
const A: u16 = 1;
const PTR: u16 = 12;
const SRV: u16 = 33;
const OPT: u16 = 41;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

/// Codes of an answer.
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// The upper bits of EDNS' code for a version that is not known.
const BAD_VERSION: u8 = 1;

/// Bits of the second and third byte: an answer; an authoritative one; a truncated one; recursion is desired;
/// recursion is available.
const ANSWER: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_WANTED: u8 = 0x01;
const RECURSION: u8 = 0x80;

/// The result of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The answer of the zone.
    Answer(Vec<u8>),
    /// The name is outside the domain: the question is to be relayed.
    Elsewhere,
}

/// The bytes of a record whose name is a reference, without its data.
const RECORD_BYTES: usize = 12;

/// The bytes of EDNS' record.
const EDNS_BYTES: usize = 11;

/// A question of one name.
struct Question {
    /// In lower case, without the last dot.
    name: String,
    kind: u16,
    class: u16,
    /// Where it ends in the message.
    end: usize,
}

/// Answers a message from `zone`; nothing if it is no question.
pub fn reply(message: &[u8], zone: &Zone) -> Option<Reply> {
    answer(message, zone, |_| LARGEST_ANSWER)
}

/// The same over UDP: as many records as its sender takes in a datagram. Where there are more, the answer says so, and is
/// requested again over TCP.
pub fn reply_to_datagram(message: &[u8], zone: &Zone) -> Option<Reply> {
    answer(message, zone, |edns| {
        edns.map_or(DATAGRAM, |edns| edns.size.clamp(DATAGRAM, LARGEST_ANSWER) - EDNS_BYTES)
    })
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
    let found = zone.find(&question.name);
    let mut answer = head(message, question.end, if found.is_some() { NO_ERROR } else { NO_SUCH_NAME });
    if question.class == INTERNET {
        let limit = limit(edns.as_ref());
        put_records(&mut answer, question.kind, found.unwrap_or_default(), limit);
    }
    if edns.is_some() {
        put_edns(&mut answer, 0);
    }
    Some(Reply::Answer(answer))
}

/// Appends the records of the kind that is asked for. Each question begins with another one, by its id, so that clients
/// that take the first one are spread.
fn put_records(answer: &mut Vec<u8>, kind: u16, records: &[NameRecord], limit: usize) {
    let data: Vec<(u16, Vec<u8>)> =
        records.iter().filter_map(data).filter(|(found, _)| kind == ANY || kind == *found).collect();
    let Some(first) = usize::from(u16::from_be_bytes([answer[0], answer[1]])).checked_rem(data.len()) else {
        return;
    };
    let (before, from) = data.split_at(first);
    let mut count: u16 = 0;
    for (kind, data) in from.iter().chain(before) {
        if answer.len() + RECORD_BYTES + data.len() > limit {
            answer[2] |= TRUNCATED;
            break;
        }
        // The name of the question, by a reference to where it stands.
        answer.extend([0xc0, 12]);
        answer.extend([*kind, INTERNET].map(u16::to_be_bytes).as_flattened());
        answer.extend(TTL.to_be_bytes());
        answer.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
        answer.extend(data);
        count += 1;
    }
    answer[6..8].copy_from_slice(&count.to_be_bytes());
}

/// The type of a record and its data; none for a name that a message cannot hold.
fn data(record: &NameRecord) -> Option<(u16, Vec<u8>)> {
    match record {
        NameRecord::Address(address) => Some((A, address.octets().to_vec())),
        NameRecord::Name(name) => Some((PTR, encoded(name)?)),
        NameRecord::Port { port, host } => {
            // Of one priority and weight: any of them will do.
            let mut data = [0, 1, *port].map(u16::to_be_bytes).as_flattened().to_vec();
            data.extend(encoded(host)?);
            Some((SRV, data))
        }
    }
}

/// A name as a message holds it.
fn encoded(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= NAME_BYTES).then_some(bytes)
}

/// What EDNS adds to a question.
struct Edns {
    /// The largest answer over UDP, in bytes.
    size: usize,
    version: u8,
}

/// EDNS' record behind a question.
fn edns(message: &[u8], question_end: usize) -> Option<Edns> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    // A question has no answers and no authorities.
    if number(6)? != 0 || number(8)? != 0 {
        return None;
    }
    let mut at = question_end;
    for _ in 0..number(10)?.min(FURTHER_RECORDS) {
        // A name ends with an empty label or with a reference.
        loop {
            match *message.get(at)? {
                0 => break at += 1,
                0xc0.. => break at += 2,
                length => at += 1 + usize::from(length),
            }
        }
        if number(at)? == OPT {
            return Some(Edns { size: usize::from(number(at + 2)?), version: *message.get(at + 5)? });
        }
        at += 10 + usize::from(number(at + 8)?);
    }
    None
}

/// Appends EDNS' record to an answer whose other records are complete.
fn put_edns(answer: &mut Vec<u8>, code: u8) {
    answer[11] = 1;
    answer.push(0);
    answer.extend([OPT, LARGEST].map(u16::to_be_bytes).as_flattened());
    // The upper bits of the code, the version, flags, and the length of nothing.
    answer.extend([code, 0, 0, 0, 0, 0]);
}

/// `answer` as it fits into a datagram to the sender of `question`: one that is too long is truncated, and requested
/// again over TCP.
pub fn fitting(question: &[u8], answer: Vec<u8>) -> Vec<u8> {
    let Some(end) = self::question(question).map(|question| question.end) else { return answer };
    let allowed = edns(question, end).map_or(DATAGRAM, |edns| edns.size.max(DATAGRAM));
    if answer.len() <= allowed {
        return answer;
    }
    let mut cut = head(question, end, answer.get(3).map_or(SERVER_FAILURE, |byte| byte & 0x0f));
    cut[2] = (cut[2] & !AUTHORITATIVE) | TRUNCATED;
    cut
}

/// Whether the answer says that its server would not or could not answer: another one may.
pub fn is_refusal(answer: &[u8]) -> bool {
    let code = answer.get(3).map(|byte| byte & 0x0f);
    matches!(code, None | Some(SERVER_FAILURE | NOT_IMPLEMENTED | REFUSED))
}

/// The answer "server failure" to a message that [`reply`] has taken for a question.
pub fn failure(message: &[u8]) -> Vec<u8> {
    let end = question(message).map_or(HEADER.min(message.len()), |question| question.end);
    head(message, end, SERVER_FAILURE)
}

/// An answer with no record yet: the question's first bytes with other flags and counts.
fn head(message: &[u8], end: usize, code: u8) -> Vec<u8> {
    let mut answer = message[..end].to_vec();
    answer[2] = ANSWER | AUTHORITATIVE | (message[2] & RECURSION_WANTED);
    answer[3] = RECURSION | code;
    answer[6..HEADER].fill(0);
    answer
}

/// The question in a message; none if it is an answer, something else than a question, or not one question.
fn question(message: &[u8]) -> Option<Question> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    // Neither the bit of an answer nor an operation other than a standard query.
    if message.len() < HEADER || message[2] & 0xf8 != 0 || number(4)? != 1 {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..64 if at + length - HEADER < NAME_BYTES => {}
            // A reference, which a question has no place for, or a name that is too long.
            _ => return None,
        }
        let label = message.get(at..at + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    Some(Question { name, kind: number(at)?, class: number(at + 2)?, end: at + 4 })
}

/// A question with id 7.9 as resolvers send it.
#[cfg(test)]
pub(in crate::cloud::local::mover) fn example_question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([kind, INTERNET].map(u16::to_be_bytes).as_flattened());
    message
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

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
    fn a_service_has_no_other_records_and_others_are_none() {
        let code = |name, kind| {
            let found = answer(name, kind);
            assert_eq!(found[6..8], [0, 0], "{name} has no record");
            found[3] & 0x0f
        };
        // An address of IPv6: there is none, but the name exists, and so do the names above it.
        assert_eq!(code("web.default.svc.cluster.local", 28), NO_ERROR);
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
            zone.add("db.default.svc.cluster.local", NameRecord::Address(address));
        }
        let host = "db-0.db.default.svc.cluster.local";
        zone.add(
            "_sql._tcp.db.default.svc.cluster.local",
            NameRecord::Port { port: 5432, host: host.into() },
        );
        zone.own_reverse(&[10, 78]);
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
            zone.add("all.cluster.local", NameRecord::Address(Ipv4Addr::from(number)));
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
            zone.add("web.default.svc.cluster.local", NameRecord::Address(Ipv4Addr::new(10, 78, 1, low)));
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
