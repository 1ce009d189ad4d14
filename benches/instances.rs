//! The local cloud with one instance and with two hundred: how long a deployment takes, and what the processes of i2kit take
//! at rest; then what clients lose while each of its processes is killed. Instances are stand-ins, since two hundred machines
//! end the memory of most hosts: this executable is qemu, too.
//! `scripts/bench` runs it. Needs a host that gives environments networks of their own.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a stand-in of a guest has a clock")]

mod home;
mod kills;
mod standin;
#[expect(dead_code, reason = "other measurements print times, and medians")]
mod table;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use table::{Row, report};
use world::{World, eventually, page};

/// Instances of the large deployment.
const INSTANCES: u32 = 200;

/// How long nothing is measured after a deployment, and then how long the processes are.
const SETTLING: Duration = Duration::from_secs(15);
const REST: Duration = Duration::from_mins(1);

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

/// The registry of test images, which ends with this program.
struct Registry(Child);

fn main() {
    if standin::is_called() {
        return standin::run();
    }
    let world = World::new("bench-instances");
    let _registry = Registry::start(&world);
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

impl Registry {
    /// Starts it; the environment of the world has its images.
    fn start(world: &World) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/registry");
        let registry = Self(Command::new(script).arg(&world.home).spawn().unwrap());
        let environment = world.home.join("environment.yml");
        let text = eventually("registry", || fs::read_to_string(&environment).ok());
        // Addresses follow from names, and others may have an environment of the same name.
        let name = format!("name: bench-{}", std::process::id());
        fs::write(&environment, text.replace("name: local", &name)).unwrap();
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl World {
    /// Writes the manifest of a Deployment with so many replicas, and of its Service.
    fn write(&self, replicas: u32) {
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
        - name: web
          image: nginx:1.27
          ports: [{{name: http, containerPort: 80}}]
          resources: {{requests: {{cpu: 100m, memory: 64Mi}}, limits: {{memory: 128Mi}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http}}]
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
        let ours = processes(self).into_iter().filter(|(_, role)| *role != Role::StandIn);
        let deploy_cpu = cpu_of_commands() - before + ours.map(|(pid, _)| cpu(pid)).sum::<f64>();
        self.assert_serves();
        std::thread::sleep(SETTLING);
        let found = processes(self);
        let count = found.iter().filter(|(_, role)| *role == Role::StandIn).count();
        assert_eq!(count, usize::try_from(replicas).unwrap(), "stand-ins");
        let before: Vec<f64> = found.iter().map(|(pid, _)| cpu(*pid)).collect();
        let started = Instant::now();
        std::thread::sleep(REST);
        let percent = 100.0 / started.elapsed().as_secs_f64();
        let after: Vec<f64> = found.iter().map(|(pid, _)| cpu(*pid)).collect();
        assert_eq!(processes(self), found, "nothing is started or ended at rest");
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

    /// Where the Service is, once its port is told: with stand-ins all is healthy before the front door's next report.
    fn address(&self) -> String {
        eventually("the port of the Service", || {
            let status: Value = serde_json::from_str(&self.call(&["status", "-o", "json"])).unwrap();
            let balancer = &status["balancers"][0];
            let port = balancer["bound"][0].as_u64()?;
            Some(format!("{}:{port}", balancer["host"].as_str().unwrap()))
        })
    }

    /// Fails unless the Service answers.
    fn assert_serves(&self) {
        let answer = page(&self.address()).unwrap();
        assert!(answer.contains(" 200 OK"), "{answer}");
    }
}

/// The processes of the world, by what they do.
fn processes(world: &World) -> Vec<(u32, Role)> {
    let role = |(pid, arguments): (u32, Vec<u8>)| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, Role::of(name.trim(), &arguments))
    };
    world.processes().into_iter().map(role).collect()
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
