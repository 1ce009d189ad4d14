//! The start of a VM's process: all that it is given is gathered, and the process begun. Whether it is to start, and what becomes of
//! it, is decided elsewhere.

use std::fs::{self, File};

use i2kit_spec::replica::IDENTITY_FOUNDED;
use i2kit_spec::secrets::SecretValues;

use super::Keeper;
use super::state::State;
use super::step::Launch;
use crate::cloud::CloudError;
use crate::cloud::engine::environment::GroupRecord;
use crate::cloud::local::link::identity::Told;
use crate::cloud::local::machine::process::{self, MachineProcess};
use crate::cloud::local::machine::qemu::{self, Machine, MemoryPlace};
use crate::cloud::local::machine::{images, secrets};
use crate::cloud::local::{network, volumes};
use crate::manifest::api::Name;
use crate::plan::fleet::{Accelerator, InstanceState};
use crate::plan::replicated;

/// A VM whose process runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) process: MachineProcess,
    /// What it runs on.
    pub(super) accelerator: Accelerator,
    /// What its guest is to be told of itself; nothing of one that reads its kernel's command line.
    pub(super) told: Option<Told>,
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

/// Starts the VM's process with this memory. Nothing where the VM is not wanted any more. Blocks.
pub(super) fn start(
    keeper: &Keeper,
    launch: &Launch,
    memory: MemoryPlace<'_>,
) -> Result<Option<Started>, CloudError> {
    let Launch { environment, id, index, spec, ports, name, address, address6, .. } = launch;
    if !is_wanted(keeper, id) {
        return Ok(None);
    }
    let folder = keeper.home.instance(id);
    fs::create_dir_all(&folder).map_err(CloudError::file("create", &folder))?;
    let cmdline = images::cmdline(&keeper.home, spec.image)?;
    let accelerator = keeper.accelerator();
    let mut founded = keeper.state().founded(id);
    founded.retain(|secret, _| spec.secrets.contains_key(secret));
    let secrets = secrets::memory_file(&keeper.home.secrets(), &spec.secrets, founded)?;
    let disks = attach(keeper, launch)?;
    let device = match address {
        Some(address) => {
            let network = keeper.network(environment)?;
            let device = network.device(*address, *address6).map_err(|error| CloudError::Program {
                program: "the network".into(),
                message: format!("{address} cannot be attached: {error}"),
            })?;
            keeper.state().attach(id, network, *address, ports.clone());
            device
        }
        None => network::device(ports, keeper.mover.report().name_servers.get(environment).copied()),
    };
    let told = qemu::is_told(&cmdline)
        .then(|| Told { parameters: qemu::parameters(name, *index, &device), hardware: device.hardware });
    if let Some(told) = &told {
        told.keep(&folder)?;
    }
    let machine = Machine {
        id,
        name,
        index: *index,
        launch: spec,
        network: &device,
        image: &keeper.home.image(spec.image),
        cmdline: &cmdline,
        accelerator,
        memory,
        environment: &keeper.home.environment,
    };
    // Without the lock: its record is saved, so that a process is never without one.
    let process = process::start(&machine, &folder, secrets, &disks)?;
    // From now on its process alone holds them.
    drop(disks);
    Ok(Some(Started { process, accelerator, told }))
}

/// Whether a VM is still to run.
pub(super) fn is_wanted(keeper: &Keeper, id: &str) -> bool {
    keeper.state().record(id).is_some_and(|record| record.state == InstanceState::Running)
}

impl State {
    /// The word for the coordinator in a VM that its replicated group has had a state, with the number of its recoveries: where no
    /// replica finds a log, they found no second group then, and a log of before the last recovery is out. It lies beside the group's key pair, which is the coordinator's alone.
    fn founded(&self, id: &str) -> SecretValues {
        let groups = self.environments.values().flat_map(|environment| &environment.groups);
        let mut own =
            groups.filter(|(_, group)| group.instances.contains_key(id) && group.memory.replicas.was_led());
        let word = |(name, group): (&Name, &GroupRecord)| {
            let recoveries = group.memory.replicas.recoveries().to_string();
            let values = [(IDENTITY_FOUNDED.to_owned(), recoveries.into_bytes())];
            (replicated::identity(&name.name), values.into())
        };
        own.next().map(word).into_iter().collect()
    }

    /// A disk is there, and is never made anew.
    pub(super) fn disk_made(&mut self, environment: &str, disk: &Name) {
        let found = self.environments.get_mut(environment).and_then(|found| found.disks.get_mut(disk));
        if let Some(record) = found {
            record.made = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::cloud::local::store;

    #[test]
    fn the_machines_of_a_group_that_was_led_hear_that_it_had_a_state() {
        let root = tempfile::tempdir().unwrap();
        let keeper = Keeper::with_machine(root.path(), &Arc::new(AtomicBool::new(true)));
        *keeper.state().environments = store::sample();
        assert!(keeper.state().founded("web-1-a").is_empty() && keeper.state().founded("nobody").is_empty());
        let report =
            serde_json::from_str(r#"{"role":"leader","term":1,"leader":0,"hasQuorum":true,"recoveries":2}"#);
        let report = report.unwrap();
        let mut state = keeper.state();
        for group in state.environments.values_mut().flat_map(|found| found.groups.values_mut()) {
            group.memory.replicas.note(&"web-1-a".into(), None, Some(&report), 1000);
        }
        let told = state.founded("web-1-a");
        assert_eq!(told["web.replica.i2kit.dev"][IDENTITY_FOUNDED], b"2");
    }
}
