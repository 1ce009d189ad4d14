//! The HTTP proxy of the local cloud as processes: killed, replaced and ended, with a server and clients of the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/proxy.rs"]
mod process;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

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

/// Kills the carrier and the guardian in turn under load. A listener is never closed, so that no connection is refused;
/// what a carrier had accepted when it was killed is lost, and nothing else.
#[test]
fn a_killed_process_loses_what_it_carried_and_nothing_else() {
    let proxy = Proxy::new();
    let address = proxy.serve(host(1), &[server(), server()]);
    let (stop, asked, lost) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let clients: u32 = 4;
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (stop, asked, lost) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&lost));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match ask(address) {
                        Ok(()) => {}
                        Err((true, _)) => drop(lost.fetch_add(1, Ordering::Relaxed)),
                        Err((false, error)) => panic!("a connection was refused: {error}"),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();
    let kills: u32 = if std::env::var_os("I2KIT_SOAK").is_some() { 50 } else { 5 };
    for _ in 0..kills {
        for role in ["carry", "guard"] {
            let before = proxy.processes(role);
            assert_eq!(before.len(), 1, "one process is {role}");
            let status = fs::read_to_string(format!("/proc/{}/status", before[0])).unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{role} gains no rights: {status}");
            let served = asked.load(Ordering::Relaxed);
            proxy.kill(role);
            eventually("another process", || {
                let now = proxy.processes(role);
                (now.len() == 1 && now != before).then_some(())
            });
            eventually("further requests", || (asked.load(Ordering::Relaxed) > served + 50).then_some(()));
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    let (asked, lost) = (asked.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
    println(&format!(
        "HTTP proxy: {lost} of {asked} requests lost over {kills} kills of the carrier and {kills} of the guardian"
    ));
    // At most one request a client is under way when the carrier is killed.
    assert!(lost <= kills * clients, "{lost} of {asked} requests were lost");
    proxy.call(&json!({"call": "end"}));
    gone(&proxy);
    assert!(!proxy.home().join("proxy.sock").exists());
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
    thread::spawn(move || {
        let (mut stream, _) = slow.accept().unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        arrive.send(()).unwrap();
        thread::sleep(Duration::from_secs(4));
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
