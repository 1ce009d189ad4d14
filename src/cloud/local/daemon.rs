//! The local cloud's process: its beginning and its end. [`api`] answers, [`apply`] has what acts need beside records.

mod api;
mod apply;
mod disks;
mod exec;
mod logs;
mod records;
mod replica;
mod watch;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use self::api::Api;
use super::home::Home;
use super::keeper::{self, Keeper, Life};
use super::lock;
use super::machine::descriptors;
use super::proxy::handle;
use super::supervise::supervise;
use crate::cloud::CloudError;
use crate::cloud::engine::environment::Environment;

/// How often the process looks whether its folder is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long answers that are under way may take once the process is to end. What waits for longer, such as a deletion, is
/// cut off: the tool says it again to the next process.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long a VM's process may take to be gone after it was killed.
const END: Duration = Duration::from_secs(10);

/// Is the local cloud until it is told to end or nothing is left in it. Returns at once when another process is it
/// already.
pub async fn serve(home: Home) -> Result<(), CloudError> {
    // Away from the terminal that the first verb was typed on. It fails when that has happened already.
    let _ = rustix::process::setsid();
    // Nothing that this process and its VMs write is anybody else's.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    descriptors::close_on_exec();
    descriptors::raise_limit();
    home.create()?;
    let Some(lock) = lock::take(&home)? else { return Ok(()) };
    let keeper = Arc::new(Keeper::open(home)?);
    keeper.log.write(format_args!("started, process {}", std::process::id()));
    keeper.choose_network();
    keeper::adopt(&keeper)?;
    apply::sweep_images(&keeper).await?;
    let listener = Api::listen(&keeper).map_err(CloudError::file("listen on", &keeper.home.state))?;
    let loop_ = tokio::spawn(keeper::run(Arc::clone(&keeper)));
    tokio::spawn(drive_proxy(Arc::clone(&keeper)));
    tokio::spawn(drive_acme(Arc::clone(&keeper)));
    tokio::spawn(drive_templates(Arc::clone(&keeper)));
    tokio::spawn(keeper::keep_holders(Arc::clone(&keeper)));
    let until = keeper.ending.clone().cancelled_owned();
    let signal = Arc::clone(&keeper);
    tokio::spawn(async move {
        if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            terminate.recv().await;
            signal.ending.cancel();
        }
    });
    let lock = Arc::new(lock);
    let place = tokio::spawn(leave_when_displaced(Arc::clone(&keeper), Arc::clone(&lock)));
    let answers = axum::serve(listener, api::router(Arc::clone(&keeper))).with_graceful_shutdown(until);
    tokio::select! {
        served = answers.into_future() => {
            served.map_err(CloudError::file("serve on", &keeper.home.state))?;
        }
        () = async {
            keeper.ending.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => {}
    }
    // Also when it did not end by itself.
    keeper.ending.cancel();
    drop(loop_.await);
    let place = place.await.map_err(|panic| CloudError::Store { message: panic.to_string() })?;
    let (empty, idle) = {
        let state = keeper.state();
        let empty = state.environments.values().all(Environment::is_empty);
        (empty, state.is_idle() && state.machines.is_empty())
    };
    match place {
        Place::Held if empty => {
            end_front_door(&keeper).await;
            // The lock goes last: whoever starts next begins in an empty folder.
            keeper.home.remove()?;
        }
        Place::Held if idle => {
            end_front_door(&keeper).await;
            keeper.home.rest()?;
        }
        Place::Held | Place::Taken => {}
        Place::Removed => {
            end_front_door(&keeper).await;
            end_all(&keeper).await;
        }
    }
    keeper.log.write(format_args!("ended"));
    drop(lock);
    Ok(())
}

/// Has the proxy serve what is wanted until the process is to end.
async fn drive_proxy(keeper: Arc<Keeper>) {
    let driven = Arc::clone(&keeper);
    let make = move || {
        let keeper = Arc::clone(&driven);
        async move { keeper.proxy.drive(&keeper.home).await }
    };
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    supervise(tasks, log, "HTTP proxy".to_owned(), keeper.ending.clone(), make).await;
}

/// Has CAs give certificates to public hosts until the process is to end.
async fn drive_acme(keeper: Arc<Keeper>) {
    let driven = Arc::clone(&keeper);
    let make = move || {
        let keeper = Arc::clone(&driven);
        async move { keeper.drive_acme().await }
    };
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    supervise(tasks, log, "ACME".to_owned(), keeper.ending.clone(), make).await;
}

/// Has snapshots made that further machines start from until the process is to end.
async fn drive_templates(keeper: Arc<Keeper>) {
    let driven = Arc::clone(&keeper);
    let make = move || keeper::make_templates(Arc::clone(&driven));
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    supervise(tasks, log, "snapshots".to_owned(), keeper.ending.clone(), make).await;
}

/// What became of the local cloud's folder while the process ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is there, and the lock is this process's.
    Held,
    /// The lock was removed, or the folder was moved away: another process may be the local cloud now, and finds the VMs.
    Taken,
    /// The folder was removed, and with it all that tells of the VMs.
    Removed,
}

/// Ends the process when its lock is not its lock any more; returns once the process ends.
async fn leave_when_displaced(keeper: Arc<Keeper>, lock: Arc<File>) -> Place {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = keeper.ending.cancelled() => return Place::Held,
        }
        let place = place(&keeper.home, &lock);
        let said = match place {
            Place::Held => continue,
            Place::Taken => "is not this process's lock any more: it ends, and its VMs go on",
            Place::Removed => "was removed with the folder around it: the VMs are ended, and this process",
        };
        keeper.log.write(format_args!("{} {said}", keeper.home.lock().display()));
        keeper.ending.cancel();
        return place;
    }
}

/// Where the lock that this process holds is now. What cannot be found out counts as held.
fn place(home: &Home, lock: &File) -> Place {
    let Ok(held) = lock.metadata() else { return Place::Held };
    match fs::metadata(home.lock()) {
        Ok(found) if (found.dev(), found.ino()) == (held.dev(), held.ino()) => Place::Held,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Place::Held,
        // A folder that was moved away has its files still; one that was removed has none.
        _ if held.nlink() == 0 && !home.database().exists() => Place::Removed,
        _ => Place::Taken,
    }
}

/// Ends what carries traffic: there is nothing to carry any more.
async fn end_front_door(keeper: &Keeper) {
    if let Err(error) = keeper.mover.end().await {
        keeper.log.write(format_args!("{error}"));
    }
    if let Err(error) = handle::end(&keeper.home).await {
        keeper.log.write(format_args!("the HTTP proxy does not end: {error}"));
    }
}

/// Ends all VMs: nobody would find them again.
async fn end_all(keeper: &Keeper) {
    let machines = std::mem::take(&mut keeper.state().machines);
    let mut processes: Vec<_> = machines
        .into_values()
        .filter_map(|mut machine| match std::mem::replace(&mut machine.life, Life::Starting) {
            Life::Started(process) => Some(process),
            Life::Starting | Life::Failed(_) => None,
        })
        .collect();
    for process in &mut processes {
        process.kill();
    }
    let given_up = tokio::time::Instant::now() + END;
    while processes.iter_mut().any(|process| process.is_alive()) && tokio::time::Instant::now() < given_up {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cloud::local::home::SOCKET;
    use crate::cloud::local::socket;
    use crate::cloud::local::wire::Apply;

    fn home(root: &tempfile::TempDir) -> Home {
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        home
    }

    #[test]
    fn a_removed_folder_is_told_from_one_that_was_moved_or_that_another_process_has() {
        let root = tempfile::tempdir().unwrap();
        let home = home(&root);
        let held = lock::take(&home).unwrap().unwrap();
        fs::write(home.database(), "").unwrap();
        let place = |held: &File| place(&home, held);
        assert_eq!(place(&held), Place::Held);
        let away = root.path().join("away");
        fs::rename(&home.state, &away).unwrap();
        assert_eq!(place(&held), Place::Taken);
        fs::rename(&away, &home.state).unwrap();
        assert_eq!(place(&held), Place::Held);
        fs::remove_file(home.lock()).unwrap();
        assert_eq!(place(&held), Place::Taken, "the database is there for the next process");
        let next = lock::take(&home).unwrap().unwrap();
        assert_eq!(place(&held), Place::Taken);
        assert_eq!(place(&next), Place::Held);
        fs::remove_dir_all(&home.state).unwrap();
        assert_eq!(place(&next), Place::Removed);
    }

    #[tokio::test]
    async fn a_process_with_nothing_to_do_ends() {
        let root = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper::open(home(&root)).unwrap());
        let api = Api::listen(&keeper).unwrap();
        api.leave_when_idle(Duration::from_hours(1));
        assert!(!keeper.ending.is_cancelled(), "it was asked just now");
        let image = crate::plan::image::ImageId(crate::oci::Digest::of(b"image"));
        let environment = Environment { images: [image].into(), ..Environment::default() };
        keeper.state().environments.insert("local".into(), environment);
        api.leave_when_idle(Duration::ZERO);
        assert!(!keeper.ending.is_cancelled(), "something is deployed");
        keeper.state().environments.clear();
        api.leave_when_idle(Duration::ZERO);
        assert!(keeper.ending.is_cancelled());
    }

    #[tokio::test]
    async fn a_socket_that_was_removed_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let home = home(&root);
        let keeper = Arc::new(Keeper::open(home.clone()).unwrap());
        let mut api = Api::listen(&keeper).unwrap();
        let accepting = tokio::spawn(async move {
            for _ in 0..2 {
                axum::serve::Listener::accept(&mut api).await;
            }
        });
        socket::connect(&home.state, SOCKET).await.unwrap();
        fs::remove_file(home.state.join(SOCKET)).unwrap();
        while socket::connect(&home.state, SOCKET).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        accepting.await.unwrap();
    }

    #[tokio::test]
    async fn a_deletion_that_waits_ends_with_the_process() {
        use crate::plan::act::{Act, PlannedAct};
        let root = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper::open(home(&root)).unwrap());
        keeper
            .change_all(|environments| {
                environments.extend(crate::cloud::local::store::sample());
                Ok(())
            })
            .unwrap();
        let group = crate::manifest::api::Name { namespace: "default".into(), name: "web".into() };
        let generation = keeper.state().environments["local"].generation();
        let act = PlannedAct { act: Act::DeleteGroup { group }, generation, by: "test".into() };
        let call = Apply { environment: "local".into(), act, image: None };
        // Nobody ends the group's VMs: there is no control loop.
        let deletion = tokio::spawn({
            let keeper = Arc::clone(&keeper);
            async move { apply::apply(&keeper, call).await }
        });
        let is_deleting = || {
            let state = keeper.state();
            state.environments.values().any(|found| found.groups.values().any(|group| group.memory.deleting))
        };
        while !is_deleting() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!deletion.is_finished());
        keeper.ending.cancel();
        let error = deletion.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("is ending"), "{error}");
        assert!(
            matches!(error, CloudError::Unreachable { .. }),
            "the tool says it again to the next process"
        );
    }
}
