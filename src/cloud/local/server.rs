//! The local cloud's process: its API, its beginning and its end.

mod exec;
mod logs;
mod verbs;

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::upgrade::OnUpgrade;

use super::descriptors::{self, Shares};
use super::home::{Home, SOCKET};
use super::keeper::Keeper;
use super::wire::{Call, Console, Exec, Hello, Logs};
use super::{control, socket, start};
use crate::cloud::CloudError;

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
    let listener = socket::listen(&keeper.home.state, SOCKET)
        .map_err(CloudError::file("listen on", &keeper.home.state))?;
    let loop_ = tokio::spawn(control::run(Arc::clone(&keeper)));
    let until = keeper.ending.clone().cancelled_owned();
    let signal = Arc::clone(&keeper);
    tokio::spawn(async move {
        if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            terminate.recv().await;
            signal.ending.cancel();
        }
    });
    axum::serve(socket::Trusted(listener), router(Arc::clone(&keeper)))
        .with_graceful_shutdown(until)
        .await
        .map_err(CloudError::file("serve on", &keeper.home.state))?;
    drop(loop_.await);
    let empty = keeper.state().environments.is_empty();
    keeper.log.say(format_args!("ended"));
    if empty {
        // The lock goes last: whoever starts next begins in an empty folder.
        let state = &keeper.home.state;
        fs::remove_dir_all(state).map_err(CloudError::file("remove", state))?;
    }
    drop(lock);
    Ok(())
}

/// The lock that makes this process the local cloud, or nothing when another one is it.
fn lock(home: &Home) -> Result<Option<File>, CloudError> {
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
    let secrets = keeper.secret_versions();
    tokio::task::spawn_blocking(move || {
        super::secrets::sweep(&home.secrets(), &secrets, super::clock::wall())?;
        super::images::sweep(&home, |path| kept.contains(path))
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
    match exec::start(keeper, exec, upgrade).await {
        Ok(response) => response,
        Err(error) => refused(error),
    }
}

fn refused(error: CloudError) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response()
}
