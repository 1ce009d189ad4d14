//! Whole applications on the local cloud: each set of manifests below `I2KIT_CORPUS` is deployed, looked at, and destroyed
//! again. Instances are stand-ins, as in `instances.rs`, and under each name of an image lies the same small one: it is shown that
//! i2kit reads, plans, builds and rolls out all of a set, and that its Services lead to the right groups, not that its
//! programs run.
//! `scripts/corpus deploy` runs it. Needs a host that gives environments networks of their own.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a stand-in of a guest has a clock")]

#[expect(dead_code, reason = "tests let a registry do what it does on bad days")]
#[path = "../tests/support/fake_registry.rs"]
mod fake_registry;
#[path = "../tests/corpus/folders.rs"]
mod folders;
mod home;
#[expect(dead_code, reason = "tests make other images, too")]
#[path = "../tests/support/image.rs"]
mod image;
mod standin;
mod world;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use i2kit::cloud::kinds;
use i2kit::manifest::api::Protocol;
use i2kit::manifest::{Options, Reading, Severity, SourceFile, read};
use i2kit::oci::Reference;
use i2kit::plan::fleet::{Fleet, InstanceGroup, LoadBalancer};
use i2kit_spec::Architecture;
use serde_json::json;

use fake_registry::FakeRegistry;
use folders::Folders;
use image::{TestImage, TestLayer};
use world::{PATIENCE, World, page};

/// Manifests that are deployed together.
struct Set {
    /// Relative to the corpus.
    name: String,
    files: Vec<SourceFile>,
    reading: Reading,
}

/// What became of a set.
enum Outcome {
    /// Everything was as it should be, and went again.
    Deployed {
        instances: usize,
        services: usize,
        /// Until `deploy` had come to its end.
        seconds: f64,
    },
    /// `check` refuses it, with these codes.
    Refused(BTreeSet<&'static str>),
    /// What failed was printed.
    Failed,
}

fn main() {
    if standin::is_called() {
        return standin::run();
    }
    let Some(root) = std::env::var_os("I2KIT_CORPUS") else {
        println!("skipped: I2KIT_CORPUS names no folder");
        return;
    };
    let folders = Folders::new(Path::new(&root));
    let sets: Vec<Set> = folders.sets.into_iter().map(|(name, paths)| Set::read(name, &paths)).collect();
    let world = World::new("bench-corpus");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = runtime.block_on(FakeRegistry::start());
    publish(&world, &registry, &sets);
    let widest = sets.iter().map(|set| set.name.chars().count()).max().unwrap_or_default();
    let (mut deployed, mut refused, mut failures) = (0, 0, Vec::new());
    for (number, set) in sets.iter().enumerate() {
        let name = &set.name;
        match set.run(&world, &format!("set-{number}")) {
            Outcome::Deployed { instances, services, seconds } => {
                deployed += 1;
                println!(
                    "deployed  {name:<widest$} {instances:>3} instances {services:>3} Services {seconds:>6.1} s"
                );
            }
            Outcome::Refused(codes) => {
                refused += 1;
                println!("refused   {name:<widest$} {}", codes.into_iter().collect::<Vec<_>>().join(", "));
            }
            Outcome::Failed => failures.push(name.as_str()),
        }
    }
    println!("\n{} sets: {deployed} deployed, {refused} refused, {} failed", sets.len(), failures.len());
    assert!(failures.is_empty(), "not deployed: {}", failures.join(", "));
    assert!(deployed > 0, "nothing was deployed");
}

/// Puts one image under every name of the sets, and writes the environment in which it stands for all registries.
fn publish(world: &World, registry: &FakeRegistry, sets: &[Set]) {
    // A user that is not root is one that every security context accepts.
    let config = json!({ "Entrypoint": ["/app"], "User": "1000" });
    let layers = vec![TestLayer::new("app", 1000, true)];
    let image = TestImage::with_config(Architecture::COMPILED.name(), layers, &config);
    for blob in image.blobs() {
        registry.blob(blob);
    }
    let mut hosts = BTreeSet::from(["docker.io"]);
    for name in sets.iter().flat_map(Set::images) {
        let tag = name.tag_or_default().unwrap_or("latest");
        registry.tag(&format!("{}:{tag}", name.repository), image.digest());
        hosts.insert(&name.registry);
    }
    // Addresses follow from names, and others may have an environment of the same name.
    let mut text = format!("name: corpus-{}\nregistries:\n", std::process::id());
    let mirror = registry.host();
    for host in hosts {
        let _ = writeln!(text, "  \"{host}\": {{mirrors: [\"{mirror}\"], plainHttp: true}}");
    }
    fs::write(world.home.join("environment.yml"), text).unwrap();
}

impl Set {
    /// Reads the files as `deploy` does.
    fn read(name: String, paths: &[PathBuf]) -> Self {
        let file = |path: &PathBuf| SourceFile {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            bytes: fs::read(path).unwrap(),
        };
        let files: Vec<SourceFile> = paths.iter().map(file).collect();
        let clouds = kinds::clouds(kinds::supports()[0]);
        let reading = read(&files, &Options { clouds, ..Options::default() });
        Self { name, files, reading }
    }

    /// The images of its pods.
    fn images(&self) -> impl Iterator<Item = &Reference> {
        let pods = self.reading.set.pods().map(|(_, template)| &template.spec);
        let containers = pods.flat_map(|pod| pod.init_containers.iter().chain(&pod.containers));
        containers.map(|container| &container.image)
    }

    /// Writes the manifests to a folder, with images by their tags alone: no other image has the digest that is named.
    fn write(&self, folder: &Path) {
        fs::create_dir(folder).unwrap();
        for file in &self.files {
            let mut text = String::from_utf8_lossy(&file.bytes).into_owned();
            for digest in self.images().filter_map(|image| image.digest) {
                text = text.replace(&format!("@{digest}"), "");
            }
            fs::write(folder.join(&file.name), text).unwrap();
        }
    }

    /// Deploys the set from a `folder` of the world, looks at what came of it, and destroys it.
    fn run(&self, world: &World, folder: &str) -> Outcome {
        let errors = self.reading.diagnostics.iter().filter(|found| found.severity == Severity::Error);
        let codes: BTreeSet<&str> = errors.map(|found| found.code.name()).collect();
        if !codes.is_empty() {
            return Outcome::Refused(codes);
        }
        self.write(&world.home.join(folder));
        let started = Instant::now();
        let deployed = world.attempt(&["deploy", folder]);
        let seconds = started.elapsed().as_secs_f64();
        let seen = deployed.and_then(|_| settled(world));
        // At once: what follows may fail, too, and would hide it.
        if let Err(why) = &seen {
            println!("failed    {}: {why}", self.name);
        }
        world.call(&["destroy", "--all", "--volumes"]);
        world.assert_nothing_left();
        match seen {
            Err(_) => Outcome::Failed,
            Ok(fleet) => Outcome::Deployed {
                instances: fleet.groups.iter().map(|group| group.instances.len()).sum(),
                services: fleet.balancers.len(),
                seconds,
            },
        }
    }
}

/// The fleet once it is as it should be, or what is not. A schedule may come meanwhile, and a scaler may act.
fn settled(world: &World) -> Result<Fleet, String> {
    let given_up = Instant::now() + PATIENCE;
    loop {
        let status = world.attempt(&["status", "--output", "json"])?;
        let fleet: Fleet = serde_json::from_str(&status).map_err(|error| error.to_string())?;
        // Policies may be about this host, too.
        let is_open = fleet.groups.iter().all(|group| group.settings.policy.is_none());
        let services = fleet.balancers.iter().filter_map(|balancer| service_fault(balancer, is_open));
        let faults: Vec<String> = fleet.groups.iter().filter_map(group_fault).chain(services).collect();
        if faults.is_empty() {
            return Ok(fleet);
        }
        if Instant::now() > given_up {
            return Err(faults.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What is wrong with a group.
fn group_fault(group: &InstanceGroup) -> Option<String> {
    let revision = group.revisions.last().map(|revision| revision.number);
    let is_settled = revision.is_some_and(|number| group.is_settled_at(number));
    (!is_settled).then(|| format!("group {}: {}", group.name, group.complaints()))
}

/// What is wrong with a Service or an Ingress: a port that is not bound, a machine that is not healthy, or, where this host
/// `is_open` to the machines, a port of TCP that no machine answers at. Names without a balancer have nothing of this.
fn service_fault(balancer: &LoadBalancer, is_open: bool) -> Option<String> {
    let spec = &balancer.spec;
    if spec.headless.is_some() || spec.external_name.is_some() {
        return None;
    }
    let name = &spec.name;
    if balancer.bound.is_empty() || balancer.bound.contains(&None) {
        return Some(format!("{name}: of its ports these are bound: {:?}", balancer.bound));
    }
    if balancer.healthy() < balancer.targets.len() {
        return Some(format!("{name}: {} of {} healthy", balancer.healthy(), balancer.targets.len()));
    }
    let is_asked = is_open && spec.source_ranges.is_empty() && !balancer.targets.is_empty();
    let ports = spec.listeners.iter().zip(balancer.bound.iter().flatten()).filter(|_| is_asked);
    let plain = ports.filter(|(port, _)| port.protocol == Protocol::Tcp && port.tls.is_none());
    plain.map(|(_, bound)| format!("{}:{bound}", balancer.host)).find_map(|address| match page(&address) {
        Ok(answer) if answer.contains(" 200 OK") => None,
        other => Some(format!("{name}: {address} answers {other:?}")),
    })
}
