//! One step of the control loop: what is decided about every group, on a copy of the records. Nothing is read, written
//! or done here.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};

use i2kit_spec::{Bytes, PodEnd};

use super::addresses::Addresses;
use super::state::{Life, MachineHandle, Scalers, State};
use crate::cloud::CloudError;
use crate::cloud::engine::autoscale::{Pod, look, remember};
use crate::cloud::engine::environment::{Environment, GroupRecord, InstanceRecord, MachineFacts};
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::reconcile::{Action, Blame, Decision, GroupMemory, MemberPlace, decide};
use crate::cloud::engine::usage::Capacity;
use crate::cloud::local::store::Environments;
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{Fleet, Health, InstanceId, InstanceState, LaunchSpec, member_name};

/// Something to be done to a VM once it was saved that it is done.
#[derive(Debug)]
pub(in crate::cloud::local) enum Effect {
    /// Start it.
    Launch(Box<Launch>),
    /// It is not started, for this reason.
    Refuse { id: String, reason: String },
    /// Add a forward.
    Forward { id: String, port: (u16, Protocol) },
    /// Press its power button.
    PowerOff { id: String },
    /// End its process.
    Kill { id: String },
    /// It ended: look after it no more.
    Dismiss { id: String },
    /// Remove its folder, and forget its environment and address.
    Remove { id: String, address: Option<(String, Ipv4Addr)> },
    /// Delete a disk that nothing has.
    RemoveDisk { environment: String, disk: Name },
}

/// A VM that is to be started.
#[derive(Debug)]
pub(in crate::cloud::local) struct Launch {
    /// Its environment.
    pub(in crate::cloud::local) environment: String,
    /// Its name.
    pub(in crate::cloud::local) id: String,
    /// Its index, when it is one of an Indexed Job.
    pub(in crate::cloud::local) index: Option<u32>,
    /// What it is started from.
    pub(in crate::cloud::local) spec: LaunchSpec,
    /// Ports to forward, or to show.
    pub(in crate::cloud::local) ports: Vec<(u16, Protocol)>,
    /// Its address in the environment's network, where it has one.
    pub(in crate::cloud::local) address: Option<Ipv4Addr>,
    /// Its address of IPv6 there, where it has one.
    pub(in crate::cloud::local) address6: Option<Ipv6Addr>,
    /// What its guest calls itself.
    pub(in crate::cloud::local) name: String,
    /// Its disks that outlive it, in the order of their numbers.
    pub(in crate::cloud::local) disks: Vec<Name>,
    /// Whether it may start from a template, and leave one: no machine of a Job, which may have ended before one is there.
    pub(in crate::cloud::local) with_templates: bool,
}

/// What a VM left in its folder, as far as decisions need it.
#[derive(Debug, Clone, Default)]
pub(in crate::cloud::local) struct Words {
    /// How its pod ended, once its guest has said so.
    pub(in crate::cloud::local) end: Option<PodEnd>,
    /// Why it ended, in one line.
    pub(in crate::cloud::local) ending: String,
    /// Its last lines.
    pub(in crate::cloud::local) tail: Vec<String>,
}

/// What was read of VMs, by name.
pub(in crate::cloud::local) type Read = BTreeMap<String, Words>;

/// Where a step led to.
#[derive(Debug)]
pub(in crate::cloud::local) enum Stepped {
    /// These VMs' words are needed first, which are read without the lock; with why each ended, where that is known.
    Unread(BTreeMap<String, Option<String>>),
    /// What was decided is saved and is to be done; with what the log says of it.
    Decided(Vec<Effect>, Vec<String>),
}

impl State {
    /// Decides about every group and saves what was decided. After an error nothing was decided.
    pub(in crate::cloud::local) fn step(&mut self, read: &Read, now: Moment) -> Result<Stepped, CloudError> {
        let facts = self.facts();
        let step = Step {
            facts: &facts,
            machines: &self.machines,
            addresses: &self.addresses,
            copying: self.copying(),
            read,
            unread: RefCell::default(),
            now,
            next: self.environments.clone(),
            scalers: self.scalers.clone(),
            effects: Vec::new(),
            log: Vec::new(),
        };
        let (unread, decided) = step.run();
        if !unread.is_empty() {
            return Ok(Stepped::Unread(unread.into_iter().map(|id| (id.clone(), self.death(&id))).collect()));
        }
        self.commit(decided.next)?;
        self.scalers = decided.scalers;
        Ok(Stepped::Decided(decided.effects, decided.log))
    }

    /// Why a VM runs no more, where this process knows.
    fn death(&mut self, id: &str) -> Option<String> {
        match self.machines.get_mut(id).map(|machine| &mut machine.life) {
            Some(Life::Failed(reason)) => Some(reason.clone()),
            Some(Life::Started(process)) => {
                process.killed_by().map(|signal| format!("the VM's process was killed by signal {signal}"))
            }
            _ => None,
        }
    }

    /// Begins an effect that was saved: what only needs the lock is done; what is left to do is returned.
    pub(in crate::cloud::local) fn begin(&mut self, effect: Effect) -> Option<Effect> {
        match &effect {
            Effect::Launch(launch) => {
                self.machines.insert(launch.id.clone(), MachineHandle::new(Life::Starting));
            }
            Effect::Refuse { id, reason } => {
                self.machines.insert(id.clone(), MachineHandle::new(Life::Failed(reason.clone())));
                return None;
            }
            Effect::Forward { .. } => {}
            Effect::RemoveDisk { environment, disk } => {
                if !self.begin_removal(environment, disk) {
                    return None;
                }
            }
            Effect::PowerOff { id } => {
                let unborn = self.record(id).is_some_and(|record| !record.answered);
                match self.machines.get_mut(id).map(|machine| &mut machine.life) {
                    // A guest that never spoke does not hear the button yet, and has nothing to bring to an end.
                    Some(Life::Started(process)) if unborn => {
                        process.kill();
                        return None;
                    }
                    Some(Life::Started(_)) => {}
                    // One that is about to be started is ended then.
                    _ => return None,
                }
            }
            Effect::Kill { id } => {
                if let Some(machine) = self.machines.get_mut(id)
                    && let Life::Started(process) = &mut machine.life
                {
                    process.kill();
                    machine.killed = true;
                }
                return None;
            }
            Effect::Dismiss { id } => {
                self.machines.remove(id);
                return None;
            }
            Effect::Remove { id, address } => {
                self.machines.remove(id);
                if let Some((environment, address)) = address {
                    self.addresses.free(environment, *address);
                }
            }
        }
        Some(effect)
    }
}

/// A step under way.
struct Step<'s> {
    facts: &'s HashMap<String, MachineFacts>,
    machines: &'s HashMap<String, MachineHandle>,
    addresses: &'s Addresses,
    copying: &'s BTreeSet<(String, Name)>,
    read: &'s Read,
    unread: RefCell<BTreeSet<String>>,
    now: Moment,
    next: Environments,
    scalers: Scalers,
    effects: Vec<Effect>,
    log: Vec<String>,
}

/// What a step decided.
struct Decided {
    next: Environments,
    scalers: Scalers,
    effects: Vec<Effect>,
    log: Vec<String>,
}

impl Step<'_> {
    fn run(mut self) -> (BTreeSet<String>, Decided) {
        let names: Vec<(String, Name)> = self
            .next
            .iter()
            .flat_map(|(environment, found)| {
                found.groups.keys().map(|name| (environment.clone(), name.clone()))
            })
            .collect();
        for (environment, name) in names {
            self.scale(&environment, &name);
            self.group(&environment, &name);
        }
        for (environment, found) in &self.next {
            let doomed = found.disks.iter().filter(|(_, disk)| disk.deleting);
            self.effects.extend(doomed.map(|(disk, _)| Effect::RemoveDisk {
                environment: environment.clone(),
                disk: disk.clone(),
            }));
        }
        let Self { unread, next, mut scalers, effects, log, .. } = self;
        scalers.retain(|(environment, name), _| {
            let group = next.get(environment).and_then(|found| found.groups.get(name));
            group.is_some_and(|group| group.settings.scaling.is_some())
        });
        (unread.into_inner(), Decided { next, scalers, effects, log })
    }

    /// Has the group's scaler look, where it has one and the time has come.
    fn scale(&mut self, environment_name: &str, name: &Name) {
        let group = self.next.get_mut(environment_name).and_then(|found| found.groups.get_mut(name));
        let Some(group) = group.filter(|group| !group.memory.deleting) else { return };
        let Some(scaling) = &group.settings.scaling else { return };
        let history = self.scalers.entry((environment_name.to_owned(), name.clone())).or_default();
        if !history.is_due(self.now.steady) {
            return;
        }
        let scaling = scaling.at_most(group.most_members());
        let pods = pods(group, self.facts, self.machines, self.now.steady);
        let found = look(&scaling, group.replicas, &group.memory.rescales, history, &pods, self.now);
        if let Some(rescale) = found {
            self.log.push(format!("{name}: {rescale}"));
            group.replicas = rescale.to;
            remember(&mut group.memory.rescales, rescale);
        }
    }

    /// What a VM left; what was not read yet is noted.
    fn words(&self, id: &str) -> Words {
        self.read.get(id).cloned().unwrap_or_else(|| {
            self.unread.borrow_mut().insert(id.to_owned());
            Words::default()
        })
    }

    fn facts(&self, id: &str) -> MachineFacts {
        self.facts.get(id).cloned().unwrap_or_default()
    }

    fn group(&mut self, environment_name: &str, name: &Name) {
        let Some(record) = self.next.get(environment_name).and_then(|found| found.groups.get(name)) else {
            return;
        };
        let mut view = record.view(&|id| self.facts(id));
        if view.settings.job.is_some() {
            for machine in view
                .vms
                .iter_mut()
                .filter(|machine| machine.state == InstanceState::Running && !machine.alive)
            {
                let Some(end) = self.words(&machine.id).end else { continue };
                machine.succeeded = end.succeeded;
                machine.exits = end.containers.into_iter().map(|end| (end.name, end.exit_code)).collect();
            }
        }
        let mut decision = decide(&view, self.now);
        decision.actions.retain(|action| !self.waits_for_disk(environment_name, name, action));
        if let Some(Blame { id, run }) = &decision.blame
            && let Some(reason) = decision.memory.reason_mut(*run)
            && let Some(blamed) = record.instances.get(id)
        {
            let left = self.words(id);
            let ended = (!self.facts(id).alive).then_some(left.ending.as_str());
            *reason = format!("{reason}: {id} is {}\n{}", blamed.complaint(ended), left.tail.join("\n"));
        }
        let before = record.memory.clone();
        self.report(name, &before, &decision);
        if let Some(environment) = self.next.get_mut(environment_name) {
            environment.remember(name, &decision, self.now);
        }
        for action in &decision.actions {
            self.take(environment_name, name, action);
        }
        let Some(environment) = self.next.get_mut(environment_name) else { return };
        if environment.groups.get(name).is_some_and(|g| g.memory.deleting && g.instances.is_empty()) {
            environment.remove_group(name);
            return;
        }
        self.forwards(environment_name, name);
    }

    /// Whether a VM that is to be started waits for a disk of it, whose file is being copied or deleted. Starting it would fail,
    /// and count as a fault of its revision.
    fn waits_for_disk(&self, environment: &str, group: &Name, action: &Action) -> bool {
        let Action::Launch { revision, place } = action else { return false };
        let Some(found) = self.next.get(environment) else { return false };
        let launch = found.groups.get(group).and_then(|record| record.revision(*revision));
        let disks = launch.into_iter().flat_map(|revision| &revision.launch.disks);
        let mut names = disks.map(|disk| disk.name(group, place.ordinal));
        names.any(|name| {
            found.disks.get(&name).is_some_and(|disk| disk.deleting)
                || self.copying.contains(&(environment.to_owned(), name))
        })
    }

    /// Asks for forwards that VMs lack: of ports that a balancer was led to after they had been started.
    fn forwards(&mut self, environment_name: &str, name: &Name) {
        let Some(environment) = self.next.get(environment_name) else { return };
        let Some(record) = environment.groups.get(name) else { return };
        for instance in record.instances.values().filter(|instance| instance.state == InstanceState::Running)
        {
            let Some(revision) = record.revision(instance.revision) else { continue };
            let Some(machine) = self.machines.get(&*instance.id) else { continue };
            for port in machine.network.missing(environment.ports(name, &revision.launch)) {
                self.effects.push(Effect::Forward { id: instance.id.to_string(), port });
            }
        }
    }

    /// What an operator wants to read afterwards.
    fn report(&mut self, name: &Name, before: &GroupMemory, decision: &Decision) {
        let actions = decision.actions.iter().filter(|action| match action {
            Action::Forget { .. } => false,
            // It is decided again and again until the process is gone.
            Action::Kill { id } => !self.machines.get(&**id).is_some_and(|machine| machine.killed),
            _ => true,
        });
        self.log.extend(actions.map(|action| format!("{name}: {action:?}")));
        let before = before.outcomes();
        let is_new =
            |found: &str, status| !before.iter().any(|(name, was, _)| name == found && *was == status);
        for (found, status, reason) in decision.memory.outcomes() {
            if is_new(&found, status) {
                self.log.push(format!("{name}: {found} {status} {}", reason.unwrap_or_default()));
            }
        }
    }

    /// Takes an action over into the records, with the effect that it leads to.
    fn take(&mut self, environment_name: &str, name: &Name, action: &Action) {
        let (id, now) = match action {
            Action::Launch { revision, place } => {
                return self.launch(environment_name, name, *revision, *place);
            }
            Action::Drain { id, .. }
            | Action::PowerOff { id }
            | Action::Kill { id }
            | Action::End { id }
            | Action::Forget { id } => (id.to_string(), self.now.steady),
        };
        let left = if let Action::End { .. } = action { self.words(&id) } else { Words::default() };
        let group = self.next.get_mut(environment_name).and_then(|found| found.groups.get_mut(name));
        let Some(group) = group else { return };
        if let Action::Forget { .. } = action {
            let gone = group.instances.remove(id.as_str());
            let address =
                gone.as_ref().and_then(|record| Some((environment_name.to_owned(), record.address?)));
            self.effects.push(Effect::Remove { id, address });
            // Of one that ended before, it was decided then.
            let gone = gone.filter(|record| record.state != InstanceState::Ended);
            self.scaled_away(environment_name, name, gone.and_then(|record| record.ordinal));
            return;
        }
        let revision = group.instances.get(id.as_str()).and_then(|record| group.revision(record.revision));
        let containers = revision.map(|revision| revision.launch.containers.clone()).unwrap_or_default();
        let Some(record) = group.instances.get_mut(id.as_str()) else { return };
        match action {
            Action::Drain { failed, .. } => {
                record.failed |= *failed;
                record.enter(InstanceState::Draining, now);
            }
            Action::PowerOff { .. } => {
                record.enter(InstanceState::Stopping, now);
                self.effects.push(Effect::PowerOff { id });
            }
            Action::Kill { .. } => self.effects.push(Effect::Kill { id }),
            Action::End { .. } => {
                record.end(left.ending, left.end.as_ref(), &containers, now);
                let ordinal = record.ordinal;
                self.effects.push(Effect::Dismiss { id });
                self.scaled_away(environment_name, name, ordinal);
            }
            Action::Launch { .. } | Action::Forget { .. } => {}
        }
    }

    /// A member is gone: its disks may go with it.
    fn scaled_away(&mut self, environment: &str, group: &Name, ordinal: Option<u32>) {
        if let Some(environment) = self.next.get_mut(environment) {
            environment.scaled_away(group, ordinal);
        }
    }

    fn launch(&mut self, environment_name: &str, name: &Name, revision: u32, place: MemberPlace) {
        let MemberPlace { ordinal, run } = place;
        let Some(environment) = self.next.get(environment_name) else { return };
        let Some(group) = environment.groups.get(name) else { return };
        let Some(spec) = group.revision(revision).map(|revision| revision.launch.clone()) else { return };
        let ports = environment.ports(name, &spec);
        let called = ordinal.map(|ordinal| member_name(name, ordinal));
        let head = called.clone().unwrap_or_else(|| format!("{}-{revision}", name.name));
        let id = new_id(&head, |id| self.machines.contains_key(id) || record_of(&self.next, id).is_some());
        let address = self.addresses.choose(environment_name, environment);
        let given = address.as_ref().ok().copied().flatten();
        let address6 =
            given.and_then(|address| self.addresses.choose6(environment_name, environment, address));
        let Some(environment) = self.next.get_mut(environment_name) else { return };
        if !environment.claim_for_member(name, ordinal, &spec, self.now) {
            // A disk of it is being deleted: the next one is made when that is done.
            return;
        }
        let Some(group) = environment.groups.get_mut(name) else { return };
        let record = InstanceRecord {
            ordinal,
            run,
            address: given,
            address6,
            ..InstanceRecord::new(InstanceId(id.clone()), revision, self.now)
        };
        group.instances.insert(record.id.clone(), record);
        let address = match address {
            Ok(address) => address,
            Err(reason) => {
                self.log.push(format!("{id}: {reason}"));
                return self.effects.push(Effect::Refuse { id, reason });
            }
        };
        let (environment, index) = (environment_name.to_owned(), run.and_then(|run| run.index));
        let disks = spec.disks.iter().map(|disk| disk.name(name, ordinal)).collect();
        // A host name, which Kubernetes cuts too.
        let called: String = called.unwrap_or_else(|| id.clone()).chars().take(63).collect();
        let called = called.trim_end_matches('-').to_owned();
        let launch = Launch {
            environment,
            id,
            index,
            with_templates: run.is_none() && !spec.no_snapshot,
            spec,
            ports,
            address,
            address6,
            name: called,
            disks,
        };
        self.effects.push(Effect::Launch(Box::new(launch)));
    }
}

/// The group's machines as its scaler sees them.
fn pods(
    group: &GroupRecord,
    facts: &HashMap<String, MachineFacts>,
    machines: &HashMap<String, MachineHandle>,
    now: u64,
) -> Vec<Pod> {
    let running = group.instances.values().filter(|record| record.state == InstanceState::Running);
    let alive = running.filter(|record| facts.get(&*record.id).is_some_and(|facts| facts.alive));
    let pod = |record: &InstanceRecord| {
        let launch = &group.revision(record.revision)?.launch;
        let capacity = capacity(launch);
        let machine = machines.get(&*record.id);
        Some(Pod {
            started: record.started,
            answered: record.answered,
            ready: record.health == Health::Healthy,
            starting: matches!(record.health, Health::Starting { .. }),
            since: record.health_since,
            capacity,
            requests: launch.requests.clone(),
            measured: machine.and_then(|machine| machine.usage.measured(capacity, now)),
        })
    };
    alive.filter_map(pod).collect()
}

/// What a VM that is started like that has.
fn capacity(launch: &LaunchSpec) -> Capacity {
    Capacity {
        cpu_millis: u64::from(launch.vcpus).saturating_mul(1000),
        memory_bytes: Bytes::mib(u64::from(launch.memory_mib)).0,
    }
}

/// The record of a VM.
fn record_of<'e>(environments: &'e Environments, id: &str) -> Option<&'e InstanceRecord> {
    let mut groups = environments.values().flat_map(|environment: &Environment| environment.groups.values());
    groups.find_map(|group| group.instances.get(id))
}

impl State {
    /// Adds to an environment's fleet what its machines use at the time `now`, and what scalers found.
    pub(super) fn measure(&self, environment: &str, fleet: &mut Fleet, now: u64) {
        for group in &mut fleet.groups {
            let scaler = self.scalers.get(&(environment.to_owned(), group.name.clone()));
            group.scaling = scaler.map(|history| history.status().clone());
            for instance in &mut group.instances {
                let revision = group.revisions.iter().find(|revision| revision.number == instance.revision);
                let machine = self.machines.get(&*instance.id);
                let Some((revision, machine)) = revision.zip(machine) else { continue };
                let measured = machine.usage.measured(capacity(&revision.launch), now);
                instance.usage = measured.map(|measured| measured.usage);
                if let Some(replica) = &mut instance.replica {
                    replica.progress = machine.replica;
                }
            }
        }
    }

    /// The record of a VM.
    pub(in crate::cloud::local) fn record(&self, id: &str) -> Option<&InstanceRecord> {
        record_of(&self.environments, id)
    }
}

/// A name that no VM has, and that a host name can be: at most 63 characters.
fn new_id(head: &str, taken: impl Fn(&str) -> bool) -> String {
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
        let tail = format!("-{suffix}");
        // The revision or index at its end tells more than the middle of a long name.
        let surplus = (head.len() + tail.len()).saturating_sub(63);
        let (front, back) = head.rsplit_once('-').unwrap_or((head, ""));
        let front: String = front.chars().take(front.len().saturating_sub(surplus)).collect();
        let id = format!("{front}-{back}{tail}");
        if !taken(&id) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::new_id;

    #[test]
    fn names_fit_into_a_host_name() {
        let id = new_id(&format!("{}-12", "x".repeat(63)), |_| false);
        assert_eq!(id.len(), 63);
        assert!(id.contains("-12-"), "{id}");
        assert_ne!(new_id("web-1", |_| false), new_id("web-1", |_| false));
        assert!(new_id("web-1", |_| false).starts_with("web-1-"));
    }
}
