//! Members of a StatefulSet and their disks under the same faults: a disk has one writer, and none is lost.

use super::{CloudError, Environment, Fault, REPLICAS, Sim, everywhere, image, launch};
use crate::manifest::api::{Name, Strategy};
use crate::plan::act::Act;
use crate::plan::example;
use crate::plan::fleet::{GroupSettings, LaunchDisk, LaunchSpec, StatefulSettings};

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
