//! Kills, upgrades and ends under traffic.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::door::{Door, LAYOUT, eventually, times};
use super::traffic::{Clients, Random, assert_held, report, server};

/// Kills the processes of those names in turn, so many times in all, at moments without an order, each once traffic of `clients`
/// goes on after the last. Returns how many connections a second they made.
fn kill(names: &[&str], count: u32, seed: u64, clients: fn(SocketAddr) -> Clients) -> u64 {
    let door = Door::start();
    door.carry(&[server(), server()]);
    let idle = open_descriptors(&door).unwrap();
    let clients = clients(door.address());
    let mut random = Random(seed);
    for number in 0..count {
        let before = clients.answers();
        eventually("answer after the last kill", || (clients.answers() > before + 5).then_some(()));
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        let name = names[usize::try_from(number).unwrap() % names.len()];
        let pid = door.process(name);
        Door::signal(pid, "-KILL");
        eventually("successor", || (door.process(name) != pid).then_some(()));
    }
    let rate = clients.rate();
    let found = clients.assert_whole();
    report(&format!("{count} kills of {}", names.join(" and ")), rate, &found);
    let log = door.log();
    assert!(!log.contains("panicked"), "{log}");
    eventually("end of all connections", || {
        let report = door.ask(&json!("report")).ok()?;
        let open =
            report["report"]["connections"].as_object()?.values().filter_map(Value::as_u64).sum::<u64>();
        (open == 0).then_some(())
    });
    assert_no_leak(&door, idle);
    rate
}

/// The descriptors that its processes have open.
fn open_descriptors(door: &Door) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{}/fd", door.process("i2kit-door"))).ok()?.count())
}

/// Descriptors of pipes that are kept for the next connections, at most with the clients of these tests.
const POOL: usize = 40;

/// Descriptors do not grow with kills: what a killed process had for itself is closed by its successor. `before`: those
/// without traffic. Pipes that are kept for the next connections come on top.
fn assert_no_leak(door: &Door, before: usize) {
    eventually("end of descriptors that nobody has", || {
        (open_descriptors(door)? <= before + POOL).then_some(())
    });
}

#[test]
fn the_process_that_carries_is_killed_and_nothing_is_lost() {
    kill(&["i2kit-door"], times(12, 100), 1, Clients::start);
}

#[test]
fn the_guardian_is_killed_and_nothing_is_lost() {
    kill(&["i2kit-guardian"], times(6, 100), 2, Clients::start);
}

#[test]
fn one_after_the_other_is_killed_and_nothing_is_lost() {
    kill(&["i2kit-door", "i2kit-guardian"], times(8, 100), 3, Clients::start);
}

#[test]
fn no_new_connection_of_many_a_second_is_lost_to_a_kill() {
    assert_held(kill(&["i2kit-door", "i2kit-guardian"], times(6, 200), 4, Clients::newcomers));
}

#[test]
fn who_may_connect_holds_whichever_process_is_killed() {
    let door = Door::start();
    let asks = || {
        let mut stream = TcpStream::connect(door.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // A question of no bytes has no answer: one of a byte has.
        stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 1])?;
        stream.read_exact(&mut [0])
    };
    for (ranges, admitted) in [(&["192.0.2.0/24"][..], false), (&["127.0.0.1/32"], true)] {
        door.carry_for(ranges, &[server()]);
        for name in ["i2kit-door", "i2kit-guardian", "i2kit-door"] {
            assert_eq!(asks().is_ok(), admitted, "{ranges:?}: {}", door.log());
            let pid = door.process(name);
            Door::signal(pid, "-KILL");
            // Before its successor is there, and after that.
            assert_eq!(asks().is_ok(), admitted, "{ranges:?} after the end of {name}: {}", door.log());
            eventually("successor", || (door.process(name) != pid).then_some(()));
            assert_eq!(asks().is_ok(), admitted, "{ranges:?} under a successor: {}", door.log());
        }
    }
}

#[test]
fn a_program_that_takes_over_goes_on_with_every_connection() {
    let door = Door::start();
    door.carry(&[server(), server()]);
    let idle = open_descriptors(&door).unwrap();
    let clients = Clients::start(door.address());
    let upgrade = json!({ "upgrade": { "program": env!("CARGO_BIN_EXE_i2kit"), "layout": LAYOUT } });
    for _ in 0..times(4, 50) {
        let before = clients.answers();
        eventually("answer after the last one", || (clients.answers() > before + 5).then_some(()));
        let pid = door.process("i2kit-door");
        eventually("begun upgrade", || {
            let answer = door.ask(&upgrade).ok()?;
            assert_eq!(answer, json!("done"), "{}", door.log());
            Some(())
        });
        eventually("newer process", || (door.process("i2kit-door") != pid).then_some(()));
    }
    clients.assert_whole();
    let log = door.log();
    assert!(log.contains("a newer program carries on") && !log.contains("does not take over"), "{log}");
    assert_no_leak(&door, idle);
}

#[test]
fn a_program_that_cannot_take_over_leaves_all_as_it_is() {
    let door = Door::start();
    door.carry(&[server()]);
    let clients = Clients::start(door.address());
    for (number, program) in ["/nonexistent", "/bin/false"].into_iter().enumerate() {
        let upgrade = json!({ "upgrade": { "program": program, "layout": LAYOUT } });
        assert_eq!(door.ask(&upgrade).unwrap(), json!("done"));
        let before = clients.answers();
        eventually("answer after the attempt", || (clients.answers() > before + 50).then_some(()));
        assert!(number > 0 || door.log().contains("does not take over"), "{}", door.log());
    }
    let other = json!({ "upgrade": { "program": env!("CARGO_BIN_EXE_i2kit"), "layout": 999 } });
    assert!(door.ask(&other).unwrap()["refused"].is_string());
    clients.assert_whole();
    door.process("i2kit-guardian");
}

#[test]
fn a_session_of_datagrams_goes_on_after_a_kill() {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = echo.recv_from(&mut buffer) {
            // The source tells whether the session is still the same.
            let answer = [&buffer[..length], client.to_string().as_bytes()].concat();
            let _ = echo.send_to(&answer, client);
        }
    });
    let door = Door::start();
    door.carry(&[address]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(door.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let ask = || {
        client.send(b"who am I: ").unwrap();
        let mut buffer = [0; 2048];
        let length = client.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let first = ask();
    for _ in 0..3 {
        let pid = door.process("i2kit-door");
        Door::signal(pid, "-KILL");
        assert_eq!(ask(), first, "the same session");
        eventually("successor", || (door.process("i2kit-door") != pid).then_some(()));
    }
}

#[test]
fn traffic_goes_on_while_nobody_decides() {
    // The local cloud's process is not there at all: it only ever talked over the control socket.
    let door = Door::start();
    door.carry(&[server()]);
    let clients = Clients::start(door.address());
    let until = Instant::now() + Duration::from_secs(u64::from(times(2, 30)));
    while Instant::now() < until {
        let before = clients.answers();
        eventually("further answers", || (clients.answers() > before).then_some(()));
    }
    clients.assert_whole();
}

#[test]
fn a_second_start_leaves_the_first_as_it_is() {
    let door = Door::start();
    let before = door.processes();
    door.run();
    assert_eq!(door.processes(), before);
}

/// How it is told to end, and what does that.
type End = (&'static str, fn(&Door));

#[test]
fn nothing_is_left_when_it_is_told_to_end() {
    let ends: [End; 4] = [
        ("by request", |door| assert_eq!(door.ask(&json!("stop")).unwrap(), json!("done"))),
        ("by a signal to the one", |door| Door::signal(door.process("i2kit-door"), "-TERM")),
        ("by a signal to the other", |door| Door::signal(door.process("i2kit-guardian"), "-TERM")),
        ("with its folder", |door| fs::remove_dir_all(door.state()).unwrap()),
    ];
    for (how, end) in ends {
        let door = Door::start();
        door.carry(&[server()]);
        assert_eq!(door.processes().len(), 2, "{how}");
        end(&door);
        door.assert_ended();
    }
}

/// A server that sends without end.
fn streaming() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || while stream.write_all(&[0; 1 << 14]).is_ok() {});
        }
    });
    address
}

fn upgrade(program: &std::path::Path) -> Value {
    json!({ "upgrade": { "program": program, "layout": LAYOUT } })
}

#[test]
fn a_client_that_goes_ends_no_process_after_a_failed_upgrade() {
    let door = Door::start();
    door.carry(&[streaming()]);
    assert_eq!(door.ask(&upgrade("/nonexistent".as_ref())).unwrap(), json!("done"));
    eventually("end of the attempt", || door.log().contains("does not take over").then_some(()));
    let killed = door.process("i2kit-door");
    Door::signal(killed, "-KILL");
    let successor = eventually("successor", || Some(door.process("i2kit-door")).filter(|pid| *pid != killed));
    for _ in 0..20 {
        let mut client = TcpStream::connect(door.address()).unwrap();
        client.read_exact(&mut [0; 1 << 14]).unwrap();
    }
    door.ask(&json!("report")).unwrap();
    assert_eq!(door.process("i2kit-door"), successor, "{}", door.log());
    // The guardian still ends all when it is told to.
    Door::signal(door.process("i2kit-guardian"), "-TERM");
    door.assert_ended();
}

#[test]
fn a_program_that_hangs_is_ended_and_the_older_one_goes_on() {
    let door = Door::start();
    door.carry(&[server()]);
    let program = door.state().join("hangs");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let clients = Clients::start(door.address());
    let (carries, guards) = (door.process("i2kit-door"), door.process("i2kit-guardian"));
    assert_eq!(door.ask(&upgrade(&program)).unwrap(), json!("done"));
    eventually("another guardian", || (door.process("i2kit-guardian") != guards).then_some(()));
    let before = clients.answers();
    eventually("answers", || (clients.answers() > before + 50).then_some(()));
    assert_eq!(door.process("i2kit-door"), carries);
    clients.assert_whole();
}

#[test]
fn a_folder_that_is_made_again_belongs_to_another_front_door() {
    let door = Door::start();
    fs::remove_dir_all(door.state()).unwrap();
    fs::create_dir(door.state()).unwrap();
    door.run();
    eventually("the other one alone", || (door.processes().len() == 2).then_some(()));
    door.ask(&json!("report")).unwrap();
}

#[test]
fn a_folder_that_cannot_be_looked_at_ends_no_traffic() {
    let door = Door::start();
    door.carry(&[server()]);
    let before = door.processes();
    let (state, elsewhere) = (door.state(), door.state().with_extension("elsewhere"));
    fs::rename(&state, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&state, &state).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    let after = door.processes();
    fs::remove_file(&state).unwrap();
    fs::rename(&elsewhere, &state).unwrap();
    assert_eq!(after, before);
}
