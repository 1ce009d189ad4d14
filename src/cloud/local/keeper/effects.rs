//! What was decided and saved, done to VMs and their disks.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::start::{Started, start};
use super::state::{Life, Running, State};
use super::step::{Effect, Launch};
use super::telling::tell;
use super::watch::{QEMU_START, watch};
use super::{Keeper, templates};
use crate::cloud::local::blocking::apart;
use crate::cloud::local::machine::qemu::MemoryPlace;
use crate::cloud::local::machine::qmp;
use crate::cloud::local::network::{self, GuestPort};
use crate::cloud::local::supervise::supervise;
use crate::cloud::local::volumes;
use crate::manifest::api::Name;
use crate::plan::fleet::{Accelerator, InstanceState};

/// Between two attempts to delete a disk that cannot be deleted.
const REMOVAL_PAUSE: Duration = Duration::from_secs(2);

/// Between two attempts to have qemu do something.
const QEMU_PAUSE: Duration = Duration::from_millis(200);

/// Carries an effect out in the background.
pub(super) fn spawn(keeper: &Arc<Keeper>, effect: Effect) {
    let keeper = Arc::clone(keeper);
    match effect {
        Effect::Launch(launch) => {
            tokio::spawn(async move { launch_vm(&keeper, *launch).await });
        }
        Effect::Forward { id, port } => forward(&keeper, &id, port),
        Effect::PowerOff { id } => {
            tokio::spawn(async move { power_off(&keeper, &id).await });
        }
        Effect::Remove { id, .. } => {
            tokio::task::spawn_blocking(move || remove(&keeper, &id));
        }
        Effect::RemoveDisk { environment, disk } => {
            tokio::task::spawn_blocking(move || remove_disk(&keeper, &environment, &disk));
        }
        // Done when they began.
        Effect::Refuse { .. } | Effect::Kill { .. } | Effect::Dismiss { .. } => {}
    }
}

/// Presses a VM's power button, so that its pod is stopped as its manifest says. A VM that does not hear it is killed once its
/// grace period is over, which ends the attempts.
async fn power_off(keeper: &Keeper, id: &str) {
    let folder = &keeper.home.instance(id);
    keeper.insist(id, &format!("power button of {id}"), || qmp::power_off(folder)).await;
}

impl Keeper {
    /// Has qemu do for a VM what may be done twice: asks again until it is done, or the VM has ended. While it is not
    /// done, `status` has a warning about `task`.
    pub(super) async fn insist<F>(&self, id: &str, task: &str, ask: impl Fn() -> F)
    where
        F: Future<Output = io::Result<()>>,
    {
        loop {
            let answer = ask().await;
            let is_done = answer.is_ok();
            if !is_done && !self.state().is_alive(id) {
                self.tasks.forget(task);
                return;
            }
            self.tasks.tell(&self.log, task, answer);
            if is_done {
                return;
            }
            tokio::time::sleep(QEMU_PAUSE).await;
        }
    }
}

/// Removes a VM's folder. One that cannot be removed goes when the next process adopts what there is.
fn remove(keeper: &Keeper, id: &str) {
    let folder = keeper.home.instance(id);
    if let Err(error) = fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        keeper.log.write(format_args!("{} cannot be removed: {error}", folder.display()));
    }
}

/// Deletes a disk, and then its record: one that cannot be deleted is tried again.
fn remove_disk(keeper: &Keeper, environment: &str, disk: &Name) {
    let failure =
        volumes::remove(&volumes::path(&keeper.home, environment, disk)).err().map(|error| error.to_string());
    if let Some(failure) = &failure {
        keeper.log.write(format_args!("disk {disk}: {failure}"));
        // Before the next attempt, which comes with the next round.
        std::thread::sleep(REMOVAL_PAUSE);
    }
    let gone = failure.is_none();
    keeper.state().end_removal(environment, disk, failure);
    if gone {
        keeper.changed.notify_one();
    }
}

/// Starts a VM: from the template of its kind where there is one that works, else by a boot.
async fn launch_vm(keeper: &Arc<Keeper>, launch: Launch) {
    let Ok(_turn) = keeper.starts.acquire().await else { return };
    let launch = Arc::new(launch);
    let (id, health_port) = (&launch.id, launch.spec.health_port);
    let (started, template) = match templates::start(keeper, &launch).await {
        Ok(Some((started, key))) => (Ok(Some(started)), Some(key)),
        Ok(None) => {
            let (this, of) = (Arc::clone(keeper), Arc::clone(&launch));
            let booted = apart("start of a machine", move || start(&this, &of, MemoryPlace::Own)).await;
            (booted.flatten(), None)
        }
        Err(error) => (Err(error), None),
    };
    match started {
        Ok(Some(Started { process, accelerator, told })) => {
            keeper.state().started(id, Box::new(process), accelerator);
            if template.is_some() {
                keeper.state().came_from_snapshot(id);
            } else if let Some(told) = told {
                tokio::spawn(tell(Arc::clone(keeper), id.clone(), told));
            }
            if launch.with_templates {
                tokio::spawn(templates::follow(Arc::clone(keeper), Arc::clone(&launch), template));
            }
            watch(keeper, id, health_port, QEMU_START);
        }
        Ok(None) => {
            keeper.state().failed(id, "it was not wanted any more".to_owned());
            keeper.changed.notify_one();
        }
        Err(error) => {
            keeper.log.write(format_args!("{id}: {error}"));
            keeper.state().failed(id, error.to_string());
            keeper.changed.notify_one();
        }
    }
}

impl State {
    /// Takes note that a VM could not be started.
    pub(super) fn failed(&mut self, id: &str, reason: String) {
        if let Some(machine) = self.machines.get_mut(id) {
            machine.life = Life::Failed(reason);
        }
    }

    /// Takes note that a VM did not boot.
    fn came_from_snapshot(&mut self, id: &str) {
        let mut groups =
            self.environments.values_mut().flat_map(|environment| environment.groups.values_mut());
        if let Some(record) = groups.find_map(|group| group.instances.get_mut(id)) {
            record.from_snapshot = true;
        }
    }

    /// Takes over the process of a VM that was started, and ends it when the VM is not wanted any more.
    pub(super) fn started(&mut self, id: &str, mut process: Box<dyn Running>, accelerator: Accelerator) {
        let mut groups =
            self.environments.values_mut().flat_map(|environment| environment.groups.values_mut());
        let record = groups.find_map(|group| group.instances.get_mut(id));
        match (record, self.machines.get_mut(id)) {
            (Some(record), Some(machine)) => {
                record.accelerator = Some(accelerator);
                if record.state != InstanceState::Running {
                    process.kill();
                }
                machine.life = Life::Started(process);
            }
            _ => process.kill(),
        }
    }
}

/// Has qemu add a forward; tries again until it is there or the VM is gone.
fn forward(keeper: &Arc<Keeper>, id: &str, port: GuestPort) {
    let cancel = {
        let mut state = keeper.state();
        let Some(machine) = state.machines.get_mut(id) else { return };
        if !machine.network.request(port) {
            return;
        }
        machine.watch.clone()
    };
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    let name = format!("forward of port {}/{:?} of {id}", port.0, port.1);
    let (keeper, id) = (Arc::clone(keeper), id.to_owned());
    tokio::spawn(supervise(tasks, log, name, cancel, move || {
        add_forward(Arc::clone(&keeper), id.clone(), port)
    }));
}

async fn add_forward(keeper: Arc<Keeper>, id: String, port: GuestPort) -> std::io::Result<()> {
    let forwards = network::open(&keeper.home.instance(&id), port).await?;
    if let Some(machine) = keeper.state().machines.get_mut(&id) {
        machine.network.answered(port, forwards);
    }
    keeper.changed.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::*;
    use crate::cloud::local::home::Home;
    use crate::cloud::local::keeper::state::MachineHandle;
    use crate::cloud::local::machine::qmp::tests::stand_in;

    /// Far more than a busy host takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A process that runs for as long as somebody says so.
    #[derive(Debug)]
    struct Switched(Arc<AtomicBool>);

    impl Running for Switched {
        fn pid(&self) -> u32 {
            1
        }

        fn is_alive(&mut self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn killed_by(&mut self) -> Option<i32> {
            None
        }

        fn kill(&mut self) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    impl Keeper {
        /// A keeper with its folders in `root` and with the VM `web-1-a`, whose process runs for as long as `is_alive` says.
        pub(in crate::cloud::local) fn with_machine(root: &Path, is_alive: &Arc<AtomicBool>) -> Arc<Self> {
            let home = Home::new(&root.join("state"), root, PathBuf::new());
            home.create().unwrap();
            let keeper = Arc::new(Self::open(home).unwrap());
            fs::create_dir_all(keeper.home.instance("web-1-a")).unwrap();
            let machine = MachineHandle::new(Life::Started(Box::new(Switched(Arc::clone(is_alive)))));
            keeper.state().machines.insert("web-1-a".to_owned(), machine);
            keeper
        }
    }

    /// Waits until `status` has a warning that begins like this, or, with nothing, until it has none.
    async fn warned(keeper: &Keeper, beginning: Option<&str>) {
        let is_so = || {
            let failing = keeper.tasks.failing();
            beginning.map_or(failing.is_empty(), |wanted| failing.iter().any(|line| line.starts_with(wanted)))
        };
        let wait = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a warning, or its end");
    }

    #[tokio::test]
    async fn the_power_button_is_pressed_until_qemu_took_it() {
        let root = tempfile::tempdir().unwrap();
        let keeper = Keeper::with_machine(root.path(), &Arc::new(AtomicBool::new(true)));
        let folder = keeper.home.instance("web-1-a");
        spawn(&keeper, Effect::PowerOff { id: "web-1-a".to_owned() });
        for (answer, warning) in [
            (json!({ "error": { "desc": "busy" } }), Some("power button of web-1-a: ")),
            (json!({ "return": {} }), None),
        ] {
            let answers = [answer];
            let pressed = tokio::time::timeout(PATIENCE, stand_in(&folder, &answers)).await;
            assert_eq!(pressed.expect("a press"), ["system_powerdown"]);
            warned(&keeper, warning).await;
        }
    }

    #[tokio::test]
    async fn a_vm_that_has_ended_is_asked_for_nothing_more() {
        let root = tempfile::tempdir().unwrap();
        let is_alive = Arc::new(AtomicBool::new(true));
        let keeper = Keeper::with_machine(root.path(), &is_alive);
        let ends = async {
            warned(&keeper, Some("power button of web-1-a: ")).await;
            is_alive.store(false, Ordering::Relaxed);
        };
        let attempts = async { tokio::join!(power_off(&keeper, "web-1-a"), ends) };
        tokio::time::timeout(PATIENCE, attempts).await.expect("an end");
        assert!(keeper.tasks.failing().is_empty(), "nobody is told of what is over");
    }
}
