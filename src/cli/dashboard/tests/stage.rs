//! A stand-in for a cloud that looks like a busy one: groups of the fake cloud whose time goes on with the wall clock, with
//! use, traffic and lines that nothing measured or printed. For tests of the dashboard, and for pictures of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt as _;
use i2kit_spec::replica::{Progress, ReplicaReport, Role};
use tokio::sync::Mutex;

use crate::cli::context::{self, Context};
use crate::cli::environment::Environment;
use crate::cloud::provider::{Check, Client, Provider};
use crate::cloud::sim::{Behaviour, Sim};
use crate::cloud::{
    Cloud, CloudError, LogLine, LogQuery, LogStream, Materials, Scope, Update, Updates, kinds, local,
};
use crate::manifest::api::{IntOrPercent, Name, Protocol, ServiceType, Strategy};
use crate::manifest::support::Support;
use crate::oci::Digest;
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::example;
use crate::plan::fleet::{
    Accelerator, BalancerSpec, BalancerTarget, Bucket, ContainerState, Disk, Fleet, Generation,
    GroupSettings, Health, Instance, InstanceUsage, LaunchSpec, Listener, LoadBalancer, ResourceUsage,
    TargetGroup, Traffic, changes,
};
use crate::plan::image::ImageId;
use crate::plan::rollout::GroupSpec;
use crate::report::Format;

/// A line that would be markup, would clear a terminal, and would turn text around.
pub(super) const HOSTILE: &str =
    "<script>document.title='owned'</script><img src=x onerror=alert(1)> \u{1b}[2J\u{202e}txt";

/// How much of a past it has, in seconds.
const PAST: u64 = 5400;

/// The stand-in.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) sim: Arc<Sim>,
    /// Seconds since the Unix epoch at which its past began.
    born: u64,
    /// The fleet of a second: time in the fake cloud passes with every look at it.
    seen: Arc<Mutex<(u64, Fleet)>>,
    /// What is counted, and what is slow.
    trouble: Arc<Trouble>,
}

/// What is counted, and what is slow, in milliseconds.
#[derive(Debug, Default)]
struct Trouble {
    looks: AtomicU64,
    /// Connections for looks, and for changes.
    connections: [AtomicU64; 2],
    connect: AtomicU64,
    act: AtomicU64,
    /// Of the next look.
    look: AtomicU64,
    /// Whether the watch has changes without end.
    is_busy: AtomicBool,
}

impl Trouble {
    async fn wait(time: &AtomicU64) {
        tokio::time::sleep(Duration::from_millis(time.load(Ordering::Relaxed))).await;
    }
}

fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

fn name(name: &str) -> Name {
    Name { namespace: "default".into(), name: name.into() }
}

pub(super) fn image(name: &str) -> ImageId {
    ImageId(Digest::of(name.as_bytes()))
}

/// A context of the stand-in.
pub(super) fn context(stage: &Stage) -> Context {
    let mut context = context::context(None, Format::Json, true).unwrap();
    context.environment =
        Environment { name: "shop".into(), provider: Arc::new(stage.clone()), ..Environment::default() };
    context.events = crate::report::Events::none();
    context.summary = None;
    context
}

impl Stage {
    /// An environment with a group in each state that the page shows.
    pub(super) async fn busy() -> Self {
        let stage = Self {
            sim: Arc::default(),
            born: now().as_secs() - PAST,
            seen: Arc::default(),
            trouble: Arc::default(),
        };
        stage.sim.world().ahead = i64::try_from(stage.born * 1000).unwrap();
        {
            let behaviours = &mut stage.sim.world().behaviours;
            behaviours.insert(image("cart 3"), Behaviour::NeverReady);
            behaviours.insert(image("search 1"), Behaviour::Restarts(400_000));
            behaviours.insert(image("front 3"), Behaviour::Ready(12_000));
        }
        for (after, group, version, replicas, cause) in [
            (0, "front", 1, 3, "i2kit deploy shop.yaml"),
            (5, "cart", 1, 2, "i2kit deploy shop.yaml"),
            (0, "orders", 1, 2, "i2kit deploy shop.yaml"),
            (5, "search", 1, 1, "i2kit deploy shop.yaml"),
            (900, "cart", 2, 2, "i2kit deploy cart.yaml: cart:2.4.0"),
            (1100, "front", 2, 3, "i2kit deploy shop.yaml: front:1.9.2"),
            (700, "cart", 3, 2, "i2kit deploy cart.yaml: cart:2.5.0"),
            (900, "orders", 2, 3, "i2kit deploy orders.yaml: orders:5.1"),
        ] {
            stage.sim.world().pass(after);
            stage.deploy(group, version, replicas, cause).await;
        }
        let passed = stage.sim.world().now / 1000;
        stage.sim.world().pass(PAST.saturating_sub(passed));
        stage
    }

    /// Each act takes that long.
    pub(super) fn slow(&self, time: Duration) {
        set(&self.trouble.act, time);
    }

    /// The next look takes that long.
    pub(super) fn hang(&self, time: Duration) {
        set(&self.trouble.look, time);
    }

    /// Connecting takes that long.
    pub(super) fn connect_slowly(&self, time: Duration) {
        set(&self.trouble.connect, time);
    }

    /// Whether the watch has a change every few milliseconds.
    pub(super) fn busy_watch(&self, is_busy: bool) {
        self.trouble.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// The looks until now, but for those of the watch.
    pub(super) fn looks(&self) -> u64 {
        self.trouble.looks.load(Ordering::Relaxed)
    }

    /// The connections until now: for looks, and for changes.
    pub(super) fn connections(&self) -> (u64, u64) {
        let [looks, changes] = &self.trouble.connections;
        (looks.load(Ordering::Relaxed), changes.load(Ordering::Relaxed))
    }

    /// A new revision of the front, which takes some time.
    pub(super) async fn update(&self) {
        self.deploy("front", 3, 3, "i2kit deploy shop.yaml: front:2.0.0").await;
    }

    async fn deploy(&self, group: &str, version: u32, replicas: u32, cause: &str) {
        let GroupSpec { name, launch, settings, .. } = spec(group, version, replicas);
        self.sim.world().environment.images.insert(launch.image);
        let revision = NewRevision { number: version, launch, cause: cause.into() };
        for act in [
            Act::PutGroup { group: name.clone(), settings },
            Act::PutRevision { group: name.clone(), revision },
            Act::StartRefresh { group: name, to: version, replicas },
        ] {
            self.apply_now(act).await;
        }
    }

    async fn apply_now(&self, act: Act) {
        let generation = self.sim.world().environment.generation();
        let act = PlannedAct { act, generation, by: "ann".into() };
        self.sim.apply(&act, &Materials::default()).await.unwrap();
    }

    /// The fleet of the fake cloud at this moment, with all that it does not measure.
    async fn fleet(&self) -> Fleet {
        let mut seen = self.seen.lock().await;
        if seen.0 != now().as_secs() {
            {
                let world = &mut self.sim.world();
                let due = now().as_secs().saturating_sub(self.born + world.now / 1000);
                // A look is a second by itself.
                world.pass(due.saturating_sub(1));
            }
            *seen = (now().as_secs(), self.sim.inspect(&Scope::Detailed).await.unwrap());
        }
        let mut fleet = seen.1.clone();
        drop(seen);
        fleet.environment = "shop".into();
        let time = now().as_secs_f64();
        for group in &mut fleet.groups {
            group.instances.iter_mut().enumerate().for_each(|(at, each)| dress(each, at, time));
            if group.name == name("orders") {
                group.instances.iter_mut().enumerate().for_each(|(at, each)| replicate(each, at, time));
            }
        }
        fleet.balancers = fleet
            .groups
            .iter()
            .enumerate()
            .map(|(at, group)| {
                balancer(
                    &group.name,
                    &group.instances,
                    at,
                    time - Duration::from_secs(self.born).as_secs_f64(),
                )
            })
            .collect();
        let disk = serde_json::json!({"name": {"namespace": "default", "name": "orders-data"}, "size": 10_u64 << 30,
            "class": "fast", "created": self.born, "used": 3_u64 << 30,
            "snapshots": [{"name": "before-5.1", "created": self.born + 60, "size": 10_u64 << 30}]});
        fleet.disks = vec![serde_json::from_value::<Disk>(disk).unwrap()];
        fleet
    }
}

fn set(time: &AtomicU64, to: Duration) {
    time.store(u64::try_from(to.as_millis()).unwrap(), Ordering::Relaxed);
}

fn spec(group: &str, version: u32, replicas: u32) -> GroupSpec {
    let strategy =
        Strategy::RollingUpdate { max_unavailable: IntOrPercent::Int(0), max_surge: IntOrPercent::Int(1) };
    GroupSpec {
        name: name(group),
        replicas,
        launch: LaunchSpec { memory_mib: 256, ..example::launch(image(&format!("{group} {version}"))) },
        settings: GroupSettings { revision_history_limit: 5, ..example::settings(strategy) },
    }
}

/// A wave between 0 and 1.
fn wave(time: f64, period: f64, shift: usize) -> f64 {
    let shift = f64::from(u32::try_from(shift).unwrap_or(0));
    0.5 + 0.35 * (time * std::f64::consts::TAU / period + shift).sin() + 0.15 * (time * 2.9 + shift).sin()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn amount(value: f64) -> u64 {
    value as u64
}

/// Gives an instance what the fake cloud does not measure.
fn dress(instance: &mut Instance, at: usize, time: f64) {
    let usage = ResourceUsage {
        cpu_millis: amount(40.0 + 320.0 * wave(time, 47.0, at)),
        memory_bytes: amount(70e6 + 60e6 * wave(time, 113.0, at + 1)),
    };
    let is_ready = instance.health == Health::Healthy;
    if instance.containers.is_empty() {
        let state = if is_ready { "running" } else { "waiting" }.to_owned();
        instance.containers =
            vec![ContainerState { name: "web".into(), ready: is_ready, restarts: 0, state }];
    }
    instance.accelerator = Some(Accelerator::Kvm);
    instance.pid = Some(41_000 + u32::try_from(at).unwrap_or(0));
    instance.address = Some(std::net::Ipv4Addr::new(10, 77, 0, 10 + u8::try_from(at).unwrap_or(0)).into());
    instance.usage = is_ready.then(|| InstanceUsage {
        window_ms: 15_000,
        containers: [("web".to_owned(), usage)].into(),
        machine: None,
    });
}

/// Makes an instance a replica: the first one leads, the second is a little behind.
fn replicate(instance: &mut Instance, at: usize, time: f64) {
    let committed = amount(time) % 1_000_000;
    instance.replica = Some(ReplicaReport {
        role: if at == 0 { Role::Leader } else { Role::Follower },
        term: 3,
        leader: Some(0),
        has_quorum: true,
        recoveries: 0,
        diverged_at: None,
        waits_for: None,
        progress: Some(Progress { committed, applied: committed - u64::from(at == 1) * 2 }),
    });
}

fn balancer(group: &Name, instances: &[Instance], at: usize, age: f64) -> LoadBalancer {
    let target = |instance: &Instance| BalancerTarget {
        instance: instance.id.clone(),
        port: 80,
        healthy: instance.health == Health::Healthy,
    };
    let many = amount(age * 8.0 + 60.0 * wave(age, 31.0, at));
    let bucket = |up_to_micros, count| Bucket { up_to_micros, count };
    let traffic = Traffic {
        connections: many,
        open: amount(12.0 * wave(age, 21.0, at)),
        received_bytes: many * 900,
        sent_bytes: many * 14_000,
        errors: u64::from(at == 0) * 3,
        refused: 0,
        connect_micros: many * 180,
        connect: vec![bucket(Some(250), many * 9 / 10), bucket(Some(1000), many / 10), bucket(None, 1)],
    };
    let port = if at == 0 { 80 } else { 8080 };
    let targets = vec![TargetGroup { group: group.clone(), port: 80 }];
    let spec = BalancerSpec::new(
        group.clone(),
        ServiceType::ClusterIP,
        vec![Listener::new(port, Protocol::Tcp, targets)],
    );
    LoadBalancer {
        spec,
        host: format!("127.77.1.{}", at + 2),
        bound: vec![Some(port)],
        targets: instances.iter().map(target).collect(),
        certificates: vec![],
        traffic: vec![Some(traffic)],
        requests: vec![],
    }
}

/// A line of a container, by its number.
fn printed(number: u64, instance: &str) -> LogLine {
    let seconds = i64::try_from(now().as_secs()).unwrap();
    let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap();
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    let text = match number % 6 {
        0 => format!("GET /products/{number} 200 {} ms", 3 + number % 17),
        1 => "GET /healthz 200".to_owned(),
        2 => format!("POST /cart 201 user={number} items={}", 1 + number % 5),
        3 => HOSTILE.to_owned(),
        4 => "level=warn msg=\"upstream answered slowly\" upstream=orders took=1.204s".to_owned(),
        _ => format!("GET /static/app.{number:x}.js 304 0 ms"),
    };
    LogLine { instance: instance.into(), container: Some("web".into()), time: Some(time), text }
}

#[async_trait]
impl Cloud for Stage {
    async fn inspect(&self, _scope: &Scope) -> Result<Fleet, CloudError> {
        self.trouble.looks.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(self.trouble.look.swap(0, Ordering::Relaxed))).await;
        Ok(self.fleet().await)
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        Trouble::wait(&self.trouble.act).await;
        let applied = self.sim.apply(act, materials).await;
        self.seen.lock().await.0 = 0;
        applied
    }

    fn watch<'c>(&'c self, _scope: &Scope) -> Updates<'c> {
        let looks = futures::stream::unfold(Fleet::default(), async |last| {
            let is_busy = self.trouble.is_busy.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(if is_busy { 5 } else { 500 })).await;
            let fleet = self.fleet().await;
            // All of it comes anew each time.
            let last = if is_busy { Fleet::default() } else { last };
            let changes = changes(&last, &fleet);
            Some((Ok(Update { fleet: fleet.clone(), changes }), fleet))
        });
        looks.boxed()
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        let fleet = self.fleet().await;
        let group = fleet.group(&query.group).ok_or_else(|| CloudError::not_found("group", &query.group))?;
        let ids: Vec<String> = group.members().map(|instance| instance.id.to_string()).collect();
        let lines = futures::stream::unfold((0, ids), async |(number, ids): (u64, Vec<String>)| {
            if number >= 40 {
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
            let at = usize::try_from(number).unwrap() % ids.len().max(1);
            Some((Ok(printed(number, ids.get(at)?)), (number + 1, ids)))
        });
        Ok(lines.boxed())
    }
}

#[async_trait]
impl Provider for Stage {
    fn support(&self) -> &'static Support {
        &local::SUPPORT
    }

    async fn connect(&self, client: &Client) -> Result<Box<dyn Cloud>, CloudError> {
        self.trouble.connections[usize::from(client.starts)].fetch_add(1, Ordering::Relaxed);
        Trouble::wait(&self.trouble.connect).await;
        Ok(Box::new(self.clone()))
    }

    fn refuse_size(&self, group: &Name, replicas: u32) -> Result<(), CloudError> {
        kinds::default().refuse_size(group, replicas)
    }

    async fn environments(&self, client: &Client) -> Result<Vec<String>, CloudError> {
        Ok(vec![client.environment.clone(), "staging".into()])
    }

    async fn preflight(
        &self,
        _client: &Client,
        _groups: Vec<GroupSpec>,
        _balancers: Vec<BalancerSpec>,
    ) -> Result<Vec<Check>, CloudError> {
        Ok(vec![])
    }
}
