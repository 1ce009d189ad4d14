//! Name servers: questions in datagrams and over connections, servers elsewhere that are asked, and what is bounded.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Door, PATIENCE, eventually, host};
use crate::cloud::local::figures::{self, Peer};
use crate::cloud::local::mover::admission::Shares;
use crate::cloud::local::mover::dns::message::{self, Reply, Zone};
use crate::cloud::local::mover::routes::{NameServer, Report, Routes};
use crate::cloud::local::mover::table::Fd;
use crate::cloud::local::network::addresses;

fn names(environment: &str, address: Ipv4Addr, zone: Zone) -> Routes {
    let server = NameServer { address, zone, inside: false };
    Routes { name_servers: BTreeMap::from([(environment.to_owned(), server)]), ..Routes::default() }
}

#[test]
fn a_name_server_that_cannot_start_says_once_what_to_do() {
    // Another user than root has the same failure without this.
    let address = addresses::name_server("taken");
    let taken = UdpSocket::bind((address, 53));
    let door = Door::new(Shares::of(1024));
    for _ in 0..2 {
        door.apply(names("taken", address, Zone::default()));
    }
    let report = door.report();
    assert!(report.name_servers.is_empty());
    let said = &report.warnings["taken"][0];
    assert!(
        said.contains(":53 cannot be served: ")
            && (said.contains("ip_unprivileged_port_start")
                || said.contains("another program has that address")),
        "{said}"
    );
    let log = door.log();
    assert_eq!(log.matches("cannot be served").count(), 1, "{log}");
    drop(taken);
    door.apply(Routes::default());
    assert_eq!(door.report(), Report::default());
}

const NAMES: u16 = 5300;

/// A carrier with a name server on a port that needs no privilege.
fn name_server(number: u8, low: u8) -> (SocketAddr, Door) {
    let door = Door::new(Shares::of(1024));
    door.with(|carrier| carrier.dns.port = NAMES);
    door.apply(names("test", host(number), zone(low)));
    ((host(number), NAMES).into(), door)
}

fn zone(low: u8) -> Zone {
    Zone::from([("web.default.svc.cluster.local".to_owned(), Ipv4Addr::new(127, 77, 0, low))])
}

fn question() -> Vec<u8> {
    message::example_question("web.default.svc.cluster.local", 1)
}

#[test]
fn a_resolver_is_answered_with_what_the_zone_is_now() {
    let (address, door) = name_server(94, 1);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for low in [1, 2] {
        door.apply(names("test", host(94), zone(low)));
        client.send(&question()).unwrap();
        let mut answer = [0; 512];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(answer[length - 4..length], [127, 77, 0, low]);
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

#[test]
fn several_questions_over_one_connection_have_the_answers_of_datagrams() {
    let (address, door) = name_server(95, 7);
    let Some(Reply::Answer(expected)) = message::reply(&question(), &zone(7)) else { panic!("no answer") };
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // Two at once, the second one in two parts.
    let framed_question = framed(&question());
    let (start, end) = framed_question.split_at(20);
    client.write_all(&[&framed_question, start].concat()).unwrap();
    assert_eq!(read_framed(&mut client).unwrap(), expected);
    client.write_all(end).unwrap();
    assert_eq!(read_framed(&mut client).unwrap(), expected);
    // What is no question ends the connection.
    client.write_all(&framed(b"no question")).unwrap();
    assert!(read_framed(&mut client).is_err());

    // A closed server leaves its address to the next one at once, connections or not.
    let _open = TcpStream::connect(address).unwrap();
    door.apply(Routes::default());
    door.apply(names("other", host(95), zone(8)));
    assert!(door.report().name_servers.contains_key("other"), "{:?}", door.report());
}

#[test]
fn connections_of_resolvers_are_bounded() {
    let (address, door) = name_server(96, 7);
    door.apply(names("test", host(96), zone(7)));
    let most = Shares::of(1024).names;
    let silent: Vec<_> = (0..most).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut further = TcpStream::connect(address).unwrap();
    further.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(further.read(&mut [0; 1]), Ok(0) | Err(_)));
    let warnings = door.report().warnings.remove("test").unwrap_or_default();
    assert!(warnings.iter().any(|warning| warning.contains("name server of test (TCP)")), "{warnings:?}");
    drop(silent);
    eventually("an answer once they are gone", || {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&framed(&question())).is_ok() && read_framed(&mut client).is_ok()
    });
}

#[test]
fn a_silent_resolver_is_let_go() {
    let (address, door) = name_server(97, 7);
    door.with(|carrier| carrier.dns.idle = Duration::from_millis(50));
    let mut silent = TcpStream::connect(address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(silent.read(&mut [0; 1]), Ok(0) | Err(_)));
}

/// A name server at that address which answers each datagram with `code`, and a marker behind the question.
fn upstream(address: (Ipv4Addr, u16), code: u8, marker: &'static [u8]) {
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            buffer[3] = code;
            let _ = socket.send_to(&[&buffer[..length], marker].concat(), client);
        }
    });
}

#[test]
fn the_next_name_server_is_asked_where_one_is_gone_or_refuses() {
    const OTHERS: u16 = 5353;
    let (address, door) = name_server(98, 7);
    let settings = door.folder.path().join("resolv.conf");
    // Nobody is at the first; the second one refuses; the third one knows.
    let lines = [91, 92, 93].map(|number| format!("nameserver {}\n", host(number)));
    std::fs::write(&settings, lines.concat()).unwrap();
    upstream((host(92), OTHERS), 5, b"");
    upstream((host(93), OTHERS), 0, b"known");
    let file = settings.clone();
    door.with(move |carrier| {
        carrier.dns.settings.file = file;
        carrier.dns.settings.port = OTHERS;
    });
    let elsewhere = message::example_question("example.com", 1);
    let by_datagram = || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(&elsewhere).unwrap();
        let mut answer = vec![0; 512];
        let length = client.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    };
    assert!(by_datagram().ends_with(b"known"));
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // The second question waits for the answer to the first.
    client.write_all(&[framed(&elsewhere), framed(&question())].concat()).unwrap();
    assert!(read_framed(&mut client).unwrap().ends_with(b"known"));
    let Some(Reply::Answer(expected)) = message::reply(&question(), &zone(7)) else { panic!("no answer") };
    assert_eq!(read_framed(&mut client).unwrap(), expected);
    std::fs::write(&settings, &lines[1]).unwrap();
    assert!(message::is_refusal(&by_datagram()));
    std::fs::write(&settings, "").unwrap();
    assert!(message::is_refusal(&by_datagram()), "nobody can be asked");
}

#[test]
fn a_machine_that_asks_for_many_names_leaves_others_room() {
    const OTHERS: u16 = 5354;
    let door = Door::new(Shares::of(1 << 17));
    let settings = door.folder.path().join("resolv.conf");
    std::fs::write(&settings, format!("nameserver {}\n", host(114))).unwrap();
    let silent = UdpSocket::bind((host(114), OTHERS)).unwrap();
    silent.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let udp = UdpSocket::bind((host(115), NAMES)).unwrap();
    let tcp = TcpListener::bind((host(115), NAMES)).unwrap();
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let zone = zone(7);
    door.with(move |carrier| {
        carrier.dns.settings.file = settings;
        carrier.dns.settings.port = OTHERS;
        carrier.dns.give("test", [udp.into(), tcp.into()].map(Fd::from_owned));
        let server = NameServer { address: host(115), zone, inside: true };
        let name_servers = BTreeMap::from([("test".to_owned(), server)]);
        carrier.apply(Routes { name_servers, ..Routes::default() });
    });
    let client = |number| {
        let client = UdpSocket::bind((host(number), 0)).unwrap();
        client.connect((host(115), NAMES)).unwrap();
        client
    };
    let (greedy, modest) = (client(116), client(117));
    let ask = |client: &UdpSocket, id: u8| {
        let mut question = message::example_question("example.com", 1);
        question[0] = id;
        client.send(&question).unwrap();
    };
    (0..200).for_each(|id| ask(&greedy, id));
    let heard = || std::iter::from_fn(|| silent.recv(&mut [0; 512]).ok()).count();
    assert_eq!(heard(), 64);
    ask(&modest, 1);
    assert_eq!(heard(), 1);
    // Connections have a share as well.
    let connected: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect((host(115), NAMES)).unwrap()).collect();
    let closed = |stream: &&TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut stream: &TcpStream = stream;
        matches!(stream.read(&mut [0; 1]), Ok(0))
    };
    assert_eq!(connected.iter().filter(closed).count(), 4);
}

/// An answer that has `db.example.com`'s address behind the question.
const RECORD: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9];

#[test]
fn an_alias_is_followed_to_the_name_servers_of_this_host() {
    const OTHERS: u16 = 5355;
    let (address, door) = name_server(124, 7);
    let settings = door.folder.path().join("resolv.conf");
    std::fs::write(&settings, format!("nameserver {}\n", host(125))).unwrap();
    let socket = UdpSocket::bind((host(125), OTHERS)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            // The question is about the name that the alias stands for.
            let is_known = buffer[..length].windows(10).any(|part| part == b"\x02db\x07exampl");
            buffer[2] |= 0x80;
            buffer[3] = if is_known { 0 } else { 3 };
            buffer[7] = u8::from(is_known);
            let record = if is_known { RECORD } else { b"" };
            let _ = socket.send_to(&[&buffer[..length], record].concat(), client);
        }
    });
    door.with(move |carrier| {
        carrier.dns.settings.file = settings;
        carrier.dns.settings.port = OTHERS;
    });
    let mut aliases = zone(7);
    for (name, target) in [("db", "db.example.com"), ("gone", "gone.example.com")] {
        let name = format!("{name}.default.svc.cluster.local");
        aliases.add(name, message::NameRecord::Alias(target.to_owned()));
    }
    door.apply(names("test", host(124), aliases));
    let by_datagram = |name: &str| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(&message::example_question(name, 1)).unwrap();
        let mut answer = vec![0; 512];
        let length = client.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    };
    let found = by_datagram("db.default.svc.cluster.local");
    assert_eq!((found[3] & 0x0f, found[7]), (0, 2), "{found:?}");
    assert!(found.ends_with(&[192, 0, 2, 9]), "{found:?}");
    // A name that is none there is none here.
    let gone = by_datagram("gone.default.svc.cluster.local");
    assert_eq!((gone[3] & 0x0f, gone[7]), (3, 1), "{gone:?}");
    // Over a connection too: it is asked in a datagram where a server knows nothing else.
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&framed(&message::example_question("db.default.svc.cluster.local", 1))).unwrap();
    assert_eq!(read_framed(&mut client).unwrap(), found);
}

/// How long a server is asked, questions that wait for an answer at once, and rounds.
const MEASURED: Duration = Duration::from_secs(2);
const WINDOW: usize = 32;
const ROUNDS: usize = 5;

/// Questions a second with many under way, and microseconds of one at a time: in the middle, and of the 99th of a hundred.
fn measure(server: SocketAddr) -> [f64; 3] {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (question, mut answer) = (question(), [0; 512]);
    for _ in 0..WINDOW {
        client.send(&question).unwrap();
    }
    let (started, mut answered) = (Instant::now(), 0);
    while started.elapsed() < MEASURED {
        client.recv(&mut answer).unwrap();
        client.send(&question).unwrap();
        answered += 1;
    }
    let rate = figures::rate(answered, started);
    for _ in 0..WINDOW {
        client.recv(&mut answer).unwrap();
    }
    let (started, mut trips) = (Instant::now(), Vec::new());
    while started.elapsed() < MEASURED {
        let sent = Instant::now();
        client.send(&question).unwrap();
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(answer[length - 4..length], [127, 77, 0, 9]);
        trips.push(sent.elapsed());
    }
    let [middle, last] = figures::percentiles(trips);
    [rate, middle, last]
}

#[test]
#[expect(clippy::print_stderr, reason = "scripts/bench prints the figures")]
fn speed_of_names_beside_dnsmasq() {
    if !figures::are_wanted() {
        return;
    }
    let (ours, _door) = name_server(93, 9);
    let address = host(92);
    let dnsmasq = Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--conf-file=/dev/null",
            "--pid-file",
        ])
        .args([format!("--listen-address={address}"), format!("--port={NAMES}")])
        .arg("--host-record=web.default.svc.cluster.local,127.77.0.9")
        .spawn();
    let _dnsmasq = Peer(dnsmasq.unwrap());
    let theirs = SocketAddr::from((address, NAMES));
    eventually("dnsmasq answers", || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(theirs).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        client.send(&question()).is_ok() && client.recv(&mut [0; 512]).is_ok()
    });
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (way, server) in [theirs, ours].into_iter().enumerate() {
            rounds[way].push(measure(server));
        }
    }
    let peer = figures::medians(&rounds[0]);
    for (name, rounds) in ["dnsmasq", "the front door"].into_iter().zip(&rounds) {
        let found = figures::medians(rounds);
        let [rate, middle, last] = found;
        eprintln!(
            "figure: names by {name}: {rate:.0} questions a second, an answer after {middle:.1} us (p99 {last:.1}); \
             beside dnsmasq {}",
            figures::ratios(found, peer)
        );
    }
}
