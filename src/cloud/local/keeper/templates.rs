//! VMs that start from templates: which ones do, whether they came to life, and what follows when they did not. Whatever is wrong with
//! a template, its VM boots.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep, sleep_until};

use super::Keeper;
use super::start::{Started, is_wanted, start as begin};
use super::step::Launch;
use crate::cloud::CloudError;
use crate::cloud::local::blocking::apart;
use crate::cloud::local::link::identity::{self, Told};
use crate::cloud::local::machine::process::{self, MachineProcess};
use crate::cloud::local::machine::qemu::{self, MemoryFile, MemoryPlace};
use crate::cloud::local::machine::qemu_version::Version;
use crate::cloud::local::machine::template::{self, Damaged, Kind, KindFacts, Template};
use crate::cloud::local::machine::template_table::Wanted;
use crate::cloud::local::machine::{images, platform, qmp};
use crate::cloud::local::socket;
use crate::oci::Digest;
use crate::plan::fleet::{Health, InstanceState, LaunchSpec};

/// How long a VM may take from the start of its qemu until its guest has taken what it was told: a tenth of a second, or some on a
/// busy host. One that boots takes longer.
const COMING: Duration = Duration::from_secs(30);

/// How often a VM that comes to life is looked at.
const POLL: Duration = Duration::from_millis(5);

/// How often a VM that started from a template is looked at until it has answered.
const LOOK: Duration = Duration::from_millis(100);

/// The same of one that boots, which takes seconds.
const SLOW_LOOK: Duration = Duration::from_secs(1);

/// How long a process may take to be gone after it was killed.
const END: Duration = Duration::from_secs(10);

/// The template that a VM starts from.
#[derive(Debug)]
struct Found {
    key: Digest,
    template: Template,
    /// Whether its qemu need not be able to write it.
    read_only: bool,
}

/// The template that a VM has started from: its name, and which one of its kind it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    key: Digest,
    mark: Digest,
}

/// Why a VM did not come to life.
#[derive(Debug, PartialEq, Eq)]
enum Missed {
    /// It is not wanted any more.
    Unwanted,
    /// Its qemu does not take the template.
    Refused(String),
    /// It took too long.
    Late,
}

/// The kind of machines that are started from `spec`, where they can start from a template, and their qemu. Blocks.
pub(super) fn kind(keeper: &Keeper, spec: &LaunchSpec, own_network: bool) -> Option<(Kind, Version)> {
    let cmdline = images::cmdline(&keeper.home, spec.image).ok()?;
    let program = platform::of(spec.architecture).program;
    let version = keeper.templates.versions.find(program, &keeper.home.environment)?;
    let accelerator = keeper.accelerator();
    let facts = KindFacts { launch: spec, cmdline: &cmdline, own_network, accelerator, qemu: &version.text };
    Some((Kind::of(&facts)?, version))
}

/// The template for a VM, where there is one. One that is not what was written is removed. Blocks.
fn find(keeper: &Keeper, launch: &Launch) -> Option<Found> {
    let (kind, version) = kind(keeper, &launch.spec, launch.address.is_some())?;
    match template::find(&keeper.home, &kind) {
        Ok(found) => Some(Found { key: kind.key(), template: found?, read_only: version.copies_read_only }),
        Err(Damaged { mark, reason }) => {
            give_up(keeper, kind.key(), mark, &reason);
            None
        }
    }
}

/// Removes a template that is not used any more. It was at fault once, however many machines have found that; one that gave way,
/// was pruned or has a successor meanwhile was not.
fn give_up(keeper: &Keeper, key: Digest, mark: Option<Digest>, reason: &str) {
    let name = key.short();
    match template::remove_marked(&keeper.home, key, mark) {
        Ok(true) => {
            let may_be_made = keeper.templates.table().spoiled(key);
            let anew = if may_be_made { "another one is made" } else { "no other one is made" };
            keeper.log.write(format_args!("snapshot {name}: {reason}; it is removed, and {anew}"));
        }
        Ok(false) => {}
        Err(error) => keeper.log.write(format_args!("snapshot {name}: {reason}; {error}")),
    }
}

/// Starts a VM from the template of its kind, which is returned too. Nothing where the VM is to boot; an error where it cannot do
/// that either.
pub(super) async fn start(
    keeper: &Arc<Keeper>,
    launch: &Arc<Launch>,
) -> Result<Option<(Started, Used)>, CloudError> {
    if !launch.with_templates {
        return Ok(None);
    }
    let (this, of) = (Arc::clone(keeper), Arc::clone(launch));
    let Some(Found { key, template, read_only }) =
        apart("search for a snapshot", move || find(&this, &of)).await?
    else {
        return Ok(None);
    };
    let Template { memory, devices, mark } = template;
    let used = Used { key, mark };
    let (this, of) = (Arc::clone(keeper), Arc::clone(launch));
    let begun = apart("start of a machine", move || {
        let file = MemoryFile { path: &memory, read_only };
        begin(&this, &of, MemoryPlace::Copied(file))
    });
    // What keeps it from being started keeps it from being booted, too, and is told then.
    let Ok(Some(mut started)) = begun.await? else { return Ok(None) };
    let missed = match come_to_life(keeper, &launch.id, &mut started, &devices).await {
        Ok(()) => return Ok(Some((started, used))),
        Err(missed) => missed,
    };
    let is_late = missed == Missed::Late;
    end(&mut started.process).await?;
    let said = process::last_message(&keeper.home.instance(&launch.id));
    let reason = match missed {
        Missed::Unwanted => return Ok(None),
        Missed::Refused(reason) => said.unwrap_or(reason),
        Missed::Late => {
            "the guest did not come to life in time: this host is busy, or the snapshot is bad".into()
        }
    };
    keeper.log.write(format_args!("{} does not start from its snapshot: {reason}; it boots", launch.id));
    // A busy host may be late as well.
    if !is_late || keeper.templates.table().struck(key, mark) {
        let this = Arc::clone(keeper);
        apart("removal of a snapshot", move || give_up(&this, key, Some(mark), &reason)).await?;
    }
    Ok(None)
}

/// Gives the state of its devices to a VM that waits for them, and tells its guest who it is.
async fn come_to_life(
    keeper: &Keeper,
    id: &str,
    started: &mut Started,
    devices: &[u8],
) -> Result<(), Missed> {
    let Started { process, told, .. } = started;
    let told =
        told.as_ref().ok_or_else(|| Missed::Refused("its guest cannot be told who it is".to_owned()))?;
    let folder = keeper.home.instance(id);
    let mut life = std::pin::pin!(restore(&folder, devices, told));
    let given_up = Instant::now() + COMING;
    loop {
        tokio::select! {
            done = &mut life => return done.map_err(|error| missed(&error)),
            () = sleep_until(given_up) => return Err(Missed::Late),
            () = sleep(LOOK) => {}
        }
        if !process.is_alive() {
            return Err(Missed::Refused("its process has ended".to_owned()));
        }
        if !is_wanted(keeper, id) {
            return Err(Missed::Unwanted);
        }
    }
}

/// Why a VM did not come to life, by the error of the conversation with it.
fn missed(error: &io::Error) -> Missed {
    match error.kind() {
        // A busy host's qemu answers late, and says nothing of its template by that.
        io::ErrorKind::TimedOut => Missed::Late,
        _ => Missed::Refused(error.to_string()),
    }
}

/// The conversation with qemu, and then with the guest.
async fn restore(folder: &Path, devices: &[u8], told: &Told) -> io::Result<()> {
    // It is about to make its sockets.
    let mut incoming = loop {
        match socket::connect(folder, qemu::INCOMING).await {
            Ok(incoming) => break incoming,
            Err(_) => sleep(POLL).await,
        }
    };
    incoming.write_all(devices).await?;
    incoming.shutdown().await?;
    while qmp::status(folder).await? == qmp::AWAITING {
        sleep(POLL).await;
    }
    identity::tell(folder, told, true).await
}

/// Ends a process and waits for that: no two machines have one folder.
async fn end(process: &mut MachineProcess) -> Result<(), CloudError> {
    process.kill();
    let given_up = Instant::now() + END;
    while process.is_alive() {
        if Instant::now() > given_up {
            let message = format!("process {} does not end; end it, or restart this host", process.pid());
            return Err(CloudError::Program { program: "qemu".into(), message });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// How it goes with a VM that has not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nobody knows yet.
    Open,
    /// Its guest has answered.
    Answered,
    /// It ended by itself, or counts as lost.
    Failed,
    /// It was to end, or is forgotten: whether it would have answered nobody knows.
    Gone,
}

fn fate(keeper: &Keeper, id: &str) -> Fate {
    let mut state = keeper.state();
    let is_alive = state.is_alive(id);
    match state.record(id) {
        None => Fate::Gone,
        Some(record) if record.answered => Fate::Answered,
        Some(record) if record.state != InstanceState::Running => Fate::Gone,
        Some(record) if !is_alive || matches!(record.health, Health::Lost { .. }) => Fate::Failed,
        Some(_) => Fate::Open,
    }
}

/// Looks at a VM until it is known whether its guest answers. One that booted, and did, has the template of its kind made; one that
/// started `from` a template, and did not, is counted against that.
pub(super) async fn follow(keeper: Arc<Keeper>, launch: Arc<Launch>, from: Option<Used>) {
    let pause = if from.is_some() { LOOK } else { SLOW_LOOK };
    let found = loop {
        sleep(pause).await;
        match fate(&keeper, &launch.id) {
            Fate::Open if !keeper.ending.is_cancelled() => {}
            found => break found,
        }
    };
    match (found, from) {
        (Fate::Answered, Some(Used { key, mark })) => keeper.templates.table().worked(key, mark),
        (Fate::Failed, Some(Used { key, mark })) => {
            let is_bad = keeper.templates.table().struck(key, mark);
            if is_bad {
                // A thread that cannot be had leaves it for the next one that fails.
                let reason = "its machines do not answer";
                let _ =
                    apart("removal of a snapshot", move || give_up(&keeper, key, Some(mark), reason)).await;
            }
        }
        (Fate::Answered, None) => {
            let wanted = move || {
                let own_network = launch.address.is_some();
                let Some((kind, _)) = kind(&keeper, &launch.spec, own_network) else { return };
                keeper.templates.want(kind.key(), Wanted { spec: launch.spec.clone(), own_network });
            };
            let _ = apart("wish for a snapshot", wanted).await;
        }
        (Fate::Failed, None) | (Fate::Open | Fate::Gone, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use i2kit_spec::identity::{IDENTITY_TAKEN, take_identity};
    use serde_json::json;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::cloud::engine::environment::InstanceRecord;
    use crate::cloud::local::machine::qmp::tests::stand_in;
    use crate::cloud::local::machine::template::tests::{kind, make};
    use crate::cloud::local::machine::template_table::tests::wanted;
    use crate::cloud::local::store;

    /// Far more than a busy host takes.
    const PATIENCE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_machine_gets_its_devices_and_is_told_who_it_is_once_it_runs() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        let incoming = socket::listen(folder, qemu::INCOMING).unwrap();
        let port = socket::listen(folder, qemu::IDENTITY).unwrap();
        let machine = async {
            let (mut stream, _) = incoming.accept().await.unwrap();
            let mut devices = Vec::new();
            stream.read_to_end(&mut devices).await.unwrap();
            let (mut guest, _) = port.accept().await.unwrap();
            let mut bytes = Vec::new();
            let identity = loop {
                if let Some(identity) = take_identity(&mut bytes).unwrap() {
                    break identity;
                }
                bytes.push(guest.read_u8().await.unwrap());
            };
            guest.write_all(IDENTITY_TAKEN).await.unwrap();
            (devices, identity.parameters)
        };
        let told = Told { parameters: "i2kit.instance=web-1".into(), hardware: None };
        let answers =
            [qmp::AWAITING, qmp::AWAITING, "running"].map(|status| json!({ "return": { "status": status } }));
        let all =
            async { tokio::join!(stand_in(folder, &answers), restore(folder, b"devices", &told), machine) };
        let (asked, done, heard) = tokio::time::timeout(PATIENCE, all).await.expect("an end");
        done.unwrap();
        assert_eq!(asked, ["query-status"; 3]);
        assert_eq!(heard, (b"devices".to_vec(), told.parameters));
    }

    #[tokio::test]
    async fn a_qemu_that_ends_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        let incoming = socket::listen(folder, qemu::INCOMING).unwrap();
        let machine = async {
            // It takes what comes, and has no monitor any more when it is asked.
            let (mut stream, _) = incoming.accept().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let told = Told { parameters: String::new(), hardware: None };
        let all = async { tokio::join!(restore(folder, b"devices", &told), machine) };
        let (done, ()) = tokio::time::timeout(PATIENCE, all).await.expect("an end");
        assert!(matches!(missed(&done.unwrap_err()), Missed::Refused(_)));
        assert_eq!(
            missed(&io::ErrorKind::TimedOut.into()),
            Missed::Late,
            "that of a busy host is no refusal"
        );
    }

    #[test]
    fn one_template_is_at_fault_once_however_many_machines_find_that() {
        const MACHINES: usize = 8;
        let root = tempfile::tempdir().unwrap();
        let keeper = &Keeper::with_machine(root.path(), &Arc::new(AtomicBool::new(true)));
        let (kind, other) = (kind(1), kind(2));
        let all = |find_fault: &(dyn Fn() + Sync)| {
            std::thread::scope(|scope| {
                for _ in 0..MACHINES {
                    scope.spawn(find_fault);
                }
            });
        };
        // A thread of its own writes the log, in order.
        let mut looked = 0;
        let mut faults = || {
            looked += 1;
            let last = format!("look {looked}.");
            keeper.log.write(format_args!("{last}"));
            let since = std::time::Instant::now();
            loop {
                let log = std::fs::read_to_string(keeper.home.log()).unwrap();
                if log.contains(&last) {
                    break log.lines().filter(|line| line.contains("it is removed")).count();
                }
                assert!(since.elapsed() < PATIENCE, "{log}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // Its bytes are others, and all machines that are started at once see it.
        make(&keeper.home, &kind);
        let folder = keeper.home.template(kind.key());
        std::fs::write(folder.join("devices"), "other").unwrap();
        all(&|| {
            let Err(Damaged { mark, reason }) = template::find(&keeper.home, &kind) else { return };
            give_up(keeper, kind.key(), mark, &reason);
        });
        assert_eq!(faults(), 1);
        // All are late at once. Times of files are those of the kernel's last tick.
        std::thread::sleep(Duration::from_millis(20));
        make(&keeper.home, &kind);
        let mark = template::find(&keeper.home, &kind).unwrap().unwrap().mark;
        let late = || {
            if keeper.templates.table().struck(kind.key(), mark) {
                give_up(keeper, kind.key(), Some(mark), "late");
            }
        };
        all(&late);
        assert_eq!(faults(), 2);
        // Those that are later still say nothing of the next one.
        std::thread::sleep(Duration::from_millis(20));
        make(&keeper.home, &kind);
        all(&late);
        assert!(template::find(&keeper.home, &kind).unwrap().is_some());
        assert_eq!(faults(), 2);
        assert!(keeper.templates.table().want(kind.key(), wanted(), std::time::Instant::now()));
        // One that is removed by others meanwhile was at no fault.
        make(&keeper.home, &other);
        let mark = template::find(&keeper.home, &other).unwrap().unwrap().mark;
        std::fs::remove_file(keeper.home.template(other.key()).join("template.json")).unwrap();
        let half = template::find(&keeper.home, &other).unwrap_err();
        give_up(keeper, other.key(), Some(mark), "refused");
        give_up(keeper, other.key(), half.mark, &half.reason);
        assert_eq!(faults(), 2);
        assert!(!keeper.home.template(other.key()).exists(), "what is no template is removed");
    }

    #[tokio::test]
    async fn a_machine_that_was_to_end_says_nothing_of_its_template() {
        let root = tempfile::tempdir().unwrap();
        let is_alive = Arc::new(AtomicBool::new(true));
        let keeper = Keeper::with_machine(root.path(), &is_alive);
        let id = "web-1-a";
        assert_eq!(fate(&keeper, id), Fate::Gone, "no record tells of it");
        *keeper.state().environments = store::sample();
        let change = |change: fn(&mut InstanceRecord)| {
            let mut state = keeper.state();
            let mut groups = state.environments.values_mut().flat_map(|found| found.groups.values_mut());
            change(groups.find_map(|group| group.instances.get_mut(id)).unwrap());
        };
        change(|record| {
            (record.answered, record.state, record.health) =
                (false, InstanceState::Running, Health::STARTING);
        });
        assert_eq!(fate(&keeper, id), Fate::Open);
        change(|record| record.health = Health::Lost { reason: "silent".into() });
        assert_eq!(fate(&keeper, id), Fate::Failed);
        change(|record| record.health = Health::STARTING);
        is_alive.store(false, Ordering::Relaxed);
        assert_eq!(fate(&keeper, id), Fate::Failed, "it ended by itself");
        for state in [InstanceState::Draining, InstanceState::Stopping, InstanceState::Ended] {
            let mut guard = keeper.state();
            let mut groups = guard.environments.values_mut().flat_map(|found| found.groups.values_mut());
            groups.find_map(|group| group.instances.get_mut(id)).unwrap().state = state;
            drop(guard);
            assert_eq!(fate(&keeper, id), Fate::Gone, "{state:?}");
        }
        change(|record| record.answered = true);
        assert_eq!(fate(&keeper, id), Fate::Answered);
    }
}
