//! What was decided and saved, done to VMs; and VMs that run already when this process starts, taken over.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::status::PodPhase;
use tokio_util::sync::CancellationToken;

use super::Keeper;
use super::state::{Life, MachineHandle, Ports, Running, State, blocking};
use super::step::{Effect, Launch};
use crate::cloud::CloudError;
use crate::cloud::engine::environment::{Environment, GroupRecord};
use crate::cloud::engine::health::{CheckOutcome, Known, judge};
use crate::cloud::local::link::channel::Channel;
use crate::cloud::local::link::guest::Guest;
use crate::cloud::local::link::status_check;
use crate::cloud::local::machine::qemu::{self, Machine};
use crate::cloud::local::machine::{images, process, qmp, secrets};
use crate::cloud::local::network::own::Network;
use crate::cloud::local::network::{self, Attachment, GuestPort, Reach};
use crate::cloud::local::supervise::supervise;
use crate::cloud::local::volumes;
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{Accelerator, Health, InstanceId, InstanceState};

/// Between two attempts to delete a disk that cannot be deleted.
const REMOVAL_PAUSE: Duration = Duration::from_secs(2);

/// How long qemu may take until it answers. A machine whose qemu takes longer counts as one that is not ready.
const QEMU_START: Duration = Duration::from_secs(30);

/// Carries an effect out in the background.
pub(super) fn spawn(keeper: &Arc<Keeper>, effect: Effect) {
    let keeper = Arc::clone(keeper);
    match effect {
        Effect::Launch(launch) => {
            tokio::spawn(async move { launch_vm(&keeper, *launch).await });
        }
        Effect::Forward { id, port } => forward(&keeper, &id, port),
        Effect::PowerOff { id } => {
            tokio::spawn(async move {
                // A VM that ended by itself meanwhile needs no button; one that does not hear it is killed later.
                if let Err(error) = qmp::power_off(&keeper.home.instance(&id)).await {
                    keeper.log.write(format_args!("{id}: cannot press the power button: {error}"));
                }
            });
        }
        Effect::Remove { id, .. } => {
            tokio::task::spawn_blocking(move || remove(&keeper, &id));
        }
        Effect::RemoveDisk { environment, disk } => {
            tokio::task::spawn_blocking(move || remove_disk(&keeper, &environment, &disk));
        }
        // Done when they began.
        Effect::Refuse { .. } | Effect::Kill { .. } | Effect::Dismiss { .. } => {}
    }
}

/// Removes a VM's folder. One that cannot be removed goes when the next process adopts what there is.
fn remove(keeper: &Keeper, id: &str) {
    let folder = keeper.home.instance(id);
    if let Err(error) = fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        keeper.log.write(format_args!("{} cannot be removed: {error}", folder.display()));
    }
}

/// Deletes a disk, and then its record: one that cannot be deleted is tried again.
fn remove_disk(keeper: &Keeper, environment: &str, disk: &Name) {
    let failure =
        volumes::remove(&volumes::path(&keeper.home, environment, disk)).err().map(|error| error.to_string());
    if let Some(failure) = &failure {
        keeper.log.write(format_args!("disk {disk}: {failure}"));
        // Before the next attempt, which comes with the next round.
        std::thread::sleep(REMOVAL_PAUSE);
    }
    let gone = failure.is_none();
    keeper.state().end_removal(environment, disk, failure);
    if gone {
        keeper.changed.notify_one();
    }
}

/// The disks of a VM that outlive it, with their locks. One that was never there is made.
fn attach(keeper: &Keeper, launch: &Launch) -> Result<Vec<File>, CloudError> {
    let attach = |name: &Name| {
        let (size, made) = {
            let state = keeper.state();
            let found = state.environments.get(&launch.environment).and_then(|found| found.disks.get(name));
            let disk = found.ok_or_else(|| CloudError::Refused {
                message: format!("there is no disk {name}; deploy its PersistentVolumeClaim"),
            })?;
            (disk.spec.size, disk.made)
        };
        let path = volumes::path(&keeper.home, &launch.environment, name);
        if !made {
            volumes::make(&volumes::Wanted { path: &path, size, environment: &keeper.home.environment })?;
            keeper.state().disk_made(&launch.environment, name);
        }
        volumes::attach(&path, size)
    };
    launch.disks.iter().map(attach).collect()
}

async fn launch_vm(keeper: &Arc<Keeper>, launch: Launch) {
    let (id, health_port) = (launch.id.clone(), launch.spec.health_port);
    let Ok(_turn) = keeper.starts.acquire().await else { return };
    let started = {
        let keeper = Arc::clone(keeper);
        tokio::task::spawn_blocking(move || start(&keeper, &launch)).await.unwrap_or_else(|panic| {
            Err(CloudError::Program { program: "qemu".into(), message: panic.to_string() })
        })
    };
    match started {
        Ok(()) => watch(keeper, &id, health_port, QEMU_START),
        Err(error) => {
            keeper.log.write(format_args!("{id}: {error}"));
            keeper.state().failed(&id, error.to_string());
            keeper.changed.notify_one();
        }
    }
}

/// Starts the VM's process, unless the VM is not wanted any more.
fn start(keeper: &Keeper, launch: &Launch) -> Result<(), CloudError> {
    let Launch { environment, id, index, spec, ports, name, address, .. } = launch;
    if !keeper.state().record(id).is_some_and(|record| record.state == InstanceState::Running) {
        keeper.state().failed(id, "it was not wanted any more".to_owned());
        keeper.changed.notify_one();
        return Ok(());
    }
    let folder = keeper.home.instance(id);
    fs::create_dir_all(&folder).map_err(CloudError::file("create", &folder))?;
    let cmdline = images::cmdline(&keeper.home, spec.image)?;
    let accelerator = keeper.accelerator();
    let secrets = secrets::memory_file(&keeper.home.secrets(), &spec.secrets)?;
    let disks = attach(keeper, launch)?;
    let device = match address {
        Some(address) => {
            let network = keeper.network(environment)?;
            let device = network.device(*address).map_err(|error| CloudError::Program {
                program: "the network".into(),
                message: format!("{address} cannot be attached: {error}"),
            })?;
            keeper.state().attach(id, network, *address, ports.clone());
            device
        }
        None => network::device(ports, keeper.mover.report().name_servers.get(environment).copied()),
    };
    let machine = Machine {
        id,
        name,
        index: *index,
        launch: spec,
        network: &device,
        image: &keeper.home.image(spec.image),
        cmdline: &cmdline,
        accelerator,
        environment: &keeper.home.environment,
    };
    // Without the lock: its record is saved, so that a process is never without one.
    let process = process::start(&machine, &folder, secrets, &disks)?;
    // From now on its process alone holds them.
    drop(disks);
    keeper.state().started(id, Box::new(process), accelerator);
    Ok(())
}

impl State {
    /// Takes note of a VM's place in its environment's network.
    fn attach(&mut self, id: &str, network: Arc<Network>, address: Ipv4Addr, ports: Vec<GuestPort>) {
        if let Some(machine) = self.machines.get_mut(id) {
            machine.network = Attachment::inside(network, address, ports);
        }
    }

    /// What [`Self::attach`] is to know of a VM that has an address: its environment, and its ports.
    fn place(&self, id: &str) -> Option<(String, Ipv4Addr, Vec<GuestPort>)> {
        self.environments.iter().find_map(|(name, environment)| {
            environment.groups.iter().find_map(|(group, record)| {
                let instance = record.instances.get(id)?;
                let launch = &record.revision(instance.revision)?.launch;
                Some((name.clone(), instance.address?, environment.ports(group, launch)))
            })
        })
    }

    /// A disk is there, and is never made anew.
    pub(super) fn disk_made(&mut self, environment: &str, disk: &Name) {
        let found = self.environments.get_mut(environment).and_then(|found| found.disks.get_mut(disk));
        if let Some(record) = found {
            record.made = true;
        }
    }

    /// Takes note that a VM could not be started.
    pub(super) fn failed(&mut self, id: &str, reason: String) {
        if let Some(machine) = self.machines.get_mut(id) {
            machine.life = Life::Failed(reason);
        }
    }

    /// Takes over the process of a VM that was started, and ends it when the VM is not wanted any more.
    pub(super) fn started(&mut self, id: &str, mut process: Box<dyn Running>, accelerator: Accelerator) {
        let mut groups =
            self.environments.values_mut().flat_map(|environment| environment.groups.values_mut());
        let record = groups.find_map(|group| group.instances.get_mut(id));
        match (record, self.machines.get_mut(id)) {
            (Some(record), Some(machine)) => {
                record.accelerator = Some(accelerator);
                if record.state != InstanceState::Running {
                    process.kill();
                }
                machine.life = Life::Started(process);
            }
            _ => process.kill(),
        }
    }
}

/// Looks after a VM whose process runs: its channel, where its ports are, its health. Goes on for as long as the VM is
/// known, however long qemu takes; after `patience` the VM is not ready.
fn watch(keeper: &Arc<Keeper>, id: &str, health_port: u16, patience: Duration) {
    open_channel(keeper, id);
    let Some(cancel) = keeper.state().machines.get(id).map(|machine| machine.watch.clone()) else { return };
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    let name = format!("health check of {id}");
    let (watched, id, stop) = (Arc::clone(keeper), id.to_owned(), cancel.clone());
    let make = move || {
        let (keeper, id, cancel) = (Arc::clone(&watched), id.clone(), cancel.clone());
        async move {
            if learn_forwards(&keeper, &id, patience).await? {
                check_health(keeper, id, health_port, cancel).await?;
            }
            Ok::<(), String>(())
        }
    };
    tokio::spawn(supervise(tasks, log, name, stop, make));
}

/// Waits until qemu answers and says where the VM's ports are; whether it did before it ended. A qemu that does not
/// answer is a VM that is not ready.
async fn learn_forwards(keeper: &Keeper, id: &str, patience: Duration) -> Result<bool, String> {
    let place = keeper.state().place(id);
    if let Some((environment, address, ports)) = place {
        let is_attached = keeper.state().machines.get(id).is_some_and(|machine| machine.network.is_inside());
        if !is_attached {
            // One that was adopted: its process runs in the network.
            let network = blocking(|| keeper.network(&environment)).map_err(|error| error.to_string())?;
            keeper.state().attach(id, network, address, ports);
        }
        return Ok(true);
    }
    let folder = keeper.home.instance(id);
    let given_up = tokio::time::Instant::now() + patience;
    loop {
        match network::discover(&folder).await {
            Ok(forwards) => {
                if let Some(machine) = keeper.state().machines.get_mut(id) {
                    machine.network.set(forwards);
                }
                return Ok(true);
            }
            Err(error) if tokio::time::Instant::now() > given_up => {
                let reason = format!("qemu does not answer: {error}");
                apply_check(keeper, id, (CheckOutcome::Silence(reason.clone()), None));
                return Err(reason);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        // Its end is seen by the control loop.
        if !keeper.state().is_alive(id) {
            return Ok(false);
        }
    }
}

/// Starts to look after the VM's control channel, until the VM is forgotten.
fn open_channel(keeper: &Keeper, id: &str) {
    let mut state = keeper.state();
    let State { environments, machines, .. } = &mut *state;
    let mut groups = environments.values().flat_map(|environment| environment.groups.values());
    let revision = groups.find_map(|group| group.revision(group.instances.get(id)?.revision));
    let containers =
        revision.iter().flat_map(|revision| revision.launch.containers.iter().cloned()).collect();
    if let Some(machine) = machines.get_mut(id) {
        let guest = Guest {
            id: id.to_owned(),
            folder: keeper.home.instance(id),
            containers,
            tasks: Arc::clone(&keeper.tasks),
            log: Arc::clone(&keeper.log),
        };
        machine.channel = Some(Channel::start(guest, machine.watch.clone()));
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
        let reach = keeper
            .state()
            .machines
            .get(&id)
            .and_then(|machine| machine.network.reach(health_port, Protocol::Tcp));
        let Some(reach) = reach else { return Ok(()) };
        let checked = tokio::select! {
            checked = check_once(&keeper, &id, &reach) => checked,
            () = cancel.cancelled() => return Ok(()),
        };
        let unasked =
            if let CheckOutcome::Unasked(reason) = &checked.0 { Some(reason.clone()) } else { None };
        let period = apply_check(&keeper, &id, checked);
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
async fn check_once(keeper: &Keeper, id: &str, address: &Reach) -> (CheckOutcome, Option<u16>) {
    let patience = {
        let state = keeper.state();
        let mut groups = state.environments.values().flat_map(|environment| environment.groups.values());
        status_check::patience(groups.find_map(|group| group.instances.get(id)), keeper.clock.now().steady)
    };
    let outcome = status_check::check(address, patience).await;
    let CheckOutcome::Status(status) = &outcome else { return (outcome, None) };
    if status.phase != PodPhase::Ready {
        return (outcome, None);
    }
    let now = keeper.clock.now().steady;
    let (since, targets) = {
        let mut state = keeper.state();
        let targets = state.targets(id);
        let Some(machine) = state.machines.get_mut(id) else { return (outcome, None) };
        let since = match machine.ports {
            Ports::Settled => return (outcome, None),
            Ports::Closed(since) => since,
            Ports::Unknown => now,
        };
        machine.ports = Ports::Closed(since);
        (since, targets)
    };
    // A container that ends again and again is ready whenever it has just been started.
    let restarted = status.containers.iter().any(|container| container.restarts > 0);
    for (port, target) in targets {
        if !status_check::accepts(&target, address).await {
            if restarted || now < since.saturating_add(status_check::PORTS_GRACE_MS) {
                return (outcome, Some(port));
            }
            keeper
                .log
                .write(format_args!("{id}: port {port} is behind a balancer and accepts no connections"));
        }
    }
    if let Some(machine) = keeper.state().machines.get_mut(id) {
        machine.ports = Ports::Settled;
    }
    (outcome, None)
}

/// Takes over the outcome of a health check; how long to wait for the next one.
fn apply_check(keeper: &Keeper, id: &str, (outcome, closed_port): (CheckOutcome, Option<u16>)) -> Duration {
    let now = keeper.clock.now().steady;
    let mut state = keeper.state();
    let State { environments, machines, .. } = &mut *state;
    let Some(machine) = machines.get_mut(id) else { return status_check::PERIOD };
    let groups = environments.values_mut().flat_map(|environment| environment.groups.values_mut());
    for group in groups.filter(|group| group.instances.contains_key(id)) {
        let boot = group.settings.boot_limit();
        let GroupRecord { instances, revisions, .. } = group;
        let Some(record) = instances.get_mut(id) else { continue };
        if record.state != InstanceState::Running {
            // Out of the balancer already; what it says while it stops would only hide why it had to go.
            return status_check::PERIOD;
        }
        let revision = revisions.iter().find(|revision| revision.number == record.revision);
        let containers = revision.map(|revision| revision.launch.containers.as_slice()).unwrap_or_default();
        if let CheckOutcome::Status(status) = &outcome {
            machine.usage.add(status, containers, now);
        }
        let was = std::mem::discriminant(&record.health);
        let known = Known { containers, boot, closed_port };
        judge(record, outcome, &known, now);
        if std::mem::discriminant(&record.health) != was {
            keeper.log.write(format_args!("{id} is {}", record.health));
            keeper.changed.notify_one();
        }
        return if record.health == Health::Healthy {
            status_check::PERIOD
        } else {
            status_check::PERIOD_STARTING
        };
    }
    status_check::PERIOD
}

/// Has qemu add a forward; tries again until it is there or the VM is gone.
fn forward(keeper: &Arc<Keeper>, id: &str, port: GuestPort) {
    let cancel = {
        let mut state = keeper.state();
        let Some(machine) = state.machines.get_mut(id) else { return };
        if !machine.network.request(port) {
            return;
        }
        machine.watch.clone()
    };
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    let name = format!("forward of port {}/{:?} of {id}", port.0, port.1);
    let (keeper, id) = (Arc::clone(keeper), id.to_owned());
    tokio::spawn(supervise(tasks, log, name, cancel, move || {
        add_forward(Arc::clone(&keeper), id.clone(), port)
    }));
}

async fn add_forward(keeper: Arc<Keeper>, id: String, port: GuestPort) -> std::io::Result<()> {
    let forwards = network::open(&keeper.home.instance(&id), port).await?;
    if let Some(machine) = keeper.state().machines.get_mut(&id) {
        machine.network.answered(port, forwards);
    }
    keeper.changed.notify_one();
    Ok(())
}

/// What was adopted: VMs that run, each with its health port; processes that no record tells of; VMs that are known.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) machines: Vec<(String, u16)>,
    pub(super) strangers: Vec<(String, Box<dyn Running>)>,
    pub(super) known: BTreeSet<String>,
    /// Why what was found could not be saved; it is saved with the next decision.
    pub(super) unsaved: Option<CloudError>,
}

impl State {
    /// Takes over the VMs that run already, and forgets records of VMs that never `began`: the last process was killed
    /// after it had saved that they are started, and before they were.
    pub(super) fn adopt(
        &mut self,
        mut running: HashMap<String, Box<dyn Running>>,
        began: &impl Fn(&str) -> bool,
    ) -> Adopted {
        let mut machines = Vec::new();
        let mut next = self.environments.clone();
        for group in next.values_mut().flat_map(|environment| environment.groups.values_mut()) {
            let ports: HashMap<u32, u16> =
                group.revisions.iter().map(|r| (r.number, r.launch.health_port)).collect();
            group.instances.retain(|id, record| {
                if record.state != InstanceState::Ended
                    && let Some(process) = running.remove(&**id)
                {
                    let mut machine = MachineHandle::new(Life::Started(process));
                    if record.health == Health::Healthy {
                        machine.ports = Ports::Settled;
                    }
                    self.machines.insert(id.to_string(), machine);
                    machines.push((id.to_string(), ports.get(&record.revision).copied().unwrap_or_default()));
                    return true;
                }
                record.state == InstanceState::Ended || began(id)
            });
        }
        let groups = next.values().flat_map(|environment| environment.groups.values());
        let known = groups.flat_map(|group| group.instances.keys().map(InstanceId::to_string)).collect();
        // A full disk does not keep VMs from being looked after: a VM that never began has ended then.
        let unsaved = self.commit(next).err();
        Adopted { machines, strangers: running.into_iter().collect(), known, unsaved }
    }
}

/// Takes over the VMs that run already, ends those that nobody knows, and forgets records of VMs that never started.
/// The database is sound, and not a new one beside VMs: [`Keeper::open`] has seen to that.
pub(in crate::cloud::local) fn adopt(keeper: &Arc<Keeper>) -> Result<(), CloudError> {
    let instances = keeper.home.instances();
    fs::create_dir_all(&instances).map_err(CloudError::file("create", &instances))?;
    let running = process::running(&instances).map_err(CloudError::file("look for VMs of", &instances))?;
    let running =
        running.into_iter().map(|(id, process)| (id, Box::new(process) as Box<dyn Running>)).collect();
    let began = |id: &str| keeper.home.instance(id).join(qemu::CONSOLE).exists();
    let Adopted { machines, strangers, known, unsaved } = keeper.state().adopt(running, &began);
    if let Some(error) = unsaved {
        keeper.log.write(format_args!("{error}"));
    }
    for (id, mut process) in strangers {
        keeper.log.write(format_args!("{id} belongs to nobody and is ended"));
        process.kill();
    }
    remove_others(keeper, &known)?;
    adopt_disks(keeper);
    for (id, health_port) in machines {
        keeper.log.write(format_args!("{id} is adopted"));
        resume(keeper, &id);
        watch(keeper, &id, health_port, QEMU_START);
        // The power button may have been meant to be pressed when the last process was killed.
        let pressed = {
            let mut state = keeper.state();
            let stopping = state.record(&id).is_some_and(|record| record.state == InstanceState::Stopping);
            stopping.then(|| state.begin(Effect::PowerOff { id })).flatten()
        };
        if let Some(effect) = pressed {
            spawn(keeper, effect);
        }
    }
    Ok(())
}

/// Takes up disks that no record names, removes what the last process left half made, and takes up the copies that it did
/// not note.
fn adopt_disks(keeper: &Keeper) {
    let state = || keeper.state();
    let now = keeper.clock.now();
    for (environment, disk, size) in volumes::all(&keeper.home) {
        state().environments.entry(environment).or_default().adopt_disk(&disk, size, now);
    }
    let names = |(environment, found): (&String, &Environment)| -> Vec<(String, Name)> {
        found.disks.keys().map(|disk| (environment.clone(), disk.clone())).collect()
    };
    let disks: Vec<(String, Name)> = state().environments.iter().flat_map(names).collect();
    for (environment, disk) in disks {
        let path = volumes::path(&keeper.home, &environment, &disk);
        if let Err(error) = volumes::sweep(&path) {
            keeper.log.write(format_args!("disk {disk}: {error}"));
        }
        let copies = volumes::snapshots_of(&path);
        if let Some(found) = state().environments.get_mut(&environment) {
            found.adopt_snapshots(&disk, copies);
        }
    }
}

/// Has a VM go on that the last process had stopped to copy its disk.
fn resume(keeper: &Arc<Keeper>, id: &str) {
    let (keeper, id) = (Arc::clone(keeper), id.to_owned());
    tokio::spawn(async move {
        if let Err(error) = qmp::resume(&keeper.home.instance(&id)).await {
            keeper.log.write(format_args!("{id}: cannot be resumed: {error}"));
        }
    });
}

/// Removes folders of VMs that are not known.
fn remove_others(keeper: &Keeper, known: &BTreeSet<String>) -> Result<(), CloudError> {
    let instances = keeper.home.instances();
    let entries = fs::read_dir(&instances).map_err(CloudError::file("read", &instances))?;
    for entry in entries {
        let path = entry.map_err(CloudError::file("read", &instances))?.path();
        let is_known =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(name));
        if !is_known {
            fs::remove_dir_all(&path).map_err(CloudError::file("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cloud::local::home::Home;
    use crate::cloud::local::{socket, store};

    /// A process that runs.
    #[derive(Debug)]
    struct Alive;

    impl Running for Alive {
        fn pid(&self) -> u32 {
            1
        }

        fn is_alive(&mut self) -> bool {
            true
        }

        fn killed_by(&mut self) -> Option<i32> {
            None
        }

        fn kill(&mut self) {}
    }

    /// Answers as qemu does to `info usernet`: the health port of the guest is reached at `host`.
    async fn qemu(folder: &Path, host: u16) {
        let listener = socket::listen(folder, qmp::SOCKET).unwrap();
        let table = format!("  TCP[HOST_FORWARD]  13  127.0.0.1 {host}  10.0.2.15 10256  0  0\r\n");
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let mut client = BufReader::new(client);
            for answer in [json!({"QMP": {}}), json!({"return": {}}), json!({"return": table})] {
                let mut request = String::new();
                if answer.get("QMP").is_none() {
                    client.read_line(&mut request).await.unwrap();
                }
                client.get_mut().write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_machine_whose_qemu_answers_late_is_looked_after_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        let keeper = Arc::new(Keeper::open(home).unwrap());
        let id = "web-1-a";
        let folder = keeper.home.instance(id);
        fs::create_dir_all(&folder).unwrap();
        let sample = store::sample();
        keeper
            .change_all(|environments| {
                environments.extend(sample);
                Ok(())
            })
            .unwrap();
        let machine = MachineHandle::new(Life::Started(Box::new(Alive)));
        keeper.state().machines.insert(id.to_owned(), machine);
        watch(&keeper, id, 10256, Duration::ZERO);
        let patience = Duration::from_secs(30);
        let name = format!("health check of {id}: qemu does not answer");
        tokio::time::timeout(patience, async {
            while !keeper.tasks.failing().iter().any(|failing| failing.starts_with(&name)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("its lateness is known");
        let health = keeper.state().record(id).unwrap().health.clone();
        assert_ne!(health, Health::Healthy);

        let guest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = guest.local_addr().unwrap();
        let late = tokio::spawn(async move { qemu(&folder, address.port()).await });
        tokio::time::timeout(patience, guest.accept()).await.expect("a health check").unwrap();
        let known = keeper.state().machines[id].network.address(10256, Protocol::Tcp);
        assert_eq!(known, Some(address));
        late.abort();
    }
}
