//! `i2kit local-proxy`: the HTTP proxy of the local cloud. Users never call it; the local cloud starts it on demand.

use super::args::ProxyRole;
use super::connection;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::local;

/// Is the guardian or the carrier until the proxy ends.
pub(super) fn run(context: &Context, role: ProxyRole) -> Result<Exit, Failure> {
    let home = local::home(&connection::client(context)?);
    match role {
        ProxyRole::Guard => local::guard_proxy(&home).or_exit(Exit::Cloud)?,
        ProxyRole::Carry => local::carry_http(&home).or_exit(Exit::Cloud)?,
    }
    Ok(Exit::Success)
}
