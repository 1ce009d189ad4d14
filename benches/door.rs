//! The front door beside HAProxy in TCP mode: the same clients and the same back end, in turn, in one run. Needs HAProxy.
//! `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "other measurements print times")]
mod table;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use table::{Row, median, report};

/// Rounds of each measurement, one of each in turn; odd, so that the median is one of them.
const ROUNDS: usize = 7;

/// How long a round takes.
const ROUND: Duration = Duration::from_secs(2);

/// Threads of the back end: more than there are clients.
const SERVERS: usize = 64;

/// What clients do: their number, the bytes of an answer, and whether each question has a connection of its own.
struct Load {
    requests: &'static str,
    cpu: &'static str,
    clients: usize,
    bytes: usize,
    is_new: bool,
    /// How many of what is counted a question is, and what that is.
    unit: (f64, &'static str),
}

const LOADS: [Load; 3] = [
    Load {
        requests: "front door: keep-alive",
        cpu: "front door: keep-alive, processor",
        clients: 32,
        bytes: 1000,
        is_new: false,
        unit: (1.0, "req/s"),
    },
    Load {
        requests: "front door: new connections",
        cpu: "front door: new connections, processor",
        clients: 16,
        bytes: 1000,
        is_new: true,
        unit: (1.0, "req/s"),
    },
    Load {
        requests: "front door: answers of 1 MB",
        cpu: "front door: answers of 1 MB, processor",
        clients: 4,
        bytes: 1_000_000,
        is_new: false,
        unit: (1.0, "MB/s"),
    },
];

/// A back end: a question is a length, its answer as many bytes.
fn server() -> SocketAddr {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    for _ in 0..SERVERS {
        let listener = Arc::clone(&listener);
        std::thread::spawn(move || {
            let answer = vec![7; 1_000_000];
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.set_nodelay(true);
                let mut question = [0; 8];
                while stream.read_exact(&mut question).is_ok() {
                    let length = usize::try_from(u64::from_be_bytes(question)).unwrap().min(answer.len());
                    if stream.write_all(&answer[..length]).is_err() {
                        break;
                    }
                }
            }
        });
    }
    address
}

/// Questions that are answered in a round.
fn ask(address: SocketAddr, load: &Load) -> f64 {
    let (end, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..load.clients {
            scope.spawn(|| {
                let mut answer = vec![0; load.bytes];
                let mut open: Option<TcpStream> = None;
                while !end.load(Ordering::Relaxed) {
                    let mut stream = open.take().unwrap_or_else(|| TcpStream::connect(address).unwrap());
                    stream.write_all(&(load.bytes as u64).to_be_bytes()).unwrap();
                    stream.read_exact(&mut answer).unwrap();
                    answers.fetch_add(1, Ordering::Relaxed);
                    open = (!load.is_new).then_some(stream);
                }
            });
        }
        std::thread::sleep(ROUND);
        end.store(true, Ordering::Relaxed);
    });
    f64::from(u32::try_from(answers.load(Ordering::Relaxed)).unwrap())
}

/// Microseconds of processor that a process has used.
fn processor(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u32 = [11, 12].iter().map(|at| fields[*at].parse::<u32>().unwrap()).sum();
    // USER_HZ is 100 on every machine of Linux.
    f64::from(ticks) * 10_000.0
}

/// A front door that carries to the back end; its address, and the process that carries.
fn front_door(state: &Path, backend: SocketAddr) -> (SocketAddr, u32) {
    let program = env!("CARGO_BIN_EXE_i2kit");
    assert!(Command::new(program).arg("local-door").arg(state).status().unwrap().success());
    let address: SocketAddr = "127.77.77.77:8000".parse().unwrap();
    let service = json!({ "namespace": "default", "name": "web" });
    let id = json!({ "environment": "bench", "service": service, "port": 8000, "protocol": "TCP" });
    let route = json!({ "host": address.ip(), "backends": [{ "machine": "one", "address": backend }] });
    tell(state, &json!({ "apply": { "listeners": [[id, route]], "name_servers": {} } }));
    let is_carrier = |pid: &u32| {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("comm").trim() == "i2kit-door" && read("cmdline").contains(state.to_str().unwrap())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    (address, pids.into_iter().find(is_carrier).unwrap())
}

/// Says something on the control socket, and waits for the answer.
fn tell(state: &Path, request: &serde_json::Value) {
    let mut stream = UnixStream::connect(state.join("door.sock")).unwrap();
    let body = serde_json::to_vec(request).unwrap();
    stream.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut answer).unwrap();
}

/// HAProxy in TCP mode with one thread; its address, and its process. Like the front door it has a session of its own,
/// since the scheduler gives each session the same share.
fn haproxy(folder: &Path, backend: SocketAddr) -> (SocketAddr, Child) {
    let address: SocketAddr = "127.77.77.78:8000".parse().unwrap();
    let settings = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n option splice-auto\n option tcp-smart-accept\n \
         timeout connect 2s\n timeout client 1m\n timeout server 1m\nlisten web\n bind {address}\n server one {backend}\n"
    );
    fs::write(&settings, text).unwrap();
    let mut command = Command::new("setsid");
    command.args(["haproxy", "-db", "-f"]).arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("haproxy is installed, see scripts/deps --test");
    let given_up = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < given_up, "haproxy does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    (address, child)
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let backend = server();
    let (ours, door) = front_door(&state, backend);
    let (theirs, mut haproxy) = haproxy(folder.path(), backend);
    let mut rows = Vec::new();
    for load in &LOADS {
        let mut found = [(); 2].map(|()| (Vec::new(), Vec::new()));
        for _ in 0..ROUNDS {
            for ((rates, costs), (address, pid)) in
                found.iter_mut().zip([(ours, door), (theirs, haproxy.id())])
            {
                let before = processor(pid);
                let answers = ask(address, load);
                costs.push((processor(pid) - before) / answers);
                rates.push(answers * load.unit.0 / ROUND.as_secs_f64());
            }
        }
        let [(our_rate, our_cost), (rate, cost)] = found.map(|(rates, costs)| (median(rates), median(costs)));
        let row = |what, value, unit, goal, is_rate| Row {
            what,
            value,
            unit,
            by_hand: Some(goal),
            goal: Some(goal),
            is_rate,
        };
        rows.push(row(load.requests, our_rate, load.unit.1, rate, true));
        rows.push(row(load.cpu, our_cost, "us", cost, false));
    }
    let _ = haproxy.kill().and_then(|()| haproxy.wait());
    tell(&state, &json!("stop"));
    report(&rows, "bench-door.json");
}
