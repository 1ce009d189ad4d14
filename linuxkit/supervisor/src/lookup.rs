//! Addresses of names that probes and hooks ask, from `/etc/hosts` and by DNS. The C library's own lookup would be a
//! quarter of the guest's program.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Where the network's nameservers and the pod's are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";

const HOSTS: &str = "/etc/hosts";

/// A nameserver that takes longer is asked no more, and the next one is; the C library waits as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer of a nameserver over UDP, without an extension for more.
const ANSWER_BYTES: usize = 512;

/// The question for an IPv4 address, and the class of the internet.
const A: u16 = 1;
const INTERNET: u16 = 1;

/// The address of a host, which may be one already.
pub(crate) fn address(host: &str, deadline: Instant) -> io::Result<IpAddr> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let text = std::fs::read_to_string(HOSTS).unwrap_or_default();
    if let Some(address) = in_hosts(&text, host) {
        return Ok(address);
    }
    let settings = Settings::read(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    let mut last = None;
    for name in settings.names(host) {
        for server in &settings.servers {
            match query(*server, &name, deadline) {
                Ok(Answer::Address(address)) => return Ok(IpAddr::V4(address)),
                // This server knows that there is no such name; the others would answer the same.
                Ok(Answer::Nothing) => break,
                Err(error) => last = Some(error),
            }
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(ErrorKind::NotFound, "no address is known for this name")))
}

/// The address that a hosts file has for a name.
fn in_hosts(text: &str, host: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    })
}

/// The settings in `resolv.conf`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Settings {
    fn read(text: &str) -> Self {
        let mut settings = Self { dots: 1, ..Self::default() };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    settings.servers.extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search") => settings.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    settings.dots = dots.unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings
    }

    /// The names to try, in their order: one with enough dots as it stands first, one with fewer last.
    fn names(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let found = self.search.iter().map(|domain| format!("{host}.{}", domain.trim_end_matches('.')));
        let own = std::iter::once(host.to_owned());
        if host.matches('.').count() >= self.dots {
            own.chain(found).collect()
        } else {
            found.chain(own).collect()
        }
    }
}

/// Asks one nameserver.
fn query(server: IpAddr, name: &str, deadline: Instant) -> io::Result<Answer> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let question = question(id, name)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "this is no name that DNS could know"))?;
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(server, 53))?;
    socket.send(&question)?;
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let mut buffer = [0; ANSWER_BYTES];
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let late = || io::Error::new(ErrorKind::TimedOut, "no nameserver answers in time");
        socket.set_read_timeout(Some(left.ok_or_else(late)?))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(answer) = read(&question, &buffer[..length]) {
                    return answer.map_err(io::Error::other);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A question for the address of a name; none if it cannot be a name.
fn question(id: [u8; 2], name: &str) -> Option<Vec<u8>> {
    // One question; recursion is wanted.
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([A, INTERNET].map(u16::to_be_bytes).as_flattened());
    // A whole name is at most 255 bytes long.
    (message.len() <= 12 + 255 + 4).then_some(message)
}

/// A nameserver's answer.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Address(Ipv4Addr),
    /// There is no such name, or it has no address.
    Nothing,
}

/// The answer to a question, or why this server has none: another one may. None if these bytes are no answer to it.
fn read(question: &[u8], answer: &[u8]) -> Option<Result<Answer, String>> {
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    // The same id, the bit that marks an answer, and the question word for word.
    let asked = question.get(12..)?;
    let ours = answer.get(..2) == question.get(..2) && answer.get(2)? & 0x80 != 0;
    let repeated = answer.get(12..12 + asked.len())?;
    if !ours || number(4)? != 1 || !repeated.eq_ignore_ascii_case(asked) {
        return None;
    }
    match answer.get(3)? & 0x0f {
        0 => {}
        // There is no such name.
        3 => return Some(Ok(Answer::Nothing)),
        code => return Some(Err(format!("the nameserver answers with {}", failure(code)))),
    }
    let truncated = answer.get(2)? & 0x02 != 0;
    Some(match first_address(answer, 12 + asked.len()) {
        Some(Answer::Nothing) if truncated => Err("the nameserver's answer is cut off".into()),
        Some(answer) => Ok(answer),
        None => Err("the nameserver's answer is incomplete".into()),
    })
}

/// What a nameserver's code for a failure is called.
fn failure(code: u8) -> String {
    match code {
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        other => format!("code {other}"),
    }
}

/// The first address among the records of an answer that begin here; none if they are broken before it.
fn first_address(answer: &[u8], mut at: usize) -> Option<Answer> {
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    for _ in 0..number(6)? {
        at = after_name(answer, at)?;
        let (kind, class, length) = (number(at)?, number(at + 2)?, usize::from(number(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        if let (A, INTERNET, [a, b, c, d]) = (kind, class, data) {
            return Some(Answer::Address(Ipv4Addr::new(*a, *b, *c, *d)));
        }
        // Another name that this one stands for; its address follows.
        at += 10 + length;
    }
    Some(Answer::Nothing)
}

/// Where a name ends that begins here.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A reference to a name elsewhere, which ends it.
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: [u8; 2] = [7, 9];

    /// An answer with these records, each of a kind and with data, for the name that was asked.
    fn answer(question: &[u8], code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
        message[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend([*kind, INTERNET].map(u16::to_be_bytes).as_flattened());
            message.extend([0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
            message.extend(*data);
        }
        message
    }

    #[test]
    fn an_answer_gives_the_first_address() {
        let question = question(ID, "web.example").unwrap();
        assert_eq!(question.len(), 12 + 13 + 4);
        let good = answer(&question, 0, &[(5, b"\x01a\0"), (A, &[10, 0, 0, 7]), (A, &[10, 0, 0, 8])]);
        let address = Some(Ok(Answer::Address(Ipv4Addr::new(10, 0, 0, 7))));
        assert_eq!(read(&question, &good), address);
        assert_eq!(read(&question, &answer(&question, 3, &[])), Some(Ok(Answer::Nothing)));
        assert_eq!(read(&question, &answer(&question, 0, &[])), Some(Ok(Answer::Nothing)));
        assert_eq!(read(&super::question([1, 1], "web.example").unwrap(), &good), None);
        assert_eq!(read(&super::question(ID, "web.examplf").unwrap(), &good), None);
    }

    #[test]
    fn a_server_that_cannot_answer_is_not_waited_for() {
        let question = question(ID, "web.example").unwrap();
        let reason = |code: u8| read(&question, &answer(&question, code, &[])).unwrap().unwrap_err();
        assert_eq!(reason(2), "the nameserver answers with SERVFAIL");
        assert_eq!(reason(5), "the nameserver answers with REFUSED");
        assert_eq!(reason(9), "the nameserver answers with code 9");
        let cut_off = |records: &[(u16, &[u8])]| {
            let mut message = answer(&question, 0, records);
            message[2] |= 0x02;
            message
        };
        assert!(read(&question, &cut_off(&[])).unwrap().is_err());
        let address = Ok(Answer::Address(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(read(&question, &cut_off(&[(A, &[10, 0, 0, 7])])), Some(address));
        let mut broken = answer(&question, 0, &[(A, &[10, 0, 0, 7])]);
        broken.truncate(broken.len() - 1);
        assert!(read(&question, &broken).unwrap().is_err());
    }

    #[test]
    fn names_are_tried_as_resolv_conf_says() {
        let settings = Settings::read("nameserver 10.0.0.2\nsearch a.b c.\noptions edns0 ndots:2\n");
        assert_eq!(settings.servers, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(settings.names("web"), ["web.a.b", "web.c", "web"]);
        assert_eq!(settings.names("a.web.x"), ["a.web.x", "a.web.x.a.b", "a.web.x.c"]);
        assert_eq!(settings.names("web."), ["web"]);
        assert_eq!(question(ID, "a..b"), None);
        assert_eq!(question(ID, &"a".repeat(64)), None);
        let hosts = "# 10.0.0.1 web\n10.0.0.2\tother WEB # yes\n";
        assert_eq!(in_hosts(hosts, "web"), Some(Ipv4Addr::new(10, 0, 0, 2).into()));
        assert_eq!(in_hosts(hosts, "yes"), None);
    }

    proptest! {
        #[test]
        fn whatever_a_nameserver_says_does_no_harm(tail in proptest::collection::vec(any::<u8>(), 0..80), records: u8) {
            let question = question(ID, "web").unwrap();
            let mut message = answer(&question, 0, &[]);
            message[7] = records;
            message.extend(tail);
            read(&question, &message);
            Settings::read(&String::from_utf8_lossy(&message));
        }
    }
}
