//! What looks after a VM whose process runs: its control channel, where its ports are, and its health.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::Millis;
use i2kit_spec::status::PodPhase;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Keeper;
use super::state::{Ports, State};
use crate::cloud::engine::health::{CheckOutcome, Known, judge, owes};
use crate::cloud::local::blocking::blocking;
use crate::cloud::local::link::channel::Channel;
use crate::cloud::local::link::guest::Guest;
use crate::cloud::local::link::status_check::{self, StatusClient, TimeLimits};
use crate::cloud::local::network::own::Network;
use crate::cloud::local::network::{self, Attachment, GuestPort, Reach};
use crate::cloud::local::supervise::supervise;
use crate::manifest::api::Protocol;
use crate::plan::fleet::{Health, InstanceState};

/// How long qemu may take until it answers. A machine whose qemu takes longer counts as one that is not ready.
pub(super) const QEMU_START: Duration = Duration::from_secs(30);

/// What one health check found.
#[derive(Debug)]
struct HealthCheck {
    /// The guest's own word.
    outcome: CheckOutcome,
    /// The first port behind a balancer that does not accept yet.
    closed_port: Option<u16>,
    /// For how long the guest has owed an answer that did not come.
    owed: Duration,
}

impl HealthCheck {
    /// Whether nothing but another status is of interest: no port is to be tried again.
    fn may_wait(&self) -> bool {
        matches!(self.outcome, CheckOutcome::Status(_)) && self.closed_port.is_none()
    }
}

impl State {
    /// Takes note of a VM's place in its environment's network.
    pub(super) fn attach(
        &mut self,
        id: &str,
        network: Arc<Network>,
        address: Ipv4Addr,
        ports: Vec<GuestPort>,
    ) {
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
}

/// Looks after a VM whose process runs: its channel, where its ports are, its health. Goes on for as long as the VM is
/// known, however long qemu takes; after `patience` the VM is not ready.
pub(super) fn watch(keeper: &Arc<Keeper>, id: &str, health_port: u16, patience: Duration) {
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
            keeper.changed.notify_one();
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
                keeper.changed.notify_one();
                return Ok(true);
            }
            Err(error) if tokio::time::Instant::now() > given_up => {
                let reason = format!("qemu does not answer: {error}");
                let outcome = CheckOutcome::Silence(reason.clone());
                apply_check(keeper, id, HealthCheck { outcome, closed_port: None, owed: Duration::ZERO });
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

/// Asks the guest over and over: for another status where its status is all that there is to know. An error is what keeps this
/// side from asking.
async fn check_health(
    keeper: Arc<Keeper>,
    id: String,
    health_port: u16,
    cancel: CancellationToken,
) -> Result<(), String> {
    let mut client = StatusClient::default();
    let mut wait = Duration::ZERO;
    loop {
        let reach = keeper
            .state()
            .machines
            .get(&id)
            .and_then(|machine| machine.network.reach(health_port, Protocol::Tcp));
        let Some(reach) = reach else { return Ok(()) };
        let asked = Instant::now();
        let checked = tokio::select! {
            checked = check_once(&keeper, &id, &mut client, (&reach, wait)) => checked,
            () = cancel.cancelled() => return Ok(()),
        };
        let unasked =
            if let CheckOutcome::Unasked(reason) = &checked.outcome { Some(reason.clone()) } else { None };
        let may_wait = checked.may_wait();
        let period = apply_check(&keeper, &id, checked);
        if let Some(reason) = unasked {
            return Err(reason);
        }
        let pause;
        (pause, wait) = status_check::next(period, asked.elapsed(), may_wait);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
}

/// One health check: the guest's own word, for which it may `wait`, and the first port behind a balancer that does not accept
/// yet, until all did once.
async fn check_once(
    keeper: &Keeper,
    id: &str,
    client: &mut StatusClient,
    (address, wait): (&Reach, Duration),
) -> HealthCheck {
    let patience = {
        let state = keeper.state();
        let mut groups = state.environments.values().flat_map(|environment| environment.groups.values());
        status_check::patience(groups.find_map(|group| group.instances.get(id)), keeper.clock.now().steady)
    };
    let (outcome, owed) = client.check(address, TimeLimits { wait, patience }).await;
    let closed_port = match &outcome {
        CheckOutcome::Status(status) if status.phase == PodPhase::Ready => {
            // A container that ends again and again is ready whenever it has just been started.
            let restarted = status.containers.iter().any(|container| container.restarts > 0);
            closed_port(keeper, id, client, (address, restarted)).await
        }
        _ => None,
    };
    HealthCheck { outcome, closed_port, owed }
}

/// The first port behind a balancer that a guest, which is ready, does not accept connections to yet, until it accepted them
/// to all of them once. One that was `restarted` has no limit for that.
async fn closed_port(
    keeper: &Keeper,
    id: &str,
    client: &mut StatusClient,
    (address, restarted): (&Reach, bool),
) -> Option<u16> {
    let now = keeper.clock.now().steady;
    let (since, targets) = {
        let mut state = keeper.state();
        let machine = state.machines.get_mut(id)?;
        let since = match machine.ports {
            Ports::Settled => return None,
            Ports::Closed(since) => since,
            Ports::Unknown => now,
        };
        machine.ports = Ports::Closed(since);
        (since, state.targets(id))
    };
    for (port, target) in targets {
        if !client.accepts(&target, address).await {
            if restarted || now < since.saturating_add(status_check::PORTS_GRACE_MS) {
                return Some(port);
            }
            keeper
                .log
                .write(format_args!("{id}: port {port} is behind a balancer and accepts no connections"));
        }
    }
    if let Some(machine) = keeper.state().machines.get_mut(id) {
        machine.ports = Ports::Settled;
    }
    None
}

/// Takes over the outcome of a health check; how long after its beginning the next one may begin. What is as it was is not
/// written: the records would count as changed.
fn apply_check(
    keeper: &Keeper,
    id: &str,
    HealthCheck { outcome, closed_port, owed }: HealthCheck,
) -> Duration {
    let moment = keeper.clock.now();
    let now = moment.steady;
    let mut state = keeper.state();
    let State { environments, machines, .. } = &mut *state;
    let Some(machine) = machines.get_mut(id) else { return status_check::PERIOD };
    let groups =
        environments.iter().flat_map(|(name, found)| found.groups.iter().map(move |all| (name, all)));
    let mut known = groups.filter_map(|(environment, (name, group))| {
        Some((environment, name, group, group.instances.get(id)?))
    });
    let Some((environment, name, group, record)) = known.next() else { return status_check::PERIOD };
    if record.state != InstanceState::Running {
        // Out of the balancer already; what it says while it stops would only hide why it had to go.
        return status_check::PERIOD;
    }
    let containers = group.revision(record.revision).map(|revision| revision.launch.containers.as_slice());
    let containers = containers.unwrap_or_default();
    let known = Known { containers, boot: group.settings.boot_limit(), closed_port };
    if let CheckOutcome::Status(status) = &outcome {
        machine.usage.add(status, containers, now);
        let said = status.replica.as_ref().filter(|_| known.is_replica());
        machine.replica = said.and_then(|said| said.progress);
    }
    let mut judged = record.clone();
    if let CheckOutcome::Silence(_) = &outcome {
        owes(&mut judged, Millis(u64::try_from(owed.as_millis()).unwrap_or(u64::MAX)), now);
    }
    judge(&mut judged, outcome, &known, now);
    let period =
        if judged.health == Health::Healthy { status_check::PERIOD } else { status_check::PERIOD_STARTING };
    if judged == *record {
        return period;
    }
    if std::mem::discriminant(&record.health) != std::mem::discriminant(&judged.health) {
        keeper.log.write(format_args!("{id} is {}", judged.health));
        keeper.changed.notify_one();
    }
    let (environment, name) = (environment.clone(), name.clone());
    let group = environments.get_mut(&environment).and_then(|found| found.groups.get_mut(&name));
    if let Some(group) = group
        && let Some(record) = group.instances.get_mut(id)
    {
        let before = std::mem::replace(record, judged);
        if before.replica != record.replica {
            let (id, now) = (record.id.clone(), record.replica.as_ref());
            group.memory.replicas.note(&id, before.replica.as_ref(), now, moment.wall);
        }
    }
    period
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cloud::local::home::Home;
    use crate::cloud::local::keeper::state::{Life, MachineHandle, Running};
    use crate::cloud::local::machine::qmp;
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
