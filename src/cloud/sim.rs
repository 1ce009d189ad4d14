//! A deterministic cloud in memory, for tests of everything above the interface.
//!
//! It decides with the same reconciler as the local cloud, and judges what it hears of VMs by the same rules, on VMs that
//! are values: they become healthy some seconds after their start, unless their image is among the bad ones. Its clock moves by a second with every look at it, so
//! that whoever waits makes time pass. Faults are injected by the number of the call.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use futures::StreamExt as _;
use i2kit_spec::status::{self, PodPhase, PodStatus, Wait};

use super::environment::{Environment, Facts, GroupRecord, InstanceRecord};
use super::health::{Heard, Known, judge};
use super::reconcile::{Act, decide};
use super::{Cloud, CloudError, LogQuery, LogStream, Moment, NewRevision};
use crate::image::DiskImage;
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceState};
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
    /// What a database would hold.
    pub environment: Environment,
    /// How images behave; those not named are ready after 3 seconds.
    pub behaviours: BTreeMap<ImageId, Behaviour>,
    /// Faults by the number of the call, counted from 0 over all calls but `observe`.
    pub faults: BTreeMap<usize, Fault>,
    /// Calls so far.
    pub calls: usize,
    launched: u32,
    dead: Vec<String>,
    /// Those of them that ended well.
    done: Vec<String>,
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

    /// Now: both times are the same here.
    pub fn moment(&self) -> Moment {
        Moment { steady: self.now, wall: self.now }
    }

    /// Ends the process of a VM.
    pub fn kill(&mut self, id: &str) {
        self.dead.push(id.to_owned());
    }

    fn tick(&mut self) {
        self.check_health();
        let names: Vec<Name> = self.environment.groups.keys().cloned().collect();
        for name in names {
            let Some(group) = self.environment.groups.get(&name) else { continue };
            let decision = decide(&group.view(&|id| self.facts(id)), self.now);
            self.environment.remember(&name, &decision, self.moment());
            for act in decision.acts {
                self.act(&name, act);
            }
            let Some(group) = self.environment.groups.get_mut(&name) else { continue };
            if let Some(refresh) = &mut group.memory.refresh
                && let (Some(reason), Some(blame)) = (&mut refresh.reason, &decision.blame)
            {
                *reason = format!("{reason}: {blame}");
            }
            if group.memory.deleting && group.instances.is_empty() {
                self.environment.groups.remove(&name);
            }
        }
    }

    fn facts(&self, id: &str) -> Facts {
        let alive = !self.dead.iter().any(|dead| dead == id);
        Facts { alive, succeeded: !alive && self.done.iter().any(|done| done == id), ..Facts::default() }
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
                    Behaviour::Succeeds(after) if age >= after => {
                        self.done.push(record.id.clone());
                        self.dead.push(record.id.clone());
                        continue;
                    }
                    Behaviour::NeverReady => PodPhase::NotReady { reasons: vec!["not ready".into()] },
                    Behaviour::Starts(_) => {
                        PodPhase::Starting { waits: vec![Wait::InitContainer { container: "web".into() }] }
                    }
                    Behaviour::Lost => PodPhase::Lost { reason: "no disk".into() },
                    Behaviour::Ready(_) | Behaviour::Ends(_) | Behaviour::Succeeds(_) => {
                        PodPhase::Starting { waits: vec![Wait::Boot] }
                    }
                    Behaviour::Silent => {
                        let known =
                            Known { containers: &[], boot_ms: settings.boot_limit().0, closed_port: None };
                        judge(record, Heard::Silence("no answer".into()), &known, now);
                        continue;
                    }
                };
                let (version, boot_id) = (status::VERSION, record.id.clone());
                let told = PodStatus { version, boot_id, phase, containers: vec![] };
                let known = Known { containers: &[], boot_ms: settings.boot_limit().0, closed_port: None };
                judge(record, Heard::Status(Box::new(told)), &known, now);
            }
        }
    }

    fn act(&mut self, name: &Name, act: Act) {
        let (now, moment) = (self.now, self.moment());
        let Some(group) = self.environment.groups.get_mut(name) else { return };
        let mut enter = |id: &str, state| {
            if let Some(record) = group.instances.get_mut(id) {
                record.enter(state, now);
            }
        };
        match act {
            Act::Launch { revision } => {
                self.launched += 1;
                let id = format!("{}-{revision}-{}", name.name, self.launched);
                group.instances.insert(id.clone(), InstanceRecord::new(id, revision, moment));
            }
            Act::Drain { id, failed } => {
                enter(&id, InstanceState::Draining);
                if let Some(record) = group.instances.get_mut(&id) {
                    record.failed |= failed;
                }
            }
            Act::PowerOff { id } => {
                enter(&id, InstanceState::Stopping);
                self.dead.push(id);
            }
            Act::Kill { id } => self.dead.push(id),
            Act::End { id } => enter(&id, InstanceState::Ended),
            Act::Forget { id } => {
                group.instances.remove(&id);
            }
        }
    }
}

#[async_trait]
impl Cloud for Sim {
    async fn observe(&self) -> Result<Fleet, CloudError> {
        let mut world = self.world();
        world.pass(1);
        let world = &*world;
        Ok(world.environment.fleet("sim", &|id| world.facts(id), &|_| Vec::new(), world.now))
    }

    async fn put_image(&self, image: &DiskImage) -> Result<(), CloudError> {
        self.call("put_image", |world| {
            world.environment.images.insert(image.id);
            Ok(())
        })
    }

    async fn delete_images(&self, images: &[ImageId]) -> Result<(), CloudError> {
        self.call("delete_images", |world| world.environment.delete_images(images))
    }

    async fn put_balancer(&self, spec: &BalancerSpec) -> Result<(), CloudError> {
        self.call("put_balancer", |world| {
            world.environment.put_balancer(spec, || "192.0.2.1".to_owned());
            Ok(())
        })
    }

    async fn delete_balancer(&self, name: &Name) -> Result<(), CloudError> {
        self.call("delete_balancer", |world| {
            world.environment.balancers.remove(name);
            Ok(())
        })
    }

    async fn put_group(&self, name: &Name, settings: &GroupSettings) -> Result<(), CloudError> {
        self.call("put_group", |world| world.environment.put_group(name, settings))
    }

    async fn put_revision(&self, group: &Name, revision: &NewRevision) -> Result<(), CloudError> {
        self.call("put_revision", |world| {
            let now = world.moment();
            world.environment.put_revision(group, revision, now)
        })
    }

    async fn delete_revisions(&self, group: &Name, revisions: &[u32]) -> Result<(), CloudError> {
        self.call("delete_revisions", |world| world.environment.delete_revisions(group, revisions))
    }

    async fn start_refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        self.call("start_refresh", |world| {
            let now = world.moment();
            world.environment.start_refresh(group, to, replicas, now)
        })
    }

    async fn cancel_refresh(&self, group: &Name) -> Result<(), CloudError> {
        self.call("cancel_refresh", |world| world.environment.cancel_refresh(group))
    }

    async fn set_replicas(&self, group: &Name, replicas: u32) -> Result<(), CloudError> {
        self.call("set_replicas", |world| world.environment.set_replicas(group, replicas))
    }

    async fn delete_group(&self, group: &Name) -> Result<(), CloudError> {
        self.call("delete_group", |world| {
            world.environment.delete_group(group);
            while world.environment.groups.contains_key(group) {
                world.pass(1);
            }
            Ok(())
        })
    }

    async fn logs(&self, _query: &LogQuery) -> Result<LogStream, CloudError> {
        Ok(futures::stream::empty().boxed())
    }

    async fn release(&self) -> Result<(), CloudError> {
        Ok(())
    }
}
