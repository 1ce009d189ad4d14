//! The local cloud as environment files name it: `provider: {type: local}`.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::LocalCloud;
use super::home::Home;
use super::support::SUPPORT;
use crate::cloud::provider::{Check, Client, Kind, Provider};
use crate::cloud::{Cloud, CloudError};
use crate::manifest::support::Support;
use crate::plan::fleet::BalancerSpec;
use crate::plan::rollout::GroupSpec;

/// The local cloud in the table of clouds.
pub const KIND: Kind = Kind { support: &SUPPORT, read };

/// It has no settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Local {}

fn read(fields: Map<String, Value>) -> Result<Arc<dyn Provider>, serde_json::Error> {
    Ok(Arc::new(serde_json::from_value::<Local>(fields.into())?))
}

/// The local cloud's folders and programs, as its client and its own process use them.
pub fn home(client: &Client) -> Home {
    let home = Home::new(&client.state, &client.cache, client.program.clone());
    home.with_environment(client.variables.clone())
}

#[async_trait]
impl Provider for Local {
    fn support(&self) -> &'static Support {
        &SUPPORT
    }

    async fn connect(&self, client: &Client) -> Result<Box<dyn Cloud>, CloudError> {
        Ok(Box::new(LocalCloud::new(home(client), &client.environment)))
    }

    async fn preflight(
        &self,
        _client: &Client,
        _groups: Vec<GroupSpec>,
        _balancers: Vec<BalancerSpec>,
    ) -> Result<Vec<Check>, CloudError> {
        let finding = "the local cloud needs none; `scripts/deps` lists its programs";
        Ok(vec![Check::new("account", Some(true), finding)])
    }
}
