//! What all requests of a run share: the keys, the environments that were connected to, and the changes under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::keys::Keys;
use crate::cli::connection;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cloud::Cloud;
use crate::cloud::provider::Client;

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(30);

/// What all requests of a run share.
#[derive(Debug)]
pub(super) struct Site {
    context: Context,
    pub(super) keys: Keys,
    /// Notified when a browser was let in by a key.
    pub(super) opened: Notify,
    /// Changes under way.
    pub(super) running: Running,
    /// Those that there are, each connected when it is first asked for.
    clouds: Mutex<BTreeMap<String, Attempt>>,
}

/// An environment that is connected.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    /// The context of verbs about it.
    pub(super) context: Context,
    /// Its cloud, for changes.
    pub(super) cloud: Arc<dyn Cloud>,
    /// The same for looks, which nobody asks for one by one: none starts a process.
    pub(super) looks: Arc<dyn Cloud>,
}

/// A connection that is made, or is being made, for all who ask for it.
type Attempt = Shared<BoxFuture<'static, Result<Connected, Refused>>>;

/// A failure that several get.
#[derive(Debug, Clone)]
struct Refused {
    exit: Exit,
    message: String,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let message = failure.error.as_ref().map(|error| format!("{error:#}"));
        Self { exit: failure.exit, message: message.unwrap_or_else(|| "it was interrupted".to_owned()) }
    }
}

impl From<Refused> for Failure {
    fn from(Refused { exit, message }: Refused) -> Self {
        Self::new(exit, anyhow::anyhow!(message))
    }
}

/// Changes under way, which an end waits for.
#[derive(Debug, Default)]
pub(super) struct Running(TaskTracker);

impl Running {
    /// A change that begins. It is under way until the token is dropped.
    ///
    /// # Errors
    /// When the dashboard ends.
    pub(super) fn begin(&self) -> Result<TaskTrackerToken, Failure> {
        let token = self.0.token();
        if self.0.is_closed() {
            let error = anyhow::anyhow!("the dashboard is being ended, and nothing was done");
            return Err(Failure::new(Exit::Interrupted, error));
        }
        Ok(token)
    }

    /// How many are under way.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Lets no change begin any more.
    pub(super) fn close(&self) {
        self.0.close();
    }

    /// Waits for the end of all changes, once it is closed.
    pub(super) async fn ended(&self) {
        self.0.wait().await;
    }
}

impl Site {
    /// Nothing is connected yet.
    pub(super) fn new(context: Context, keys: Keys) -> Self {
        Self { context, keys, opened: Notify::new(), running: Running::default(), clouds: Mutex::default() }
    }

    /// The environment of the command line.
    pub(super) fn current(&self) -> &str {
        &self.context.environment.name
    }

    /// The cloud's name.
    pub(super) fn cloud_name(&self) -> &'static str {
        self.context.environment.provider.support().name
    }

    /// The environments that may be looked at.
    pub(super) async fn environments(&self) -> Result<Vec<String>, Failure> {
        let provider = connection::provider(&self.context)?;
        provider.environments(&client_for_looks(&self.context)?).await.or_exit(Exit::Cloud)
    }

    /// Connects to one of them. Whoever asks while that is under way waits for the same attempt; one that failed is made
    /// again for the next who asks.
    pub(super) async fn connect(&self, name: &str) -> Result<Connected, Failure> {
        let known = self.clouds().get(name).cloned();
        let attempt = if let Some(attempt) = known {
            attempt
        } else {
            self.check(name).await?;
            let begin = || begin(self.context.clone(), name.to_owned());
            self.clouds().entry(name.to_owned()).or_insert_with(begin).clone()
        };
        let connected = attempt.clone().await;
        if connected.is_err() {
            let mut clouds = self.clouds();
            if clouds.get(name).is_some_and(|known| known.ptr_eq(&attempt)) {
                clouds.remove(name);
            }
        }
        connected.map_err(Failure::from)
    }

    fn clouds(&self) -> MutexGuard<'_, BTreeMap<String, Attempt>> {
        self.clouds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an environment that there is not.
    async fn check(&self, name: &str) -> Result<(), Failure> {
        if name != self.current() && !self.environments().await?.iter().any(|known| known == name) {
            let error =
                anyhow::anyhow!("there is no environment of that name; choose another one in the list");
            return Err(Failure::new(Exit::NotFound, error));
        }
        Ok(())
    }
}

/// What a cloud gets that is only looked at.
fn client_for_looks(context: &Context) -> Result<Client, Failure> {
    Ok(Client { starts: false, ..connection::client(context)? })
}

/// Begins to connect. The attempt goes on when the browser that asked for it is gone.
fn begin(mut context: Context, name: String) -> Attempt {
    context.environment.name = name;
    let connecting = async move {
        let looks = client_for_looks(&context)?;
        let looks = connection::provider(&context)?.connect(&looks).await.or_exit(Exit::Cloud)?;
        let cloud = connection::cloud(&context).await?;
        Ok::<_, Failure>(Connected { cloud: Arc::from(cloud), looks: Arc::from(looks), context })
    };
    let task = tokio::spawn(tokio::time::timeout(CONNECTING, connecting));
    let outcome = async {
        match task.await {
            Ok(Ok(connected)) => connected.map_err(Refused::from),
            Ok(Err(_)) => {
                let message = format!("the cloud has not answered for {} seconds", CONNECTING.as_secs());
                Err(Refused { exit: Exit::Cloud, message })
            }
            Err(error) => Err(Refused { exit: Exit::Failure, message: error.to_string() }),
        }
    };
    outcome.boxed().shared()
}
