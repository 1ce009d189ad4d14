//! The cloud of the environment: how it is connected to, and what it warns of.

use anyhow::Context as _;

use super::context::{self, Context};
use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::Cloud;
use crate::cloud::provider::{Client, Provider};
use crate::plan::fleet::Fleet;

/// The cloud of the environment, once this program can connect to it.
pub(super) fn provider(context: &Context) -> Result<&dyn Provider, Failure> {
    let provider = context.environment.provider.as_ref();
    match provider.missing() {
        None => Ok(provider),
        Some(advice) => Err(Failure::new(
            Exit::Environment,
            anyhow::anyhow!(
                "this i2kit was built without {} support, which the environment {} needs: {advice}",
                provider.support().name,
                context.environment.name
            ),
        )),
    }
}

/// What the cloud gets from this command.
pub(super) fn client(context: &Context) -> Result<Client, Failure> {
    Ok(Client {
        environment: context.environment.name.clone(),
        state: context.dirs.state.clone(),
        cache: context.dirs.cache.clone(),
        program: std::env::current_exe().context("cannot find this program's own file")?,
        variables: context.kept_variables.clone(),
        holder: context::holder(),
        events: context.events.clone(),
    })
}

/// Connects to the environment.
pub(super) async fn cloud(context: &Context) -> Result<Box<dyn Cloud>, Failure> {
    provider(context)?.connect(&client(context)?).await.or_exit(Exit::Cloud)
}

/// Prints the warnings of the cloud.
pub(super) fn warn(context: &Context, fleet: &Fleet) {
    for warning in &fleet.warnings {
        context.events.warn(warning.as_str());
    }
}
