//! The local cloud with one instance and with two hundred: how long a deployment takes, and what the processes of i2kit take
//! at rest; then what clients lose while each of its processes is killed. Instances are stand-ins, since two hundred machines
//! end the memory of most hosts: this executable is qemu, too.
//! `scripts/bench` runs it. Needs a host that gives environments networks of their own.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a stand-in of a guest has a clock")]

#[path = "../tests/support/processes.rs"]
mod folder_processes;
mod kills;
mod standin;
#[expect(dead_code, reason = "other measurements print times, and medians")]
mod table;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use table::{Row, report};

/// Instances of the large deployment.
const INSTANCES: u32 = 200;

/// How long nothing is measured after a deployment, and then how long the processes are.
const SETTLING: Duration = Duration::from_secs(15);
const REST: Duration = Duration::from_mins(1);

/// How long a call of the program, and the end of all processes, may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// What the processes of i2kit may take at rest: percent of a processor, and MB.
const CPU_GOAL: f64 = 1.0;
const MEMORY_GOAL: f64 = 64.0;

/// A process of the local cloud, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    LocalCloud,
    Holder,
    FrontDoor,
    FrontDoorInside,
    Guardian,
    StandIn,
    Other,
}

impl Role {
    fn of(name: &str, arguments: &[u8]) -> Self {
        let has = |word: &str| arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes());
        match name {
            "i2kit-door" => Self::FrontDoor,
            "i2kit-door-net" => Self::FrontDoorInside,
            "i2kit-guardian" => Self::Guardian,
            _ if has("-netdev") => Self::StandIn,
            _ if has("local-cloud") => Self::LocalCloud,
            _ if has("local-network") => Self::Holder,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::LocalCloud => "the local cloud",
            Self::Holder => "the holder of the network",
            Self::FrontDoor => "the front door",
            Self::FrontDoorInside => "the front door in the network",
            Self::Guardian => "the guardian",
            Self::StandIn => "stand-ins",
            Self::Other => "others",
        }
    }
}

/// What processes took.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    /// Processor seconds; percent of a processor at rest.
    cpu: f64,
    /// MB, of memory that processes share the share of each.
    memory: f64,
    /// MB, with all of what is shared.
    resident: f64,
}

/// What came of a deployment.
struct Figures {
    /// Seconds.
    deploy: f64,
    /// Processor seconds of the processes of i2kit meanwhile, the command's among them.
    deploy_cpu: f64,
    rest: BTreeMap<Role, Used>,
}

impl Figures {
    /// What the processes of i2kit took at rest.
    fn sum(&self, of: impl Fn(&Used) -> f64) -> f64 {
        self.rest.iter().filter(|(role, _)| **role != Role::StandIn).map(|(_, used)| of(used)).sum()
    }
}

/// Folders, the registry, and a PATH on which this executable is qemu.
struct World {
    home: PathBuf,
    path: OsString,
    registry: Child,
}

fn main() {
    if standin::is_called() {
        return standin::run();
    }
    let world = World::new();
    world.write(1);
    world.call(&["build", "web.yaml"]);
    let (one, many) = (world.measure(1), world.measure(INSTANCES));
    print_processes(&one, &many);
    let row = |what, value, unit, goal| Row { what, value, unit, by_hand: None, goal, is_rate: false };
    let rows = [
        row("1 instance: deploy", one.deploy, "s", None),
        row("1 instance: deploy, processor", one.deploy_cpu, "s", None),
        row("1 instance at rest: processor", one.sum(|used| used.cpu), "%", Some(CPU_GOAL)),
        row("1 instance at rest: memory", one.sum(|used| used.memory), "MB", Some(MEMORY_GOAL)),
        row("200 instances: deploy", many.deploy, "s", None),
        row("200 instances: deploy, processor", many.deploy_cpu, "s", None),
        row("200 instances at rest: processor", many.sum(|used| used.cpu), "%", Some(CPU_GOAL)),
        row("200 instances at rest: memory", many.sum(|used| used.memory), "MB", Some(MEMORY_GOAL)),
    ];
    report(&rows, "bench-instances.json");
    kills::run(&world);
}

/// What each process took at rest, with one instance and with many.
fn print_processes(one: &Figures, many: &Figures) {
    println!("at rest, 1 and {INSTANCES} instances: % of a processor; MB, shared ones divided; MB resident");
    for (role, used) in &many.rest {
        let alone = one.rest.get(role).copied().unwrap_or_default();
        println!(
            "{:<30}{:>8.2}{:>8.2}{:>10.1}{:>8.1}{:>10.1}{:>8.1}",
            role.name(),
            alone.cpu,
            used.cpu,
            alone.memory,
            used.memory,
            alone.resident,
            used.resident
        );
    }
    println!();
}

impl World {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let home = root.join("target/bench-instances");
        // What a run that was killed left.
        kill_all(&home);
        let _ = fs::remove_dir_all(&home);
        let programs = home.join("bin");
        fs::create_dir_all(&programs).unwrap();
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), programs.join(standin::program()))
            .unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let registry = Command::new(root.join("scripts/registry")).arg(&home).spawn().unwrap();
        let world = Self { home, path, registry };
        let environment = world.home.join("environment.yml");
        let text = eventually("registry", || fs::read_to_string(&environment).ok());
        // Addresses follow from names, and others may have an environment of the same name.
        let name = format!("name: bench-{}", std::process::id());
        fs::write(&environment, text.replace("name: local", &name)).unwrap();
        world
    }

    /// Writes the manifest of a Deployment with so many replicas, and of its Service.
    fn write(&self, replicas: u32) {
        let (container, port) = (standin::CONTAINER, standin::PORT);
        let text = format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: {container}
          image: nginx:1.27
          ports: [{{name: http, containerPort: {port}}}]
          resources: {{requests: {{cpu: 100m, memory: 64Mi}}, limits: {{memory: 128Mi}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports: [{{port: {port}, targetPort: http}}]
"
        );
        fs::write(self.home.join("web.yaml"), text).unwrap();
    }

    /// Deploys, lets the processes rest, and destroys everything again.
    fn measure(&self, replicas: u32) -> Figures {
        self.write(replicas);
        let (before, started) = (cpu_of_commands(), Instant::now());
        self.call(&["deploy", "web.yaml"]);
        let deploy = started.elapsed().as_secs_f64();
        let ours = processes(&self.home).into_iter().filter(|(_, role)| *role != Role::StandIn);
        let deploy_cpu = cpu_of_commands() - before + ours.map(|(pid, _)| cpu(pid)).sum::<f64>();
        self.assert_serves();
        std::thread::sleep(SETTLING);
        let found = processes(&self.home);
        let count = found.iter().filter(|(_, role)| *role == Role::StandIn).count();
        assert_eq!(count, usize::try_from(replicas).unwrap(), "stand-ins");
        let before: Vec<f64> = found.iter().map(|(pid, _)| cpu(*pid)).collect();
        let started = Instant::now();
        std::thread::sleep(REST);
        let percent = 100.0 / started.elapsed().as_secs_f64();
        let after: Vec<f64> = found.iter().map(|(pid, _)| cpu(*pid)).collect();
        assert_eq!(processes(&self.home), found, "nothing is started or ended at rest");
        let mut rest = BTreeMap::<Role, Used>::new();
        for (number, (pid, role)) in found.into_iter().enumerate() {
            let used = rest.entry(role).or_default();
            used.cpu += (after[number] - before[number]) * percent;
            used.memory += memory(pid, "Pss:");
            used.resident += memory(pid, "Rss:");
        }
        self.call(&["destroy", "--all"]);
        self.assert_nothing_left();
        Figures { deploy, deploy_cpu, rest }
    }

    /// The program in this world.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_i2kit"));
        command.args(arguments).current_dir(&self.home).env("PATH", &self.path).env("HOME", &self.home);
        for (variable, folder) in [
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CONFIG_HOME", "config"),
        ] {
            command.env(variable, self.home.join(folder));
        }
        command
    }

    /// Runs the program to its end, and returns what it printed.
    fn call(&self, arguments: &[&str]) -> String {
        let path = self.home.join("output");
        let output = File::create(&path).unwrap();
        let errors = output.try_clone().unwrap();
        let mut child =
            self.command(arguments).stdout(output).stderr(errors).stdin(Stdio::null()).spawn().unwrap();
        let given_up = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > given_up {
                let _ = child.kill().and_then(|()| child.wait());
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let text = fs::read_to_string(&path).unwrap();
        assert!(status.is_some_and(|status| status.success()), "i2kit {arguments:?}: {status:?}\n{text}");
        text
    }

    /// Where the Service is.
    fn address(&self) -> String {
        let status: Value = serde_json::from_str(&self.call(&["status", "-o", "json"])).unwrap();
        let balancer = &status["balancers"][0];
        format!("{}:{}", balancer["host"].as_str().unwrap(), balancer["bound"][0])
    }

    /// Fails unless the Service answers.
    fn assert_serves(&self) {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 OK"), "{answer}");
    }

    /// Fails unless everything is gone: processes, and files of the local cloud.
    fn assert_nothing_left(&self) {
        eventually("end of all processes", || processes(&self.home).is_empty().then_some(()));
        let state = self.home.join("state/i2kit/local");
        let left: Vec<_> =
            fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "destroy left {left:?}");
    }
}

impl Drop for World {
    /// Ends what is left after a failure, and the registry.
    fn drop(&mut self) {
        kill_all(&self.home);
        let _ = self.registry.kill().and_then(|()| self.registry.wait());
    }
}

/// The processes of the world in `home`, by what they do.
fn processes(home: &Path) -> Vec<(u32, Role)> {
    let role = |(pid, arguments): (u32, Vec<u8>)| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, Role::of(name.trim(), &arguments))
    };
    folder_processes::of(&home.join("state")).into_iter().map(role).collect()
}

/// Ends all processes of the world in `home`.
fn kill_all(home: &Path) {
    folder_processes::end(&home.join("state"), Duration::from_secs(30));
}

/// What `look` finds, within the patience of a call.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let given_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < given_up, "no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Processor seconds that a process has used.
fn cpu(pid: u32) -> f64 {
    ticks(&pid.to_string(), [11, 12])
}

/// Processor seconds of the commands that this process has waited for.
fn cpu_of_commands() -> f64 {
    ticks("self", [13, 14])
}

/// The sum of two fields of `/proc/PID/stat` behind the program's name, in seconds.
fn ticks(process: &str, fields: [usize; 2]) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let words: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // USER_HZ is 100 on every machine of Linux.
    fields.iter().map(|field| words[*field].parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// A line of `/proc/PID/smaps_rollup`, in MB.
fn memory(pid: u32, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
}
