//! `i2kit local-network` and `i2kit local-vm`: processes in an environment's network. Users never call them; the local cloud
//! starts them.

use super::args::{LocalNetworkArgs, LocalVmArgs};
use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::local::network;

/// Holds a network until the local cloud closes standard input, a socket.
pub(super) fn hold(args: LocalNetworkArgs) -> Result<Exit, Failure> {
    network::hold(args.user, args.net).or_exit(Exit::Failure)?;
    Ok(Exit::Success)
}

/// Becomes a program in a network.
pub(super) fn become_program(args: LocalVmArgs) -> Result<Exit, Failure> {
    let LocalVmArgs { network: LocalNetworkArgs { user, net }, keep, bound_to, program } = args;
    Err(Failure::new(Exit::Failure, network::become_program(user, net, &keep, bound_to, &program)))
}
