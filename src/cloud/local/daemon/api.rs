//! The API of the local cloud's process: HTTP on a unix socket that only its user may connect to.

use std::fs;
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

use super::{apply, exec, logs, replica, watch};
use crate::cloud::local::home::{Home, SOCKET};
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::socket;
use crate::cloud::local::wire::{Apply, Console, Exec, Hello, Inspect, Logs, OrderReplica, Replica};
use crate::cloud::{CloudError, Scope};
use crate::plan::metrics::prometheus;

/// How often it is looked whether the socket is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long the process stays when it holds nothing and nobody asks it anything: a tool that was ended just after it had
/// started the process does not come back to end it. The next verb starts another one.
const IDLE: Duration = Duration::from_mins(1);

/// The API's socket. When somebody removes it, it is made anew.
#[derive(Debug)]
pub(super) struct Api {
    keeper: Arc<Keeper>,
    listener: socket::Trusted,
    /// The inode of the socket.
    inode: Option<u64>,
    /// When somebody connected last.
    asked: Instant,
}

impl Api {
    pub(super) fn listen(keeper: &Arc<Keeper>) -> std::io::Result<Self> {
        let listener = socket::Trusted(socket::listen(&keeper.home.state, SOCKET)?);
        let inode = Self::inode(&keeper.home);
        Ok(Self { keeper: Arc::clone(keeper), listener, inode, asked: Instant::now() })
    }

    fn inode(home: &Home) -> Option<u64> {
        fs::metadata(home.state.join(SOCKET)).ok().map(|metadata| metadata.ino())
    }

    /// Ends the process when it has had nothing to do for `idle`.
    pub(super) fn leave_when_idle(&self, idle: Duration) {
        if self.asked.elapsed() >= idle && self.keeper.is_idle() {
            self.keeper.log.write(format_args!("nothing is deployed and nobody asks: it ends"));
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
            self.keeper.log.write(format_args!("{SOCKET} was gone and is made anew"));
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

/// What the process answers.
pub(super) fn router(keeper: Arc<Keeper>) -> Router {
    Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/stop", post(stop))
        .route("/v1/environments", post(environments))
        .route("/v1/inspect", post(inspect))
        .route("/metrics", get(metrics))
        .route("/v1/apply", post(change))
        .route("/v1/watch", post(observe))
        .route("/v1/logs", post(follow))
        .route("/v1/console", post(console))
        .route("/v1/exec", post(execute))
        .route("/v1/replica", post(ask_replica))
        .route("/v1/replica-order", post(order_replica))
        .with_state(keeper)
}

async fn hello() -> Json<Hello> {
    Json(Hello::of_this_program())
}

/// Ends the process and leaves everything as it is: a newer one takes over.
async fn stop(State(keeper): State<Arc<Keeper>>) -> StatusCode {
    keeper.ending.cancel();
    StatusCode::NO_CONTENT
}

async fn inspect(State(keeper): State<Arc<Keeper>>, Json(asked): Json<Inspect>) -> Response {
    keeper.begun().await;
    Json(keeper.counted_fleet(&asked.environment, &asked.scope).await).into_response()
}

/// The names of all environments that hold something.
async fn environments(State(keeper): State<Arc<Keeper>>) -> Json<Vec<String>> {
    let state = keeper.state();
    let held = state.environments.iter().filter(|(_, environment)| !environment.is_empty());
    Json(held.map(|(name, _)| name.clone()).collect())
}

/// The traffic of all environments, as Prometheus reads it.
async fn metrics(State(keeper): State<Arc<Keeper>>) -> Response {
    keeper.begun().await;
    let names: Vec<String> = keeper.state().environments.keys().cloned().collect();
    let mut fleets = Vec::new();
    for name in names {
        fleets.push(keeper.counted_fleet(&name, &Scope::Environment).await);
    }
    ([("content-type", "text/plain; version=0.0.4")], prometheus(&fleets)).into_response()
}

async fn change(State(keeper): State<Arc<Keeper>>, Json(call): Json<Apply>) -> Response {
    match apply::apply(&keeper, call).await {
        Ok(applied) => Json(applied).into_response(),
        Err(error) => refused(error),
    }
}

async fn observe(State(keeper): State<Arc<Keeper>>, Json(asked): Json<Inspect>) -> Response {
    keeper.begun().await;
    watch::stream(keeper, asked).into_response()
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

async fn ask_replica(State(keeper): State<Arc<Keeper>>, Json(asked): Json<Replica>) -> Response {
    match replica::ask(&keeper, asked).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => refused(error),
    }
}

async fn order_replica(State(keeper): State<Arc<Keeper>>, Json(wanted): Json<OrderReplica>) -> Response {
    match replica::order(&keeper, wanted).await {
        Ok(answer) => Json(answer).into_response(),
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
    use crate::cloud::local::store;

    #[tokio::test]
    async fn the_environments_that_hold_something_are_named() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        let keeper = Arc::new(Keeper::open(home).unwrap());
        let named = async || environments(State(Arc::clone(&keeper))).await.0;
        assert!(named().await.is_empty());
        let sample = store::sample();
        let holding: Vec<String> = sample.keys().cloned().collect();
        keeper
            .change_all(|environments| {
                environments.extend(sample);
                environments.entry("idle".into()).or_default();
                Ok(())
            })
            .unwrap();
        assert_eq!(named().await, holding);
    }
}
