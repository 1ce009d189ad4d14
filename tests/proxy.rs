//! The HTTP proxy of the local cloud as processes: killed, replaced and ended, with a server and clients of the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/pace.rs"]
mod pace;
#[path = "support/proxy.rs"]
mod process;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use serde_json::json;

use pace::{Pace, RATE};
use process::Proxy;
use process::eventually::{PATIENCE, eventually};

/// Waits until nothing is left of a proxy.
fn gone(proxy: &Proxy) {
    eventually("end of the proxy", || {
        (proxy.processes("guard").is_empty() && proxy.processes("carry").is_empty()).then_some(())
    });
}

/// A server that answers each connection once.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_err() {
            return;
        }
    }
}

/// One request over a connection of its own.
fn ask(address: SocketAddr) -> Result<(), (bool, io::Error)> {
    let mut stream = TcpStream::connect(address).map_err(|error| (false, error))?;
    let mut asked = || -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let is_whole = answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello");
        if is_whole { Ok(()) } else { Err(io::Error::other(answer)) }
    };
    asked().map_err(|error| (true, error))
}

/// An address of this host for each test.
fn host(number: u8) -> Ipv4Addr {
    let process = std::process::id();
    Ipv4Addr::new(127, 200, u8::try_from(process % 250).unwrap(), number)
}

/// Clients at once.
const CLIENTS: u32 = 4;

/// What clients have seen since they began.
struct Seen {
    pace: Pace,
    asked: AtomicU32,
    lost: AtomicU32,
    stop: AtomicBool,
}

impl Seen {
    fn now(&self) -> (u32, u32) {
        (self.asked.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Asks [`RATE`] times a second with the other clients, each time over a connection of its own.
    fn ask(&self, address: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            self.pace.wait();
            match ask(address) {
                Ok(()) => {}
                Err((true, _)) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
                Err((false, error)) => panic!("a connection was refused: {error}"),
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Kills the guardian and then the carrier again and again under load. A listener is never closed, so that no connection is
/// refused; what a carrier had accepted when it was killed is lost, and nothing else.
#[test]
fn a_killed_process_loses_what_it_carried_and_nothing_else() {
    let proxy = Proxy::new();
    let address = proxy.serve(host(1), &[server(), server()]);
    let seen = Arc::new(Seen {
        pace: Pace::new(),
        asked: AtomicU32::new(0),
        lost: AtomicU32::new(0),
        stop: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let seen = Arc::clone(&seen);
            thread::spawn(move || seen.ask(address))
        })
        .collect();
    let soaks = std::env::var_os("I2KIT_SOAK").is_some_and(|value| value == "1");
    let kills: u32 = if soaks { 100 } else { 5 };
    // At most one request a client is under way when the carrier is killed.
    for (role, bound) in [("guard", 0), ("carry", kills * CLIENTS)] {
        let (before, lost) = seen.now();
        for _ in 0..kills {
            kill_under_load(&proxy, role, &seen);
        }
        let (asked, lost) = (seen.now().0 - before, seen.now().1 - lost);
        println(&format!("HTTP proxy, {role}: {lost} of {asked} requests lost over {kills} kills"));
        assert!(lost <= bound, "{lost} of {asked} requests were lost over {kills} kills of {role}");
    }
    let rate = seen.pace.rate(seen.now().0.into());
    println(&format!("HTTP proxy: {rate} new connections a second meanwhile"));
    // A soak test has the host for itself.
    assert!(!soaks || rate >= u64::from(RATE) * 19 / 20, "{rate} new connections a second");
    seen.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    proxy.call(&json!({"call": "end"}));
    gone(&proxy);
    assert!(!proxy.home().join("proxy.sock").exists());
}

/// Kills a process of the proxy; returns once another one is there and requests go on.
fn kill_under_load(proxy: &Proxy, role: &str, seen: &Seen) {
    let before = proxy.processes(role);
    assert_eq!(before.len(), 1, "one process is {role}");
    let status = fs::read_to_string(format!("/proc/{}/status", before[0])).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{role} gains no rights: {status}");
    let (served, _) = seen.now();
    proxy.kill(role);
    eventually("another process", || {
        let now = proxy.processes(role);
        (now.len() == 1 && now != before).then_some(())
    });
    eventually("further requests", || (seen.now().0 > served + 50).then_some(()));
}

/// Prints a figure that scripts/bench picks up.
#[expect(clippy::print_stdout, reason = "figures of a test are printed with its output")]
fn println(figure: &str) {
    println!("figure: {figure}");
}

/// Another program takes over once it serves: nothing is refused, and a request under way is answered by the old one, and
/// counted.
#[test]
fn another_program_takes_over_without_losing_a_request() {
    let proxy = Proxy::new();
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow_address = slow.local_addr().unwrap();
    let (arrive, arrived) = std::sync::mpsc::channel();
    let (answer, answered) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = slow.accept().unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        arrive.send(()).unwrap();
        answered.recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    });
    let address = proxy.serve(host(2), &[slow_address]);
    let pid = proxy.report()["pid"].clone();
    let under_way = thread::spawn(move || ask(address));
    arrived.recv_timeout(PATIENCE).unwrap();
    proxy.serve(host(2), &[server()]);
    // A program that is none takes nothing over, and leaves nothing.
    for nothing in ["/bin/true", "/bin/false"] {
        let report = proxy.call(&json!({"call": "replace", "value": nothing}));
        assert_eq!(report["pid"], pid);
        ask(address).unwrap();
        assert_eq!((proxy.processes("guard").len(), proxy.processes("carry").len()), (1, 1));
    }
    proxy.call(&json!({"call": "replace", "value": env!("CARGO_BIN_EXE_i2kit")}));
    let successor = proxy.report();
    assert_ne!(successor["pid"], pid);
    // Its successor counts what is under way in it.
    assert_eq!(successor["active"][slow_address.to_string()], 1, "{successor}");
    answer.send(()).unwrap();
    ask(address).unwrap();
    under_way.join().unwrap().unwrap();
    eventually("the end of what was under way", || {
        proxy.report()["active"].as_object().unwrap().is_empty().then_some(())
    });
    eventually("one of each", || {
        (proxy.processes("guard").len() == 1 && proxy.processes("carry").len() == 1).then_some(())
    });
    // Without its folder it ends.
    fs::remove_dir_all(proxy.home()).unwrap();
    gone(&proxy);
}

/// A port that this user may not have, or that another program has, becomes another one.
#[test]
fn a_port_that_is_taken_becomes_another_one() {
    let host = host(3);
    let taken: Vec<TcpListener> =
        [80, 8080].into_iter().filter_map(|port| TcpListener::bind((host, port)).ok()).collect();
    let proxy = Proxy::new();
    let address = proxy.serve(host, &[server()]);
    assert!(taken.iter().all(|other| other.local_addr().unwrap() != address));
    ask(address).unwrap();
}
