//! The network of machines: the device that a machine is started with, and where its ports are reached from this host.
//!
//! A machine is in its environment's own network ([`own`]: namespaces, nftables, taps) or, where the host forbids that, in
//! qemu's user network ([`user`]). [`attachment`] answers where its ports are reached in either. Addresses of the local cloud
//! on this host are in [`addresses`].

pub(crate) mod addresses;
mod advice;
mod attachment;
mod conntrack;
pub(crate) mod enter;
pub(crate) mod holder;
mod interfaces;
pub(crate) mod namespace;
mod netlink;
mod nftables;
pub(crate) mod own;
mod rules;
#[expect(
    unsafe_code,
    reason = "TUNSETIFF, IP_TRANSPARENT, SO_MARK and others have no safe wrapper; each use states why it is sound"
)]
pub(crate) mod sys;
#[cfg(test)]
mod tests;
mod user;
pub(crate) mod wanted;

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

pub(crate) use self::attachment::{Attachment, GuestPort, Reach};
use self::namespace::Join;
pub(crate) use self::user::{device, discover, open};

/// Is the holder of a network: that of these namespaces, or a new one.
pub(crate) fn hold(user: Option<PathBuf>, net: Option<PathBuf>) -> io::Result<()> {
    holder::serve(&Join { user, net })
}

/// Becomes `program` in the network of these namespaces; only these descriptors stay open. One that is bound to its parent ends
/// with it. Returns when that fails.
pub(crate) fn become_program(
    user: Option<PathBuf>,
    net: Option<PathBuf>,
    kept: &[RawFd],
    bound_to: Option<u32>,
    program: &[String],
) -> io::Error {
    enter::become_program(&Join { user, net }, kept, bound_to, program)
}
