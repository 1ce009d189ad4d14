//! A replicated group of three on one machine: durable ordered writes and reads a second of 64 clients, and processor time of all
//! replicas and applications per request; beside the application alone, and beside etcd where Debian's `etcd-server` is
//! installed. `scripts/bench` runs it.
//!
//! Clients of etcd use its JSON gateway, which costs etcd more than its own protocol, gRPC, would.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on fails, and prints"
)]

#[path = "../tests/replicas/application.rs"]
mod application;
#[expect(dead_code, reason = "the tests use more")]
#[path = "../tests/replicas/client.rs"]
mod client;
#[expect(dead_code, reason = "the tests use more")]
#[path = "../tests/replicas/cluster.rs"]
mod cluster;
#[path = "../../../tests/support/eventually.rs"]
mod eventually;
#[expect(dead_code, reason = "a client is part of it")]
#[path = "../tests/replicas/history.rs"]
mod history;
#[expect(dead_code, reason = "other measurements print times")]
#[path = "../../../benches/table/mod.rs"]
mod table;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use i2kit_spec::replica::Reads;

use application::Application;
use client::{Connection, get, put};
use cluster::{Cluster, Options, supervise};
use eventually::eventually;
use table::{Row, median, report};

/// Clients, each of which waits for its answer before it asks again.
const CLIENTS: usize = 64;

/// Rounds of each measurement; odd, so that the median is one of them.
const ROUNDS: usize = 3;

/// How long a round takes.
const ROUND: Duration = Duration::from_secs(3);

/// What a round found: answers a second, median and 99th percentile of their times in milliseconds, processor time per answer in
/// microseconds.
struct Found {
    rate: f64,
    middle: f64,
    late: f64,
    cost: f64,
}

/// Has clients ask until the round is over. `request` makes the request of a client from its number and a count. Only answers of
/// status 200 count, and another one fails.
fn ask(ports: &[u16], pids: &[u32], request: &(dyn Fn(usize, u64) -> String + Sync)) -> Found {
    let ends = AtomicBool::new(false);
    let before: f64 = pids.iter().map(|pid| processor(*pid)).sum();
    let started = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let ends = &ends;
                scope.spawn(move || {
                    let mut connection = Connection::open(ports[number % ports.len()]).unwrap();
                    let mut times = Vec::new();
                    for count in 0.. {
                        if ends.load(Ordering::Relaxed) {
                            break;
                        }
                        let (text, asked) = (request(number, count), Instant::now());
                        let answer = connection.ask(&text).expect("the connection holds");
                        assert_eq!(answer.status, 200, "{answer:?}");
                        times.push(asked.elapsed());
                    }
                    times
                })
            })
            .collect();
        std::thread::sleep(ROUND);
        ends.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let cost = pids.iter().map(|pid| processor(*pid)).sum::<f64>() - before;
    times.sort_unstable();
    let count = f64::from(u32::try_from(times.len()).unwrap());
    let at = |hundredths: usize| times[(times.len() - 1) * hundredths / 100].as_secs_f64() * 1e3;
    Found { rate: count / seconds, middle: at(50), late: at(99), cost: cost / count }
}

/// Microseconds of processor that a process has used.
fn processor(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u32 = [11, 12].iter().map(|at| fields[*at].parse::<u32>().unwrap()).sum();
    // USER_HZ is 100 on every machine of Linux.
    f64::from(ticks) * 10_000.0
}

/// The median of the rounds of one measurement, which is printed.
fn rounds(what: &str, ports: &[u16], pids: &[u32], request: &(dyn Fn(usize, u64) -> String + Sync)) -> Found {
    let found: Vec<Found> = (0..ROUNDS).map(|_| ask(ports, pids, request)).collect();
    let of = |value: fn(&Found) -> f64| median(found.iter().map(value).collect());
    let found = Found {
        rate: of(|found| found.rate),
        middle: of(|found| found.middle),
        late: of(|found| found.late),
        cost: of(|found| found.cost),
    };
    println!(
        "{what}: {:.0}/s, {:.2} ms half of them, {:.2} ms 99 of 100, {:.0} us of processor each",
        found.rate, found.middle, found.late, found.cost
    );
    found
}

/// A write of so many bytes.
fn write(bytes: usize) -> impl Fn(usize, u64) -> String + Sync {
    move |number, count| {
        put(&format!("r{}", count % 16), &format!("{number}.{count:0>bytes$}")[..bytes], None)
    }
}

/// A read of a register that was written.
fn read(_: usize, count: u64) -> String {
    get(&format!("/kv/r{}", count % 16))
}

/// A group of three, ready.
fn group(options: &Options) -> (Cluster, Vec<u32>) {
    let cluster = Cluster::new(options);
    let pids =
        cluster.replicas.iter().flat_map(|replica| [replica.pid(), replica.machine.as_ref().map(Child::id)]);
    let pids = pids.map(Option::unwrap).collect();
    (cluster, pids)
}

/// The application alone.
fn bare(bytes: usize, what: &str) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let socket = folder.path().join("pod.sock");
    let mut machine = machine(&socket, port);
    eventually("supervisor", || socket.exists().then_some(()));
    let start = |mut stream: std::os::unix::net::UnixStream| {
        use std::io::{Read as _, Write as _};
        stream.write_all(b"{\"do\":\"start\",\"containers\":[]}\n").unwrap();
        stream.read_to_string(&mut String::new()).unwrap();
    };
    start(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    let found = rounds(what, &[port], &[machine.id()], &write(bytes));
    machine.kill().and_then(|()| machine.wait()).unwrap();
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn machine(socket: &Path, port: u16) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("machine").arg(socket).arg(port.to_string()).stdin(Stdio::null()).spawn().unwrap()
}

/// Three members of etcd with their data in a folder, and their clients' ports; none where it is not installed.
struct Etcd {
    members: Vec<Child>,
    ports: Vec<u16>,
    _folder: tempfile::TempDir,
}

impl Etcd {
    fn new() -> Option<Self> {
        Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(at, (_, peer))| format!("m{at}=http://127.0.0.1:{peer}"))
            .collect();
        let members = ports.iter().enumerate().map(|(at, (client, peer))| {
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{at}"), "--initial-cluster", &peers.join(",")]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.arg("--data-dir").arg(folder.path().join(at.to_string()));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        let members = members.collect();
        let ports: Vec<u16> = ports.into_iter().map(|(client, _)| client).collect();
        for port in &ports {
            eventually("etcd", || client::once(*port, &get("/health")).filter(|answer| answer.status == 200));
        }
        Some(Self { members, ports, _folder: folder })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill().and_then(|()| member.wait());
        }
    }
}

/// A write of etcd's version 3 by its JSON gateway; keys and values are in base64, of which digits and letters are.
fn etcd_write(bytes: usize) -> impl Fn(usize, u64) -> String + Sync {
    move |number, count| {
        // Four letters are three bytes.
        let letters = bytes / 3 * 4;
        let value = format!("{number:04}{count:0>letters$}");
        let body = format!("{{\"key\":\"cjAw{:04}\",\"value\":\"{}\"}}", count % 16, &value[..letters]);
        let length = body.len();
        format!(
            "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }
}

/// Two rows: the rate and the cost of one measurement, beside those of another.
fn rows(names: [&'static str; 2], ours: &Found, theirs: Option<&Found>) -> [Row; 2] {
    let row =
        |what, value, unit, other, is_rate| Row { what, value, unit, by_hand: other, goal: None, is_rate };
    [
        row(names[0], ours.rate, "req/s", theirs.map(|found| found.rate), true),
        row(names[1], ours.cost, "us", theirs.map(|found| found.cost), false),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, socket, port] = arguments.as_slice()
        && mode == "machine"
    {
        let application = Application::new(port.parse().unwrap(), None, false);
        supervise(Path::new(socket), &application, &Arc::default());
        loop {
            std::thread::park();
        }
    }
    let mut table = Vec::new();
    let bare_small = bare(64, "the application alone, writes of 64 B");
    let (cluster, pids) = group(&Options { is_apart: true, ..Options::default() });
    let ports = cluster.fronts();
    let small = rounds("depth 32, writes of 64 B", &ports, &pids, &write(64));
    let large = rounds("depth 32, writes of 256 B", &ports, &pids, &write(256));
    let reads = rounds("linearizable reads", &ports, &pids, &read);
    drop(cluster);
    let (cluster, pids) = group(&Options { is_apart: true, depth: 1, ..Options::default() });
    let ports = cluster.fronts();
    let shallow = rounds("depth 1, writes of 64 B", &ports, &pids, &write(64));
    let shallow_large = rounds("depth 1, writes of 256 B", &ports, &pids, &write(256));
    drop(cluster);
    let (cluster, pids) = group(&Options { is_apart: true, reads: Reads::Local, ..Options::default() });
    let ports = cluster.fronts();
    ask(&ports, &pids, &write(64));
    let local = rounds("local reads", &ports, &pids, &read);
    drop(cluster);
    table.extend(rows(
        ["replicated: writes of 64 B", "replicated: writes of 64 B, processor"],
        &small,
        Some(&bare_small),
    ));
    table.extend(rows(
        ["replicated: writes of 256 B", "replicated: writes of 256 B, processor"],
        &large,
        None,
    ));
    table.extend(rows(
        ["replicated: depth 1, 64 B", "replicated: depth 1, 64 B, processor"],
        &shallow,
        Some(&bare_small),
    ));
    table.extend(rows(
        ["replicated: depth 1, 256 B", "replicated: depth 1, 256 B, processor"],
        &shallow_large,
        None,
    ));
    table.extend(rows(
        ["replica reads, linearizable", "replica reads, linearizable, processor"],
        &reads,
        None,
    ));
    table.extend(rows(["replica reads, local", "replica reads, local, processor"], &local, None));
    match Etcd::new() {
        Some(etcd) => {
            let pids: Vec<u32> = etcd.members.iter().map(Child::id).collect();
            let theirs =
                rounds("etcd by its JSON gateway, writes of 64 B", &etcd.ports, &pids, &etcd_write(64));
            let names = ["beside etcd: writes of 64 B", "beside etcd: writes of 64 B, processor"];
            table.extend(rows(names, &small, Some(&theirs)));
        }
        None => println!("etcd is not installed, and was not measured: apt-get install etcd-server"),
    }
    println!();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
    std::fs::create_dir_all(folder).unwrap();
    report(&table, &format!("{folder}/bench-replicated.json"));
}
