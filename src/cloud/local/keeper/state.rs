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
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use i2kit_spec::replica::Progress;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio_util::sync::CancellationToken;

use super::addresses::Addresses;
use super::tracked::{Edition, Tracked};
use crate::cloud::CloudError;
use crate::cloud::engine::autoscale::History;
use crate::cloud::engine::environment::{Environment, GroupRecord, MachineFacts};
use crate::cloud::engine::usage::UsageHistory;
use crate::cloud::local::link::channel::Channel;
use crate::cloud::local::machine::process::MachineProcess;
use crate::cloud::local::mover::Backend;
use crate::cloud::local::network::{Attachment, Reach};
use crate::cloud::local::store::{Environments, Store};
use crate::manifest::api::{Name, Protocol};

/// For how long a commit of the records that were saved last asks nothing of the store, which would write them all down to
/// compare them. Not for ever: the store saves the clock as well.
const SAVED: Duration = Duration::from_secs(10);

/// What scalers remember, by environment and group.
pub(in crate::cloud::local) type Scalers = BTreeMap<(String, Name), History>;

/// What the lock guards.
#[derive(Debug)]
pub(in crate::cloud::local) struct State {
    /// What the database holds.
    pub(in crate::cloud::local) environments: Tracked,
    /// Machines by the names of their instances.
    pub(in crate::cloud::local) machines: HashMap<String, MachineHandle>,
    /// Which addresses machines get.
    pub(in crate::cloud::local) addresses: Addresses,
    /// What scalers of groups remember.
    pub(in crate::cloud::local) scalers: Scalers,
    /// Disks that are being deleted at present.
    removing: BTreeSet<(String, Name)>,
    /// Disks whose files are being copied, or replaced by a copy, at present.
    copying: BTreeSet<(String, Name)>,
    /// Why disks could not be deleted.
    unremoved: BTreeMap<(String, Name), String>,
    store: Store,
    /// The records that were saved last, and when.
    saved: Option<(Edition, Instant)>,
}

/// A machine, as long as this process knows of it.
#[derive(Debug)]
pub(in crate::cloud::local) struct MachineHandle {
    /// Its process, or why there is none.
    pub(in crate::cloud::local) life: Life,
    /// Its place on the network.
    pub(in crate::cloud::local) network: Attachment,
    /// Whether the ports that balancers lead to are known to accept, or were given up on.
    pub(in crate::cloud::local) ports: Ports,
    /// Connections that the mover carries to it, by its last report.
    pub(in crate::cloud::local) connections: u32,
    /// What the guest speaks over.
    pub(in crate::cloud::local) channel: Option<Channel>,
    /// Ends its health check.
    pub(in crate::cloud::local) watch: CancellationToken,
    /// What its guest reported to use.
    pub(in crate::cloud::local) usage: UsageHistory,
    /// How far its replica is, as its guest reported last.
    pub(in crate::cloud::local) replica: Option<Progress>,
    /// Whether its process was killed; one that hangs in the kernel may take its time.
    pub(in crate::cloud::local) killed: bool,
}

/// The process of a VM.
pub(in crate::cloud::local) trait Running: std::fmt::Debug + Send {
    /// The process id.
    fn pid(&self) -> u32;
    /// Whether it still runs.
    fn is_alive(&mut self) -> bool;
    /// What becomes readable when it ends, of one that need not be asked.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// The signal that ended it, when that is known.
    fn killed_by(&mut self) -> Option<i32>;
    /// Ends it at once.
    fn kill(&mut self);
}

impl Running for MachineProcess {
    fn pid(&self) -> u32 {
        Self::pid(self)
    }

    fn is_alive(&mut self) -> bool {
        Self::is_alive(self)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(Self::descriptor(self))
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
pub(in crate::cloud::local) enum Life {
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
pub(in crate::cloud::local) enum Ports {
    /// The VM was not ready yet.
    Unknown,
    /// The VM is ready since then, and not all of them accept.
    Closed(u64),
    /// They all accept, or have had their time.
    Settled,
}

impl MachineHandle {
    /// A machine with that process and nothing known of it.
    pub(in crate::cloud::local) fn new(life: Life) -> Self {
        Self {
            life,
            network: Attachment::default(),
            ports: Ports::Unknown,
            connections: 0,
            channel: None,
            watch: CancellationToken::new(),
            usage: UsageHistory::default(),
            replica: None,
            killed: false,
        }
    }
}

impl Drop for MachineHandle {
    fn drop(&mut self) {
        self.watch.cancel();
    }
}

impl State {
    /// What a database holds, and no VM yet.
    pub(in crate::cloud::local) fn new(store: Store, environments: Environments) -> Self {
        Self {
            environments: Tracked::new(environments),
            machines: HashMap::new(),
            addresses: Addresses::default(),
            scalers: Scalers::new(),
            removing: BTreeSet::new(),
            copying: BTreeSet::new(),
            unremoved: BTreeMap::new(),
            store,
            saved: None,
        }
    }

    /// Whether nothing need be looked after: there are disks at most.
    pub(in crate::cloud::local) fn is_idle(&self) -> bool {
        let at_rest =
            |found: &Environment| found.is_idle() && !found.disks.values().any(|disk| disk.deleting);
        self.environments.values().all(at_rest)
    }

    /// Which records there are, where nothing is under way in them: until something changes, only a time that comes is to be
    /// acted on.
    pub(super) fn at_rest(&self) -> Option<Edition> {
        let mut machines = self.machines.values();
        let rests = |found: &Environment| {
            found.groups.values().all(GroupRecord::is_at_rest)
                && !found.disks.values().any(|disk| disk.deleting)
        };
        let is_at_rest = machines.all(|machine| matches!(machine.life, Life::Started(_)))
            && self.copying.is_empty()
            && self.environments.values().all(rests);
        is_at_rest.then(|| self.environments.edition())
    }

    /// Whether some group is to be looked at for times alone.
    pub(super) fn awaits_a_time(&self) -> bool {
        self.environments.values().any(|found| found.groups.values().any(GroupRecord::awaits_a_time))
    }

    /// Whether the records may not be those of `before` any more, their database is gone, or a machine has ended. It takes
    /// three calls of the kernel at most, however many machines there are.
    pub(super) fn has_changed(&mut self, before: Edition) -> bool {
        self.environments.edition() != before || self.store.is_lost() || self.has_ended()
    }

    /// Whether a machine has ended, or is not there yet.
    fn has_ended(&mut self) -> bool {
        let is_gone = |machine: &mut MachineHandle| match &mut machine.life {
            Life::Started(process) => process.descriptor().is_none() && !process.is_alive(),
            Life::Starting | Life::Failed(_) => true,
        };
        if self.machines.values_mut().any(is_gone) {
            return true;
        }
        let mut ends = Vec::with_capacity(self.machines.len());
        for machine in self.machines.values() {
            let Life::Started(process) = &machine.life else { continue };
            ends.extend(process.descriptor().map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)));
        }
        // Whoever cannot find out has a round look at each.
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut ends, Some(&now)), Ok(0))
    }

    /// Begins to copy the file of a disk that no machine has: none is started with it until [`Self::end_copy`].
    pub(in crate::cloud::local) fn begin_copy(&mut self, environment: &str, disk: &Name) {
        self.copying.insert((environment.to_owned(), disk.clone()));
    }

    /// The copy has ended, whichever way.
    pub(in crate::cloud::local) fn end_copy(&mut self, environment: &str, disk: &Name) {
        self.copying.remove(&(environment.to_owned(), disk.clone()));
    }

    /// Disks that are being copied.
    pub(super) fn copying(&self) -> &BTreeSet<(String, Name)> {
        &self.copying
    }

    /// Begins to delete a disk; whether nobody does yet.
    pub(super) fn begin_removal(&mut self, environment: &str, disk: &Name) -> bool {
        self.removing.insert((environment.to_owned(), disk.clone()))
    }

    /// The deletion of a disk has ended. When the disk is gone its record goes with it: whoever makes one of its name from
    /// now on makes another.
    pub(super) fn end_removal(&mut self, environment: &str, disk: &Name, failure: Option<String>) {
        let name = (environment.to_owned(), disk.clone());
        self.removing.remove(&name);
        self.unremoved.remove(&name);
        if let Some(failure) = failure {
            self.unremoved.insert(name, failure);
        } else if let Some(found) = self.environments.get_mut(environment) {
            found.disks.remove(disk);
        }
    }

    /// Why a disk could not be deleted when that was tried last; asked for once.
    pub(in crate::cloud::local) fn removal_failure(
        &mut self,
        environment: &str,
        disk: &Name,
    ) -> Option<String> {
        self.unremoved.remove(&(environment.to_owned(), disk.clone()))
    }

    /// Whether an environment has a VM of that name.
    pub(in crate::cloud::local) fn knows(&self, environment: &str, instance: &str) -> bool {
        let groups = self.environments.get(environment).map(|environment| environment.groups.values());
        groups.into_iter().flatten().any(|group| group.instances.contains_key(instance))
    }

    /// Whether a VM is there: its process runs or is about to.
    pub(in crate::cloud::local) fn is_alive(&mut self, id: &str) -> bool {
        match self.machines.get_mut(id).map(|machine| &mut machine.life) {
            Some(Life::Starting) => true,
            Some(Life::Started(process)) => process.is_alive(),
            Some(Life::Failed(_)) | None => false,
        }
    }

    /// The machine that has the disk, and the disk's number in it.
    pub(in crate::cloud::local) fn holder(
        &mut self,
        environment: &str,
        disk: &Name,
    ) -> Option<(String, usize)> {
        let (id, number) = {
            let found = self.environments.get(environment)?;
            let (group, record) = found.holder(disk)?;
            let number = found.groups.get(group)?.disks_of(group, record).position(|name| name == *disk)?;
            (record.id.to_string(), number)
        };
        self.is_alive(&id).then_some((id, number))
    }

    /// What is known of each VM right now.
    pub(in crate::cloud::local) fn facts(&mut self) -> HashMap<String, MachineFacts> {
        let facts = |machine: &mut MachineHandle| {
            let (alive, pid) = match &mut machine.life {
                Life::Starting => (true, None),
                Life::Started(process) => (process.is_alive(), Some(process.pid())),
                Life::Failed(_) => (false, None),
            };
            MachineFacts {
                alive,
                pid: pid.filter(|_| alive),
                connections: machine.connections,
                endpoints: if alive { machine.network.endpoints() } else { Vec::new() },
                ..MachineFacts::default()
            }
        };
        self.machines.iter_mut().map(|(id, machine)| (id.clone(), facts(machine))).collect()
    }

    /// Takes over how many connections the mover carries to each machine.
    pub(in crate::cloud::local) fn set_connections(&mut self, counts: &BTreeMap<String, u32>) {
        for (id, machine) in &mut self.machines {
            machine.connections = counts.get(id).copied().unwrap_or_default();
        }
    }

    /// Saves `next`, and only then makes it what is true. After an error everything is as before.
    pub(in crate::cloud::local) fn commit(&mut self, mut next: Environments) -> Result<(), CloudError> {
        next.retain(|_, environment| !environment.is_empty());
        if self.store.is_lost() {
            self.store.restore(&self.environments)?;
        }
        let edition = self.environments.edition();
        let is_saved = self.saved.is_some_and(|(saved, at)| saved == edition && at.elapsed() < SAVED);
        if is_saved && *self.environments == next {
            return Ok(());
        }
        // What an attempt that fails has written nobody knows.
        self.saved = None;
        self.store.save(&next)?;
        self.environments.replace(next);
        self.saved = Some((self.environments.edition(), Instant::now()));
        Ok(())
    }

    /// Closes the database, as the end of the process does.
    #[cfg(test)]
    pub(in crate::cloud::local) fn close(&mut self) {
        self.store.close();
    }

    /// Writes the database anew where somebody removed it; whether that was so.
    pub(in crate::cloud::local) fn mend(&mut self) -> Result<bool, CloudError> {
        let is_lost = self.store.is_lost();
        if is_lost {
            self.store.restore(&self.environments)?;
        }
        Ok(is_lost)
    }

    /// Changes environments and stores the change.
    pub(in crate::cloud::local) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Environments) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let mut next = self.environments.clone();
        let result = change(&mut next)?;
        self.commit(next)?;
        Ok(result)
    }

    /// TCP ports of the VM that balancers lead to, and where they are reached.
    pub(in crate::cloud::local) fn targets(&self, id: &str) -> Vec<(u16, Reach)> {
        let owner = |environment: &&Environment| {
            environment.groups.values().any(|group| group.instances.contains_key(id))
        };
        let Some(environment) = self.environments.values().find(owner) else { return Vec::new() };
        let targets = environment.balancers.values().flat_map(|balancer| balancer.spec.ports());
        targets
            .filter(|(_, protocol)| *protocol == Protocol::Tcp)
            .map(|(target, _)| target)
            .filter(|target| {
                environment.groups.get(&target.group).is_some_and(|group| group.instances.contains_key(id))
            })
            .filter_map(|target| {
                let reach = self.machines.get(id)?.network.reach(target.port, Protocol::Tcp)?;
                Some((target.port, reach))
            })
            .collect()
    }

    /// Processes of an environment's VMs that have addresses: they run in the environment's network.
    pub(in crate::cloud::local) fn processes(&self, environment: &str) -> Vec<u32> {
        let groups = self.environments.get(environment).map(|environment| environment.groups.values());
        let records = groups.into_iter().flatten().flat_map(|group| group.instances.values());
        let ids = records.filter(|record| record.address.is_some()).map(|record| &record.id);
        ids.filter_map(|id| match &self.machines.get(&**id)?.life {
            Life::Started(process) => Some(process.pid()),
            Life::Starting | Life::Failed(_) => None,
        })
        .collect()
    }

    /// Healthy VMs behind each listener.
    pub(in crate::cloud::local) fn backends(
        &self,
        environment: &Environment,
        group: &Name,
        port: (u16, Protocol),
    ) -> Vec<Backend> {
        let Some(group) = environment.groups.get(group) else { return Vec::new() };
        let serving = group.instances.values().filter(|record| record.serves());
        serving
            .filter_map(|record| {
                let address = self.machines.get(&*record.id)?.network.address(port.0, port.1)?;
                Some(Backend { machine: record.id.to_string(), address })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::cloud::local::store::{self, Faults, SaveMoment};

    #[test]
    fn what_a_save_that_failed_has_written_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        let failing = Arc::clone(&fails);
        store.faults = Faults(Some(Arc::new(move |moment| {
            let fails = moment == SaveMoment::AfterSave && failing.swap(false, Ordering::Relaxed);
            if fails { Err(CloudError::Injected("after the save".into())) } else { Ok(()) }
        })));
        let mut state = State::new(store, Environments::new());
        state.commit(store::sample()).unwrap();
        fails.store(true, Ordering::Relaxed);
        let shrunk = state.change(|environments| {
            for found in environments.values_mut() {
                found.groups.clear();
            }
            Ok(())
        });
        assert!(shrunk.is_err() && *state.environments == store::sample());
        // Nothing was decided, and all is as it was: also in the database.
        state.commit(store::sample()).unwrap();
        state.close();
        let (_, read) = Store::open(&path, || Ok(())).unwrap();
        assert_eq!(read, store::sample());
    }
}
