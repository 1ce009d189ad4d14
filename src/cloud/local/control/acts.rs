//! What the reconciler decided, done: first in the records, then to VMs, then, for VMs that run already when this
//! process starts, the other way round.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::status::PodPhase;
use tokio_util::sync::CancellationToken;

use super::ending;
use crate::cloud::environment::{GroupRecord, InstanceRecord};
use crate::cloud::health::{Heard, Known, judge};
use crate::cloud::local::channel::{Channel, Machine as Guest};
use crate::cloud::local::keeper::{Keeper, Life, Ports, State, Vm};
use crate::cloud::local::qemu::Machine;
use crate::cloud::local::supervise::supervise;
use crate::cloud::local::{console, health, images, qmp, secrets, vm};
use crate::cloud::reconcile::Act;
use crate::cloud::{CloudError, Moment};
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{Health, InstanceState, LaunchSpec};

/// How long qemu may take until it answers.
const QEMU_START: Duration = Duration::from_secs(30);

/// Something to be done to a VM without holding the lock.
#[derive(Debug)]
pub(super) enum Job {
    /// Start it.
    Launch(Box<Launch>),
    /// Add a forward.
    Forward { id: String, port: (u16, Protocol) },
    /// Press its power button.
    PowerOff { id: String },
    /// Remove its folder.
    Remove { id: String },
}

/// A VM that is to be started.
#[derive(Debug)]
pub(super) struct Launch {
    id: String,
    spec: LaunchSpec,
    ports: Vec<(u16, Protocol)>,
    /// Whom it asks for names, when that is this process.
    resolver: Option<Ipv4Addr>,
}

/// Takes an act over into the records. The jobs that it leads to are done after the records were stored.
pub(super) fn record(
    keeper: &Keeper,
    state: &mut State,
    (environment_name, name): (&str, &Name),
    act: &Act,
    now: Moment,
    jobs: &mut Vec<Job>,
) {
    let ended = if let Act::End { id } = act { ending(keeper, state, id) } else { String::new() };
    let Some(environment) = state.environments.get_mut(environment_name) else { return };
    let id = match act {
        Act::Launch { revision } => {
            let Some(launch) = environment
                .groups
                .get(name)
                .and_then(|group| group.revision(*revision))
                .map(|revision| revision.launch.clone())
            else {
                return;
            };
            let ports = environment.ports(name, &launch);
            let Some(group) = environment.groups.get_mut(name) else { return };
            let id = new_id(&name.name, *revision, |id| state.vms.contains_key(id));
            group.instances.insert(id.clone(), InstanceRecord::new(id.clone(), *revision, now));
            state.vms.insert(id.clone(), Vm::new(Life::Starting));
            let resolver = keeper.names.server(environment_name);
            jobs.push(Job::Launch(Box::new(Launch { id, spec: launch, ports, resolver })));
            return;
        }
        Act::Drain { id, .. }
        | Act::PowerOff { id }
        | Act::Kill { id }
        | Act::End { id }
        | Act::Forget { id } => id.clone(),
    };
    let Some(group) = environment.groups.get_mut(name) else { return };
    if let Act::Forget { .. } = act {
        group.instances.remove(&id);
        state.vms.remove(&id);
        jobs.push(Job::Remove { id });
        return;
    }
    let revision = group.instances.get(&id).map(|record| record.revision);
    let containers = revision.and_then(|number| group.revision(number));
    let containers = containers.map(|revision| revision.launch.containers.clone()).unwrap_or_default();
    let Some(record) = group.instances.get_mut(&id) else { return };
    match act {
        Act::Drain { failed, .. } => {
            record.failed |= *failed;
            record.enter(InstanceState::Draining, now.steady);
        }
        Act::PowerOff { .. } => {
            record.enter(InstanceState::Stopping, now.steady);
            let unborn = !record.answered;
            match state.vms.get_mut(&id).map(|vm| &mut vm.life) {
                // A guest that never spoke does not hear the button yet, and has nothing to bring to an end.
                Some(Life::Started(process)) if unborn => process.kill(),
                _ => jobs.push(Job::PowerOff { id }),
            }
        }
        Act::Kill { .. } => {
            if let Some(Life::Started(process)) = state.vms.get_mut(&id).map(|vm| &mut vm.life) {
                process.kill();
            }
        }
        Act::End { .. } => {
            let end = console::end(&keeper.home.instance(&id));
            record.end(ended, end.as_ref(), &containers, now.steady);
            state.vms.remove(&id);
        }
        Act::Launch { .. } | Act::Forget { .. } => {}
    }
}

/// A name that no VM has, and that a host name can be: at most 63 characters.
fn new_id(group: &str, revision: u32, taken: impl Fn(&str) -> bool) -> String {
    // No vowels and no look-alikes, as in the names of Kubernetes' pods.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    loop {
        let mut number = RandomState::new().build_hasher().finish();
        let mut suffix = String::new();
        for _ in 0..5 {
            let length = LETTERS.len() as u64;
            let index = usize::try_from(number % length).expect("an index of a short list");
            suffix.push(char::from(LETTERS[index]));
            number /= length;
        }
        let tail = format!("-{revision}-{suffix}");
        let head: String = group.chars().take(63 - tail.len()).collect();
        let id = head + &tail;
        if !taken(&id) {
            return id;
        }
    }
}

/// Does a job in the background.
pub(super) fn spawn(keeper: &Arc<Keeper>, job: Job) {
    let keeper = Arc::clone(keeper);
    tokio::spawn(async move {
        match job {
            Job::Launch(launch) => launch_vm(&keeper, *launch).await,
            Job::Forward { id, port } => forward(&keeper, &id, port).await,
            Job::PowerOff { id } => {
                // A VM that ended by itself meanwhile needs no button; one that does not hear it is killed later.
                if let Err(error) = qmp::power_off(&keeper.home.instance(&id)).await {
                    keeper.log.say(format_args!("{id}: cannot press the power button: {error}"));
                }
            }
            Job::Remove { id } => {
                let folder = keeper.home.instance(&id);
                if let Err(error) = fs::remove_dir_all(&folder)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    keeper.log.say(format_args!("{} cannot be removed: {error}", folder.display()));
                }
            }
        }
    });
}

async fn launch_vm(keeper: &Arc<Keeper>, launch: Launch) {
    let (id, health_port) = (launch.id.clone(), launch.spec.health_port);
    let started = {
        let keeper = Arc::clone(keeper);
        tokio::task::spawn_blocking(move || start(&keeper, &launch)).await.unwrap_or_else(|panic| {
            Err(CloudError::Program { program: "qemu".into(), message: panic.to_string() })
        })
    };
    match started {
        Ok(()) => watch(keeper, &id, health_port).await,
        Err(error) => {
            keeper.log.say(format_args!("{id}: {error}"));
            if let Some(vm) = keeper.state().vms.get_mut(&id) {
                vm.life = Life::Failed(error.to_string());
            }
            keeper.changed.notify_one();
        }
    }
}

/// Starts the VM's process, unless the VM is not wanted any more.
fn start(keeper: &Keeper, launch: &Launch) -> Result<(), CloudError> {
    let Launch { id, spec, ports, resolver } = launch;
    let folder = keeper.home.instance(id);
    fs::create_dir_all(&folder).map_err(CloudError::file("create", &folder))?;
    let cmdline = images::cmdline(&keeper.home, spec.image)?;
    let accelerator = keeper.accelerator();
    let secrets = secrets::channel(&keeper.home.secrets(), &spec.secrets)?;
    let machine = Machine {
        id,
        launch: spec,
        ports,
        image: &keeper.home.image(spec.image),
        cmdline: &cmdline,
        accelerator,
        resolver: *resolver,
        environment: &keeper.home.environment,
        scratch: Vec::new(),
        user: None,
    };
    // The lock is held while the process is made, so that nobody forgets the VM in between.
    let mut state = keeper.state();
    let Some(vm) = state.vms.get_mut(id) else { return Ok(()) };
    vm.life = Life::Started(vm::start(machine, &folder, secrets)?);
    for group in state.environments.values_mut().flat_map(|environment| environment.groups.values_mut()) {
        if let Some(record) = group.instances.get_mut(id) {
            record.accelerator = Some(accelerator);
        }
    }
    Ok(())
}

/// Waits until qemu answers, learns where the VM's ports are, and starts its health check.
async fn watch(keeper: &Arc<Keeper>, id: &str, health_port: u16) {
    let folder = keeper.home.instance(id);
    open_channel(keeper, id);
    let given_up = tokio::time::Instant::now() + QEMU_START;
    let forwards = loop {
        match qmp::forwards(&folder).await {
            Ok(forwards) => break forwards,
            Err(error) if tokio::time::Instant::now() > given_up => {
                keeper.log.say(format_args!("{id}: qemu does not answer: {error}"));
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        // Its end is seen by the control loop.
        let gone = !keeper.state().facts().get(id).is_some_and(|facts| facts.alive);
        if gone {
            return;
        }
    };
    let cancel = {
        let mut state = keeper.state();
        let Some(vm) = state.vms.get_mut(id) else { return };
        vm.forwards = forwards;
        vm.watch.clone()
    };
    let checked = Arc::clone(keeper);
    let name = format!("health check of {id}");
    let id = id.to_owned();
    tokio::spawn(supervise(
        Arc::clone(&keeper.tasks),
        Arc::clone(&keeper.log),
        name,
        cancel.clone(),
        move || check_health(Arc::clone(&checked), id.clone(), health_port, cancel.clone()),
    ));
}

/// Starts to look after the VM's control channel, until the VM is forgotten.
fn open_channel(keeper: &Keeper, id: &str) {
    let mut state = keeper.state();
    let State { environments, vms, .. } = &mut *state;
    let groups = environments.values().flat_map(|environment| environment.groups.values());
    let image = groups
        .filter_map(|group| group.revision(group.instances.get(id)?.revision))
        .map(|revision| keeper.home.image(revision.launch.image))
        .next();
    if let Some(vm) = vms.get_mut(id) {
        let guest = Guest {
            id: id.to_owned(),
            folder: keeper.home.instance(id),
            image,
            tasks: Arc::clone(&keeper.tasks),
            log: Arc::clone(&keeper.log),
        };
        vm.channel = Some(Channel::start(guest, vm.watch.clone()));
    }
}

/// Asks the guest over and over. An error is what keeps this side from asking.
async fn check_health(
    keeper: Arc<Keeper>,
    id: String,
    health_port: u16,
    cancel: CancellationToken,
) -> Result<(), String> {
    loop {
        let address = keeper.state().vms.get(&id).and_then(|vm| vm.endpoint(health_port, Protocol::Tcp));
        let Some(address) = address else { return Ok(()) };
        let checked = tokio::select! {
            checked = look(&keeper, &id, address) => checked,
            () = cancel.cancelled() => return Ok(()),
        };
        let unasked = if let Heard::Unasked(reason) = &checked.0 { Some(reason.clone()) } else { None };
        let period = heard(&keeper, &id, checked);
        if let Some(reason) = unasked {
            return Err(reason);
        }
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
}

/// One health check: the guest's own word, and the first port behind a balancer that does not accept yet, until all
/// did once.
async fn look(keeper: &Keeper, id: &str, address: SocketAddr) -> (Heard, Option<u16>) {
    let patience = {
        let state = keeper.state();
        let mut groups = state.environments.values().flat_map(|environment| environment.groups.values());
        health::patience(groups.find_map(|group| group.instances.get(id)), keeper.clock.now().steady)
    };
    let heard = health::check(address, patience).await;
    let Heard::Status(status) = &heard else { return (heard, None) };
    if status.phase != PodPhase::Ready {
        return (heard, None);
    }
    let now = keeper.clock.now().steady;
    let (since, targets) = {
        let mut state = keeper.state();
        let targets = state.targets(id);
        let Some(vm) = state.vms.get_mut(id) else { return (heard, None) };
        let since = match vm.ports {
            Ports::Settled => return (heard, None),
            Ports::Closed(since) => since,
            Ports::Unknown => now,
        };
        vm.ports = Ports::Closed(since);
        (since, targets)
    };
    // A container that ends again and again is ready whenever it has just been started.
    let restarted = status.containers.iter().any(|container| container.restarts > 0);
    for (port, address) in targets {
        if !health::accepts(address).await {
            if restarted || now < since.saturating_add(health::PORTS_GRACE_MS) {
                return (heard, Some(port));
            }
            keeper.log.say(format_args!("{id}: port {port} is behind a balancer and accepts no connections"));
        }
    }
    if let Some(vm) = keeper.state().vms.get_mut(id) {
        vm.ports = Ports::Settled;
    }
    (heard, None)
}

/// Takes over what a health check heard; how long to wait for the next one.
fn heard(keeper: &Keeper, id: &str, (heard, closed_port): (Heard, Option<u16>)) -> Duration {
    let now = keeper.clock.now().steady;
    let mut state = keeper.state();
    let State { environments, vms, .. } = &mut *state;
    if !vms.contains_key(id) {
        return health::PERIOD;
    }
    let groups = environments.values_mut().flat_map(|environment| environment.groups.values_mut());
    for group in groups.filter(|group| group.instances.contains_key(id)) {
        let boot_ms = group.settings.boot_ms();
        let GroupRecord { instances, revisions, .. } = group;
        let Some(record) = instances.get_mut(id) else { continue };
        if record.state != InstanceState::Running {
            // Out of the balancer already; what it says while it stops would only hide why it had to go.
            return health::PERIOD;
        }
        let revision = revisions.iter().find(|revision| revision.number == record.revision);
        let containers = revision.map(|revision| revision.launch.containers.as_slice()).unwrap_or_default();
        let was = std::mem::discriminant(&record.health);
        let known = Known { containers, boot_ms, closed_port };
        judge(record, heard, &known, now);
        if std::mem::discriminant(&record.health) != was {
            keeper.log.say(format_args!("{id} is {}", record.health));
            keeper.changed.notify_one();
        }
        return if record.health == Health::Healthy { health::PERIOD } else { health::PERIOD_STARTING };
    }
    health::PERIOD
}

async fn forward(keeper: &Keeper, id: &str, (port, protocol): (u16, Protocol)) {
    let folder = keeper.home.instance(id);
    let added = match qmp::add_forward(&folder, port, protocol).await {
        Ok(()) => qmp::forwards(&folder).await,
        Err(error) => Err(error),
    };
    match added {
        Ok(forwards) => {
            if let Some(vm) = keeper.state().vms.get_mut(id) {
                vm.forwards = forwards;
            }
            keeper.changed.notify_one();
        }
        Err(error) => keeper.log.say(format_args!("{id}: port {port} cannot be forwarded: {error}")),
    }
}

/// Takes over the VMs that run already, ends those that nobody knows, and forgets records of VMs that never started.
pub(in crate::cloud::local) fn adopt(keeper: &Arc<Keeper>) -> Result<(), CloudError> {
    let instances = keeper.home.instances();
    fs::create_dir_all(&instances).map_err(CloudError::file("create", &instances))?;
    let running = vm::running(&instances).map_err(CloudError::file("look for VMs of", &instances))?;
    let mut running: HashMap<String, vm::Process> = running.into_iter().collect();
    let mut adopted = Vec::new();
    let mut state = keeper.state();
    let State { environments, vms, .. } = &mut *state;
    for group in environments.values_mut().flat_map(|environment| environment.groups.values_mut()) {
        let ports: HashMap<u32, u16> =
            group.revisions.iter().map(|r| (r.number, r.launch.health_port)).collect();
        group.instances.retain(|id, record| {
            if let Some(process) = running.remove(id) {
                let mut vm = Vm::new(Life::Started(process));
                if record.health == Health::Healthy {
                    vm.ports = Ports::Settled;
                }
                vms.insert(id.clone(), vm);
                adopted.push((id.clone(), ports.get(&record.revision).copied().unwrap_or_default()));
                return true;
            }
            // Written down and never started: the process was killed in between.
            record.state == InstanceState::Ended
                || keeper.home.instance(id).join(crate::cloud::local::qemu::CONSOLE).exists()
        });
    }
    let known: Vec<String> = environments
        .values()
        .flat_map(|environment| environment.groups.values().flat_map(|group| group.instances.keys().cloned()))
        .collect();
    state.save()?;
    drop(state);
    for (id, mut process) in running {
        keeper.log.say(format_args!("{id} belongs to nobody and is ended"));
        process.kill();
    }
    remove_others(keeper, &known)?;
    for (id, health_port) in adopted {
        keeper.log.say(format_args!("{id} is adopted"));
        let keeper = Arc::clone(keeper);
        tokio::spawn(async move {
            watch(&keeper, &id, health_port).await;
            // The power button may have been meant to be pressed when the last process was killed.
            let stopping = keeper
                .state()
                .environments
                .values()
                .flat_map(|environment| environment.groups.values())
                .filter_map(|group| group.instances.get(&id))
                .any(|record| record.state == InstanceState::Stopping);
            if stopping {
                spawn(&keeper, Job::PowerOff { id });
            }
        });
    }
    Ok(())
}

/// Removes folders of VMs that are not known.
fn remove_others(keeper: &Keeper, known: &[String]) -> Result<(), CloudError> {
    let instances = keeper.home.instances();
    let entries = fs::read_dir(&instances).map_err(CloudError::file("read", &instances))?;
    for entry in entries {
        let path = entry.map_err(CloudError::file("read", &instances))?.path();
        let is_known = path.file_name().is_some_and(|name| known.iter().any(|id| name == id.as_str()));
        if !is_known {
            fs::remove_dir_all(&path).map_err(CloudError::file("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::new_id;

    #[test]
    fn names_fit_into_a_host_name() {
        let id = new_id(&"x".repeat(63), 12, |_| false);
        assert_eq!(id.len(), 63);
        assert!(id.contains("-12-"), "{id}");
        assert_ne!(new_id("web", 1, |_| false), new_id("web", 1, |_| false));
    }
}
