//! The local cloud's process: its API, its beginning and its end.

mod exec;
mod logs;
mod verbs;

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use hyper::upgrade::OnUpgrade;
use tokio::net::UnixStream;
use tokio::net::unix::SocketAddr;

use super::home::{Home, SOCKET};
use super::keeper::{Keeper, Life};
use super::machine::{descriptors, images, secrets};
use super::mover::admission::Shares;
use super::wire::{Call, Console, Exec, Hello, Logs};
use super::{control, socket, start};
use crate::cloud::CloudError;

/// How often the process looks whether its socket and its folder are still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long answers that are under way may take once the process is to end. What waits for longer, such as a deletion, is
/// cut off: the tool says it again to the next process.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long the process stays when it holds nothing and nobody asks it anything: a tool that was ended just after it had
/// started the process does not come back to end it. The next verb starts another one.
const IDLE: Duration = Duration::from_mins(1);

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
    let shares = Shares::of(descriptors::raise_limit());
    home.create()?;
    let Some(lock) = lock(&home)? else { return Ok(()) };
    let keeper = Arc::new(Keeper::open(home, shares)?);
    keeper.log.say(format_args!("started, process {}", std::process::id()));
    control::adopt(&keeper)?;
    sweep_images(&keeper).await?;
    let listener = Api::listen(&keeper).map_err(CloudError::file("listen on", &keeper.home.state))?;
    let loop_ = tokio::spawn(control::run(Arc::clone(&keeper)));
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
    let answers = axum::serve(listener, router(Arc::clone(&keeper))).with_graceful_shutdown(until);
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
    let empty = keeper.state().environments.is_empty();
    match place {
        // The lock goes last: whoever starts next begins in an empty folder.
        Place::Held if empty => keeper.home.remove()?,
        Place::Held | Place::Taken => {}
        Place::Removed => end_all(&keeper).await,
    }
    keeper.log.say(format_args!("ended"));
    drop(lock);
    Ok(())
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
        keeper.log.say(format_args!("{} {said}", keeper.home.lock().display()));
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

/// Ends all VMs: nobody would find them again.
async fn end_all(keeper: &Keeper) {
    let vms = std::mem::take(&mut keeper.state().vms);
    let mut processes: Vec<_> = vms
        .into_values()
        .filter_map(|mut vm| match std::mem::replace(&mut vm.life, Life::Starting) {
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

/// The API's socket. When somebody removes it, it is made anew.
#[derive(Debug)]
struct Api {
    keeper: Arc<Keeper>,
    listener: socket::Trusted,
    /// The inode of the socket.
    inode: Option<u64>,
    /// When somebody connected last.
    asked: Instant,
}

impl Api {
    fn listen(keeper: &Arc<Keeper>) -> std::io::Result<Self> {
        let listener = socket::Trusted(socket::listen(&keeper.home.state, SOCKET)?);
        let inode = Self::inode(&keeper.home);
        Ok(Self { keeper: Arc::clone(keeper), listener, inode, asked: Instant::now() })
    }

    fn inode(home: &Home) -> Option<u64> {
        fs::metadata(home.state.join(SOCKET)).ok().map(|metadata| metadata.ino())
    }

    /// Ends the process when it has had nothing to do for `idle`.
    fn leave_when_idle(&self, idle: Duration) {
        let state = self.keeper.state();
        if self.asked.elapsed() >= idle && state.environments.is_empty() && state.vms.is_empty() {
            self.keeper.log.say(format_args!("nothing is deployed and nobody asks: it ends"));
            self.keeper.ending.cancel();
        }
    }

    fn look(&mut self) {
        self.leave_when_idle(IDLE);
        if Self::inode(&self.keeper.home) == self.inode || self.keeper.ending.is_cancelled() {
            return;
        }
        // Where it cannot be made, it is tried again with the next look.
        if let Ok(anew) = Self::listen(&self.keeper) {
            self.keeper.log.say(format_args!("{SOCKET} was gone and is made anew"));
            *self = anew;
        }
    }
}

impl Listener for Api {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    self.asked = Instant::now();
                    return accepted;
                }
                () = tokio::time::sleep(LOOK) => self.look(),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The lock that makes this process the local cloud, or nothing when another one is it.
pub(super) fn lock(home: &Home) -> Result<Option<File>, CloudError> {
    let path = home.lock();
    loop {
        home.create()?;
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            // The last one has just removed the folder.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file.map_err(CloudError::file("open", &path))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(CloudError::file("lock", &path)(error)),
        }
        // A lock on a file that was removed in between keeps nobody out.
        let inode = |metadata: fs::Metadata| metadata.ino();
        if fs::metadata(&path).map(inode).ok() == file.metadata().map(inode).ok() {
            return Ok(Some(file));
        }
    }
}

async fn sweep_images(keeper: &Arc<Keeper>) -> Result<(), CloudError> {
    let _images = keeper.images.lock().await;
    let kept = keeper.image_folders();
    let home = keeper.home.clone();
    let versions = keeper.secret_versions();
    tokio::task::spawn_blocking(move || {
        secrets::sweep(&home.secrets(), &versions, super::clock::wall())?;
        images::sweep(&home, |path| kept.contains(path))
    })
    .await
    .unwrap_or_else(|panic| Err(CloudError::Store { message: panic.to_string() }))
}

fn router(keeper: Arc<Keeper>) -> Router {
    Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/stop", post(stop))
        .route("/v1/call", post(call))
        .route("/v1/logs", post(follow))
        .route("/v1/console", post(console))
        .route("/v1/exec", post(execute))
        .with_state(keeper)
}

async fn hello() -> Json<Hello> {
    Json(start::hello())
}

/// Ends the process and leaves everything as it is: a newer one takes over.
async fn stop(State(keeper): State<Arc<Keeper>>) -> StatusCode {
    keeper.ending.cancel();
    StatusCode::NO_CONTENT
}

async fn call(State(keeper): State<Arc<Keeper>>, Json(call): Json<Call>) -> Response {
    match verbs::carry_out(&keeper, call).await {
        Ok(value) => Json(value).into_response(),
        Err(error) => refused(error),
    }
}

async fn follow(State(keeper): State<Arc<Keeper>>, Json(logs): Json<Logs>) -> Response {
    match logs::stream(keeper, logs).await {
        Ok(body) => body.into_response(),
        Err(error) => refused(error),
    }
}

async fn console(State(keeper): State<Arc<Keeper>>, Json(asked): Json<Console>) -> Response {
    match logs::console(keeper, &asked) {
        Ok(body) => body.into_response(),
        Err(error) => refused(error),
    }
}

async fn execute(State(keeper): State<Arc<Keeper>>, mut request: Request) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let Json(exec) = match Json::<Exec>::from_request(request, &()).await {
        Ok(exec) => exec,
        Err(rejection) => return rejection.into_response(),
    };
    let Some(upgrade) = upgrade else { return StatusCode::UPGRADE_REQUIRED.into_response() };
    match exec::start(&keeper, exec, upgrade) {
        Ok(response) => response,
        Err(error) => refused(error),
    }
}

fn refused(error: CloudError) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cloud::environment::Environment;

    fn home(root: &tempfile::TempDir) -> Home {
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        home
    }

    #[test]
    fn a_removed_folder_is_told_from_one_that_was_moved_or_that_another_process_has() {
        let root = tempfile::tempdir().unwrap();
        let home = home(&root);
        let held = lock(&home).unwrap().unwrap();
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
        let next = lock(&home).unwrap().unwrap();
        assert_eq!(place(&held), Place::Taken);
        assert_eq!(place(&next), Place::Held);
        fs::remove_dir_all(&home.state).unwrap();
        assert_eq!(place(&next), Place::Removed);
    }

    #[tokio::test]
    async fn a_process_with_nothing_to_do_ends() {
        let root = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper::open(home(&root), Shares::of(1024)).unwrap());
        let api = Api::listen(&keeper).unwrap();
        api.leave_when_idle(Duration::from_hours(1));
        assert!(!keeper.ending.is_cancelled(), "it was asked just now");
        keeper.state().environments.insert("local".into(), Environment::default());
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
        let keeper = Arc::new(Keeper::open(home.clone(), Shares::of(1024)).unwrap());
        let mut api = Api::listen(&keeper).unwrap();
        let accepting = tokio::spawn(async move {
            for _ in 0..2 {
                api.accept().await;
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
        use crate::cloud::local::wire::Verb;
        let root = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper::open(home(&root), Shares::of(1024)).unwrap());
        keeper
            .change_all(|environments| {
                environments.extend(crate::cloud::local::store::sample());
                Ok(())
            })
            .unwrap();
        let group = crate::manifest::api::Name { namespace: "default".into(), name: "web".into() };
        let call = Call { environment: "local".into(), verb: Verb::DeleteGroup { group } };
        // Nobody ends the group's VMs: there is no control loop.
        let deletion = tokio::spawn({
            let keeper = Arc::clone(&keeper);
            async move { verbs::carry_out(&keeper, call).await }
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
