//! What all requests of a run share: the keys, and the environments that were connected to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::keys::Keys;
use crate::cli::connection;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cloud::Cloud;

/// What all requests of a run share.
#[derive(Debug)]
pub(super) struct Site {
    context: Context,
    pub(super) keys: Keys,
    /// Those that there are, each connected when it is first asked for.
    clouds: Mutex<BTreeMap<String, Arc<OnceCell<Connected>>>>,
}

/// An environment that is connected.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    /// The context of verbs about it.
    pub(super) context: Context,
    /// Its cloud.
    pub(super) cloud: Arc<dyn Cloud>,
}

impl Site {
    /// Nothing is connected yet.
    pub(super) fn new(context: Context, keys: Keys) -> Self {
        Self { context, keys, clouds: Mutex::default() }
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
        provider.environments(&connection::client(&self.context)?).await.or_exit(Exit::Cloud)
    }

    /// Connects to one of them.
    pub(super) async fn connect(&self, name: &str) -> Result<Connected, Failure> {
        let known = self.clouds().get(name).map(Arc::clone);
        let cell = if let Some(cell) = known {
            cell
        } else {
            self.check(name).await?;
            Arc::clone(self.clouds().entry(name.to_owned()).or_default())
        };
        // One that does not answer is waited for by those alone who ask for it.
        let connected = cell.get_or_try_init(async || {
            let mut context = self.context.clone();
            name.clone_into(&mut context.environment.name);
            let cloud: Arc<dyn Cloud> = Arc::from(connection::cloud(&context).await?);
            Ok::<_, Failure>(Connected { context, cloud })
        });
        connected.await.cloned()
    }

    fn clouds(&self) -> MutexGuard<'_, BTreeMap<String, Arc<OnceCell<Connected>>>> {
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
