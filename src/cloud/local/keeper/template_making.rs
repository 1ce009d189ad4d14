//! The making of templates: one at a time, beside whatever else the host does, and never twice at once for one kind. A machine boots
//! until its guest wants to know who it is, is stopped there, and its memory and devices are kept.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::{sleep, sleep_until, timeout};

use super::Keeper;
use super::templates::kind;
use crate::cloud::CloudError;
use crate::cloud::local::blocking::apart;
use crate::cloud::local::clock;
use crate::cloud::local::link::identity;
use crate::cloud::local::machine::process::{self, TemplateProcess};
use crate::cloud::local::machine::qemu::{Machine, MemoryPlace};
use crate::cloud::local::machine::template::{self, Kind};
use crate::cloud::local::machine::template_table::Wanted;
use crate::cloud::local::machine::{images, qmp};
use crate::cloud::local::network::own::Network;
use crate::cloud::local::network::{self, wanted};
use crate::oci::Digest;

/// How long a machine may take to become a template. It gives way to all others, so that it may take much longer than they do.
const MAKING: Duration = Duration::from_mins(5);

/// How often a machine is looked at that is not there yet.
const LOOK: Duration = Duration::from_millis(200);

/// How long a machine is left alone once its guest waits: what its kernel does beside that comes to rest.
const REST: Duration = Duration::from_millis(500);

/// How long the process may take to be gone after it was killed.
const END: Duration = Duration::from_secs(10);

/// The name of a machine that becomes a template, which no VM has.
const NAME: &str = "template";

/// A machine on its way.
#[derive(Debug)]
struct Making {
    kind: Kind,
    /// Before its folder, which goes when nobody writes in it any more.
    process: TemplateProcess,
    folder: TempDir,
    /// The network that its interface is in, which is nobody's and has nothing else in it.
    _network: Option<Arc<Network>>,
}

/// Makes templates that are wanted until the process is to end.
pub(in crate::cloud::local) async fn make_templates(keeper: Arc<Keeper>) -> Result<(), CloudError> {
    let home = keeper.home.clone();
    apart("removal of unfinished snapshots", move || template::sweep(&home, clock::of_files())).await?;
    loop {
        let due = keeper.templates.table().due();
        let next = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next => {}
            () = keeper.templates.changed.notified() => {}
            () = keeper.ending.cancelled() => return Ok(()),
        }
        let taken = keeper.templates.table().take(Instant::now());
        let Some((key, wanted)) = taken else { continue };
        // What is under way is dropped, which ends its machine.
        tokio::select! {
            () = make(&keeper, key, wanted) => {}
            () = keeper.ending.cancelled() => return Ok(()),
        }
    }
}

/// Makes one, or puts it off.
async fn make(keeper: &Arc<Keeper>, key: Digest, wanted: Wanted) {
    let begun = Instant::now();
    match attempt(keeper, key, &wanted).await {
        Ok(true) => {
            keeper.templates.table().made(key);
            let (image, seconds) = (wanted.spec.image.0.short(), begun.elapsed().as_secs());
            keeper.log.write(format_args!(
                "snapshot {}: made of image {image} in {seconds} s; further machines of its kind start from it",
                key.short()
            ));
        }
        Ok(false) => {}
        Err(reason) => {
            keeper.log.write(format_args!(
                "snapshot {}: not made: {reason}; machines boot, and it is tried again later",
                key.short()
            ));
            keeper.templates.table().put_off(key, wanted, Instant::now());
        }
    }
}

/// Whether one was made; not where it is there already, or nobody needs it.
async fn attempt(keeper: &Arc<Keeper>, key: Digest, wanted: &Wanted) -> Result<bool, String> {
    let (this, of) = (Arc::clone(keeper), wanted.clone());
    let begun = apart("start of a snapshot's machine", move || begin(&this, key, &of))
        .await
        .map_err(|error| error.to_string())??;
    let Some(making) = begun else { return Ok(false) };
    let folder = making.folder.path().to_owned();
    let stopped = timeout(MAKING, stop_where_it_waits(&folder, &making.process)).await;
    let stopped = stopped.unwrap_or_else(|_| {
        let reason = format!("it is not done after {} s: this host is busy", MAKING.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    });
    let has_ended = !making.process.is_alive();
    making.process.kill();
    let given_up = Instant::now() + END;
    while making.process.is_alive() && Instant::now() < given_up {
        sleep(LOOK / 10).await;
    }
    if let Err(error) = stopped {
        let said = process::last_message(&folder).map(|said| format!("qemu says: {said}"));
        let room = || template::has_room(&keeper.home, 0).err();
        return Err(not_stopped(&error, has_ended, said, room));
    }
    if making.process.is_alive() {
        return Err("its process does not end".to_owned());
    }
    let (home, memory_mib) = (keeper.home.clone(), wanted.spec.memory_mib);
    let kept = apart("keeping of a snapshot", move || {
        template::keep(&home, &making.kind, memory_mib, making.folder)
    })
    .await;
    kept.flatten().map(|()| true).map_err(|error| error.to_string())
}

/// Why a machine was not stopped where its guest waits, by the error of the conversation with its qemu and what that `said` last.
/// Memory that the disk has no room for ends qemu without a word, so that the `room` tells then.
fn not_stopped(
    error: &io::Error,
    has_ended: bool,
    said: Option<String>,
    room: impl FnOnce() -> Option<String>,
) -> String {
    match (has_ended, said) {
        (false, None) => error.to_string(),
        (false, Some(said)) => format!("{error}; {said}"),
        (true, Some(said)) => format!("its qemu has ended; {said}"),
        (true, None) => match room() {
            Some(room) => format!("its qemu has ended: {room}"),
            None => format!("its qemu has ended, and does not say why: {error}"),
        },
    }
}

/// Starts the machine, where it is needed and there is room for it. Blocks.
fn begin(keeper: &Keeper, key: Digest, of: &Wanted) -> Result<Option<Making>, String> {
    let Wanted { spec, own_network } = of;
    let text = |error: CloudError| error.to_string();
    if !keeper.image_folders().contains(&keeper.home.image(spec.image)) {
        return Ok(None);
    }
    // Another qemu has another key: its first machine asks for it.
    let Some((kind, _)) = kind(keeper, spec, *own_network).filter(|(kind, _)| kind.key() == key) else {
        return Ok(None);
    };
    match template::find(&keeper.home, &kind) {
        Ok(Some(_)) => return Ok(None),
        Ok(None) => {}
        Err(_) => template::remove(&keeper.home, key).map_err(text)?,
    }
    template::has_room(&keeper.home, spec.memory_mib)?;
    for gone in template::make_room(&keeper.home, clock::of_files())? {
        keeper.log.write(format_args!("snapshot {}: unused for the longest, and gives way", gone.short()));
        keeper.templates.table().gave_way(gone, Instant::now());
    }
    let folder = template::begin(&keeper.home).map_err(text)?;
    let (device, network) = if *own_network {
        let network = keeper.networks.apart()?;
        let address = wanted::free_address(&BTreeSet::new()).ok_or("there is no address for it")?;
        let device = network.device(address, None).map_err(|error| format!("the network: {error}"))?;
        (device, Some(network))
    } else {
        (network::device(&[], None), None)
    };
    let cmdline = images::cmdline(&keeper.home, spec.image).map_err(text)?;
    let machine = Machine {
        id: NAME,
        name: NAME,
        index: None,
        launch: spec,
        network: &device,
        image: &keeper.home.image(spec.image),
        cmdline: &cmdline,
        accelerator: keeper.accelerator(),
        memory: MemoryPlace::Template(Path::new(template::MEMORY)),
        environment: &keeper.home.environment,
    };
    let process = process::start_template(&machine, folder.path()).map_err(text)?;
    Ok(Some(Making { kind, process, folder, _network: network }))
}

/// Stops the machine where its guest waits, and has the state of its devices written.
async fn stop_where_it_waits(folder: &Path, process: &TemplateProcess) -> io::Result<()> {
    loop {
        match identity::wanted(folder).await {
            Ok(()) => break,
            // qemu is about to make its sockets.
            Err(_) if process.is_alive() => sleep(LOOK).await,
            Err(error) => return Err(error),
        }
    }
    sleep(REST).await;
    qmp::pause(folder).await?;
    qmp::save_devices(folder, template::DEVICES).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_ended_is_told_from_one_that_does_not_answer() {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        let full = || Some("/cache has 0 MiB left".to_owned());
        let why =
            |has_ended, said: Option<&str>| not_stopped(&error, has_ended, said.map(str::to_owned), full);
        assert_eq!(why(false, None), error.to_string());
        assert_eq!(why(false, Some("qemu says: busy")), format!("{error}; qemu says: busy"));
        assert_eq!(why(true, Some("qemu says: no KVM")), "its qemu has ended; qemu says: no KVM");
        assert_eq!(why(true, None), "its qemu has ended: /cache has 0 MiB left");
        let silent = not_stopped(&error, true, None, || None);
        assert_eq!(silent, format!("its qemu has ended, and does not say why: {error}"));
    }
}
