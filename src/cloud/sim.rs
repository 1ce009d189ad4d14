//! A deterministic cloud in memory, for tests of everything above the interface.
//!
//! It decides with the same reconciler as the local cloud, and judges what it hears of VMs by the same rules, on VMs that
//! are values: they become healthy some seconds after their start, unless their image is among the bad ones. Its clock moves by a second with every look at it, so
//! that whoever waits makes time pass. Faults are injected by the number of the call.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use i2kit_spec::status::{self, ContainerStatus, PodPhase, PodStatus, Wait};

use super::engine::environment::{Environment, GroupRecord, InstanceRecord, MachineFacts};
use super::engine::health::{CheckOutcome, Known, judge};
use super::engine::moment::Moment;
use super::engine::reconcile::{Action, MemberPlace, decide};
use super::{Cloud, CloudError, LogQuery, LogStream, Materials, Scope, Updates, polling, watch};
use crate::manifest::api::Name;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::{Fleet, Generation, InstanceId, InstanceState};
use crate::plan::image::ImageId;

/// How an image behaves when a VM boots it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Ready after so many milliseconds.
    Ready(u64),
    /// Runs and is not ready, because a container fails; one that was ready before is no longer.
    NeverReady,
    /// Starts for so many milliseconds, in which its guest says what it waits for, and is ready then.
    Starts(u64),
    /// Runs, and its guest does not answer.
    Silent,
    /// Runs, and its guest says that it cannot go on.
    Lost,
    /// Ends after so many milliseconds.
    Ends(u64),
    /// Its container ends after so many milliseconds with that exit code, and the VM with it.
    Fails(u64, i32),
    /// Its container fails each time so many milliseconds have passed, and is started again in it.
    Restarts(u64),
    /// Ends well after so many milliseconds, as a Job's does.
    Succeeds(u64),
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and nothing was done.
    Refused,
    /// The call was carried out, and its reply was lost.
    ReplyLost,
}

/// The fake cloud.
#[derive(Debug, Default)]
pub struct Sim(Mutex<World>);

/// Everything that the fake cloud is.
#[derive(Debug, Default)]
pub struct World {
    /// The clock, in milliseconds.
    pub now: u64,
    /// By how much the wall clock is ahead of it, in milliseconds.
    pub ahead: i64,
    /// What a database would hold.
    pub environment: Environment,
    /// How images behave; those not named are ready after 3 seconds.
    pub behaviours: BTreeMap<ImageId, Behaviour>,
    /// Faults by the number of the call, counted from 0 over all acts.
    pub faults: BTreeMap<usize, Fault>,
    /// Calls so far.
    pub calls: usize,
    launched: u32,
    dead: Vec<InstanceId>,
    /// Those of them that ended well.
    done: Vec<InstanceId>,
    /// Exit codes of those whose pods failed.
    exits: BTreeMap<InstanceId, i32>,
}

impl Sim {
    /// The world, to look at it or to change it. A test that panicked while it held the world changes nothing here.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One call that changes something, with its fault.
    fn call<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut World) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let mut world = self.world();
        let number = world.calls;
        world.calls += 1;
        let injected = || CloudError::Injected(format!("{name}, call {number}"));
        match world.faults.get(&number) {
            Some(Fault::Refused) => Err(injected()),
            Some(Fault::ReplyLost) => act(&mut world).and(Err(injected())),
            None => act(&mut world),
        }
    }
}

impl World {
    /// Lets that many seconds pass.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1000;
            self.tick();
        }
    }

    /// Now, by both clocks.
    pub fn moment(&self) -> Moment {
        Moment { steady: self.now, wall: self.now.saturating_add_signed(self.ahead) }
    }

    /// Ends the process of a VM.
    pub fn kill(&mut self, id: &str) {
        self.dead.push(id.into());
    }

    fn tick(&mut self) {
        self.check_health();
        let names: Vec<Name> = self.environment.groups.keys().cloned().collect();
        for name in names {
            let Some(group) = self.environment.groups.get(&name) else { continue };
            let decision = decide(&group.view(&|id| self.facts(id)), self.moment());
            self.environment.remember(&name, &decision, self.moment());
            for action in decision.actions {
                self.perform(&name, action);
            }
            let Some(group) = self.environment.groups.get_mut(&name) else { continue };
            if let Some(blame) = &decision.blame
                && let Some(reason) = group.memory.reason_mut(blame.run)
            {
                *reason = format!("{reason}: {}", blame.id);
            }
            if group.memory.deleting && group.instances.is_empty() {
                self.environment.groups.remove(&name);
            }
        }
        self.environment.disks.retain(|_, disk| !disk.deleting);
    }

    fn facts(&self, id: &str) -> MachineFacts {
        let alive = !self.dead.iter().any(|dead| **dead == *id);
        let succeeded = !alive && self.done.iter().any(|done| **done == *id);
        let exits = self.exits.get(id).map(|code| vec![("web".to_owned(), *code)]).unwrap_or_default();
        MachineFacts { alive, succeeded, exits, ..MachineFacts::default() }
    }

    fn check_health(&mut self) {
        let now = self.now;
        for group in self.environment.groups.values_mut() {
            let GroupRecord { instances, revisions, settings, .. } = group;
            let running = instances.values_mut().filter(|record| record.state == InstanceState::Running);
            for record in running {
                let Some(revision) = revisions.iter().find(|r| r.number == record.revision) else {
                    continue;
                };
                let behaviour =
                    self.behaviours.get(&revision.launch.image).copied().unwrap_or(Behaviour::Ready(3000));
                let age = now - record.started;
                let phase = match behaviour {
                    Behaviour::Ready(after) | Behaviour::Starts(after) if age >= after => PodPhase::Ready,
                    Behaviour::Ends(after) if age >= after => {
                        self.dead.push(record.id.clone());
                        continue;
                    }
                    Behaviour::Fails(after, code) if age >= after => {
                        self.exits.insert(record.id.clone(), code);
                        self.dead.push(record.id.clone());
                        continue;
                    }
                    Behaviour::Succeeds(after) if age >= after => {
                        self.done.push(record.id.clone());
                        self.dead.push(record.id.clone());
                        continue;
                    }
                    Behaviour::NeverReady | Behaviour::Restarts(_) => {
                        PodPhase::NotReady { reasons: vec!["not ready".into()] }
                    }
                    Behaviour::Starts(_) => {
                        PodPhase::Starting { waits: vec![Wait::InitContainer { container: "web".into() }] }
                    }
                    Behaviour::Lost => PodPhase::Lost { reason: "no disk".into() },
                    Behaviour::Ready(_)
                    | Behaviour::Ends(_)
                    | Behaviour::Fails(..)
                    | Behaviour::Succeeds(_) => PodPhase::Starting { waits: vec![Wait::Boot] },
                    Behaviour::Silent => {
                        let known = Known { containers: &[], boot: settings.boot_limit(), closed_port: None };
                        judge(record, CheckOutcome::Silence("no answer".into()), &known, now);
                        continue;
                    }
                };
                let (version, boot_id) = (status::VERSION, record.id.to_string());
                let containers = match behaviour {
                    Behaviour::Restarts(each) => vec![started_again(age / each)],
                    _ => vec![],
                };
                let told = PodStatus { version, boot_id, phase, containers, usage: None, replica: None };
                let names = &revision.launch.containers;
                let known = Known { containers: names, boot: settings.boot_limit(), closed_port: None };
                judge(record, CheckOutcome::Status(Box::new(told)), &known, now);
            }
        }
    }

    fn perform(&mut self, name: &Name, action: Action) {
        let (now, moment) = (self.now, self.moment());
        let Some(group) = self.environment.groups.get_mut(name) else { return };
        let mut enter = |id: &str, state| {
            if let Some(record) = group.instances.get_mut(id) {
                record.enter(state, now);
            }
        };
        match action {
            Action::Launch { revision, place: MemberPlace { ordinal, run } } => {
                self.launched += 1;
                let id = InstanceId(format!("{}-{revision}-{}", name.name, self.launched));
                let record =
                    InstanceRecord { ordinal, run, ..InstanceRecord::new(id.clone(), revision, moment) };
                group.instances.insert(id, record);
            }
            Action::Drain { id, failed } => {
                enter(&id, InstanceState::Draining);
                if let Some(record) = group.instances.get_mut(&id) {
                    record.failed |= failed;
                }
            }
            Action::PowerOff { id } => {
                enter(&id, InstanceState::Stopping);
                self.dead.push(id);
            }
            Action::Kill { id } => self.dead.push(id),
            Action::End { id } => enter(&id, InstanceState::Ended),
            Action::Forget { id } => {
                group.instances.remove(&id);
            }
        }
    }
}

/// A container that was started again so often.
fn started_again(restarts: u64) -> ContainerStatus {
    let state = "CrashLoopBackOff".to_owned();
    ContainerStatus {
        name: "web".into(),
        ready: false,
        restarts,
        state,
        last: None,
        probe: None,
        usage: None,
    }
}

#[async_trait]
impl Cloud for Sim {
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError> {
        let mut world = self.world();
        world.pass(1);
        let world = &*world;
        let mut fleet =
            world.environment.fleet("sim", &|id| world.facts(id), &|_| Vec::new(), world.moment());
        if let Scope::Group(name) = scope {
            fleet = fleet.only(name);
        }
        Ok(fleet)
    }

    /// Each update is a second later.
    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        watch::updates(polling::observations(self, scope, Duration::ZERO))
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        if let Act::PutImage { image } = &act.act {
            materials.image(*image)?;
        }
        self.call(&act.act.to_string(), |world| {
            let (now, mut next) = (world.moment(), world.environment.clone());
            let generation = next.apply(act, now, || "192.0.2.1".to_owned())?;
            world.environment = next;
            if let Act::DeleteGroup { group } = &act.act {
                while world.environment.groups.contains_key(group) {
                    world.pass(1);
                }
            }
            Ok(generation)
        })
    }

    async fn logs(&self, _query: &LogQuery) -> Result<LogStream, CloudError> {
        Ok(futures::stream::empty().boxed())
    }
}
