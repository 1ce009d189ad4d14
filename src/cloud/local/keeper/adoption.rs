//! VMs that run already when this process starts, taken over, with the disks that are there; what nobody knows goes.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Keeper;
use super::effects::spawn;
use super::state::{Life, MachineHandle, Ports, Running, State};
use super::step::Effect;
use super::telling::{is_over, tell};
use super::watch::{QEMU_START, watch};
use crate::cloud::CloudError;
use crate::cloud::engine::environment::Environment;
use crate::cloud::local::link::identity::Told;
use crate::cloud::local::machine::{process, qemu, qmp};
use crate::cloud::local::volumes;
use crate::manifest::api::Name;
use crate::plan::fleet::{Health, InstanceId, InstanceState};

/// How often a VM is looked at whose qemu does not answer yet.
const LOOK: Duration = Duration::from_millis(100);

/// What was adopted: VMs that run, each with its health port; processes that no record tells of; VMs that are known.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) machines: Vec<(String, u16)>,
    pub(super) strangers: Vec<(String, Box<dyn Running>)>,
    pub(super) known: BTreeSet<String>,
    /// Why what was found could not be saved; it is saved with the next decision.
    pub(super) unsaved: Option<CloudError>,
}

impl State {
    /// Takes over the VMs that run already, and forgets records of VMs that never `began`: the last process was killed
    /// after it had saved that they are started, and before they were.
    pub(super) fn adopt(
        &mut self,
        mut running: HashMap<String, Box<dyn Running>>,
        began: &impl Fn(&str) -> bool,
    ) -> Adopted {
        let mut machines = Vec::new();
        let mut next = self.environments.clone();
        for group in next.values_mut().flat_map(|environment| environment.groups.values_mut()) {
            let ports: HashMap<u32, u16> =
                group.revisions.iter().map(|r| (r.number, r.launch.health_port)).collect();
            group.instances.retain(|id, record| {
                if record.state != InstanceState::Ended
                    && let Some(process) = running.remove(&**id)
                {
                    let mut machine = MachineHandle::new(Life::Started(process));
                    if record.health == Health::Healthy {
                        machine.ports = Ports::Settled;
                    }
                    self.machines.insert(id.to_string(), machine);
                    machines.push((id.to_string(), ports.get(&record.revision).copied().unwrap_or_default()));
                    return true;
                }
                record.state == InstanceState::Ended || began(id)
            });
        }
        let groups = next.values().flat_map(|environment| environment.groups.values());
        let known = groups.flat_map(|group| group.instances.keys().map(InstanceId::to_string)).collect();
        // A full disk does not keep VMs from being looked after: a VM that never began has ended then.
        let unsaved = self.commit(next).err();
        Adopted { machines, strangers: running.into_iter().collect(), known, unsaved }
    }
}

/// Takes over the VMs that run already, ends those that nobody knows, and forgets records of VMs that never started.
/// The database is sound, and not a new one beside VMs: [`Keeper::open`] has seen to that.
pub(in crate::cloud::local) fn adopt(keeper: &Arc<Keeper>) -> Result<(), CloudError> {
    let instances = keeper.home.instances();
    fs::create_dir_all(&instances).map_err(CloudError::file("create", &instances))?;
    let running = process::running(&instances).map_err(CloudError::file("look for VMs of", &instances))?;
    let running =
        running.into_iter().map(|(id, process)| (id, Box::new(process) as Box<dyn Running>)).collect();
    let began = |id: &str| keeper.home.instance(id).join(qemu::CONSOLE).exists();
    let Adopted { machines, strangers, known, unsaved } = keeper.state().adopt(running, &began);
    if let Some(error) = unsaved {
        keeper.log.write(format_args!("{error}"));
    }
    for (id, mut process) in strangers {
        keeper.log.write(format_args!("{id} belongs to nobody and is ended"));
        process.kill();
    }
    remove_others(keeper, &known)?;
    adopt_disks(keeper);
    for (id, health_port) in machines {
        keeper.log.write(format_args!("{id} is adopted"));
        keeper.resume(&id);
        begin_again(keeper, &id);
        watch(keeper, &id, health_port, QEMU_START);
        // The power button may have been meant to be pressed when the last process was killed.
        let pressed = {
            let mut state = keeper.state();
            let stopping = state.record(&id).is_some_and(|record| record.state == InstanceState::Stopping);
            stopping.then(|| state.begin(Effect::PowerOff { id })).flatten()
        };
        if let Some(effect) = pressed {
            spawn(keeper, effect);
        }
    }
    Ok(())
}

/// Goes on with a VM that the last process was killed amid the start of: its guest is told who it is, unless it has answered. One
/// that waits for a template, which only that process would have given it, is ended, and another one takes its place.
fn begin_again(keeper: &Arc<Keeper>, id: &str) {
    if keeper.state().record(id).is_none_or(|record| record.answered) {
        return;
    }
    let folder = keeper.home.instance(id);
    if let Some(told) = Told::kept(&folder) {
        tokio::spawn(tell(Arc::clone(keeper), id.to_owned(), told));
    }
    let (keeper, id) = (Arc::clone(keeper), id.to_owned());
    tokio::spawn(async move {
        let status = loop {
            // One that was started a moment ago has no socket yet, and that of a busy host is late.
            match qmp::status(&folder).await {
                Ok(status) => break status,
                Err(_) if is_over(&keeper, &id) => return,
                Err(_) => sleep(LOOK).await,
            }
        };
        if status != qmp::AWAITING {
            return;
        }
        keeper
            .log
            .write(format_args!("{id} waits for a snapshot that nobody gives it any more: it is ended"));
        if let Some(machine) = keeper.state().machines.get_mut(&id)
            && let Life::Started(process) = &mut machine.life
        {
            process.kill();
        }
    });
}

/// Takes up disks that no record names, removes what the last process left half made, and takes up the copies that it did
/// not note.
fn adopt_disks(keeper: &Keeper) {
    let state = || keeper.state();
    let now = keeper.clock.now();
    for (environment, disk, size) in volumes::all(&keeper.home) {
        state().environments.entry(environment).or_default().adopt_disk(&disk, size, now);
    }
    let names = |(environment, found): (&String, &Environment)| -> Vec<(String, Name)> {
        found.disks.keys().map(|disk| (environment.clone(), disk.clone())).collect()
    };
    let disks: Vec<(String, Name)> = state().environments.iter().flat_map(names).collect();
    for (environment, disk) in disks {
        let path = volumes::path(&keeper.home, &environment, &disk);
        if let Err(error) = volumes::sweep(&path) {
            keeper.log.write(format_args!("disk {disk}: {error}"));
        }
        let copies = volumes::snapshots_of(&path);
        if let Some(found) = state().environments.get_mut(&environment) {
            found.adopt_snapshots(&disk, copies);
        }
    }
}

impl Keeper {
    /// Has a VM go on that was paused for a copy of its disk: tried until its qemu has done it, or the VM has ended. One that
    /// stays paused counts as lost after a while.
    pub(in crate::cloud::local) fn resume(self: &Arc<Self>, id: &str) {
        let task = format!("question to {id} whether it is paused for a copy of its disk");
        if self.tasks.is_failing(&task) {
            // Somebody is at it.
            return;
        }
        let (keeper, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let (keeper, folder) = (&*keeper, &keeper.home.instance(&id));
            let ask = || async move {
                if !qmp::is_paused(folder).await? {
                    return Ok(());
                }
                // Whoever has the lock may have paused it for another copy, and has it go on when that is made.
                let _disks = keeper.disks.lock().await;
                qmp::resume(folder).await
            };
            keeper.insist(&id, &task, ask).await;
        });
    }
}

/// Removes folders of VMs that are not known.
fn remove_others(keeper: &Keeper, known: &BTreeSet<String>) -> Result<(), CloudError> {
    let instances = keeper.home.instances();
    let entries = fs::read_dir(&instances).map_err(CloudError::file("read", &instances))?;
    for entry in entries {
        let path = entry.map_err(CloudError::file("read", &instances))?.path();
        let is_known =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(name));
        if !is_known {
            fs::remove_dir_all(&path).map_err(CloudError::file("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::*;
    use crate::cloud::local::machine::qmp::tests::stand_in;
    use crate::cloud::local::store;

    #[tokio::test]
    async fn a_vm_that_a_killed_process_had_paused_goes_on_however_long_its_qemu_takes() {
        let root = tempfile::tempdir().unwrap();
        let keeper = Keeper::with_machine(root.path(), &Arc::new(AtomicBool::new(true)));
        let folder = keeper.home.instance("web-1-a");
        let paused = || json!({ "return": { "status": "paused", "running": false } });
        let busy = || json!({ "error": { "desc": "busy" } });
        let answers = [busy(), paused(), busy(), paused(), json!({ "return": {} })];
        keeper.resume("web-1-a");
        let asked = tokio::time::timeout(Duration::from_mins(1), stand_in(&folder, &answers)).await;
        assert_eq!(
            asked.expect("attempts until it goes on"),
            ["query-status", "query-status", "cont", "query-status", "cont"]
        );
    }

    #[tokio::test]
    async fn a_vm_that_is_paused_for_a_copy_under_way_is_left_to_who_makes_it() {
        let root = tempfile::tempdir().unwrap();
        let keeper = Keeper::with_machine(root.path(), &Arc::new(AtomicBool::new(true)));
        let folder = keeper.home.instance("web-1-a");
        let copying = keeper.disks.lock().await;
        keeper.resume("web-1-a");
        let patience = Duration::from_mins(1);
        let answers = [json!({ "return": { "status": "paused" } })];
        tokio::time::timeout(patience, stand_in(&folder, &answers)).await.expect("a question");
        let answers = [json!({ "return": {} })];
        let mut qemu = std::pin::pin!(stand_in(&folder, &answers));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut qemu).await;
        assert!(early.is_err(), "it goes on amid the copy");
        drop(copying);
        assert_eq!(tokio::time::timeout(patience, qemu).await.expect("an attempt"), ["cont"]);
    }

    #[tokio::test]
    async fn a_vm_that_waits_for_a_snapshot_of_a_killed_process_is_ended() {
        let root = tempfile::tempdir().unwrap();
        let is_alive = Arc::new(AtomicBool::new(true));
        let keeper = Keeper::with_machine(root.path(), &is_alive);
        *keeper.state().environments = store::sample();
        let unanswered = |keeper: &Keeper| {
            let mut state = keeper.state();
            let mut groups = state.environments.values_mut().flat_map(|found| found.groups.values_mut());
            groups.find_map(|group| group.instances.get_mut("web-1-a")).unwrap().answered = false;
        };
        unanswered(&keeper);
        let folder = keeper.home.instance("web-1-a");
        let status = |status: &str| [json!({ "return": { "status": status } })];
        for word in ["running", qmp::AWAITING] {
            assert!(is_alive.load(Ordering::Relaxed), "one that runs goes on");
            begin_again(&keeper, "web-1-a");
            // Its qemu makes its socket later than it is looked for.
            tokio::time::sleep(LOOK / 2).await;
            let answers = status(word);
            let asked = tokio::time::timeout(Duration::from_mins(1), stand_in(&folder, &answers)).await;
            assert_eq!(asked.expect("a question"), ["query-status"]);
        }
        let ended = tokio::time::timeout(Duration::from_mins(1), async {
            while is_alive.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        ended.await.expect("its end");
    }
}
