//! The local cloud under faults, enumerated: its process is killed, a write fails, or the disk is full, at every step of
//! a deployment, an update, a scaling and a destruction, and of a CronJob's life, one step a run. Records, database, decisions and adoption are
//! the real ones; machines, time and the tool are simulated.
//!
//! Each time: no process is ever without a saved record, what serves goes on serving, what was refused changes nothing,
//! the commands come to their end when they are run again, and nothing is left after the last of them.

mod members;
mod networks;
mod schedules;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use i2kit_spec::PodEnd;

use self::world::{Fault, Machine, Plan, World};
use super::adoption::Adopted;
use super::state::{Running, State};
use super::step::{Effect, Launch, Read, Stepped, Words};
use crate::cloud::CloudError;
use crate::cloud::engine::environment::Environment;
use crate::cloud::engine::moment::Moment;
use crate::cloud::engine::reconcile::POWER_OFF;
use crate::cloud::local::store::{Faults, SaveMoment, Store};
use crate::manifest::api::{IntOrPercent, Name, ServiceType, Strategy};
use crate::oci::Digest;
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::example;
use crate::plan::fleet::{
    Accelerator, BalancerSpec, GroupSettings, Health, InstanceState, LaunchPort, LaunchSpec, Listener,
    RefreshStatus, TargetGroup,
};
use crate::plan::image::ImageId;

/// Simulated time between two rounds of the control loop.
const TICK_MS: u64 = 500;

/// A machine serves so long after its start, and is off so long after its button was pressed.
const MACHINE_MS: u64 = 1000;

/// A command that is not done after so much simulated time never will be.
const LIMIT_MS: u64 = 1_200_000;

/// Machines that serve from the end of the first deployment to the beginning of the destruction.
const REPLICAS: u32 = 2;

struct Sim {
    folder: tempfile::TempDir,
    plan: Arc<Mutex<Plan>>,
    world: Arc<Mutex<World>>,
    state: State,
    now: u64,
    /// Whether [`REPLICAS`] machines have to serve at any time.
    serving: bool,
    /// Whether machines end well by themselves.
    ending: bool,
    /// The run of each time of a schedule that there was a run for.
    runs: BTreeMap<u64, u32>,
}

fn name() -> Name {
    Name { namespace: "default".into(), name: "web".into() }
}

fn image(revision: u32) -> ImageId {
    ImageId(Digest::of(&revision.to_be_bytes()))
}

fn launch(revision: u32) -> LaunchSpec {
    LaunchSpec {
        ports: vec![LaunchPort { port: 80, protocol: crate::manifest::api::Protocol::Tcp }],
        ..example::launch(image(revision))
    }
}

/// In memory where there is a file system for it: nobody cuts the power here.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Sim {
    fn new(fault: Option<(usize, Fault)>) -> Self {
        let folder = folder();
        let plan = Arc::new(Mutex::new(Plan { fault, ..Plan::default() }));
        let world = Arc::default();
        let state = open(&folder, &plan, &world);
        Self { folder, plan, world, state, now: 0, serving: false, ending: false, runs: BTreeMap::new() }
    }

    /// Now: both times are the same here.
    fn moment(&self) -> Moment {
        Moment { steady: self.now, wall: self.now }
    }

    fn point(&self, writes: bool) -> Result<(), CloudError> {
        self.plan.lock().unwrap().step(writes)
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn is_killed(&self) -> bool {
        self.plan.lock().unwrap().killed
    }

    /// A new process takes over what the killed one left.
    fn restart(&mut self) {
        loop {
            self.plan.lock().unwrap().killed = false;
            // A killed process holds no lock.
            self.state.close();
            self.state = open(&self.folder, &self.plan, &self.world);
            let machine = |id: &String| {
                let machine = Machine { id: id.clone(), world: Arc::clone(&self.world) };
                (id.clone(), Box::new(machine) as Box<dyn Running>)
            };
            let running = self.world().alive.keys().map(machine).collect();
            let folders = self.world().folders.clone();
            let Adopted { machines, strangers, known, unsaved } =
                self.state.adopt(running, &|id| folders.contains(id));
            assert!(strangers.is_empty(), "machines without a record: {strangers:?}");
            if unsaved.is_some() && self.is_killed() {
                continue;
            }
            self.world().folders.retain(|id| known.contains(id));
            for (id, _) in machines {
                if self.state.record(&id).unwrap().state == InstanceState::Stopping
                    && let Some(Effect::PowerOff { id }) = self.state.begin(Effect::PowerOff { id })
                {
                    let now = self.now;
                    self.world().off.insert(id, now);
                }
            }
            return;
        }
    }

    /// One round of everything.
    fn tick(&mut self) {
        self.now += TICK_MS;
        let now = self.now;
        self.plan.lock().unwrap().now = now;
        {
            let mut world = self.world.lock().unwrap();
            let World { alive, off, done, .. } = &mut *world;
            if self.ending {
                let ended =
                    alive.iter().filter(|(_, since)| now >= **since + MACHINE_MS).map(|(id, _)| id.clone());
                done.extend(ended);
                alive.retain(|id, _| !done.contains(id));
            }
            off.retain(|id, pressed| {
                let is_off = now >= *pressed + MACHINE_MS;
                if is_off {
                    alive.remove(id);
                }
                !is_off
            });
            let groups = self.state.environments.values_mut().flat_map(|found| found.groups.values_mut());
            for record in groups.flat_map(|group| group.instances.values_mut()) {
                let up = alive.get(&*record.id).is_some_and(|since| now >= since + MACHINE_MS);
                if up && record.state == InstanceState::Running {
                    record.boot_id = Some("boot".into());
                    record.answered = true;
                    record.set_health(Health::Healthy, now);
                }
            }
        }
        let done = self.round();
        if self.is_killed() {
            self.restart();
        } else if let Err(error) = done {
            assert!(matches!(error, CloudError::Injected(_)), "{error}");
        }
        self.check();
    }

    fn round(&mut self) -> Result<(), CloudError> {
        let mut read = Read::new();
        let effects = loop {
            match self.state.step(&read, self.moment())? {
                Stepped::Unread(ids) => {
                    let world = self.world.lock().unwrap();
                    let words = |id: &str, death: Option<String>| Words {
                        end: world.done.contains(id).then(|| PodEnd { succeeded: true, ..PodEnd::default() }),
                        ending: death.unwrap_or_default(),
                        ..Words::default()
                    };
                    read.extend(ids.into_iter().map(|(id, death)| (id.clone(), words(&id, death))));
                }
                Stepped::Decided(effects, _) => break effects,
            }
        };
        let mut begun = Vec::new();
        for effect in effects {
            self.point(false)?;
            begun.extend(self.state.begin(effect));
        }
        for effect in begun {
            self.perform(effect)?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> Result<(), CloudError> {
        let attempt = self.point(true);
        if self.is_killed() {
            return attempt;
        }
        match (effect, attempt) {
            (Effect::Launch(launch), Err(error)) => self.state.failed(&launch.id, error.to_string()),
            (Effect::Launch(launch), Ok(())) => {
                let is_of_job = self.group().is_some_and(|group| group.settings.job.is_some());
                assert_eq!(launch.with_templates, !is_of_job, "machines of Jobs boot, and leave no template");
                let (id, now) = (launch.id.clone(), self.now);
                self.world().folders.insert(id.clone());
                self.point(false)?;
                self.attach(&launch);
                self.world().alive.insert(id.clone(), now);
                self.point(false)?;
                let machine = Machine { id: id.clone(), world: Arc::clone(&self.world) };
                self.state.started(&id, Box::new(machine), Accelerator::Tcg);
            }
            (Effect::PowerOff { id }, Ok(())) => {
                let now = self.now;
                self.world().off.insert(id, now);
            }
            (Effect::Remove { id, .. }, Ok(())) => drop(self.world().folders.remove(&id)),
            (Effect::RemoveDisk { environment, disk }, attempt) => {
                if attempt.is_ok() {
                    self.assert_free(&disk);
                    self.world().disks.remove(&disk);
                    self.point(false)?;
                }
                self.state.end_removal(&environment, &disk, attempt.err().map(|error| error.to_string()));
            }
            _ => {}
        }
        self.point(false)
    }

    /// No machine that runs has the disk.
    fn assert_free(&self, disk: &Name) {
        let world = self.world();
        let writer =
            world.alive.keys().find(|id| world.attached.get(*id).is_some_and(|all| all.contains(disk)));
        assert!(writer.is_none(), "{disk} has the writer {writer:?}");
    }

    /// A machine gets its disks; those that were never there are made.
    fn attach(&mut self, launch: &Launch) {
        for disk in &launch.disks {
            self.assert_free(disk);
            let made = self.state.environments["local"].disks[disk].made;
            let is_there = self.world().disks.contains(disk);
            assert!(is_there || !made, "{disk} is gone, with what was on it");
            self.world().disks.insert(disk.clone());
            self.state.disk_made(&launch.environment, disk);
        }
        self.world().attached.insert(launch.id.clone(), launch.disks.clone());
    }

    /// What is true after every round.
    fn check(&mut self) {
        for run in self.group().map(|group| group.memory.runs.clone()).unwrap_or_default() {
            let Some(scheduled) = run.scheduled else { continue };
            let first = *self.runs.entry(scheduled).or_insert(run.number);
            assert_eq!(first, run.number, "two runs for the time {scheduled}");
        }
        self.check_machines();
    }

    fn check_machines(&self) {
        let world = self.world();
        for id in world.alive.keys() {
            assert!(self.state.record(id).is_some(), "{id} runs and has no record");
        }
        let healthy = |record: &&crate::cloud::engine::environment::InstanceRecord| {
            record.serves() && world.alive.contains_key(&*record.id)
        };
        let groups = self.state.environments.values().flat_map(|found| found.groups.values());
        let serving = groups.flat_map(|group| group.instances.values()).filter(healthy).count();
        assert!(!self.serving || serving >= REPLICAS as usize, "only {serving} machines serve");
    }

    /// An act on the generation that there is, as a client applies it. One that is refused has changed nothing, and one
    /// whose answer is lost with the process is sent again to the next one.
    fn apply(&mut self, act: Act) -> Result<(), CloudError> {
        let generation =
            self.state.environments.get("local").map(Environment::generation).unwrap_or_default();
        let planned = PlannedAct { act, generation, by: "test".into() };
        loop {
            let (before, now) = (self.state.environments.clone(), self.moment());
            let result = self.state.change(|environments| {
                let environment = environments.entry("local".to_owned()).or_default();
                environment.apply(&planned, now, || "127.77.0.1".into())
            });
            let was_killed = self.is_killed();
            if was_killed {
                self.restart();
            } else if result.is_err() {
                assert_eq!(*self.state.environments, before, "an act that was refused changed something");
            }
            self.tick();
            if !was_killed {
                return result.map(drop);
            }
        }
    }

    /// Runs a command until it succeeds, as a user does.
    fn command(&mut self, command: impl Fn(&mut Self) -> Result<(), CloudError>) {
        let given_up = self.now + LIMIT_MS;
        while command(self).is_err() {
            assert!(self.now < given_up, "{:#?}", self.state.environments);
            self.tick();
        }
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let given_up = self.now + LIMIT_MS;
        while !condition(self) {
            assert!(self.now < given_up, "no {what}: {:#?} {:?}", self.state.environments, self.world());
            self.tick();
        }
    }

    fn group(&self) -> Option<&crate::cloud::engine::environment::GroupRecord> {
        self.state.environments.get("local")?.groups.get(&name())
    }

    fn deploy(&mut self, revision: u32) -> Result<(), CloudError> {
        self.apply(Act::PutImage { image: image(revision) })?;
        let target = TargetGroup { group: name(), port: 80 };
        let listener = Listener::new(80, crate::manifest::api::Protocol::Tcp, vec![target]);
        let spec = BalancerSpec::new(name(), ServiceType::ClusterIP, vec![listener]);
        self.apply(Act::PutBalancer { spec })?;
        let strategy = Strategy::RollingUpdate {
            max_unavailable: IntOrPercent::Int(0),
            max_surge: IntOrPercent::Int(1),
        };
        self.roll_out(example::settings(strategy), launch(revision), revision)
    }

    /// Puts a group, and rolls a revision out.
    fn roll_out(
        &mut self,
        settings: GroupSettings,
        launch: LaunchSpec,
        revision: u32,
    ) -> Result<(), CloudError> {
        self.apply(Act::PutGroup { group: name(), settings })?;
        let new = NewRevision { number: revision, launch, cause: "deploy".into() };
        self.apply(Act::PutRevision { group: name(), revision: new })?;
        let is_done = |sim: &Self| {
            sim.group()
                .and_then(|group| group.memory.refresh.as_ref())
                .is_some_and(|refresh| (refresh.to, refresh.status) == (revision, RefreshStatus::Successful))
        };
        if !is_done(self) {
            self.apply(Act::StartRefresh { group: name(), to: revision, replicas: REPLICAS })?;
            self.until("end of the refresh", |sim| {
                let refresh = sim.group().and_then(|group| group.memory.refresh.as_ref());
                refresh.is_none_or(|refresh| !refresh.status.is_active())
            });
        }
        // A full disk may well fail a rollout, which is then run again.
        if is_done(self) { Ok(()) } else { Err(CloudError::Injected("rolled back".into())) }
    }

    /// The group has that many members, all of them serve, and nothing else runs.
    fn converged(&self, replicas: u32) -> bool {
        let Some(group) = self.group() else { return false };
        let world = self.world();
        let members: Vec<_> =
            group.instances.values().filter(|record| record.state != InstanceState::Ended).collect();
        members.len() == replicas as usize
            && world.alive.len() == members.len()
            && members.iter().all(|record| record.serves() && world.alive.contains_key(&*record.id))
    }

    fn destroy(&mut self) -> Result<(), CloudError> {
        self.apply(Act::DeleteGroup { group: name() })?;
        self.until("end of the group", |sim| sim.group().is_none());
        self.apply(Act::DeleteBalancer { balancer: name() })?;
        self.apply(Act::DeleteImages { images: vec![image(1), image(2)] })
    }

    fn scale(&mut self, replicas: u32) -> Result<(), CloudError> {
        self.apply(Act::Scale { group: name(), replicas })
    }

    /// Everything that a user does, from the first deployment to nothing.
    fn live(&mut self) {
        self.command(|sim| sim.deploy(1));
        self.until("two machines", |sim| sim.converged(REPLICAS));
        self.serving = true;
        self.command(|sim| sim.deploy(2));
        self.until("two machines", |sim| sim.converged(REPLICAS));
        self.command(|sim| sim.scale(REPLICAS + 1));
        self.until("three machines", |sim| sim.converged(REPLICAS + 1));
        self.command(|sim| sim.scale(REPLICAS));
        self.until("two machines", |sim| sim.converged(REPLICAS));
        self.serving = false;
        self.command(Self::destroy);
        self.until("empty world", |sim| sim.world().alive.is_empty() && sim.state.environments.is_empty());
        // What a folder that could not be removed leaves goes with the next adoption, and with the last command.
        self.restart();
        assert!(self.world().folders.is_empty(), "{:?}", self.world());
        assert!(self.state.machines.is_empty());
    }
}

fn open(folder: &tempfile::TempDir, plan: &Arc<Mutex<Plan>>, world: &Arc<Mutex<World>>) -> State {
    let may_create = || {
        assert!(world.lock().unwrap().alive.is_empty(), "the database is lost");
        Ok(())
    };
    let (mut store, environments) = Store::open(&folder.path().join("cloud.db"), may_create).unwrap();
    store.without_sync();
    let plan = Arc::clone(plan);
    store.faults =
        Faults(Some(Arc::new(move |moment| plan.lock().unwrap().step(moment == SaveMoment::BeforeSave))));
    State::new(store, environments)
}

/// Runs with each fault at each step that a run without faults has, and some more: a fault adds steps of its own.
fn everywhere(fault: Fault, live: impl Fn(&mut Sim)) {
    let mut dry = Sim::new(None);
    live(&mut dry);
    let steps = dry.plan.lock().unwrap().steps;
    assert!(steps > 60, "only {steps} steps");
    for at in 0..steps {
        let mut sim = Sim::new(Some((at, fault)));
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&mut sim)));
        assert!(lived.is_ok(), "{fault:?} at step {at} of {steps}");
        assert!(sim.plan.lock().unwrap().steps > at, "{fault:?} at step {at} never came");
    }
}

#[test]
fn the_process_is_killed_at_every_step() {
    everywhere(Fault::Kill, Sim::live);
    everywhere(Fault::Kill, Sim::live_by_schedule);
}

#[test]
fn one_write_fails_at_every_step() {
    everywhere(Fault::Fail, Sim::live);
    everywhere(Fault::Fail, Sim::live_by_schedule);
}

#[test]
fn the_disk_is_full_at_every_step() {
    everywhere(Fault::Full, Sim::live);
    everywhere(Fault::Full, Sim::live_by_schedule);
}

/// A machine that does not hear its button is killed, once, and after it was saved that it is stopped.
#[test]
fn a_machine_that_does_not_power_off_is_killed_when_it_is_late() {
    let mut sim = Sim::new(None);
    sim.command(|sim| sim.deploy(1));
    sim.until("two machines", |sim| sim.converged(REPLICAS));
    sim.scale(0).unwrap();
    sim.until("stopping machines", |sim| sim.world().off.len() == 2);
    sim.world().off.clear();
    let pressed = sim.now;
    sim.until("end of both", |sim| sim.world().alive.is_empty());
    assert!(sim.now >= POWER_OFF.after(pressed));
}
