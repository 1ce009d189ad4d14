//! The supervisor dies, stops or is replaced while the pod is at work, and nobody notices. Prints figures, which
//! `scripts/bench` shows; the processor is emulated, so that they are upper bounds.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use i2kit_spec::GUEST_INITRD;
use i2kit_spec::control::{Open, Target};
use i2kit_spec::runtime::NamespaceKind;

use crate::control::{Host, boot, numbers};
use crate::metric;
use crate::pod::Pod;
use crate::vm::{PATIENCE, Vm, bundle, soaks, wanted};

/// How often the supervisor goes: enough to show that it may, or enough to find what happens rarely.
fn times() -> u64 {
    if soaks() { 100 } else { 20 }
}

/// Once in so many times another version takes its place.
const VERSION_EVERY: u64 = 10;

/// Finds the supervisor from a container that shares the VM's process ids.
const SUPERVISOR: &str = "$(ps | grep '[s]upervisor' | while read pid rest; do echo $pid; done)";

/// The guest's program, as its initrd has it.
fn own_program() -> Vec<u8> {
    let initrd = fs::read(bundle().join(GUEST_INITRD)).unwrap();
    let mut rest = initrd.as_slice();
    loop {
        // A header of 110 characters, the name and the content, each padded to four bytes.
        let number =
            |at: usize| usize::from_str_radix(std::str::from_utf8(&rest[at..at + 8]).unwrap(), 16).unwrap();
        let (size, name_size) = (number(54), number(94));
        let name = &rest[110..110 + name_size - 1];
        let start = (110 + name_size).next_multiple_of(4);
        if name.ends_with(b"init") && size > 100_000 {
            break rest[start..start + size].to_vec();
        }
        rest = &rest[(start + size).next_multiple_of(4)..];
    }
}

/// The same with another version in it, which is as long.
fn program(version: &str) -> Vec<u8> {
    let mut bytes = own_program();
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(own.len(), version.len());
    for at in 0..bytes.len() - own.len() {
        if bytes[at..].starts_with(own) {
            bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
        }
    }
    bytes
}

/// PID 1 and the supervisor are this program: the kernel starts a shared object, in ELF's terms, at another address each time,
/// and an executable at the one that is written in it.
#[test]
fn the_guests_program_has_no_address_of_its_own() {
    if !wanted() {
        return;
    }
    let program = own_program();
    assert_eq!(program[..4], *b"\x7fELF");
    let kind = u16::from_le_bytes([program[0x10], program[0x11]]);
    assert_eq!(kind, 3, "ET_DYN");
}

fn send(host: &mut Host, program: &[u8]) -> u32 {
    host.open(Open { target: Target::Supervisor, input: true, ..Open::default() }, program)
}

/// Clients that ask again and again, and count what goes wrong.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(vm: &Vm) -> Self {
        // A container that runs is not yet a server that listens.
        let start = Instant::now();
        while !ask(vm.ports()[1], "/").is_ok_and(|text| text.contains(" 200 ")) {
            assert!(start.elapsed() < PATIENCE, "no container serves; the console:\n{}", vm.console());
            std::thread::sleep(Duration::from_millis(100));
        }
        let (stop, requests, failed) = (Arc::default(), Arc::default(), Arc::default());
        let [health, web] = vm.ports();
        let mut load = Self { stop, requests, failed, threads: vec![] };
        for (port, path, end) in [(health, "/readyz", "ok\n"), (web, "/", "from the top\n")] {
            let (stop, requests) = (Arc::clone(&load.stop), Arc::clone(&load.requests));
            let failed = Arc::clone(&load.failed);
            load.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(port, path);
                    requests.fetch_add(1, Ordering::Relaxed);
                    if !answer.as_ref().is_ok_and(|text| text.contains(" 200 ") && text.ends_with(end)) {
                        #[expect(clippy::print_stderr, reason = "what went wrong is of interest")]
                        {
                            eprintln!("{path} on {port}: {answer:?}");
                        }
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        load
    }

    /// Requests and failures.
    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        (self.requests.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A pod that serves, counts aloud, and has a container that sees the VM's processes.
fn pod(killer: &str) -> Pod {
    Pod::new()
        .service("web", "exec httpd -f -p 7 -h /www")
        .service("count", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done")
        .service("killer", killer)
        .with(|config| config.linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid))
}

fn all_lines(host: &Host) -> u64 {
    let numbers = numbers(&host.lines["count"]);
    let count = numbers.len() as u64;
    assert!(numbers.into_iter().eq(1..=count), "a line is missing or comes twice");
    count
}

#[expect(clippy::print_stderr, reason = "figures are what scripts/bench shows")]
fn figure(text: &str) {
    eprintln!("figure: {text}");
}

#[test]
fn a_supervisor_goes_again_and_again_and_nobody_notices() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut vm, mut host) = boot(&pod("echo up; exec sleep 100000"), folder.path());
    vm.ready();
    host.until("the pod", |host| host.lines.contains_key("killer") && host.lines.contains_key("count"));
    let load = Load::start(&vm);
    let mut codes = 0;
    let versions = [program("0.1.8"), program("0.1.9")];
    let times = times();
    for time in 1..=times {
        let before = host.hellos;
        let code = i32::try_from(time % 100).unwrap();
        let command = host.shell("count", &format!("echo {time}; exit {code}"));
        if time % VERSION_EVERY == 0 {
            let index = usize::from(time % (2 * VERSION_EVERY) == 0);
            let sent = send(&mut host, &versions[index]);
            assert_eq!(host.ended(sent).code, 0);
            let page = vm.get("/metrics").body;
            let version = format!("supervisor=\"{}\"", ["0.1.8", "0.1.9"][index]);
            assert!(page.contains(&version), "no {version} in {page}");
        } else {
            let kill = host.shell("killer", &format!("kill -9 {SUPERVISOR}"));
            host.ended(kill);
        }
        host.until("the next supervisor", |host| host.hellos > before);
        // Ends that were told while a supervisor died are neither lost nor false.
        assert_eq!(host.ended(command).code, code);
        assert_eq!(host.commands[&command].text(), format!("{time}\n"));
        codes += 1;
    }
    let (requests, failed) = load.end();
    let idle = (0..5).map(|_| {
        let before = host.hellos;
        let kill = host.shell("killer", &format!("sleep 1; kill -9 {SUPERVISOR}"));
        host.ended(kill);
        host.until("the next supervisor", |host| host.hellos > before);
        metric(&vm.get("/metrics").body, "i2kit_supervisor_attach_seconds") * 1e3
    });
    let mut idle: Vec<f64> = idle.collect();
    idle.sort_by(f64::total_cmp);
    let before = all_lines(&host);
    host.until("more lines", |host| host.lines["count"].len() as u64 > before + 20);
    let lines = all_lines(&host);
    let page = vm.get("/metrics").body;
    let restarts = metric(&page, "i2kit_supervisor_restarts_total");
    let slowest = metric(&page, "i2kit_supervisor_attach_seconds_max") * 1e3;
    let resident = metric(&page, "i2kit_guest_resident_bytes") / f64::from(1 << 20);
    figure(&format!(
        "supervisor gone {times} times under load, {} of them replaced by another version: {requests} requests, \
         {failed} failed; {lines} lines, {} lost; {codes} exit codes, 0 lost or false",
        times / VERSION_EVERY,
        host.dropped
    ));
    figure(&format!(
        "supervisor re-attached in {:.1} ms without load (median of 5), at most {slowest:.1} ms under load (emulated \
         processor)",
        idle[2]
    ));
    figure(&format!("PID 1 and supervisor: {resident:.2} MiB resident"));
    assert_eq!((failed, host.dropped), (0, 0));
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers")]
    let least = times as f64;
    assert!(restarts >= least, "{restarts}");
    for container in ["web", "count", "killer"] {
        let name = format!("kube_pod_container_status_restarts_total{{container=\"{container}\"}}");
        assert!(metric(&page, &name) < 1.0);
    }
}

#[test]
fn a_stopped_supervisor_blocks_no_container() {
    const LINES: u64 = 300_000;
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line = "x".repeat(99);
    let script = format!(
        "trap 'a=$(cut -d\" \" -f1 /proc/uptime); yes {line} | head -n {LINES}; \
         echo took $a $(cut -d\" \" -f1 /proc/uptime); echo done; exec sleep 77777' USR1; \
         echo up; while :; do sleep 0.05; done"
    );
    let pod = Pod::new()
        .service("loud", &script)
        .shell()
        .with(|config| config.linux.namespaces.retain(|namespace| namespace.kind == NamespaceKind::Mount));
    let (mut vm, mut host) = boot(&pod, folder.path());
    vm.ready();
    host.until("the pod", |host| host.lines.contains_key("loud"));
    // Of all processes but PID 1 it goes last for want of memory; and what is promised to all containers together bounds
    // what is promised to one.
    let files = format!("cat /proc/{SUPERVISOR}/oom_score_adj /sys/fs/cgroup/pod/memory.low");
    assert_eq!(vm.shell(&files), "-999\nmax\n");
    vm.shell(&format!("kill -STOP {SUPERVISOR}"));
    // The container comes to its end while nobody takes its lines.
    // A command whose answer is late is given again, so that the waiting is one of its own.
    vm.shell("kill -USR1 $(ps | grep '[t]rap' | while read pid rest; do echo $pid; done)");
    vm.shell("while ! ps | grep -v trap | grep -q '[s]leep 77777'; do sleep 0.2; done");
    vm.shell(&format!("kill -CONT {SUPERVISOR}"));
    host.until("the last line", |host| host.lines["loud"].last().is_some_and(|line| line == "done"));
    let lines = &host.lines["loud"];
    let received = lines.iter().filter(|found| **found == line).count() as u64;
    let took = lines.iter().find_map(|line| line.strip_prefix("took ")).unwrap();
    let times: Vec<f64> = took.split(' ').map(|time| time.parse().unwrap()).collect();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = (LINES * 100) as f64 / 1e6 / (times[1] - times[0]);
    figure(&format!(
        "a container wrote {LINES} lines at {rate:.1} MB/s with the supervisor stopped (emulated processor): {} \
         dropped and counted",
        host.dropped
    ));
    assert!(host.dropped > LINES / 2, "nobody took lines, and yet only {} were dropped", host.dropped);
    assert_eq!(received + host.dropped, LINES);
    let page = vm.get("/metrics").body;
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers")]
    let dropped = host.dropped as f64;
    let counted = metric(&page, "i2kit_container_dropped_log_lines_total{container=\"loud\"}");
    assert!((counted - dropped).abs() < 0.5, "{counted} are counted and {dropped} were dropped");
}
