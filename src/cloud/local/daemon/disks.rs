//! Acts about disks: what they do to files comes before the record of it, so that a record is of something that is there.

use std::sync::Arc;

use i2kit_spec::Bytes;

use super::records::{ENDING, POLL, admit, record};
use crate::cloud::CloudError;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::machine::qmp;
use crate::cloud::local::volumes::{self, Wanted, Writer};
use crate::manifest::api::Name;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::{DiskSpec, Generation, size};

/// The most data of a disk that is copied while its machine is paused: some seconds of a slow disk. Where files can share
/// their blocks nothing is copied.
const MAX_PAUSED_COPY: Bytes = Bytes(2 << 30);

/// Whether the act is about disks.
pub(super) fn is_about(act: &Act) -> bool {
    matches!(
        act,
        Act::PutDisk { .. }
            | Act::DeleteDisks { .. }
            | Act::SnapshotDisk { .. }
            | Act::RestoreDisk { .. }
            | Act::DeleteSnapshots { .. }
    )
}

/// Applies an act about disks, to its end also when the caller goes away: no machine stays stopped for a copy that nobody
/// waits for.
pub(super) async fn apply(
    keeper: &Arc<Keeper>,
    environment: &str,
    act: &PlannedAct,
) -> Result<Generation, CloudError> {
    let (keeper, environment, act) = (Arc::clone(keeper), environment.to_owned(), act.clone());
    let whole = tokio::spawn(async move { apply_whole(&keeper, &environment, &act).await });
    whole.await.unwrap_or_else(|panic| Err(CloudError::Store { message: panic.to_string() }))
}

/// Applies the act. One that its record will refuse changes no file.
async fn apply_whole(
    keeper: &Arc<Keeper>,
    environment: &str,
    act: &PlannedAct,
) -> Result<Generation, CloudError> {
    let _disks = keeper.disks.lock().await;
    if !admit(keeper, environment, act)? {
        return record(keeper, environment, act);
    }
    match &act.act {
        Act::PutDisk { disk } => put(keeper, environment, disk).await?,
        Act::SnapshotDisk { disk, snapshot } => copy(keeper, environment, disk, snapshot).await?,
        Act::RestoreDisk { disk, snapshot } => restore(keeper, environment, disk, snapshot).await?,
        // Before the record, or one that is killed between the two would be taken up again.
        Act::DeleteSnapshots { disk, snapshots } => {
            let (path, names) = (volumes::path(&keeper.home, environment, disk), snapshots.clone());
            blocking(move || names.iter().try_for_each(|name| volumes::remove_snapshot(&path, name))).await?;
        }
        _ => {}
    }
    let generation = record(keeper, environment, act)?;
    match &act.act {
        Act::PutDisk { disk } => adopt_snapshots(keeper, environment, &disk.name).await?,
        Act::DeleteDisks { disks } => gone(keeper, environment, disks).await?,
        _ => {}
    }
    Ok(generation)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CloudError> + Send + 'static,
) -> Result<T, CloudError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(CloudError::Store { message: panic.to_string() }))
}

/// Makes the disk, or grows it: by qemu where a machine has it, so that its guest sees it grow.
async fn put(keeper: &Arc<Keeper>, environment: &str, spec: &DiskSpec) -> Result<(), CloudError> {
    let path = volumes::path(&keeper.home, environment, &spec.name);
    let is_made = {
        let state = keeper.state();
        let found = state.environments.get(environment).and_then(|found| found.disks.get(&spec.name));
        found.is_some_and(|disk| disk.made)
    };
    if is_made && !path.exists() {
        // It is not made anew: it may have held something.
        return Ok(());
    }
    let (size, variables) = (spec.size, keeper.home.environment.clone());
    let held = blocking(move || {
        volumes::make(&Wanted { path: &path, size, environment: &variables })?;
        volumes::grow(&path, size)
    });
    let Some(bytes) = held.await? else { return Ok(()) };
    let Some((id, number)) = holder(keeper, environment, &spec.name) else { return Ok(()) };
    qmp::grow_disk(&keeper.home.instance(&id), number, bytes).await.map_err(|error| CloudError::Guest {
        instance: id.clone(),
        message: format!("its disk does not grow: {error}"),
    })
}

/// Takes up copies of a disk that was there before its record.
async fn adopt_snapshots(keeper: &Keeper, environment: &str, disk: &Name) -> Result<(), CloudError> {
    let path = volumes::path(&keeper.home, environment, disk);
    let copies = blocking(move || Ok(volumes::snapshots_of(&path))).await?;
    if let Some(found) = keeper.state().environments.get_mut(environment) {
        found.adopt_snapshots(disk, copies);
    }
    Ok(())
}

/// The machine that has the disk, and the disk's number in it.
fn holder(keeper: &Keeper, environment: &str, disk: &Name) -> Option<(String, usize)> {
    keeper.state().holder(environment, disk)
}

/// A disk that no machine has, and that none is started with for as long as this value lives.
struct Reserved {
    keeper: Arc<Keeper>,
    environment: String,
    disk: Name,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.keeper.state().end_copy(&self.environment, &self.disk);
        self.keeper.changed.notify_one();
    }
}

/// Reserves a disk, or names the machine that has it.
fn reserve(keeper: &Arc<Keeper>, environment: &str, disk: &Name) -> Result<Reserved, String> {
    let mut state = keeper.state();
    if let Some((id, _)) = state.holder(environment, disk) {
        return Err(id);
    }
    state.begin_copy(environment, disk);
    Ok(Reserved { keeper: Arc::clone(keeper), environment: environment.to_owned(), disk: disk.clone() })
}

/// Copies a disk at a moment: a machine that has it is paused meanwhile, so that the copy is what a cut of its power
/// would have left.
async fn copy(
    keeper: &Arc<Keeper>,
    environment: &str,
    disk: &Name,
    snapshot: &str,
) -> Result<(), CloudError> {
    let path = volumes::path(&keeper.home, environment, disk);
    let name = snapshot.to_owned();
    let id = match reserve(keeper, environment, disk) {
        Ok(_reserved) => {
            return blocking(move || volumes::copy_to_snapshot(&path, &name, Writer::Absent)).await;
        }
        Err(id) => id,
    };
    let (looked, used) = (path.clone(), volumes::used(&path).unwrap_or_default());
    if used.0 > MAX_PAUSED_COPY.0 && !blocking(move || Ok(volumes::shares_blocks(&looked))).await? {
        return Err(CloudError::Refused {
            message: format!(
                "disk {disk} has {} of data, {id} runs with it, and the file system of {} cannot share blocks: copying would \
                 stop the machine for too long; end it with `i2kit scale GROUP --replicas 0` first",
                size(used),
                path.display()
            ),
        });
    }
    let folder = keeper.home.instance(&id);
    // qemu may have stopped it although its answer was late: it goes on in any case.
    let (source, copy) = (path.clone(), name.clone());
    let copied = match qmp::pause(&folder).await {
        Ok(()) => blocking(move || volumes::copy_to_snapshot(&source, &copy, Writer::Stopped)).await,
        Err(error) => Err(CloudError::file("pause the machine in", &folder)(error)),
    };
    if qmp::resume(&folder).await.is_err() {
        if !keeper.state().is_alive(&id) {
            // The next one may have written during the copy.
            blocking(move || volumes::remove_snapshot(&path, &name)).await?;
            let message = "it ended while its disk was copied; take the snapshot again".to_owned();
            return Err(CloudError::Guest { instance: id, message });
        }
        // Not here: whoever wants the lock of disks does not wait for a qemu that may hang.
        keeper.resume(&id);
    }
    copied
}

async fn restore(
    keeper: &Arc<Keeper>,
    environment: &str,
    disk: &Name,
    snapshot: &str,
) -> Result<(), CloudError> {
    let in_use = |id| CloudError::InUse { what: format!("disk {disk}"), user: id };
    let _reserved = reserve(keeper, environment, disk).map_err(in_use)?;
    let (path, name) = (volumes::path(&keeper.home, environment, disk), snapshot.to_owned());
    blocking(move || volumes::restore(&path, &name)).await
}

/// Waits until the disks are gone, or until one could not be deleted.
async fn gone(keeper: &Keeper, environment: &str, disks: &[Name]) -> Result<(), CloudError> {
    for disk in disks {
        drop(keeper.state().removal_failure(environment, disk));
    }
    let left = || {
        let state = keeper.state();
        let found = state.environments.get(environment)?;
        disks.iter().find(|name| found.disks.get(name).is_some_and(|disk| disk.deleting)).cloned()
    };
    while let Some(disk) = left() {
        if let Some(message) = keeper.state().removal_failure(environment, &disk) {
            let message = format!("disk {disk} cannot be deleted, and is tried again: {message}");
            return Err(CloudError::Store { message });
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = keeper.ending.cancelled() => {
                return Err(CloudError::Unreachable { message: ENDING.into() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::cloud::engine::environment::{Environment, InstanceRecord};
    use crate::cloud::engine::moment::Moment;
    use crate::cloud::local::machine::qmp::tests::stand_in;
    use crate::manifest::api::Strategy;
    use crate::oci::Digest;
    use crate::plan::act::NewRevision;
    use crate::plan::example;
    use crate::plan::fleet::{LaunchDisk, LaunchSpec};
    use crate::plan::image::ImageId;

    /// Far more than a busy host takes.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn name(name: &str) -> Name {
        Name { namespace: "default".into(), name: name.into() }
    }

    /// A keeper whose VM `web-1-a` has the disk `data`, and the disk's file.
    fn with_disk(root: &Path, is_alive: &Arc<AtomicBool>) -> (Arc<Keeper>, PathBuf) {
        let keeper = Keeper::with_machine(root, is_alive);
        let (image, group) = (ImageId(Digest::of(b"1")), name("web"));
        let launch = LaunchSpec { disks: vec![LaunchDisk::Claim("data".into())], ..example::launch(image) };
        let revision = NewRevision { number: 1, launch, cause: String::new() };
        let mut environment = Environment::default();
        for act in [
            Act::PutImage { image },
            Act::PutGroup { group: group.clone(), settings: example::settings(Strategy::Recreate) },
            Act::PutRevision { group: group.clone(), revision },
        ] {
            let planned = PlannedAct { act, generation: environment.generation(), by: "test".into() };
            environment.apply(&planned, Moment::default(), String::new).unwrap();
        }
        let record = InstanceRecord::new("web-1-a".into(), 1, Moment::default());
        environment.groups.get_mut(&group).unwrap().instances.insert(record.id.clone(), record);
        keeper.state().environments.insert("local".to_owned(), environment);
        let path = volumes::path(&keeper.home, "local", &name("data"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "kept").unwrap();
        (keeper, path)
    }

    #[tokio::test]
    async fn a_machine_that_was_paused_for_a_copy_goes_on_however_often_qemu_refuses() {
        let root = tempfile::tempdir().unwrap();
        let (keeper, path) = with_disk(root.path(), &Arc::new(AtomicBool::new(true)));
        let (folder, disk) = (keeper.home.instance("web-1-a"), name("data"));
        let (done, busy) = (json!({ "return": {} }), json!({ "error": { "desc": "busy" } }));
        let paused = json!({ "return": { "status": "paused", "running": false } });
        let answers = [&done, &busy, &paused, &busy, &paused, &done].map(Clone::clone);
        let both =
            async { tokio::join!(stand_in(&folder, &answers), copy(&keeper, "local", &disk, "before")) };
        let (asked, copied) = tokio::time::timeout(PATIENCE, both).await.expect("it goes on");
        copied.unwrap();
        assert_eq!(asked, ["stop", "cont", "query-status", "cont", "query-status", "cont"]);
        assert_eq!(volumes::snapshots_of(&path).len(), 1);
    }

    #[tokio::test]
    async fn a_qemu_that_is_not_reached_keeps_nobody_waiting_for_the_lock_of_disks() {
        let root = tempfile::tempdir().unwrap();
        let (keeper, path) = with_disk(root.path(), &Arc::new(AtomicBool::new(true)));
        let copied = tokio::time::timeout(PATIENCE, copy(&keeper, "local", &name("data"), "before")).await;
        assert!(copied.expect("an answer").unwrap_err().to_string().contains("pause the machine in"));
        assert!(volumes::snapshots_of(&path).is_empty());
    }

    #[tokio::test]
    async fn a_copy_of_the_disk_of_a_machine_that_ended_meanwhile_is_none() {
        let root = tempfile::tempdir().unwrap();
        let is_alive = Arc::new(AtomicBool::new(true));
        let (keeper, path) = with_disk(root.path(), &is_alive);
        let (folder, disk) = (keeper.home.instance("web-1-a"), name("data"));
        let answers = [json!({ "return": {} })];
        let ends = async {
            stand_in(&folder, &answers).await;
            is_alive.store(false, Ordering::Relaxed);
        };
        let both = async { tokio::join!(ends, copy(&keeper, "local", &disk, "before")) };
        let ((), copied) = tokio::time::timeout(PATIENCE, both).await.expect("an end");
        let error = copied.unwrap_err().to_string();
        assert!(error.contains("it ended while its disk was copied"), "{error}");
        assert!(volumes::snapshots_of(&path).is_empty());
    }
}
