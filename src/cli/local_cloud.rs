//! `i2kit local-cloud`: the local cloud's own process. Users never call it; the client starts it on demand.

use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::pipeline;
use crate::cloud::local;

/// Is the local cloud until nothing is left in it.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    local::serve(pipeline::home(context)?).await.or_exit(Exit::Cloud)?;
    Ok(Exit::Success)
}
