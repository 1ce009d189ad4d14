//! The state of the local cloud behind one lock: environments, their database, and the VMs that run.
//!
//! What is decided, by a verb or by the control loop, is decided on a copy, saved, and only then true ([`State::commit`]):
//! a save that fails has changed nothing. What follows from it is done afterwards. What is merely observed (health,
//! containers, boot ids) is written into the records at once and saved with the next decision.
//!
//! The lock is held while a save is written, so that nobody decides from what is about to be replaced; everything else
//! that blocks is done without it. A save is a few pages, and what waits for it meanwhile are the API and health checks,
//! no connection of a balancer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::home::Home;
use super::link::channel::Channel;
use super::log::Log;
use super::lost;
use super::machine::accelerator;
use super::machine::process::Process;
use super::mover::admission::Shares;
use super::mover::{Backend, ListenerId, Mover};
use super::network::Attachment;
use super::store::{Environments, Store};
use super::supervise::Tasks;
use crate::cloud::CloudError;
use crate::cloud::environment::{Environment, Facts};
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{Accelerator, Fleet, Listener};

/// The local cloud's process, as all its parts see it.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Folders.
    pub(super) home: Home,
    /// The log file.
    pub(super) log: Arc<Log>,
    /// Long tasks that fail at present.
    pub(super) tasks: Arc<Tasks>,
    /// What carries traffic.
    pub(super) mover: Mover,
    /// Told after every change, so that the control loop need not wait for its next tick.
    pub(super) changed: Notify,
    /// Cancelled when the process is to end.
    pub(super) ending: CancellationToken,
    /// Held while images are put or swept, so that none is swept before its environment names it.
    pub(super) images: tokio::sync::Mutex<()>,
    /// The clock that decides.
    pub(super) clock: Arc<Clock>,
    accelerator: OnceLock<Accelerator>,
    state: Mutex<State>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct State {
    /// What the database holds.
    pub(super) environments: Environments,
    /// VMs by name.
    pub(super) vms: HashMap<String, Vm>,
    store: Store,
}

/// A VM, as long as this process knows of it.
#[derive(Debug)]
pub(super) struct Vm {
    /// Its process, or why there is none.
    pub(super) life: Life,
    /// Its place on the network.
    pub(super) network: Attachment,
    /// Whether the ports that balancers lead to are known to accept, or were given up on.
    pub(super) ports: Ports,
    /// Connections that the mover carries to it, by its last report.
    pub(super) connections: u32,
    /// What the guest speaks over.
    pub(super) channel: Option<Channel>,
    /// Ends its health check.
    pub(super) watch: CancellationToken,
    /// Whether its process was killed; one that hangs in the kernel may take its time.
    pub(super) killed: bool,
}

/// The process of a VM.
pub(super) trait Running: std::fmt::Debug + Send {
    /// The process id.
    fn pid(&self) -> u32;
    /// Whether it still runs.
    fn is_alive(&mut self) -> bool;
    /// The signal that ended it, when that is known.
    fn killed_by(&mut self) -> Option<i32>;
    /// Ends it at once.
    fn kill(&mut self);
}

impl Running for Process {
    fn pid(&self) -> u32 {
        Self::pid(self)
    }

    fn is_alive(&mut self) -> bool {
        Self::is_alive(self)
    }

    fn killed_by(&mut self) -> Option<i32> {
        Self::killed_by(self)
    }

    fn kill(&mut self) {
        Self::kill(self);
    }
}

/// Where a VM's process is.
#[derive(Debug)]
pub(super) enum Life {
    /// About to be started.
    Starting,
    /// Started, or adopted.
    Started(Box<dyn Running>),
    /// Could not be started.
    Failed(String),
}

/// What is known of the ports behind a balancer. A container that runs is not yet a server that listens, and without a
/// readiness probe nobody else would notice the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    /// The VM was not ready yet.
    Unknown,
    /// The VM is ready since then, and not all of them accept.
    Closed(u64),
    /// They all accept, or have had their time.
    Settled,
}

impl Vm {
    /// A VM with that process and nothing known of it.
    pub(super) fn new(life: Life) -> Self {
        Self {
            life,
            network: Attachment::default(),
            ports: Ports::Unknown,
            connections: 0,
            channel: None,
            watch: CancellationToken::new(),
            killed: false,
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.watch.cancel();
    }
}

/// Does something that blocks, such as a save, while other tasks of the process go on.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    // A runtime of one thread has no other thread to go on with; the local cloud's has.
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

impl State {
    /// What a database holds, and no VM yet.
    pub(super) fn new(store: Store, environments: Environments) -> Self {
        Self { environments, vms: HashMap::new(), store }
    }

    /// Whether an environment has a VM of that name.
    pub(super) fn knows(&self, environment: &str, instance: &str) -> bool {
        let groups = self.environments.get(environment).map(|environment| environment.groups.values());
        groups.into_iter().flatten().any(|group| group.instances.contains_key(instance))
    }

    /// Whether a VM is there: its process runs or is about to.
    pub(super) fn is_alive(&mut self, id: &str) -> bool {
        match self.vms.get_mut(id).map(|vm| &mut vm.life) {
            Some(Life::Starting) => true,
            Some(Life::Started(process)) => process.is_alive(),
            Some(Life::Failed(_)) | None => false,
        }
    }

    /// What is known of each VM right now.
    pub(super) fn facts(&mut self) -> HashMap<String, Facts> {
        let facts = |vm: &mut Vm| {
            let (alive, pid) = match &mut vm.life {
                Life::Starting => (true, None),
                Life::Started(process) => (process.is_alive(), Some(process.pid())),
                Life::Failed(_) => (false, None),
            };
            Facts {
                alive,
                pid: pid.filter(|_| alive),
                connections: vm.connections,
                endpoints: if alive { vm.network.endpoints() } else { Vec::new() },
                succeeded: false,
            }
        };
        self.vms.iter_mut().map(|(id, vm)| (id.clone(), facts(vm))).collect()
    }

    /// Takes over how many connections the mover carries to each machine.
    pub(super) fn set_connections(&mut self, counts: &BTreeMap<String, u32>) {
        for (id, vm) in &mut self.vms {
            vm.connections = counts.get(id).copied().unwrap_or_default();
        }
    }

    /// Saves `next`, and only then makes it what is true. After an error everything is as before.
    pub(super) fn commit(&mut self, mut next: Environments) -> Result<(), CloudError> {
        next.retain(|_, environment| !environment.is_empty());
        if self.store.is_lost() {
            self.store.restore(&self.environments)?;
        }
        self.store.save(&next)?;
        self.environments = next;
        Ok(())
    }

    /// Writes the database anew where somebody removed it; whether that was so.
    pub(super) fn mend(&mut self) -> Result<bool, CloudError> {
        let is_lost = self.store.is_lost();
        if is_lost {
            self.store.restore(&self.environments)?;
        }
        Ok(is_lost)
    }

    /// Changes environments and stores the change.
    pub(super) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Environments) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let mut next = self.environments.clone();
        let result = change(&mut next)?;
        self.commit(next)?;
        Ok(result)
    }

    /// TCP ports of the VM that balancers lead to, and where they are reached.
    pub(super) fn targets(&self, id: &str) -> Vec<(u16, SocketAddr)> {
        let owner = |environment: &&Environment| {
            environment.groups.values().any(|group| group.instances.contains_key(id))
        };
        let Some(environment) = self.environments.values().find(owner) else { return Vec::new() };
        let listeners = environment.balancers.values().flat_map(|balancer| &balancer.spec.listeners);
        let targets =
            listeners.filter(|listener| listener.protocol == Protocol::Tcp).flat_map(|l| &l.targets);
        targets
            .filter(|target| {
                environment.groups.get(&target.group).is_some_and(|group| group.instances.contains_key(id))
            })
            .filter_map(|target| {
                let address = self.vms.get(id)?.network.address(target.port, Protocol::Tcp)?;
                Some((target.port, address))
            })
            .collect()
    }

    /// Healthy VMs behind each listener.
    pub(super) fn backends(
        &self,
        environment: &Environment,
        group: &Name,
        port: (u16, Protocol),
    ) -> Vec<Backend> {
        let Some(group) = environment.groups.get(group) else { return Vec::new() };
        let serving = group.instances.values().filter(|record| record.serves());
        serving
            .filter_map(|record| {
                let address = self.vms.get(&record.id)?.network.address(port.0, port.1)?;
                Some(Backend { machine: record.id.clone(), address })
            })
            .collect()
    }
}

impl Keeper {
    /// Opens the database. One that is not there, or is empty, is a new one only where nothing tells of VMs. Traffic is
    /// served with these shares of descriptors.
    pub(super) fn open(home: Home, shares: Shares) -> Result<Self, CloudError> {
        let log = Arc::new(Log::open(&home.log())?);
        let tasks = Arc::<Tasks>::default();
        let (store, environments) = Store::open(&home.database(), || lost::nothing(&home))?;
        if environments.is_empty() {
            // A database without rows that was made in the place of a lost one, and a kill before they were written.
            lost::none_runs(&home)?;
        }
        Ok(Self {
            home,
            mover: Mover::new(shares, &tasks, &log),
            log,
            tasks,
            changed: Notify::new(),
            ending: CancellationToken::new(),
            images: tokio::sync::Mutex::new(()),
            clock: Arc::clone(store.clock()),
            accelerator: OnceLock::new(),
            state: Mutex::new(State::new(store, environments)),
        })
    }

    /// The state. Nothing that may panic is done while it is locked; if something did, the state is still whole.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A save may be under way: who waits for it must not keep a thread that carries traffic.
            Err(TryLockError::WouldBlock) => {
                blocking(|| self.state.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Changes an environment and stores the change; an environment that does not exist yet is an empty one. After an
    /// error nothing was changed.
    pub(super) fn change<T>(
        &self,
        environment: &str,
        change: impl FnOnce(&mut Environment) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        self.change_all(|environments| change(environments.entry(environment.to_owned()).or_default()))
    }

    /// The same for a change that looks at other environments too.
    pub(super) fn change_all<T>(
        &self,
        change: impl FnOnce(&mut Environments) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let result = blocking(|| self.state().change(change))?;
        self.changed.notify_one();
        Ok(result)
    }

    /// The fleet of an environment.
    pub(super) fn fleet(&self, name: &str) -> Fleet {
        let mut report = self.mover.report();
        let mut state = self.state();
        state.set_connections(&report.connections);
        let facts = state.facts();
        let empty = Environment::default();
        let environment = state.environments.get(name).unwrap_or(&empty);
        let bound = |balancer: &Name| {
            let listeners = environment.balancers.get(balancer).map(|balancer| &balancer.spec.listeners);
            let id = |listener: &Listener| ListenerId {
                environment: name.to_owned(),
                service: balancer.clone(),
                port: listener.port,
                protocol: listener.protocol,
            };
            listeners.into_iter().flatten().map(|listener| report.bound.get(&id(listener)).copied()).collect()
        };
        let facts = |id: &str| facts.get(id).cloned().unwrap_or_default();
        let mut fleet = environment.fleet(name, &facts, &bound, self.clock.now().steady);
        fleet.warnings.extend(report.warnings.remove(name).unwrap_or_default());
        fleet.warnings.extend(self.tasks.failing());
        fleet
    }

    /// What VMs run on. Blocks for as long as it takes to find out.
    pub(super) fn accelerator(&self) -> Accelerator {
        *self.accelerator.get_or_init(|| {
            let found = accelerator::find(&self.home);
            self.log.say(format_args!("VMs run on {found}"));
            found
        })
    }

    /// Versions of Secrets that some revision names.
    pub(super) fn secret_versions(&self) -> BTreeSet<String> {
        let state = self.state();
        let groups = state.environments.values().flat_map(|environment| environment.groups.values());
        let launches = groups.flat_map(|group| &group.revisions).map(|revision| &revision.launch);
        launches.flat_map(|launch| launch.secrets.values().flatten().cloned()).collect()
    }

    /// Where an image lies, for every image that some environment names.
    pub(super) fn image_folders(&self) -> BTreeSet<PathBuf> {
        let state = self.state();
        let images = state.environments.values().flat_map(|environment| &environment.images);
        images.map(|image| self.home.image(*image)).collect()
    }
}
