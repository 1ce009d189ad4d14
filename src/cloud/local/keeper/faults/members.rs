//! Members of a StatefulSet and their disks under the same faults: a disk has one writer, and none is lost.

use super::{CloudError, Environment, Fault, REPLICAS, Sim, everywhere, image, launch, name};
use crate::manifest::api::{Name, ScalingRules, Strategy};
use crate::plan::act::{Act, NewRevision};
use crate::plan::example;
use crate::plan::fleet::{
    DiskSpec, GroupSettings, LaunchDisk, LaunchSpec, RefreshStatus, Scaling, StatefulSettings,
};

/// A StatefulSet of two, each member with a disk; a member that is scaled away takes its disk with it.
fn members() -> GroupSettings {
    let stateful = StatefulSettings { delete_when_scaled: true, ..example::stateful(vec![example::disk()]) };
    GroupSettings { stateful: Some(stateful), ..example::settings(Strategy::Recreate) }
}

impl Sim {
    fn deploy_members(&mut self, revision: u32) -> Result<(), CloudError> {
        self.apply(Act::PutImage { image: image(revision) })?;
        let launch = LaunchSpec { disks: vec![LaunchDisk::Member("data".into())], ..launch(revision) };
        self.roll_out(members(), launch, revision)
    }

    fn disks(&self) -> Vec<String> {
        self.world().disks.iter().map(|disk| disk.name.clone()).collect()
    }

    /// A StatefulSet from its first deployment to nothing but its disks, and then to nothing.
    fn live_with_disks(&mut self) {
        self.command(|sim| sim.deploy_members(1));
        self.until("two members", |sim| sim.converged(REPLICAS));
        assert_eq!(self.disks(), ["data-web-0", "data-web-1"]);
        self.command(|sim| sim.deploy_members(2));
        self.until("two members", |sim| sim.converged(REPLICAS));
        self.command(|sim| sim.scale(1));
        self.until("one member and its disk", |sim| sim.converged(1) && sim.disks() == ["data-web-0"]);
        self.command(Self::destroy);
        self.until("nothing but a disk", |sim| sim.world().alive.is_empty() && sim.state.is_idle());
        assert_eq!(self.disks(), ["data-web-0"]);
        let left: Vec<Name> = self.state.environments["local"].disks.keys().cloned().collect();
        self.command(|sim| sim.apply(Act::DeleteDisks { disks: left.clone() }));
        self.until("empty world", |sim| {
            sim.disks().is_empty() && sim.state.environments.values().all(Environment::is_empty)
        });
    }
}

#[test]
fn no_fault_gives_a_disk_two_writers_or_loses_one() {
    for fault in [Fault::Kill, Fault::Fail, Fault::Full] {
        everywhere(fault, Sim::live_with_disks);
    }
}

/// A group with the disk of a claim, which is there already, and these settings.
fn with_claim(settings: GroupSettings) -> Sim {
    let mut sim = Sim::new(None);
    let disk = Name { name: "data".into(), ..name() };
    let spec = DiskSpec { name: disk.clone(), owner: None, ..example::disk().of(&name(), 0) };
    sim.world().disks.insert(disk);
    let disks = vec![LaunchDisk::Claim("data".into())];
    let revision =
        NewRevision { number: 1, launch: LaunchSpec { disks, ..launch(1) }, cause: "deploy".into() };
    for act in [
        Act::PutImage { image: image(1) },
        Act::PutDisk { disk: spec },
        Act::PutGroup { group: name(), settings },
        Act::PutRevision { group: name(), revision },
    ] {
        sim.apply(act).unwrap();
    }
    sim
}

#[test]
fn a_group_with_the_disk_of_a_claim_is_not_scaled_beyond_it() {
    let (metrics, rules) = (vec![], ScalingRules::default());
    let scaling = Scaling { min: 2, max: 5, metrics, up: rules.clone(), down: rules };
    let settings = GroupSettings { scaling: Some(scaling), ..example::settings(Strategy::Recreate) };
    let mut sim = with_claim(settings);
    sim.apply(Act::StartRefresh { group: name(), to: 1, replicas: 1 }).unwrap();
    sim.until("one machine", |sim| sim.converged(1));
    let looked = sim.now;
    while sim.now < looked + 40_000 {
        sim.tick();
        assert_eq!(sim.group().unwrap().replicas, 1);
    }
    let refresh = sim.group().unwrap().memory.refresh.clone().unwrap();
    assert_eq!(refresh.status, RefreshStatus::Successful);
}

/// A disk that is being copied is waited for: the machine that does not start says nothing about its revision.
#[test]
fn no_machine_is_started_with_a_disk_that_is_being_copied() {
    let mut sim = with_claim(example::settings(Strategy::Recreate));
    let disk = Name { name: "data".into(), ..name() };
    sim.state.begin_copy("local", &disk);
    sim.apply(Act::StartRefresh { group: name(), to: 1, replicas: 1 }).unwrap();
    let began = sim.now;
    while sim.now < began + 60_000 {
        sim.tick();
        assert!(sim.group().unwrap().instances.is_empty());
    }
    let memory = &sim.group().unwrap().memory;
    assert_eq!((memory.failures, memory.refresh.as_ref().map(|refresh| refresh.failures)), (0, Some(0)));
    sim.state.end_copy("local", &disk);
    sim.until("one machine", |sim| sim.converged(1));
}
