//! What egress asks of the process that it runs in: to be called when a socket is ready, and to carry the bytes of
//! connections that are made.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What is waited for at a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// It can be read, or has an error.
    Read,
    /// It can be written: it is connected, or failed to be.
    Write,
    /// Nothing: it is this process's own all the same.
    Nothing,
}

/// A connection of a machine to the outside, in two halves. Both are connected, non-blocking, and watched by nobody.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The machine's end, in the environment's network.
    pub(crate) guest: OwnedFd,
    /// The other end, in this host's network.
    pub(crate) host: OwnedFd,
    /// The machine.
    pub(crate) machine: IpAddr,
}

/// The process that drives egress.
pub(crate) trait Carrier: fmt::Debug {
    /// Calls [`super::Egress::ready`] whenever `fd` is ready (level-triggered); replaces the interest that it has. The
    /// descriptor is this process's own: a successor closes it.
    fn watch(&mut self, fd: BorrowedFd<'_>, interest: Interest);

    /// Ends that; `fd` is closed or given away next.
    fn unwatch(&mut self, fd: BorrowedFd<'_>);

    /// Carries the bytes of a connection from now on. Gives it back where there is no room.
    fn adopt_pair(&mut self, pair: Pair) -> Result<(), Pair>;

    /// The number of connections of `machine` that are carried.
    fn carried(&self, machine: IpAddr) -> usize;
}
