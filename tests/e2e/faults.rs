//! The table of faults: each process of the local cloud is killed, twice, and the host is started again, while a client
//! of a Service, one of an Ingress and one inside a machine ask; what they lost is counted, and printed as figures. Each
//! client makes a connection a question, one after the other: as many as emulated machines answer. Hundreds a second are for
//! `door` and `proxy`, the tests of the processes that carry, whose servers are threads.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use i2kit::plan::fleet::Health;

use crate::support::{Ending, World, eventually, kill, machines, soaks, wait_for_page};

/// Two machines that serve a page, one of them with a client of their Service, and a StatefulSet's machine with a disk.
const MANIFEST: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: busybox:1.35
          command: [sh, -c, "mkdir /w && echo the page >/w/index.html && exec httpd -f -p 80 -h /w"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: disk}
spec: {clusterIP: None, selector: {app: disk}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: disk}
spec:
  serviceName: disk
  selector: {matchLabels: {app: disk}}
  template:
    metadata: {labels: {app: disk}}
    spec:
      containers:
        - name: client
          image: busybox:1.35
          command:
            - sh
            - -c
            - |
              echo boot >>/data/boots && sync
              while :; do
                answer=$(timeout 30 wget -qO- http://web/ 2>/dev/null)
                [ "$answer" = "the page" ] && echo ok || echo lost
                sleep 0.3
              done
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
"#;

/// How long an answer may take; a later one is lost.
const ANSWER: Duration = Duration::from_secs(30);

/// Answers and losses of one client.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    fn read(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Asks at an address, each time over a connection of its own, until `stop`.
    fn ask(&self, address: &str, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let whole = page(address).is_ok_and(|answer| answer.ends_with("the page\n"));
            let counter = if whole { &self.answered } else { &self.lost };
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn page(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What is killed: how its processes are found, and whether requests that were under way in it may be lost.
struct Fault {
    name: &'static str,
    /// A part of the command line, and the name of the process where several have that.
    line: &'static str,
    process: &'static str,
    may_lose: Losses,
}

/// Which requests a fault may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Losses {
    None,
    /// Those to an Ingress that were under way: one of the test's client, at each kill.
    IngressUnderWay,
    /// Those that the killed machine was answering: one of each client, at each kill.
    UnderWay,
}

const FAULTS: [Fault; 8] = [
    Fault { name: "local cloud", line: "local-cloud", process: "", may_lose: Losses::None },
    Fault { name: "front door, carrier", line: "local-door", process: "i2kit-door", may_lose: Losses::None },
    Fault {
        name: "front door in the network",
        line: "local-door",
        process: "i2kit-door-net",
        may_lose: Losses::None,
    },
    Fault {
        name: "front door, guardian",
        line: "local-door",
        process: "i2kit-guardian",
        may_lose: Losses::None,
    },
    Fault { name: "HTTP proxy, guardian", line: "local-proxy guard", process: "", may_lose: Losses::None },
    Fault {
        name: "HTTP proxy, carrier",
        line: "local-proxy carry",
        process: "",
        may_lose: Losses::IngressUnderWay,
    },
    Fault { name: "holder of the network", line: "local-network", process: "", may_lose: Losses::None },
    Fault { name: "machine", line: "qemu-system", process: "", may_lose: Losses::UnderWay },
];

/// The process of the world that a fault ends.
fn process(world: &World, fault: &Fault) -> Option<u32> {
    if fault.line == "qemu-system" {
        return world.group("web").members().find(|member| member.health == Health::Healthy)?.pid;
    }
    let found = world.processes().into_iter().find(|(pid, arguments)| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        arguments.contains(fault.line) && (fault.process.is_empty() || name.trim_end() == fault.process)
    });
    found.map(|(pid, _)| pid)
}

/// The addresses of the Service's balancer and of the Ingress' one.
fn addresses(world: &World) -> [String; 2] {
    ["web", "ingress/web"].map(|name| world.address(name))
}

fn healthy(world: &World) -> bool {
    world.group("web").healthy() == 2 && world.group("disk").healthy() == 1
}

/// What the clients have seen since they began: of the Service, of the Ingress, inside.
#[derive(Debug, Clone, Copy)]
struct Seen {
    answered: [u64; 3],
    lost: [u64; 3],
}

impl Seen {
    /// Now. The command starts the local cloud where it is not there.
    fn now(world: &World, clients: &[Counts; 2]) -> Self {
        let lines = world.i2kit(&["logs", "disk-0"]).run().stdout;
        let count = |end: &str| {
            let found = lines.lines().filter(|line| line.ends_with(end)).count();
            u64::try_from(found).unwrap()
        };
        let [service, ingress] = [clients[0].read(), clients[1].read()];
        Self { answered: [service.0, ingress.0, count("ok")], lost: [service.1, ingress.1, count("lost")] }
    }

    fn since(self, before: Self) -> Self {
        let less = |now: [u64; 3], then: [u64; 3]| std::array::from_fn(|at| now[at] - then[at]);
        Self { answered: less(self.answered, before.answered), lost: less(self.lost, before.lost) }
    }
}

/// Kills what a fault names, waits until another one does its work and everything is healthy and each client has been
/// answered since, and returns what they have seen.
fn strike(world: &World, fault: &Fault, clients: &[Counts; 2]) -> Seen {
    let pid = eventually(fault.name, || process(world, fault));
    kill(pid);
    // For a while no command starts what was killed.
    let served = || clients.each_ref().map(|counts| counts.read().0);
    let before = served();
    eventually("answers to clients of the host", || {
        served().iter().zip(before).all(|(now, before)| *now > before + 20).then_some(())
    });
    world.i2kit(&["status"]).run();
    eventually("successor", || process(world, fault).filter(|found| *found != pid));
    eventually("health after a kill", || healthy(world).then_some(()));
    let before = Seen::now(world, clients);
    eventually("answers after a kill", || {
        let now = Seen::now(world, clients);
        now.since(before).answered.iter().all(|count| *count > 3).then_some(now)
    })
}

#[expect(clippy::print_stderr, reason = "scripts/bench prints these figures")]
fn shown(figure: &str) {
    eprintln!("figure: {figure}");
}

fn figure(what: &str, kills: u64, answered: [u64; 3], lost: [u64; 3]) {
    shown(&format!(
        "{what} killed {kills} times: of {} requests at a Service {} lost, of {} at an Ingress {}, of {} between \
         machines {}",
        answered[0] + lost[0],
        lost[0],
        answered[1] + lost[1],
        lost[1],
        answered[2] + lost[2],
        lost[2],
    ));
}

#[test]
fn each_process_is_killed_twice_and_the_host_is_restarted() {
    if !machines() {
        return;
    }
    let world = World::new().file("web.yaml", MANIFEST);
    world.i2kit(&["deploy", "web.yaml"]).run();
    let [service, ingress] = addresses(&world);
    for address in [&service, &ingress] {
        wait_for_page(address, "the page");
    }
    let kills: u64 = if soaks() { 20 } else { 2 };
    let (stop, clients) = (AtomicBool::new(false), [Counts::default(), Counts::default()]);
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        for (counts, address) in clients.iter().zip([&service, &ingress]) {
            scope.spawn(|| counts.ask(address, &stop));
        }
        let _stopping = Ending(&stop);
        // The client inside began before its Service was there.
        let mut before = eventually("answers to all clients", || {
            Some(Seen::now(&world, &clients)).filter(|seen| seen.answered.iter().all(|count| *count > 3))
        });
        for fault in &FAULTS {
            let after = (0..kills).map(|_| strike(&world, fault, &clients)).last().unwrap();
            let Seen { answered, lost } = after.since(before);
            before = after;
            figure(fault.name, kills, answered, lost);
            let bound = match fault.may_lose {
                Losses::None => [0; 3],
                Losses::IngressUnderWay => [0, kills, 0],
                Losses::UnderWay => [kills; 3],
            };
            if lost.iter().zip(bound).any(|(lost, bound)| *lost > bound) {
                wrong.push(format!("{}: lost {lost:?}, at most {bound:?}", fault.name));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    the_host_is_restarted(&world);
    world.i2kit(&["destroy", "--all", "--volumes"]).run();
    world.assert_nothing_left();
}

/// All processes end at once, as when the power fails, and the next command finds another boot of the host: groups come
/// up again at their addresses, and disks have what was on them.
fn the_host_is_restarted(world: &World) {
    let before = addresses(world);
    for signal in ["-STOP", "-KILL"] {
        for (pid, _) in world.processes() {
            let _ = Command::new("kill").args([signal, &pid.to_string()]).status();
        }
    }
    eventually("end of all processes", || world.processes().is_empty().then_some(()));
    world.write("boot_id", "11111111-2222-4333-8444-555555555555\n");
    let status = world.command(&["status"]);
    let script = "mount --bind boot_id /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let mut restarted = Command::new("unshare");
    restarted.args(["--mount", "sh", "-c", script, "sh"]).arg(status.get_program()).args(status.get_args());
    restarted.env_clear().current_dir(world.path());
    restarted.envs(status.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let started = Instant::now();
    assert!(restarted.output().unwrap().status.success());
    eventually("health after a restart of the host", || healthy(world).then_some(()));
    assert_eq!(addresses(world), before);
    for address in &before {
        wait_for_page(address, "the page");
    }
    let took = started.elapsed().as_secs();
    let boots = world.i2kit(&["exec", "disk-0", "--", "cat", "/data/boots"]).run();
    assert_eq!(boots.stdout, "boot\nboot\n", "the disk has what was written before");
    shown(&format!(
        "host restarted once: the Service and the Ingress answer at their addresses {took} s after the first command, and \
         the disk is whole"
    ));
}
