//! `i2kit local-cloud`: the local cloud's own process. Users never call it; the client starts it on demand.

use super::connection;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::local;

/// Runs the local cloud until nothing is left in it.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    local::serve(local::home(&connection::client(context)?)).await.or_exit(Exit::Cloud)?;
    Ok(Exit::Success)
}
