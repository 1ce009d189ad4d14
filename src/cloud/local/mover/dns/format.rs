//! The parts of DNS messages: questions, heads of answers, records, names, EDNS. Pure.

/// The largest answer, in bytes: what a message over TCP has room for, without the longest record and EDNS.
pub(super) const LARGEST_ANSWER: usize = 65_000;

/// Id, flags and four counts of records.
pub(super) const HEADER: usize = 12;

/// The largest name in bytes, with the lengths of its labels.
pub(super) const NAME_BYTES: usize = 255;

/// How long resolvers may cache an answer, in seconds: a Service that moves is found soon.
pub(super) const TTL: u32 = 5;

/// The largest answer over UDP, in bytes, when the question does not say.
pub(super) const DATAGRAM: usize = 512;

/// The largest message over UDP that is read here, as EDNS reports it.
const LARGEST: u16 = 4096;

/// The number of records behind a question that are searched for EDNS: it is the first one in practice.
const FURTHER_RECORDS: u16 = 16;

/// Types and classes of records.
pub(super) const A: u16 = 1;
pub(super) const CNAME: u16 = 5;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
pub(super) const SRV: u16 = 33;
pub(super) const OPT: u16 = 41;
pub(super) const ANY: u16 = 255;
pub(super) const INTERNET: u16 = 1;

/// Codes of an answer.
pub(super) const NO_ERROR: u8 = 0;
pub(super) const SERVER_FAILURE: u8 = 2;
pub(super) const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// The upper bits of EDNS' code for a version that is not known.
pub(super) const BAD_VERSION: u8 = 1;

/// Bits of the second and third byte: an answer; an authoritative one; a truncated one; recursion is desired;
/// recursion is available.
pub(super) const ANSWER: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
pub(super) const TRUNCATED: u8 = 0x02;
const RECURSION_WANTED: u8 = 0x01;
const RECURSION: u8 = 0x80;

/// The bytes of a record without its name and its data.
const RECORD_BYTES: usize = 10;

/// The bytes of EDNS' record.
pub(super) const EDNS_BYTES: usize = 11;

/// A question of one name.
pub(super) struct Question {
    /// In lower case, without the last dot.
    pub(super) name: String,
    pub(super) kind: u16,
    pub(super) class: u16,
    /// Where it ends in the message.
    pub(super) end: usize,
}

/// The largest answer that the sender of a question takes in a datagram, in bytes, without EDNS' own.
pub(super) fn datagram(edns: Option<&Edns>) -> usize {
    edns.map_or(DATAGRAM, |edns| edns.size.clamp(DATAGRAM, LARGEST_ANSWER) - EDNS_BYTES)
}

/// The name of the question, by a reference to where it stands.
pub(super) const ASKED: [u8; 2] = [0xc0, 12];

/// Appends a record, unless the answer would become longer than `limit`; whether it was appended.
pub(super) fn put_record(
    answer: &mut Vec<u8>,
    (owner, kind, ttl): (&[u8], u16, u32),
    data: &[u8],
    limit: usize,
) -> bool {
    if answer.len() + owner.len() + RECORD_BYTES + data.len() > limit {
        answer[2] |= TRUNCATED;
        return false;
    }
    answer.extend(owner);
    answer.extend([kind, INTERNET].map(u16::to_be_bytes).as_flattened());
    answer.extend(ttl.to_be_bytes());
    answer.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
    answer.extend(data);
    let count = u16::from_be_bytes([answer[6], answer[7]]).wrapping_add(1);
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    true
}

/// A name as a message holds it.
pub(super) fn encoded(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= NAME_BYTES).then_some(bytes)
}

/// What EDNS adds to a question.
pub(super) struct Edns {
    /// The largest answer over UDP, in bytes.
    size: usize,
    pub(super) version: u8,
}

/// EDNS' record behind a question.
pub(super) fn edns(message: &[u8], question_end: usize) -> Option<Edns> {
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
pub(super) fn put_edns(answer: &mut Vec<u8>, code: u8) {
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

/// The answer "server failure" to a message that [`reply`](super::message::reply) has taken for a question.
pub fn failure(message: &[u8]) -> Vec<u8> {
    let end = question(message).map_or(HEADER.min(message.len()), |question| question.end);
    head(message, end, SERVER_FAILURE)
}

/// An answer with no record yet: the question's first bytes with other flags and counts.
pub(super) fn head(message: &[u8], end: usize, code: u8) -> Vec<u8> {
    let mut answer = message[..end].to_vec();
    answer[2] = ANSWER | AUTHORITATIVE | (message[2] & RECURSION_WANTED);
    answer[3] = RECURSION | code;
    answer[6..HEADER].fill(0);
    answer
}

/// The question in a message; none if it is an answer, something else than a question, or not one question.
pub(super) fn question(message: &[u8]) -> Option<Question> {
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
