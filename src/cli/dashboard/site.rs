//! What all requests share: the keys, and the environments that were connected to.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::keys::Keys;
use crate::cli::connection;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cloud::Cloud;

/// The site.
#[derive(Debug)]
pub(super) struct Site {
    context: Context,
    pub(super) keys: Keys,
    clouds: Mutex<BTreeMap<String, Connected>>,
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
        let mut clouds = self.clouds.lock().await;
        if let Some(connected) = clouds.get(name) {
            return Ok(connected.clone());
        }
        if name != self.current() && !self.environments().await?.iter().any(|known| known == name) {
            let error =
                anyhow::anyhow!("there is no environment of that name; choose another one in the list");
            return Err(Failure::new(Exit::NotFound, error));
        }
        let mut context = self.context.clone();
        name.clone_into(&mut context.environment.name);
        let cloud: Arc<dyn Cloud> = Arc::from(connection::cloud(&context).await?);
        let connected = Connected { context, cloud };
        clouds.insert(name.to_owned(), connected.clone());
        Ok(connected)
    }
}
